"""How does a stage keep its state? As rows of MessagePack, the same bytes for the same content."""

from collections.abc import Iterator, MutableMapping
from typing import Generic, TypeVar

import msgspec

from schemas.fields import REFUSALS
from schemas.instant import Instant
from streams.stages.state_rows import TornStateError

RowT = TypeVar("RowT", bound=msgspec.Struct)

ROWS_READ = 1_000
"""Rows of one kind that are held as they were read: an incident is looked at several times for each finding."""


def _kept(value: object) -> int:
    """Keep instants as the integers that they are."""
    if isinstance(value, Instant):
        return int(value)
    # the way in which msgspec asks its hooks to refuse a type
    raise NotImplementedError(f"nothing says how {type(value).__name__} is kept")


def _found(kind: type, value: object) -> object:
    assert kind is Instant, kind
    assert isinstance(value, int), "an instant is kept as an integer"
    return Instant(value)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_kept, order="deterministic")


class Rows(Generic[RowT]):
    """The rows of one kind in a stage's mapping, under one prefix; read and written whole.

    >>> class Mark(msgspec.Struct, frozen=True, tag=True):
    ...     at_ms: int
    >>> base: dict[str, bytes] = {}
    >>> marks = Rows(base, "mark/", Mark)
    >>> marks["a"] = Mark(5)
    >>> marks.get("a"), marks.get("b"), list(base)
    (Mark(at_ms=5), None, ['mark/a'])
    """

    def __init__(self, base: MutableMapping[str, bytes], prefix: str, kind: type[RowT]) -> None:
        self._base = base
        self._prefix = prefix
        self._decoder = msgspec.msgpack.Decoder(kind, dec_hook=_found)
        self._read: dict[str, tuple[bytes, RowT]] = {}

    def get(self, key: str) -> RowT | None:
        """Return the row, None where there is none."""
        value = self._base.get(self._prefix + key)
        return None if value is None else self._decoded(key, value)

    def __getitem__(self, key: str) -> RowT:
        return self._decoded(key, self._base[self._prefix + key])

    def _decoded(self, key: str, value: bytes) -> RowT:
        known = self._read.get(key)
        if known is not None and known[0] is value:
            return known[1]
        if len(self._read) >= ROWS_READ:
            self._read.clear()
        row = self._from(key, value)
        self._read[key] = value, row
        return row

    def _from(self, key: str, value: bytes) -> RowT:
        try:
            return self._decoder.decode(value)
        except REFUSALS as error:
            expected = self._decoder.type.__name__
            raise TornStateError(f"{self._prefix}{key}: expected a {expected}, got {len(value)} bytes") from error

    def __setitem__(self, key: str, row: RowT) -> None:
        self._base[self._prefix + key] = _ENCODER.encode(row)

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._base

    def discard(self, key: str) -> None:
        """Delete the row, if there is one."""
        if self._prefix + key in self._base:
            del self._base[self._prefix + key]

    def items(self) -> Iterator[tuple[str, RowT]]:
        """Go over all rows of this kind, in the order of their keys."""
        for key in sorted(key for key in self._base if key.startswith(self._prefix)):
            name = key.removeprefix(self._prefix)
            yield name, self._from(name, self._base[key])
