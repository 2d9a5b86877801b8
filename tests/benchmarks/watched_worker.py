"""When is all that lay in the topics durable? A worker of the join that notes it: `python watched_worker.py worker join …`.

It is `tocsin` itself, with a join that looks at its clocks between two passes. What it is to wait for stands in the
variable `WATCHED`; what it noted, it writes as JSON to the file named there, and then serves on until it is told to end.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition

from streams.runtime import cli, worker
from streams.runtime.hot_path import HotPath, HotPathSettings

SAMPLE_EVERY_S = 0.5


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to wait for.

    Parameters
    ----------
    rows
        Of both topics, by input partition.
    partitions
        How many this worker is given; it reads nothing before it has them.
    rest_s
        How long it serves on with nothing to read before its memory is looked at.
    """

    rows: tuple[int, ...]
    partitions: int
    rest_s: float
    answer: str


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A moment: on `time.monotonic()`, and in seconds of processor time of the loop's thread and of the process."""

    wall_s: float
    thread_s: float
    process_s: float

    @classmethod
    def now(cls) -> "Moment":
        """Look at the clocks."""
        return cls(wall_s=time.monotonic(), thread_s=time.thread_time(), process_s=time.process_time())


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of a process in bytes: its own, and that of mapped files, which the system takes back when it needs it."""

    own: int
    files: int

    @classmethod
    def now(cls) -> "Memory":
        """Ask the system."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        own, files = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))
        return cls(own=own, files=files)


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker noted.

    Parameters
    ----------
    assigned, ready
        When the group gave it partitions, and when it had taken all of them; `restored` outputs were pending then.
    began, read, durable
        Before the first row was read, when all were, and when the checkpoint after that was made.
    samples
        Rows read so far, and memory then.
    counters
        Sums over its partitions of what became of rows, and of what is held.
    """

    assigned: Moment
    ready: Moment
    restored: int
    began: Moment
    read: Moment
    durable: Moment
    rows: int
    memory: Memory
    samples: list[tuple[int, Memory]]
    counters: dict[str, int]
    counts: dict[str, int]


class Watched(HotPath):
    """A join that notes when what was asked for had come to pass."""

    def __init__(self, settings: HotPathSettings) -> None:
        super().__init__(settings)
        self._asked = msgspec.json.decode(os.environ["WATCHED"], type=Told)
        self._assigned_at: Moment | None = None
        self._ready: Moment | None = None
        self._began: Moment | None = None
        self._read_all: Moment | None = None
        self._durable: Moment | None = None
        self._pending = 0
        self._samples: list[tuple[int, Memory]] = []
        self._sample_s = 0.0
        self._is_told = False
        self._paused = "waits"

    def run(self, stopping: Callable[[], bool]) -> None:
        """Run, and look around between two passes."""

        def look() -> bool:
            self._look()
            return stopping()

        super().run(look)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        super()._on_assign(consumer, partitions)
        self._assigned_at = Moment.now()

    def _may_read(self) -> bool:
        return self._ready is not None and super()._may_read()

    def _checkpoint(self, some: Sequence[Any], wait_ms: int | None = None) -> None:
        super()._checkpoint(some, wait_ms)
        if self._read_all is not None and self._durable is None:
            self._durable = Moment.now()

    def _look(self) -> None:
        now, working = Moment.now(), self._working()
        rows = self.counts["rows_model-outputs"] + self.counts["rows_labels"]
        taken = len(working) == len(self._owned) == self._asked.partitions
        if taken and self._ready is None:
            self._ready = now
            self._pending = sum(one.join.gauges["pending_rows"] for one in working if one.join is not None)
        if rows == 0:
            self._began = now  # the pass that brings the first row begins here
        if now.wall_s >= self._sample_s:
            self._sample_s = now.wall_s + SAMPLE_EVERY_S
            self._samples.append((rows, Memory.now()))
        if taken and self._read_all is None and rows >= sum(self._asked.rows[one.partition] for one in working):
            self._read_all = now
            self._due["checkpoint"] = 0.0
        if self._durable is not None and not self._is_told and now.wall_s >= self._durable.wall_s + self._asked.rest_s:
            self._is_told = True
            self._tell_what_was(rows)

    def _tell_what_was(self, rows: int) -> None:
        assert self._assigned_at is not None
        assert self._ready is not None
        assert self._began is not None
        assert self._read_all is not None
        assert self._durable is not None
        self._publish()
        counters: dict[str, int] = {}
        for seen in self.status.partitions.values():
            for name, value in seen.items():
                counters[name] = counters.get(name, 0) + value
        noted = Noted(
            assigned=self._assigned_at,
            ready=self._ready,
            restored=self._pending,
            began=self._began,
            read=self._read_all,
            durable=self._durable,
            rows=rows,
            memory=Memory.now(),
            samples=self._samples,
            counters=counters,
            counts=dict(self.counts),
        )
        answer = Path(self._asked.answer)
        aside = answer.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(noted))
        aside.replace(answer)


if __name__ == "__main__":
    vars(worker)["HotPath"] = Watched
    sys.exit(cli.main(sys.argv[1:]))
