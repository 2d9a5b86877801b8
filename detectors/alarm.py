r"""When is evidence enough to ring, if false alarms have a budget?

Picture a bettor who is given `spend` of fresh money at each tick and stakes all that he holds on "this lane is broken".
At fair odds he gains nothing while the lane is healthy; when it breaks, his money multiplies. The lane rings when he
holds 1, so he can ring for nothing no more often than he was given money. With alternatives $g$ of weight $\pi_g$ and
e-values $L_g$ (mean at most 1 while healthy) of one tick,

$$M_g \leftarrow (M_g + w\,\pi_g)\,L_g, \qquad S = \sum_g M_g, \qquad S \ge c \Rightarrow \text{alarm},\; M \leftarrow 0.$$

The expected number of false alarms is at most $\sum w / c$ over all lanes and ticks, whatever depends on what: before a
reset $E[S] \le S_{-} + w$, and a reset trades at least $c$ of $S$ for one alarm. Nothing else is tuned. A tick that says
nothing ($L = 1$) only adds $w$ and never rings; so it may be left out, and its spend be added in the next that says
something.

References
----------
Shin, J., Ramdas, A., Rinaldo, A. (2024). E-detectors: a nonparametric framework for sequential change detection.
*New England J. Statist. Data Sci.* 2, 229-260 (arXiv:2203.03532).
Shiryaev, A. N. (1963); Roberts, S. W. (1966): the recursion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

HIGHEST, LOWEST = 100.0, -700.0
"""Bounds of a log e-value in nats: cutting above is on the safe side, cutting below adds less than 1e-300."""

RULE_SPEND = 1e-30
"""What a rule is given instead of a share: so little that only the certain rings. No budget counts it."""

RULE_NATS = float(-np.log(RULE_SPEND))
"""How many nats, in one uninterrupted run, make a rule ring: 69.08."""


class EvidenceError(ValueError):
    """A detector gave evidence that is not a number: a defect of its baseline or of its own, named by lane.

    What to do: report it; the lane's baseline can be withdrawn meanwhile.
    """

    def __init__(self, detector: str, lane: str) -> None:
        self.detector = detector
        self.lane = lane
        super().__init__(f"{detector} gave evidence that is not a number for lane {lane}")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one tick made of the lanes.

    Parameters
    ----------
    mass
        `float64[lanes, alternatives]`: M, already 0 where a lane rang.
    level
        `float64[lanes]`: S before the reset.
    crossed
        `int64[n]`: lanes that rang, ascending.
    gain
        `float64[lanes, groups]`: log of the factor by which the money on each group of alternatives grew, in nats:
        evidence of this tick under the mixture within the group which the past recommends.
    leading
        `int64[lanes]`: the alternative that holds most.
    """

    mass: Floats
    level: Floats
    crossed: Ints
    gain: Floats
    leading: Ints


def step(
    mass: Floats,
    spend: Floats,
    weights: Floats,
    evidence: Floats,
    *,
    groups: Floats | None = None,
) -> Step:
    """Take one tick of evidence. `mass` and `evidence` are written over: to copy them is dearer than all the rest.

    Parameters
    ----------
    mass
        `float64[lanes, alternatives]`, at the start 0.
    spend
        `float64[lanes]`: expected false alarms that this tick may cost, and those before it that were left out, fixed
        before its outcomes are seen.
    weights
        `float64[alternatives]`, sum 1.
    evidence
        `float64[lanes, alternatives]`: log e-values in nats.
    groups
        `float64[alternatives, groups]` of 0 and 1: which alternatives are dated together. None: all.

    Examples
    --------
    Two lanes at a spend of .01 with e-values 3 and 50; the second holds (0 + .01) 50 = .5 and then (.5 + .01) 50.

    >>> one = step(np.zeros((2, 1)), np.full(2, 0.01), np.ones(1), np.log([[3.0], [50.0]]))
    >>> one.level, one.crossed
    (array([0.03, 0.5 ]), array([], dtype=int64))
    >>> two = step(one.mass, np.full(2, 0.01), np.ones(1), np.log([[3.0], [50.0]]))
    >>> two.level, two.crossed, two.mass
    (array([ 0.12, 25.5 ]), array([1]), array([[0.12], [0. ]]))
    """
    together = np.ones((len(weights), 1)) if groups is None else groups
    odds = np.exp(np.clip(evidence, LOWEST, HIGHEST, out=evidence), out=evidence)
    mass += spend[:, None] * weights
    staked = mass @ together
    mass *= odds
    grown = mass @ together
    idle = staked[:, 0] <= 0.0  # a lane has staked on all alternatives or on none
    if idle.any():
        staked[idle], grown[idle] = weights @ together, (odds[idle] * weights) @ together
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log(np.divide(grown, staked, out=grown), out=grown)
    reached, leading = mass.sum(axis=1), mass.argmax(axis=1)
    crossed = np.flatnonzero(reached >= 1.0)
    if len(crossed):
        crossed = crossed[(odds[crossed] != 1.0).any(axis=1)]
        mass[crossed] = 0.0
    return Step(mass, reached, crossed, np.fmax(gain, LOWEST, out=gain), leading)


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """What many ticks made of the lanes.

    Parameters
    ----------
    mass
        `float64[lanes, alternatives]`: M after the last tick.
    rang
        `bool[ticks, lanes]`.
    """

    mass: Floats
    rang: Flags


def march(mass: Floats, spend: Floats, weights: Floats, evidence: Floats) -> March:
    r"""Take many ticks at one go: what `step` would do one by one, up to rounding.

    Between alarms $M_t = e^{C_t} (M_0 + \sum_{j \le t} w_j\,\pi\,e^{-C_{j-1}})$ with $C_t$ the evidence of the first $t$
    ticks; the sum is taken in logarithms. A lane that rings begins again with nothing.

    Parameters
    ----------
    mass, weights
        As for `step`.
    spend
        `float64[ticks, lanes]`.
    evidence
        `float64[ticks, lanes, alternatives]`. Rounding grows with their sum over the ticks: some hundreds at a time.

    Examples
    --------
    >>> both = march(np.zeros((2, 1)), np.full((2, 2), 0.01), np.ones(1), np.log([[[3.0], [50.0]]] * 2))
    >>> both.mass, both.rang[:, 1]
    (array([[0.12], [0. ]]), array([False,  True]))
    """
    total = np.cumsum(np.clip(evidence, LOWEST, HIGHEST), axis=0)
    says: Flags = np.any(evidence, axis=2)
    with np.errstate(divide="ignore"):
        stakes = np.log(spend)[:, :, None] + np.log(weights)
        stakes[1:] -= total[:-1]
        stakes[0] = np.logaddexp(stakes[0], np.log(mass))
    held, over = _held(total, stakes, says)
    rang = np.zeros(spend.shape, np.bool_)
    again = np.flatnonzero(over.any(axis=0))
    while len(again):
        first = np.argmax(over[:, again], axis=0)
        rang[first, again] = True
        lost = np.arange(len(spend))[:, None] <= first
        left = np.where(lost[:, :, None], -np.inf, stakes[:, again])
        held[again], over[:, again] = _held(total[:, again], left, says[:, again])
        again = again[over[:, again].any(axis=0)]
    return March(held, rang)


def _held(total: Floats, stakes: Floats, says: Flags) -> tuple[Floats, Flags]:
    """Return M after the last tick, and which lanes ring after each."""
    with np.errstate(over="ignore"):
        held = np.exp(total + np.logaddexp.accumulate(stakes, axis=0))
    return held[-1], (held.sum(axis=2) >= 1.0) & says


def refuse_nan(evidence: Floats, detector: str, lanes: Sequence[str], rows: Ints) -> None:
    """Refuse evidence that is not a number, by name of its row's lane; it would stay in the mass for ever.

    >>> refuse_nan(np.array([[0.0], [np.nan]]), "raw_error", ("*", "version:6", "version:7"), np.array([0, 2]))
    Traceback (most recent call last):
    detectors.alarm.EvidenceError: raw_error gave evidence that is not a number for lane version:7
    """
    total = evidence.sum()
    if total == total:  # noqa: PLR0124 - one sum tells; -inf is allowed, nan is not
        return
    bad = np.flatnonzero(np.isnan(evidence).any(axis=1))
    if len(bad):
        raise EvidenceError(detector, lanes[int(rows[bad[0]])])
