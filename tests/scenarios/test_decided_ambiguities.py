"""What the playbook leaves open, and what was decided: one test for each, D01 to D32."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from schemas.incident import Reason, Severity, Status
from schemas.incident_action import Draft
from schemas.notification import MessageReason
from schemas.response import Response

if TYPE_CHECKING:
    from tests.scenarios.conftest import Half

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def open_one(half: "Half", kind: str) -> int:
    """Let a finding fire until its incident opens; return when that was."""
    half.fire(kind)
    half.run(half.now_ms + 90 * MINUTE if kind == "drift" else half.now_ms + 20 * MINUTE, 30_000)
    return half.log[0].opened_at_ms


def breaches(half: "Half") -> list[tuple[str, int]]:
    return [(act.clock, act.late_by_ms) for act in half.acts if act.kind == "breach"]


@pytest.mark.parametrize(("after_ms", "is_breached"), [(15 * MINUTE - 1, False), (15 * MINUTE, True)])
def test_d01_sev_1_is_answered_strictly_before_15_minutes(half: "Half", after_ms: int, *, is_breached: bool) -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 14 * MINUTE)
    half.now_ms = half.start_ms + after_ms
    half.do("ack")
    half.run(half.start_ms + 20 * MINUTE)
    assert bool([breach for breach in breaches(half) if breach[0] == "response"]) is is_breached


@pytest.mark.parametrize(("after_ms", "is_breached"), [(60 * MINUTE, False), (60 * MINUTE + 1, True)])
def test_d02_within_an_hour_is_inclusive(half: "Half", after_ms: int, *, is_breached: bool) -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 62 * MINUTE - 1, 30_000)
    half.now_ms = half.log[0].opened_at_ms + after_ms
    half.do("ack")
    half.run(half.start_ms + 70 * MINUTE)
    assert bool([breach for breach in breaches(half) if breach[0] == "response"]) is is_breached


def test_d03_the_clock_starts_at_the_opening_not_when_it_is_processed(half: "Half") -> None:
    half.fire("pii_leak")
    half.jump(half.start_ms + 20 * MINUTE)
    assert [breach for breach in breaches(half) if breach[0] == "response"] == [("response", 5 * MINUTE)]


def test_d03_the_hold_down_belongs_to_the_opening(half: "Half") -> None:
    opened_ms = open_one(half, "accuracy_below_sla")
    assert opened_ms == half.start_ms + 2 * MINUTE
    half.run(half.start_ms + 70 * MINUTE)
    [breach] = half.incident.breaches
    assert breach.due_at_ms == half.start_ms + 62 * MINUTE


@pytest.mark.parametrize("actor_kind", ["provider", "system"])
def test_d04_a_machine_does_not_respond(half: "Half", actor_kind: str) -> None:
    half.fire("pii_leak")
    [refused] = half.do("ack", actor="tocsin:x", actor_kind=actor_kind)
    assert refused.reason is Reason.HUMAN_REQUIRED
    half.run(half.start_ms + 16 * MINUTE)
    assert ("response", 0) in breaches(half)


def test_d04_a_providers_person_responds_at_the_providers_time(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 6 * MINUTE)
    [record] = half.do("ack", source="pagerduty", occurred_at_ms=half.start_ms + 4 * MINUTE)
    assert record.acknowledged_at_ms == half.start_ms + 4 * MINUTE


def test_d05_sev_3_has_240_business_minutes(make_half: Callable[..., "Half"]) -> None:
    friday = utc("2026-11-20T15:45+00:00")
    half = make_half(start_ms=friday)
    half.fire("latency_up")
    half.run(friday + 4 * DAY, 5 * MINUTE)  # opens 16:00: one hour on Friday, three on Monday
    [breach] = [breach for breach in half.incident.breaches if breach.clock == "response"]
    assert breach.due_at_ms == utc("2026-11-23T12:00+00:00")


def test_d06_sev_4_is_due_at_close_of_the_next_business_day(half: "Half") -> None:
    open_one(half, "drift")
    half.run(half.start_ms + 2 * DAY, 10 * MINUTE)
    [breach] = half.incident.breaches
    assert breach.due_at_ms == utc("2026-11-24T17:00+00:00")
    assert not half.sent(purpose="breach")


def test_d07_sev_2_runs_on_holidays(make_half: Callable[..., "Half"]) -> None:
    night = utc("2026-12-25T02:58+00:00")
    half = make_half(start_ms=night)
    half.fire("accuracy_below_sla")
    half.run(night + 70 * MINUTE)
    [breach] = [breach for breach in half.incident.breaches if breach.clock == "response"]
    assert breach.due_at_ms == utc("2026-12-25T04:00+00:00")


def test_d09_containment_may_be_complete_at_minute_3(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 3 * MINUTE)
    [record] = half.do("contain", containment_kind="disable", evidence="s3://evidence/1")
    assert record.status is Status.CONTAINED
    assert record.phase == "investigation"


def test_d11_safety_goes_to_ethics_and_legal(half: "Half") -> None:
    half.fire("unsafe_output")
    assert half.incident.incident_class == "fairness_compliance"
    assert {message.target for message in half.sent(purpose="page")} >= {"team:ethics", "role:legal", "team:ml-oncall"}


def test_d12_classes_make_separate_incidents(half: "Half") -> None:
    half.fire("pii_leak")
    half.fire("model_outage")
    assert [incident.severity for incident in half.latest.values()] == [Severity.CRITICAL, Severity.CRITICAL]
    assert len(half.latest) == 2


def test_d12_the_most_severe_of_several_findings_wins(half: "Half") -> None:
    half.fire("confidence_drop")
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 3 * MINUTE)
    assert half.incident.severity is Severity.HIGH
    assert half.incident.findings_total == 2


def test_d13_the_page_asks_for_the_last_known_good_version(half: "Half") -> None:
    from schemas.deployment import Deployment  # noqa: PLC0415

    for day, version in ((3, "6"), (1, "7")):
        at_ms = half.start_ms - day * DAY + HOUR
        change = Deployment(deployment_id=version, model="credit", at_ms=at_ms, decided_at_ms=at_ms, version=version)
        half.triage.receive([change, change])
    half.fire("unsafe_output")
    [page] = half.sent(purpose="page", target="team:ml-oncall")
    assert "Roll back now" in page.text
    assert "Last known good version: 6" in page.text
    assert [change.version for change in half.incident.deployments] == ["7"]


def test_d14_shadow_monitoring_completes_the_phase_and_contains_nothing(half: "Half") -> None:
    half.fire("pii_leak")
    [record] = half.do("contain", containment_kind="shadow_monitoring")
    assert (record.status, record.phase) == (Status.INVESTIGATING, "investigation")


def test_d15_an_executives_acknowledgement_does_not_stop_the_ladder(half: "Half") -> None:
    half.fire("pii_leak")
    first = {message.target for message in half.sent(mode="page")}
    assert first >= {"role:vp-engineering", "role:legal", "role:ciso"}
    half.run(half.start_ms + MINUTE)
    half.do("ack", actor="carol", target="role:ciso")
    half.run(half.start_ms + 5 * MINUTE)
    assert [message.decided_at_ms for message in half.sent(target="team:ml-secondary")] == [half.start_ms + 5 * MINUTE]
    half.run(half.start_ms + 12 * MINUTE)
    owed = {message.target for message in half.sent(reason=MessageReason.ACK_OWED)}
    assert owed == {"role:vp-engineering", "role:legal"}


def test_d15_an_acknowledgement_for_whom_nobody_tells_is_refused_and_the_ladder_goes_on(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + MINUTE)
    [record] = half.do("ack", actor="legal", target="role:leagl")
    assert (record.reason, record.acks) == ("unknown_target", ())
    half.run(half.start_ms + 5 * MINUTE)
    assert half.sent(target="team:ml-secondary", mode="page")


def test_d16_a_missing_war_room_is_told_once(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.run(half.start_ms + 31 * MINUTE)
    assert [breach[0] for breach in breaches(half)] == ["open_war_room"]
    told = half.sent(purpose="breach", target="team:ml-oncall")
    assert len(told) == 1


def test_d16_a_war_room_at_30_minutes_is_in_time(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.run(half.start_ms + 30 * MINUTE)
    [record] = half.do("open_war_room", evidence="https://meet.example/1")
    assert record.milestones == {"open_war_room": half.now_ms}
    half.run(half.start_ms + 40 * MINUTE)
    assert breaches(half) == []


def test_d17_sev_3_never_pages(half: "Half") -> None:
    half.fire("latency_up")
    half.run(half.start_ms + 3 * DAY, 10 * MINUTE)
    assert half.sent(target="role:ml-lead")
    assert not half.sent(mode="page")


def test_d21_a_second_episode_runs_its_own_clock(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.run(half.start_ms + 10 * MINUTE)
    half.do("resolve", reason="keys rotated", resolution="fixed")
    half.run(half.start_ms + HOUR)
    half.fire("pii_leak")
    assert (half.incident.reason, half.incident.episode) == (Reason.REOPENED, 2)
    assert half.incident.acks == ()
    half.run(half.start_ms + HOUR + 16 * MINUTE)
    assert [breach.due_at_ms for breach in half.incident.breaches][-1] == half.start_ms + 75 * MINUTE


def test_d22_late_labels_move_the_beginning(half: "Half") -> None:
    half.fire("pii_leak")
    half.fire("pii_leak", lane="SEX=1", onset_ms=half.start_ms - 3 * DAY)
    assert half.incident.impact_started_at_ms == half.start_ms - 3 * DAY
    assert half.incident.redated is not None
    assert half.incident.opened_at_ms == half.start_ms


def test_d23_sev_1_never_resolves_by_itself(half: "Half") -> None:
    found = half.fire("pii_leak")
    half.run(half.start_ms + 10 * MINUTE)
    half.clear(found)
    half.run(half.start_ms + 7 * DAY, HOUR)
    assert half.incident.is_open
    assert half.sent(reason=MessageReason.REMINDER)


def test_d24_a_late_raise_breaches_at_once_by_the_original_opening(half: "Half") -> None:
    half.fire("latency_up", model="credit")
    half.run(half.start_ms + 55 * MINUTE)  # opened at +15
    half.do("raise", to=Severity.CRITICAL, reason="customers are harmed")
    assert ("response", 25 * MINUTE) in breaches(half)
    pages = half.sent(mode="page", target="team:platform-oncall")
    assert [page.decided_at_ms for page in pages] == [half.now_ms]


def test_d25_lowering_cancels_the_queued_page(half: "Half") -> None:
    half.answer = lambda _attempt: "retry"
    half.fire("pii_leak")
    half.do("lower", to=Severity.MEDIUM, reason="test data only")
    half.run(half.start_ms + 2 * MINUTE)
    assert "downgraded" in half.cancelled()
    assert half.incident.severity_max is Severity.CRITICAL


def test_d26_a_large_statistic_is_no_harm(half: "Half") -> None:
    half.fire("drift", log_evidence=900.0)
    half.run(half.start_ms + 70 * MINUTE)
    assert half.incident.severity is Severity.LOW


def test_d26_drift_on_several_lanes_is_sev_3_and_no_higher(half: "Half") -> None:
    for lane in ("a", "b", "c", "d"):
        half.fire("drift", lane=lane)
    half.run(half.start_ms + 70 * MINUTE)
    assert half.incident.severity is Severity.MEDIUM


def test_d29_an_acknowledgement_in_time_that_comes_late_retracts_the_breach(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 17 * MINUTE)
    assert [breach.retracted for breach in half.incident.breaches] == [False]
    records = half.do("ack", occurred_at_ms=half.start_ms + 14 * MINUTE)
    assert [record.reason for record in records] == [Reason.ACKNOWLEDGED, Reason.BREACH_RETRACTED]
    assert [breach.retracted for breach in half.incident.breaches] == [True]


def test_d29_an_acknowledgement_on_the_deadline_retracts_nothing(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 17 * MINUTE)
    records = half.do("ack", occurred_at_ms=half.start_ms + 15 * MINUTE)
    assert [record.reason for record in records] == [Reason.ACKNOWLEDGED]


def test_d24_a_breach_is_stamped_once(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 16 * MINUTE)
    half.do("lower", to=Severity.HIGH, reason="few are affected")
    half.do("raise", to=Severity.CRITICAL, reason="many are")
    assert len([breach for breach in breaches(half) if breach[0] == "response"]) == 1


def test_d30_an_outage_pages_the_executives_too(half: "Half") -> None:
    half.fire("model_outage")
    told = {message.target for message in half.sent(mode="page")}
    assert told >= {"team:platform-oncall", "role:vp-engineering", "role:legal", "role:ciso"}


@pytest.mark.parametrize(("offset_ms", "same"), [(0, True), (1, False)])
def test_d31_the_reopen_window_ends_to_the_millisecond(half: "Half", offset_ms: int, *, same: bool) -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 10 * MINUTE)
    half.do("resolve", reason="rolled back", resolution="rolled_back")
    resolved_ms = half.now_ms
    half.now_ms = resolved_ms + 4 * HOUR + offset_ms
    half.fire("accuracy_below_sla")
    half.run(half.now_ms + 10 * MINUTE)
    assert len(half.latest) == (1 if same else 2)
    if not same:
        first, second = half.latest.values()
        assert second.previous_incident_id == first.incident_id


@pytest.mark.parametrize(
    ("kind", "what"),
    [("lower", {"to": Severity.LOW}), ("resolve", {"resolution": "fixed"})],
)
def test_d32_lowering_and_resolving_need_a_reason(half: "Half", kind: str, what: dict[str, object]) -> None:
    half.fire("pii_leak")
    [refused] = half.do(kind, actor="ann", actor_kind="human", **what)
    assert refused.reason is Reason.MISSING_REASON
    [refused] = half.do(kind, actor_kind="system", actor="tocsin:x", **{"reason": "because", **what})
    assert refused.reason is Reason.HUMAN_REQUIRED


def test_d32_waiving_the_review_needs_a_reason(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("resolve", reason="done", resolution="fixed")
    assert half.do("pir_waive")[0].reason is Reason.MISSING_REASON
    closed = half.do("pir_waive", reason="a test")[0]
    assert (closed.reason, closed.phase) == (Reason.CLOSED, "done")


def test_d10_infrastructure_keeps_its_response_clock(half: "Half", response: Response) -> None:
    assert replace(response) == response
    half.fire("model_outage")
    half.run(half.start_ms + 16 * MINUTE)
    assert ("response", 0) in breaches(half)


def test_an_act_under_a_date_of_the_far_future_holds_no_ladder(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + MINUTE)
    half.do("note", text="a wrong clock", decided_at_ms=half.now_ms + 3_650 * DAY)
    half.run(half.now_ms + 7 * MINUTE)
    assert half.sent(target="team:ml-secondary")


def opened_by_hand(half: "Half", at_ms: int) -> None:
    """Let somebody open a SEV-1 under a date."""
    draft = Draft(tenant="acme", environment="prod", incident_class="model_quality", severity=Severity.CRITICAL)
    half.do("open", draft=draft, incident_id="", decided_at_ms=at_ms, occurred_at_ms=at_ms)


@pytest.mark.parametrize("ahead_ms", [9 * HOUR, 3_650 * DAY])
def test_an_incident_under_a_date_ahead_has_the_deadlines_of_one_that_opens_now(half: "Half", ahead_ms: int) -> None:
    opened_by_hand(half, half.now_ms + ahead_ms)
    begun_ms = half.now_ms
    half.run(begun_ms + 6 * MINUTE)
    assert half.sent(target="team:ml-secondary", mode="page")
    half.do("lower", to=Severity.HIGH, reason="a test")
    half.do("raise", to=Severity.CRITICAL)
    half.run(begun_ms + 31 * MINUTE)
    stamps = [(act.clock, act.due_at_ms) for act in half.acts if act.kind == "breach"]
    assert stamps == [("response", begun_ms + 15 * MINUTE), ("open_war_room", begun_ms + 30 * MINUTE)]


@pytest.mark.parametrize("kind", ["ack", "note"])
def test_an_acknowledgement_or_progress_under_a_date_ahead_holds_no_longer_than_any(half: "Half", kind: str) -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + MINUTE)
    if kind == "note":
        half.do("ack")
    ahead_ms = half.now_ms + 9 * HOUR
    half.do(kind, text="looking" if kind == "note" else "", decided_at_ms=ahead_ms, occurred_at_ms=ahead_ms)
    assert not breaches(half), "it was acknowledged in time"
    half.run(half.now_ms + 31 * MINUTE)
    assert "unacknowledged" in half.reasons()
