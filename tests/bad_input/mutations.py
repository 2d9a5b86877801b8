"""What can be wrong with good bytes: a field of another type, one too few, a flipped bit, a part lost or doubled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"

GONE = object()
"""In the place of a value: the field is left out."""

PERSONAL = "Ann Smith"
"""What must not stand in an error, wherever it stood."""

ODD_VALUES: tuple[Any, ...] = (
    GONE,
    None,
    True,
    0,
    -1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "a",
    PERSONAL,
    "\0",
    "\x1b[31m",
    "\u202e",
    "\U0001f600",
    "x" * 600,
    "x" * 5_000,
    "2026-02-30T00:00:00Z",
    "9999-12-31T23:59:59.9999Z",
    "0001-01-01T00:00:00Z",
    "1970-01-01T00:00:00",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {PERSONAL: PERSONAL},
    {"": None},
)
"""What stands where something else belongs."""

Place = tuple[str | int, ...]


def samples(name: str) -> list[bytes]:
    """Return every form in which a record was ever sent."""
    return [file.read_bytes() for file in sorted((GOLDEN / name).iterdir())]


def places(value: Any, at: Place = ()) -> Iterator[Place]:  # noqa: ANN401 -- any JSON
    """Name each place of a JSON value, the whole first."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*at, name))


def replaced(value: Any, place: Place, by: Any) -> Any:  # noqa: ANN401 -- any JSON
    """Put another value at a place."""
    if not place:
        return None if by is GONE else by
    name, inner = place[0], place[1:]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if by is GONE and not inner:
        del copy[name]
    else:
        copy[name] = replaced(copy[name], inner, by)
    return copy


def swapped(wire: bytes) -> Iterator[bytes]:
    """Put each odd value at each place of a JSON text; what follows a newline stays as it is."""
    head, newline, rest = wire.partition(b"\n")
    value = json.loads(head)
    for place in places(value):
        for odd in ODD_VALUES:
            yield json.dumps(replaced(value, place, odd)).encode() + newline + rest


@st.composite
def mutated(draw: st.DrawFn, wires: list[bytes]) -> bytes:
    """Flip, cut, insert and copy within good bytes, up to four times."""
    wire = bytearray(draw(st.sampled_from(wires)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(wire)))
        match draw(st.sampled_from(["flip", "cut", "insert", "copy", "drop"])):
            case "flip" if at < len(wire):
                wire[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del wire[at:]
            case "insert":
                some = st.sampled_from(
                    [b"null", b"1e999", b"-1", b"[", b"{}", b'"', b"9" * 400, b"\\ud800", b"[" * 9_999]
                )
                wire[at:at] = draw(st.one_of(st.binary(max_size=5), some))
            case "copy":
                other = draw(st.integers(0, len(wire)))
                wire[at:at] = wire[other : other + draw(st.integers(1, 40))]
            case _:
                del wire[at : at + draw(st.integers(1, 40))]
    return bytes(wire)
