"""From findings to incidents: grouping, hold-downs, late labels, flapping, merging, and what acts leave behind."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

import config
from schemas.dead_letter import DeadLetter
from schemas.finding import Effect, Finding
from schemas.ids import finding_id, group_hash, incident_id
from schemas.incident import MAX_ENCODED_BYTES, MAX_FINDINGS, Actor, Incident, Reason, Severity, Status
from schemas.incident_action import Draft, IncidentAction
from schemas.instant import Instant
from schemas.response import Response
from schemas.through import Through
from streams.stages.rows import Rows
from streams.stages.triage import MAX_CLEARED, MOST_AHEAD_MS, Group, Triage, TriageOut

RESPONSE = Response.of(tomllib.loads(Path(config.__file__).with_name("response.toml").read_text()))
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_795_600_800_000


def triage(rows: dict[str, bytes] | None = None) -> Triage:
    settings = RESPONSE.triage_settings(frozenset({"credit-score"}))
    return Triage(rows={} if rows is None else rows, settings=settings)


def finding(kind: str = "accuracy_below_sla", at: float = 0, **what: object) -> Finding:
    """Make a finding decided `at` minutes after the start, with an onset a minute before."""
    at_ms = T0 + int(at * MINUTE)
    lane = str(what.get("lane", "*"))
    fields: dict[str, object] = {
        "finding_id": finding_id(
            tenant="acme",
            environment="prod",
            model="credit-score",
            version="7",
            segment=lane if lane != "*" else "",
            detector=kind,
            alarm_tick_ms=at_ms,
        ),
        "state": "firing",
        "tenant": "acme",
        "environment": "prod",
        "model": "credit-score",
        "version": "7",
        "lane": lane,
        "detector": kind,
        "kind": kind,
        "ledger": "page",
        "guarantee": "budget",
        "alarm_tick_ms": at_ms,
        "decided_at_ms": at_ms,
        "onset_from_ms": at_ms - MINUTE,
        "onset_to_ms": at_ms - MINUTE,
        "effect": Effect(observed=0.15, expected=0.08, unit="errors per outcome"),
        "n": 1_000,
        "log_evidence": 9.0,
        "baseline_version": 1,
    }
    return Finding(**(fields | what))  # type: ignore[arg-type]


def cleared(of: Finding, at: float) -> Finding:
    return replace(of, state="cleared", revision=of.revision + 1, decided_at_ms=T0 + int(at * MINUTE))


def through(minutes: float) -> Through:
    return Through(partition=0, through_ms=T0 + int(minutes * MINUTE))


def act(kind: str, of: str, at: float = 0, **what: object) -> IncidentAction:
    at_ms = T0 + int(at * MINUTE)
    fields: dict[str, object] = {
        "act_id": f"{kind}-{at}-{len(what)}",
        "incident_id": of,
        "model": "credit-score",
        "kind": kind,
        "actor": Actor(id="ann", kind="human"),
        "occurred_at_ms": at_ms,
        "decided_at_ms": at_ms,
        "reason": "because",
    }
    return IncidentAction(**(fields | what))  # type: ignore[arg-type]


def reasons(out: Sequence[TriageOut]) -> list[str]:
    return [str(one.reason) for one in out if isinstance(one, Incident)]


def last(out: Sequence[TriageOut]) -> Incident:
    incidents = [one for one in out if isinstance(one, Incident)]
    return incidents[-1]


def opened(stage: Triage, kind: str = "accuracy_below_sla") -> Incident:
    stage.receive([finding(kind)])
    return last(stage.receive([through(5)]) if kind != "pii_leak" else stage.receive([finding(kind, 1)]))


def test_what_was_said_as_reason_and_as_text_is_noted_once() -> None:
    stage = triage()
    name = opened(stage).incident_id
    both = act("note", name, 6, reason="blocked the feed", text="blocked the feed")
    assert last(stage.receive([both])).note == "blocked the feed"
    assert last(stage.receive([act("note", name, 7, reason="because", text="kg")])).note == "because kg"


def test_what_a_finding_says_is_told_plain_and_stays_when_it_clears() -> None:
    says = "feature weight_g is outside the reference's range in 17.1% of outputs, 0.00% usually"
    stage = triage()
    first = finding("feature_corruption", message=says)
    stage.receive([first, through(5)])
    out = last(stage.receive([replace(cleared(first, 6), message="recovered")]))
    assert [(one.state, one.message) for one in out.findings] == [("cleared", says)]
    hostile = finding(
        "feature_corruption", 7, lane="hub=North", message="feature a\x1b[31m\n<@U1> is null in 9% of outputs"
    )
    assert last(stage.receive([hostile])).findings[-1].message == "feature a(31m ((at)U1) is null in 9% of outputs"


def test_what_findings_say_never_makes_a_record_that_is_not_forwarded() -> None:
    stage = triage()
    out = stage.receive([finding(at=at, lane=f"hub={at}", message="\u0001\U0001f9e8" * 300) for at in range(70)])
    out += stage.receive([through(80)])
    sizes = [len(one.encode()) for one in out if isinstance(one, Incident)]
    assert max(sizes) <= MAX_ENCODED_BYTES
    assert len(last(out).findings) > 30


def test_an_incidents_name_follows_from_its_group_and_its_finding() -> None:
    first = finding()
    out = triage().receive([first, through(3)])
    group = group_hash(
        "default",
        {"tenant": "acme", "environment": "prod", "model": "credit-score", "class": "model_quality"},
    )
    assert last(out).incident_id == incident_id(group, first.finding_id) == "260de83d-f6d6-5738-b2dd-2307938697ba"


def test_nothing_opens_before_the_hold_down_is_over() -> None:
    #  0        2 min
    #  F--------|
    stage = triage()
    assert stage.receive([finding(), through(2 - 1 / 60)]) == []
    [incident] = stage.receive([through(2)])
    assert isinstance(incident, Incident)
    assert incident.opened_at_ms == T0 + 2 * MINUTE
    assert incident.detected_at_ms == T0
    assert incident.decided_at_ms == incident.opened_at_ms


def test_sev_1_opens_at_once() -> None:
    [incident] = triage().receive([finding("pii_leak")])
    assert isinstance(incident, Incident)
    assert (incident.severity, incident.opened_at_ms) == (Severity.CRITICAL, T0)


def test_that_nothing_is_decided_opens_at_once_for_no_time_will_pass() -> None:
    [one] = [one for one in triage().receive([finding("detection_stopped")]) if isinstance(one, Incident)]
    assert one.severity is Severity.MEDIUM


def test_misplaced_rows_are_a_ticket_at_once_for_they_were_looked_at() -> None:
    [one] = [one for one in triage().receive([finding("misplaced_rows")]) if isinstance(one, Incident)]
    assert one.severity is Severity.LOW


def test_one_jump_of_time_opens_as_many_small_ones_do() -> None:
    one, many = triage(), triage()
    by_one = one.receive([finding(), through(60)])
    by_many = many.receive([finding(), *(through(minute) for minute in range(1, 61))])
    assert by_one == by_many


def test_f1_a_clear_in_the_hold_down_cancels_it() -> None:
    stage = triage()
    first = finding()
    assert stage.receive([first, cleared(first, 1), through(60)]) == []
    assert stage.counts["cleared_in_hold_down"] == 1


def test_a_revision_in_the_hold_down_does_not_begin_it_anew() -> None:
    stage = triage()
    first = finding()
    stage.receive([first, replace(first, revision=1, decided_at_ms=T0 + MINUTE)])
    assert last(stage.receive([through(2)])).opened_at_ms == T0 + 2 * MINUTE


def test_what_waits_is_written_once_and_not_with_each_that_joins_it() -> None:
    written: Counter[str] = Counter()

    class Counted(dict[str, bytes]):
        def __setitem__(self, key: str, row: bytes) -> None:
            written[key.partition("/")[0]] += len(row)
            super().__setitem__(key, row)

    rows = Counted()
    stage = triage(rows)
    lanes = [finding(lane=f"lane={number}") for number in range(200)]
    stage.receive(lanes[:100])
    half = written["pending"]
    stage.receive(lanes[100:])
    assert written["pending"] <= 2.1 * half
    assert (half > 0, "group" in written) == (True, False)
    assert last(triage(rows).receive([through(3)])).findings_total == len(lanes)


@pytest.mark.parametrize("clears", [False, True])
def test_what_waits_in_a_row_of_old_opens_and_clears(*, clears: bool) -> None:
    #  a worker of before has kept one, and a revision of it and another one come
    rows: dict[str, bytes] = {}
    of_old, other = finding(), finding(at=1, lane="other")
    name = next(iter(group_rows(of_old)))
    Rows(rows, "group/", Group)[name] = Group(pending={of_old.finding_id: of_old})
    stage = triage(rows)
    stage.receive([replace(of_old, revision=1, decided_at_ms=T0 + MINUTE), other])
    if clears:
        stage.receive([cleared(replace(of_old, revision=1), 1.5)])
    incident = last(triage(rows).receive([through(3)]))
    assert incident.opened_at_ms == T0 + (3 if clears else 2) * MINUTE
    assert [one.revision for one in incident.findings] == ([0] if clears else [1, 0])
    assert not [key for key in rows if key.startswith("pending/")]


def group_rows(of: Finding) -> set[str]:
    """Return the group in which a finding waits."""
    rows: dict[str, bytes] = {}
    triage(rows).receive([of])
    return {key.split("/")[1] for key in rows if key.startswith("pending/")}


def test_time_never_goes_back() -> None:
    stage = triage()
    stage.receive([through(9), through(3)])
    assert stage.through_ms == T0 + 9 * MINUTE


def test_f7_hold_downs_survive_a_restart() -> None:
    rows: dict[str, bytes] = {}
    triage(rows).receive([finding(), through(1)])
    assert reasons(triage(rows).receive([through(2)])) == ["opened"]


def test_keep_3418_a_clear_never_opens_an_incident() -> None:
    stage = triage()
    assert stage.receive([cleared(finding(), 1), through(600)]) == []
    assert stage.receive([finding()]) == []  # what was cleared before it was seen does not fire
    assert stage.receive([through(1200)]) == []


def test_lanes_detectors_and_versions_gather_in_one_incident() -> None:
    stage = triage()
    out = stage.receive(
        [
            finding(),
            through(3),
            finding("feature_corruption", 4),
            finding(at=5, lane="SEX=1"),
            finding(at=6, version="8"),
        ]
    )
    assert len({one.incident_id for one in out if isinstance(one, Incident)}) == 1
    assert last(out).findings_total == 4
    assert last(out).versions == ("7", "8")


def test_the_same_revision_and_a_lower_one_change_nothing() -> None:
    stage = triage()
    first = finding()
    stage.receive([first, through(3)])
    newer = replace(first, revision=2, n=2_000)
    assert reasons(stage.receive([newer])) == ["finding_updated"]
    assert stage.receive([newer, first, replace(first, revision=1)]) == []


def test_a_worse_finding_raises_the_severity_and_a_better_one_does_not() -> None:
    stage = triage()
    stage.receive([finding("latency_up"), through(16)])
    assert reasons(stage.receive([finding("model_outage", 17)])) == ["severity_raised"]
    out = stage.receive([finding("latency_up", 18, lane="x")])
    assert last(out).severity is Severity.CRITICAL


def test_an_update_of_a_known_finding_does_not_undo_what_a_person_lowered() -> None:
    stage = triage()
    first = finding()
    incident = last(stage.receive([first, through(3)]))
    stage.receive([act("lower", incident.incident_id, 4, to=Severity.LOW)])
    out = stage.receive([replace(first, revision=1, decided_at_ms=T0 + 5 * MINUTE)])
    assert last(out).severity is Severity.LOW


def test_without_an_agreed_accuracy_errors_above_the_baseline_are_sev_2() -> None:
    with_sla = last(triage().receive([finding("error_above_baseline"), through(60)]))
    without = last(triage().receive([finding("error_above_baseline", model="other"), through(60)]))
    assert (with_sla.severity, without.severity) == (Severity.MEDIUM, Severity.HIGH)


def test_an_unknown_kind_is_flagged() -> None:
    incident = last(triage().receive([finding("something_new"), through(60)]))
    assert incident.labels == {"unclassified": "true"}
    assert incident.incident_class == "model_quality"


def test_what_is_clear_long_enough_resolves_by_itself() -> None:
    stage = triage()
    first = finding()
    stage.receive([first, through(3)])
    out = stage.receive([cleared(first, 10), through(40 - 1 / 60)])
    assert reasons(out) == ["finding_cleared"]
    incident = last(stage.receive([through(40)]))
    assert (incident.reason, incident.resolution, incident.status) == (
        Reason.AUTO_RECOVERED,
        "auto_recovered",
        Status.RESOLVED,
    )
    assert incident.resolved_at_ms == T0 + 40 * MINUTE
    assert incident.impact_ended_at_ms == T0 + 10 * MINUTE
    assert incident.phase == "review"


def test_f2_a_firing_in_the_hold_down_cancels_the_end() -> None:
    stage = triage()
    first = finding()
    stage.receive([first, through(3), cleared(first, 10), through(20)])
    stage.receive([finding(at=21)])
    assert stage.receive([through(120)]) == []


def test_f3_silence_is_not_a_clear() -> None:
    stage = triage()
    stage.receive([finding(), through(3)])
    assert stage.receive([through(7 * 24 * 60)]) == []


def test_one_of_two_that_clears_ends_nothing() -> None:
    stage = triage()
    first, second = finding(), finding(lane="x")
    stage.receive([first, second, through(3), cleared(first, 10)])
    assert stage.receive([through(300)]) == []


def test_f4_changing_to_and_fro_is_flapping_and_suspends_the_end() -> None:
    stage = triage()
    one = finding()
    out = stage.receive([one, through(3)])
    for round_ in range(4):
        at = 4 + round_ * 4
        out += stage.receive([cleared(one, at)])
        one = finding(at=at + 2)
        out += stage.receive([one])
    assert reasons(out).count("flapping") == 1
    assert last(out).flapping
    out = stage.receive([cleared(one, 20), through(79)])
    assert "auto_recovered" not in reasons(out)
    out = stage.receive([through(80)])
    assert reasons(out) == ["flapping_ended", "auto_recovered"]
    assert last(out).resolved_at_ms == T0 + 80 * MINUTE


def test_many_findings_are_not_flapping() -> None:
    stage = triage()
    out = stage.receive([finding(), through(3), *(finding(at=4 + lane / 10, lane=f"l{lane}") for lane in range(12))])
    assert not last(out).flapping


def test_what_nobody_touches_expires_at_sev_3_and_4_only() -> None:
    stage = triage()
    for number, severity in enumerate([Severity.HIGH, Severity.MEDIUM]):
        kind = Draft(tenant="acme", environment="prod", incident_class="infrastructure", severity=severity)
        stage.receive([replace(act("open", "", number, draft=kind), act_id=f"open-{severity}")])
    out = stage.receive([through(13 * 24 * 60)])
    assert out == []
    out = stage.receive([through(15 * 24 * 60)])
    assert [(one.severity, one.resolution) for one in out if isinstance(one, Incident)] == [
        (Severity.MEDIUM, "expired")
    ]


# ---- late labels


def test_l1_an_earlier_onset_moves_the_beginning_and_no_clock() -> None:
    stage = triage()
    first = finding()
    before = last(stage.receive([first, through(3)]))
    after = last(stage.receive([replace(first, revision=1, onset_from_ms=T0 - 3 * HOUR)]))
    assert after.reason is Reason.REDATED
    assert after.impact_started_at_ms == T0 - 3 * HOUR
    assert after.redated is not None
    assert (after.redated.from_at_ms, after.redated.to_at_ms) == (before.impact_started_at_ms, T0 - 3 * HOUR)
    assert (after.opened_at_ms, after.detected_at_ms) == (before.opened_at_ms, before.detected_at_ms)
    assert last(stage.receive([act("note", after.incident_id, 9)])).redated is None


def test_l2_a_later_onset_moves_it_forward() -> None:
    stage = triage()
    first = finding()
    stage.receive([first, through(3)])
    after = last(stage.receive([replace(first, revision=1, onset_from_ms=T0 - 10_000)]))
    assert after.impact_started_at_ms == T0 - 10_000


def resolved_incident(stage: Triage, kind: str = "accuracy_below_sla") -> Incident:
    """Open at 2 or 0 minutes, resolve by hand at 60."""
    incident = last(stage.receive([finding(kind), through(3)]) or stage.receive([through(60)]))
    return last(stage.receive([act("resolve", incident.incident_id, 60, resolution="fixed")]))


def test_l4_what_began_before_the_end_dates_anew_and_does_not_reopen() -> None:
    stage = triage()
    resolved_incident(stage)
    out = stage.receive([finding(at=70, onset_from_ms=T0 - DAY, onset_to_ms=T0 - HOUR)])
    assert last(out).status is Status.RESOLVED
    assert last(out).impact_started_at_ms == T0 - DAY


def past(at: float) -> Finding:
    return finding(at=at, lane="late", onset_from_ms=T0, onset_to_ms=T0 + MINUTE)


def test_what_began_before_the_end_and_still_fires_after_its_hold_down_reopens() -> None:
    #  60 resolved | 70 about the past, fires on
    #              |----2 min----| reopened
    stage = triage()
    first = finding()
    old = last(stage.receive([first, through(3), cleared(first, 50)]))
    stage.receive([through(60), act("resolve", old.incident_id, 60, resolution="fixed")])
    late = past(70)
    out = stage.receive([late, through(71)])
    assert [(one.reason, one.is_open) for one in out if isinstance(one, Incident)] == [("finding_attached", False)]
    [again] = stage.receive([through(75)])
    assert isinstance(again, Incident)
    assert (again.incident_id, again.reason, again.causation_id) == (old.incident_id, "reopened", late.finding_id)
    assert (again.reopened_at_ms, again.episode, again.is_open) == (T0 + 72 * MINUTE, 2, True)
    assert (again.firing_total, again.impact_ended_at_ms) == (1, None)
    assert stage.receive([through(600)]) == []


def test_what_began_before_the_end_and_clears_within_its_hold_down_reopens_nothing() -> None:
    stage = triage()
    resolved_incident(stage)
    late = past(70)
    out = stage.receive([late, cleared(late, 71)])
    assert reasons(out) == ["finding_attached", "finding_cleared"]
    assert last(out).firing_total == 1
    assert stage.receive([through(600)]) == []


def test_what_fired_when_a_person_ended_it_reopens_nothing_by_a_revision() -> None:
    stage = triage()
    old = finding()
    name = last(stage.receive([old, through(3)])).incident_id
    stage.receive([through(60), act("resolve", name, 60, resolution="fixed")])
    stage.receive([replace(old, revision=1, decided_at_ms=T0 + 70 * MINUTE)])
    assert stage.receive([through(600)]) == []


def test_what_waits_when_a_person_ends_it_again_reopens_nothing() -> None:
    #  60 resolved | 70 about the past | 71 reopened, resolved again | 72 its hold-down is over
    stage = triage()
    name = resolved_incident(stage).incident_id
    stage.receive([past(70), act("reopen", name, 71), act("resolve", name, 71, resolution="fixed")])
    assert stage.receive([through(600)]) == []


def test_what_is_worse_than_what_a_person_lowered_it_to_reopens_at_its_own_severity() -> None:
    stage = triage()
    name = last(stage.receive([finding(), through(3)])).incident_id
    lower = act("lower", name, 50, to=Severity.MEDIUM)
    stage.receive([through(60), lower, act("resolve", name, 60, resolution="fixed"), past(70)])
    again = last(stage.receive([through(75)]))
    assert (again.reason, again.severity, again.phase) == (Reason.REOPENED, Severity.HIGH, "containment")


@pytest.mark.parametrize("how", ["closed", "after the window"])
def test_what_began_before_the_end_and_still_fires_opens_a_linked_one_where_the_old_stays_over(how: str) -> None:
    stage = triage()
    old = resolved_incident(stage)
    if how == "closed":
        stage.receive([act("pir_waive", old.incident_id, 61)])
    at = 70 if how == "closed" else 60 + 241
    late = past(at)
    assert last(stage.receive([late])).incident_id == old.incident_id
    new = last(stage.receive([through(at + 3)]))
    assert (new.reason, new.previous_incident_id, new.firing) == (
        Reason.OPENED,
        old.incident_id,
        frozenset({late.finding_id}),
    )
    out = last(stage.receive([cleared(late, at + 4)]))
    assert (out.incident_id, out.reason, out.is_firing) == (new.incident_id, Reason.FINDING_CLEARED, False)


def test_the_wait_of_what_began_before_the_end_survives_a_restart() -> None:
    rows: dict[str, bytes] = {}
    stage = triage(rows)
    resolved_incident(stage)
    stage.receive([past(70)])
    assert last(triage(rows).receive([through(75)])).reason is Reason.REOPENED


def test_l5_what_began_after_the_end_reopens() -> None:
    stage = triage()
    resolved_incident(stage)
    incident = last(stage.receive([finding(at=120)]))
    assert (incident.reason, incident.status, incident.episode) == (Reason.REOPENED, Status.INVESTIGATING, 2)
    assert incident.reopened_at_ms == T0 + 120 * MINUTE
    assert incident.acknowledged_at_ms is None
    assert incident.phase == "containment"


def test_something_worse_about_the_past_of_a_resolved_incident_is_not_swallowed() -> None:
    stage = triage()
    resolved_incident(stage, "latency_up")
    out = stage.receive([finding("model_outage", 70, onset_from_ms=T0, onset_to_ms=T0 + MINUTE)])
    assert (last(out).reason, last(out).severity) == (Reason.REOPENED, Severity.CRITICAL)


def test_keep_2481_after_the_reopen_window_a_new_incident_is_linked() -> None:
    stage = triage()
    old = resolved_incident(stage)
    out = stage.receive([finding(at=60 + 241), through(60 + 250)])
    assert last(out).incident_id != old.incident_id
    assert last(out).previous_incident_id == old.incident_id


def test_l6_a_closed_incident_is_dated_anew_and_never_reopened() -> None:
    stage = triage()
    old = resolved_incident(stage)
    stage.receive([act("pir_waive", old.incident_id, 61)])
    out = stage.receive([finding(at=70, onset_from_ms=T0 - DAY, onset_to_ms=T0 - HOUR)])
    assert (last(out).status, last(out).report_revision) == (Status.RESOLVED, 1)
    out = stage.receive([finding(at=71), through(80)])
    assert last(out).previous_incident_id == old.incident_id


def test_l6_something_worse_about_the_past_of_a_closed_incident_opens_a_linked_one() -> None:
    stage = triage()
    old = resolved_incident(stage, "latency_up")
    stage.receive([act("pir_waive", old.incident_id, 61)])
    out = stage.receive([finding("model_outage", 70, onset_from_ms=T0, onset_to_ms=T0 + MINUTE)])
    assert last(out).previous_incident_id == old.incident_id
    assert last(out).severity is Severity.CRITICAL


def test_l7_an_old_interval_opens_now() -> None:
    incident = last(triage().receive([finding(onset_from_ms=T0 - 30 * DAY, onset_to_ms=T0 - 29 * DAY), through(3)]))
    assert (incident.opened_at_ms, incident.impact_started_at_ms) == (T0 + 2 * MINUTE, T0 - 30 * DAY)
    assert incident.detected_at_ms == T0


# ---- containment


@pytest.mark.parametrize(("minutes", "holds"), [(15, True), (16, False)])
def test_t5_a_finding_that_began_well_after_containment_says_that_it_did_not_hold(minutes: int, *, holds: bool) -> None:
    stage = triage()
    incident = last(stage.receive([finding(), through(3)]))
    stage.receive([act("contain", incident.incident_id, 10, containment_kind="rollback", evidence="s3://1")])
    onset_ms = T0 + (10 + minutes) * MINUTE
    out = stage.receive([finding(at=40, onset_from_ms=onset_ms, onset_to_ms=onset_ms)])
    assert (last(out).status is Status.CONTAINED) is holds


def test_t5_something_milder_leaves_it_contained() -> None:
    stage = triage()
    incident = last(stage.receive([finding(), through(3)]))
    stage.receive([act("contain", incident.incident_id, 10, containment_kind="rollback", evidence="s3://1")])
    assert last(stage.receive([finding("confidence_drop", 90)])).status is Status.CONTAINED


def test_t5_a_raise_says_that_it_did_not_hold() -> None:
    stage = triage()
    incident = last(stage.receive([finding("latency_up"), through(16)]))
    stage.receive([act("contain", incident.incident_id, 17, containment_kind="fallback")])
    out = stage.receive([finding("model_outage", 18)])
    assert (last(out).status, last(out).reason) == (Status.INVESTIGATING, Reason.SEVERITY_RAISED)


# ---- acts


def test_an_act_leaves_one_record_and_its_repeat_none() -> None:
    stage = triage()
    incident = opened(stage)
    one = act("ack", incident.incident_id, 6)
    out = stage.receive([one, one])
    assert reasons(out) == ["acknowledged"]
    assert last(out).seq == incident.seq + 1
    assert last(out).actor == one.actor
    assert last(out).causation_id == one.act_id


def test_an_act_is_known_for_longer_than_the_latest_few() -> None:
    stage = triage()
    incident = opened(stage)
    acts = [replace(act("note", incident.incident_id, 6), act_id=f"a{number}") for number in range(60)]
    assert len(stage.receive(acts)) == 60
    assert stage.receive(acts) == []
    lost = act("ack", "00000000-0000-0000-0000-000000000000")
    assert len(stage.receive([lost, lost])) == 1


def test_a_refused_act_leaves_a_record_with_the_state_unchanged() -> None:
    stage = triage()
    incident = opened(stage)
    refused = last(stage.receive([act("contain", incident.incident_id, 6)]))
    assert refused.reason is Reason.MISSING_CONTAINMENT
    same = ("seq", "reason", "causation_id", "actor", "note", "decided_at_ms")
    assert replace(refused, **{name: getattr(incident, name) for name in same}) == incident


def test_an_act_on_an_unknown_incident_is_laid_aside() -> None:
    [letter] = triage().receive([act("ack", "00000000-0000-0000-0000-000000000000")])
    assert isinstance(letter, DeadLetter)
    assert (letter.field, letter.got) == ("incident_id", "unknown_incident")


def test_a_person_opens_an_incident_under_the_acts_name() -> None:
    stage = triage()
    draft = Draft(tenant="acme", environment="prod", incident_class="model_quality", severity=Severity.HIGH)
    one = act("open", "", 1, draft=draft)
    [incident] = stage.receive([one, one])
    assert isinstance(incident, Incident)
    assert incident.incident_id == incident_id(incident.group_hash, one.act_id)
    assert incident.impact_started_at_ms is None
    out = stage.receive([finding(at=2)])
    assert last(out).incident_id == incident.incident_id  # the group's findings gather there


@pytest.mark.parametrize(
    ("what", "field"),
    [({}, "draft"), ({"actor": Actor(id="tocsin:x", kind="system")}, "draft")],
)
def test_an_opening_without_a_draft_is_laid_aside(what: dict[str, object], field: str) -> None:
    [letter] = triage().receive([act("open", "", **what)])  # type: ignore[arg-type]
    assert isinstance(letter, DeadLetter)
    assert letter.field == field


def test_merging_resolves_the_source_and_moves_its_findings() -> None:
    stage = triage()
    quality = last(stage.receive([finding(), through(3)]))
    outage = last(stage.receive([finding("model_outage", 4)]))
    out = stage.receive([act("merge", quality.incident_id, 5, into=outage.incident_id)])
    by_name = {one.incident_id: one for one in out if isinstance(one, Incident)}
    assert by_name[quality.incident_id].resolution == "duplicate"
    assert by_name[quality.incident_id].merged_into == outage.incident_id
    assert by_name[outage.incident_id].findings_total == 2
    out = stage.receive([finding(at=6, lane="late")])
    assert last(out).incident_id == outage.incident_id


def test_merging_into_nothing_is_refused() -> None:
    stage = triage()
    incident = opened(stage)
    out = stage.receive([act("merge", incident.incident_id, 6, into="00000000-0000-0000-0000-000000000000")])
    assert last(out).reason is Reason.UNKNOWN_INCIDENT
    assert last(out).is_open


def test_a_stale_act_is_refused() -> None:
    stage = triage()
    incident = opened(stage)
    stage.receive([act("note", incident.incident_id, 6)])
    out = stage.receive([act("resolve", incident.incident_id, 7, resolution="fixed", expected_seq=incident.seq)])
    assert last(out).reason is Reason.STALE_SEQ


def test_a_person_that_reopens_keeps_it_open_though_nothing_fires() -> None:
    stage = triage()
    first = finding()
    incident = last(stage.receive([first, through(3), cleared(first, 4), through(60)]))
    assert incident.reason is Reason.AUTO_RECOVERED
    reopened = last(stage.receive([act("reopen", incident.incident_id, 61)]))
    assert reopened.acknowledged
    assert stage.receive([through(600)]) == []


@pytest.mark.parametrize("ahead_ms", [HOUR, 30 * DAY])
def test_an_act_is_dated_as_it_says_though_detect_is_behind(ahead_ms: int) -> None:
    stage = triage()
    name = opened(stage).incident_id
    at_ms = stage.through_ms + ahead_ms
    noted = last(stage.receive([act("note", name, decided_at_ms=at_ms)]))
    assert (noted.cause_at_ms, noted.decided_at_ms, noted.progress_at_ms) == (at_ms, at_ms, at_ms)


def test_an_end_under_a_date_ahead_says_nothing_of_what_begins_after_what_was_known() -> None:
    #  60 min: resolved "in 9 hours" | 61 min: about the time before | 120 min: another lane
    stage = triage()
    name = opened(stage).incident_id
    ahead = act("resolve", name, 60 + 9 * 60, resolution="fixed")
    ended = last(stage.receive([through(60), ahead]))
    assert ended.resolved_at_ms == ahead.decided_at_ms, "it is dated as it says"
    before = finding(at=61, lane="before", onset_from_ms=T0, onset_to_ms=T0 + 59 * MINUTE)
    assert last(stage.receive([before, cleared(before, 62)])).status is Status.RESOLVED
    again = last(stage.receive([through(119), finding(at=120, lane="new")]))
    assert (again.incident_id, again.reason, again.is_open) == (name, Reason.REOPENED, True)


def test_an_end_that_detect_has_not_come_to_yet_is_one_of_what_was_known() -> None:
    #  5 min: resolved "at 60", while detect is behind | what began by then attaches, what began later reopens
    stage = triage()
    name = opened(stage).incident_id
    stage.receive([act("resolve", name, 60, resolution="fixed")])
    old = finding(at=6, lane="old", onset_from_ms=T0, onset_to_ms=T0 + 4 * MINUTE)
    assert last(stage.receive([old, cleared(old, 7)])).status is Status.RESOLVED
    new = finding(at=30, lane="new")
    assert last(stage.receive([through(29), new])).reason is Reason.REOPENED


def test_an_end_that_is_entered_late_reaches_no_further_than_it_says() -> None:
    stage = triage()
    name = opened(stage).incident_id
    stage.receive([through(90), act("resolve", name, 91, resolution="fixed", occurred_at_ms=T0 + 60 * MINUTE)])
    assert last(stage.receive([finding(at=92, lane="new", onset_to_ms=T0 + 70 * MINUTE)])).reason is Reason.REOPENED


def test_what_resolves_by_itself_later_reaches_to_its_own_date() -> None:
    stage = triage()
    first = finding()
    name = last(stage.receive([first, through(3)])).incident_id
    stage.receive([act("resolve", name, 4, resolution="fixed"), act("reopen", name, 5), cleared(first, 6)])
    stage.receive([act("lower", name, 7, to=Severity.MEDIUM)])
    assert last(stage.receive([through(100)])).reason is Reason.AUTO_RECOVERED
    old = finding(at=101, lane="old", onset_from_ms=T0, onset_to_ms=T0 + 30 * MINUTE)
    assert last(stage.receive([old])).status is Status.RESOLVED


def test_an_act_under_a_date_of_the_far_future_keeps_nothing_for_ever() -> None:
    #  opened "3,000 days from now", noted likewise | 14 days after what was made of that date it expires
    stage = triage()
    stage.receive([through(0)])
    far_ms = T0 + 3_000 * DAY
    draft = Draft(tenant="acme", environment="prod", incident_class="infrastructure", severity=Severity.MEDIUM)
    for of_person in (act("open", "", draft=draft), act("note", "")):
        name = next(iter(stage.open), "")
        made = last(stage.receive([replace(of_person, incident_id=name, decided_at_ms=Instant(far_ms))]))
        assert made.cause_at_ms == made.decided_at_ms == made.progress_at_ms == T0 + MOST_AHEAD_MS
    assert stage.receive([through(43 * DAY / MINUTE)]) == []
    assert reasons(stage.receive([through(45 * DAY / MINUTE)])) == ["expired"]


def test_the_policy_is_frozen_into_the_incident() -> None:
    incident = opened(triage())
    assert incident.policy == RESPONSE.policy
    assert len(incident.policy_hash) == 64
    assert len(incident.policy.encode()) < 16_384


def test_a_record_stays_below_what_consumers_must_take() -> None:
    stage = triage()
    long = "ü" * 2_000
    incident = opened(stage)
    for lane in range(80):
        wide = {"lane": f"{lane}-" + "l" * 300, "detector": "d" * 300, "version": f"v{lane}" + "w" * 250}
        out = stage.receive([finding(at=6 + lane / 100, **wide)])
    for number in range(25):
        for kind in ("set_impact", "set_root_cause", "set_remediation"):
            one = act(kind, incident.incident_id, 7, name=f"n{number}", text=long)
            out = stage.receive([replace(one, act_id=f"{kind}-{number}")])
    assert len(last(out).encode()) <= MAX_ENCODED_BYTES
    assert last(out).findings_total == 81
    assert last(out).reason is Reason.ILLEGAL_TRANSITION  # what has no room is refused, and said to be


def many(count: int) -> list[Finding]:
    return [finding("unsafe_output", at=number / 100, lane=f"lane={number}") for number in range(count)]


def test_what_a_record_has_no_place_for_still_fires() -> None:
    #  60 lanes fire, of which 50 are kept; those 50 clear
    stage = triage()
    lanes = many(60)
    out = last(stage.receive(lanes))
    assert (len(out.findings), out.findings_total, out.firing_total) == (MAX_FINDINGS, 60, 60)
    out = last(stage.receive([cleared(one, 2) for one in lanes[10:]]))
    assert (len(out.firing), out.firing_total, out.is_firing) == (0, 10, True)
    out = last(stage.receive([cleared(one, 3) for one in lanes[:10]]))
    assert (out.firing_total, out.is_firing) == (0, False)


def test_what_clears_takes_no_place_from_what_fires() -> None:
    stage = triage()
    lanes = many(60)
    before = last(stage.receive(lanes))
    out = last(stage.receive([cleared(lanes[0], 2)]))
    assert (out.firing, out.firing_total) == (before.firing, 59)


def test_a_long_text_is_refused_rather_than_a_finding_that_fires_is_left_out() -> None:
    stage = triage()
    before = last(stage.receive(many(10)))
    acts = [act("set_impact", before.incident_id, 1, name=f"n{at}", text="\u969c" * 2_000) for at in range(20)]
    out = stage.receive([replace(one, act_id=f"a{at}") for at, one in enumerate(acts)])
    assert last(out).firing == before.firing
    assert last(out).reason is Reason.ILLEGAL_TRANSITION
    assert {"changed", "illegal_transition"} == set(reasons(out))
    while last(out).reason is not Reason.ILLEGAL_TRANSITION or len(out) > 1:
        one = act("set_remediation", before.incident_id, 1, name=f"n{len(acts)}", text="t" * 1_000)
        acts.append(one)
        out = stage.receive([replace(one, act_id=f"b{len(acts)}")])
    outage = last(stage.receive([finding("model_outage", 2)]))
    merge = act("merge", before.incident_id, 3, into=outage.incident_id, reason="\u969c" * 2_000)
    [refused] = stage.receive([merge])
    assert isinstance(refused, Incident)
    assert refused.incident_id == before.incident_id, "what is refused gives the other nothing"


def test_in_a_full_record_findings_make_room_for_the_end_those_that_have_cleared_first() -> None:
    stage = triage()
    wide = [
        finding("unsafe_output", at=at / 100, lane=f"{at}-" + "l" * 195, segment="s" * 200, message="m" * 200)
        for at in range(50)
    ]
    name = last(stage.receive(wide)).incident_id
    out = last(stage.receive([cleared(wide[49], 1)]))
    full, number = out, 0
    while full.reason is not Reason.ILLEGAL_TRANSITION:
        number += 1
        one = act("set_root_cause" if number % 2 else "set_impact", name, 2, name=f"n{number}", text="t" * 1_100)
        full = last(stage.receive([replace(one, act_id=f"a{number}")]))
    assert full.findings == out.findings
    for at in range(4):
        out = last(stage.receive([act("set_remediation", name, 3 + at, name=f"n{at}", text="t" * 400)]))
    assert (out.reason, out.cleared, out.firing < full.firing) == (Reason.CHANGED, frozenset(), True)
    ended = last(stage.receive([act("resolve", name, 9, resolution="fixed", reason="r" * 900)]))
    assert (ended.status, ended.firing_total) == (Status.RESOLVED, 49)


def test_an_incident_whose_lanes_come_and_go_for_weeks_keeps_a_bounded_row() -> None:
    rows: dict[str, bytes] = {}
    stage = triage(rows)
    first = opened(stage)
    flaps = 3 * MAX_CLEARED
    for number in range(flaps):
        one = finding(at=10 + number, lane=f"lane={number % 7}")
        out = stage.receive([one, cleared(one, 10.5 + number)])
        if number == flaps // 2:
            half = max(map(len, rows.values()))
    assert max(map(len, rows.values())) <= 1.05 * half
    assert last(out).findings_total == 1 + flaps
    assert last(out).impact_started_at_ms == first.impact_started_at_ms, "it began with what was said first"
    assert last(out).is_open, "the first still fires"


def test_what_is_long_over_is_forgotten() -> None:
    rows: dict[str, bytes] = {}
    stage = triage(rows)
    incident = resolved_incident(stage)
    stage.receive([act("note", incident.incident_id, 61)])
    stage.receive([through(401 * 24 * 60 + 61)])
    assert set(rows) == {"time"}
