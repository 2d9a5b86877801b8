"""Which rows came, in order, and are not yet forgotten? Appended at the end, dropped from the front, block by block."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Ints
from streams.stages.blocks import Array, Block, BlockWriter, Kind, Run, Slices
from streams.stages.distinct import inverted, runs_of

Numbers = npt.NDArray[np.uint32]
_WRAP = 1 << 32


class RowLog:
    """Rows of one structured type, numbered from 0 on modulo 2^32, of which less than that many are held at a time.

    >>> log = RowLog(np.dtype([("a", "<i8")]), kind="marks", block_rows=2)
    >>> log.append(np.array([(5,), (6,), (7,)], log.dtype))
    array([0, 1, 2], dtype=uint32)
    >>> log.drop_front(BlockWriter(partition=0, epoch=0))
    >>> len(log), log.read(np.array([2], np.uint32))["a"]
    (1, array([7]))

    Parameters
    ----------
    kind
        Of its blocks in the changelog.
    block_rows
        Rows of a block.
    start
        Number of the first row, a multiple of `block_rows`, not reduced.
    """

    def __init__(self, dtype: np.dtype[Any], *, kind: Kind, block_rows: int, start: int = 0) -> None:
        self.dtype = dtype
        self.start = start
        self.end = start
        self._kind: Kind = kind
        self._block_rows = block_rows
        self._blocks: list[Array] = []
        self._slices: list[Slices] = []

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(block.nbytes for block in self._blocks)

    def append(self, rows: Array) -> Numbers:
        """Append rows; return their numbers."""
        first, at = self.end, 0
        while at < len(rows):
            used = (self.end - self.start) % self._block_rows
            if used == 0:
                self._blocks.append(np.empty(min(self._block_rows, 64), self.dtype))
                self._slices.append(Slices())
            n = min(len(rows) - at, self._block_rows - used)
            if used + n > len(self._blocks[-1]):
                grown = np.empty(min(self._block_rows, max(used + n, 2 * used)), self.dtype)
                grown[:used] = self._blocks[-1][:used]
                self._blocks[-1] = grown
            self._blocks[-1][used : used + n] = rows[at : at + n]
            self.end += n
            at += n
        return (np.arange(first, self.end) % _WRAP).astype(np.uint32)

    def full_numbers(self, numbers: Numbers) -> Ints:
        """Undo the reduction modulo 2^32."""
        full: Ints = self.start + (numbers.astype(np.int64) - self.start) % _WRAP
        return full

    def read(self, numbers: Numbers) -> Array:
        """Read rows by their numbers; every one must be held."""
        at = self.full_numbers(numbers) - self.start
        block, inside = np.divmod(at, self._block_rows)
        order = np.argsort(block.astype(np.uint16), kind="stable") if len(self._blocks) > 1 else np.arange(len(at))
        rows = np.empty(len(at), self.dtype)
        for start, end in runs_of(block[order]):
            self._blocks[block[order[start]]].take(inside[order[start:end]], out=rows[start:end])
        return rows if len(self._blocks) == 1 else rows.take(inverted(order))

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the number of the first row, and the rows, of each block."""
        for at, block in enumerate(self._blocks):
            first = self.start + at * self._block_rows
            yield first, block[: min(self._block_rows, self.end - first)]

    def front(self) -> Array | None:
        """Rows of the oldest block when that is full, else None."""
        return self._blocks[0] if len(self) >= self._block_rows else None

    def drop_front(self, writer: BlockWriter) -> None:
        """Forget the oldest block, which is full."""
        assert self.front() is not None
        del self._blocks[0]
        self._slices.pop(0).retire(writer)
        self.start += self._block_rows

    def write(self, writer: BlockWriter) -> None:
        """Write what the changelog does not hold yet."""
        for (first, block), slices in zip(self.blocks(), self._slices, strict=True):

            def write(start: int, end: int, first: int = first, block: Array = block) -> Run:
                return writer.write(self._kind, {"first": first + start}, {"rows": block[start:end]})

            slices.extend(len(block), writer, write, whole=len(block) == self._block_rows)

    def restore(self, blocks: list[Block]) -> None:
        """Take the blocks of this kind; `start` and `end` are those of the manifest."""
        for run, header, arrays in sorted(blocks, key=lambda one: one[1]["first"]):
            first = header["first"]
            assert first == self.end, (first, self.end)
            self.append(arrays["rows"])
            used = (first - self.start) % self._block_rows
            self._slices[-1].take(used, used + len(arrays["rows"]), run)
