"""Does a crash between any two steps change what comes out? Some seeds in every run; `make sim` runs many."""

import errno
import os
import random
import resource
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from streams.runtime import topics
from streams.runtime.segment_files import SegmentFiles
from streams.stages.blocks import RunStore
from tests.simulation.judge import judge
from tests.simulation.logs import Entry, Log
from tests.simulation.simulation import Chaos, Simulation

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


class Scarce(SegmentFiles):
    """Files on a disk that is full for some runs, half of which it takes, and takes no file at all for others."""

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
        if chance < 0.2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(value) // 2, hard))
        elif chance < 0.4:
            aside.mkdir()
        try:
            super().put(name, value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if chance >= 0.2 and aside.is_dir():
                aside.rmdir()
        self._counts[self.why if self.refusing else ""] += 1


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
    assert min(refused[os.strerror(one)] for one in (errno.EFBIG, errno.EISDIR)) > 0
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
