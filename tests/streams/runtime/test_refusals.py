"""Every refusal that a person at a terminal can meet says what to do."""

import itertools
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas.incident import Actor, Containment, Incident, Reason, Severity, Status
from schemas.incident_action import ActKind, IncidentAction
from schemas.instant import Instant
from streams.runtime.refusals import refusal
from streams.stages.acts import judge

SAMPLE = Path(__file__).parents[2] / "golden" / "wire" / "incident" / "1.json"
AT = Instant(1_764_064_800_000)
KINDS: tuple[ActKind, ...] = ("ack", "contain", "resolve", "note")


def incident(status: Status, severity: Severity, closed_at_ms: Instant | None) -> Incident:
    return replace(
        Incident.decode(SAMPLE.read_bytes()),
        status=status,
        severity=severity,
        closed_at_ms=closed_at_ms,
        contained_at_ms=AT if status is Status.CONTAINED else None,
        resolved_at_ms=AT if status is Status.RESOLVED else None,
        containment=Containment(kind="rollback") if status is Status.CONTAINED else Containment(),
        resolution="fixed",
    )


def act(kind: ActKind, said: str, by: str) -> IncidentAction:
    """Make an act as the command line makes it; `said` and `by` may be empty."""
    return IncidentAction(
        act_id="a",
        model="m",
        kind=kind,
        actor=Actor(id="ann", kind="human"),
        occurred_at_ms=AT,
        decided_at_ms=AT,
        reason=said,
        text=said,
        containment_kind=by if kind == "contain" else "",  # type: ignore[arg-type]
        resolution="fixed" if kind == "resolve" else "",
    )


def test_each_that_the_rules_can_give_has_a_sentence_of_its_own() -> None:
    met = set()
    for status, severity, closed, kind, said, by in itertools.product(
        Status, Severity, (None, AT), KINDS, ("", "because"), ("rollback", "none_needed")
    ):
        before = incident(status, severity, closed)
        reason = judge(before, act(kind, said, by)).reason
        if reason.refuses:
            met.add((kind, reason))
            sentence = refusal(replace(before, reason=reason), kind)
            assert sentence.startswith(f"{before.display_id} was not ")
            assert reason.value not in sentence
    assert {reason for _, reason in met} >= {
        Reason.NO_CHANGE,
        Reason.ILLEGAL_TRANSITION,
        Reason.REFUSED_CLOSED,
        Reason.MISSING_EVIDENCE,
        Reason.MISSING_REASON,
    }


@pytest.mark.parametrize(
    ("kind", "reason", "said"),
    [
        ("contain", Reason.MISSING_EVIDENCE, "--snapshot WHERE"),
        ("contain", Reason.NO_CHANGE, "2025-11-25 10:00:00, by rollback"),
        ("contain", Reason.ILLEGAL_TRANSITION, "no room for this text"),
        ("ack", Reason.STALE_SEQ, "stale_seq"),
    ],
)
def test_it_names_the_option_the_time_or_at_least_the_reason(kind: ActKind, reason: Reason, said: str) -> None:
    assert said in refusal(replace(incident(Status.CONTAINED, Severity.CRITICAL, None), reason=reason), kind)


def test_an_unknown_target_is_answered_with_those_that_the_policy_tells() -> None:
    answer = replace(Incident.decode(SAMPLE.read_bytes()), reason=Reason.UNKNOWN_TARGET)
    assert "--target is one of a targets, a owners, or left out" in refusal(answer, "ack")
