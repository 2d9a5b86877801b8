"""Where does the row with this hash lie? Sorted levels, each some times larger than the next, found by their top bits.

Rows are added in sorted batches; levels of similar size are merged, so that a row moves a few times in its life and a
search visits a few levels (a log-structured merge tree: O'Neil et al. (1996), *Acta Informatica* 33, 351-385). In a
level the top bits of the hash lead to a handful of neighbours, which a binary search of fixed depth then divides.
12 bytes a row, and about one for the directory.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Ints

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint32]

_GROWTH = 4  # a level is merged with the one before when it has reached a quarter of its size
_NEIGHBOURS_BITS = 2  # four rows an entry of the directory on average
_HASH_BITS = 64


class _Level(NamedTuple):
    hashes: Hashes
    places: Places
    shift: np.uint64
    directory: npt.NDArray[np.uint32]
    depth: int


def _level(hashes: Hashes, places: Places) -> _Level:
    bits = max(1, len(hashes).bit_length() - 1 - _NEIGHBOURS_BITS)
    shift = np.uint64(_HASH_BITS - bits)
    sizes = np.bincount((hashes >> shift).astype(np.int64), minlength=1 << bits)
    directory = np.zeros((1 << bits) + 1, np.uint32)
    np.cumsum(sizes, out=directory[1:])
    return _Level(hashes, places, shift, directory, int(sizes.max()).bit_length())


def _merged(large: _Level, small: _Level) -> _Level:
    at = np.searchsorted(large.hashes, small.hashes) + np.arange(len(small.hashes))
    size = len(large.hashes) + len(small.hashes)
    hashes, places = np.empty(size, np.uint64), np.empty(size, np.uint32)
    old = np.ones(size, np.bool_)
    old[at] = False
    hashes[at], places[at] = small.hashes, small.places
    hashes[old], places[old] = large.hashes, large.places
    return _level(hashes, places)


class HashIndex:
    """Hash to place, one to many.

    >>> index = HashIndex()
    >>> index.add(np.array([5, 7], np.uint64), np.array([0, 1], np.uint32))
    >>> index.add(np.array([7], np.uint64), np.array([2], np.uint32))
    >>> needle, place = index.find(np.array([6, 7], np.uint64))
    >>> sorted(zip(needle.tolist(), place.tolist()))
    [(1, 1), (1, 2)]
    """

    def __init__(self) -> None:
        self._levels: list[_Level] = []

    def __len__(self) -> int:
        return sum(len(level.hashes) for level in self._levels)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(one.hashes.nbytes + one.places.nbytes + one.directory.nbytes for one in self._levels)

    def add(self, hashes: Hashes, places: Places) -> None:
        """Add rows, sorted by hash."""
        if len(hashes) == 0:
            return
        level = _level(hashes, places)
        while self._levels and len(level.hashes) * _GROWTH >= len(self._levels[-1].hashes):
            before = self._levels.pop()
            level = _merged(before, level) if len(before.hashes) >= len(level.hashes) else _merged(level, before)
        self._levels.append(level)

    def find(self, needles: Hashes) -> tuple[Ints, Places]:
        """Find all rows of these hashes (best sorted): positions in `needles`, and places; in no order."""
        found_needles: list[Ints] = []
        found_places: list[Places] = []
        for level in self._levels:
            top = (needles >> level.shift).astype(np.int64)
            low = level.directory[top].astype(np.int64)
            high = level.directory[top + 1].astype(np.int64)
            for _ in range(level.depth):
                middle = (low + high) >> 1
                right = (level.hashes.take(middle, mode="clip") < needles) & (low < high)
                low = np.where(right, middle + 1, low)
                high = np.where(right, high, middle)
            at = low
            needle = np.arange(len(needles))
            while len(at):
                inside = at < len(level.hashes)
                at, needle = at[inside], needle[inside]
                same = level.hashes[at] == needles[needle]
                at, needle = at[same], needle[same]
                found_needles.append(needle)
                found_places.append(level.places[at])
                at = at + 1
        if not found_needles:
            return np.empty(0, np.int64), np.empty(0, np.uint32)
        return np.concatenate(found_needles), np.concatenate(found_places)

    def keep(self, alive: Callable[[Places], npt.NDArray[np.bool_]]) -> None:
        """Forget every row whose place is not alive."""
        levels, self._levels = self._levels, []
        for level in levels:
            kept = alive(level.places)
            hashes, places = level.hashes[kept], level.places[kept]
            if len(hashes):
                self._levels.append(_level(hashes, places))
