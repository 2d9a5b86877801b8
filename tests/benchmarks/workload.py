"""What is read in the benchmarks of the join? Outputs of 214 bytes, or of 691 with 20 features, and labels of 94.

Ten outputs a millisecond of event time, up to a second out of order. Five in six get a label, uniformly between half of
`label_delay_ms` and the whole, and one of those in 128 the same label twice; a label is wrong about one output in 20. All
follows from the number of a row, so that every row is the same in every run, in every shape, and for whoever else does
the same job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from config.settings import KafkaSettings
from schemas.model import Model
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
        Values of the segment.
    label_delay_ms
        The longest.
    rows_a_message
        1, or how many rows of one partition make a message of columns.
    """

    outputs: int
    features: int = 0
    lanes: int = len(REGIONS)
    label_delay_ms: int = 50_000
    rows_a_message: int = 1

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the numeric and of the categorical features."""
        further = tuple(f"amount_of_{number:02}" for number in range(len(NUMERIC), self.features - len(CATEGORICAL)))
        return (*NUMERIC[: self.features], *further), CATEGORICAL[: max(self.features - len(NUMERIC), 0)]

    def model(self, label_wait_ms: int) -> Model:
        """Return the model as a deployment declares it."""
        numeric, categorical = self.names
        return Model(
            name=MODEL, kind="classification", threshold=0.5, sla_accuracy=0.9, segments=("region",),
            features={**dict.fromkeys(numeric, "numeric"), **dict.fromkeys(categorical, "categorical")},
            required=(), label_wait_ms=label_wait_ms, criticality="normal", tier="standard",
        )  # fmt: skip

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
        of = np.arange(self.outputs)
        chance = _mixed(of, 3)
        of = of[chance % np.uint64(6) != 0]
        delay = self.label_delay_ms // 2 + (_mixed(of, 4) % np.uint64(self.label_delay_ms // 2 + 1)).astype(np.int64)
        at_ms = made_at_ms(of) + delay
        again = _mixed(of, 5) % np.uint64(128) == 0
        at_ms = np.concatenate([at_ms, at_ms[again] + AGAIN_MS])
        of = np.concatenate([of, of[again]])
        order = np.argsort(at_ms, kind="stable")
        return of[order], at_ms[order]

    def blocks(self, topic: Topic) -> Iterator[tuple[list[str], list[bytes]]]:
        """Give the rows of a topic, block by block: ids, and the JSON of each."""
        if topic == OUTPUTS:
            for start in range(0, self.outputs, BLOCK_ROWS):
                numbers = np.arange(start, min(start + BLOCK_ROWS, self.outputs))
                yield _ids(numbers), self._outputs(numbers)
        else:
            of, at_ms = self.labels()
            for start in range(0, len(of), BLOCK_ROWS):
                numbers = of[start : start + BLOCK_ROWS]
                yield _ids(numbers), _labels(numbers, at_ms[start : start + BLOCK_ROWS])

    def _outputs(self, numbers: Ints) -> list[bytes]:
        score = scores(numbers)
        regions = self.regions
        region = [regions[at] for at in (_mixed(numbers, 6) % np.uint64(self.lanes)).tolist()]
        columns: list[Sequence[object]] = [
            _ids(numbers),
            made_at_ms(numbers).tolist(),
            answers(numbers).tolist(),
            score.tolist(),
            region,
        ]
        line = (
            f'{{"prediction_id":"%s","model":"{MODEL}","version":"{VERSION}","made_at_ms":%d,"prediction":"%d",'
            '"score":0.%06d,"latency_ms":12.503906,"segments":{"region":"%s"}'
        )
        if self.features:
            numeric, categorical = self.names
            drawn = [*(f'"{name}":%d.%04d' for name in numeric), *(f'"{name}":"value-%d"' for name in categorical)]
            line += ',"features":{' + ",".join(drawn) + "}"
            for at in range(len(numeric)):
                number = (_mixed(numbers, 100 + at) % np.uint64(900_000)).astype(np.int64) + 100_000
                columns += [(number // 10_000).tolist(), (number % 10_000).tolist()]
            columns += [
                (_mixed(numbers, 1000 + at) % np.uint64(VALUES)).tolist() for at in range(len(categorical))
            ]  # fmt: skip
        text = line + "}"
        return [(text % row).encode() for row in zip(*columns, strict=True)]


def made_at_ms(numbers: Ints) -> Ints:
    """Return when outputs were made."""
    return START_MS + numbers // OUTPUTS_A_MS - (_mixed(numbers, 2) % np.uint64(JITTER_MS)).astype(np.int64)


def scores(numbers: Ints) -> Ints:
    """Return scores, in millionths."""
    return (_mixed(numbers, 1) % np.uint64(1_000_000)).astype(np.int64)


def answers(numbers: Ints) -> Ints:
    """Return the classes that the model answers."""
    return (scores(numbers) >= 500_000).astype(np.int64)


def _labels(numbers: Ints, at_ms: Ints) -> list[bytes]:
    truth = answers(numbers) ^ (_mixed(numbers, 7) % np.uint64(20) == 0)
    line = f'{{"prediction_id":"%s","model":"{MODEL}","labelled_at_ms":%d,"label":"%d"}}'
    return [(line % row).encode() for row in zip(_ids(numbers), at_ms.tolist(), truth.tolist(), strict=True)]


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


def load(cluster: KafkaSettings, workload: Workload) -> dict[Topic, int]:
    """Write a workload to its two topics, which are there and empty; return how many rows each then has.

    Raises
    ------
    AssertionError
        The brokers did not take it in time.
    """
    producer = kafka.producer(cluster, "bench-load", None, **{"delivery.timeout.ms": DELIVERY_WAIT_MS})
    return {topic: _load(producer, cluster, workload, topic) for topic in TOPICS}


def _load(producer: Producer, cluster: KafkaSettings, workload: Workload, topic: Topic) -> int:
    name, many = cluster.topic_prefix + topic, workload.rows_a_message
    waiting: list[list[tuple[str, bytes]]] = [[] for _ in range(cluster.input_partitions)]
    rows = 0

    def write(*, last: bool) -> None:
        for partition, wait in enumerate(waiting):
            ready = len(wait) if last else len(wait) // many * many
            made = wait[:ready] if many == 1 else [table(wait[at : at + many]) for at in range(0, ready, many)]
            del wait[:ready]
            messages = [{"key": key, "value": value} for key, value in made]
            taken = producer.produce_batch(name, messages, partition)
            assert taken == len(messages), f"{name}[{partition}]: {len(messages) - taken} messages had no room"
        left = producer.flush(FLUSH_WAIT_S)
        assert left == 0, f"{left} messages for {name} were not acknowledged in {FLUSH_WAIT_S} s"

    for ids, values in workload.blocks(topic):
        rows += len(ids)
        where = partitions_of(ids, cluster.input_partitions)
        for partition, wait in enumerate(waiting):
            wait += [(ids[at], values[at]) for at in np.flatnonzero(where == partition).tolist()]
        write(last=False)
    write(last=True)
    return rows


def table(rows: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Put rows of one partition, each with its id, into one message of columns with its key."""
    columns: dict[str, list[object]] = {}
    for _, text in rows:
        for name, value in orjson.loads(text).items():
            inner = {f"{name}.{one}": of for one, of in value.items()} if isinstance(value, dict) else {name: value}
            for column, given in inner.items():
                columns.setdefault(column, []).append(given)
    return rows[0][0], orjson.dumps({"schema": 1, "rows": len(rows), "columns": columns})
