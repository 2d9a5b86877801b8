"""Who makes the attempts, so that no agent waits for the world?

A bounded number of tasks, one for each incident and destination. Each attempt ends in exactly one receipt; one that a
crash swallows has none, and notify finds it again by its deadline.
"""

import asyncio
import logging
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping

from schemas.receipt import AnswerClass, Receipt, ReceiptStatus
from schemas.response import SenderSettings
from streams.runtime import logs
from streams.runtime.channels.channel import Answer, Channel
from streams.runtime.metrics import Measure, named
from streams.stages.notify import Attempt

log = logging.getLogger("tocsin.sender")

_STATUS: Mapping[AnswerClass, ReceiptStatus] = {
    "ok": "delivered",
    "accepted": "accepted",
    "retry": "retrying",
    "shrink": "retrying",
    "disable": "retrying",
    "permanent": "dead",
}


def wall_ms() -> int:
    """Return the wall clock's time."""
    return time.time_ns() // 1_000_000


class Sender:
    """Makes attempts by the channels it is given, and hands each one's receipt to `deliver`."""

    def __init__(
        self,
        *,
        channels: Mapping[str, Channel],
        settings: SenderSettings,
        deliver: Callable[[Receipt], Awaitable[None]],
        wall_clock_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._channels = channels
        self._settings = settings
        self._deliver = deliver
        self._wall_ms = wall_clock_ms
        self._turns = asyncio.Semaphore(settings.in_flight_limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._places: set[tuple[str, str]] = set()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._is_closed = False

    @property
    def in_hand(self) -> int:
        """Attempts that wait or are on their way."""
        return len(self._tasks)

    def measures(self) -> Iterator[Measure]:
        """Tell what there is to measure; asked from any thread."""
        yield Measure("tocsin_attempts_in_hand", (), self.in_hand)
        for labels, count in list(self._ended.items()):
            yield Measure("tocsin_attempts_total", labels, count)

    def submit(self, attempt: Attempt) -> None:
        """Take an attempt; it does not wait."""
        task = asyncio.create_task(self._make(attempt, self._why_not()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _why_not(self) -> str:
        """Say why nothing more is taken; empty where it is."""
        if self._is_closed:
            return "worker_stops"
        is_full = len(self._tasks) >= self._settings.in_flight_limit + self._settings.waiting_limit
        return "sender_full" if is_full else ""

    async def _make(self, attempt: Attempt, why_not: str) -> None:
        began_s = time.monotonic()
        place = (attempt.notification.incident_id, attempt.notification.destination)
        if why_not:
            answer = Answer(answer_class="retry", reason=why_not)
        elif place in self._places:
            answer = Answer(answer_class="retry", reason="still_on_its_way")
        else:
            self._places.add(place)
            try:
                answer = await self._in_turn(attempt)
            finally:
                self._places.discard(place)
        took_ms = int((time.monotonic() - began_s) * 1000)
        receipt = self._receipt(attempt, answer, took_ms)
        channel = named(receipt.channel, self._channels)
        logs.tell(
            log,
            f"notification.{receipt.status}",
            {
                "id": receipt.notification_id,
                "channel": channel,
                "attempt": receipt.attempt,
                "reason": receipt.reason,
            },
        )
        self._ended[channel, receipt.status] += 1
        try:
            await self._deliver(receipt)
        except Exception:  # the attempt then counts as lost, and is made again when its time is over
            log.exception("receipt.not_written id=%s attempt=%d", receipt.notification_id, receipt.attempt)

    async def _in_turn(self, attempt: Attempt) -> Answer:
        try:
            async with asyncio.timeout(self._settings.turn_wait_ms / 1000):
                await self._turns.acquire()
        except TimeoutError:
            return Answer(answer_class="retry", reason="sender_busy")
        try:
            return await self._by_channel(attempt)
        finally:
            self._turns.release()

    async def _by_channel(self, attempt: Attempt) -> Answer:
        channel = self._channels.get(attempt.notification.channel)
        if channel is None:
            return Answer(answer_class="permanent", reason="unknown_channel")
        try:
            async with asyncio.timeout(self._settings.attempt_timeout_ms / 1000):
                return await channel.send(attempt, self._wall_ms())
        except TimeoutError:
            return Answer(answer_class="retry", reason="timeout")
        except Exception as error:  # noqa: BLE001 -- a fault of the channel must not stop the others
            last = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400 -- its text may quote an address or a message
                "channel.failed channel=%s fault=%s where=%s:%s",
                attempt.notification.channel,
                type(error).__name__,
                last.filename,
                last.lineno,
            )
            return Answer(answer_class="retry", reason=f"channel_fault_{type(error).__name__}")

    def _receipt(self, attempt: Attempt, answer: Answer, took_ms: int) -> Receipt:
        message = attempt.notification
        return Receipt(
            notification_id=message.notification_id,
            incident_id=message.incident_id,
            model=message.model,
            target=message.target,
            channel=message.channel,
            episode=message.episode,
            mode=message.mode,
            attempt=attempt.number,
            answer_class=answer.answer_class,
            status=_STATUS[answer.answer_class],
            reason=answer.reason,
            code=answer.code,
            provider_id=answer.provider_id,
            retry_after_ms=answer.retry_after_ms,
            at_ms=self._wall_ms(),
            decided_at_ms=attempt.decided_at_ms + took_ms,
            body=answer.body,
        )

    async def settle(self) -> None:
        """Wait until nothing is in hand; for tests and an orderly end."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """End: wait a bounded time for what is on its way; the rest counts as lost. What is submitted later is not tried."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.close_wait_ms / 1000)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
