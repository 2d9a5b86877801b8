"""Into which bin does a value fall?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from schemas.binning import Binning, FeatureBins

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

SCORE_BINS = 20
CONFIDENCE_BINS = 8
DELAY_BINS = 8
HOUR_BLOCKS = 12
WEEK_HOURS = 168
HOUR_MS = 3_600_000

# Slots of a feature: what a value can be. 0..9 are the deciles of a number, 0..11 the top categories.
BELOW, ABOVE, OTHER, UNSEEN, NULL, WRONG_TYPE, ABSENT = 10, 11, 12, 13, 14, 15, 16
FEATURE_SLOTS = 17


def week_hour(at_ms: Ints) -> Ints:
    """Hour of the week in UTC, 0 = Monday 00:00.

    >>> week_hour(np.array([0]))  # 1970 began on a Thursday
    array([72])
    """
    return (at_ms // HOUR_MS + 72) % WEEK_HOURS


def hour_block(at_ms: Ints) -> Ints:
    """Block of two hours of the day in UTC, 0 to 11."""
    return at_ms // (2 * HOUR_MS) % HOUR_BLOCKS


def binned(values: npt.NDArray[np.number], edges: npt.ArrayLike, missing: int) -> Ints:
    """Bin by inner edges, `[edge, next)`; NaN falls into `missing`.

    >>> binned(np.array([0.1, 0.5, 0.9, np.nan]), [0.5], missing=2)
    array([0, 1, 1, 2])
    """
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="right").astype(np.int64)
    bins[np.isnan(values)] = missing
    return bins


def confidence_of(scores: Singles) -> Singles:
    """Confidence of a binary score: max(p, 1 - p)."""
    confidence: Singles = np.maximum(scores, np.float32(1) - scores)
    return confidence


def baseline_zero(tick_ms: int, threshold: float) -> Binning:
    """Return the bins of a model without a baseline: equal widths, one score edge at the threshold, roll-ups only.

    >>> baseline_zero(10_000, 0.5).score_edges[:3]
    [0.05, 0.1, 0.15]
    >>> 0.37 in baseline_zero(10_000, 0.37).score_edges
    True
    """
    edges = [round(0.05 * edge, 2) for edge in range(1, SCORE_BINS)]
    edges[min(range(len(edges)), key=lambda edge: abs(edges[edge] - threshold))] = threshold
    minute = 60_000
    return Binning(
        tick_ms=tick_ms,
        score_edges=sorted(edges),
        confidence_edges=[0.5 + 0.0625 * edge for edge in range(1, CONFIDENCE_BINS)],
        delay_edges_ms=[minute * 4**edge for edge in range(DELAY_BINS - 1)],
        age_edges_ticks=[0, *(6 * 4**edge for edge in range(8))],
    )


def logistic_shift(p: Floats, ratio: float | Floats) -> Floats:
    """Multiply the odds of `p` by `ratio`.

    >>> logistic_shift(np.array([0.05]), 2.0).round(4)
    array([0.0952])
    """
    shifted: Floats = expit(logit(p) + np.log(ratio))
    return shifted


NUMBER, NAME, NULL_STATE, ABSENT_STATE = 0, 1, 2, 3
"""What a row says of a feature, before it is read as what was declared."""


def name_slots(values: Sequence[str], bins: FeatureBins) -> Ints:
    """Slots of category names: top category, another that the reference held, or unseen.

    >>> name_slots(("a", "c", "z"), FeatureBins(name="x", kind="categorical", categories=["a", "b"], known=["c"]))
    array([ 0, 12, 13])
    """
    slots = {name: slot for slot, name in enumerate(bins.categories)} | dict.fromkeys(bins.known, OTHER)
    return np.array([slots.get(name, UNSEEN) for name in values], dtype=np.int64)


def feature_slots(
    state: npt.NDArray[np.int8], numbers: Floats, codes: npt.NDArray[np.int32], values: Sequence[str], bins: FeatureBins
) -> npt.NDArray[np.int16]:
    """Slot of one declared feature for each row, `int16[n]`.

    Parameters
    ----------
    state
        `NUMBER`, `NAME`, `NULL_STATE` or `ABSENT_STATE` for each row.
    numbers
        Its number; NaN elsewhere. A NaN that the row itself brought is a null.
    codes, values
        Its name is `values[code]`; -1 elsewhere.

    Examples
    --------
    >>> age = FeatureBins(name="age", kind="numeric", edges=[30.0, 50.0], low=0.0, high=95.0)
    >>> state = np.array([NUMBER, NUMBER, NAME, NULL_STATE, ABSENT_STATE], np.int8)
    >>> feature_slots(state, np.array([40.0, 400, np.nan, np.nan, np.nan]), np.full(5, -1, np.int32), (), age)
    array([ 1, 11, 15, 14, 16], dtype=int16)
    """
    slots = np.full(len(state), WRONG_TYPE, np.int64)
    slots[state == NULL_STATE] = NULL
    slots[state == ABSENT_STATE] = ABSENT
    if bins.kind == "numeric":
        of = np.flatnonzero(state == NUMBER)
        slots[of] = np.where(np.isnan(numbers[of]), NULL, numeric_slots(numbers[of], bins))
    elif len(values):
        of = np.flatnonzero(state == NAME)
        slots[of] = name_slots(values, bins)[codes[of]]
    return slots.astype(np.int16)


def numeric_slots(values: Floats, bins: FeatureBins) -> Ints:
    """Slots of numbers (not NaN): decile, or below or above what the reference held."""
    slots = np.searchsorted(np.asarray(bins.edges), values, side="right").astype(np.int64)
    slots[values < bins.low] = BELOW
    slots[values > bins.high] = ABOVE
    return slots
