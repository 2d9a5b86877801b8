"""Does a crash between any two steps change what comes out? Some seeds in every run; `make sim` runs many."""

import errno
import os
import random
import resource
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from schemas.closed import Closed
from streams.runtime import topics
from streams.runtime.segment_files import SegmentFiles
from streams.stages.blocks import RunStore
from streams.stages.join import LABELS, OUTPUTS
from tests.simulation.join_oracle import LabelRow, OutputRow
from tests.simulation.judge import judge
from tests.simulation.logs import Entry, Log
from tests.simulation.simulation import SINKS, Chaos, Simulation
from tests.simulation.workload import SOURCES, T0_MS, TICK_MS, Workload, join_settings, settings, workload

ROUGH = Chaos(crash=0.01, stop=0.004, compact=0.01, lead_ticks=1, jump=0.02, jump_ms=600_000)


@pytest.mark.parametrize(("seed", "of_misplaced_rows"), [(5, ["found", "cleared"]), (12, ["found"])])
def test_whatever_crashes_nothing_is_lost_and_the_incidents_are_those_of_a_plain_computation(
    seed: int, of_misplaced_rows: list[str]
) -> None:
    run = Simulation(seed, ROUGH)
    run.run()
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.crashes > run.stops > 0
    assert verdict.counts["incidents"] > 0
    assert verdict.counts["notifications"] > verdict.counts["incidents"]
    assert verdict.counts["findings_of_misplaced_rows"] == len(of_misplaced_rows)


@pytest.mark.parametrize("seed", [3])
def test_a_clock_that_jumps_by_an_hour_forward_and_back_decides_nothing_twice(seed: int) -> None:
    run = Simulation(seed, Chaos(crash=0.004, stop=0.0, compact=0.0, lead_ticks=0, jump=0.15, jump_ms=3_600_000))
    run.run()
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.back_ms > 1_800_000, "it went back by far"


HUSH, SILENCE, END = 15, 135, 255
"""Ticks, of a minute: from which on one topic is silent, from which on both, and until when."""


def with_silence(seed: int, topic: str) -> Workload:
    """Let one topic fall silent while the other trickles, and then both; what comes from the future comes before."""
    whole = workload(seed, ticks=SILENCE, partitions=SOURCES)
    kind = OutputRow if topic == OUTPUTS else LabelRow
    hush_ms, end_ms = T0_MS + HUSH * TICK_MS, T0_MS + SILENCE * TICK_MS
    trickle = [
        one
        for one in whole.arrivals
        if hush_ms <= one.at_ms < end_ms and not isinstance(one.row, kind) and one.row.id_hash >> 8 & 7 == 0
    ]
    return Workload([*(one for one in whole.arrivals if one.at_ms < hush_ms), *trickle], whole.faults, whole.ticks)


class Silent(Simulation):
    """A run that counts by itself, whenever all stages have taken a clock value, what is due and what is not.

    A topic at its end is as far as the clock, but for what may still come; a row may be early by `future_skew`.
    """

    def __init__(self, seed: int, topic: str) -> None:
        super().__init__(seed, Chaos(crash=0.004, stop=0.0, compact=0.004, lead_ticks=0, jump=0.0, jump_ms=0))
        self.work = with_silence(seed, topic)
        self.ended: list[tuple[int, int]] = []
        """Outputs and labels whose wait had ended without the other, tick by tick."""
        self.wrong: list[str] = []

    def _tick(self) -> None:
        self._look()
        super()._tick()

    def _tick_calmly(self) -> None:
        self._look()
        super()._tick_calmly()

    def _look(self) -> None:
        join, models = join_settings(), settings().models
        behind_ms = join.allowed_disorder_ms + join.idle_after_ms + TICK_MS
        came = self.work.arrivals[: self._arrived]
        due_ms: dict[int, int] = {}
        for one in came:
            if isinstance(one.row, OutputRow):
                model = models.get(one.row.model)
                wait_ms = join.default_label_wait_ms if model is None else model.label_wait_ms
                due_ms.setdefault(one.row.id_hash, one.row.made_at_ms + wait_ms)
        gauges, counters = Counter[str](), Counter[str]()
        for host in [one for one in self.joins if one.working]:  # all but at the first
            gauges.update(host.join.gauges)
            counters.update(host.join.counters)
        self.ended.append((counters["expired"], counters["orphan_expired"]))
        may_wait = sum(at_ms > self.now_ms - behind_ms for at_ms in due_ms.values())
        may_end = sum(at_ms <= self.now_ms + join.future_skew_ms for at_ms in due_ms.values())
        labels = [one.at_ms for one in came if isinstance(one.row, LabelRow)]
        may_wait_labels = sum(at_ms + join.orphan_wait_ms > self.now_ms - behind_ms for at_ms in labels)
        if (
            gauges["pending_rows"] > may_wait
            or gauges["orphan_rows"] > may_wait_labels
            or counters["expired"] > may_end
        ):
            self.wrong.append(f"{self.now_ms}: {may_wait}, {may_end}, {may_wait_labels}, not {gauges}, {counters}")


@pytest.mark.parametrize("topic", [OUTPUTS, LABELS])
def test_when_one_topic_is_silent_for_hours_and_then_both_the_clock_closes_what_is_due_and_nothing_early(
    topic: str,
) -> None:
    #  0        15 min                135 min               255 min
    #  both ----|-- one of them ------|-- neither ----------|
    run = Silent(6, topic)
    run.run()
    while run.now_ms < T0_MS + END * TICK_MS:
        run._tick_calmly()  # noqa: SLF001
        run._rest()  # noqa: SLF001
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.wrong == []
    assert run.crashes > 0
    assert verdict.counts["pending"] == verdict.counts["orphan_pending"] == 0
    waits = 1 if topic == OUTPUTS else 0  # whose other half does not come
    assert run.ended[HUSH][waits] < run.ended[SILENCE // 2][waits] < run.ended[SILENCE][waits] < run.ended[-1][waits]
    behind_ms = join_settings().allowed_disorder_ms + join_settings().idle_after_ms + TICK_MS
    for sink in range(SINKS):
        marks = [run.decoded(topics.WINDOW_STATS, entry) for entry in run.topics[topics.WINDOW_STATS, sink]]
        newest_ms = {one.source_partition: one.through_ms for one in marks if isinstance(one, Closed)}
        assert len(newest_ms) == SOURCES
        assert min(newest_ms.values()) > run.now_ms - behind_ms


@pytest.mark.parametrize(
    ("topic", "partition", "who"),
    [(topics.OUTPUTS, 2, "source 2"), (topics.FINDINGS, 0, "triage 0"), (topics.INCIDENTS, 0, "escalate 0")],
)
def test_a_record_that_a_host_skips_is_a_fault(topic: str, partition: int, who: str) -> None:
    run = Simulation(5, Chaos(crash=0.0, stop=0.0, compact=0.0, lead_ticks=1, jump=0.0, jump_ms=0))
    log = run.topics[topic, partition]

    def read(start: int, end: int) -> list[Entry]:
        first = Log.read(log, 0, 1)  # what is known already stands in the place of the third
        return [first[0]._replace(offset=2) if one.offset == 2 else one for one in Log.read(log, start, end)]

    log.read = read  # type: ignore[method-assign]
    run.run()
    assert any(said.startswith(f"{who}: read ") for said in judge(run).conservation)


class Rotten(SegmentFiles):
    """Files of which some are harmed when they have just been written."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        super().__init__(folder)
        self._rng = rng

    def put(self, name: str, value: bytes) -> None:
        super().put(name, value)
        path = self._path(name)
        chance = self._rng.random()
        if chance < 0.04:
            held = bytearray(path.read_bytes())
            if chance < 0.02:
                held[self._rng.randrange(len(held))] ^= 0x10
            path.write_bytes(held[: self._rng.randrange(len(held))] if chance >= 0.02 else held)


WRITES: tuple[tuple[Any, str, int], ...] = (
    (Path, "open", errno.EROFS),
    (os, "fsync", errno.ENOSPC),
    (Path, "replace", errno.ENOSPC),
)
"""The calls by which a run is written, and what each may answer."""


def refusal(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


class Scarce(SegmentFiles):
    """Files on a disk that is full for some runs, half of which it takes, and takes no file at all for others.

    Others it refuses at one of the calls by which they are written, and lets go of some only later.
    """

    def __init__(self, folder: Path, rng: random.Random, refused: Counter[str]) -> None:
        super().__init__(folder)
        self._rng = rng
        self._counts = refused

    def put(self, name: str, value: bytes) -> None:
        chance = self._rng.random()
        if self.refusing and chance > 0.5:
            assert self.try_again(), "the disk takes a write again"
        aside = self._path(name).with_suffix(".new")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if chance < 0.15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(value) // 2, hard))
        elif chance < 0.3:
            aside.mkdir()
        try:
            with pytest.MonkeyPatch.context() as patch:
                if 0.3 <= chance < 0.45:
                    where, call, number = self._rng.choice(WRITES)
                    patch.setattr(where, call, refusal(number))
                super().put(name, value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if aside.is_dir():
                aside.rmdir()
        self._counts[self.why if self.refusing else ""] += 1

    def drop(self, name: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if self._rng.random() < 0.2:
                patch.setattr(Path, "unlink", refusal(errno.EROFS))
            super().drop(name)
        self._counts["undropped"] += name in self._undropped


def test_a_disk_that_is_full_or_takes_no_file_costs_nothing(tmp_path: Path) -> None:
    owners, rng = count(), random.Random(9)  # noqa: S311 -- chance that can be repeated
    refused: Counter[str] = Counter()

    class OnDisk(Simulation):
        def runs_of(self, partition: int, epoch: int) -> RunStore:
            return Scarce(tmp_path / f"{partition}-{epoch}-{next(owners)}", rng, refused)

    run = OnDisk(8, Chaos(crash=0.004, stop=0.0, compact=0.0, lead_ticks=0, jump=0.0, jump_ms=0))
    run.run()
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.missed_runs == 0, "what a disk did not take is in memory"
    assert min(refused[os.strerror(one)] for one in (errno.EFBIG, errno.EISDIR, errno.ENOSPC, errno.EROFS)) > 0
    assert refused["undropped"] > 0
    assert refused[""] > 0


def test_a_disk_that_tears_and_changes_runs_costs_restarts_and_nothing_else(tmp_path: Path) -> None:
    owners, rng = count(), random.Random(7)  # noqa: S311 -- chance that can be repeated

    class OnDisk(Simulation):
        def runs_of(self, partition: int, epoch: int) -> RunStore:
            return Rotten(tmp_path / f"{partition}-{epoch}-{next(owners)}", rng)

    run = OnDisk(8, Chaos(crash=0.004, stop=0.0, compact=0.0, lead_ticks=0, jump=0.0, jump_ms=0))
    run.run()
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.missed_runs > 0
