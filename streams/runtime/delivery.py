"""When is something written? When the brokers have acknowledged it, all of it; before that nobody goes on."""

import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.runtime.stage_spec import Routed

LOOK_S = 0.2
"""How often a wait looks around, and gives a sign of life."""
_AGAIN = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001 - librdkafka's own codes have no other names
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)
"""What says that the brokers could not, not that they would not: written again under the same key it changes nothing."""


class UndeliveredError(Exception):
    """The brokers did not take a record in time. What to do: see whether they run; then start this worker again."""


class Delivery:
    """Writes records and waits for their acknowledgement.

    Parameters
    ----------
    producer
        An idempotent one, with acks by all replicas; nobody else writes with it.
    topic_prefix
        What the names of this deployment's topics begin with.
    outage_wait_ms
        How long the brokers may be away.
    alive
        Called while waiting, at least every `LOOK_S` seconds.
    """

    def __init__(
        self, producer: Producer, *, topic_prefix: str, outage_wait_ms: int, alive: Callable[[], None]
    ) -> None:
        self._producer = producer
        self._prefix = topic_prefix
        self._outage_wait_ms = outage_wait_ms
        self._alive = alive
        self.repeated = 0
        """Records that were written again, since their acknowledgement did not come in time."""

    def deliver(self, records: Sequence[Routed], wait_ms: int | None = None) -> list[int]:
        """Write records, and return the offset of each when all are acknowledged.

        Parameters
        ----------
        wait_ms
            A bound below the outage's, where somebody else waits for us.

        Raises
        ------
        UndeliveredError
            The bound has passed.
        KafkaException
            The brokers refused one for good: too large, not allowed.
        """
        bound_s = (self._outage_wait_ms if wait_ms is None else min(wait_ms, self._outage_wait_ms)) / 1000
        deadline = time.monotonic() + bound_s
        offsets = [-1] * len(records)
        left = list(range(len(records)))
        while left:
            failed: list[tuple[int, KafkaError]] = []
            waiting = self._write(records, left, offsets, failed, deadline)
            for _, error in failed:
                if error.fatal() or error.code() not in _AGAIN:
                    raise KafkaException(error)
            left = [at for at, _ in failed]
            if waiting or (left and time.monotonic() >= deadline):
                self._producer.purge()
                why = failed[0][1].name() if failed else "no answer"
                raise UndeliveredError(f"{waiting or len(left)} records in {bound_s} s: {why}")
            self.repeated += len(left)
        return offsets

    def _write(
        self,
        records: Sequence[Routed],
        at: Sequence[int],
        offsets: list[int],
        failed: list[tuple[int, KafkaError]],
        deadline: float,
    ) -> int:
        """Write some records once; return how many were not reported before the deadline."""
        reported = 0

        def report_of(place: int) -> Callable[[KafkaError | None, Message], None]:
            def report(error: KafkaError | None, message: Message) -> None:
                nonlocal reported
                reported += 1
                if error is not None:
                    failed.append((place, error))
                else:
                    offset = message.offset()
                    assert offset is not None, "an acknowledged record has its place"
                    offsets[place] = offset

            return report

        for place in at:
            record = records[place]
            while True:
                try:
                    self._producer.produce(
                        self._prefix + record.topic,
                        record.value,
                        record.key,
                        -1 if record.partition is None else record.partition,
                        on_delivery=report_of(place),
                        headers=list(record.headers),
                    )
                    break
                except BufferError:  # the queue is full: it empties by acknowledgements
                    if time.monotonic() >= deadline:
                        return len(at) - reported
                    self._look()
        while reported < len(at) and time.monotonic() < deadline:
            self._look()
        return len(at) - reported

    def _look(self) -> None:
        self._producer.flush(LOOK_S)
        self._alive()
