"""A baseline that does not fit is refused with the reason, before anything leans on it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as changed

from detectors.binning import baseline_zero
from detectors.history import lane_names
from detectors.statistics import STATISTICS
from detectors.usable import fits, refuse_unusable
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.fields import MalformedRecordError

TICK_MS = 10_000
BINS = changed(
    baseline_zero(TICK_MS, 0.5),
    features=[FeatureBins(name="age", kind="numeric", edges=[float(edge) for edge in range(9)], low=0.0, high=9.0)],
    segments={"region": ["west"]},
    versions=["7"],
)


def baseline(bins: Binning = BINS, **others: Any) -> Baseline:  # noqa: ANN401 -- any field
    lanes = lane_names(bins)
    said: dict[str, Any] = {
        "model": "m", "version": 1, "valid_from_ms": 0, "binning": bins, "reference_ms": (0, 1), "armed": {},
        "tolerance": {"raw_error": 0.25}, "decided_at_ms": 0, "lanes": lanes,
        "arrays": {name: np.ones((len(lanes), *one.shape(bins)), np.int64) for name, one in STATISTICS.items()},
    }  # fmt: skip
    return Baseline(**said | others)


def without(name: str) -> Baseline:
    return baseline(arrays={key: array for key, array in baseline().arrays.items() if key != name})


UNUSABLE: dict[str, tuple[Callable[[], Baseline], str]] = {
    "of another tick": (lambda: baseline(changed(BINS, tick_ms=60_000)), "binning.tick_ms"),
    "an edge too few": (lambda: baseline(changed(BINS, score_edges=BINS.score_edges[1:])), "binning.score_edges"),
    "falling edges": (
        lambda: baseline(changed(BINS, confidence_edges=BINS.confidence_edges[::-1])), "binning.confidence_edges",
    ),
    "a delay edge too many": (
        lambda: baseline(changed(BINS, delay_edges_ms=[*BINS.delay_edges_ms, 2**40])), "binning.delay_edges_ms",
    ),
    "no age bin": (lambda: baseline(changed(BINS, age_edges_ticks=[0])), "binning.age_edges_ticks"),
    "ages not from 0": (lambda: baseline(changed(BINS, age_edges_ticks=[1, 2])), "binning.age_edges_ticks"),
    "a feature without bins": (
        lambda: baseline(changed(BINS, features=[FeatureBins(name="age", kind="numeric")])),
        "binning.features[0].edges",
    ),
    "too many categories": (
        lambda: baseline(
            changed(BINS, features=[FeatureBins(name="c", kind="categorical", categories=list("abcdefghijklm"))])
        ),
        "binning.features[0].categories",
    ),
    "a part beyond its parts": (lambda: baseline(part=2, parts=2), "part"),
    "not the whole model first": (lambda: baseline(lanes=lane_names(BINS)[1:]), "lanes"),
    "a lane that is not listed": (lambda: baseline(lanes=("*", "version:8")), "lanes"),
    "a lane twice": (lambda: baseline(lanes=("*", "version:7", "version:7")), "lanes"),
    "a tolerance below 0": (lambda: baseline(tolerance={"raw_error": -0.5}), "tolerance"),
    "of a version with fewer statistics": (lambda: without("outputs_by_week_hour"), "statistics.outputs_by_week_hour"),
    "of a version with other shapes": (
        lambda: baseline(arrays={**baseline().arrays, "labelled": np.ones((4, 2), np.int64)}), "statistics.labelled",
    ),
    "more wrong than labelled": (
        lambda: baseline(arrays={**baseline().arrays, "wrong_by_delay_hour": np.full((4, 8, 12), 2)}),
        "statistics.wrong_by_delay_hour",
    ),
}  # fmt: skip


def test_what_fits_is_taken() -> None:
    refuse_unusable(baseline(), tick_ms=TICK_MS, needs=STATISTICS)
    refuse_unusable(without("label_flips"), tick_ms=TICK_MS, needs=["outputs"])
    second = baseline(part=1, parts=2, lanes=("version:7",), arrays={"outputs": np.ones((1, 1), np.int64)})
    refuse_unusable(second, tick_ms=TICK_MS, needs=["outputs"])


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_does_not_fit_is_refused_with_the_reason(case: str) -> None:
    made, field = UNUSABLE[case]
    with pytest.raises(MalformedRecordError) as refused:
        refuse_unusable(made(), tick_ms=TICK_MS, needs=STATISTICS)
    assert refused.value.field == field


def test_statistics_of_another_shape_do_not_fit() -> None:
    arrays = {"outputs": np.ones((2, 1), np.int64), "unheard_of": np.ones((2, 99), np.int64)}
    assert fits(BINS, ["*", "version:7"], arrays, STATISTICS.values())
    assert not fits(BINS, ["*"], arrays, STATISTICS.values())
    assert not fits(BINS, ["*", "version:7"], {"outputs": np.ones((2, 2), np.int64)}, STATISTICS.values())
