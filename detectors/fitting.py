"""How does healthy history become a baseline? Bins, sums, and a replay that decides which lanes may ring.

Pure: whoever calls it has read the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from detectors.alarm import Floats, Ints
from detectors.arming import arm
from detectors.binning import CONFIDENCE_BINS, DELAY_BINS, SCORE_BINS, baseline_zero
from detectors.budget import Budget
from detectors.detector import Reference, Unarmed
from detectors.history import History, counted
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
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


class HistoryError(ValueError):
    """A history is no reference; the message says what it lacks, or has too much of, and what to do."""


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

    The last bin holds the age of its last edge's quantile too: labels that all come at one age are in it.

    >>> age_edges(np.arange(1000))
    [0, 1, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 971]
    >>> age_edges(np.full(1000, 60))
    [0, 1, 60, 61]
    """
    quantiles = np.ceil(np.quantile(ages, AGE_QUANTILES)).astype(np.int64)
    *inner, last = np.minimum(quantiles, LONGEST_AGE_TICKS).tolist()
    return sorted({0, 1, max(last + 1, 2), *inner})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A baseline, and by detector why lanes for which it is meant are not armed in it."""

    baseline: Baseline
    unarmed: Mapping[str, Mapping[str, Unarmed]]


def learn(
    history: History,
    model: Model,
    *,
    budget: Budget,
    version: int,
    valid_from_ms: int,
    decided_at_ms: int,
    told: Callable[[str, float], None] | None = None,
) -> Learned:
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
        When the history is too short to be a reference, or what is learned from it too large to be published.
    """
    if len(history.made_at_ms) < LEAST_OUTPUTS:
        raise HistoryError(f"history: expected at least {LEAST_OUTPUTS} outputs, got {len(history.made_at_ms)}")
    binning = fit_binning(history, model, tick_ms=budget.tick_ms, max_lanes=budget.max_lanes_per_model)
    counts = counted(history, binning, needed(NEEDS))
    reference = Reference(
        model=model,
        binning=binning,
        lanes=counts.lanes,
        arrays=counts.total(),
        reference_ms=counts.reference_ms,
    )
    baseline = Baseline(
        model=model.name,
        version=version,
        valid_from_ms=valid_from_ms,
        binning=binning,
        reference_ms=reference.reference_ms,
        armed=dict.fromkeys(DETECTORS, counts.lanes),
        tolerance=dict.fromkeys(DETECTORS, 1 / 3),
        decided_at_ms=decided_at_ms,
        lanes=counts.lanes,
        arrays=reference.arrays,
    )
    if said := baseline.too_large():  # arming takes hours, and can only make it smaller
        raise HistoryError(f"the baseline of {model.name} is {said}")
    decided = arm(counts, reference, budget, told)
    armed = {
        name: tuple(lane for lane, on in zip(counts.lanes, flags, strict=True) if on)
        for name, flags in decided.armed.items()
    }
    return Learned(baseline=replace(baseline, armed=armed, tolerance=decided.tolerance), unarmed=decided.unarmed)


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
    """Learn, and keep the baseline alone."""
    return learn(
        history,
        model,
        budget=budget,
        version=version,
        valid_from_ms=valid_from_ms,
        decided_at_ms=decided_at_ms,
        told=told,
    ).baseline
