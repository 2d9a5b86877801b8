"""Which labels wait for their output?

They lie in order of place, so that those whose wait is over are always the first; an index leads from the hash to them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Ints
from streams.stages.blocks import Array, Block, BlockWriter, Run
from streams.stages.hash_index import Hashes, HashIndex
from streams.stages.row_log import Numbers, RowLog

ORPHAN = np.dtype(
    [
        ("id_hash", "<u8"),
        ("offset", "<i8"),
        ("row", "<i4"),
        ("place_ms", "<i8"),
        ("labelled_at_ms", "<i8"),
        ("version", "<i8"),
        ("label", "<u4"),
        ("retracted", "?"),
        ("late", "?"),  # by the output's time that it carries itself
    ]
)


class Orphans:
    """Labels that wait, of one partition.

    Parameters
    ----------
    block_rows
        Rows of a block.
    start
        Number of the first one held.
    """

    def __init__(self, *, block_rows: int, start: int = 0) -> None:
        self._block_rows = block_rows
        self._log = RowLog(ORPHAN, kind="orphans", block_rows=block_rows, start=start)
        self._index = HashIndex()
        self._gone = np.zeros(0, np.bool_)  # by number from the log's start on
        self._first = start  # all before are gone
        self._dirty: set[int] = set()
        self._taken: dict[int, Run] = {}
        self.waiting = 0

    @property
    def numbers(self) -> tuple[int, int]:
        """Number of the first row held, and of the next."""
        return self._log.start, self._log.end

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._log.nbytes + self._index.nbytes + self._gone.nbytes

    def add(self, rows: Array) -> None:
        """Let labels wait; in order of place."""
        numbers = self._log.append(rows)
        if len(self._log) > len(self._gone):
            grown = np.zeros(2 * len(self._log), np.bool_)
            grown[: len(self._gone)] = self._gone
            self._gone = grown
        order = np.argsort(rows["id_hash"])
        self._index.add(rows["id_hash"][order], numbers[order])
        self.waiting += len(rows)

    def find(self, hashes: Hashes) -> tuple[Ints, Numbers]:
        """Find the waiting labels of these hashes (best sorted): positions in `hashes`, and their numbers."""
        needle, numbers = self._index.find(hashes)
        waits = self._waits(numbers)
        return needle[waits], numbers[waits]

    def _waits(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        at = self._log.full_numbers(numbers) - self._log.start
        held = at < len(self._log)
        waits = np.zeros(len(at), np.bool_)
        waits[held] = ~self._gone[at[held]]
        return waits

    def read(self, numbers: Numbers) -> Array:
        """Read labels by number."""
        return self._log.read(numbers)

    def take(self, numbers: Numbers) -> None:
        """Let these wait no more: they have found their output."""
        at = self._log.full_numbers(numbers) - self._log.start
        assert not self._gone[at].any(), "a label is taken twice"
        self._gone[at] = True
        self.waiting -= len(at)
        self._dirty.update((self._log.start + np.unique(at // self._block_rows) * self._block_rows).tolist())

    def expire(self, before_ms: int) -> Array:
        """Let those wait no more whose place is before `before_ms`; return them."""
        gone: list[Array] = []
        for first, block in self._log.blocks():
            start = max(self._first - first, 0)
            if start >= len(block):
                continue
            end = start + int(np.searchsorted(block["place_ms"][start:], before_ms))
            gone.append(self._leave(first, block, start, end))
            self._first = first + end
            if end < len(block):
                break
        return np.concatenate(gone) if gone else np.empty(0, ORPHAN)

    def overflow(self, bound: int) -> Array:
        """Let the oldest wait no more, until at most `bound` do; return them."""
        gone: list[Array] = []
        for first, block in self._log.blocks():
            if self.waiting <= bound:
                break
            start = max(self._first - first, 0)
            waits = np.flatnonzero(~self._gone[first - self._log.start + start : first - self._log.start + len(block)])
            over = min(self.waiting - bound, len(waits))
            end = start + int(waits[over - 1]) + 1 if over else start
            if end > start:
                gone.append(self._leave(first, block, start, end))
                self._first = first + end
                self._dirty.add(first)
        return np.concatenate(gone) if gone else np.empty(0, ORPHAN)

    def _leave(self, first: int, block: Array, start: int, end: int) -> Array:
        at = first - self._log.start
        waits = np.flatnonzero(~self._gone[at + start : at + end]) + start
        self._gone[at + start : at + end] = True
        self.waiting -= len(waits)
        left: Array = block[waits]
        return left

    def write(self, writer: BlockWriter) -> None:
        """Forget what is gone in front, and write what the changelog does not hold yet."""
        while (block := self._log.front()) is not None and self._gone[: len(block)].all():
            first = self._log.start
            self._log.drop_front(writer)
            self._gone = self._gone[len(block) :].copy()
            self._first = max(self._first, self._log.start)
            self._dirty.discard(first)
            if first in self._taken:
                writer.retire(self._taken.pop(first))
        if len(self._index) > 2 * self.waiting + self._block_rows:
            self._index.keep(self._waits)
        self._log.write(writer)
        for first, block in self._log.blocks():
            if first in self._dirty:
                if first in self._taken:
                    writer.retire(self._taken[first])
                at = first - self._log.start
                bits = np.packbits(self._gone[at : at + len(block)])
                self._taken[first] = writer.write("taken", {"first": first}, {"bits": bits})
        self._dirty.clear()

    def restore(self, orphans: Sequence[Block], taken: Sequence[Block], *, expired_before_ms: int) -> None:
        """Take the blocks of `orphans` and `taken`."""
        self._log.restore(list(orphans))
        self._gone = np.zeros(len(self._log), np.bool_)
        for first, block in self._log.blocks():
            order = np.argsort(block["id_hash"])
            numbers = ((first + order) % (1 << 32)).astype(np.uint32)
            self._index.add(block["id_hash"][order], numbers)
        for run, header, arrays in taken:
            at = header["first"] - self._log.start
            self._gone[at + np.flatnonzero(np.unpackbits(arrays["bits"]))] = True
            self._taken[header["first"]] = run
        self.waiting = int(np.count_nonzero(~self._gone))
        self.expire(expired_before_ms)
