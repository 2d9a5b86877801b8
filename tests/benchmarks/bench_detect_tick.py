"""How long does detect take for one tick, decode excluded, and how many bytes of state does it write?

    python tests/benchmarks/bench_detect_tick.py                         # 20 models of 500 lanes: 10,000
    python tests/benchmarks/bench_detect_tick.py --models 1 --values 5   # 12 lanes

One partition that four source partitions write to, all detectors, every lane armed; the statistics are made beforehand.
In the second half a tenth of the inputs is null, so that lanes ring. Prints for few and many features, and for traffic that reaches every lane in each
tick or one lane in ten: milliseconds a tick of process time (the median, snapshots apart), milliseconds a snapshot, bytes
of state that a tick costs, and a hash of all findings, which no change of speed may change.
"""

import argparse
import gc
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from detectors.binning import NULL_STATE, NUMBER, confidence_of
from detectors.budget import Budget
from detectors.fitting import fit_binning
from detectors.history import FeatureHistory, History, Names, counted
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.finding import Finding
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.stages.detect import TICKS_AT_ONCE, Detect

TICK_MS, SOURCES = 10_000, 4
HISTORY_TICKS = 240
DENSE, SPARSE = 10.0, 0.1
"""Outputs of each segment value in a tick."""

SMALL = 3, 2, 40
"""Models, segment values and ticks in each run of the tests."""
GOLDEN = ["c91479b79c28", "52f1902d768f", "c91479b79c28", "52f1902d768f"]
"""Hashes of what the small form finds, in the order of `main`."""


def model_of(features: int) -> Model:
    """Return the model that is watched, by one segment."""
    declared: dict[str, Literal["numeric", "categorical"]] = dict.fromkeys(
        (f"f{number}" for number in range(features)), "numeric"
    )
    return Model(
        name="m0", kind="classification", threshold=0.5, sla_accuracy=0.7, segments=("region",), features=declared,
        required=(), label_wait_ms=86_400_000, tier="standard",
    )  # fmt: skip


def drawn(seed: int, model: Model, values: int, rate: float, ticks: int, *, broken: bool) -> History:
    """Draw outputs whose scores are right about themselves; labels come within some ticks."""
    rng, n = np.random.default_rng(seed), int(rate * values * ticks)
    made = np.sort(rng.integers(0, ticks * TICK_MS, n))
    made[[0, -1]] = 0, ticks * TICK_MS - 1
    score = rng.beta(1.2, 1.2, n).astype(np.float32)
    none = Names(np.full(n, -1, np.int32), ())
    ill = (made > ticks * TICK_MS // 2) & (rng.random(n) < 0.1) & broken
    state = np.where(ill, NULL_STATE, NUMBER).astype(np.int8)
    return History(
        made_at_ms=made,
        labelled_at_ms=made + rng.exponential(3 * TICK_MS, n).astype(np.int64),
        wrong=(rng.random(n) < score) != (score >= 0.5),
        score=score,
        confidence=confidence_of(score),
        version=Names(np.zeros(n, np.int32), ("7",)),
        segments={"region": Names(rng.integers(0, values, n).astype(np.int32), tuple(map(str, range(values))))},
        features={name: FeatureHistory(state, rng.normal(size=n), none) for name in model.features},
    )


def learned(model: Model, values: int) -> Baseline:
    """Return a baseline that arms every lane."""
    history = drawn(1, model, values, DENSE, HISTORY_TICKS, broken=False)
    counts = counted(history, fit_binning(history, model, tick_ms=TICK_MS, max_lanes=10_000), needed(NEEDS))
    return Baseline(
        model=model.name, version=1, valid_from_ms=0, binning=counts.binning, reference_ms=counts.reference_ms,
        armed=dict.fromkeys(DETECTORS, counts.lanes), tolerance=dict.fromkeys(DETECTORS, 0.0), decided_at_ms=0,
        lanes=counts.lanes, arrays=counts.total(),
    )  # fmt: skip


def spoken(model: Model, baseline: Baseline, values: int, rate: float, ticks: int) -> Iterator[list[WindowStats]]:
    """Give what the source partitions say in each tick: the lanes that have rows."""
    whole = drawn(2, model, values, rate, ticks, broken=True)
    parts = [counted(taken(whole, number), baseline.binning, needed(NEEDS)).each_tick() for number in range(SOURCES)]
    for of_tick in islice(zip(*parts, strict=False), ticks):
        yield [
            WindowStats(
                model=model.name, tick_start_ms=tick.start_ms, tick_end_ms=tick.end_ms, source_partition=number,
                source_partitions=SOURCES, part=0, parts=1, baseline_version=1, offsets={},
                lanes=tuple(baseline.lanes[lane] for lane in tick.lanes.tolist()), arrays=tick.arrays,
            )
            for number, tick in enumerate(of_tick)
        ]  # fmt: skip


def taken(whole: History, source: int) -> History:
    """Leave one source partition's rows, and the first and the last of all, so that all have the same ticks."""
    rows = np.arange(len(whole.made_at_ms)) % SOURCES == source
    rows[[0, -1]] = True

    def named(column: Names) -> Names:
        return Names(column.codes[rows], column.values)

    return History(
        made_at_ms=whole.made_at_ms[rows],
        labelled_at_ms=whole.labelled_at_ms[rows],
        wrong=whole.wrong[rows],
        score=whole.score[rows],
        confidence=whole.confidence[rows],
        version=named(whole.version),
        segments={name: named(column) for name, column in whole.segments.items()},
        features={
            name: FeatureHistory(one.state[rows], one.numbers[rows], named(one.names))
            for name, one in whole.features.items()
        },
    )


class Weighed(dict[str, bytes]):
    """Rows of a state that know how much was written."""

    written = 0

    def __setitem__(self, key: str, row: bytes) -> None:
        self.written += len(row)
        super().__setitem__(key, row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one form took.

    Parameters
    ----------
    lanes, with_rows, alternatives
        Lanes in all, and those that have rows in a tick on average; alternatives of a lane.
    plain_ms, saved_ms
        Process time of each tick without, and with a snapshot.
    wall_ms, decode_ms
        Of each tick without a snapshot by the wall, and what its records took before that from bytes.
    saved_wall_ms
        Of each tick with a snapshot by the wall.
    written
        Bytes of state a tick.
    findings
        A hash of all.
    """

    lanes: int
    with_rows: int
    alternatives: int
    plain_ms: list[float]
    saved_ms: list[float]
    wall_ms: list[float]
    saved_wall_ms: list[float]
    decode_ms: list[float]
    written: float
    findings: str


def measure(models: int, values: int, ticks: int, features: int, rate: float) -> Measured:
    """Measure one form."""
    model = model_of(features)
    baseline = learned(model, values)
    names = [f"m{number}" for number in range(models)]
    rows = Weighed()
    detect = Detect(
        rows=rows,
        partition=0,
        partition_of=lambda _: 0,
        tenant="",
        environment="",
        models={one: replace(model, name=one) for one in names},
        budget=Budget(
            pages_per_week=models,
            tickets_per_week=20,
            tick_ms=TICK_MS,
            tiers=dict.fromkeys(names, "standard"),
            max_lanes_per_model=500,
            max_rollups_per_model=500,
        ),
        ticks_at_once=TICKS_AT_ONCE,
    )
    detect.receive([part for one in names for part in replace(baseline, model=one).split()])
    digest = hashlib.blake2b(digest_size=6)
    plain: list[float] = []
    saved: list[float] = []
    wall: list[float] = []
    saved_wall: list[float] = []
    decode: list[float] = []
    published, rows.written, lanes = rows.written, 0, 0
    for stats in spoken(model, baseline, values, rate, ticks):
        lanes += len({lane for part in stats for lane in part.lanes})
        values_told = [replace(part, model=one).encode() for part in stats for one in names if part.lanes]
        marks = [
            Closed(source_partition=number, source_partitions=SOURCES, through_ms=part.tick_end_ms, cause="records")
            for number, part in enumerate(stats)
        ]
        gc.collect()
        gc.disable()
        received_s = time.perf_counter()
        told = [WindowStats.decode(value) for value in values_told]
        began, began_s = time.process_time(), time.perf_counter()
        answers = detect.receive([*told, *marks])
        ended, ended_s = time.process_time(), time.perf_counter()
        (saved if detect.settled else plain).append(1000 * (ended - began))
        (saved_wall if detect.settled else wall).append(1000 * (ended_s - began_s))
        if not detect.settled:
            decode.append(1000 * (began_s - received_s))
        gc.enable()
        for one in answers:
            if isinstance(one, Finding):
                digest.update(f"{one.finding_id} {one.state} {one.alarm_tick_ms} {one.message}\n".encode())
    assert published
    return Measured(
        lanes=models * len(baseline.lanes),
        with_rows=models * lanes // ticks,
        alternatives=sum(one.mass.shape[1] for one in detect.models["m0"].states.values()),
        plain_ms=plain,
        saved_ms=saved,
        wall_ms=wall,
        saved_wall_ms=saved_wall,
        decode_ms=decode,
        written=rows.written / ticks,
        findings=digest.hexdigest(),
    )


def line(name: str, one: Measured) -> str:
    """Return what is printed."""
    plain = min(one.plain_ms)
    return (
        f"{name:16} {one.lanes:6,} lanes, {one.with_rows:6,} with rows  {one.alternatives:4} alternatives  "
        f"{plain:7.1f} ms a tick  {min(one.saved_ms) - plain:7.1f} ms a snapshot  {one.written:11,.0f} B a tick  "
        f"{one.findings}"
    )


def main(models: int, values: int, ticks: int) -> Iterator[str]:
    """Measure all forms."""
    for features in (1, 20):
        for word, rate in (("every lane", DENSE), ("one in ten", SPARSE)):
            yield line(f"{features}, {word}", measure(models, values, ticks, features, rate))


def test_detection_finds_what_it_always_found() -> None:
    lines = list(main(*SMALL))
    assert [line.split()[-1] for line in lines] == GOLDEN


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--values", type=int, default=249, help="values of the segment: 2 + 2 x as many lanes")
    parser.add_argument("--ticks", type=int, default=60)
    wanted = parser.parse_args()
    for text in main(wanted.models, wanted.values, wanted.ticks):
        sys.stdout.write(text + "\n")
