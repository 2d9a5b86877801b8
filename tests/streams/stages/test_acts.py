"""What an act leads to, in every status and for every kind of actor."""

import tomllib
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

import config
from schemas.incident import Actor, Containment, Incident, Phase, Prevention, Reason, Severity, Status
from schemas.incident_action import ActKind, IncidentAction
from schemas.response import Response
from streams.stages.acts import TRANSITIONS, WHO_MAY, judge
from streams.stages.policy import policy_hash

POLICY = Response.of(tomllib.loads(Path(config.__file__).with_name("response.toml").read_text())).policy
ACTORS = {
    "human": Actor(id="ann", kind="human"),
    "provider": Actor(id="pagerduty", kind="provider"),
    "system": Actor(id="tocsin:escalate", kind="system"),
}
ALL_KINDS = sorted(set(WHO_MAY) - {"open"})


def incident(status: Status = Status.INVESTIGATING, *, closed: bool = False, severity: int = 2) -> Incident:
    is_resolved = status is Status.RESOLVED
    return Incident(
        incident_id="260de83d-f6d6-5738-b2dd-2307938697ba",
        display_id="INC-260DE83DF6D6",
        seq=4,
        tenant="acme",
        environment="prod",
        model="credit",
        incident_class="model_quality",
        severity=Severity(severity),
        severity_max=Severity(severity),
        status=status,
        phase=Phase.REVIEW if is_resolved else Phase.TRIAGE,
        episode=1,
        group_hash="g",
        detected_at_ms=1_000,
        opened_at_ms=1_000,
        cause_at_ms=1_000,
        decided_at_ms=2_000,
        contained_at_ms=1_500 if status is Status.CONTAINED else None,
        resolved_at_ms=2_000 if is_resolved else None,
        closed_at_ms=2_500 if closed else None,
        policy=POLICY,
        policy_hash=policy_hash(POLICY),
        reason=Reason.OPENED,
    )


def act(kind: str, actor: str = "human", **what: object) -> IncidentAction:
    """Make an act that has all it needs."""
    full: dict[str, object] = {
        "act_id": f"a-{kind}",
        "incident_id": "260de83d-f6d6-5738-b2dd-2307938697ba",
        "model": "credit",
        "kind": kind,
        "actor": ACTORS[actor],
        "occurred_at_ms": 3_000,
        "decided_at_ms": 3_500,
        "reason": "because",
        "containment_kind": "rollback" if kind == "contain" else "",
        "evidence": "s3://evidence/1",
        "resolution": "fixed" if kind == "resolve" else "",
        "to": {"raise": Severity.CRITICAL, "lower": Severity.LOW}.get(kind),
        "into": "another" if kind == "merge" else "",
        "name": "users",
        "text": "about 40",
        "assignee": "bob",
        "clock": "response" if kind == "breach" else "",
        "due_at_ms": 9_000,
        "prevention": Prevention(kind="testing", text="a test"),
        "incident_class": "infrastructure",
    }
    return IncidentAction(**(full | what))  # type: ignore[arg-type]


# the table of the three statuses, by the act that would lead there; `None` is: legal
I, C, R = Status.INVESTIGATING, Status.CONTAINED, Status.RESOLVED  # noqa: E741 -- the table reads by its letters
CELLS: list[tuple[Status, str, Status | Reason]] = [
    (I, "uncontain", Reason.NO_CHANGE),
    (I, "reopen", Reason.NO_CHANGE),
    (I, "contain", C),
    (I, "resolve", R),
    (C, "uncontain", I),
    (C, "reopen", Reason.ILLEGAL_TRANSITION),
    (C, "contain", Reason.NO_CHANGE),
    (C, "resolve", R),
    (R, "reopen", I),
    (R, "uncontain", Reason.ILLEGAL_TRANSITION),
    (R, "contain", Reason.ILLEGAL_TRANSITION),
    (R, "resolve", Reason.NO_CHANGE),
]
MAY = {
    "contain": {"human"},
    "uncontain": {"human"},
    "resolve": {"human", "provider", "system"},
    "reopen": {"human", "provider"},
}


@pytest.mark.parametrize("actor", list(ACTORS))
@pytest.mark.parametrize(("status", "kind", "leads_to"), CELLS)
def test_every_cell_of_the_table_of_statuses(status: Status, kind: str, leads_to: Status | Reason, actor: str) -> None:
    verdict = judge(incident(status), act(kind, actor))
    if actor not in MAY[kind]:
        assert verdict.reason is Reason.HUMAN_REQUIRED
        assert not verdict.changes
    elif isinstance(leads_to, Reason):
        assert verdict.reason is leads_to
        assert not verdict.changes
    else:
        assert verdict.changes["status"] is leads_to


def test_the_table_has_every_cell() -> None:
    assert {(kind, status) for status, kind, _ in CELLS} == set(TRANSITIONS)


@pytest.mark.parametrize("actor", list(ACTORS))
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_closed_incident_refuses_everything(kind: str, actor: str) -> None:
    verdict = judge(incident(R, closed=True), act(kind, actor))
    assert verdict.reason is Reason.REFUSED_CLOSED
    assert not verdict.changes


@pytest.mark.parametrize("actor", ["provider", "system"])
def test_sev_1_is_resolved_by_a_person(actor: str) -> None:
    assert judge(incident(severity=1), act("resolve", actor)).reason is Reason.HUMAN_REQUIRED
    assert judge(incident(severity=1), act("resolve")).reason is Reason.RESOLVED


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_who_may_not_is_told_so(kind: str) -> None:
    for name in ACTORS:
        if name not in WHO_MAY[kind]:
            expected = Reason.HUMAN_REQUIRED if "human" in WHO_MAY[kind] else Reason.NOT_AUTHORISED
            assert judge(incident(), act(kind, name)).reason is expected


def test_a_system_that_is_not_ours_is_not_authorised() -> None:
    stranger = replace(act("raise"), actor=Actor(id="cron", kind="system"))
    assert judge(incident(), stranger).reason is Reason.NOT_AUTHORISED


def test_an_act_on_an_older_record_is_stale() -> None:
    assert judge(incident(), act("note", expected_seq=3)).reason is Reason.STALE_SEQ
    assert judge(incident(), act("note", expected_seq=4)).reason is Reason.NOTED


@pytest.mark.parametrize(
    ("kind", "what", "status", "reason"),
    [
        ("ack", {}, R, Reason.NO_CHANGE),
        ("unack", {}, I, Reason.NO_CHANGE),
        ("unack", {}, R, Reason.NO_CHANGE),
        ("contain", {"containment_kind": ""}, I, Reason.MISSING_CONTAINMENT),
        ("contain", {"evidence": ""}, I, Reason.MISSING_EVIDENCE),
        ("contain", {"evidence": "", "waiver": "no store"}, I, Reason.CONTAINED),
        ("contain", {"containment_kind": "shadow_monitoring", "evidence": ""}, I, Reason.CONTAINMENT_RECORDED),
        ("contain", {"containment_kind": "none_needed", "reason": ""}, I, Reason.MISSING_REASON),
        ("resolve", {"reason": ""}, I, Reason.MISSING_REASON),
        ("resolve", {"resolution": ""}, I, Reason.MISSING_REASON),
        ("raise", {"to": Severity.HIGH}, I, Reason.NO_CHANGE),
        ("raise", {"to": Severity.LOW}, I, Reason.ILLEGAL_TRANSITION),
        ("raise", {"to": None}, I, Reason.ILLEGAL_TRANSITION),
        ("raise", {}, C, Reason.SEVERITY_RAISED),
        ("raise", {}, R, Reason.ILLEGAL_TRANSITION),
        ("lower", {"reason": ""}, I, Reason.MISSING_REASON),
        ("lower", {"to": Severity.HIGH}, I, Reason.NO_CHANGE),
        ("lower", {"to": Severity.CRITICAL}, I, Reason.ILLEGAL_TRANSITION),
        ("classify", {"incident_class": "model_quality"}, I, Reason.NO_CHANGE),
        ("note", {"reason": "", "text": ""}, I, Reason.MISSING_REASON),
        ("set_impact", {"name": ""}, I, Reason.ILLEGAL_TRANSITION),
        ("add_prevention", {"prevention": None}, I, Reason.ILLEGAL_TRANSITION),
        ("complete_phase", {"phase": Phase.CONTAINMENT}, I, Reason.MISSING_CONTAINMENT),
        ("complete_phase", {"phase": Phase.INVESTIGATION, "reason": ""}, I, Reason.MISSING_REASON),
        ("complete_phase", {"phase": Phase.REVIEW}, I, Reason.ILLEGAL_TRANSITION),
        ("complete_phase", {}, I, Reason.PHASE_COMPLETED),
        ("snapshot", {"evidence": ""}, I, Reason.MISSING_EVIDENCE),
        ("snapshot", {}, R, Reason.ILLEGAL_TRANSITION),
        ("merge", {"into": ""}, I, Reason.ILLEGAL_TRANSITION),
        ("pir_complete", {}, I, Reason.ILLEGAL_TRANSITION),
        ("pir_waive", {"reason": ""}, R, Reason.MISSING_REASON),
        ("pir_complete", {"reason": ""}, R, Reason.CLOSED),
    ],
)
def test_guards(kind: str, what: dict[str, object], status: Status, reason: Reason) -> None:
    verdict = judge(incident(status), act(kind, **{"actor": "human", **what}))  # type: ignore[arg-type]
    assert verdict.reason is reason
    assert bool(verdict.changes) is not (reason.refuses or reason is Reason.NOTED)


def test_a_raise_of_a_contained_incident_investigates_again() -> None:
    assert judge(incident(C), act("raise")).changes["status"] is I


def test_evidence_that_was_saved_before_is_enough() -> None:
    saved = replace(incident(), containment=Containment(snapshot="s3://1", snapshot_at_ms=1_200))
    assert judge(saved, act("contain", evidence="")).reason is Reason.CONTAINED


def test_times_of_acts_stay_within_the_episode_and_the_record() -> None:
    early = judge(incident(), act("ack", occurred_at_ms=5)).changes
    late = judge(incident(), act("ack", occurred_at_ms=99_000)).changes
    assert (early["acknowledged_at_ms"], late["acknowledged_at_ms"]) == (1_000, 3_500)


def test_a_second_acknowledgement_of_the_same_person_has_no_effect() -> None:
    once = replace(incident(), **judge(incident(), act("ack")).changes)
    verdict = judge(once, act("ack"))
    assert verdict.reason is Reason.ACKNOWLEDGED_AGAIN
    assert not verdict.changes


@pytest.mark.parametrize(("target", "responds"), [("", True), ("role:ciso", False), ("team:ml-oncall", True)])
def test_who_only_has_to_know_does_not_respond(target: str, *, responds: bool) -> None:
    after = replace(incident(severity=1), **judge(incident(severity=1), act("ack", target=target)).changes)
    assert after.acknowledged is responds
    assert (after.acknowledged_at_ms is not None) is responds


@pytest.mark.parametrize("target", ["role:leagl", "class:oncall", "ann"])
def test_whom_the_policy_never_tells_cannot_acknowledge(target: str) -> None:
    for kind, status in (("ack", I), ("ack", C), ("reopen", R)):
        verdict = judge(incident(status), act(kind, target=target))
        assert (verdict.reason, dict(verdict.changes)) == (Reason.UNKNOWN_TARGET, {})


def test_who_only_had_to_know_does_not_respond_after_it_was_lowered() -> None:
    lowered = replace(incident(severity=2), severity_max=Severity.CRITICAL)
    after = replace(lowered, **judge(lowered, act("ack", target="role:legal")).changes)
    assert after.acks
    assert not after.acknowledged


def test_who_reopens_is_on_it_and_a_provider_is_not() -> None:
    by_person = judge(incident(R), act("reopen")).changes
    by_provider = judge(incident(R), act("reopen", "provider")).changes
    assert by_person["acks"]
    assert by_provider["acks"] == ()
    assert by_person["episode"] == 2


def test_acknowledgements_are_bounded_and_the_responders_stay() -> None:
    known = replace(incident(), **judge(incident(), act("ack")).changes)
    for number in range(60):
        one = replace(act("ack", target="role:engineering-director"), actor=Actor(id=f"p{number}", kind="human"))
        known = replace(known, **judge(known, one).changes)
    assert known.acknowledged
    assert len(known.acks) <= 20


KINDS: tuple[ActKind, ...] = ("note", "assign", "set_due", "set_impact", "set_root_cause", "set_remediation")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", list(Status))
def test_what_is_known_can_be_said_until_it_is_closed(kind: Literal["note"], status: Status) -> None:
    assert not judge(incident(status), act(kind)).reason.refuses
