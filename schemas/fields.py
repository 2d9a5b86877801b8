"""How does a record come from bytes, and what is said when it cannot?

Exception
└── ValueError
    └── MalformedRecordError    theirs, for ever: dead letter, go on
"""

import math
import re
from typing import Annotated, Any, ClassVar, Self, TypeVar

import msgspec
from msgspec import Meta

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A whole number that fits 64 bits: what follows counts in arrays, and keeps it in rows."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""How many, or which one, from 0."""
Ordinal = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""Which one, from 1."""
Value = str | Whole | float | None
"""What a model may say of one thing: a name, a number, or explicitly nothing."""

TOCSIN = "tocsin"
"""The model under whose name Tocsin watches itself."""
NOT_OURS = f"^(?!{TOCSIN}$)"
"""Pattern of every other name."""


REFUSALS = (msgspec.DecodeError, ValueError, RecursionError)
"""How a decoder of bytes says no: no JSON or of the wrong type, no UTF-8 or a number without end, nested too deep."""


class MalformedRecordError(ValueError):
    """Bytes that are no record of ours; they go to `dead-letters` with this error's three parts.

    What to do: find the producer by topic, partition and offset of the dead letter, mend it, then
    `tocsin dead-letters list` shows whether more come.

    Parameters
    ----------
    record
        Which record was expected, for instance `output`.
    field
        Path of the field, for instance `segments.region`; empty when the whole is meant.
    expected, got
        What would have been right, and what came. Foreign text is described, never quoted.

    Examples
    --------
    >>> str(MalformedRecordError("output", "score", "a number in [0, 1]", "1.5"))
    'output.score: expected a number in [0, 1], got 1.5'
    """

    def __init__(self, record: str, field: str, expected: str, got: str) -> None:
        self.record = record
        self.field = field
        self.expected = expected
        self.got = got
        where = f"{record}.{field}" if field else record
        super().__init__(f"{where}: expected {expected}, got {got}")


def counted(count: int, what: str) -> str:
    """Count things for people, by their name in the singular.

    >>> counted(1, "record"), counted(0, "record"), counted(1_200, "record")
    ('1 record', '0 records', '1,200 records')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def described(value: object) -> str:
    """Describe a foreign value without quoting its text.

    >>> described(1.5), described("Ann"), described(None), described([1, 2])
    ('1.5', 'a text of 3 characters', 'null', 'a list of 2')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return f"a text of {counted(len(value), 'character')}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"an object of {len(value)}" if isinstance(value, dict) else type(value).__name__


def class_name(value: str | float) -> str:
    """Name a class one way, whether it came as text or as number.

    >>> class_name("1"), class_name(1), class_name(1.0), class_name(0.5)
    ('1', '1', '1', '0.5')
    """
    if isinstance(value, str | int):
        return str(value)
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


_KINDS = {
    "str": "a text",
    "bytes": "a text of base64",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS = ((" >= ", " of at least "), (" <= ", " of at most "), (" > ", " above "), (" < ", " below "))


def in_words(expected: str) -> str:
    """Say what a decoder expected as a person would.

    >>> in_words("`float` <= 1.0"), in_words("`str` of length >= 1"), in_words("`str | int | null`")
    ('a number of at most 1.0', 'a text of length at least 1', 'a text, a whole number or null')
    >>> in_words("`str` matching regex '^(?!tocsin$)'")
    "a text other than tocsin, Tocsin's own name"
    """
    kinds, _, rest = expected.removeprefix("`").partition("`")
    named = [_KINDS.get(kind, kind) for kind in dict.fromkeys(kinds.split(" | "))]
    for bound, words in _BOUNDS:
        rest = rest.replace(bound, words)
    rest = rest.replace(f" matching regex {NOT_OURS!r}", f" other than {TOCSIN}, Tocsin's own name")
    rest = rest.replace("of length of", "of length").replace("`", "")
    return (", ".join(named[:-1]) + " or " if named[1:] else "") + named[-1] + rest


def _at(message: str) -> tuple[str, str]:
    """Split a decoder's message into what it says and the path it says it of."""
    text, _, path = message.partition(" - at `")
    return text, path.rstrip("`").removeprefix("$").removeprefix(".").replace("[...]", "")


def _look(raw: object, path: str) -> object:
    """Follow a path of names as far as it goes."""
    for name in filter(None, path.replace("[", ".").replace("]", "").split(".")):
        if isinstance(raw, dict) and name in raw:
            raw = raw[name]
        elif isinstance(raw, list) and name.isdigit() and int(name) < len(raw):
            raw = raw[int(name)]
        else:
            return msgspec.UNSET
    return raw


def malformed(record: str, value: bytes, error: Exception) -> MalformedRecordError:
    """Turn a decoder's complaint into ours: which field, what was expected, what came.

    >>> str(malformed("output", b'{"a":1,}', ValueError("")))
    'output: expected a JSON object, got 8 bytes that are no JSON (from byte 7 on)'
    """
    try:
        raw: object = msgspec.json.decode(value)
    except REFUSALS as broken:
        place = re.search(r"\(byte (\d+)\)", str(broken))
        from_byte = f" (from byte {place[1]} on)" if place else ""
        return MalformedRecordError(record, "", "a JSON object", f"{len(value)} bytes that are no JSON{from_byte}")
    text, path = _at(str(error))
    if text.startswith("Object missing required field `"):
        name = text.removeprefix("Object missing required field `").rstrip("`")
        return MalformedRecordError(record, f"{path}.{name}".lstrip("."), "a value (the field is required)", "nothing")
    if text.startswith("Invalid "):  # and what follows is a quotation
        expected = "one of its allowed names (`tocsin schema` lists them)"
    else:
        expected = text.removeprefix("Expected ").partition(", got ")[0]
        expected = in_words(expected) if expected.startswith("`") else expected[:1].lower() + expected[1:]
    got = _look(raw, path)
    return MalformedRecordError(record, path, expected, "nothing" if got is msgspec.UNSET else described(got))


RecordT = TypeVar("RecordT", bound="Record")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of what travels as JSON: decode and encode, with unknown fields ignored.

    Evolution only adds fields with defaults, so that what was ever sent decodes for ever.
    """

    _decoders: ClassVar[dict[type, Any]] = {}

    schema: Ordinal = 1

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Decode one record; `MalformedRecordError` says where, what was expected, and what came."""
        name = cls.__name__.lower()
        if value is None:
            raise MalformedRecordError(name, "", "a JSON object", "no value")
        decoder = Record._decoders.get(cls)
        if decoder is None:
            decoder = Record._decoders[cls] = msgspec.json.Decoder(cls)
        try:
            record: Self = decoder.decode(value)
        except REFUSALS as error:
            raise malformed(name, value, error) from None
        return record

    def encode(self) -> bytes:
        """Encode to JSON, fields in their order of definition, defaults left out."""
        return msgspec.json.encode(self)
