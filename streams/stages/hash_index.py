"""Where does the row with this hash lie? In sorted levels, four of a size merged into the next, found by their top bits.

Rows are added in sorted batches and move a few times in their life (a log-structured merge tree: O'Neil et al. (1996),
*Acta Informatica* 33, 351-385). A level is asked in three steps: one bit, which says no for seven in eight of the hashes
that are not there; a directory by the top bits, which leads to a handful of neighbours; a binary search among these.
14 bytes a row: hash 8, place 4, one for the bits, one for the directory.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Ints

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint32]

_FAN = 4  # so many levels of one size become one of the next
_NEIGHBOURS_BITS = 2  # four rows an entry of the directory on average
_PRESENCE_BITS = 3  # eight bits of presence a row
_HASH_BITS = 64


class _Level(NamedTuple):
    hashes: Hashes
    places: Places
    presence_shift: np.uint64
    presence: npt.NDArray[np.uint8]
    shift: np.uint64
    directory: npt.NDArray[np.uint32]
    depth: int


def _level(hashes: Hashes, places: Places) -> _Level:
    size_bits = len(hashes).bit_length()
    presence_bits = min(size_bits + _PRESENCE_BITS, _HASH_BITS - 1)
    presence_shift = np.uint64(_HASH_BITS - presence_bits)
    present = np.zeros(1 << presence_bits, np.bool_)
    present[hashes >> presence_shift] = True
    bits = max(1, size_bits - 1 - _NEIGHBOURS_BITS)
    shift = np.uint64(_HASH_BITS - bits)
    sizes = np.bincount((hashes >> shift).view(np.int64), minlength=1 << bits)
    directory = np.zeros((1 << bits) + 1, np.uint32)
    np.cumsum(sizes, out=directory[1:])
    depth = int(sizes.max()).bit_length()
    return _Level(hashes, places, presence_shift, np.packbits(present), shift, directory, depth)


_Rows = tuple[Hashes, Places]


def _merged(one: _Rows, other: _Rows) -> _Rows:
    (hashes, places), (more, more_places) = (one, other) if len(one[0]) >= len(other[0]) else (other, one)
    at = np.searchsorted(hashes, more) + np.arange(len(more))
    size = len(hashes) + len(more)
    old = np.ones(size, np.bool_)
    old[at] = False
    all_hashes, all_places = np.empty(size, np.uint64), np.empty(size, np.uint32)
    all_hashes[at], all_places[at] = more, more_places
    all_hashes[old], all_places[old] = hashes, places
    return all_hashes, all_places


def _all_merged(rows: list[_Rows]) -> _Rows:
    while len(rows) > 1:
        rows = [_merged(*rows[at : at + 2]) if at + 1 < len(rows) else rows[at] for at in range(0, len(rows), 2)]
    return rows[0]


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
        self._tiers: dict[int, list[_Level]] = {}  # by the size of their levels, in powers of the fan

    def __len__(self) -> int:
        return sum(len(level.hashes) for level in self._levels)

    @property
    def _levels(self) -> list[_Level]:
        return [level for tier in self._tiers.values() for level in tier]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(
            one.hashes.nbytes + one.places.nbytes + one.presence.nbytes + one.directory.nbytes for one in self._levels
        )

    def add(self, hashes: Hashes, places: Places) -> None:
        """Add rows, sorted by hash."""
        if len(hashes) == 0:
            return
        rows = (hashes, places)
        while True:
            tier = self._tiers.setdefault((len(rows[0]).bit_length() - 1) // (_FAN.bit_length() - 1), [])
            if len(tier) < _FAN - 1:
                tier.append(_level(*rows))
                return
            rows = _all_merged([*((level.hashes, level.places) for level in tier), rows])
            tier.clear()

    def find(self, needles: Hashes) -> tuple[Ints, Places]:
        """Find all rows of these hashes (best sorted): positions in `needles`, and places; in no order."""
        found_needles: list[Ints] = [np.empty(0, np.int64)]
        found_places: list[Places] = [np.empty(0, np.uint32)]
        for level in self._levels:
            bit = (needles >> level.presence_shift).view(np.int64)
            byte = level.presence.take(bit >> 3)
            needle = np.flatnonzero(byte & (np.uint8(128) >> (bit & 7).astype(np.uint8)))
            if len(needle) == 0:
                continue
            sought = needles if len(needle) == len(needles) else needles[needle]
            top = (sought >> level.shift).view(np.int64)
            low = level.directory.take(top).astype(np.int64)
            high = level.directory.take(top + 1).astype(np.int64)
            for _ in range(level.depth):
                middle = (low + high) >> 1
                right = (level.hashes.take(middle, mode="clip") < sought) & (low < high)
                low = np.where(right, middle + 1, low)
                high = np.where(right, high, middle)
            while len(low):
                same = (level.hashes.take(low, mode="clip") == sought) & (low < len(level.hashes))
                low, needle, sought = low[same], needle[same], sought[same]
                found_needles.append(needle)
                found_places.append(level.places[low])
                low = low + 1
        return np.concatenate(found_needles), np.concatenate(found_places)

    def keep(self, alive: Callable[[Places], npt.NDArray[np.bool_]]) -> None:
        """Forget every row whose place is not alive."""
        levels, self._tiers = self._levels, {}
        for level in sorted(levels, key=lambda one: -len(one.hashes)):
            kept = alive(level.places)
            self.add(level.hashes[kept], level.places[kept])
