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

SAMPLES = 200
"""How often, at most, memory is looked at while rows are read."""


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
    s_per_row
        How long a row takes at least: it rests between two passes.
    """

    rows: tuple[int, ...]
    partitions: int
    rest_s: float
    s_per_row: float
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
    """Memory of a process in bytes.

    Parameters
    ----------
    own
        Anonymous memory: pages of no file.
    files
        Pages of mapped files that were touched, its libraries among them; the system takes them back when it needs
        room. A file that lies in memory itself (tmpfs) counts too.
    """

    own: int
    files: int

    @classmethod
    def now(cls) -> "Memory":
        """Ask the system."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        own, files, shared = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem"))
        return cls(own=own, files=files + shared)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """So many rows were read, so many outputs were pending, and so much memory was taken."""

    rows: int
    pending: int
    memory: Memory


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker noted.

    Parameters
    ----------
    assigned, ready
        When the group gave it partitions, and when it had taken all of them; `restored` outputs were pending then.
    began, read, durable
        Before the first row was read, when all were, and when the checkpoint after that was made.
    empty, memory
        Memory when it was given partitions, and in the end; `disk` is what its files hold then, in bytes.
    samples
        Taken while rows were read.
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
    empty: Memory
    memory: Memory
    disk: int
    samples: list[Sample]
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
        self._restored_rows = 0
        self._empty = Memory.now()
        self._samples: list[Sample] = []
        self._sample_rows = 0
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
        self._assigned_at, self._empty = Moment.now(), Memory.now()

    def _may_read(self) -> bool:
        return self._ready is not None and super()._may_read()

    def _beat(self) -> None:
        super()._beat()
        rows = self._rows()
        if rows > self._sample_rows:
            self._sample_rows = rows + sum(self._asked.rows) // SAMPLES
            self._samples.append(Sample(rows=rows, pending=self._pending(), memory=Memory.now()))

    def _rows(self) -> int:
        return self.counts["rows_model-outputs"] + self.counts["rows_labels"]

    def _pending(self) -> int:
        return sum(one.join.gauges["pending_rows"] for one in self._working() if one.join is not None)

    def _checkpoint(self, some: Sequence[Any], wait_ms: int | None = None) -> None:
        super()._checkpoint(some, wait_ms)
        if self._read_all is not None and self._durable is None:
            self._durable = Moment.now()

    def _look(self) -> None:
        now, working, rows = Moment.now(), self._working(), self._rows()
        taken = len(working) == len(self._owned) == self._asked.partitions
        if taken and self._ready is None:
            self._ready, self._restored_rows = now, self._pending()
        if rows == 0:
            self._began = now  # the pass that brings the first row begins here
        elif self._began is not None:
            time.sleep(max(0.0, self._began.wall_s + rows * self._asked.s_per_row - now.wall_s))
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
            restored=self._restored_rows,
            began=self._began,
            read=self._read_all,
            durable=self._durable,
            rows=rows,
            empty=self._empty,
            memory=Memory.now(),
            disk=sum(file.stat().st_size for file in self.settings.folder.rglob("*") if file.is_file()),
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
