"""What is counted of each tick, lane by lane? One table; a detector names what it needs, the join computes the union.

All are integers that add up over source partitions, ticks and lanes, so that neither order nor batching can change
a result. The W-codes are those of the literature notes behind this project, which have none for some.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from detectors.binning import (
    CONFIDENCE_BINS,
    DELAY_BINS,
    FEATURE_SLOTS,
    HOUR_BLOCKS,
    SCORE_BINS,
    WEEK_HOURS,
    Ints,
    Singles,
    binned,
    hour_block,
    week_hour,
)
from schemas.binning import Binning


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputRows:
    """Outputs as they are counted: `n` rows of one model in one tick.

    Parameters
    ----------
    tick_ms
        Start of the counting tick.
    score, confidence
        In [0, 1], NaN where the output has none.
    feature_slots
        `int16[n, features]`: slot of each declared feature (`detectors.binning`).
    """

    tick_ms: Ints
    score: Singles
    confidence: Singles
    feature_slots: npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRows:
    """Labelled outcomes as they are counted: `n` rows of one model in one tick.

    Parameters
    ----------
    made_at_ms, delay_ms
        When the output was made, and how much later the label (0 when the label's time is earlier).
    wrong
        Whether the answer was wrong.
    """

    tick_ms: Ints
    made_at_ms: Ints
    delay_ms: Ints
    score: Singles
    confidence: Singles
    wrong: npt.NDArray[np.bool_]


Rows = OutputRows | LabelledRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One entry of the table.

    Parameters
    ----------
    codes
        What it is in the notes, or a sum of; none where they have no such count.
    of
        Which rows count: `outputs`, `labelled` (outcomes with a label), `expired` (outcomes without), `flips`
        (corrections that change whether the answer was wrong), or `ages` (the label hazard, kept by the join for the
        whole model only).
    shape
        Shape behind the lane axis.
    bins
        Flat bin of each row, `int64[n]` or `int64[n, features]`; -1 does not count. None: every row counts in the one
        bin.
    """

    name: str
    codes: tuple[str, ...]
    of: Literal["outputs", "labelled", "expired", "flips", "ages"]
    shape: Callable[[Binning], tuple[int, ...]]
    bins: Callable[[Rows, Binning], Ints] | None = None


def _one(_: Binning) -> tuple[int, ...]:
    return (1,)


def _score(rows: Rows, bins: Binning) -> Ints:
    return binned(rows.score, bins.score_edges, SCORE_BINS)


def _confidence(rows: Rows, bins: Binning) -> Ints:
    return binned(rows.confidence, bins.confidence_edges, CONFIDENCE_BINS)


def _delay(rows: Rows, bins: Binning) -> Ints:
    assert isinstance(rows, LabelledRows)
    return np.searchsorted(np.asarray(bins.delay_edges_ms), rows.delay_ms, side="right").astype(np.int64)


def _delay_confidence(rows: Rows, bins: Binning) -> Ints:
    confidence = binned(rows.confidence, bins.confidence_edges, CONFIDENCE_BINS)
    return _delay(rows, bins) * (CONFIDENCE_BINS + 1) + confidence


def _delay_hour(rows: Rows, bins: Binning) -> Ints:
    assert isinstance(rows, LabelledRows)
    return _delay(rows, bins) * HOUR_BLOCKS + hour_block(rows.made_at_ms)


def _if_wrong(of: Callable[[Rows, Binning], Ints]) -> Callable[[Rows, Binning], Ints]:
    def bins(rows: Rows, binning: Binning) -> Ints:
        assert isinstance(rows, LabelledRows)
        return np.where(rows.wrong, of(rows, binning), -1)

    return bins


def _week_hour(rows: Rows, _: Binning) -> Ints:
    return week_hour(rows.tick_ms)


def _features(rows: Rows, _: Binning) -> Ints:
    assert isinstance(rows, OutputRows)
    slots = rows.feature_slots.astype(np.int64)
    return np.where(slots < 0, -1, slots + FEATURE_SLOTS * np.arange(slots.shape[1]))


def _delay_by_confidence(_: Binning) -> tuple[int, ...]:
    return (DELAY_BINS, CONFIDENCE_BINS + 1)


def _delay_by_hour(_: Binning) -> tuple[int, ...]:
    return (DELAY_BINS, HOUR_BLOCKS)


def _ages(bins: Binning) -> tuple[int, ...]:
    return (len(bins.age_edges_ticks) - 1,)


STATISTICS: Mapping[str, Statistic] = {
    one.name: one
    for one in (
        Statistic(name="outputs", codes=("W1",), of="outputs", shape=_one),
        Statistic(name="outputs_by_score", codes=("W1",), of="outputs", shape=lambda _: (SCORE_BINS + 1,), bins=_score),
        Statistic(
            name="outputs_by_confidence",
            codes=("W1",),
            of="outputs",
            shape=lambda _: (CONFIDENCE_BINS + 1,),
            bins=_confidence,
        ),
        Statistic(name="outputs_by_week_hour", codes=(), of="outputs", shape=lambda _: (WEEK_HOURS,), bins=_week_hour),
        Statistic(name="labelled", codes=("W2",), of="labelled", shape=_one),
        Statistic(
            name="labelled_by_week_hour", codes=(), of="labelled", shape=lambda _: (WEEK_HOURS,), bins=_week_hour
        ),
        Statistic(
            name="labelled_by_delay_confidence",
            codes=("W2",),
            of="labelled",
            shape=_delay_by_confidence,
            bins=_delay_confidence,
        ),
        Statistic(
            name="wrong_by_delay_confidence",
            codes=("W2",),
            of="labelled",
            shape=_delay_by_confidence,
            bins=_if_wrong(_delay_confidence),
        ),
        Statistic(name="labelled_by_delay_hour", codes=("W3",), of="labelled", shape=_delay_by_hour, bins=_delay_hour),
        Statistic(
            name="wrong_by_delay_hour", codes=("W3",), of="labelled", shape=_delay_by_hour, bins=_if_wrong(_delay_hour)
        ),
        Statistic(name="expired", codes=(), of="expired", shape=_one),
        Statistic(name="label_flips", codes=(), of="flips", shape=_one),
        Statistic(name="at_risk_by_age", codes=("W5",), of="ages", shape=_ages),
        Statistic(name="labelled_by_age", codes=("W5",), of="ages", shape=_ages),
        Statistic(
            name="feature_slots",
            codes=("W6", "W7"),  # W7's wrong type and absent are its last two slots
            of="outputs",
            shape=lambda bins: (len(bins.features), FEATURE_SLOTS),
            bins=_features,
        ),
    )
}
"""Every statistic by name.

The two of `ages` are item-ticks: `at_risk_by_age[a]` counts, in this tick, the outputs whose age (counting tick of now
less that of the output, in whole ticks) lies in age bin `a` and that were pending when it began, or count in it;
`labelled_by_age[a]` those of them that are labelled in this tick. They are kept for the whole model (`*`) only.
"""


def needed(names: Iterable[str]) -> tuple[Statistic, ...]:
    """Return the statistics of these names in the order of the table; an unknown name is our own fault."""
    wanted = set(names)
    assert wanted <= STATISTICS.keys(), sorted(wanted - STATISTICS.keys())
    return tuple(one for name, one in STATISTICS.items() if name in wanted)
