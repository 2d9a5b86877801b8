"""Attempts and their receipts: bounded, each exactly one, whatever a channel does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.incident import Severity, Status
from schemas.notification import MessageReason, Notification
from schemas.receipt import AnswerClass, Receipt
from schemas.response import SenderSettings
from streams.runtime.channels.channel import Answer
from streams.runtime.metrics import Measure
from streams.runtime.sender import Sender
from streams.stages.notify import Attempt

SETTINGS = SenderSettings(
    in_flight_limit=3, waiting_limit=4, attempt_timeout_ms=200, turn_wait_ms=400, close_wait_ms=100
)
MESSAGE = Notification(
    notification_id="n",
    incident_id="i",
    display_id="INC-1",
    dedup_key="d",
    model="credit",
    seq=3,
    episode=2,
    cause="seq:3",
    cause_at_ms=1_000,
    decided_at_ms=1_000,
    purpose="page",
    reason=MessageReason.FIRST,
    mode="page",
    group="responders",
    target="team:ml-oncall",
    channel="test",
    address="a",
    severity=Severity.HIGH,
    status=Status.INVESTIGATING,
    title="t",
    text="t",
)


class Scripted:
    """A channel that does what it is told, and counts how many do it at a time."""

    def __init__(self, act: Callable[[], Awaitable[Answer]]) -> None:
        self.act = act
        self.now = self.most = 0
        self.closed = False

    async def send(self, _attempt: Attempt, _wall_ms: int) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.act()
        finally:
            self.now -= 1

    async def close(self) -> None:
        self.closed = True


def attempt(number: int, **what: Any) -> Attempt:  # noqa: ANN401 -- any field
    message = replace(MESSAGE, notification_id=f"n{number}", address=f"a{number}", **what)
    return Attempt(notification=message, number=1, details=True, decided_at_ms=5_000, late_by_ms=0)


def played(act: Callable[[], Awaitable[Answer]], attempts: list[Attempt]) -> tuple[list[Receipt], Scripted]:
    channel = Scripted(act)
    receipts: list[Receipt] = []

    async def deliver(receipt: Receipt) -> None:
        receipts.append(receipt)

    async def play() -> None:
        sender = Sender(channels={"test": channel}, settings=SETTINGS, deliver=deliver, wall_clock_ms=lambda: 77)
        for one in attempts:
            sender.submit(one)
        await sender.settle()
        assert sender.in_hand == 0
        await sender.close()

    asyncio.run(play())
    return receipts, channel


async def at_once() -> Answer:
    return Answer(answer_class="ok", reason="sent", code=200, provider_id="p1")


@pytest.mark.parametrize(
    ("means", "status"),
    [
        ("ok", "delivered"),
        ("accepted", "accepted"),
        ("retry", "retrying"),
        ("shrink", "retrying"),
        ("permanent", "dead"),
    ],
)
def test_an_attempt_ends_in_one_receipt_that_says_what_became_of_it(means: AnswerClass, status: str) -> None:
    async def act() -> Answer:
        return Answer(answer_class=means, reason="r", retry_after_ms=3_000)

    [receipt], channel = played(act, [attempt(1)])
    assert (receipt.answer_class, receipt.status, receipt.retry_after_ms) == (means, status, 3_000)
    assert (receipt.notification_id, receipt.attempt, receipt.episode, receipt.mode) == ("n1", 1, 2, "page")
    assert receipt.at_ms == 77
    assert receipt.decided_at_ms >= 5_000
    assert channel.closed


def test_only_so_many_are_on_their_way() -> None:
    async def act() -> Answer:
        await asyncio.sleep(0.02)
        return await at_once()

    receipts, channel = played(act, [attempt(number) for number in range(7)])
    assert channel.most == SETTINGS.in_flight_limit
    assert [receipt.status for receipt in receipts] == ["delivered"] * 7


def test_what_is_beyond_the_bound_is_answered_at_once() -> None:
    receipts, _ = played(at_once, [attempt(number) for number in range(9)])
    assert sorted(receipt.reason for receipt in receipts).count("sender_full") == 2
    assert len(receipts) == 9


def test_one_at_a_time_for_an_incident_and_destination() -> None:
    async def act() -> Answer:
        await asyncio.sleep(0.02)
        return await at_once()

    twins = [attempt(1), attempt(1)]
    receipts, channel = played(act, twins)
    assert sorted(receipt.reason for receipt in receipts) == ["sent", "still_on_its_way"]
    assert channel.most == 1


def test_a_channel_that_hangs_is_cut_off() -> None:
    async def act() -> Answer:
        await asyncio.sleep(30)
        return await at_once()

    receipts, _ = played(act, [attempt(number) for number in range(7)])
    assert {receipt.reason for receipt in receipts} <= {"timeout", "sender_busy"}
    assert {receipt.status for receipt in receipts} == {"retrying"}
    assert len(receipts) == 7


def test_a_fault_of_one_channel_does_not_stop_the_others() -> None:
    calls = iter(range(2))

    async def act() -> Answer:
        if next(calls) == 0:
            raise ZeroDivisionError
        return await at_once()

    receipts, _ = played(act, [attempt(1), attempt(2)])
    assert sorted(receipt.reason for receipt in receipts) == ["channel_fault_ZeroDivisionError", "sent"]


def test_an_unknown_channel_is_never_right() -> None:
    [receipt], _ = played(at_once, [attempt(1, channel="pigeon")])
    assert (receipt.status, receipt.reason) == ("dead", "unknown_channel")


def test_names_of_unknown_channels_are_counted_as_one() -> None:
    async def deliver(_: Receipt) -> None:
        pass

    async def play() -> list[Measure]:
        sender = Sender(channels={"test": Scripted(at_once)}, settings=SETTINGS, deliver=deliver)
        for at in range(5):
            sender.submit(attempt(at, channel=f"pigeon-{at}"))
        sender.submit(attempt(5, channel="test"))
        await sender.settle()
        return list(sender.measures())

    counted = [one for one in asyncio.run(play()) if one.name == "tocsin_attempts_total"]
    assert {one.labels: one.value for one in counted} == {("(other)", "dead"): 5, ("test", "delivered"): 1}


def test_closing_waits_for_a_bounded_time() -> None:
    receipts: list[Receipt] = []

    async def act() -> Answer:
        await asyncio.sleep(30)
        return await at_once()

    async def deliver(receipt: Receipt) -> None:
        receipts.append(receipt)

    async def play() -> None:
        sender = Sender(
            channels={"test": Scripted(act)},
            settings=replace(SETTINGS, attempt_timeout_ms=60_000),
            deliver=deliver,
        )
        sender.submit(attempt(1))
        await sender.close()

    asyncio.run(play())
    assert receipts == []  # it counts as lost, and is found again by its deadline


def test_what_is_submitted_to_a_closed_sender_is_not_tried_and_has_its_receipt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receipts: list[Receipt] = []
    channel = Scripted(at_once)

    async def deliver(receipt: Receipt) -> None:
        receipts.append(receipt)

    async def play() -> None:
        sender = Sender(channels={"test": channel}, settings=SETTINGS, deliver=deliver)
        await sender.close()
        sender.submit(attempt(1))
        await sender.settle()

    asyncio.run(play())
    assert [(one.status, one.reason) for one in receipts] == [("retrying", "worker_stops")]
    assert channel.most == 0
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
