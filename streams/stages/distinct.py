"""Which whole numbers are there, and which of them is each? Faster than sorting where they lie close together."""

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Ints

_SPAN = 1 << 16


def distinct(values: npt.NDArray[np.integer]) -> Ints:
    """Return the distinct values in order.

    >>> distinct(np.array([7, 5, 7]))
    array([5, 7])
    """
    if len(values) == 0:
        return np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if low == high:
        return np.array([low])
    if high - low < _SPAN:
        present: Ints = np.flatnonzero(np.bincount(values.astype(np.int64) - low)) + low
        return present
    return np.unique(values).astype(np.int64)


def numbered(values: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the distinct values in order, and for each value its position among them.

    >>> numbered(np.array([7, 5, 7]))
    (array([5, 7]), array([1, 0, 1]))
    """
    if len(values) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if low == high:
        return np.array([low]), np.zeros(len(values), np.int64)
    if high - low < _SPAN:
        above = values.astype(np.int64) - low
        present = np.bincount(above) > 0
        return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[above]
    unique, inverse = np.unique(values, return_inverse=True)
    return unique.astype(np.int64), inverse


def runs_of(values: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """Return where each run of equal values starts and ends.

    >>> runs_of(np.array([4, 4, 9]))
    [(0, 2), (2, 3)]
    """
    if len(values) == 0:
        return []
    cuts = (np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True))


def inverted(order: Ints) -> Ints:
    """Invert a permutation.

    >>> inverted(np.array([2, 0, 1]))
    array([1, 2, 0])
    """
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return inverse
