"""What is a detector? Parameters, the statistics that it needs, and log e-values; all else is shared.

A detector is fitted to a reference: the sum of its statistics over a healthy history, lane by lane. What comes out
answers for all lanes of a model at once; lanes are the first axis of every array and never touch one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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

    def listed(self) -> Flags:
        """Lanes that are not the remainder of others."""
        lanes = [Lane.of(name) for name in self.lanes]
        return np.array([OTHER not in (lane.version, lane.value) for lane in lanes], dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tick:
    """The statistics of one closed tick, summed over all source partitions: per name `int64[lanes, ...]`.

    `empty` says that no row of the model counted in it.
    """

    start_ms: int
    end_ms: int
    arrays: Mapping[str, Ints]
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an alarm means, in words and numbers; `n` events are behind it."""

    kind: str
    effect: Effect
    message: str
    n: int


class Fitted(Protocol):
    """A detector on the lanes of one model. Every array has lanes first."""

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

    def evidence(self, tick: Tick) -> Floats:
        """Log e-values that the lane is broken, `float64[lanes, alternatives]`."""
        ...

    def tally(self, tick: Tick, leading: Ints) -> Floats:
        """Events, observed, expected, `float64[lanes, 3]`; `leading` is each lane's best alternative."""
        ...

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:
        """Half-way between healthy and what `sums` (`float64[lanes, 3]`) saw, `float64[lanes]`, in own units.

        A lane has recovered when the evidence says that it is better than this.
        """
        ...

    def recovery(self, tick: Tick, leading: Ints, midpoint: Floats) -> Floats:
        """Log e-values that the lane is no longer as bad as `midpoint`, `float64[lanes, recovery alternatives]`."""
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
        """Names of statistics."""
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

    def fit(self, reference: Reference, tolerance: float) -> Fitted | None:
        """Fit to a reference; None where the model or its history gives nothing to judge by."""
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


def softplus(x: Floats) -> Floats:
    """log(1 + e^x) without overflow."""
    value: Floats = np.logaddexp(0.0, x)
    return value
