"""How do many rows become one message? As columns of equal length, all rows of one partition.

Null in a column means absent, but of a feature that it was nothing: so rows of one message have the same features.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET

from schemas.label import Label
from schemas.output import Output
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import LABELS, OUTPUTS, partition_of_id

MOST_BYTES = 800_000
"""What a message may hold; no record is larger than 900 KB."""

_GROUPS = ("features", "segments", "probabilities", "safety")
_Bundle = tuple[str, int, tuple[str, ...]]


class ManyRows:
    """Gathers rows into messages of at most `most_rows`.

    Parameters
    ----------
    partitions
        Of the input topics.

    Examples
    --------
    >>> many = ManyRows(partitions=4, most_rows=2)
    >>> first = Label(prediction_id="p2", model="m", labelled_at_ms=7, label=1)
    >>> many.add(first)
    >>> message = many.add(Label(prediction_id="p3", model="m", labelled_at_ms=8, label=0))
    >>> message.partition, message.key
    (2, b'p2')
    >>> message.value.decode()
    '{"schema":1,"rows":2,"columns":{"prediction_id":["p2","p3"],"model":["m","m"],"labelled_at_ms":[7,8],"label":[1,0]}}'
    >>> many.rest()
    []
    """

    def __init__(self, *, partitions: int, most_rows: int) -> None:
        self._partitions = partitions
        self._most_rows = most_rows
        self._waiting: dict[_Bundle, list[Mapping[str, object]]] = {}
        self._held_bytes: dict[_Bundle, int] = {}

    def add(self, record: Output | Label) -> Routed | None:
        """Take a row; return a message when one is full."""
        topic = OUTPUTS if isinstance(record, Output) else LABELS
        features = tuple(sorted(record.features)) if isinstance(record, Output) else ()
        bundle = (topic, partition_of_id(record.prediction_id, self._partitions), features)
        self._waiting.setdefault(bundle, []).append(_flat(record))
        self._held_bytes[bundle] = self._held_bytes.get(bundle, 0) + len(record.encode())
        full = len(self._waiting[bundle]) >= self._most_rows or self._held_bytes[bundle] >= MOST_BYTES // 2
        return self._message(bundle) if full else None

    def rest(self) -> list[Routed]:
        """Return what waits, as messages that are not full."""
        return [self._message(bundle) for bundle in list(self._waiting)]

    def _message(self, bundle: _Bundle) -> Routed:
        rows = self._waiting.pop(bundle)
        del self._held_bytes[bundle]
        topic, partition, _ = bundle
        key = str(rows[0]["prediction_id"]).encode()
        return Routed(topic=topic, key=key, value=columns_of(rows), partition=partition)


def columns_of(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Encode flat rows as one message.

    >>> columns_of([{"a": 1}, {"a": 2, "b": "x"}])
    b'{"schema":1,"rows":2,"columns":{"a":[1,2],"b":[null,"x"]}}'
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return msgspec.json.encode({"schema": 1, "rows": len(rows), "columns": columns})


def _flat(record: Output | Label) -> dict[str, object]:
    """Lay a record out under flat names, defaults left out."""
    flat: dict[str, object] = {}
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        if value is UNSET or value == field.default or field.name == "schema":
            continue
        if field.name in _GROUPS:
            flat |= {f"{field.name}.{name}": one for name, one in value.items()}
        elif value != {}:
            flat[field.encode_name] = value
    return flat
