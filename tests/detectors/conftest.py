"""A model that is healthy by construction, and ways to harm it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from detectors.alarm import Floats, Ints
from detectors.arming import spend_of
from detectors.binning import NULL_STATE, NUMBER, confidence_of
from detectors.budget import Budget
from detectors.detector import Reference, Tick
from detectors.fitting import fit_baseline
from detectors.history import NO_LABEL, FeatureHistory, History, Names, counted
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from detectors.watch import Alarm, advance, begin, watch
from schemas.baseline import Baseline
from schemas.model import Model

MINUTE_MS = 60_000
TICK_MS = 10_000
MODEL = Model(
    name="m",
    kind="classification",
    threshold=0.5,
    sla_accuracy=0.72,
    segments=("region",),
    features={"age": "numeric"},
    required=("age",),
    label_wait_ms=86_400_000,
    tier="standard",
)
BUDGET = Budget(
    pages_per_week=1,
    tickets_per_week=20,
    tick_ms=TICK_MS,
    tiers={"m": "standard"},
    max_lanes_per_model=500,
    max_rollups_per_model=16,
)


def stream(seed: int, minutes: int, *, rate: int = 120) -> History:
    """Draw `rate` outputs a minute whose scores are right about themselves; three regions.

    Wrong answers are learned after 10 minutes on average, right ones after 30.
    """
    rng, n = np.random.default_rng(seed), minutes * rate
    made = np.arange(n, dtype=np.int64) * MINUTE_MS // rate
    score = rng.beta(1.2, 1.2, n)
    wrong = (rng.random(n) < score) != (score >= 0.5)
    delay = rng.exponential(np.where(wrong, 10.0, 30.0) * MINUTE_MS).astype(np.int64)
    none = Names(np.full(n, -1, np.int32), ())
    return History(
        made_at_ms=made,
        labelled_at_ms=made + delay,
        wrong=wrong,
        score=score.astype(np.float32),
        confidence=confidence_of(score.astype(np.float32)),
        version=Names(np.zeros(n, np.int32), ("7",)),
        segments={"region": Names(rng.choice(3, n, p=[0.5, 0.3, 0.2]).astype(np.int32), ("north", "south", "west"))},
        features={"age": FeatureHistory(np.full(n, NUMBER, np.int8), rng.uniform(18, 90, n), none)},
    )


def between(history: History, from_minute: float, to_minute: float) -> npt.NDArray[np.bool_]:
    """Rows made in these minutes."""
    made = history.made_at_ms / MINUTE_MS
    chosen: npt.NDArray[np.bool_] = (made >= from_minute) & (made < to_minute)
    return chosen


@dataclass
class Run:
    """What a replay gave: alarms and clearings as (minute, detector, lane)."""

    alarms: list[tuple[float, str, str]] = field(default_factory=list)
    cleared: list[tuple[float, str, str]] = field(default_factory=list)
    details: list[tuple[str, Alarm, int]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def first(self, detector: str, lane: str | None = None) -> float:
        """Minute of the first alarm, infinite where there is none."""
        return min((at for at, name, of in self.alarms if name == detector and lane in {None, of}), default=np.inf)

    def rang(self, *, paging: bool) -> set[str]:
        """Names of the detectors that rang, of those that page or of those that open tickets."""
        tickets = {"confidence_drop", "label_pipeline", "label_silence"}
        return {name for _, name, _ in self.alarms if (name not in tickets) == paging}


class Bench:
    """A baseline and its detectors, to replay streams against."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.reference = Reference(
            model=MODEL,
            binning=baseline.binning,
            lanes=baseline.lanes,
            arrays=baseline.arrays,
            reference_ms=baseline.reference_ms,
        )

    def ticks(self, history: History) -> list[Tick]:
        """Statistics of each tick up to the last output."""
        counts = counted(history, self.baseline.binning, needed(NEEDS))
        return list(islice(counts.each_tick(), counts.output_ticks))

    def run(self, ticks: list[Tick], names: tuple[str, ...] = tuple(DETECTORS), severity: float = 1.0) -> Run:
        """Replay; `severity` multiplies the shares."""
        found = Run()
        for name in names:
            fitted = DETECTORS[name].fit(self.reference, self.baseline.tolerance[name])
            assert fitted is not None
            armed = np.array([lane in self.baseline.armed[name] for lane in self.baseline.lanes])
            one = watch(DETECTORS[name], fitted, self.baseline.lanes, armed, spend_of(BUDGET, "m", DETECTORS[name]))
            one = replace(one, spend=one.spend * severity)
            state = begin(one)
            for tick in ticks:
                state, outcome = advance(one, state, tick, lump=0.0, disturbed=False)
                at = tick.end_ms / MINUTE_MS
                found.alarms += [(at, name, self.baseline.lanes[alarm.lane]) for alarm in outcome.alarms]
                found.details += [(name, alarm, state.ticks) for alarm in outcome.alarms]
                found.cleared += [(at, name, self.baseline.lanes[lane]) for lane in outcome.cleared.tolist()]
                found.spent[name] = found.spent.get(name, 0.0) + outcome.spent
        found.alarms.sort()
        return found


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Fit a baseline to four healthy hours."""
    return Bench(fit_baseline(stream(0, 240), MODEL, budget=BUDGET, version=1, valid_from_ms=0, decided_at_ms=0))


@pytest.fixture(scope="session")
def at_one_age() -> Bench:
    """Fit a baseline to four healthy hours in which each label comes 10 minutes after its output."""
    history = stream(0, 240)
    labelled = with_labels_at(history, history.made_at_ms + 10 * MINUTE_MS)
    return Bench(fit_baseline(labelled, MODEL, budget=BUDGET, version=1, valid_from_ms=0, decided_at_ms=0))


@dataclass(frozen=True)
class Ways:
    """What tests of detectors need, by name."""

    stream: Callable[..., History] = stream
    between: Callable[[History, float, float], npt.NDArray[np.bool_]] = between
    budget: Budget = BUDGET
    model: Model = MODEL


@pytest.fixture(scope="session")
def ways() -> Ways:
    """Hand over streams and how to cut them."""
    return Ways()


def with_answers_wrong(history: History, rows: npt.NDArray[np.bool_], share: float) -> History:
    """Turn the truth of a share of these rows around; what is wrong is learned in a third of the time."""
    flip = rows & (np.random.default_rng(9).random(len(rows)) < share)
    delay = (history.labelled_at_ms - history.made_at_ms) * np.where(flip, np.where(history.wrong, 3.0, 1 / 3), 1.0)
    return replace(history, wrong=history.wrong ^ flip, labelled_at_ms=history.made_at_ms + delay.astype(np.int64))


def with_ages(history: History, rows: npt.NDArray[np.bool_], numbers: Floats | None) -> History:
    """Replace the feature in these rows; None makes it null."""
    age = history.features["age"]
    state = np.where(rows, NULL_STATE, age.state).astype(np.int8) if numbers is None else age.state
    values = np.where(rows, np.nan if numbers is None else numbers, age.numbers)
    return replace(history, features={"age": FeatureHistory(state, values, age.names)})


def with_labels_at(history: History, labelled_at_ms: Ints) -> History:
    """Give labels other times; `NO_LABEL` takes them away."""
    wrong = history.wrong & (labelled_at_ms != NO_LABEL)
    return replace(history, labelled_at_ms=labelled_at_ms, wrong=wrong)


@pytest.fixture(scope="session")
def harm() -> Mapping[str, Callable[..., History]]:
    """Hand over ways to harm a stream, by name."""
    return {"answers": with_answers_wrong, "ages": with_ages, "labels": with_labels_at}
