r"""When did it begin?

The evidence since tick $j$ is $\mathrm{profile}(j) = \max_g \sum_{i=j}^{t} \ell_{g,i}$ over groups $g$ of alternatives
(small, middle and large changes); the onset is where it is largest, and all $j$ whose profile is within $c = 3$ nats of
that are the interval (the likelihood interval of a change point). With the alternatives in one group the interval of a
fourfold error rate is 70 ticks wide instead of 4, since before a change the money lies on the small ones.

The past is kept in three rings: single ticks, blocks of 8, blocks of 64, 48 of each. So the last 8 minutes are known to
the tick (at 10 s), the last hour to 80 s, the last 8.5 hours to 11 minutes, and memory stays the same for ever. Beside
the evidence each cell holds what an effect is computed from: events, observed, expected.

References
----------
Siegmund, D. (1988). Confidence sets in change-point problems. *Int. Statist. Rev.* 56, 31-48.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.alarm import Floats, Ints

Cells = npt.NDArray[np.float32]

DEPTH = 48
"""Cells of each ring."""

WIDTH = 8
"""How many cells of one ring are one of the next."""

LEVELS = 3
"""Rings: an onset can be dated back 48 x 8 x 8 = 3072 ticks, 8.5 hours at 10 s."""

GROUPS = 3
COLUMNS = GROUPS + 3
"""Evidence in nats for each group of alternatives; events; observed; expected."""

LIKELIHOOD_NATS = 3.0
"""How far below the best an onset may lie and still be in the interval; covers 91 to 97 %."""


def empty_rings(lanes: int) -> Cells:
    """Return rings without a past, `float32[3, 48, lanes, 6]`."""
    return np.zeros((LEVELS, DEPTH, lanes, COLUMNS), np.float32)


def push(rings: Cells, tick: int, cell: Floats | Cells) -> None:
    """Write tick number `tick` (0, 1, 2, ...; none left out), `float[lanes, 6]`, into rings that the caller owns."""
    rings[0, tick % DEPTH] = cell
    for level in range(1, LEVELS):
        block, rest = divmod(tick + 1, WIDTH**level)
        if rest:
            return
        finer = (block * WIDTH - WIDTH + np.arange(WIDTH)) % DEPTH
        rings[level, (block - 1) % DEPTH] = rings[level - 1, finer].sum(axis=0)


def cells_between(before: int, after: int) -> set[tuple[int, int]]:
    """Name the cells, (level, place), that the ticks `[before, after)` were written into.

    >>> sorted(cells_between(5, 9))
    [(0, 5), (0, 6), (0, 7), (0, 8), (1, 0)]
    """
    cells = set()
    for level in range(LEVELS):
        last = after // WIDTH**level
        blocks = range(max(before // WIDTH**level, last - DEPTH), last)
        cells |= {(level, block % DEPTH) for block in blocks}
    return cells


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Cells of some lanes from old to new: `float64[cells, lanes, 6]`, each from tick `starts` up to before `ends`."""

    cells: Floats
    starts: Ints
    ends: Ints


def past(rings: Cells, ticks: int, lanes: Ints) -> Past:
    """Lay the rings out in a line, after `ticks` ticks were pushed, for these lanes."""
    parts, starts, ends = [], [], []
    to = ticks
    for level in range(LEVELS):
        width = WIDTH**level
        last = ticks // width  # blocks complete so far
        oldest = max(last - DEPTH, 0) * width
        coarser = WIDTH ** (level + 1) if level + 1 < LEVELS else width
        first = -(-oldest // coarser) * coarser
        if first < to:
            blocks = np.arange(first // width, to // width)
            parts.append(rings[level][np.ix_(blocks % DEPTH, lanes)])
            starts.append(blocks * width)
            ends.append(blocks * width + width)
            to = first
    return Past(
        np.concatenate(parts[::-1]).astype(np.float64), np.concatenate(starts[::-1]), np.concatenate(ends[::-1])
    )


@dataclass(frozen=True, slots=True, eq=False)
class Onset:
    """Where a lane's change began, in tick numbers: the likeliest, and `[from_tick, to_tick)` of the interval."""

    likeliest: int
    from_tick: int
    to_tick: int
    log_evidence: float


def onset(history: Past, lane: int, not_before: int) -> Onset:
    """Date the change in one lane (an index into `history`), not before the tick from which the lane was watched.

    Evidence of +2 in each of the last 5 of 20 ticks, -1 before: it began at tick 15; 12 and 16 are within 3 nats.

    >>> rings = empty_rings(1)
    >>> for tick in range(20):
    ...     push(rings, tick, np.array([[2.0 if tick >= 15 else -1.0, -9, -9, 50, 9, 3]]))
    >>> found = onset(past(rings, 20, np.array([0])), 0, not_before=0)
    >>> found.likeliest, found.from_tick, found.to_tick, found.log_evidence
    (15, 12, 17, 10.0)
    """
    first = int(np.searchsorted(history.ends, not_before, side="right"))
    first = min(first, len(history.ends) - 1)
    profile = np.cumsum(history.cells[first:, lane, :GROUPS][::-1], axis=0)[::-1].max(axis=1)
    best = int(np.argmax(profile))
    near = np.flatnonzero(profile >= profile[best] - LIKELIHOOD_NATS)
    # a block that is not near at its start may be near at its end
    before = first + max(int(near[0]) - 1, 0)
    from_tick = int(history.starts[first + near[0]])
    if history.ends[before] - history.starts[before] > 1:
        from_tick = int(history.starts[before])
    return Onset(
        likeliest=int(history.starts[first + best]),
        from_tick=max(from_tick, not_before),
        to_tick=int(history.ends[first + near[-1]]),
        log_evidence=float(profile[best]),
    )


def sums_since(history: Past, tick: int) -> Floats:
    """Sum events, observed and expected of each lane since `tick`, `float64[lanes, 3]`."""
    since: Floats = history.cells[history.starts >= tick, :, GROUPS:].sum(axis=0)
    return since
