"""How does healthy history become a baseline? Bins, sums, and a replay that decides which lanes may ring.

Pure: whoever calls it has read the file. The history is replayed through the detectors fitted to it, with a multiple
of each lane's share; where a lane rings in its own healthy past, the detector's null is widened step by step, and what
still rings stays in shadow. The width is written into the baseline: it says what the baseline hides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from detectors.alarm import Flags, Floats, Ints
from detectors.binning import CONFIDENCE_BINS, DELAY_BINS, SCORE_BINS, baseline_zero
from detectors.budget import Budget, Spend
from detectors.detector import Detector, Reference
from detectors.history import CountedHistory, History, counted
from detectors.replay import replay
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from detectors.watch import watch
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.lane import Lane
from schemas.model import Model

LEAST_OUTPUTS = 500
"""Outputs below which a history is no reference."""

VERSIONS_LISTED = 8
"""Versions of a history that become lanes, by traffic."""

TOP_CATEGORIES, KNOWN_CATEGORIES = 12, 1000
"""Category values with a slot of their own; and further ones that are known, by frequency."""

AGE_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
LONGEST_AGE_TICKS = 60_480
"""Age beyond which the label hazard is not followed: a week at 10 s."""

REPLAY_MS = 14 * 86_400_000
"""How much of a history is replayed, counted back from its last output; what is older is in the sums. A longer replay at
ten times each lane's share would ring by chance."""

REPLAY_SEVERITY = 10.0
"""How many times its share a lane spends in the replay: the baseline was fitted to what it is tried on."""


class HistoryError(ValueError):
    """A history is no reference; the message says what it lacks. What to do: bring more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many lanes a model may have, and how many of them roll-ups that ring."""

    max_lanes_per_model: int
    max_rollups_per_model: int


def fit_binning(history: History, model: Model, *, tick_ms: int, max_lanes: int) -> Binning:
    """Choose the bins that a history suggests."""
    zero = baseline_zero(tick_ms, model.threshold if model.kind == "classification" else 0.5)
    scores = history.score[~np.isnan(history.score)].astype(np.float64)
    confidence = history.confidence[~np.isnan(history.confidence)].astype(np.float64)
    delays = np.maximum(history.labelled_at_ms - history.made_at_ms, 0)[history.labelled]
    made, ended = (times[history.labelled] // tick_ms for times in (history.made_at_ms, history.labelled_at_ms))
    versions = history.version.most_frequent(VERSIONS_LISTED)
    return Binning(
        tick_ms=tick_ms,
        score_edges=_score_edges(scores, model.threshold) if len(scores) else zero.score_edges,
        confidence_edges=_inner(confidence, CONFIDENCE_BINS) if len(confidence) else zero.confidence_edges,
        delay_edges_ms=[round(edge) for edge in _inner(delays, DELAY_BINS)] if len(delays) else zero.delay_edges_ms,
        age_edges_ticks=age_edges(np.maximum(ended - made, 0)) if len(delays) else zero.age_edges_ticks,
        features=[_feature_bins(history, model, name) for name in model.features],
        segments=_segment_values(history, model, max_lanes // (1 + len(versions)) - 1),
        versions=versions,
    )


def _inner(values: Floats | Ints, bins: int) -> list[float]:
    """Edges between bins of equal counts."""
    return [float(edge) for edge in np.quantile(values, np.arange(1, bins) / bins)]


def _score_edges(scores: Floats, threshold: float) -> list[float]:
    """Return 19 edges: 18 of equal counts and the threshold."""
    return sorted([*_inner(scores, SCORE_BINS - 1), threshold])


def age_edges(ages: Ints) -> list[int]:
    """Place the edges of the age bins, in ticks, from the ages at which labels came; the first bin is the output's own tick.

    >>> age_edges(np.arange(1000))
    [0, 1, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 970]
    """
    inner = np.ceil(np.quantile(ages, AGE_QUANTILES)).astype(np.int64)
    inner = np.minimum(inner, LONGEST_AGE_TICKS)
    return sorted({0, 1, max(int(inner[-1]), 2), *inner.tolist()})


def _feature_bins(history: History, model: Model, name: str) -> FeatureBins:
    feature, required = history.features[name], name in model.required
    if model.features[name] == "categorical":
        values = feature.names.most_frequent(TOP_CATEGORIES + KNOWN_CATEGORIES)
        return FeatureBins(
            name=name,
            kind="categorical",
            required=required,
            categories=values[:TOP_CATEGORIES],
            known=values[TOP_CATEGORIES:],
        )
    numbers = feature.numbers[~np.isnan(feature.numbers)]
    if not len(numbers):
        return FeatureBins(name=name, kind="numeric", required=required, edges=[0.0] * 9)
    return FeatureBins(
        name=name,
        kind="numeric",
        required=required,
        edges=_inner(numbers, 10),
        low=float(numbers.min()),
        high=float(numbers.max()),
    )


def _segment_values(history: History, model: Model, most: int) -> dict[str, list[str]]:
    """Values that become lanes: by traffic over all segments, each segment's own most frequent first."""
    pairs = [
        (-count, name, value)
        for name in model.segments
        for value, count in zip(history.segments[name].values, history.segments[name].counts().tolist(), strict=True)
        if count
    ]
    listed: dict[str, list[str]] = {name: [] for name in model.segments}
    for _, name, value in sorted(pairs)[: max(most, 0)]:
        listed[name].append(value)
    return listed


def armable(lanes: tuple[str, ...], traffic: Ints, bounds: Bounds) -> Flags:
    """Which lanes may ring: the busiest roll-ups and the busiest finer lanes, as many as the budget was divided by."""
    rollup = np.array([Lane.of(name).is_rollup for name in lanes], dtype=np.bool_)
    order = np.argsort(-traffic, kind="stable")
    armed = np.zeros(len(lanes), np.bool_)
    for kind, most in ((True, bounds.max_rollups_per_model), (False, bounds.max_lanes_per_model)):
        armed[order[rollup[order] == kind][:most]] = True
    return armed


def fit_baseline(
    history: History,
    model: Model,
    *,
    budget: Budget,
    version: int,
    valid_from_ms: int,
    decided_at_ms: int,
    told: Callable[[str, float], None] | None = None,
) -> Baseline:
    """Fit a baseline to a healthy history, replay it, and arm what passes.

    Parameters
    ----------
    budget
        Of the deployment; the model must be one of its.
    version, valid_from_ms, decided_at_ms
        What the baseline is called, from which event time on it holds, when that was decided.
    told
        Called now and then with what is being done and its share of the whole, for progress.

    Raises
    ------
    HistoryError
        When the history is too short to be a reference.
    """
    if len(history.made_at_ms) < LEAST_OUTPUTS:
        raise HistoryError(f"history: expected at least {LEAST_OUTPUTS} outputs, got {len(history.made_at_ms)}")
    bounds = Bounds(max_lanes_per_model=budget.max_lanes_per_model, max_rollups_per_model=budget.max_rollups_per_model)
    binning = fit_binning(history, model, tick_ms=budget.tick_ms, max_lanes=bounds.max_lanes_per_model)
    counts = counted(history, binning, needed(NEEDS))
    reference = Reference(
        model=model,
        binning=binning,
        lanes=counts.lanes,
        arrays=counts.total(),
        reference_ms=counts.reference_ms,
    )
    may_ring = armable(counts.lanes, reference.arrays["outputs"][:, 0], bounds)
    armed, tolerance = _replayed(counts, reference, may_ring, budget, told)
    return Baseline(
        model=model.name,
        version=version,
        valid_from_ms=valid_from_ms,
        binning=binning,
        reference_ms=reference.reference_ms,
        armed={
            name: tuple(lane for lane, on in zip(counts.lanes, flags, strict=True) if on)
            for name, flags in armed.items()
        },
        tolerance=tolerance,
        decided_at_ms=decided_at_ms,
        lanes=counts.lanes,
        arrays=reference.arrays,
    )


def spend_of(budget: Budget, model: str, detector: Detector) -> Spend | None:
    """Shares of a detector; None where it rings by rule."""
    return None if detector.guarantee == "none" else budget.spend(model, detector.name)


def _replayed(
    counts: CountedHistory,
    reference: Reference,
    may_ring: Flags,
    budget: Budget,
    told: Callable[[str, float], None] | None,
) -> tuple[dict[str, Flags], dict[str, float]]:
    """Replay until each detector is silent or as wide as it may be; return who may ring, and how wide each is."""
    armed: dict[str, Flags] = {}
    tolerance: dict[str, float] = {}
    open_questions = dict.fromkeys(DETECTORS, 0)
    while open_questions:
        widths = {name: DETECTORS[name].tolerances[step] for name, step in open_questions.items()}
        rang = _ringing(counts, reference, may_ring, widths, budget, told)
        for name, step in list(open_questions.items()):
            if name not in rang:
                del open_questions[name]
                continue
            last = step + 1 == len(DETECTORS[name].tolerances)
            if not rang[name].any() or last:
                armed[name], tolerance[name] = may_ring & ~rang[name], widths[name]
                del open_questions[name]
            else:
                open_questions[name] = step + 1
    fitted = {name: DETECTORS[name].fit(reference, width) for name, width in tolerance.items()}
    return {name: armed[name] & one.watched for name, one in fitted.items() if one is not None}, tolerance


def _ringing(
    counts: CountedHistory,
    reference: Reference,
    may_ring: Flags,
    widths: Mapping[str, float],
    budget: Budget,
    told: Callable[[str, float], None] | None,
) -> dict[str, Flags]:
    """Say which lanes ring in the replay, for each detector that can be fitted."""
    rang: dict[str, Flags] = {}
    first = max(counts.output_ticks - REPLAY_MS // budget.tick_ms, 0)
    for name, width in widths.items():
        fitted = DETECTORS[name].fit(reference, width)
        if fitted is not None:
            share = spend_of(budget, reference.model.name, DETECTORS[name])
            shadow = watch(DETECTORS[name], fitted, reference.lanes, np.zeros_like(may_ring), share)
            one = replace(shadow, spend=shadow.spend * (1.0 if share is None else REPLAY_SEVERITY))
            tell = None if told is None else partial(_tell, told, f"replaying {name}", first, counts.ticks)
            rang[name] = (replay(one, counts, first, tell).alarms > 0) & may_ring
    return rang


def _tell(told: Callable[[str, float], None], what: str, first: int, ticks: int, tick: int) -> None:
    told(what, (tick - first) / (ticks - first))
