"""Can this Tocsin count and judge by a baseline? One made by another version, or for another tick, may not fit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from detectors.binning import BELOW, CONFIDENCE_BINS, DELAY_BINS, OTHER, SCORE_BINS, Ints
from detectors.history import lane_names
from detectors.statistics import Statistic, needed
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.fields import MalformedRecordError

FEATURE_EDGES = BELOW - 1
"""Edges between the bins of a number, which are the slots before that of what lies below all of them."""
TOP_CATEGORIES = OTHER
MOST_TOLERANCE = 10.0
"""In log-odds; what `tocsin baseline build` may add is far below."""

PARTS_OF: Mapping[str, str] = {
    "wrong_by_delay_confidence": "labelled_by_delay_confidence",
    "wrong_by_delay_hour": "labelled_by_delay_hour",
    "labelled_by_age": "at_risk_by_age",
}
"""What is counted only where the other is."""

Fault = tuple[str, str, str]
"""Field, what was expected, what came."""


def refuse_unusable(baseline: Baseline, *, tick_ms: int, needs: Iterable[str]) -> None:
    """Refuse a part of a baseline whose bins or counts are not those that this Tocsin works with.

    What to do: build and publish it anew (`tocsin baseline build`).

    Parameters
    ----------
    tick_ms
        Of the deployment.
    needs
        Names of the statistics that are judged.

    Raises
    ------
    MalformedRecordError
        With the first thing that does not fit.
    """
    faults = chain(_of_bins(baseline.binning, tick_ms), _of_parts(baseline), _of_counts(baseline, needed(needs)))
    first = next(faults, None)
    if first is not None:
        raise MalformedRecordError("baseline", *first)


def fits(binning: Binning, lanes: Sequence[str], arrays: Mapping[str, Ints], statistics: Iterable[Statistic]) -> bool:
    """Whether those counts that are there have the shapes that belong to the bins.

    >>> from detectors.binning import baseline_zero
    >>> bins, one = baseline_zero(10_000, 0.5), needed(["outputs_by_score"])
    >>> [fits(bins, ["*"], {"outputs_by_score": np.zeros((1, size), np.int64)}, one) for size in (21, 20)]
    [True, False]
    """
    return all(
        one.name not in arrays or arrays[one.name].shape == (len(lanes), *one.shape(binning)) for one in statistics
    )


def _of_bins(bins: Binning, tick_ms: int) -> Iterator[Fault]:
    if bins.tick_ms != tick_ms:
        yield "binning.tick_ms", f"the tick of this deployment ({tick_ms} ms)", f"{bins.tick_ms} ms"
    for name, edges, count in (
        ("score_edges", bins.score_edges, SCORE_BINS - 1),
        ("confidence_edges", bins.confidence_edges, CONFIDENCE_BINS - 1),
        ("delay_edges_ms", bins.delay_edges_ms, DELAY_BINS - 1),
    ):
        if len(edges) != count or not _rises(edges):
            yield f"binning.{name}", f"{count} rising edges", _described(edges)
    ages = bins.age_edges_ticks
    if len(ages) < 2 or ages[0] != 0 or not _rises(ages, strictly=True):  # noqa: PLR2004 - one bin has two edges
        yield "binning.age_edges_ticks", "rising edges from 0 on", _described(ages)
    for number, feature in enumerate(bins.features):
        yield from _of_feature(f"binning.features[{number}]", feature)


def _of_feature(where: str, feature: FeatureBins) -> Iterator[Fault]:
    if feature.kind == "numeric" and (len(feature.edges) != FEATURE_EDGES or not _rises(feature.edges)):
        yield f"{where}.edges", f"{FEATURE_EDGES} rising edges", _described(feature.edges)
    if len(feature.categories) > TOP_CATEGORIES:
        yield f"{where}.categories", f"at most {TOP_CATEGORIES}", str(len(feature.categories))


def _of_parts(baseline: Baseline) -> Iterator[Fault]:
    if baseline.part >= baseline.parts:
        yield "part", f"a number below parts ({baseline.parts})", str(baseline.part)
    lanes = lane_names(baseline.binning)
    if baseline.part == 0 and baseline.lanes[:1] != lanes[:1]:
        yield "lanes", "the whole model first", f"{len(baseline.lanes)} others"
    if len(set(baseline.lanes)) != len(baseline.lanes) or not set(lanes).issuperset(baseline.lanes):
        yield "lanes", "lanes of the listed versions and segment values, each once", "others"
    for tolerance in baseline.tolerance.values():
        if not 0.0 <= tolerance <= MOST_TOLERANCE:
            yield "tolerance", f"log-odds from 0 to {MOST_TOLERANCE:g}", f"{tolerance:g}"


def _of_counts(baseline: Baseline, statistics: Iterable[Statistic]) -> Iterator[Fault]:
    for one in statistics:
        shape = (len(baseline.lanes), *one.shape(baseline.binning))
        if one.name not in baseline.arrays:
            yield f"statistics.{one.name}", f"counts of shape {list(shape)}", "none"
        elif baseline.arrays[one.name].shape != shape:
            yield f"statistics.{one.name}", f"counts of shape {list(shape)}", str(list(baseline.arrays[one.name].shape))
    for part, whole in PARTS_OF.items():
        if {part, whole} <= baseline.arrays.keys() and np.any(baseline.arrays[part] > baseline.arrays[whole]):
            yield f"statistics.{part}", f"no more than {whole}", "more"


def _rises(edges: Sequence[float], *, strictly: bool = False) -> bool:
    steps = np.diff(np.asarray(edges, np.float64))
    return bool(np.all(steps > 0) if strictly else np.all(steps >= 0))


def _described(edges: Sequence[float]) -> str:
    return f"{len(edges)} of them" + ("" if _rises(edges) else ", some falling")
