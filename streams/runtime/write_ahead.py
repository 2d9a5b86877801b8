r"""How do rows, cursors and outputs become durable together, in a topic that compacts?

Several inputs reach a stage in an order that no topic keeps. Were its outputs delivered before its rows, a crash between
the two would have the successor read the inputs in another order, and say something else under a name that is already
out: consumers, who ignore what they have seen, would hold the wrong one. Were rows delivered before outputs, outputs
would be lost. So all of it is written first as one *entry*, which is there or not:

1. the entry: every row, cursor and output of a group, under keys `p/!0`, `p/!1` … when it is large;
2. outputs, rows and cursors themselves, in any order; the next entry may then take the place of this one.

Whoever takes a partition reads its changelog in order, an entry as if its rows stood in its place, writes those rows of
the last that it did not find, and sends its outputs again: they are known by their names.

**Owners.** Who takes a partition first writes a *claim* of the next epoch, and reads on up to it. Every record carries
the epoch of its writer; what comes behind a higher claim is from a process that was stopped and does not know it yet,
and counts for nothing. Since a compacted topic keeps the last record of a key, and be it such a one, the owner writes
those keys again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from schemas.fields import REFUSALS
from streams.runtime.stage_spec import Headers, Routed

CURSOR_MARK = "@"
ID_MARK = "#"
ENTRY_MARK = "!"
CLAIM = "!claim"
EPOCH = "epoch"
EPOCH_DIGITS = 18
PART_BYTES = 800_000
"""Of an entry in one record; no record is larger than 900 KB."""


class TornEntryError(AssertionError):
    """A part of an entry, or an entry that has all its parts, cannot be read: something else wrote into the changelog.

    What to do: drop the rows of this partition; the stage reads its inputs again.
    """


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """A group as it travels: changelog records, and outputs as (topic, key, value, headers, partition)."""

    records: list[tuple[bytes, bytes | None]]
    outputs: list[tuple[str, bytes | None, bytes | None, list[tuple[str, bytes]], int | None]]


class _Part(msgspec.Struct, array_like=True, frozen=True):
    number: int
    index: int
    count: int
    data: bytes


_T = TypeVar("_T")
_PARTS = msgspec.msgpack.Decoder(_Part)
_ENTRIES = msgspec.msgpack.Decoder(_Entry)


def table_key(partition: int, key: str) -> bytes:
    """Name a row in the table that all partitions share.

    >>> table_key(3, "incident/7"), table_key(3, "@findings")
    (b'3/incident/7', b'3/@findings')
    """
    return f"{partition}/{key}".encode()


@dataclass(slots=True)
class Changes:
    """What is to be made durable of one partition: rows (None: deleted), cursors and ids by topic, and outputs.

    >>> list(Changes({"a": b"1", "b": None}, {"findings": 8}, {"findings": "Xb"}).records(2))
    [(b'2/a', b'1'), (b'2/b', None), (b'2/@findings', b'8'), (b'2/#findings', b'Xb')]
    """

    rows: dict[str, bytes | None] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    outputs: list[Routed] = field(default_factory=list)

    def records(self, partition: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Return keys and values of the changelog."""
        for key, row in self.rows.items():
            yield table_key(partition, key), row
        for topic, offset in self.cursors.items():
            yield table_key(partition, f"{CURSOR_MARK}{topic}"), str(offset).encode()
        for topic, topic_id in self.ids.items():
            yield table_key(partition, f"{ID_MARK}{topic}"), topic_id.encode()

    @property
    def is_one(self) -> bool:
        """Whether one record, or nothing but outputs, is all there is to write: then it needs no entry.

        A stage between two snapshots has outputs alone: it says them again from the last cursor, in the same words.
        """
        records = len(self.rows) + len(self.cursors) + len(self.ids)
        return records == 0 or (records == 1 and not self.outputs)

    def entry(self, partition: int, number: int) -> list[tuple[bytes, bytes]]:
        """Return keys and values of the entry, in parts; `number` tells this entry's parts from an older one's."""
        outputs = [(one.topic, one.key, one.value, list(one.headers), one.partition) for one in self.outputs]
        whole = msgspec.msgpack.encode(_Entry(list(self.records(partition)), outputs))
        cut = [whole[at : at + PART_BYTES] for at in range(0, len(whole), PART_BYTES)]
        return [
            (table_key(partition, f"{ENTRY_MARK}{index}"), msgspec.msgpack.encode(_Part(number, index, len(cut), data)))
            for index, data in enumerate(cut)
        ]


def claim(partition: int) -> bytes:
    """Name the claims of a partition in its changelog."""
    return table_key(partition, CLAIM)


def epoch_headers(epoch: int) -> Headers:
    """Say whose record it is.

    >>> epoch_headers(7), epoch_of(epoch_headers(7)), epoch_of(())
    ((('epoch', b'7'),), 7, 0)
    """
    return ((EPOCH, str(epoch).encode()),)


def epoch_of(headers: Headers) -> int:
    """Read whose record it is; 0 where nothing says it, or nothing that we would write."""
    said = next((value for name, value in headers if name == EPOCH), b"")
    return int(said) if said.isdigit() and len(said) <= EPOCH_DIGITS else 0


class Restored:
    """What the changelog of one partition says, read in order.

    Parameters
    ----------
    partition
        Whose it is.

    Attributes
    ----------
    table
        Rows and cursors by their key in the changelog.
    epoch
        The highest claim so far, 0 before the first.

    Examples
    --------
    The entry is whole, its rows were never written; a stopped process then writes over one of them:

    >>> incident = Routed(topic="incidents", key=b"k", value=b"v", partition=2)
    >>> changes = Changes({"a": b"1"}, {"findings": 8}, outputs=[incident])
    >>> changelog = Restored(2)
    >>> changelog.take(claim(2), b"", epoch_headers(1))
    >>> for key, value in changes.entry(2, number=0):
    ...     changelog.take(key, value, epoch_headers(1))
    >>> changelog.take(claim(2), b"", epoch_headers(2))
    >>> changelog.take(b"2/a", b"stale", epoch_headers(1))
    >>> again = changelog.again()
    >>> [one.topic for one in again.outputs], dict(again.records), changelog.table
    (['incidents'], {b'2/a': b'1', b'2/@findings': b'8'}, {b'2/a': b'1', b'2/@findings': b'8'})
    """

    def __init__(self, partition: int) -> None:
        self.table: dict[bytes, bytes] = {}
        self.epoch = 0
        self.partition = partition
        self._claim = claim(partition)
        self._entries = table_key(partition, ENTRY_MARK)
        self._parts: list[_Part] = []
        self._unwritten: dict[bytes, None] = {}
        self._outputs: list[Routed] = []
        self._stale: dict[bytes, None] = {}

    def take(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """Take the next record."""
        epoch = epoch_of(headers)
        if key == self._claim:
            self.epoch = max(self.epoch, epoch)
        elif key.startswith(self._entries):
            if value is not None and epoch >= self.epoch:
                self._take_part(self._decoded(_PARTS, value))
        elif epoch < self.epoch:
            self._stale[key] = None
        else:
            self._hold(key, value)
            self._unwritten.pop(key, None)
            self._stale.pop(key, None)

    def _hold(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.table.pop(key, None)
        else:
            self.table[key] = value

    def _take_part(self, part: _Part) -> None:
        if part.index == 0:
            self._parts = []
        elif part.index != len(self._parts) or part.number != self._parts[0].number:
            return  # of an entry whose first part was written over
        self._parts.append(part)
        if len(self._parts) < part.count:
            return
        entry = self._decoded(_ENTRIES, b"".join(one.data for one in self._parts))
        for key, value in entry.records:
            self._hold(key, value)
        self._unwritten = dict.fromkeys(key for key, _ in entry.records)
        self._outputs = [
            Routed(topic=topic, key=key, value=value, headers=tuple(headers), partition=partition)
            for topic, key, value, headers, partition in entry.outputs
        ]

    def _decoded(self, decoder: msgspec.msgpack.Decoder[_T], value: bytes) -> _T:
        try:
            return decoder.decode(value)
        except REFUSALS as error:
            raise TornEntryError(f"{self._entries.decode()}: {error}") from None

    def again(self) -> "Again":
        """Return what is to be written and sent again before anything else."""
        keys = self._unwritten | self._stale
        return Again({key: self.table.get(key) for key in keys}, self._outputs)


@dataclass(frozen=True, slots=True)
class Again:
    """What an owner writes and sends before it begins."""

    records: Mapping[bytes, bytes | None]
    outputs: list[Routed]
