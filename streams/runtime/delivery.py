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
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # a broker that has just come back may not have heard of it yet
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
    }
)
"""What says that the brokers could not, not that they would not: written again under the same key it changes nothing."""

_FORGOTTEN = KafkaError(KafkaError.DUPLICATE_SEQUENCE_NUMBER)
"""A repeat of a batch whose place the broker no longer knows: the client gives its first record none, and numbers the
others from 0."""


class UndeliveredError(Exception):
    """The brokers did not take a record in time. What to do: see whether they run; then start this worker again."""


class Delivery:
    """Writes records and waits for their acknowledgement.

    Parameters
    ----------
    producer
        An idempotent one, with acks by all replicas; nobody else writes with it. It gives a record up after its own
        `delivery.timeout.ms`: then the record is written again.
    topic_prefix
        What the names of this deployment's topics begin with.
    alive
        Called while waiting, at least every `LOOK_S` seconds. What it raises ends the wait.
    """

    def __init__(self, producer: Producer, *, topic_prefix: str, alive: Callable[[], None]) -> None:
        self._producer = producer
        self._prefix = topic_prefix
        self._alive = alive
        self.repeated = 0
        """Records that were written again, since their acknowledgement did not come in time."""
        self.answered_s = time.monotonic()
        """When the brokers last acknowledged something."""

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged yet."""
        return len(self._producer)

    def deliver(self, records: Sequence[Routed], wait_ms: int | None = None) -> list[int]:
        """Write records, and return the offset of each when all are acknowledged.

        Parameters
        ----------
        wait_ms
            How long that may take, where somebody waits for us; None for as long as the brokers are away.

        Raises
        ------
        UndeliveredError
            The bound has passed.
        KafkaException
            The brokers refused one for good: too large, not allowed.
        """
        deadline = None if wait_ms is None else time.monotonic() + wait_ms / 1000
        try:
            return self._delivered(records, deadline)
        except BaseException:
            self._producer.purge()  # what is not sent yet must not be sent behind what its writer does next
            self._producer.poll(0)
            raise

    def _delivered(self, records: Sequence[Routed], deadline: float | None) -> list[int]:
        offsets = [-1] * len(records)
        left = list(range(len(records)))
        while left:
            failed: list[tuple[int, KafkaError]] = []
            waiting = self._write(records, left, offsets, failed, deadline)
            for _, error in failed:
                if error.fatal() or error.code() not in _AGAIN:
                    raise KafkaException(error)
            if not any(error is _FORGOTTEN for _, error in failed):  # else the places of others are not true either
                left = [at for at, _ in failed]
            if waiting or (left and _is_over(deadline)):
                why = failed[0][1].name() if failed else "no answer"
                raise UndeliveredError(f"{waiting or len(left)} of {len(records)} records are not acknowledged: {why}")
            self.repeated += len(left)
        return offsets

    def _write(
        self,
        records: Sequence[Routed],
        at: Sequence[int],
        offsets: list[int],
        failed: list[tuple[int, KafkaError]],
        deadline: float | None,
    ) -> int:
        """Write some records once; return how many were not reported before the deadline."""
        reported = 0

        def report_of(place: int) -> Callable[[KafkaError | None, Message], None]:
            def report(error: KafkaError | None, message: Message) -> None:
                nonlocal reported
                reported += 1
                offset = message.offset()
                if error is not None or offset is None:
                    failed.append((place, error or _FORGOTTEN))
                    return
                offsets[place] = offset
                self.answered_s = time.monotonic()

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
                    if _is_over(deadline):
                        return len(at) - reported
                    self._look()
        while reported < len(at) and not _is_over(deadline):
            self._look()
        return len(at) - reported

    def _look(self) -> None:
        self._producer.flush(LOOK_S)
        self._alive()


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
