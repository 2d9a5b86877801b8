"""How does a service send its outputs and labels so that they meet? Partitioner, batching, bounds and errors as they must be.

    from schemas.output import Output
    from streams.runtime.producer import Rows

    with Rows(settings.kafka, rows_a_message=100, age_ms=200, wait_ms=5_000) as rows:
        rows.send(Output(prediction_id=request_id, model="fraud", made_at_ms=now_ms, prediction="1", score=0.93))

What is right by construction here, and what a producer in another language has to do itself:

- the key is the prediction id in UTF-8, the partition murmur2 of it, as in Java's producer (in librdkafka
  `partitioner=murmur2_random`; its default is another, and then labels never find their outputs);
- a message of many rows holds rows of one partition only, is sent there explicitly, and has its first row's id as key;
- writes are idempotent and acknowledged by all in-sync replicas; a refused or unacknowledged one is an error, not a
  silence;
- a row that the join would refuse is refused here, where its maker can see it.
"""

import time
from types import TracebackType
from typing import Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from config.settings import KafkaSettings
from schemas.label import Label
from schemas.output import Output
from streams.runtime import kafka
from streams.runtime.many_rows import ManyRows
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import LABELS, OUTPUTS, route

LOOK_S = 0.05
"""How often a full queue is looked at again."""


class NotAcknowledgedError(Exception):
    """The brokers did not take all rows: the message says how many and why. What was sent may be sent again."""


class WrongPartitionsError(Exception):
    """The topics are cut otherwise than the settings say: labels would miss their outputs."""


class Rows:
    """Sends outputs and labels.

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

    Raises
    ------
    WrongPartitionsError
        Before the first row.
    """

    def __init__(
        self, settings: KafkaSettings, *, rows_a_message: int, age_ms: int, wait_ms: int, **client: str | int
    ) -> None:
        self._prefix = settings.topic_prefix
        self._rows_a_message = rows_a_message
        self._age_s = age_ms / 1000
        self._wait_s = wait_ms / 1000
        self._partitions = settings.input_partitions
        self._many = ManyRows(partitions=self._partitions, most_rows=rows_a_message)
        self._oldest_s: float | None = None
        self._refused: KafkaError | None = None
        self._failed = 0
        self._waiting = 0
        self.acknowledged = 0
        """Messages that all in-sync replicas hold."""
        self._producer: Producer = kafka.producer(settings, "rows", None, **client)
        for name in (OUTPUTS, LABELS):
            full = self._prefix + name
            count = len(self._producer.list_topics(full, timeout=self._wait_s).topics[full].partitions)
            if count != self._partitions:
                raise WrongPartitionsError(f"{full} has {count} partitions, the settings say {self._partitions}")

    def send(self, row: Output | Label) -> None:
        """Take a row; it is on its way when enough have come, or when `age_ms` have passed.

        Raises
        ------
        MalformedRecordError
            The join would refuse this row.
        NotAcknowledgedError
            There was no room in time, or the brokers have refused rows since the last call.
        """
        type(row).decode(row.encode())
        self._look()
        if self._rows_a_message == 1:
            self._produce(route(row, self._partitions))
            return
        now_s = time.monotonic()
        if self._oldest_s is None:
            self._oldest_s = now_s
        message = self._many.add(row)
        if message is not None:
            self._produce(message)
        if now_s - self._oldest_s >= self._age_s:
            self._produce_rest()

    def flush(self) -> None:
        """Send what waits, and return when all is acknowledged.

        Raises
        ------
        NotAcknowledgedError
            Not all of it, in time.
        """
        self._produce_rest()
        self._producer.flush(self._wait_s)
        self._look()
        if self._waiting:
            raise NotAcknowledgedError(f"{self._waiting} messages were not acknowledged in {self._wait_s} s")

    def _produce_rest(self) -> None:
        self._oldest_s = None
        for message in self._many.rest():
            self._produce(message)

    def _produce(self, routed: Routed) -> None:
        assert routed.partition is not None, "inputs are sent to a partition"
        deadline_s = time.monotonic() + self._wait_s
        while True:
            try:
                self._producer.produce(
                    self._prefix + routed.topic, routed.value, routed.key, routed.partition, on_delivery=self._report
                )
            except BufferError:
                if time.monotonic() >= deadline_s:
                    raise NotAcknowledgedError(f"no room for a message in {self._wait_s} s") from None
                self._producer.poll(LOOK_S)
                continue
            self._waiting += 1
            return

    def _report(self, error: KafkaError | None, _: Message) -> None:
        self._waiting -= 1
        if error is None:
            self.acknowledged += 1
        else:
            self._failed += 1
            self._refused = error

    def _look(self) -> None:
        self._producer.poll(0)
        if self._refused is not None:
            failed, refused = self._failed, self._refused
            self._failed, self._refused = 0, None
            raise NotAcknowledgedError(f"{failed} messages: {refused.str()}") from KafkaException(refused)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.flush()


def output_of(fields: dict[str, object]) -> Output:
    """Make an output of plain values, or say which one is wrong.

    >>> output_of({"prediction_id": "p1", "model": "fraud", "made_at_ms": 7, "prediction": 1}).model
    'fraud'
    """
    return Output.decode(msgspec.json.encode(fields))


def label_of(fields: dict[str, object]) -> Label:
    """Make a label of plain values, or say which one is wrong.

    >>> label_of({"prediction_id": "p1", "model": "fraud", "labelled_at_ms": 7, "label": "rumour", "source": "rumour"})
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: label.source: expected one of its allowed names ..., got a text of 6 characters
    """
    return Label.decode(msgspec.json.encode(fields))
