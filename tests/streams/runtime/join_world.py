"""Two topics with everything that happens in them, from a seed, and what the join must make of it, by the oracle."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from config.settings import KafkaSettings
from detectors.statistics import STATISTICS
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.runtime import kafka, topics
from streams.runtime.hashing import class_hash, id_hashes
from streams.runtime.hot_path import HotPathSettings
from streams.stages.blocks import BlockKey, Manifest
from streams.stages.join import JoinSettings
from tests.simulation.join_driver import _shown
from tests.simulation.join_oracle import JoinOracle, LabelRow, Move, OutputRow, Verdict, moved_to

BEGAN_MS = 1_700_000_000_000
LATER_MS = BEGAN_MS + 3_600_000
"""The replay clock's one value: an hour after the last row, when nothing can be pending any more."""
WAIT_S = 60.0
BROKER_MS = 1 << 50  # no row lies in the future

JOIN = JoinSettings(
    tick_ms=10_000,
    allowed_disorder_ms=5_000,
    idle_after_ms=30_000,
    default_label_wait_ms=60_000,
    orphan_wait_ms=45_000,
    correction_wait_ms=30_000,
    future_skew_ms=300_000,
    max_lanes_per_model=500,
    block_rows=256,
    orphans_bound_rows=100_000,
    needs=tuple(STATISTICS),
)
MODELS = {
    name: Model(
        name=name, kind="classification", threshold=0.5, sla_accuracy=0.9, segments=("region",),
        features={"age": "numeric"}, required=(), label_wait_ms=wait_ms, tier="standard",
    )
    for name, wait_ms in (("fraud", 60_000), ("credit", 90_000))
}  # fmt: skip


def hot_path_settings(cluster: KafkaSettings, folder: Path, **others: Any) -> HotPathSettings:  # noqa: ANN401
    chosen: dict[str, Any] = {
        "kafka": cluster, "join": JOIN, "models": MODELS, "app_id": "tocsin-join", "instance_id": "worker-0",
        "session_timeout_ms": 10_000, "heartbeat_ms": 500, "folder": folder, "checkpoint_ms": 200, "clock": "topic",
        "start": "earliest", "restore_wait_ms": 60_000, "hand_over_wait_ms": 5_000,
    }  # fmt: skip
    return HotPathSettings(**chosen | others)


@dataclass
class World:
    """What was written to the inputs, and what the oracle says of it."""

    cluster: KafkaSettings
    seed: int
    outputs: dict[int, list[OutputRow | Move]] = field(default_factory=dict)
    labels: dict[int, list[LabelRow | Move]] = field(default_factory=dict)
    dead: dict[tuple[str, int], int] = field(default_factory=dict)
    moves: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - a seed, not a secret
        self.producer: Producer = kafka.producer(self.cluster, "world")
        self._began_ms = BEGAN_MS
        self._serial = 0
        for partition in range(self.cluster.input_partitions):
            self.outputs[partition], self.labels[partition] = [], []

    # ---- writing

    def write(self, outputs: int, *, span_ms: int = 300_000) -> None:
        """Write outputs and their labels, with repeats, conflicts, corrections, orphans, and what is no record."""
        rng, made = self.rng, []
        for _ in range(outputs):
            self._serial += 1
            score = rng.randrange(1025) / 1024
            row: dict[str, Any] = {
                "prediction_id": f"{self.seed}-{self._serial}", "model": rng.choice(["fraud", "credit", "unlisted"]),
                "made_at_ms": self._began_ms + rng.randrange(span_ms), "prediction": str(int(score > 0.5)),
                "score": score, "version": rng.choice(["7", "8"]), "segments": {"region": rng.choice(["west", "east"])},
                "features": {"age": rng.randrange(90)},
            }  # fmt: skip
            made.append(row)
        labels = []
        for row in made:
            chance = rng.random()
            if chance < 0.15:
                continue
            at_ms = row["made_at_ms"] + rng.randrange(1_000, 100_000)
            label = {name: row[name] for name in ("prediction_id", "model")} | {
                "labelled_at_ms": at_ms, "label": rng.choice([0, 1]), "made_at_ms": row["made_at_ms"],
            }  # fmt: skip
            labels.append(label)
            if chance < 0.2:
                labels.append(label | {"labelled_at_ms": at_ms + 7_000, "label": 1 - label["label"], "version": 2})
            if chance > 0.97:
                labels.append(dict(label))
            if chance > 0.98:
                labels.append(label | {"prediction_id": "nobody-" + label["prediction_id"]})
        copies = [dict(row) for row in made if rng.random() < 0.03]
        made += copies + [row | {"score": 0.125} for row in made if rng.random() < 0.02]
        made.sort(key=lambda row: row["made_at_ms"] + rng.randrange(4_000))
        labels.sort(key=lambda row: row["labelled_at_ms"] + rng.randrange(4_000))
        self._began_ms += span_ms
        self._produce(topics.OUTPUTS, made)
        self._produce(topics.LABELS, labels)

    def _produce(self, topic: str, rows: Sequence[dict[str, Any]]) -> None:
        n = self.cluster.input_partitions
        by_partition: dict[int, list[dict[str, Any]]] = {partition: [] for partition in range(n)}
        for row in rows:
            by_partition[topics.partition_of_id(row["prediction_id"], n)].append(row)
        for partition, mine in by_partition.items():
            placed: list[tuple[list[dict[str, Any]], list[int]]] = []
            at = 0
            while at < len(mine):
                many = self.rng.choice([1, 1, 1, 1, 25])
                some = mine[at : at + many]
                at += len(some)
                self._send(topic, partition, some[0]["prediction_id"], message_of(some), placed, some)
                if self.rng.random() < 0.01:
                    bad = self.rng.choice(
                        [b"{", b"[]", b'{"prediction_id": 7}', json.dumps(some[0] | {"model": 5}).encode()]
                    )
                    self.dead[topic, partition] = self.dead.get((topic, partition), 0) + 1
                    self._send(topic, partition, "x", bad, placed, [])
            assert self.producer.flush(WAIT_S) == 0
            for some, offsets in sorted(placed, key=lambda one: one[1]):  # the log's order: what was refused came later
                if topic == topics.OUTPUTS:
                    self.outputs[partition] += [as_output(row, offsets[0], at) for at, row in enumerate(some)]
                else:
                    self.labels[partition] += [as_label(row, offsets[0], at) for at, row in enumerate(some)]

    def _send(
        self,
        topic: str,
        partition: int,
        key: str,
        value: bytes,
        placed: list[tuple[list[dict[str, Any]], list[int]]],
        rows: list[dict[str, Any]],
    ) -> None:
        offsets: list[int] = []

        def note(error: object, message: Message) -> None:
            assert error is None
            offset = message.offset()
            assert offset is not None
            offsets.append(offset)

        placed.append((rows, offsets))
        full = self.cluster.topic_prefix + topic
        self.producer.produce(full, value, key.encode(), partition, on_delivery=note)
        self.producer.poll(0)

    def tell(self, now_ms: int) -> None:
        """Write the replay clock: from here on every partition is at its edge."""
        for routed in topics.route_each(Clock(now_ms=now_ms), self.cluster.output_partitions):
            assert routed.partition is not None
            self.producer.produce(self.cluster.topic_prefix + topics.CLOCK, routed.value, None, routed.partition)
        assert self.producer.flush(WAIT_S) == 0
        move = moved_to(JOIN, now_ms)
        for partition in range(self.cluster.input_partitions):
            self.outputs[partition].append(move)
            self.labels[partition].append(move)

    # ---- reading

    def read(self, topic: str) -> Iterator[Message]:
        """Read a topic from its beginning, for as long as somebody asks; it fails when nothing comes for a while."""
        consumer: Consumer = kafka.consumer(self.cluster, "world", self.cluster.topic_prefix + "world")
        try:
            full = self.cluster.topic_prefix + topic
            found = consumer.list_topics(full, timeout=10).topics[full].partitions
            consumer.assign([TopicPartition(full, partition, OFFSET_BEGINNING) for partition in found])
            deadline_s = time.monotonic() + WAIT_S
            while time.monotonic() < deadline_s:
                for message in consumer.consume(1_000, 0.1):
                    assert message.error() is None, message.error()
                    deadline_s = time.monotonic() + WAIT_S
                    yield message
            raise AssertionError(f"{topic}: nothing more came")
        finally:
            consumer.close()

    def ends(self, topic: str) -> dict[int, int]:
        """Return the end of each partition of a topic that holds something."""
        consumer: Consumer = kafka.consumer(self.cluster, "world", self.cluster.topic_prefix + "world")
        full = self.cluster.topic_prefix + topic
        found = consumer.list_topics(full, timeout=10).topics[full].partitions
        bounds = {one: consumer.get_watermark_offsets(TopicPartition(full, one), timeout=10) or (0, 0) for one in found}
        consumer.close()
        return {partition: end for partition, (start, end) in bounds.items() if end > start}

    def sent(self) -> dict[tuple[int, str, int, int], bytes]:
        """All WindowStats, once everything is closed; a repeat must be the same bytes."""
        sent: dict[tuple[int, str, int, int], bytes] = {}
        n = self.cluster.input_partitions
        waiting = {(source, sink) for source in range(n) for sink in range(self.cluster.output_partitions)}
        verdicts = {source: self.verdict(source) for source in range(n)}
        through_ms = {source: verdict.closed_through_ms for source, verdict in verdicts.items()}
        for message in self.read(topics.WINDOW_STATS):
            value = message.value() or b""
            if message.key() is None:
                closed = Closed.decode(value)
                assert closed.through_ms <= through_ms[closed.source_partition]
                assert (closed.sampled, closed.misplaced) == verdicts[closed.source_partition].placed(closed.through_ms)
                if closed.through_ms == through_ms[closed.source_partition]:
                    waiting.discard((closed.source_partition, message.partition() or 0))
                    if not waiting:
                        return sent
                continue
            stats = WindowStats.decode(value)
            assert message.partition() == topics.partition_of(stats.model, self.cluster.output_partitions)
            key = (stats.source_partition, stats.model, stats.tick_start_ms, stats.part)
            assert sent.setdefault(key, value) == value, f"{key} was sent twice, with other bytes"
        raise AssertionError

    def verdict(self, partition: int) -> Verdict:
        oracle = JoinOracle(settings=JOIN, models=MODELS, partition=partition, partitions=self.cluster.input_partitions)
        return oracle.judge(self.outputs[partition], self.labels[partition])

    def expected(self) -> dict[tuple[int, str, int, int], bytes]:
        """All WindowStats as the oracle sends them."""
        expected = {}
        for partition in range(self.cluster.input_partitions):
            for _, value in self.verdict(partition).window_stats():
                stats = WindowStats.decode(value)
                expected[partition, stats.model, stats.tick_start_ms, stats.part] = value
        return expected

    def manifests(self) -> dict[int, Manifest]:
        """Return the last manifest of each partition."""
        consumer: Consumer = kafka.consumer(self.cluster, "world", self.cluster.topic_prefix + "world")
        full = self.cluster.topic_prefix + topics.CHANGELOG
        last: dict[int, Manifest] = {}
        for partition in range(self.cluster.input_partitions):
            _, high = consumer.get_watermark_offsets(TopicPartition(full, partition), timeout=10) or (0, 0)
            consumer.assign([TopicPartition(full, partition, OFFSET_BEGINNING)])
            offset = -1
            while offset < high - 1:
                for message in consumer.consume(1_000, 0.1):
                    offset = message.offset() or 0
                    key, value = message.key(), message.value()
                    if key is not None and value is not None and BlockKey.decode(key).kind == "manifest":
                        last[partition] = Manifest.decode(value)
        consumer.close()
        return last

    def check(self) -> None:
        """Hold what was sent, and what the last manifests count, against the oracle."""
        sent, expected = self.sent(), self.expected()
        assert len(expected) > 100, "there is something to compare"
        assert sent.keys() == expected.keys()
        for key, value in expected.items():
            assert sent[key] == value, (key, _shown(sent[key]), _shown(value))
        for partition, manifest in self.manifests().items():
            counted = {name: n for name, n in manifest.counters.items() if n}
            verdict = {name: n for name, n in self.verdict(partition).counters.items() if n}
            for topic, name in ((topics.OUTPUTS, "output"), (topics.LABELS, "label")):
                dead = self.dead.get((topic, partition), 0)
                for term in (f"dead_{name}", f"{name}_rows"):
                    if dead:
                        verdict[term] = verdict.get(term, 0) + dead
            assert verdict.get("pending", 0) == verdict.get("orphan_pending", 0) == 0, "an hour later"
            assert counted == verdict, partition
        dead = sum(self.dead.values())
        letters = set()
        for message in self.read(topics.DEAD_LETTERS) if dead else ():
            letters.add(message.key())
            if len(letters) == dead:
                break


def message_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """One row as an object, many as columns; the rows have the same fields, or those they lack are null."""
    if len(rows) == 1:
        return json.dumps(rows[0]).encode()
    flat = [
        {
            column: told
            for name, value in row.items()
            for column, told in (
                {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
            ).items()
        }
        for row in rows
    ]
    names = dict.fromkeys(name for row in flat for name in row)
    columns = {name: [row.get(name) for row in flat] for name in names}
    return json.dumps({"schema": 1, "rows": len(rows), "columns": columns}).encode()


def identity(row: dict[str, Any]) -> int:
    return int(id_hashes([row["model"]], np.array([0], np.int32), [row["prediction_id"]])[0])


def placed(row: dict[str, Any]) -> dict[str, Any]:
    """Return what stands for the id; every row lies in the partition of its id."""
    name = identity(row)
    return {"id_hash": name, "misplaced": False if name % 64 == 0 else None}


def as_output(row: dict[str, Any], offset: int, at: int) -> OutputRow:
    score = row["score"]
    return OutputRow(
        offset=offset, row=at, broker_ms=BROKER_MS, **placed(row), made_at_ms=row["made_at_ms"],
        model=row["model"], version=row["version"], prediction=class_hash(row["prediction"]),
        content=hash((row["prediction"], score, row["made_at_ms"])) % (1 << 32), score=score,
        confidence=max(score, 1 - score), segments=row["segments"], features=row["features"],
    )  # fmt: skip


def as_label(row: dict[str, Any], offset: int, at: int) -> LabelRow:
    return LabelRow(
        offset=offset, row=at, broker_ms=BROKER_MS, **placed(row), labelled_at_ms=row["labelled_at_ms"],
        model=row["model"], label=class_hash(row["label"]), version=row.get("version", -1), made_at_ms=row["made_at_ms"],
    )  # fmt: skip
