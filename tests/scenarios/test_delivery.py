"""What leaves the house, what does not, and why: the gate, the re-check, retries, order, and replays."""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from schemas.incident import Severity
from schemas.notification import MessageReason, Notification, Purpose
from schemas.policy import Mode
from schemas.receipt import AnswerClass, Receipt
from schemas.response import Bucket, Contact, Response
from schemas.through import Through
from streams.stages.notify import Attempt, Notify, NotifyIn, Waiting

if TYPE_CHECKING:
    from tests.scenarios.conftest import Half

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
QUARTER = 90 * DAY
KINDS = ("pii_leak", "accuracy_below_sla", "latency_up", "model_outage")


def history(half: "Half", count: int, *, closes: bool) -> None:
    """Give findings of last quarter, one incident each, whose marks of time follow; nobody acknowledges."""
    for at in range(count):
        found = half.finding(KINDS[at % len(KINDS)], model=f"model-{at}", at_ms=half.start_ms + at * MINUTE)
        half.give(found, Through(partition=0, through_ms=found.decided_at_ms + 20 * MINUTE))
        if closes:
            half.now_ms = found.decided_at_ms + 21 * MINUTE
            half.do("resolve", actor="ann", model=f"model-{at}", reason="done", resolution="fixed")
            half.do("pir_waive", actor="ann", model=f"model-{at}", reason="a test")
    half.now_ms = half.start_ms + count * MINUTE + HOUR


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_t4a_closed_incidents_replayed_into_an_empty_system_send_nothing(
    make_half: Callable[..., "Half"], count: int
) -> None:
    half = make_half()
    history(half, count, closes=True)
    assert len(half.latest) == count
    assert not half.attempts
    half.run(half.now_ms + QUARTER, QUARTER)
    half.run(half.now_ms + HOUR)
    assert not half.attempts


def test_nothing_is_said_to_be_over_while_lanes_fire_that_the_record_has_no_place_for(half: "Half") -> None:
    #  60 lanes fire, of which 50 are kept and clear | the other 10 clear
    lanes = [half.fire("unsafe_output", lane=f"lane={number}") for number in range(60)]
    half.run(half.now_ms + 20 * MINUTE)
    for one in lanes[10:]:
        half.clear(one)
    half.run(half.now_ms + 2 * HOUR)
    assert MessageReason.SOME_CLEARED in {message.reason for message in half.notifications}
    assert MessageReason.ALL_CLEARED not in {message.reason for message in half.notifications}
    for one in lanes[:10]:
        half.clear(one)
    half.run(half.now_ms + HOUR)
    over = {message.target for message in half.notifications if message.reason is MessageReason.ALL_CLEARED}
    assert over == {message.target for message in half.notifications if message.reason is MessageReason.SOME_CLEARED}


def test_what_a_provider_ends_while_unnamed_lanes_fire_has_not_cleared(half: "Half") -> None:
    lanes = [half.fire("feature_corruption", lane=f"lane={number}") for number in range(60)]
    half.run(half.now_ms + 20 * MINUTE)
    kept = half.incident.firing
    for one in lanes:
        if one.finding_id in kept:
            half.clear(one)
    half.do("resolve", actor="pager", actor_kind="provider", reason="done", resolution="fixed")
    assert (half.incident.is_open, half.incident.firing, half.incident.firing_total) == (False, frozenset(), 10)
    half.run(half.now_ms + MINUTE)
    ends = {message.reason for message in half.notifications if message.purpose == "resolve"}
    assert ends == {MessageReason.STATUS_CHANGED}


def test_t4b_an_outage_in_a_ladder_gives_one_page_per_target(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + MINUTE)
    half.attempts.clear()
    half.jump(half.start_ms + 41 * MINUTE)
    targets = [message.target for message in half.sent()]
    assert len(targets) == len(set(targets))
    [secondary] = half.sent(target="team:ml-secondary")
    assert secondary.late_by_ms == 36 * MINUTE
    assert "Late by 36 min" in secondary.text
    half.attempts.clear()
    half.run(half.now_ms + 5 * MINUTE - 1)
    assert not half.sent(purpose="page")  # what follows is counted from now


def test_t4c_a_topic_consumed_twice_sends_nothing_new(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 20 * MINUTE)
    sent = len(half.attempts)
    assert sent > 5
    again = Notify(rows=half.rows["notify"], settings=half.response.notify)
    again.clock(half.now_ms, live=True)
    records: list[NotifyIn] = [*half.notifications, *half.log, *half.receipts]
    assert [out for out in again.receive(records) if isinstance(out, Attempt)] == []


def test_t4d_a_late_label_about_last_month_pages(half: "Half") -> None:
    half.fire("accuracy_below_sla", onset_ms=half.start_ms - 30 * DAY)
    half.run(half.start_ms + 3 * MINUTE, 30_000)
    assert half.sent(mode="page")
    assert half.incident.impact_started_at_ms == half.start_ms - 30 * DAY


def test_t4e_never_acknowledged_incidents_of_last_quarter_page_nobody(make_half: Callable[..., "Half"]) -> None:
    half = make_half()
    history(half, 100, closes=False)
    assert len(half.latest) == 100
    half.now_ms += QUARTER
    half.run(half.now_ms + 2 * HOUR)
    assert half.notifications
    assert not half.attempts
    assert set(half.cancelled()) == {"stale"}


def test_t4e_also_when_the_receipts_of_last_quarter_are_replayed_with_them(make_half: Callable[..., "Half"]) -> None:
    then = make_half()
    then.tick()
    history(then, 40, closes=False)
    then.run(then.now_ms + 2 * HOUR)
    assert any(receipt.reached for receipt in then.receipts)
    half = make_half(start_ms=then.start_ms)
    for record in then.log:
        half.escalate.receive([record])
        half.notify.receive([record])
    half.escalate.receive(then.receipts)
    half.log, half.now_ms = list(then.log), then.now_ms + QUARTER
    half.run(half.now_ms + 2 * HOUR)
    assert half.notifications
    assert not half.attempts


def test_a_cause_under_a_date_of_the_far_future_makes_no_page_of_last_quarter_fresh(half: "Half") -> None:
    half.fire("pii_leak")
    page = replace(half.notifications[0], cause_at_ms=half.now_ms + 300 * DAY)
    notify = Notify(rows={}, settings=half.response.notify)
    assert notify.receive([page, half.log[0]]) == []
    [receipt] = notify.clock(half.now_ms + QUARTER, live=True)
    assert isinstance(receipt, Receipt)
    assert receipt.reason == "stale"


def test_nothing_is_sent_before_the_first_clock_value(make_half: Callable[..., "Half"]) -> None:
    half = make_half()
    half.fire("pii_leak")
    assert not half.attempts
    half.notify.advance(half.now_ms)
    assert not half.attempts
    half.run(half.now_ms + 1_000)
    assert half.sent(mode="page")


def test_what_is_over_when_the_backlog_is_read_is_not_sent(make_half: Callable[..., "Half"]) -> None:
    half = make_half()
    half.fire("pii_leak")
    page = half.notifications[0]
    notify = Notify(rows={}, settings=half.response.notify)
    assert notify.receive([page, half.log[0]]) == []
    assert notify.clock(half.now_ms, live=False) == []
    resolved = half.do("resolve", reason="a test", resolution="false_positive")
    notify.receive(resolved)
    [receipt] = notify.clock(half.now_ms + 1_000, live=True)
    assert isinstance(receipt, Receipt)
    assert receipt.reason == "resolved"


def test_a_backlog_without_end_is_not_waited_for(make_half: Callable[..., "Half"]) -> None:
    half = make_half()
    half.fire("pii_leak")
    notify = Notify(rows={}, settings=half.response.notify)
    notify.receive([half.notifications[0], half.log[0]])
    assert notify.clock(half.now_ms, live=False) == []
    assert notify.clock(half.now_ms + half.response.notify.behind_wait_ms - 1, live=False) == []
    assert len(notify.clock(half.now_ms + half.response.notify.behind_wait_ms, live=False)) == 1


def test_messages_wait_for_the_incident_that_they_speak_of(make_half: Callable[..., "Half"]) -> None:
    half = make_half()
    half.fire("pii_leak")
    notify = Notify(rows={}, settings=half.response.notify)
    notify.clock(half.now_ms, live=True)
    assert notify.receive([half.notifications[0]]) == []
    assert len(notify.receive([half.log[0]])) == 1


def test_the_end_waits_for_the_record_that_it_speaks_of(half: "Half") -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 5 * MINUTE)
    known = len(half.notifications)
    notify = Notify(rows=dict(half.rows["notify"]), settings=half.response.notify)
    half.do("resolve", reason="rolled back", resolution="rolled_back")
    notify.clock(half.now_ms, live=True)
    assert notify.receive(half.notifications[known:]) == []
    left = notify.receive([half.incident])
    assert {one.notification.purpose for one in left if isinstance(one, Attempt)} == {"resolve"}


def test_the_late_answer_to_a_lost_attempt_does_not_call_back_the_next(half: "Half") -> None:
    half.answer = lambda _attempt: None
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 4 * MINUTE + 30_000, 30_000)
    twice = next(attempt for attempt in half.attempts if attempt.number == 2)
    half.answer = lambda _attempt: "retry"
    late = Receipt(
        notification_id=twice.notification.notification_id,
        incident_id=twice.notification.incident_id,
        model="credit",
        target=twice.notification.target,
        channel="log",
        episode=1,
        mode=twice.notification.mode,
        attempt=1,
        answer_class="retry",
        status="retrying",
        reason="timeout",
        decided_at_ms=half.now_ms,
    )
    before = dict(half.rows["notify"])
    assert half.notify.receive([late]) == []
    assert half.rows["notify"] == before


def test_no_update_is_made_while_the_last_message_is_on_its_way(half: "Half") -> None:
    half.answer = lambda _attempt: None
    half.fire("pii_leak")
    half.do("ack")
    half.run(half.start_ms + 6 * MINUTE)
    half.fire("pii_leak", lane="late")
    half.run(half.start_ms + 20 * MINUTE)
    assert not [one for one in half.notifications if one.purpose == "update" and one.target == "role:ciso"]


def test_an_older_record_of_an_incident_changes_nothing(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    rows = dict(half.rows["escalate"])
    assert half.escalate.receive(half.log[:1]) == []
    assert half.rows["escalate"] == rows


def test_oncall_4654_an_acknowledgement_cancels_what_waits(half: "Half") -> None:
    half.answer = lambda _attempt: "retry"
    half.fire("pii_leak")
    half.run(half.start_ms + 6 * MINUTE)
    half.answer = lambda _attempt: "ok"
    left = len(half.attempts)
    half.do("ack")
    half.run(half.start_ms + 8 * MINUTE)
    assert {message.group for message in half.sent()[left:]} <= {"accountable"}
    assert "acked" in half.cancelled()


def test_oneuptime_1690_resolving_ends_the_ladder(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 2 * MINUTE)
    half.do("resolve", reason="rolled back", resolution="rolled_back")
    half.attempts.clear()
    half.run(half.start_ms + DAY, 10 * MINUTE)
    assert not half.sent(mode="page")


def test_uptime_kuma_6046_a_provider_that_was_down_delivers_late_and_says_so(half: "Half") -> None:
    half.answer = lambda attempt: "retry" if attempt.decided_at_ms < half.start_ms + 10 * MINUTE else "ok"
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 15 * MINUTE, 5_000)
    pages = [attempt for attempt in half.attempts if attempt.notification.target == "team:ml-oncall"]
    assert pages[-1].late_by_ms > 7 * MINUTE
    delivered = [receipt for receipt in half.receipts if receipt.reached and receipt.target == "team:ml-oncall"]
    assert len(delivered) == 1


def test_signoz_12891_what_opened_and_ended_while_nothing_got_out_is_told_once(half: "Half") -> None:
    half.answer = lambda _attempt: "retry"
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 5 * MINUTE)
    half.do("resolve", reason="rolled back", resolution="rolled_back")
    half.answer = lambda _attempt: "ok"
    half.attempts.clear()
    half.run(half.start_ms + HOUR)
    to_oncall = half.sent(target="team:ml-oncall")
    assert [message.reason for message in to_oncall] == [MessageReason.OPENED_AND_RESOLVED]
    assert {message.mode for message in to_oncall} == {"message"}


def test_a_delivered_page_is_followed_by_its_end(half: "Half") -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 5 * MINUTE)
    half.do("resolve", reason="rolled back", resolution="rolled_back")
    half.run(half.start_ms + 6 * MINUTE)
    assert [message.purpose for message in half.sent(target="team:ml-oncall")] == ["page", "resolve"]


def test_an_attempt_that_is_lost_is_made_again_after_its_time(half: "Half") -> None:
    half.answer = lambda attempt: None if attempt.number == 1 else "ok"
    half.fire("pii_leak")
    half.run(half.start_ms + MINUTE)
    assert {attempt.number for attempt in half.attempts} == {1}
    half.restart()
    half.run(half.start_ms + 3 * MINUTE, 30_000)
    second = [attempt for attempt in half.attempts if attempt.number == 2]
    assert second
    assert {attempt.decided_at_ms for attempt in second} == {half.start_ms + 2 * MINUTE}


def test_the_end_of_a_message_that_never_was_is_kept_only_while_the_message_may_still_come(half: "Half") -> None:
    half.fire("pii_leak")
    known = half.receipts[0]
    foreign = [replace(known, notification_id=f"foreign-{at}", incident_id="none") for at in range(3)]
    kept = replace(known, notification_id="of an incident that is known")
    before = set(half.rows["notify"])
    half.notify.receive([*foreign, kept])
    assert set(half.rows["notify"]) - before == {f"ended/{kept.notification_id}"}
    half.notify.clock(half.now_ms, live=False)
    half.notify.receive(foreign)
    assert {f"ended/{one.notification_id}" for one in foreign} <= set(half.rows["notify"]), "a backlog is in no order"


def test_of_too_many_ends_the_first_is_forgotten_and_counted(half: "Half", monkeypatch: pytest.MonkeyPatch) -> None:
    half.fire("pii_leak")
    monkeypatch.setattr("streams.stages.notify.MAX_TIMERS", 20)
    one = half.receipts[0]
    for at in range(100):
        half.notify.receive([replace(one, notification_id=f"n{at}", decided_at_ms=one.decided_at_ms + at)])
    ends = [name for name in half.rows["notify"] if name.startswith("ended/")]
    assert len(ends) == 20
    assert ends[-1] == "ended/n99"
    assert half.notify.forgotten >= 80


def test_what_is_too_large_is_sent_once_with_less(half: "Half") -> None:
    half.answer = lambda attempt: "shrink" if attempt.details else "ok"
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 4 * MINUTE)
    tries = [attempt.details for attempt in half.attempts if attempt.notification.target == "team:ml-oncall"]
    assert tries == [True, False]


@pytest.mark.parametrize("answer", ["permanent", "shrink"])
def test_what_cannot_be_delivered_is_laid_aside_with_its_bytes(half: "Half", answer: AnswerClass) -> None:
    half.answer = lambda _attempt: answer
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 4 * MINUTE)
    letter = half.dead[0]
    assert letter.value is not None
    assert Notification.decode(letter.value).incident_id == half.incident.incident_id
    assert letter.stage == "notify"
    final = [receipt for receipt in half.receipts if receipt.notification_id == half.notifications[0].notification_id]
    assert [receipt.status for receipt in final][-1] == "dead"


def test_a_message_is_given_up_after_its_time(half: "Half") -> None:
    half.answer = lambda _attempt: "retry"
    half.fire("latency_up")
    half.run(half.start_ms + 7 * HOUR, MINUTE)
    assert "gave_up" in {letter.got for letter in half.dead}


def test_a_destination_that_refuses_us_is_left_alone_and_then_probed_by_one(half: "Half") -> None:
    half.answer = lambda attempt: "disable" if attempt.decided_at_ms < half.start_ms + 20 * MINUTE else "ok"
    half.fire("pii_leak")
    half.fire("pii_leak", model="other")
    half.run(half.start_ms + 19 * MINUTE, 30_000)
    times = [attempt.decided_at_ms for attempt in half.attempts if attempt.notification.target == "role:ciso"]
    assert [at - half.start_ms for at in times] == [0, 10 * MINUTE]
    half.run(half.start_ms + 21 * MINUTE, 30_000)
    reached = {receipt.incident_id for receipt in half.receipts if receipt.reached and receipt.target == "role:ciso"}
    assert len(reached) == 2


def test_a_destination_is_written_to_at_its_own_pace(make_half: Callable[..., "Half"], response: Response) -> None:
    slow = replace(response.notify, buckets={}, default_bucket=Bucket(burst=2, refill_ms=10_000))
    one = {name: (replace(ways[0], address="one"),) for name, ways in response.directory.items()}
    half = make_half(settings=replace(response, notify=slow, directory=one))
    half.tick()
    for model in ("a", "b", "c", "d", "e"):
        half.fire("pii_leak", model=model)
    assert len(half.attempts) == 2
    half.restart()
    half.run(half.start_ms + 30_000, 1_000)
    assert len(half.attempts) == 5


def test_only_so_many_attempts_are_on_their_way(make_half: Callable[..., "Half"], response: Response) -> None:
    narrow = replace(response.notify, in_flight_limit=3)
    half = make_half(settings=replace(response, notify=narrow))
    half.tick()
    half.answer = lambda _attempt: None
    half.fire("pii_leak")
    half.fire("pii_leak", model="b")
    assert len(half.attempts) == 3


def test_one_message_at_a_time_to_a_destination_about_an_incident(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    one = {name: (replace(ways[0], address="one"),) for name, ways in response.directory.items()}
    half = make_half(settings=replace(response, directory=one))
    half.tick()
    half.answer = lambda _attempt: None
    half.fire("pii_leak")
    assert len(half.notifications) > 2
    assert len(half.attempts) == 1


@pytest.mark.parametrize(("mode", "purpose"), [("page", "page"), ("message", "breach")])
def test_a_message_is_judged_by_itself_however_many_wait_beside_it(half: "Half", mode: Mode, purpose: Purpose) -> None:
    half.fire("pii_leak")
    half.answer = lambda _attempt: None
    one = replace(half.notifications[0], mode=mode, purpose=purpose, address="one")
    crowd = [replace(one, notification_id=f"n{at}", decided_at_ms=one.decided_at_ms + at) for at in range(300)]
    again = Notify(rows={}, settings=half.response.notify)
    again.receive([*half.log, *crowd])
    looked_up: list[str] = []

    class Counted(dict[str, Waiting]):
        def __getitem__(self, name: str) -> Waiting:
            looked_up.append(name)
            return super().__getitem__(name)

    again._waiting = Counted(again._waiting)  # noqa: SLF001 -- how much is looked at shows nowhere else
    [first] = again.clock(half.now_ms, live=True)
    assert isinstance(first, Attempt)
    assert first.notification == crowd[0]
    assert len(looked_up) < 10 * len(crowd)


def test_a_newer_message_takes_the_place_of_an_older_that_waits(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.answer = lambda _attempt: "retry"
    half.run(half.start_ms + MINUTE)
    half.do("contain", containment_kind="disable", evidence="s3://evidence/1")
    half.run(half.start_ms + 2 * MINUTE)
    half.do("uncontain")
    half.answer = lambda _attempt: "ok"
    half.attempts.clear()
    half.run(half.start_ms + 10 * MINUTE)
    assert "superseded" in half.cancelled()
    assert len(half.sent(purpose="update", target="team:ml-oncall")) == 1


def test_f5_pages_to_one_target_are_capped_but_not_at_sev_1(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    tight = replace(response.notify, pages_limit=1)
    half = make_half(settings=replace(response, notify=tight))
    half.tick()
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 50 * MINUTE)
    half.do("classify", incident_class="infrastructure")
    half.do("classify", actor="bob", incident_class="model_quality")
    assert "capped" in half.cancelled()
    sharp = make_half(settings=replace(response, notify=tight))
    sharp.tick()
    sharp.fire("pii_leak")
    sharp.run(sharp.start_ms + 30 * MINUTE)
    assert len(sharp.sent(target="team:ml-oncall", mode="page")) > 1
    assert "capped" not in sharp.cancelled()


def test_f5_pages_that_do_not_arrive_use_up_nothing_and_are_not_called_back(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    half = make_half(settings=replace(response, notify=replace(response.notify, pages_limit=1)))
    half.tick()
    half.answer = lambda _attempt: "retry"
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 10 * MINUTE)
    assert len(half.sent(target="team:ml-oncall", mode="page")) > 1, "a retry does not count against itself"
    assert "capped" not in half.cancelled()
    half.answer = lambda _attempt: "permanent"
    half.run(half.start_ms + 12 * MINUTE)
    half.answer = lambda _attempt: "ok"
    half.attempts.clear()
    half.do("classify", incident_class="infrastructure")
    half.do("classify", actor="bob", incident_class="model_quality")
    assert len(half.sent(target="team:ml-oncall", mode="page")) == 1, "what was dead was no page"
    half.do("classify", incident_class="infrastructure")
    half.do("classify", actor="bob", incident_class="model_quality")
    assert len(half.sent(target="team:ml-oncall", mode="page")) == 1
    assert "capped" in half.cancelled()


def test_f5_a_page_by_several_channels_is_one_page(make_half: Callable[..., "Half"], response: Response) -> None:
    channels = ("log", "file", "webhook")
    ways = tuple(Contact(channel=channel, address="a", modes=("page",)) for channel in channels)
    half = make_half(
        settings=replace(
            response,
            directory=response.directory | {"team:ml-oncall": ways},
            notify=replace(response.notify, pages_limit=1),
        )
    )
    half.tick()
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 10 * MINUTE)
    assert {message.channel for message in half.sent(target="team:ml-oncall", mode="page")} == set(channels)
    assert "capped" not in half.cancelled()


def test_f5_pages_on_their_way_count(make_half: Callable[..., "Half"], response: Response) -> None:
    half = make_half(settings=replace(response, notify=replace(response.notify, pages_limit=1)))
    half.tick()
    half.answer = lambda _attempt: None
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 3 * MINUTE)
    assert half.sent(target="team:ml-oncall", mode="page")
    half.do("classify", incident_class="infrastructure")
    half.do("classify", actor="bob", incident_class="model_quality")
    assert "capped" in half.cancelled()


def test_waits_between_attempts_grow_within_their_cap_and_follow_from_the_message(half: "Half") -> None:
    half.answer = lambda _attempt: "retry"
    half.fire("pii_leak")
    half.run(half.start_ms + 30 * MINUTE, 1_000)
    name = half.notifications[0].notification_id
    times = [attempt.decided_at_ms for attempt in half.attempts if attempt.notification.notification_id == name]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) <= half.response.notify.page_backoff_cap_ms + 1_000
    assert len(times) > 20


def test_nobody_on_call_is_recorded_and_the_next_is_asked_at_once(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    nobody = {**response.directory, "team:ml-oncall": (), "team:ethics": (), "role:legal": ()}
    half = make_half(settings=replace(response, directory=nobody))
    half.tick()
    half.fire("pii_leak")
    assert [message.decided_at_ms for message in half.sent(target="team:ml-secondary")] == [half.start_ms]
    assert any(act.name == "nobody_on_call team:ml-oncall" for act in half.acts)


def test_those_who_only_have_to_know_are_not_asked_again_by_each_round(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 3 * HOUR)
    reasons = [message.reason for message in half.sent(target="role:ciso", mode="page")]
    assert reasons.count(MessageReason.FIRST) == 1
    assert reasons.count(MessageReason.ACK_OWED) == half.response.policy.severities["1"].owed_times
    assert len(reasons) == 7
    assert "multi_ack_incomplete role:ciso" in [act.name for act in half.acts]


def test_a7_when_nobody_is_anywhere_the_fallback_is_paged_once_at_once(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    nobody: dict[str, tuple[Contact, ...]] = dict.fromkeys(response.directory, ())
    half = make_half(
        settings=replace(response, directory=nobody | {"duty:fallback": response.directory["duty:fallback"]})
    )
    half.tick()
    half.fire("pii_leak")
    assert [message.purpose for message in half.sent()] == ["fallback"]
    assert [act.name for act in half.acts].count("nobody_on_call team:platform-oncall") == 0
    assert [act.name for act in half.acts].count("nobody_on_call team:ml-secondary") == 1
    half.run(half.start_ms + 59 * MINUTE)
    assert len(half.sent(purpose="fallback")) == 1
    half.run(half.start_ms + 61 * MINUTE)
    assert len(half.sent(purpose="fallback")) == 2  # A8: each hour


def test_a4_an_acknowledgement_without_progress_runs_out_and_the_ladder_begins_anew(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.run(half.start_ms + 26 * MINUTE)
    assert half.sent(reason=MessageReason.ACK_EXPIRES)
    half.attempts.clear()
    half.run(half.start_ms + 30 * MINUTE)
    assert "unacknowledged" in half.reasons()
    assert half.sent(target="team:ml-oncall", purpose="page")
    assert half.incident.acknowledged_at_ms == half.start_ms  # the response was given


def test_a4_it_runs_out_only_so_often(half: "Half") -> None:
    half.fire("pii_leak")
    for round_ in range(6):
        half.do("ack", actor=f"ann-{round_}")
        half.run(half.now_ms + 31 * MINUTE)
    cap = half.response.escalate.acknowledged_repeat_cap
    assert half.reasons().count("unacknowledged") == cap


def test_a5_progress_keeps_the_acknowledgement(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    for _ in range(4):
        half.run(half.now_ms + 20 * MINUTE)
        half.do("note", text="looking at the features of Tuesday")
    assert "unacknowledged" not in half.reasons()


def test_a8_after_the_last_repeat_the_fallback_is_paged_until_somebody_answers(half: "Half") -> None:
    half.fire("pii_leak")
    half.run(half.start_ms + 3 * HOUR)
    assert [act.name for act in half.acts if act.kind == "mark"][:1] == ["escalation_exhausted"]
    first, *later = [message.decided_at_ms for message in half.sent(purpose="fallback")]
    assert first == half.start_ms + HOUR
    assert [at - first for at in later] == [HOUR, 2 * HOUR]
    half.do("ack")
    half.attempts.clear()
    half.run(half.now_ms + 25 * MINUTE)
    assert not half.sent(purpose="fallback")


def test_a_sev_2_that_is_days_old_still_escalates(half: "Half") -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 3 * DAY + HOUR, 10 * MINUTE)
    last = half.sent(purpose="fallback")[-1]
    assert last.decided_at_ms > half.start_ms + 2 * DAY


def test_gitlab_323139_an_edited_policy_touches_new_incidents_only(
    make_half: Callable[..., "Half"], response: Response
) -> None:
    half = make_half()
    half.tick()
    half.fire("pii_leak")
    first = response.policy.severities["1"]
    edited = replace(
        response.policy, severities={**response.policy.severities, "1": replace(first, steps=first.steps[-1:])}
    )
    half.response = replace(response, policy=edited)
    half.make()
    half.run(half.start_ms + 6 * MINUTE)
    assert half.sent(target="team:ml-secondary")


def test_a_raise_reaches_those_whom_an_acknowledgement_had_stopped(half: "Half") -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 4 * MINUTE)
    half.do("ack")
    half.attempts.clear()
    half.do("raise", actor="bob", to=Severity.CRITICAL, reason="harm confirmed")
    assert {message.target for message in half.sent(mode="page")} >= {"team:ml-oncall", "role:ciso"}


def test_updates_come_at_most_once_an_interval(half: "Half") -> None:
    half.fire("pii_leak")
    half.do("ack")
    half.attempts.clear()
    for lane in range(20):
        half.run(half.now_ms + 30_000, 30_000)
        half.fire("pii_leak", lane=f"lane-{lane}")
    half.run(half.start_ms + 12 * MINUTE)
    updates = half.sent(target="team:ml-oncall", reason=MessageReason.NEW_FINDINGS)
    assert 1 <= len(updates) <= 3


def test_a_resolution_by_a_person_does_not_say_that_findings_have_cleared_which_fire(half: "Half") -> None:
    half.fire("accuracy_below_sla")
    half.run(half.start_ms + 5 * MINUTE)
    half.do("resolve", actor="ann", reason="rolled back", resolution="fixed")
    half.run(half.now_ms + 2 * MINUTE)
    told = half.sent(purpose="resolve")
    assert told
    assert {message.reason for message in told} == {MessageReason.STATUS_CHANGED}


def test_a_resolution_by_a_person_is_told_with_his_reason_also_when_all_has_cleared(half: "Half") -> None:
    found = half.fire("accuracy_below_sla")
    half.run(half.start_ms + 5 * MINUTE)
    half.clear(found)
    half.do("resolve", actor="ann", reason="eta <restarted>", resolution="rolled_back")
    half.run(half.now_ms + 2 * MINUTE)
    told = half.sent(purpose="resolve")
    assert told
    assert {message.reason for message in told} == {MessageReason.STATUS_CHANGED}
    assert all("\nResolved by ann as rolled back: eta (restarted)\n" in message.text for message in told)


def test_an_update_names_the_new_kind_first_to_whom_was_told_of_the_old_one(half: "Half") -> None:
    for lane in range(8):
        half.fire("feature_corruption", lane=f"hub={lane}")
    half.run(half.start_ms + 5 * MINUTE)
    half.do("ack")
    half.do("contain", containment_kind="input_block", waiver="the feed is gone")
    half.run(half.now_ms + 40 * MINUTE)
    half.attempts.clear()
    half.fire("error_above_baseline")
    half.run(half.now_ms + 40 * MINUTE)
    told = half.sent(target="team:ml-oncall", reason=MessageReason.NEW_FINDINGS)
    assert told
    for message in told:
        assert "More of the model's answers are wrong than usual." in message.title
        assert "\nAs before: The model is given broken input.\n" in message.text
        assert next(line for line in message.text.split("\n") if line.startswith("- ")).startswith(
            "- error above baseline"
        )
