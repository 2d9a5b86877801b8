"""How does a service send its outputs and labels so that they meet? Partitioner, batching, bounds and errors as they must be.

    with Rows(settings.kafka, rows_a_message=1, age_ms=200, wait_ms=5_000) as rows:
        rows.send(Output(prediction_id=request_id, model="fraud", made_at_ms=now_ms, prediction=1, score=0.93))

What is right by construction here, and what a producer in another language has to do itself (`docs/producers.md`):

- the key is the prediction id in UTF-8, the partition murmur2 of it, as in Java's producer (in librdkafka
  `partitioner=murmur2_random`; its default is another, and then labels never find their outputs);
- a message of many rows holds rows of one partition only, is sent there explicitly, and has its first row's id as key;
- writes are idempotent and acknowledged by all in-sync replicas; each row that was taken is acknowledged, on its way, or
  handed back once to be sent again: nothing is lost in silence;
- a row that the join would refuse is refused here, where its maker can see it.
"""

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from config.settings import KafkaSettings
from schemas.fields import counted
from streams.runtime import kafka
from streams.runtime.many_rows import Bundled, ManyRows, Row
from streams.runtime.topics import LABELS, OUTPUTS

LOOK_S = 0.05
"""How often a full queue is looked at again."""

log = logging.getLogger("tocsin.producer")


class NotAcknowledgedError(Exception):
    """The brokers did not take these rows. What to do: send them again, under the same ids it changes nothing twice.

    Parameters
    ----------
    rows
        Those that are handed back.
    why
        What became of the first of them.
    """

    def __init__(self, rows: Sequence[Row], why: str) -> None:
        self.rows = tuple(rows)
        super().__init__(f"{counted(len(rows), 'row')} not acknowledged: {why}")


class WrongPartitionsError(Exception):
    """The topics are cut otherwise than the settings say: labels would miss their outputs. `tocsin topics check` helps."""


class Rows:
    """Sends outputs and labels; threads may share it, but not processes: make it after a fork.

    Parameters
    ----------
    settings
        Where the topics are; the counts of their partitions are compared with the brokers'.
    rows_a_message
        Rows of one message at most; 1 sends each by itself.
    age_ms
        How long a row may wait for others; looked at whenever a row is sent, so that a service which falls silent calls
        `flush`.
    wait_ms
        How long `send` may wait for room in the queue, and `flush` for acknowledgements.
    client
        Further settings of librdkafka, for instance `**{"linger.ms": 50}`.

    Raises
    ------
    WrongPartitionsError
        Before the first row.
    KafkaException
        No broker answers.
    """

    def __init__(
        self, settings: KafkaSettings, *, rows_a_message: int, age_ms: int, wait_ms: int, **client: str | int
    ) -> None:
        self._prefix = settings.topic_prefix
        self._age_s = age_ms / 1000
        self._wait_s = wait_ms / 1000
        self._many = ManyRows(partitions=settings.input_partitions, most_rows=rows_a_message)
        self._lock = threading.Lock()
        self._oldest_s: float | None = None
        self._numbers = itertools.count()
        self._on_their_way: dict[int, tuple[Row, ...]] = {}
        self._refused: list[Row] = []
        self._why = ""
        self.acknowledged_rows = 0
        """Rows that all in-sync replicas hold."""
        self.acknowledged_messages = 0
        """Messages in which they are."""
        self._producer: Producer = kafka.producer(settings, "rows", None, **client)
        for name in (OUTPUTS, LABELS):
            full = self._prefix + name
            found = self._producer.list_topics(full, timeout=settings.request_wait_ms / 1000).topics[full]
            if len(found.partitions) != settings.input_partitions:
                raise WrongPartitionsError(
                    f"{full} has {len(found.partitions)} partitions, the settings say {settings.input_partitions}: labels "
                    "would miss their outputs. `tocsin topics check` says what to do"
                )

    def send(self, row: Row) -> None:
        """Take a row; it is on its way when enough have come, or when `age_ms` have passed.

        Raises
        ------
        MalformedRecordError
            The join would refuse this row; it was not taken.
        NotAcknowledgedError
            Rows that were taken, this one or others, will not arrive by themselves: they are handed back in it.
        """
        with self._lock:
            full = self._many.add(row)
            now_s = time.monotonic()
            if self._oldest_s is None:
                self._oldest_s = now_s
            if now_s - self._oldest_s >= self._age_s:
                full += self._rest()
            for bundled in full:
                self._produce(bundled)
            self._producer.poll(0)
            if self._refused:
                raise NotAcknowledgedError(self._handed_back(), self._why)

    def flush(self) -> list[Row]:
        """Send what waits, and return the rows that are not acknowledged within `wait_ms`: none, when all is well.

        They are handed back, and no error will name them again: send them again, or keep them.
        """
        with self._lock:
            for bundled in self._rest():
                self._produce(bundled)
            self._producer.flush(self._wait_s)
            if self._on_their_way:
                self._refuse(list(self._on_their_way), f"no answer in {self._wait_s:g} s")
            left = self._handed_back()
        if left:
            log.error("rows.not_acknowledged rows=%d reason=%s", len(left), self._why)
        return left

    def _rest(self) -> list[Bundled]:
        self._oldest_s = None
        return self._many.rest()

    def _produce(self, bundled: Bundled) -> None:
        message = bundled.message
        assert message.partition is not None, "inputs are sent to a partition"
        number = next(self._numbers)
        self._on_their_way[number] = bundled.rows
        deadline_s = time.monotonic() + self._wait_s
        while True:
            try:
                self._producer.produce(
                    self._prefix + message.topic,
                    message.value,
                    message.key,
                    message.partition,
                    on_delivery=partial(self._report, number),
                )
            except BufferError:
                if time.monotonic() < deadline_s:
                    self._producer.poll(LOOK_S)
                    continue
                self._refuse([number], f"no room for a message in {self._wait_s:g} s")
            except KafkaException as error:
                self._refuse([number], error.args[0].str())
            return

    def _report(self, number: int, error: KafkaError | None, _: Message) -> None:
        if number not in self._on_their_way:
            return  # its rows were handed back: they are somebody else's now
        if error is not None:
            self._refuse([number], error.str())
            return
        self.acknowledged_rows += len(self._on_their_way.pop(number))
        self.acknowledged_messages += 1

    def _refuse(self, numbers: Sequence[int], why: str) -> None:
        if not self._refused:
            self._why = why
        for number in numbers:
            self._refused += self._on_their_way.pop(number)

    def _handed_back(self) -> list[Row]:
        refused, self._refused = self._refused, []
        return refused

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        left = self.flush()
        if left:
            raise NotAcknowledgedError(left, self._why)
