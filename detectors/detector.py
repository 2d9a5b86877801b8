"""What is a detector? Parameters, the statistics that it needs, and log e-values; all else is shared.

A detector is fitted to a reference: the sum of its statistics over a healthy history, lane by lane. What comes out
answers for all lanes of a model at once; lanes are the first axis of every array and never touch one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np

from detectors.alarm import Flags, Floats, Ints
from detectors.onset import GROUPS
from schemas.binning import Binning
from schemas.finding import Effect
from schemas.lane import OTHER, Lane
from schemas.model import Model

Z = 1.64
"""Standard errors by which a baseline sits on the safe side (one-sided 5 %)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What healthy looked like.

    Parameters
    ----------
    lanes
        Names, the first axis of every array.
    arrays
        Per statistic its sum over the history, `int64[lanes, ...]`.
    reference_ms
        The history, `[from, to)`.
    """

    model: Model
    binning: Binning
    lanes: tuple[str, ...]
    arrays: Mapping[str, Ints]
    reference_ms: tuple[int, int]

    def rollups_only(self) -> Flags:
        """Lanes of all segment values: the whole model, and each of its versions."""
        return np.array([not Lane.of(name).segment for name in self.lanes], dtype=np.bool_)

    def of_any_version(self) -> Flags:
        """Lanes of all versions: the whole model, and each segment value."""
        return np.array([not Lane.of(name).version for name in self.lanes], dtype=np.bool_)

    def whole(self) -> int:
        """Index of the lane that is the whole model."""
        return self.lanes.index("*")

    def whole_only(self) -> Flags:
        """Return the one lane that is the whole model."""
        return np.array([name == "*" for name in self.lanes], dtype=np.bool_)

    def listed(self) -> Flags:
        """Lanes that are not the remainder of others."""
        lanes = [Lane.of(name) for name in self.lanes]
        return np.array([OTHER not in (lane.version, lane.value) for lane in lanes], dtype=np.bool_)


class Unarmed(StrEnum):
    """Why a lane for which a detector is meant is not armed."""

    NO_LABELS = "no_labels"
    FEW_LABELS = "few_labels"
    LATE_LABELS = "late_labels"
    """All came after the longest age at which an output's wait for its label is followed."""
    NO_PROMISE = "no_promise"
    NO_FEATURES = "no_features"
    NO_CONFIDENCE = "no_confidence"
    NO_TRAFFIC = "no_traffic"
    FEW_ROWS = "few_rows"
    """The reference holds too little of this lane."""
    BUSIER_LANES = "busier_lanes"
    """As many others as the budget is divided by have more traffic."""
    RANG = "rang"
    """It rings in its own healthy past, however wide its null is made."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneTicks:
    """What some lanes counted in some ticks: one row a lane and tick, in any order; rows never touch one another.

    Parameters
    ----------
    lanes
        `int64[rows]`: which lane of the reference each row is of.
    start_ms
        `int64[rows]`: where its tick begins.
    arrays
        Per statistic `int64[rows, ...]`.
    """

    lanes: Ints
    start_ms: Ints
    arrays: Mapping[str, Ints]

    def picked(self, rows: Ints | Flags) -> "LaneTicks":
        """Leave out all but some rows."""
        return LaneTicks(
            lanes=self.lanes[rows],
            start_ms=self.start_ms[rows],
            arrays={name: array[rows] for name, array in self.arrays.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tick:
    """The statistics of one closed tick, summed over all source partitions.

    Parameters
    ----------
    lanes
        `int64[rows]`, ascending: the lanes in which something counted.
    arrays
        Per statistic `int64[rows, ...]`.

    Examples
    --------
    >>> tick = Tick(start_ms=0, end_ms=10, lanes=np.array([0, 3]), arrays={"outputs": np.array([[7], [2]])})
    >>> tick.spoken(("outputs",), np.array([True, True, True, False])).lanes
    array([0])
    >>> tick.every(("outputs",), np.array([0, 1])).arrays
    {'outputs': array([[7], [0]])}
    """

    start_ms: int
    end_ms: int
    lanes: Ints
    arrays: Mapping[str, Ints]

    def spoken(self, names: tuple[str, ...], judged: Flags) -> LaneTicks:
        """Give the rows of judged lanes (`bool[lanes]`), of these statistics."""
        chosen = judged[self.lanes]
        whole = self._rows(self.lanes, {name: self.arrays[name] for name in names})
        return whole if chosen.all() else whole.picked(np.flatnonzero(chosen))

    def every(self, names: tuple[str, ...], lanes: Ints) -> LaneTicks:
        """Give one row for each of these lanes (ascending), 0 where nothing counted."""
        _, mine, theirs = np.intersect1d(lanes, self.lanes, assume_unique=True, return_indices=True)
        arrays = {name: np.zeros((len(lanes), *self.arrays[name].shape[1:]), np.int64) for name in names}
        for name, array in arrays.items():
            array[mine] = self.arrays[name][theirs]
        return self._rows(lanes, arrays)

    def _rows(self, lanes: Ints, arrays: Mapping[str, Ints]) -> LaneTicks:
        return LaneTicks(lanes=lanes, start_ms=np.full(len(lanes), self.start_ms), arrays=arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an alarm means, in words and numbers; `n` events are behind it."""

    kind: str
    effect: Effect
    message: str
    n: int


class Fitted(Protocol):
    """A detector on the lanes of one model. What it says of a row follows from that row and its lane alone."""

    @property
    def weights(self) -> Floats:
        """Prior weights of the alternatives, `float64[alternatives]`."""
        ...

    @property
    def groups(self) -> Floats:
        """Which alternatives are dated together, `float64[alternatives, 3]` of 0 and 1."""
        ...

    @property
    def recovery_weights(self) -> Floats:
        """Prior weights of the alternatives of the recovery test, `float64[recovery alternatives]`."""
        ...

    @property
    def watched(self) -> Flags:
        """Lanes on which the reference holds enough to judge, `bool[lanes]`."""
        ...

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values that the lane is broken, `float64[rows, alternatives]`."""
        ...

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:
        """Events, observed, expected, `float64[rows, 3]`; `leading` is the best alternative of each row's lane."""
        ...

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:
        """Half-way between healthy and what `sums` (`float64[lanes, 3]`) saw, `float64[lanes]`, in own units.

        A lane has recovered when the evidence says that it is better than this.
        """
        ...

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:
        """Log e-values that the lane is no longer as bad as its `midpoint`, `float64[rows, recovery alternatives]`."""
        ...

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:
        """Say what was seen in a lane over `ticks` ticks, given the `sums` of all lanes."""
        ...


class Detector(Protocol):
    """One entry of the table of detectors: frozen parameters."""

    @property
    def name(self) -> str:
        """Name, unique in the table, part of every finding's identity."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the statistics that the reference must hold."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Those of them by which a tick is judged."""
        ...

    @property
    def guarantee(self) -> Literal["budget", "none"]:
        """Whether the bound on false alarms covers it, or it rings by rule."""
        ...

    @property
    def delay_conditioned(self) -> bool:
        """Whether its null holds only while labels come as late as they did in the reference."""
        ...

    @property
    def absence_counts(self) -> bool:
        """Whether a tick without rows is evidence."""
        ...

    @property
    def tolerances(self) -> tuple[float, ...]:
        """What may be added to the null, in log-odds, until healthy history does not ring; ascending from 0."""
        ...

    @property
    def least(self) -> str:
        """What a lane's reference must hold to be judged, in words."""
        ...

    def scope(self, reference: Reference) -> Flags:
        """Lanes for which it is meant, `bool[lanes]`, whatever is known of them."""
        ...

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Say what the model or its reference lacks, so that no lane at all can be judged."""
        ...

    def fit(self, reference: Reference, tolerance: float) -> Fitted | None:
        """Fit to a reference; None where something is lacking."""
        ...


def uniform(alternatives: int) -> Floats:
    """Even weights."""
    return np.full(alternatives, 1 / alternatives)


def grouped(group: Ints) -> Floats:
    """Put each alternative into its group, 0 to 2.

    >>> grouped(np.array([0, 2]))
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    table: Floats = np.eye(GROUPS)[group]
    return table


def filled(counts: Ints) -> tuple[Ints, Ints]:
    """Row and column of every count that is not 0, row by row: `np.nonzero`, six times as fast.

    >>> filled(np.array([[0, 3], [1, 0]]))
    (array([0, 1]), array([1, 0]))
    """
    flat = np.flatnonzero(counts != 0)
    row = flat // counts.shape[1]
    return row, flat - row * counts.shape[1]
