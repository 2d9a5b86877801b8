"""What is sent under faults, tick by tick on a replay clock, and what of it lies in the log? Rows of the simulator's workload.

Each round has a workload of its own, from its seed. Beside it, in every tick, each partition of both topics gets a
message of many rows whose last is as new as the tick: so a watermark is never moved by the clock while rows still come,
and what becomes of a row follows from the logs alone.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from confluent_kafka import Producer

from config.settings import KafkaSettings
from schemas.clock import Clock
from streams.runtime import kafka, topics
from streams.runtime.hashing import class_hash, id_hashes
from streams.runtime.stage_spec import Routed
from tests.simulation.join_oracle import LabelRow, OutputRow, misplaced
from tests.simulation.logs import Entry
from tests.simulation.workload import SOURCES, T0_MS, TICK_MS, YES, join_settings, workload

FILLER_MODEL = "gamma"  # nobody configured it
FILLER_ROWS = 40
"""Rows of each topic in one tick, over all partitions, that only make the pipe full."""
JUNK_EVERY = 3
"""Ticks from one message that is no record to the next."""
JUNK_KEY = b"junk"
JUNK = (b"{", b"[]", b'{"prediction_id": 7}', b"\xff\x00")
FUTURE_MS = 3_600_000
FLUSH_WAIT_S = 600.0
SCORES = 1024
"""Scores are parts of this, so that they are the same number in any width."""


class Load:
    """Writes what producers would, and the clock."""

    def __init__(self, cluster: KafkaSettings) -> None:
        self._cluster = cluster
        self._producer: Producer = kafka.producer(cluster, "chaos-load", None, **{"delivery.timeout.ms": 600_000})
        self._arrivals: list[tuple[int, int, str, str, dict[str, Any]]] = []
        self._order = count()
        self._ticks = 0
        self.outputs = 0
        """Output rows that were written, copies and dead ones too."""

    @property
    def now_ms(self) -> int:
        """The replay clock."""
        return T0_MS + self._ticks * TICK_MS

    @property
    def arriving(self) -> bool:
        """Whether something of a workload is still to come."""
        return bool(self._arrivals)

    def begin(self, seed: int, ticks: int) -> None:
        """Let a workload arrive from now on."""
        shift_ms = self.now_ms - T0_MS
        name = f"{seed}-{self._ticks}"
        for arrival in workload(seed, ticks=ticks, partitions=SOURCES).arrivals:
            topic = topics.LABELS if isinstance(arrival.row, LabelRow) else topics.OUTPUTS
            row = said_row(arrival.row, name, arrival.at_ms, shift_ms)
            heappush(self._arrivals, (arrival.at_ms + shift_ms, next(self._order), topic, row["prediction_id"], row))

    def tick(self) -> None:
        """Write all that arrives in one tick, then the clock."""
        self._ticks += 1
        while self._arrivals and self._arrivals[0][0] <= self.now_ms:
            _, _, topic, name, row = heappop(self._arrivals)
            self._send(topic, topics.partition_of_id(name, SOURCES), name.encode(), json.dumps(row).encode())
            self.outputs += topic == topics.OUTPUTS
        self._fill()
        self.tell()

    def tell(self) -> None:
        """Write the clock behind all that was written."""
        self._flush()
        for routed in topics.route_each(Clock(now_ms=self.now_ms), self._cluster.output_partitions):
            self.write(routed)
        self._flush()

    def pass_time(self) -> None:
        """Let a tick pass in which nothing comes."""
        self._ticks += 1
        self.tell()

    def write(self, routed: Routed) -> None:
        """Write one record of any topic."""
        self._send(routed.topic, routed.partition, routed.key, routed.value)

    def _fill(self) -> None:
        by_partition: dict[int, list[str]] = {partition: [] for partition in range(SOURCES)}
        for number in count():
            if number >= FILLER_ROWS and all(by_partition.values()):
                break
            name = f"f{self._ticks}-{number}"
            by_partition[topics.partition_of_id(name, SOURCES)].append(name)
        for partition, names in by_partition.items():
            made = np.linspace(self.now_ms - TICK_MS, self.now_ms, len(names) + 1).astype(int).tolist()[1:]
            rows = len(names)
            outputs = {"prediction_id": names, "model": [FILLER_MODEL] * rows, "made_at_ms": made,
                       "version": ["v1"] * rows, "prediction": ["yes"] * rows, "score": [0.75] * rows}  # fmt: skip
            labels = {"prediction_id": names, "model": [FILLER_MODEL] * rows, "labelled_at_ms": made,
                      "label": ["yes"] * rows}  # fmt: skip
            for topic, columns in ((topics.OUTPUTS, outputs), (topics.LABELS, labels)):
                value = json.dumps({"schema": 1, "rows": rows, "columns": columns}).encode()
                self._send(topic, partition, names[0].encode(), value)
                if self._ticks % JUNK_EVERY == partition % JUNK_EVERY:
                    self._send(topic, partition, JUNK_KEY, JUNK[self._ticks % len(JUNK)])
            self.outputs += rows

    def _send(self, topic: str, partition: int | None, key: bytes | None, value: bytes | None) -> None:
        full = self._cluster.topic_prefix + topic
        while True:
            try:
                self._producer.produce(full, value, key, -1 if partition is None else partition)
            except BufferError:
                self._producer.poll(0.1)
                continue
            return

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_WAIT_S)
        assert left == 0, f"{left} records of the load were not acknowledged in {FLUSH_WAIT_S} s"


def said_row(row: OutputRow | LabelRow, name: str, at_ms: int, shift_ms: int) -> dict[str, Any]:
    """Say a row of the workload as a producer says it; one from the future is from that of the broker's own clock."""
    said: dict[str, Any] = {"prediction_id": f"{name}-{row.id_hash:x}", "model": row.model}
    if isinstance(row, LabelRow):
        said |= {"labelled_at_ms": row.labelled_at_ms + shift_ms, "label": _class(row.label)}
        return said | ({"retracted": True} if row.retracted else {})
    score = round(row.score * SCORES)
    if row.content <= 1:  # a copy: of the same content, or of another
        score = min(score + row.content, SCORES)
    is_future = row.made_at_ms > at_ms + join_settings().future_skew_ms
    return said | {
        "version": row.version,
        "made_at_ms": time.time_ns() // 1_000_000 + FUTURE_MS if is_future else row.made_at_ms + shift_ms,
        "prediction": _class(row.prediction),
        "score": score / SCORES,
        "segments": dict(row.segments),
        "features": dict(row.features),
    }


def _class(hashed: int) -> str:
    return "yes" if hashed == YES else "no"


# ---- back from the log


def output_rows(entries: Iterable[Entry], source: int) -> tuple[list[OutputRow], int]:
    """Read a partition's outputs as plainly as can be; return them, and how many messages are no records."""
    said, dead = _said(entries)
    rows = []
    for (entry, at, one), identity in zip(said, _identities(said), strict=True):
        score = one["score"]
        rows.append(
            OutputRow(
                offset=entry.offset,
                row=at,
                broker_ms=entry.broker_ms,
                id_hash=identity,
                misplaced=misplaced(identity, one["prediction_id"], source, SOURCES),
                made_at_ms=one["made_at_ms"],
                model=one["model"],
                version=one["version"],
                prediction=class_hash(one["prediction"]),
                content=hash((one["prediction"], score, one["made_at_ms"])) % (1 << 32),
                score=score,
                confidence=max(score, 1 - score),
                segments=one.get("segments", {}),
                features=one.get("features", {}),
            )
        )
    return rows, dead


def label_rows(entries: Iterable[Entry], source: int) -> tuple[list[LabelRow], int]:
    """Read a partition's labels as plainly as can be; return them, and how many messages are no records."""
    said, dead = _said(entries)
    rows = [
        LabelRow(
            offset=entry.offset,
            row=at,
            broker_ms=entry.broker_ms,
            id_hash=identity,
            misplaced=misplaced(identity, one["prediction_id"], source, SOURCES),
            labelled_at_ms=one["labelled_at_ms"],
            model=one["model"],
            label=class_hash(one["label"]),
            retracted=one.get("retracted", False),
        )
        for (entry, at, one), identity in zip(said, _identities(said), strict=True)
    ]
    return rows, dead


def _said(entries: Iterable[Entry]) -> tuple[list[tuple[Entry, int, dict[str, Any]]], int]:
    """Take messages apart: each row with its message and number, and how many messages are junk."""
    said: list[tuple[Entry, int, dict[str, Any]]] = []
    dead = 0
    for entry in entries:
        if entry.key == JUNK_KEY:
            dead += 1
            continue
        value = json.loads(entry.value)
        rows = [value]
        if columns := value.get("columns"):
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        said += [(entry, at, one) for at, one in enumerate(rows)]
    return said, dead


def _identities(said: Sequence[tuple[Entry, int, Mapping[str, Any]]]) -> list[int]:
    models = list(dict.fromkeys(one["model"] for _, _, one in said))
    codes = np.array([models.index(one["model"]) for _, _, one in said], np.int32)
    hashes: list[int] = id_hashes(models, codes, [one["prediction_id"] for _, _, one in said]).tolist()
    return hashes
