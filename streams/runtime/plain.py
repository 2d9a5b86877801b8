"""Where are plain messages read without making objects of their rows? In `plain.c`, where it could be compiled.

Whoever builds Tocsin without a compiler gets none of it: then `decode` reads everything, to the same result, and slower.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streams.stages.batch import Coded

LIBRARY = Path(__file__).with_name("_plain.so")
"""What the build makes of `plain.c` (`deploy/compile_plain.py`)."""

LEAST_POWER, MOST_POWER = -342, 308
LEAST_EXACT_RECIPROCAL = -27
"""5**27 is the greatest power that 64 bits hold."""
FIRST_ROWS, FIRST_NAMES = 1_000, 64
"""Room at first; it doubles when it was not enough."""

Array = npt.NDArray[Any]


class Kind(IntEnum):
    """What a field is; the numbers are those of `plain.c`."""

    REFUSED = 0
    """A message that has it is not plain."""
    ID = 1
    NAME = 2
    CHOICE = 3
    INT = 4
    ANSWER = 5
    SHARE = 6
    BOOL = 7
    FEATURE = 8
    SEGMENTS = 9
    FEATURES = 10
    PROBABILITIES = 11
    ROWS = 12
    COLUMNS = 13


class Scope(IntEnum):
    """Where a name stands, or which name it is."""

    ROW = 0
    COLUMN = 1
    SEGMENT = 2
    FEATURE = 3
    NUMERIC_MODEL = 4
    CHOSEN = 5


EMPTY_IS_ABSENT, OF_MODELS = 1, 2
"""What `high` says of a field that is a name."""
_TEXT, _WHOLE = 1, 2


class Wanted(NamedTuple):
    """A name that is looked for.

    Parameters
    ----------
    column
        Which column of its kind it fills; of a feature, the column of its numbers.
    low, high
        Bounds of a whole number; of a name its least length, and what is special; of a feature `low` is the column of its
        names.
    required
        Whether each row has it.
    nullable
        Whether null stands for absent in a column.
    """

    name: str
    scope: Scope
    kind: Kind
    column: int = 0
    low: int = 0
    high: int = 0
    required: bool = False
    nullable: bool = False


_P, _L = ctypes.c_void_p, ctypes.c_int64
_ARRAYS_OF_PLAN = ("start", "length", "scope", "kind", "column", "low", "high", "required", "nullable")
_SIZES = ("int_columns", "code_columns", "bool_columns", "feature_columns")
_ROOM = (
    "id_start", "id_length", "id_hash", "ints", "codes", "answer_start", "answer_length", "answer_kind", "answer_number",
    "answer_code", "score", "greatest", "bools", "state", "numbers",
)  # fmt: skip
_BOOKS = ("book_slots", "book_start", "book_length", "book_tag", "book_count", "book_last", "is_numeric")


class _Work(ctypes.Structure):
    """As `Work` in `plain.c`."""

    _fields_ = (
        ("names", _P),
        ("slots", _P),
        ("slot_mask", _L),
        ("fields", _L),
        *((name, _P) for name in _ARRAYS_OF_PLAN),
        ("needed", _L),
        ("powers", _P),
        ("rows", _L),
        *((name, _L) for name in _SIZES),
        *((name, _P) for name in _ROOM),
        ("book_names", _L),
        *((name, _P) for name in _BOOKS),
        ("numeric_known", _L),
        ("follows", _P),
        ("seen", _P),
        ("touched", _L),
        ("data", _P),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled part, None where there is none."""
    if not LIBRARY.exists():
        return None
    found = ctypes.CDLL(str(LIBRARY))
    found.prepare.argtypes, found.prepare.restype = [ctypes.POINTER(_Work)], None
    found.scan.argtypes, found.scan.restype = [ctypes.POINTER(_Work), _P, _P, _L, _P], _L
    return found


@cache
def powers_of_five() -> npt.NDArray[np.uint64]:
    """128 leading bits of 5**q for q from `LEAST_POWER` to `MOST_POWER`, `uint64[n, 2]`, the high word first.

    Cut off, but for -27 <= q < 0, where they are rounded up: Lemire, *Number parsing at a gigabyte per second*, section 5.

    >>> [hex(int(word)) for word in powers_of_five()[1 - LEAST_POWER]]
    ['0xa000000000000000', '0x0']
    """
    table = np.zeros((MOST_POWER - LEAST_POWER + 1, 2), np.uint64)
    for q in range(LEAST_POWER, MOST_POWER + 1):
        five = 5 ** abs(q)
        if q >= 0:
            bits = (five << 128) >> five.bit_length()
        else:
            bits = (1 << (127 + five.bit_length())) // five + (q >= LEAST_EXACT_RECIPROCAL)
        table[q - LEAST_POWER] = bits >> 64, bits & ((1 << 64) - 1)
    return table


class Joined(NamedTuple):
    """Bytes one behind the other: the i-th are `data[starts[i]:starts[i + 1]]`.

    >>> joined = Joined.of([b"ab", b"", b"c"])
    >>> joined.data.tobytes(), joined.starts.tolist()
    (b'abc', [0, 2, 2, 3])
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Joined":
        """Join."""
        starts = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=starts[1:])
        return cls(np.frombuffer(b"".join(values), np.uint8), starts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scanned:
    """Rows of the plain ones of some messages, in order of place.

    Parameters
    ----------
    messages
        All that were looked at.
    of_message
        Of each message its rows, 0 where it is not plain.
    rows
        How many rows there are.
    """

    messages: Joined
    of_message: npt.NDArray[np.int64]
    rows: int
    _room: Mapping[str, Array]

    @property
    def is_all(self) -> bool:
        """Whether all messages are plain."""
        return bool(self.of_message.all())

    def column(self, name: str, number: int | None = None) -> Array:
        """Return a column of the rows, or one of those of a kind."""
        array = self._room[name]
        return array[: self.rows] if number is None else array[number, : self.rows]

    def coded(self, column: int) -> Coded:
        """Return a column of names."""
        codes, names = self.column("codes", column), self._names(column)
        if not self.is_all:  # some may be of messages that are not plain
            used, codes = _compact(codes, len(names))
            names = [names[code] for code in used.tolist()]
        return Coded(codes, tuple(names))

    def classes(self) -> tuple[npt.NDArray[np.int32], list[str | float]]:
        """Return the answers that are classes, as codes, -1 where the answer is a number; and what they stand for."""
        column = len(self._room["book_count"]) - 1
        written = self._room["book_tag"][column].tolist()
        names = [
            token if kind == _TEXT else int(token) if kind == _WHOLE else float(token)
            for token, kind in zip(self._names(column), written, strict=False)
        ]
        return self.column("answer_code"), names

    def _names(self, column: int) -> list[str]:
        count = int(self._room["book_count"][column])
        starts, lengths = (self._room[name][column, :count].tolist() for name in ("book_start", "book_length"))
        return [self.bytes_at(at, length).decode() for at, length in zip(starts, lengths, strict=True)]

    def bytes_at(self, start: int, length: int) -> bytes:
        """Return some bytes of the messages."""
        return self.messages.data[start : start + length].tobytes()


def _compact(codes: npt.NDArray[np.int32], names: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return which codes are in use, and the rows with these numbered anew."""
    used = np.flatnonzero(np.bincount(codes + 1, minlength=names + 1)[1:])
    anew = np.full(names + 1, -1, np.int32)
    anew[used] = np.arange(len(used))
    return used, anew[codes]


class Scanner:
    """Reads what is plain of messages.

    Parameters
    ----------
    wanted
        All names that are looked for.

    Examples
    --------
    >>> wanted = [Wanted("prediction_id", Scope.ROW, Kind.ID, low=1, required=True),
    ...           Wanted("model", Scope.ROW, Kind.NAME, low=1, high=OF_MODELS, required=True),
    ...           Wanted("label", Scope.ROW, Kind.ANSWER, required=True)]
    >>> values = [b'{"prediction_id":"a","model":"m","label":1}', b'{"model":"m","label":1}']
    >>> scanned = Scanner(wanted).scan(Joined.of(values)) if library() else None
    >>> scanned is None or (scanned.rows, scanned.of_message.tolist(), scanned.coded(0).values, scanned.classes()[1])
    (1, [1, 0], ('m',), [1])
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        def columns(*kinds: Kind) -> int:
            return 1 + max((one.column for one in wanted if one.kind in kinds), default=-1)

        features = [one for one in wanted if one.kind is Kind.FEATURE]
        codes = max(columns(Kind.NAME), 1 + max((one.low for one in features), default=-1))
        self._sizes = dict(
            zip(_SIZES, (columns(Kind.INT), codes, columns(Kind.BOOL), columns(Kind.FEATURE)), strict=True)
        )
        names = [one.name.encode() for one in wanted]
        lengths = np.array([len(name) for name in names], np.int64)
        of_wanted = {
            name: np.array(
                [getattr(one, name) for one in wanted], np.uint8 if name in ("required", "nullable") else np.int64
            )
            for name in _ARRAYS_OF_PLAN[2:]
        }
        slots = np.zeros(1 << (2 * len(wanted)).bit_length(), np.int32)
        self._plan: dict[str, Array] = {
            "names": np.frombuffer(b"".join(names), np.uint8),
            "slots": slots,
            "start": np.cumsum(lengths) - lengths,
            "length": lengths,
            **of_wanted,
            "powers": powers_of_five(),
            "follows": np.full(len(wanted) + 2, -1, np.int64),
        }
        self._fixed = {
            **self._sizes,
            "fields": len(wanted),
            "slot_mask": len(slots) - 1,
            "needed": int(of_wanted["required"][of_wanted["scope"] == Scope.ROW].sum()),
        }
        self._rows, self._names = FIRST_ROWS, FIRST_NAMES
        found = library()
        assert found is not None, "whoever makes a scanner has looked"
        self._library = found
        self._library.prepare(ctypes.byref(self._work(self._plan)))

    def _work(self, arrays: Mapping[str, Array], **sizes: int) -> _Work:
        return _Work(**{name: array.ctypes.data for name, array in arrays.items()}, **self._fixed, **sizes)

    def scan(self, messages: Joined) -> Scanned:
        """Read what is plain."""
        data, starts = messages.data.ctypes.data, messages.starts.ctypes.data
        of_message = np.zeros(len(messages.starts) - 1, np.int64)
        self._rows = max(self._rows, len(of_message))
        while True:
            room = self._room()
            work = self._work({**self._plan, **room}, rows=self._rows, book_names=self._names)
            rows = self._library.scan(ctypes.byref(work), data, starts, len(of_message), of_message.ctypes.data)
            if rows >= 0:
                return Scanned(messages=messages, of_message=of_message, rows=rows, _room=room)
            self._rows, self._names = 2 * self._rows, 2 * self._names

    def _room(self) -> dict[str, Array]:
        """Return memory for rows and names; what is read there was written there."""
        ints, codes, bools, features = self._sizes.values()
        n, names = self._rows, self._names
        return {
            "id_start": np.empty(n, np.int64),
            "id_length": np.empty(n, np.int64),
            "id_hash": np.empty(n, np.uint64),
            "ints": np.empty((ints, n), np.int64),
            "codes": np.empty((codes, n), np.int32),
            "answer_start": np.empty(n, np.int64),
            "answer_length": np.empty(n, np.int64),
            "answer_kind": np.empty(n, np.uint8),
            "answer_number": np.empty(n, np.float64),
            "answer_code": np.empty(n, np.int32),
            "score": np.empty(n, np.float64),
            "greatest": np.empty(n, np.float64),
            "bools": np.empty((bools, n), np.bool_),
            "state": np.empty((features, n), np.int8),
            "numbers": np.empty((features, n), np.float64),
            "book_slots": np.zeros((codes + 1, 2 * names), np.int32),
            "book_start": np.empty((codes + 1, names), np.int64),
            "book_length": np.empty((codes + 1, names), np.int64),
            "book_tag": np.empty((codes + 1, names), np.uint8),
            "book_count": np.zeros(codes + 1, np.int64),
            "book_last": np.full(codes + 1, -1, np.int64),
            "is_numeric": np.zeros(names, np.uint8),
            "seen": np.zeros(self._fixed["fields"], np.int64),
        }
