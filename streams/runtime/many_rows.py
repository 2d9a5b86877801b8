"""How do rows become messages? Many to a message, as columns of equal length, all of one partition; one as it is.

Null in a column means absent, but of a feature that it was nothing: so rows of one message have the same nested names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from schemas.fields import MalformedRecordError
from schemas.label import Label
from schemas.output import Output
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import LABELS, OUTPUTS, partition_of_id, route

MOST_BYTES = 800_000
"""What a message may hold; no record is larger than 900 KB."""
WAITING_BYTES = 8_000_000
"""What may wait for others in all, as rows by themselves; beyond, everything goes as it is."""

_GROUPS = ("features", "segments", "probabilities", "safety")

_FIELDS = {
    kind: [(one.name, one.encode_name, one.default) for one in msgspec.structs.fields(kind) if one.name != "schema"]
    for kind in (Output, Label)
}
"""By record its fields: name, name in a message, default."""

Row = Output | Label
_Bundle = tuple[str, int, tuple[tuple[str, ...], ...]]
"""Rows that may travel together: topic, partition, and nested names."""


@dataclass(frozen=True, slots=True)
class Bundled:
    """A message, and the rows that it holds."""

    message: Routed
    rows: tuple[Row, ...]


class ManyRows:
    """Gathers rows into messages of at most `most_rows` and `MOST_BYTES`.

    Parameters
    ----------
    partitions
        Of the input topics.

    Examples
    --------
    >>> many = ManyRows(partitions=4, most_rows=2)
    >>> many.add(Label(prediction_id="p2", model="m", labelled_at_ms=7, label=1))
    []
    >>> (bundled,) = many.add(Label(prediction_id="p3", model="m", labelled_at_ms=8, label=0))
    >>> bundled.message.partition, bundled.message.key
    (2, b'p2')
    >>> bundled.message.value.decode()
    '{"schema":1,"rows":2,"columns":{"prediction_id":["p2","p3"],"model":["m","m"],"labelled_at_ms":[7,8],"label":[1,0]}}'
    >>> many.rest()
    []
    """

    def __init__(self, *, partitions: int, most_rows: int) -> None:
        self._partitions = partitions
        self._most_rows = most_rows
        self._waiting: dict[_Bundle, list[Row]] = {}
        self._bytes_of: dict[_Bundle, int] = {}
        self._bytes = 0

    def add(self, row: Row) -> list[Bundled]:
        """Take a row; return the messages that are full.

        Raises
        ------
        MalformedRecordError
            The join would refuse this row, or no message could hold it; it was not taken.
        """
        row, size = checked(row)
        if self._most_rows == 1:
            return [Bundled(route(row, self._partitions), (row,))]
        topic = OUTPUTS if isinstance(row, Output) else LABELS
        bundle = (topic, partition_of_id(row.prediction_id, self._partitions), _nested_names(row))
        self._waiting.setdefault(bundle, []).append(row)
        self._bytes_of[bundle] = self._bytes_of.get(bundle, 0) + size
        self._bytes += size
        if self._bytes > WAITING_BYTES:
            return self.rest()
        if len(self._waiting[bundle]) >= self._most_rows or self._bytes_of[bundle] >= MOST_BYTES // 2:
            return self._taken(bundle)
        return []

    def rest(self) -> list[Bundled]:
        """Return what waits, as messages that are not full."""
        return [bundled for bundle in list(self._waiting) for bundled in self._taken(bundle)]

    def _taken(self, bundle: _Bundle) -> list[Bundled]:
        self._bytes -= self._bytes_of.pop(bundle)
        return self._bundled(bundle, self._waiting.pop(bundle))

    def _bundled(self, bundle: _Bundle, rows: Sequence[Row]) -> list[Bundled]:
        if len(rows) == 1:
            return [Bundled(route(rows[0], self._partitions), tuple(rows))]
        topic, partition, _ = bundle
        value = columns_of([_flat(row) for row in rows])
        if len(value) > MOST_BYTES:  # long names stand shorter in rows than in columns
            half = len(rows) // 2
            return self._bundled(bundle, rows[:half]) + self._bundled(bundle, rows[half:])
        key = rows[0].prediction_id.encode()
        return [Bundled(Routed(topic=topic, key=key, value=value, partition=partition), tuple(rows))]


def checked(row: Row) -> tuple[Row, int]:
    """Return the row as the join will read it, and the length in bytes of a message of its own.

    Raises
    ------
    MalformedRecordError
        The join would refuse it, or it is longer than `MOST_BYTES`.
    """
    name = type(row).__name__.lower()
    try:
        wire = msgspec.json.encode(row, enc_hook=plain_number)
    except UnicodeEncodeError:
        raise MalformedRecordError(name, "", "text that can be written in UTF-8", "half of a character") from None
    except TypeError as error:
        raise MalformedRecordError(name, "", "values that JSON has", str(error)) from None
    if len(wire) > MOST_BYTES:
        raise MalformedRecordError(name, "", f"at most {MOST_BYTES} bytes of JSON", f"{len(wire)}")
    return type(row).decode(wire), len(wire)


def plain_number(value: object) -> object:
    """Return the number which one of NumPy's holds: models answer in them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"an object of type {type(value).__name__}")


def _nested_names(row: Row) -> tuple[tuple[str, ...], ...]:
    if isinstance(row, Label):
        return ()
    return (_names(row.features), _names(row.segments), _names(row.probabilities), _names(row.safety))


def _names(group: Mapping[str, object] | UnsetType) -> tuple[str, ...]:
    return tuple(sorted(group)) if group else ()


def columns_of(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Encode flat rows as one message.

    >>> columns_of([{"a": 1}, {"a": 2, "b": "x"}])
    b'{"schema":1,"rows":2,"columns":{"a":[1,2],"b":[null,"x"]}}'
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return msgspec.json.encode({"schema": 1, "rows": len(rows), "columns": columns})


def _flat(record: Row) -> dict[str, object]:
    """Lay a record out under flat names, defaults left out."""
    flat: dict[str, object] = {}
    for name, encoded, default in _FIELDS[type(record)]:
        value = getattr(record, name)
        if value is UNSET or value == default:
            continue
        if name in _GROUPS:
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif value != {}:
            flat[encoded] = value
    return flat
