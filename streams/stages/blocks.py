"""How does the join's state lie in its changelog? In blocks of columns, and a manifest that says which of them count.

One block is written once and never changed; what replaces it has another key. A manifest names every block that
counts, the positions that they cover, and the counters; blocks that the believed manifest does not name are a torn
tail. Keys read `partition/kind/epoch/run/part`, all but the kind whole numbers.

| kind | holds |
|---|---|
| `rows` | known outputs of one segment, in order of arrival |
| `marks` | labels of labelled outputs inside the correction wait |
| `settled` | bitmap of a segment's labelled outputs whose correction wait is over |
| `orphans` | labels that wait for their output |
| `taken` | bitmap of orphans that no longer wait |
| `cells` | dictionary of model x version x segment values |
| `open-ticks` | totals of one open tick |
| `closed-ticks` | WindowStats of one closed tick, until they are sent |
| `manifest` | see `Manifest`; run and part are 0, so that one epoch has one |
| `claim` | an owner's claim of the partition for an epoch: the runtime's |
"""

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.fields import REFUSALS, Count, MalformedRecordError, Ordinal, Whole, malformed

PART_BYTES = 800_000
"""A block larger than this is cut into parts, so that no record exceeds 900 KB."""

Kind = Literal[
    "rows", "marks", "settled", "orphans", "taken", "cells", "open-ticks", "closed-ticks", "manifest", "claim"
]
Cause = Literal["records", "idle", "clock"]
Array = npt.NDArray[Any]
Block = tuple["Run", dict[str, Any], dict[str, Array]]
"""A block as it was restored: its name, its header, its arrays."""

_NUMBER = rb"(0|[1-9]\d{0,17})"
"""As it is written, and of no more digits than 64 bits hold."""
_KEY = re.compile(rb"/".join([_NUMBER, rb"([a-z-]+)", _NUMBER, _NUMBER, _NUMBER]))

_SCALARS = frozenset(np.dtype(code).str for code in "?bBhHiIqQfd")
_Spelled = str | list[tuple[str, str]]
"""A type as NumPy spells it, or names and types of the fields of a row."""


class _Layout(msgspec.Struct, frozen=True, array_like=True):
    """How an array lies behind the header."""

    name: str
    spelled: _Spelled
    rows: Count


class _Layouts(msgspec.Struct, frozen=True):
    arrays: list[_Layout]


class BlockKey(NamedTuple):
    """Key of one record of the changelog.

    >>> BlockKey(3, "rows", 7, 12, 0).encode()
    b'3/rows/7/12/0'
    >>> BlockKey.decode(b"3/rows/7/12/0").run
    12
    """

    partition: int
    kind: str
    epoch: int
    run: int
    part: int

    def encode(self) -> bytes:
        """Bytes of the key."""
        return "/".join(map(str, self)).encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read a key, or say that it is none of ours."""
        found = _KEY.fullmatch(key)
        if found is None:
            raise MalformedRecordError("block", "key", "partition/kind/epoch/run/part", f"{len(key)} bytes")
        partition, kind, epoch, run, part = found.groups()
        return cls(int(partition), kind.decode(), int(epoch), int(run), int(part))


class Run(msgspec.Struct, frozen=True, array_like=True):
    """One block as a manifest names it: kind, epoch and number of its writing, and into how many parts it was cut."""

    kind: str
    epoch: Count
    run: Count
    parts: Count

    def keys(self, partition: int) -> list[bytes]:
        """Keys of its parts."""
        return [BlockKey(partition, self.kind, self.epoch, self.run, part).encode() for part in range(self.parts)]


class Mark(msgspec.Struct, frozen=True):
    """Running watermark of one topic: event time in ms (None: no row and no move yet), and what moved it last."""

    ms: Whole | None
    cause: Cause


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What counts: the state of one input partition at one moment.

    Parameters
    ----------
    epoch, sequence
        Of the owner, and how many manifests it has written.
    partitions, tick_ms
        Partition count and tick under which the state was made: neither can change under it.
    block_rows
        Rows of a segment; what was begun under one goes on under it.
    positions
        Per topic the next offset to read: what lies before is in the state.
    watermarks
        Per topic; moves by idleness or clock that were decided at these positions are in it.
    counters
        Terms of conservation and what else is counted (`Join.counters`).
    runs
        Every block that counts.
    closed_through_ms, sent_through_ms
        End of the last closed tick, and of the last one known to be sent; None before the first.
    cause
        What moved the watermark past `closed_through_ms`.
    numbers
        Where the serial numbers of segments, marks and orphans go on, and before which place orphans have expired.
    topic_ids
        Per topic the id that the brokers gave it, in which `positions` count; the host's. What was deleted and made again
        has another.
    """

    schema: Ordinal = 1
    epoch: Count
    sequence: Count
    partition: Count
    partitions: Ordinal
    tick_ms: Ordinal
    block_rows: Ordinal
    positions: dict[str, Count]
    watermarks: dict[str, Mark]
    counters: dict[str, Whole]
    runs: list[Run]
    closed_through_ms: Whole | None
    sent_through_ms: Whole | None
    cause: Cause
    numbers: dict[str, Whole]
    topic_ids: dict[str, str] = {}

    def encode(self) -> bytes:
        """Encode as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Decode, or say what is wrong with the bytes."""
        try:
            return msgspec.json.decode(value, type=cls)
        except REFUSALS as error:
            raise malformed("manifest", value, error) from None


class RunStore(Protocol):
    """Where cold rows lie: written once by name, read at random places, dropped.

    A host gives one over memory-mapped files; what it loses comes back from the changelog.
    """

    def put(self, name: str, value: bytes) -> None:
        """Write one run."""
        ...

    def open(self, name: str) -> bytes | memoryview:
        """Return the run's bytes, readable until it is dropped."""
        ...

    def drop(self, name: str) -> None:
        """Forget the run."""
        ...


class MemoryRuns:
    """Cold runs kept in memory.

    >>> runs = MemoryRuns()
    >>> runs.put("a", b"12"); bytes(runs.open("a"))
    b'12'
    """

    def __init__(self) -> None:
        self._runs: dict[str, bytes] = {}

    def put(self, name: str, value: bytes) -> None:
        """Write one run."""
        self._runs[name] = value

    def open(self, name: str) -> bytes | memoryview:
        """Return the run's bytes."""
        return self._runs[name]

    def drop(self, name: str) -> None:
        """Forget the run."""
        del self._runs[name]


@dataclass(frozen=True, slots=True)
class Journal:
    """Under which epoch a join writes its blocks, and where its cold runs lie.

    Parameters
    ----------
    epoch
        The one that this owner has claimed; greater than every epoch before.
    runs
        Where cold rows are kept.
    """

    epoch: int
    runs: RunStore


class Send(NamedTuple):
    """One record for `window-stats`: to the partition of `model`, or to every partition when it is None."""

    model: str | None
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What must be made durable, in this order; each step is acknowledged before the next.

    Parameters
    ----------
    blocks
        Records of `pending-changelog`, None is a tombstone; only of runs that no manifest names any more.
    manifest
        Key and value; the checkpoint has happened when this is acknowledged.
    to_send
        What is closed and not yet sent: WindowStats, then `Closed`. When acknowledged, the host says
        `Join.sent(through_ms)`.
    through_ms
        Through which event time `to_send` reaches, None when nothing is closed.
    positions
        Per topic the offset to commit to the consumer group, last.
    """

    blocks: list[tuple[bytes, bytes | None]]
    manifest: tuple[bytes, bytes]
    to_send: list[Send]
    through_ms: int | None
    positions: Mapping[str, int]


def encode(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Encode a header and one-dimensional arrays: CRC-32, a line of JSON, the arrays' bytes, little-endian.

    >>> value = encode({"segment": 4}, {"row": np.array([1, 2], "<u2")})
    >>> header, arrays = decode(value)
    >>> header["segment"], arrays["row"]
    (4, array([1, 2], dtype=uint16))
    """
    layouts = [_Layout(name, _spelled(array.dtype), len(array)) for name, array in arrays.items()]
    head = msgspec.json.encode({**header, "arrays": layouts}) + b"\n"
    body = b"".join([head, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())])
    return zlib.crc32(body).to_bytes(4, "little") + body


def decode(value: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Array]]:
    """Decode what `encode` made; the arrays are views of `value`.

    >>> decode(b"torn....")
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: block: expected bytes that fit their CRC-32, got 8 bytes that do not
    """
    view = memoryview(value)
    if len(view) < 4 or zlib.crc32(view[4:]) != int.from_bytes(view[:4], "little"):  # noqa: PLR2004 - bytes of a CRC-32
        raise MalformedRecordError("block", "", "bytes that fit their CRC-32", f"{len(view)} bytes that do not")
    body = bytes(view[4:])
    end = body.find(b"\n") + 1
    try:
        header = msgspec.json.decode(body[:end])
        layouts = msgspec.json.decode(body[:end], type=_Layouts).arrays
    except REFUSALS as error:
        raise malformed("block", body[:end], error) from None
    del header["arrays"]
    arrays: dict[str, Array] = {}
    for one in layouts:
        dtype = _dtype(one.spelled)
        if one.rows * dtype.itemsize > len(body) - end:
            expected = f"{one.rows} rows of {dtype.itemsize} bytes"
            raise MalformedRecordError("block", "arrays", expected, f"{len(body) - end} bytes")
        arrays[one.name] = np.frombuffer(body, dtype, one.rows, end)
        end += one.rows * dtype.itemsize
    if end != len(body):
        raise MalformedRecordError("block", "", f"{end} bytes", f"{len(body)}")
    return header, arrays


def _spelled(dtype: np.dtype[Any]) -> _Spelled:
    return dtype.str if dtype.names is None else [(name, dtype[name].str) for name in dtype.names]


def _dtype(spelled: _Spelled) -> np.dtype[Any]:
    scalars = [spelled] if isinstance(spelled, str) else [scalar for _, scalar in spelled]
    if scalars and _SCALARS.issuperset(scalars):
        with suppress(ValueError):  # a field that is there twice
            return np.dtype(spelled)
    raise MalformedRecordError("block", "arrays", "numbers, or rows of them", "a type of something else")


def parts(value: bytes) -> list[bytes]:
    """Cut a block into records of the changelog."""
    return [value[at : at + PART_BYTES] for at in range(0, len(value), PART_BYTES)]


def whole(run: Run, partition: int, blocks: Mapping[bytes, bytes]) -> bytes:
    """Put the parts of a run together.

    Raises
    ------
    MalformedRecordError
        When a part is missing: the changelog has lost what its manifest names.
    """
    found = [blocks.get(key) for key in run.keys(partition)]
    missing = found.count(None)
    if missing:
        raise MalformedRecordError("block", run.kind, f"{run.parts} parts of run {run.run}", f"{missing} missing")
    return b"".join(part for part in found if part is not None)


def believed(manifests: Iterable[Manifest]) -> Manifest | None:
    """Return the manifest to believe among those before one's own claim: of the greatest epoch, then sequence."""
    return max(manifests, key=lambda one: (one.epoch, one.sequence), default=None)


class BlockWriter:
    """Writes blocks under new keys, and knows which count.

    Parameters
    ----------
    partition, epoch
        Parts of every key.
    runs
        What counts already.
    first_run
        Number of the next block: above all of this epoch.
    garbage
        Keys that no manifest names, to be tombstoned.
    """

    def __init__(
        self,
        *,
        partition: int,
        epoch: int,
        first_run: int = 0,
        runs: Iterable[Run] = (),
        garbage: Iterable[bytes] = (),
    ) -> None:
        self._partition = partition
        self._epoch = epoch
        self._next = first_run
        self._counted = dict.fromkeys(runs)
        self._waiting: list[tuple[bytes, bytes | None]] = [(key, None) for key in garbage]
        self._retired: list[tuple[bytes, bytes | None]] = []

    def write(self, kind: Kind, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Run:
        """Write one block."""
        pieces = parts(encode(header, arrays))
        run = Run(kind, self._epoch, self._next, len(pieces))
        self._next += 1
        self._waiting += zip(run.keys(self._partition), pieces, strict=True)
        self._counted[run] = None
        return run

    def retire(self, run: Run) -> None:
        """Let the next manifest no longer name a block; its tombstone follows after that manifest."""
        del self._counted[run]
        self._retired += [(key, None) for key in run.keys(self._partition)]

    def retire_key(self, key: bytes) -> None:
        """Tombstone a key that the next manifest replaces."""
        self._retired.append((key, None))

    def flush(self) -> tuple[list[tuple[bytes, bytes | None]], list[Run]]:
        """Return the records to write before the next manifest, and the runs which that names."""
        records, self._waiting = self._waiting, self._retired
        self._retired = []
        return records, list(self._counted)


class Slices:
    """Blocks that cover the rows `[0, upto)` of something that only grows; small ones are written again as one.

    Each slice is at least twice as large as the next, so that few are named and a row is written a few times.
    """

    def __init__(self) -> None:
        self._slices: list[tuple[int, int, Run]] = []

    @property
    def upto(self) -> int:
        """Rows that are covered."""
        return self._slices[-1][1] if self._slices else 0

    def extend(self, upto: int, writer: BlockWriter, write: Callable[[int, int], Run], *, whole: bool = False) -> None:
        """Cover up to `upto`; as one block when `whole`."""
        start = self.upto
        if start == upto and not (whole and len(self._slices) > 1):
            return
        while self._slices and (whole or self._slices[-1][1] - self._slices[-1][0] < 2 * (upto - start)):
            start, _, run = self._slices.pop()
            writer.retire(run)
        self._slices.append((start, upto, write(start, upto)))

    def take(self, start: int, end: int, run: Run) -> None:
        """Know of a slice that was restored; in order."""
        self._slices.append((start, end, run))

    def retire(self, writer: BlockWriter) -> None:
        """Forget all slices."""
        for _, _, run in self._slices:
            writer.retire(run)
        self._slices.clear()
