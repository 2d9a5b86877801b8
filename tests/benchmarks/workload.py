"""What is read in the benchmarks of the join? Outputs of 214 bytes, or of 691 with 20 features, and labels of 94.

Ten outputs a millisecond of event time, up to a second out of order. Five in six get a label, uniformly between half of
`label_delay_ms` and the whole, and one of those in 128 the same label twice; a label is wrong about one output in 20. All
follows from the number of a row, so that every row is the same in every run, in every shape, and for whoever else does
the same job.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from config.settings import KafkaSettings
from streams.runtime import kafka
from streams.runtime.topics import OUTPUTS

START_MS = 1_750_000_000_000
OUTPUTS_A_MS = 10
JITTER_MS = 1_000
AGAIN_MS = 1_000
"""How long after the first the same label comes again."""
MODEL, VERSION = "risk", "2026.11.24-7f3a9c21b"
REGIONS = tuple(f"eu-central-frankfurt{zone}" for zone in "1234")
NUMERIC = tuple(f"amount_of_{number:02}" for number in range(16))
CATEGORICAL = tuple(f"channels_{number:02}" for number in range(4))
LATENCY_MS = 12.503906
VALUES = 9
"""Values of a categorical feature."""
BLOCK_ROWS = 40_000
"""Rows that are made, written and acknowledged at a time."""
FLUSH_WAIT_S = 120.0
DELIVERY_WAIT_MS = 120_000

Topic = Literal["model-outputs", "labels"]
TOPICS: tuple[Topic, ...] = ("model-outputs", "labels")
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Which rows, and in which messages.

    Parameters
    ----------
    outputs
        How many; labels are 0.84 times as many.
    features
        How many of the 20 an output has: 16 numbers, then 4 names; beyond 20, further numbers.
    lanes
        Values of the segment, of each model.
    models
        How many, to which outputs go by chance.
    label_delay_ms
        The longest.
    labels_one_in
        Only one label in so many is written.
    first
        Number of the first output; numbers say when an output was made.
    rows_a_message
        1, or how many rows of one partition make a message of columns.
    """

    outputs: int
    features: int = 0
    lanes: int = len(REGIONS)
    models: int = 1
    label_delay_ms: int = 50_000
    labels_one_in: int = 1
    first: int = 0
    rows_a_message: int = 1

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the numeric and of the categorical features."""
        further = tuple(f"amount_of_{number:02}" for number in range(len(NUMERIC), self.features - len(CATEGORICAL)))
        return (*NUMERIC[: self.features], *further), CATEGORICAL[: max(self.features - len(NUMERIC), 0)]

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models."""
        return (MODEL, *(f"{MODEL}-{number}" for number in range(2, self.models + 1)))

    @property
    def regions(self) -> tuple[str, ...]:
        """Values of the segment."""
        return (
            REGIONS
            if self.lanes == len(REGIONS)
            else tuple(f"eu-central-zone-{number:05}" for number in range(self.lanes))
        )

    def labels(self) -> tuple[Ints, Ints]:
        """Return the output of each label, and its time in ms, in the order in which they come."""
        of = self.first + np.arange(self.outputs)
        chance = _mixed(of, 3)
        of = of[chance % np.uint64(6) != 0]
        of = of[_mixed(of, 8) % np.uint64(self.labels_one_in) == 0]
        delay = self.label_delay_ms // 2 + (_mixed(of, 4) % np.uint64(self.label_delay_ms // 2 + 1)).astype(np.int64)
        at_ms = made_at_ms(of) + delay
        again = _mixed(of, 5) % np.uint64(128) == 0
        at_ms = np.concatenate([at_ms, at_ms[again] + AGAIN_MS])
        of = np.concatenate([of, of[again]])
        order = np.argsort(at_ms, kind="stable")
        return of[order], at_ms[order]

    def places(self, topic: Topic) -> Iterator[tuple[Ints, Ints]]:
        """Give the rows of a topic, block by block: of which output each is, and its time in ms."""
        if topic == OUTPUTS:
            for start in range(0, self.outputs, BLOCK_ROWS):
                numbers = self.first + np.arange(start, min(start + BLOCK_ROWS, self.outputs))
                yield numbers, made_at_ms(numbers)
        else:
            of, at_ms = self.labels()
            for start in range(0, len(of), BLOCK_ROWS):
                yield of[start : start + BLOCK_ROWS], at_ms[start : start + BLOCK_ROWS]

    def blocks(self, topic: Topic) -> Iterator[tuple[list[str], list[bytes]]]:
        """Give the rows of a topic, block by block: ids, and the JSON of each."""
        for numbers, at_ms in self.places(topic):
            yield _ids(numbers), self.texts(topic, numbers, at_ms)

    def texts(self, topic: Topic, numbers: Ints, at_ms: Ints) -> list[bytes]:
        """Return the JSON of each row."""
        if topic != OUTPUTS:
            line = '{"prediction_id":"%s","model":"%s","labelled_at_ms":%d,"label":"%d"}'
            texts = zip(_ids(numbers), self._model(numbers), at_ms.tolist(), truths(numbers).tolist(), strict=True)
            return [(line % row).encode() for row in texts]
        columns: list[Sequence[object]] = [
            _ids(numbers),
            self._model(numbers),
            at_ms.tolist(),
            answers(numbers).tolist(),
            scores(numbers).tolist(),
            self._region(numbers),
        ]
        line = (
            f'{{"prediction_id":"%s","model":"%s","version":"{VERSION}","made_at_ms":%d,"prediction":"%d",'
            f'"score":0.%06d,"latency_ms":{LATENCY_MS},"segments":{{"region":"%s"}}'
        )
        if self.features:
            numeric, categorical = self.names
            drawn = [*(f'"{name}":%d.%04d' for name in numeric), *(f'"{name}":"value-%d"' for name in categorical)]
            line += ',"features":{' + ",".join(drawn) + "}"
            for at in range(len(numeric)):
                number = amounts(numbers, at)
                columns += [(number // 10_000).tolist(), (number % 10_000).tolist()]
            columns += [values(numbers, at).tolist() for at in range(len(categorical))]
        text = line + "}"
        return [(text % row).encode() for row in zip(*columns, strict=True)]

    def tables(self, topic: Topic, numbers: Ints, at_ms: Ints) -> list[tuple[str, bytes]]:
        """Put rows of one partition into messages of columns, each with its key: the same values as in `texts`."""
        ids, many = _ids(numbers), self.rows_a_message
        columns: dict[str, list[Any]] = {"prediction_id": ids, "model": self._model(numbers)}
        if topic == OUTPUTS:
            columns["version"] = [VERSION] * len(ids)
            columns["made_at_ms"] = at_ms.tolist()
            columns["prediction"] = ["01"[answer] for answer in answers(numbers).tolist()]
            columns["score"] = (scores(numbers) / 1_000_000).tolist()
            columns["latency_ms"] = [LATENCY_MS] * len(ids)
            columns["segments.region"] = self._region(numbers)
            numeric, categorical = self.names
            for at, name in enumerate(numeric):
                columns[f"features.{name}"] = (amounts(numbers, at) / 10_000).tolist()
            for at, name in enumerate(categorical):
                columns[f"features.{name}"] = [f"value-{value}" for value in values(numbers, at).tolist()]
        else:
            columns["labelled_at_ms"] = at_ms.tolist()
            columns["label"] = ["01"[truth] for truth in truths(numbers).tolist()]
        return [
            (ids[at], _message({name: column[at : at + many] for name, column in columns.items()}))
            for at in range(0, len(ids), many)
        ]

    def region_codes(self, numbers: Ints) -> npt.NDArray[np.int32]:
        """Return which value of the segment each output has."""
        return (_mixed(numbers, 6) % np.uint64(self.lanes)).astype(np.int32)

    def _model(self, numbers: Ints) -> list[str]:
        names = self.model_names
        if self.models == 1:
            return [*names] * len(numbers)
        return [names[at] for at in (_mixed(numbers, 9) % np.uint64(self.models)).tolist()]

    def _region(self, numbers: Ints) -> list[str]:
        regions = self.regions
        return [regions[at] for at in self.region_codes(numbers).tolist()]


def made_at_ms(numbers: Ints) -> Ints:
    """Return when outputs were made."""
    return START_MS + numbers // OUTPUTS_A_MS - (_mixed(numbers, 2) % np.uint64(JITTER_MS)).astype(np.int64)


def scores(numbers: Ints) -> Ints:
    """Return scores, in millionths."""
    return (_mixed(numbers, 1) % np.uint64(1_000_000)).astype(np.int64)


def answers(numbers: Ints) -> Ints:
    """Return the classes that the model answers."""
    return (scores(numbers) >= 500_000).astype(np.int64)


def truths(numbers: Ints) -> Ints:
    """Return the classes that turn out to be true."""
    is_wrong = (_mixed(numbers, 7) % np.uint64(20) == 0).astype(np.int64)
    found: Ints = answers(numbers) ^ is_wrong
    return found


def amounts(numbers: Ints, feature: int) -> Ints:
    """Return a numeric feature, in ten-thousandths."""
    return (_mixed(numbers, 100 + feature) % np.uint64(900_000)).astype(np.int64) + 100_000


def values(numbers: Ints, feature: int) -> Words:
    """Return the number of a categorical feature's value."""
    return _mixed(numbers, 1000 + feature) % np.uint64(VALUES)


def _message(columns: Mapping[str, Sequence[object]]) -> bytes:
    return orjson.dumps({"schema": 1, "rows": len(columns["prediction_id"]), "columns": columns})


def _mixed(numbers: Ints, stream: int) -> Words:
    """Draw 64 bits for each number."""
    words = numbers.astype(np.uint64) + np.uint64(stream * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))


def _ids(numbers: Ints) -> list[str]:
    text = _mixed(numbers, 11).tobytes().hex()
    return [text[at : at + 16] for at in range(0, len(text), 16)]


def partitions_of(ids: Sequence[str], partitions: int) -> Ints:
    """Return the partitions of ids of 16 letters, as Kafka's murmur2 places them.

    >>> from streams.runtime.topics import partition_of_id
    >>> ids = _ids(np.arange(3))
    >>> partitions_of(ids, 4).tolist() == [partition_of_id(one, 4) for one in ids]
    True
    """
    words = np.frombuffer("".join(ids).encode(), "<u4").reshape(len(ids), 4)
    factor = np.uint32(0x5BD1E995)
    found = np.full(len(ids), 0x9747B28C ^ 16, np.uint32)
    for column in words.T:
        word = column * factor
        word ^= word >> np.uint32(24)
        found = (found * factor) ^ (word * factor)
    found ^= found >> np.uint32(13)
    found *= factor
    found ^= found >> np.uint32(15)
    return (found & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def load(cluster: KafkaSettings, workload: Workload) -> dict[Topic, Ints]:
    """Write a workload to its topics, which are there; return how many rows of it each partition has.

    Raises
    ------
    AssertionError
        The brokers did not take it in time.
    """
    producer = kafka.producer(cluster, "bench-load", None, **{"delivery.timeout.ms": DELIVERY_WAIT_MS})
    return {topic: _load(producer, cluster, workload, topic) for topic in TOPICS}


def _load(producer: Producer, cluster: KafkaSettings, workload: Workload, topic: Topic) -> Ints:
    name, many, partitions = cluster.topic_prefix + topic, workload.rows_a_message, cluster.input_partitions
    nothing = np.zeros(0, np.int64)
    waiting = [(nothing, nothing)] * partitions
    rows = np.zeros(partitions, np.int64)

    def write(partition: int, numbers: Ints, at_ms: Ints) -> None:
        if many == 1:
            keyed = zip(_ids(numbers), workload.texts(topic, numbers, at_ms), strict=True)
            messages = [{"key": key, "value": value} for key, value in keyed]
        else:
            messages = [{"key": key, "value": value} for key, value in workload.tables(topic, numbers, at_ms)]
        taken = producer.produce_batch(name, messages, partition)
        assert taken == len(messages), f"{name}[{partition}]: {len(messages) - taken} messages had no room"
        rows[partition] += len(numbers)

    def flush() -> None:
        left = producer.flush(FLUSH_WAIT_S)
        assert left == 0, f"{left} messages for {name} were not acknowledged in {FLUSH_WAIT_S} s"

    for numbers, at_ms in workload.places(topic):
        where = partitions_of(_ids(numbers), partitions)
        flush()  # what was written before; meanwhile the next was made
        for partition in range(partitions):
            before, mine = waiting[partition], where == partition
            joined = np.concatenate([before[0], numbers[mine]]), np.concatenate([before[1], at_ms[mine]])
            ready = len(joined[0]) // many * many
            write(partition, joined[0][:ready], joined[1][:ready])
            waiting[partition] = joined[0][ready:], joined[1][ready:]
    for partition, left in enumerate(waiting):
        if len(left[0]):
            write(partition, *left)
    flush()
    return rows
