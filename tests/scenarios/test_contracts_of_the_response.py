"""Every stage of the response: a repeat changes nothing, and a restart needs nothing but the rows."""

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.finding import Finding
from schemas.incident import Severity
from schemas.notification import Notification
from schemas.response import Response
from schemas.through import Through
from streams.stages.escalate import Escalate, EscalateOut
from streams.stages.notify import Attempt
from streams.stages.triage import Triage

if TYPE_CHECKING:
    from tests.scenarios.conftest import Half

MINUTE = 60_000
HOUR = 60 * MINUTE


def story(half: "Half") -> None:
    """Play all that happens to incidents, with a provider that is down at times."""
    half.tick()
    half.answer = lambda attempt: (
        None if attempt.number == 1 and attempt.decided_at_ms % 7 == 0 else "retry" if attempt.number < 2 else "ok"
    )
    leak = half.fire("pii_leak")
    half.fire("accuracy_below_sla", onset_ms=half.start_ms - 5 * HOUR)
    half.run(half.start_ms + 16 * MINUTE)
    half.do("ack", incident_id=half.log[0].incident_id, target="role:ciso", actor="carol")
    half.do("ack", incident_id=half.log[0].incident_id, occurred_at_ms=half.start_ms + 14 * MINUTE)
    half.do("open_war_room", incident_id=half.log[0].incident_id, evidence="x")
    half.do("contain", incident_id=half.log[0].incident_id, containment_kind="disable", waiver="no store")
    half.run(half.start_ms + 40 * MINUTE)
    flap = half.fire("confidence_drop", model="other")
    half.run(half.now_ms + 16 * MINUTE)
    for _ in range(6):
        half.run(half.now_ms + 4 * MINUTE)
        half.clear(flap)
        half.run(half.now_ms + 4 * MINUTE)
        flap = half.fire("confidence_drop", model="other")
    half.clear(leak)
    half.jump(half.now_ms + 50 * MINUTE)
    half.do("lower", incident_id=half.log[0].incident_id, to=Severity.HIGH, reason="test data")
    half.run(half.now_ms + 10 * MINUTE, 5 * MINUTE)
    half.do("resolve", incident_id=half.log[0].incident_id, reason="done", resolution="fixed")
    half.clear(flap)
    half.run(half.now_ms + 2 * HOUR, 5 * MINUTE)
    half.fire("unsafe_output")
    half.do("pir_waive", incident_id=half.log[0].incident_id, reason="a test")
    half.run(half.now_ms + 26 * HOUR, 30 * MINUTE)


def told(half: "Half") -> list[object]:
    attempts = [(one.notification.notification_id, one.number, one.decided_at_ms) for one in half.attempts]
    return [half.log, half.notifications, sorted(act.act_id for act in half.acts), attempts, half.rows]


@pytest.fixture
def plain_half(make_half: Callable[..., "Half"]) -> "Half":
    half = make_half()
    story(half)
    return half


def test_the_story_tells_of_everything(plain_half: "Half") -> None:
    reasons = set(plain_half.reasons())
    assert reasons >= {
        "opened",
        "acknowledged",
        "contained",
        "breached",
        "breach_retracted",
        "finding_cleared",
        "flapping",
        "severity_lowered",
        "resolved",
        "reopened",
        "auto_recovered",
        "flapping_ended",
        "milestone_reached",
    }


def test_every_batch_twice_changes_nothing(plain_half: "Half", make_half: Callable[..., "Half"]) -> None:
    twice = make_half(repeats=True)
    story(twice)
    assert told(twice)[:2] == told(plain_half)[:2]
    assert set(told(twice)[2]) == set(told(plain_half)[2])  # type: ignore[call-overload]
    assert told(twice)[3:] == told(plain_half)[3:]


def test_a_restart_at_every_step_changes_nothing(plain_half: "Half", make_half: Callable[..., "Half"]) -> None:
    restarted = make_half(restarts=True)
    story(restarted)
    assert told(restarted) == told(plain_half)


@pytest.mark.parametrize("restarts", [False, True])
def test_where_escalate_is_cut_into_pieces_does_not_show(
    plain_half: "Half",
    make_half: Callable[..., "Half"],
    restarts: bool,  # noqa: FBT001 -- of the test
) -> None:
    cut = make_half(incidents_at_once=1, restarts=restarts)
    story(cut)
    assert told(cut) == told(plain_half)


INCIDENTS = 20


def overdue(half: "Half", at_once: int, stops: Container[int] = ()) -> tuple[list[list[EscalateOut]], dict[str, bytes]]:
    """Let all of many incidents become due at once: what escalate answers, piece by piece, and its rows in the end.

    A new object goes on over the rows behind the pieces in `stops`.
    """
    half.tick()
    for number in range(INCIDENTS):
        half.fire("unsafe_output", model=f"model-{number}")
    rows, settings = dict(half.rows["escalate"]), half.response.escalate_settings()
    escalate = Escalate(rows=rows, settings=settings, incidents_at_once=at_once)
    answers = [escalate.advance(half.now_ms + HOUR)]
    while escalate.has_more:
        assert escalate.settled
        if len(answers) in stops:
            rows = dict(rows)
            escalate = Escalate(rows=rows, settings=settings, incidents_at_once=at_once)
        answers.append(escalate.more())
    return answers, rows


@pytest.mark.parametrize("at_once", [1, 7, INCIDENTS])
def test_a_call_decides_so_many_incidents_and_no_more_whatever_became_due(
    make_half: Callable[..., "Half"], at_once: int
) -> None:
    answers, rows = overdue(make_half(), at_once)
    [whole], whole_rows = overdue(make_half(), INCIDENTS)
    assert max(len({one.incident_id for one in piece}) for piece in answers) == at_once
    assert [one for piece in answers for one in piece] == whole
    assert {one.incident_id for one in whole} == {one.incident_id for one in whole if isinstance(one, Notification)}
    assert len({one.incident_id for one in whole}) == INCIDENTS
    assert rows == whole_rows


def test_a_restart_between_pieces_of_escalate_does_not_show(make_half: Callable[..., "Half"]) -> None:
    answers, rows = overdue(make_half(), 3, stops={1, 2, 5})
    [whole], whole_rows = overdue(make_half(), INCIDENTS)
    assert [one for piece in answers for one in piece] == whole
    assert rows == whole_rows


GO_ON: dict[str, Callable[[Escalate, int], list[EscalateOut]]] = {
    "a record": lambda escalate, _: escalate.receive([]),
    "a later time": lambda escalate, now_ms: escalate.advance(now_ms),
}


@pytest.mark.parametrize("told", GO_ON)
def test_what_escalate_has_left_it_does_before_it_takes_the_next_record_or_time(half: "Half", told: str) -> None:
    for model in ("one", "two"):
        half.fire("unsafe_output", model=model)
    rows, settings = half.rows["escalate"], half.response.escalate_settings()
    escalate = Escalate(rows=rows, settings=settings, incidents_at_once=1)
    due_ms = half.now_ms + HOUR
    first = escalate.advance(due_ms)
    second = GO_ON[told](escalate, due_ms + HOUR)[: len(first)]
    assert {one.decided_at_ms for one in second} == {due_ms}
    assert {one.incident_id for one in second}.isdisjoint(one.incident_id for one in first)


def test_time_that_goes_back_changes_nothing(plain_half: "Half") -> None:
    half = plain_half
    rows = {name: dict(rows) for name, rows in half.rows.items()}
    assert half.triage.receive([Through(partition=0, through_ms=half.now_ms - 1)]) == []
    assert half.triage.advance(half.now_ms) == []
    assert half.escalate.advance(half.now_ms - HOUR) == []
    assert [out for out in half.notify.clock(half.now_ms - HOUR, live=True) if isinstance(out, Attempt)] == []
    assert half.rows == rows


@pytest.mark.parametrize("stage", ["triage", "escalate"])
def test_a_stop_that_kept_the_time_and_lost_what_was_done_is_made_good(half: "Half", stage: str) -> None:
    """Rows are written one by one: the time may be there, and a ladder's step or an incident not."""
    half.tick()
    half.fire("accuracy_below_sla" if stage == "triage" else "unsafe_output")
    rows, due_ms = half.rows[stage], half.now_ms + 5 * MINUTE
    before = dict(rows)
    made = getattr(half, stage).advance(due_ms)
    assert made
    rows_that_stayed = before | {"time": rows["time"]}
    rows.clear()
    rows.update(rows_that_stayed)
    half.make()
    assert getattr(half, stage).advance(due_ms) == made


def test_stages_are_always_settled_and_answer_with_lists(half: "Half") -> None:
    for stage in (half.triage, half.escalate, half.notify):
        assert stage.settled
        assert stage.receive([]) == []
        assert isinstance(stage.advance(half.now_ms + 1), list)


def test_sequences_have_no_gap(plain_half: "Half") -> None:
    assert plain_half.latest
    for name in plain_half.latest:
        sequence = [incident.seq for incident in plain_half.log if incident.incident_id == name]
        assert sequence == list(range(1, len(sequence) + 1))


def test_every_attempt_ends_in_one_receipt_unless_it_is_lost(plain_half: "Half") -> None:
    answered = [
        (receipt.notification_id, receipt.attempt) for receipt in plain_half.receipts if receipt.answer_class != "none"
    ]
    lost = sum(one.number == 1 and one.decided_at_ms % 7 == 0 for one in plain_half.attempts)
    ends = [receipt.notification_id for receipt in plain_half.receipts if receipt.final]
    assert len(ends) == len(set(ends))
    assert len(answered) == len(set(answered)) == len(plain_half.attempts) - lost


@st.composite
def some_findings(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    kinds = st.sampled_from(["accuracy_below_sla", "confidence_drop", "drift", "feature_corruption"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 5), st.integers(0, 5_000_000)), min_size=1, max_size=8))


@given(found=some_findings(), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_the_order_of_firing_findings_does_not_matter(
    half: "Half", response: Response, found: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    records: list[Finding] = []
    for kind, lane, onset_ms in found:
        one = half.finding(kind, lane=f"lane-{lane}", at_ms=half.start_ms, onset_ms=half.start_ms - onset_ms)
        known = [other.revision for other in records if other.finding_id == one.finding_id]
        records.append(replace(one, revision=max(known, default=-1) + 1))
    newest = {one.finding_id: one for one in records}

    def outcome(order: list[Finding]) -> tuple[object, ...]:
        triage = Triage(rows={}, settings=response.triage_settings(frozenset()))
        triage.receive(order)
        out = [one for one in triage.advance(half.start_ms + 2 * HOUR) if not hasattr(one, "topic")]
        last = out[-1]
        return (
            last.impact_started_at_ms,
            last.severity,
            last.firing,
        )

    first = outcome(list(newest.values()))
    assert outcome(data.draw(st.permutations(list(newest.values())))) == first
    assert outcome(data.draw(st.permutations(records))) == first
