"""How does an instant look in Python, and how on the wire of the response?

In Python it is an integer of milliseconds under a name that ends in `_ms`; on the wire of incidents, acts,
notifications and receipts it is a text of RFC 3339 in UTC, under the same name without the unit.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from schemas.fields import REFUSALS, MalformedRecordError, Record, malformed
from schemas.ids import TIMES_KEPT, rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999


if TYPE_CHECKING:
    Instant = int  # every integer given for one becomes one, see `Timed`
else:

    class Instant(int):
        """Milliseconds since 1970 in UTC, up to the year 9999; a text of RFC 3339 when it travels."""

        __slots__ = ()


@lru_cache(TIMES_KEPT)
def instant(text: str) -> Instant:
    """Read a text of RFC 3339; a time without its zone is refused, since it says nothing.

    >>> instant("2026-11-22T11:00:00+01:00") == instant("2026-11-22T10:00:00Z") == 1_795_341_600_000
    True
    >>> instant("2026-11-22T10:00:00")
    Traceback (most recent call last):
    ValueError: Expected a time of RFC 3339 with its zone
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError  # noqa: TRY301 -- one message for all
        ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("Expected a time of RFC 3339 with its zone") from None
    if not 0 <= ms <= _LAST_MS:
        raise ValueError("Expected a time from 1970 to 9999")
    return Instant(ms)


def to_wire(value: object) -> object:
    """Encode what JSON and MessagePack do not know: instants."""
    if isinstance(value, Instant):
        return rfc3339(value)
    # the way in which msgspec asks its hooks to refuse a type
    raise NotImplementedError(f"nothing says how {type(value).__name__} travels")


def from_wire(kind: type, value: object) -> object:
    """Decode an instant."""
    assert kind is Instant, kind
    if not isinstance(value, str):
        raise ValueError("Expected a time of RFC 3339 with its zone")  # noqa: TRY004 -- msgspec adds the path to a ValueError
    return instant(value)


def wire_schema(kind: type) -> dict[str, object]:
    """Describe an instant to JSON Schema; the hook for whoever writes the schemas of `Timed` records."""
    assert kind is Instant, kind
    return {"type": "string", "format": "date-time"}


class Timed(Record, frozen=True, kw_only=True):
    """The base of records whose instants travel as text.

    A plain integer given for an instant becomes one, so that `replace(incident, resolved_at_ms=now_ms)` is enough.

    Examples
    --------
    >>> class Rung(Timed, frozen=True, kw_only=True):
    ...     at_ms: Instant = msgspec.field(name="at")
    >>> Rung(at_ms=1_795_341_600_000).encode()
    b'{"at":"2026-11-22T10:00:00.000Z"}'
    >>> Rung.decode(b'{"at":"yesterday"}')
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: rung.at: expected a time of RFC 3339 with its zone, got a text of 9 characters
    """

    _timed_decoders: ClassVar[dict[type, Any]] = {}
    _timed_fields: ClassVar[dict[type, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        for name in Timed._timed_fields.get(type(self)) or _instants_of(type(self)):
            value = getattr(self, name)
            if type(value) is int:
                msgspec.structs.force_setattr(self, name, Instant(value))

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Decode one record; `MalformedRecordError` says where, what was expected, and what came."""
        name = cls.__name__.lower()
        if value is None:
            raise MalformedRecordError(name, "", "a JSON object", "no value")
        decoder = Timed._timed_decoders.get(cls)
        if decoder is None:
            decoder = Timed._timed_decoders[cls] = msgspec.json.Decoder(cls, dec_hook=from_wire)
        try:
            record: Self = decoder.decode(value)
        except REFUSALS as error:
            raise malformed(name, value, error) from None
        return record

    def encode(self) -> bytes:
        """Encode to JSON, fields in their order of definition, defaults left out."""
        return msgspec.json.encode(self, enc_hook=to_wire)


def _instants_of(record: type[msgspec.Struct]) -> tuple[str, ...]:
    """Name the fields of a record that are instants: those whose name ends in `at_ms`."""
    names = Timed._timed_fields.get(record)  # noqa: SLF001 -- one module
    if names is None:
        names = tuple(name for name in record.__struct_fields__ if name.endswith("at_ms"))
        Timed._timed_fields[record] = names  # noqa: SLF001 -- one module
    return names
