"""What do producers send, when does it arrive, and where is something wrong? Everything from a seed.

Three models: two with a baseline, one that nobody configured. Rows arrive late, twice, out of order, corrected,
withdrawn, before their outputs, from the future, or not at all; partitions fall silent; for a time producers place rows
elsewhere than by their ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from config.load import load
from config.settings import Settings
from detectors.binning import NAME, NULL_STATE, NUMBER
from detectors.fitting import fit_baseline
from detectors.history import FeatureHistory, History, Names
from detectors.table import NEEDS
from schemas.baseline import Baseline
from streams.stages.join import JoinSettings
from tests.simulation.join_oracle import LabelRow, OutputRow

Kind = Literal["errors", "unsure", "nulls", "silence", "late_labels"]
KINDS: tuple[Kind, ...] = ("errors", "unsure", "nulls", "silence", "late_labels")
Floats = npt.NDArray[np.float64]

SOURCES = 4
TICK_MS = 60_000
WEEK_MS = 7 * 86_400_000
T0_MS = 1_768_176_000_000
"""A Monday, 00:00 in UTC."""

RATES = {"alpha": 14.0, "beta": 8.0, "gamma": 1.5}
"""Outputs a tick, over all partitions."""

REGIONS, CHANNELS = ("north", "south"), ("app", "web")
HISTORY_TICKS = 600
YES, NO = 11, 22
"""Hashes of the two classes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one model in the ticks `[start, end)`."""

    model: str
    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """Outputs of one model; arrays have one entry an output."""

    made_at_ms: npt.NDArray[np.int64]
    confidence: Floats
    yes: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    delay_ms: npt.NDArray[np.int64]
    amount: Floats
    channel: npt.NDArray[np.int32]
    region: npt.NDArray[np.int32]

    @property
    def score(self) -> npt.NDArray[np.float32]:
        return np.where(self.yes, self.confidence, 1 - self.confidence).astype(np.float32)


def draw(rng: np.random.Generator, model: str, start_ms: int, ticks: int, faults: list[Fault]) -> Drawn:
    counts = rng.poisson(RATES[model], ticks)
    tick = np.repeat(np.arange(ticks), counts)
    made_at_ms = start_ms + tick * TICK_MS + rng.integers(0, TICK_MS, len(tick))
    confidence = 0.5 + 0.5 * rng.beta(4.0, 2.0, len(tick))
    chance, haste = rng.random(len(tick)), rng.exponential(1.0, len(tick))
    rate = 0.35 * (1 - confidence) * 2
    amount = np.where(rng.random(len(tick)) < 0.01, np.nan, rng.normal(100.0, 15.0, len(tick)))
    labelled_ms = np.full(len(tick), 90_000.0)
    keep = np.ones(len(tick), np.bool_)
    for fault in faults:
        hit = (tick >= fault.start) & (tick < fault.end) & (fault.model == model)
        match fault.kind:
            case "errors":
                rate = np.where(hit, 0.8, rate)
            case "unsure":
                confidence = np.where(hit, 0.5 + 0.1 * (confidence - 0.5), confidence)
            case "nulls":
                amount = np.where(hit, np.nan, amount)
            case "silence":
                keep &= ~hit
            case "late_labels":
                labelled_ms = np.where(hit, 600_000.0, labelled_ms)
    wrong = chance < rate
    delay_ms = np.maximum(1, haste * np.where(wrong, labelled_ms / 2, labelled_ms)).astype(np.int64)
    drawn = Drawn(
        made_at_ms=made_at_ms,
        confidence=confidence,
        yes=rng.random(len(tick)) < 0.5,
        wrong=wrong,
        delay_ms=delay_ms,
        amount=amount,
        channel=(rng.random(len(tick)) < 0.7).astype(np.int32),
        region=(rng.random(len(tick)) < 0.4).astype(np.int32),
    )
    return replace(drawn, **{name: getattr(drawn, name)[keep] for name in Drawn.__slots__})


@cache
def settings() -> Settings:
    """Read the deployment's settings."""
    return load(Path(__file__).with_name("sim.toml"), {}, {}, lambda _: ())


@cache
def join_settings() -> JoinSettings:
    """Return the join's own, with bounds so small that they are reached."""
    join, detect = settings().join, settings().detect
    return JoinSettings(
        tick_ms=join.tick_ms,
        allowed_disorder_ms=join.allowed_disorder_ms,
        idle_after_ms=join.idle_after_ms,
        default_label_wait_ms=join.label_wait_ms,
        orphan_wait_ms=join.orphan_wait_ms,
        correction_wait_ms=join.correction_wait_ms,
        future_skew_ms=join.future_skew_ms,
        max_lanes_per_model=detect.max_lanes_per_model,
        block_rows=8,
        orphans_bound_rows=10_000,
        needs=NEEDS,
    )


@cache
def baselines() -> tuple[Baseline, ...]:
    """Fit a baseline to each configured model's healthy week before."""
    fitted = []
    for number, name in enumerate(settings().models):
        start_ms = T0_MS - WEEK_MS
        drawn = draw(np.random.default_rng([4, number]), name, start_ms, HISTORY_TICKS, [])
        rows = len(drawn.made_at_ms)
        is_null = np.isnan(drawn.amount)
        history = History(
            made_at_ms=drawn.made_at_ms,
            labelled_at_ms=drawn.made_at_ms + drawn.delay_ms,
            wrong=drawn.wrong,
            score=drawn.score,
            confidence=drawn.confidence.astype(np.float32),
            version=Names(np.zeros(rows, np.int32), ("v1",)),
            segments={"region": Names(drawn.region, REGIONS)},
            features={
                "amount": FeatureHistory(
                    np.where(is_null, NULL_STATE, NUMBER).astype(np.int8),
                    drawn.amount,
                    Names(np.full(rows, -1, np.int32), ()),
                ),
                "channel": FeatureHistory(
                    np.full(rows, NAME, np.int8), np.full(rows, np.nan), Names(drawn.channel, CHANNELS)
                ),
            },
        )
        model = settings().models[name]
        fitted += fit_baseline(
            history,
            model,
            budget=settings().budget(),
            version=1,
            valid_from_ms=T0_MS - 3_600_000,
            decided_at_ms=T0_MS - 3_600_000,
        ).split()
    return tuple(fitted)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A row on its way: when it arrives, by the clock, and where."""

    at_ms: int
    partition: int
    row: OutputRow | LabelRow


@dataclass(frozen=True, slots=True)
class Workload:
    """All that arrives in one run, in the order of arrival."""

    arrivals: list[Arrival]
    faults: list[Fault]
    ticks: int


def workload(seed: int, *, ticks: int, partitions: int) -> Workload:
    """Make everything that arrives in one run."""
    rng = np.random.default_rng([seed, 1])
    faults = list(_faults(rng, ticks))
    silent = [sorted(rng.integers(0, ticks, 2).tolist()) for _ in range(partitions)]
    silent = [span if rng.random() < 0.3 else [0, 0] for span in silent]
    astray = sorted(np.random.default_rng([seed, 2]).integers(0, ticks // 2, 2).tolist())
    arrivals: list[Arrival] = []
    for number, model in enumerate(RATES):
        drawn = draw(rng, model, T0_MS, ticks, faults)
        for index, made_at_ms in enumerate(drawn.made_at_ms.tolist()):
            id_hash = number << 32 | index << 8 | 7
            tick = (made_at_ms - T0_MS) // TICK_MS
            awake = [p for p in range(partitions) if not silent[p][0] <= tick < silent[p][1]] or [0]
            # the low bits are those of every id
            partition = awake[(id_hash * 2_654_435_761 % 2**32 >> 16) % len(awake)]
            misplaced = astray[0] <= tick < astray[1] if index % 5 else None
            for at_ms, row in _rows(rng, model, drawn, index, id_hash):
                arrivals.append(Arrival(at_ms, partition, replace(row, misplaced=misplaced)))
    return Workload(sorted(arrivals, key=lambda arrival: arrival.at_ms), faults, ticks)


def _faults(rng: np.random.Generator, ticks: int) -> Iterator[Fault]:
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(8, ticks // 2))
        model = str(rng.choice(["alpha", "beta"]))
        yield Fault(model, KINDS[rng.integers(len(KINDS))], start, start + int(rng.integers(6, 14)))


def _rows(
    rng: np.random.Generator, model: str, drawn: Drawn, index: int, id_hash: int
) -> Iterator[tuple[int, OutputRow | LabelRow]]:
    """Everything that producers send about one output, with its time of arrival."""
    made_at_ms, labelled_at_ms = int(drawn.made_at_ms[index]), int(drawn.made_at_ms[index] + drawn.delay_ms[index])
    delay = int(rng.integers(0, 15_000))
    match rng.choice(["prompt", "slow", "very slow", "from the future"], p=[0.94, 0.04, 0.015, 0.005]):
        case "slow":
            delay = int(rng.integers(15_000, 120_000))
        case "very slow":
            delay = int(rng.integers(120_000, 1_200_000))
        case "from the future":
            delay = -int(rng.integers(130_000, 300_000))
    yes, score = bool(drawn.yes[index]), float(drawn.score[index])
    amount = float(drawn.amount[index])
    output = OutputRow(
        offset=0,
        broker_ms=0,
        id_hash=id_hash,
        made_at_ms=made_at_ms,
        model=model,
        version="v1",
        prediction=YES if yes else NO,
        content=id_hash & 0xFFFF,
        score=score,
        confidence=float(np.float32(drawn.confidence[index])),
        segments={"region": REGIONS[drawn.region[index]]} if model == "alpha" else {},
        features={"amount": None if np.isnan(amount) else amount, "channel": CHANNELS[drawn.channel[index]]},
    )
    yield made_at_ms + delay, output
    if rng.random() < 0.03:
        yield made_at_ms + delay + int(rng.integers(0, 300_000)), replace(output, content=int(rng.integers(2)))
    if rng.random() < 0.03:
        return
    truth = (NO if yes else YES) if drawn.wrong[index] else (YES if yes else NO)
    label = LabelRow(offset=0, broker_ms=0, id_hash=id_hash, labelled_at_ms=labelled_at_ms, model=model, label=truth)
    arrives = labelled_at_ms + int(rng.integers(0, 15_000))
    if rng.random() < 0.02:
        arrives += int(rng.integers(60_000, 900_000))
    yield arrives, label
    chance = rng.random()
    if chance < 0.03:
        yield arrives + int(rng.integers(0, 60_000)), label
    elif chance < 0.06:
        later = labelled_at_ms + int(rng.integers(0, 240_000))
        other = YES if truth == NO else NO
        yield later + 5_000, replace(label, labelled_at_ms=later, label=other, retracted=bool(rng.random() < 0.3))
    elif chance < 0.07:
        yield arrives, replace(label, id_hash=id_hash + 1)
