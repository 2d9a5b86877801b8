"""How do messages become columns, and what becomes of those that cannot?

Bytes are decoded here, once. A message holds one row as a JSON object, or many: as columns
`{"schema": 1, "rows": n, "columns": {"prediction_id": […], "features.AGE": […], …}}`, or, slower, as a list of objects.
The three forms mix freely on one topic. A message is many-row when it has `columns` and no `prediction_id`.

Every row ends as a row of the batch or as one dead letter: rows = good + dead. A message which cannot be read at all,
or whose columns are not of one length, is one dead row. Where only some rows of a message are wrong, those are dead
under their index, and the others count.

In columns, null means absent, but for features, where null is what the model was given. Fields that no column needs
are not looked at: neither is their type checked, nor do they cost.

What is plain is read by `plain`, without an object for a row, where that could be compiled; what is not, and all that is
wrong, here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from types import GenericAlias
from typing import Any, ClassVar, Generic, Union, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import murmur2
from msgspec import UNSET, UnsetType

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE, NUMBER, confidence_of
from schemas.dead_letter import DeadLetter
from schemas.fields import REFUSALS, MalformedRecordError, Record, Value, described, malformed
from schemas.label import Label
from schemas.model import Model
from schemas.output import ModelName, Name, Output
from streams.runtime import plain
from streams.runtime.hashing import Codes, class_hashes, content_hashes, id_hashes, identity_hashes, number_bits
from streams.runtime.plain import EMPTY_IS_ABSENT, OF_MODELS, Joined, Kind, Scanned, Scanner, Scope, Wanted
from streams.runtime.sent_again import as_attempt
from streams.runtime.stage_spec import Headers
from streams.stages.batch import (
    NOT_LOOKED_AT,
    BatchT,
    Coded,
    FeatureColumn,
    Ints,
    LabelBatch,
    OutputBatch,
    merged,
)

CHUNK_ROWS = 1_000
"""Rows whose Python objects are held at once: few enough to stay in the processor's cache."""
MOST_ROWS = 65_536
"""Rows of one message: what has more is refused whole. One that can be bad in each row is bounded by it."""
MOST_ROWS_AT_ONCE = 2 * MOST_ROWS
"""Rows of messages that are decoded together, but for a single message; each may become a dead letter later."""
TEXT_BYTES = 65_536
"""Texts longer than this are counted."""
SAMPLED_IDS = 100
"""Row ids of a batch whose partition is checked for the log, the metrics and the probes."""
LOOKED_AT_ONE_IN = 64
"""Rows of which one is looked at for `Closed`, a power of two: those whose hash is a multiple of it, so that neither batches
nor restarts choose."""

_SINGLE_MAX = float(np.finfo(np.float32).max)
_ABSENT = float("nan")
"""What a feature is that a row does not have. JSON knows no NaN, so that none comes from outside."""
_GROUPS = ("features", "segments", "probabilities")

Array = npt.NDArray[Any]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Messages of one topic and partition in order of place; all are equally long.

    Parameters
    ----------
    start, end
        Offsets `[start, end)` that they cover, gaps included.
    headers
        Those of a message, by its index here: only a refused message is asked for them.
    joined
        The values, where they lie one behind the other already and each has a key.
    """

    partition: int
    start: int
    end: int
    offset: Sequence[int] | npt.NDArray[np.int64]
    broker_ms: Sequence[int] | npt.NDArray[np.int64]
    key: Sequence[bytes | None]
    value: Sequence[bytes | None]
    headers: Callable[[int], Headers] = lambda _: ()
    joined: Joined | None = None

    def only(self, some: Sequence[int]) -> "Messages":
        """Return some of them, by their indices here, of the same stretch."""
        return replace(
            self,
            offset=[self.offset[at] for at in some],
            broker_ms=[self.broker_ms[at] for at in some],
            key=[self.key[at] for at in some],
            value=[self.value[at] for at in some],
            headers=lambda at: self.headers(some[at]),
            joined=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Generic[BatchT]):
    """What became of some messages.

    Parameters
    ----------
    batch
        The good rows; `batch.dead` is `len(dead)`.
    dead
        One dead letter for each row that was refused.
    sampled, mismatched
        Row ids that were looked at, and those that murmur2 sends to another partition.
    cut_texts
        Texts of more than 64 KB.
    """

    batch: BatchT
    dead: list[DeadLetter]
    sampled: int
    mismatched: int
    cut_texts: int


class TooManyRowsError(Exception):
    """More rows in these messages than are decoded at once, or more refused ones; some of them are to be decoded at a time."""


class _TextColumns(msgspec.Struct):
    text: list[str | None] = msgspec.field(default_factory=list)


class _Texts(msgspec.Struct):
    text: str | None = None
    columns: _TextColumns = msgspec.field(default_factory=_TextColumns)


_TEXTS = msgspec.json.Decoder(_Texts | list[_Texts])


@dataclass(slots=True)
class _Taken:
    """What was taken so far.

    Parameters
    ----------
    columns
        By field the values of up to a chunk of rows.
    blocks
        By column the arrays made of earlier chunks.
    codes
        By column the numbers of its names.
    of_message
        By message how many good rows it had; `rows` holds their indices.
    dropped
        Good rows that turned out to be none, with the reason.
    """

    messages: Messages
    columns: dict[str, list[Any]]
    held: int = 0
    settled: int = 0
    ids: list[str] = field(default_factory=list)
    blocks: dict[str, list[Array]] = field(default_factory=dict)
    codes: dict[str, Codes] = field(default_factory=dict)
    of_message: list[int] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    dropped: dict[int, MalformedRecordError] = field(default_factory=dict)

    def add(self, name: str, block: Array) -> None:
        """Add the next block of a column."""
        self.blocks.setdefault(name, []).append(block)

    def add_names(self, name: str, values: Sequence[str | None]) -> npt.NDArray[np.int32]:
        """Add the next block of a column of names."""
        column = self.codes_of(name).column(values)
        self.add(name, column)
        return column

    def codes_of(self, name: str) -> Codes:
        """Return the numbers of a column's names."""
        codes = self.codes.get(name)
        if codes is None:
            codes = self.codes[name] = Codes(absent=(None, "") if name == "version" else (None,))
        return codes

    def column(self, name: str, dtype: npt.DTypeLike) -> Array:
        """Return a whole column, without the dropped rows."""
        blocks = self.blocks.get(name, [])
        whole = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, dtype), *blocks])
        return np.delete(whole, list(self.dropped)) if self.dropped else whole

    def names(self, name: str) -> Coded:
        """Return a whole column of names."""
        return Coded(self.column(name, np.int32), self.codes_of(name).names())


def _fields_of(record: type[Record], required: Sequence[str], absent: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the fields of a record that become columns, as the record defines them; `absent` stands for what is not there.

    >>> _fields_of(Label, (), {"version": -1})
    [('version', typing.Annotated[int, msgspec.Meta(ge=0, le=4611686018427387904)], -1)]
    """
    defined = {field.name: field for field in msgspec.structs.fields(record)}
    assert all(defined[name].required for name in required)
    assert not any(defined[name].required for name in absent)
    fields = []
    for name in (*required, *absent):
        of = defined[name].type
        if UnsetType in get_args(of):
            of = Union[tuple(one for one in get_args(of) if one is not UnsetType)]  # noqa: UP007 -- made, not written
        fields.append((name, of, absent.get(name, msgspec.NODEFAULT)))
    return fields


class Edge(ABC, Generic[BatchT]):
    """Decodes the messages of one topic.

    Parameters
    ----------
    models
        The configured models: whose answer is a number, and which segments and features are declared.
    partitions
        How many partitions the topic has.
    """

    topic: ClassVar[str]
    record: ClassVar[str]
    fields: ClassVar[Sequence[tuple[str, Any, Any]]]
    """Name, type and default (`NODEFAULT`: required) of each field of a row that becomes a column."""
    kinds: ClassVar[Mapping[str, tuple[Kind, int]]]
    """What `plain` is told of each field: what it is, and which column of its kind."""

    def __init__(self, models: Mapping[str, Model], partitions: int) -> None:
        self._partitions = partitions
        self._numeric_models = frozenset(name for name, model in models.items() if model.kind == "regression")
        self._groups = self._declared(models)
        self._row_type = self._row_struct()
        self._row = msgspec.json.Decoder(self._row_type).decode
        self._table_type, self._absent = self._table_struct()
        self._table = msgspec.json.Decoder(self._table_type).decode
        self._nullable = {name for name, _, default in self.fields if default not in (msgspec.NODEFAULT, None)}
        self._tables_first = False  # what came last: decides what is tried first, never what a message is
        self._scanner = Scanner(self._wanted()) if plain.library() else None

    # -- what a row is

    @staticmethod
    def _declared(models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
        """Names of the nested fields that become columns, by group."""
        del models
        return {}

    @abstractmethod
    def _settle(self, taken: _Taken, columns: Columns, ids: Sequence[str]) -> None:
        """Make blocks of a chunk's columns."""

    @abstractmethod
    def _batch(self, taken: _Taken, place: "_Place") -> BatchT:
        """Put the blocks together."""

    def _row_struct(self) -> type[msgspec.Struct]:
        fields = [
            (name, kind) if default is msgspec.NODEFAULT else (name, kind, default)
            for name, kind, default in self.fields
        ]
        for group, names in self._groups.items():
            kind, absent = (Value, _ABSENT) if group == "features" else (str, None)
            inner = msgspec.defstruct(
                group,
                [(f"f{number}", kind, absent) for number in range(len(names))],
                rename={f"f{number}": name for number, name in enumerate(names)},
                frozen=True,
                gc=False,
            )
            fields.append((group, inner, inner()))
        return msgspec.defstruct("row", fields, gc=False)

    def _table_struct(self) -> tuple[type[msgspec.Struct], dict[str, Any]]:
        """Return the type of a many-row message, and by column what stands for the values that it does not have."""
        fields: list[Any] = []
        rename: dict[str, str] = {}
        absent: dict[str, Any] = {}
        for name, kind, default in self.fields:
            if name in _GROUPS:  # a column a class, whose names only the message knows
                continue
            if default is msgspec.NODEFAULT:
                fields.append((name, GenericAlias(list, (kind,))))
            else:
                fields.append((name, GenericAlias(list, (kind | None,)) | UnsetType, UNSET))
            absent[name] = default
        for group, names in self._groups.items():
            kind = list[Value] | UnsetType if group == "features" else list[str | None] | UnsetType
            for number, name in enumerate(names):
                column = f"{group}_{number}"
                fields.append((column, kind, UNSET))
                rename[column] = f"{group}.{name}"
                absent[column] = _ABSENT if group == "features" else None
        for group in _GROUPS:  # as one column of objects: accepted, on the slower path
            fields.append((f"whole_{group}", msgspec.Raw | UnsetType, UNSET))
            rename[f"whole_{group}"] = group
        columns = msgspec.defstruct("columns", fields, rename=rename, gc=False)
        table = msgspec.defstruct(
            "table", [("rows", int), ("columns", columns), ("prediction_id", msgspec.Raw | UnsetType, UNSET)], gc=False
        )
        return table, absent

    def _wanted(self) -> list[Wanted]:
        """Return what `plain` is to look for."""
        wanted = [Wanted(model, Scope.NUMERIC_MODEL, Kind.REFUSED) for model in self._numeric_models]
        wanted += [Wanted("rows", Scope.ROW, Kind.ROWS), Wanted("columns", Scope.ROW, Kind.COLUMNS)]
        for name, of, default in self.fields:
            kind, column = self.kinds[name]
            low, high = _limits(name, kind, of)
            row = Wanted(name, Scope.ROW, kind, column, low, high, required=default is msgspec.NODEFAULT)
            wanted.append(row)
            if name not in _GROUPS:
                wanted.append(row._replace(scope=Scope.COLUMN, nullable=not row.required))
            if kind is Kind.CHOICE:
                wanted += [Wanted(one, Scope.CHOSEN, Kind.REFUSED) for one in get_args(of)]
        wanted += [Wanted(group, Scope.COLUMN, Kind.REFUSED) for group in _GROUPS]
        names = 1 + max(column for kind, column in self.kinds.values() if kind is Kind.NAME)
        for group, scope, whole in (
            ("segments", Scope.SEGMENT, Kind.SEGMENTS),
            ("features", Scope.FEATURE, Kind.FEATURES),
        ):
            if group in self._groups:
                wanted.append(Wanted(group, Scope.ROW, whole))
            for number, name in enumerate(self._groups.get(group, ())):
                kind, column, low = (Kind.NAME, names, 0) if group == "segments" else (Kind.FEATURE, number, names)
                one = Wanted(name, scope, kind, column, low, nullable=True)
                wanted += [one, one._replace(name=f"{group}.{name}", scope=Scope.COLUMN)]
                names += 1
        return wanted

    # -- from messages to rows

    def decode(self, messages: Messages) -> Decoded[BatchT]:
        """Decode messages in order of place.

        Raises
        ------
        TooManyRowsError
            They have more than `MOST_ROWS_AT_ONCE` rows, or more than `MOST_ROWS` that are refused; never of one message.
        """
        if self._scanner is None or not len(messages.value):
            return self._decoded_here(messages)
        scanned = self._scanner.scan(messages.joined or Joined.of(_readable(messages)))
        if not scanned.of_message.any():
            return self._decoded_here(messages)
        if scanned.rows > MOST_ROWS_AT_ONCE and len(messages.value) > 1:
            raise TooManyRowsError
        decoded = self._decoded_there(scanned, messages)
        if scanned.is_all:
            return decoded
        rest = self._decoded_here(messages.only(np.flatnonzero(scanned.of_message == 0).tolist()))
        return Decoded(
            batch=merged(decoded.batch, rest.batch),
            dead=rest.dead,
            sampled=decoded.sampled + rest.sampled,
            mismatched=decoded.mismatched + rest.mismatched,
            cut_texts=decoded.cut_texts + rest.cut_texts,
        )

    def _decoded_there(self, scanned: Scanned, messages: Messages) -> Decoded[BatchT]:
        """Put together what `plain` has read."""
        count = scanned.of_message
        at = np.repeat(np.arange(len(count)), count)
        first = np.cumsum(count) - count
        model = scanned.coded(0)
        starts, lengths = scanned.column("id_start"), scanned.column("id_length")
        step = max(1, scanned.rows // SAMPLED_IDS)
        sample = [
            scanned.bytes_at(start, length)
            for start, length in zip(starts[::step].tolist(), lengths[::step].tolist(), strict=True)
        ]
        id_hash = identity_hashes(model.values, model.codes, scanned.column("id_hash"))

        def ids(rows: Ints) -> list[bytes]:
            where = zip(starts[rows].tolist(), lengths[rows].tolist(), strict=True)
            return [scanned.bytes_at(start, length) for start, length in where]

        place = _Place(
            messages=messages,
            offset=np.array(messages.offset, np.int64)[at],
            row=(np.arange(scanned.rows) - first[at]).astype(np.int32),
            broker_ms=np.array(messages.broker_ms, np.int64)[at],
            id_hash=id_hash,
            misplaced=self._misplaced(messages.partition, id_hash, ids),
            model=model,
            dead=0,
        )
        long = np.flatnonzero((np.diff(scanned.messages.starts) > TEXT_BYTES) & (count > 0)).tolist()
        return Decoded(
            batch=self._batch_of_plain(scanned, place),
            dead=[],
            sampled=len(sample),
            mismatched=sum(murmur2(one, self._partitions) != messages.partition for one in sample),
            cut_texts=sum(_long_texts(messages.value[one] or b"") for one in long),
        )

    def _misplaced(
        self, partition: int, id_hash: npt.NDArray[np.uint64], ids: Callable[[Ints], Sequence[bytes]]
    ) -> npt.NDArray[np.int8]:
        """Say of one row in `LOOKED_AT_ONE_IN` whether it belongs to another partition; `ids` gives those of some rows."""
        misplaced = np.full(len(id_hash), NOT_LOOKED_AT, np.int8)
        rows = np.flatnonzero(id_hash & np.uint64(LOOKED_AT_ONE_IN - 1) == 0)
        misplaced[rows] = [murmur2(one, self._partitions) != partition for one in ids(rows)]
        return misplaced

    @abstractmethod
    def _batch_of_plain(self, scanned: Scanned, place: "_Place") -> BatchT:
        """Make a batch of what `plain` has read."""

    def _answers_of_plain(self, scanned: Scanned, model: Coded) -> npt.NDArray[np.uint32]:
        codes, classes = scanned.classes()
        hashes = class_hashes(classes)
        numeric = np.array([name in self._numeric_models for name in model.values], np.bool_)
        if not numeric.any():
            return hashes[codes]
        return np.where(
            numeric[model.codes],
            number_bits(scanned.column("answer_number")),
            np.append(hashes, np.uint32(0))[codes],
        )

    def _decoded_here(self, messages: Messages) -> Decoded[BatchT]:
        values = _readable(messages)
        names = [name for name, _, _ in self.fields]
        names += [f"{group}_{number}" for group, inner in self._groups.items() for number in range(len(inner))]
        taken = _Taken(messages, {name: [] for name in names})
        while (at := len(taken.of_message)) < len(values):
            if self._tables_first:
                self._tables_first = self._took_table(taken, values[at])
            else:
                self._take_rows(taken, values, at)
            rows = taken.settled + taken.held + len(taken.dead)
            if (rows > MOST_ROWS_AT_ONCE or len(taken.dead) > MOST_ROWS) and len(values) > 1:
                raise TooManyRowsError
        self._settle_held(taken)
        return self._decoded(taken, values)

    def _take_rows(self, taken: _Taken, values: Sequence[bytes], at: int) -> None:
        """Take one-row messages from `at` on: a chunk of them, or up to the first that is none, and that one."""
        rows: list[msgspec.Struct] = []
        refusal = None
        try:
            # what was decoded before a refusal stays in the list: its length says which message was refused
            rows.extend(map(self._row, islice(values, at, at + CHUNK_ROWS)))
        except REFUSALS as error:
            refusal = error
        taken.of_message += repeat(1, len(rows))
        self._take(taken, rows, np.zeros(len(rows), np.int32))
        if refusal is not None:
            value = values[at + len(rows)]
            self._tables_first = self._took_table(taken, value)
            if not self._tables_first:
                self._take_odd(taken, value, refusal)

    def _take(self, taken: _Taken, rows: Sequence[msgspec.Struct], index: npt.NDArray[np.int32]) -> None:
        """Take rows of the row type, whose indices in their messages are given."""
        if not rows:
            return
        names = iter(taken.columns)
        by_field = zip(*map(msgspec.structs.astuple, rows), strict=True)
        plain = len(self.fields)
        for number, column in enumerate(by_field):
            if number < plain:
                taken.columns[next(names)] += column
            else:
                for inner in zip(*map(msgspec.structs.astuple, column), strict=True):
                    taken.columns[next(names)] += inner
        self._took(taken, index)

    def _took(self, taken: _Taken, index: npt.NDArray[np.int32]) -> None:
        taken.rows.append(index)
        taken.held += len(index)
        if taken.held >= CHUNK_ROWS:
            self._settle_held(taken)

    def _took_table(self, taken: _Taken, value: bytes) -> bool:
        """Take a many-row message in which all is right, and say whether it was one."""
        try:
            table: Any = self._table(value)
        except REFUSALS:
            return False
        count, columns = table.rows, table.columns
        if table.prediction_id is not UNSET or not 1 <= count <= MOST_ROWS or b'"probabilities.' in value:
            return False
        if any(getattr(columns, f"whole_{group}") is not UNSET for group in _GROUPS):
            return False
        by_name = {name: getattr(columns, name) for name in self._absent}
        if any(column is not UNSET and len(column) != count for column in by_name.values()):
            return False
        for name, held in taken.columns.items():
            column = by_name.get(name, UNSET)
            absent = self._absent.get(name)
            if column is UNSET:
                held.extend(repeat(absent, count))
            elif name in self._nullable and None in column:
                held.extend(absent if value is None else value for value in column)
            else:
                held.extend(column)
        taken.of_message.append(count)
        self._took(taken, np.arange(count, dtype=np.int32))
        return True

    def _take_odd(self, taken: _Taken, value: bytes, refusal: Exception) -> None:
        """Take a message that neither is a row, nor many that are all right."""
        at = len(taken.of_message)
        messages = taken.messages
        error: MalformedRecordError | None = None
        rows: list[Any] = []
        try:
            raw: Any = msgspec.json.decode(value)
        except REFUSALS:
            raw = None
        if messages.value[at] is None:
            error = MalformedRecordError(self.record, "", "a JSON object", "no value")
        elif messages.key[at] is None:
            error = MalformedRecordError(self.record, "key", "the prediction id of the (first) row", "no key")
        elif isinstance(raw, dict) and "columns" in raw and "prediction_id" not in raw:
            rows, error = self._rows_of_columns(raw)
        elif isinstance(raw, list):
            rows = raw
            if not 1 <= len(rows) <= MOST_ROWS:
                error = MalformedRecordError(self.record, "rows", f"1 to {MOST_ROWS} rows", f"{len(rows) or 'none'}")
        else:
            error = malformed(self.record, value, refusal)
        if error is not None:
            taken.of_message.append(0)
            taken.dead.append(self._letter(messages, at, -1, error, messages.key[at], messages.value[at]))
            return
        good, index = [], []
        for number, row in enumerate(rows):
            try:
                good.append(msgspec.convert(row, self._row_type))
                index.append(number)
            except REFUSALS as wrong:
                taken.dead.append(self._row_letter(messages, at, number, row, wrong))
        taken.of_message.append(len(good))
        self._take(taken, good, np.array(index, np.int32))

    def _rows_of_columns(self, raw: dict[str, Any]) -> tuple[list[dict[str, Any]], MalformedRecordError | None]:
        """Turn columns into rows, or say why they are none."""
        count, columns = raw.get("rows", UNSET), raw["columns"]

        def refused(where: str, expected: str, got: str) -> tuple[list[dict[str, Any]], MalformedRecordError]:
            return [], MalformedRecordError(self.record, where, expected, got)

        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_ROWS:
            return refused("rows", f"how many rows there are, 1 to {MOST_ROWS}", _described(count))
        if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
            return refused("columns", "an object of lists", _described(columns))
        if not columns:
            return refused("columns", "an object of lists", "none")
        for name, column in columns.items():
            if len(column) != count:
                known = name if name in self._absent else "of that name"
                return refused("columns", f"{count} values in each column", f"{len(column)} in the one {known}")
        rows: list[dict[str, Any]] = [{} for _ in range(count)]
        for name, column in columns.items():
            group, dot, inner = name.partition(".")
            nested = bool(dot) and group in _GROUPS and group not in columns
            for row, value in zip(rows, column, strict=True):
                if nested and (value is not None or group == "features"):
                    row.setdefault(group, {})[inner] = value
                elif not nested and value is not None:
                    row[name] = value
        return rows, None

    # -- dead letters

    def _letter(
        self, messages: Messages, at: int, row: int, error: MalformedRecordError, key: bytes | None, value: bytes | None
    ) -> DeadLetter:
        letter = DeadLetter.of(
            error,
            topic=self.topic,
            partition=messages.partition,
            offset=int(messages.offset[at]),
            key=key,
            value=value,
            row=row,
            stage="join",
        )
        letter = as_attempt(letter, messages.headers(at))
        return msgspec.structs.replace(letter, decided_at_ms=max(int(messages.broker_ms[at]), 0))

    def _row_letter(self, messages: Messages, at: int, row: int, raw: Any, refusal: Exception) -> DeadLetter:  # noqa: ANN401
        """Make the dead letter of one row of a many-row message: its bytes are that row alone, under its own key."""
        value = msgspec.json.encode(raw)
        error = malformed(self.record, value, refusal)
        return self._letter(messages, at, row, error, _key_of(raw, messages.key[at]), value)

    # -- from rows to columns

    def _settle_held(self, taken: _Taken) -> None:
        if not taken.held:
            return
        columns, taken.columns = taken.columns, {name: [] for name in taken.columns}
        ids = columns["prediction_id"]
        self._settle(taken, columns, ids)
        taken.ids += ids
        taken.settled += taken.held
        taken.held = 0

    def _answers(
        self, taken: _Taken, name: str, values: Sequence[str | float], models: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint32]:
        """Answers as 32 bits: hash of the class, or for a regression the number itself."""
        names = taken.codes_of("model").names()
        numeric = np.array([model in self._numeric_models for model in names], np.bool_)[models]
        if not numeric.any():
            return _classes(values)
        numbers = np.array(values if numeric.all() else ())
        if numbers.dtype.kind in "fi" and np.all(np.abs(numbers) <= _SINGLE_MAX) and numeric.all():
            return number_bits(numbers)
        return self._mixed_answers(taken, name, values, numeric)

    def _mixed_answers(
        self, taken: _Taken, name: str, values: Sequence[str | float], numeric: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.uint32]:
        """Answers of classifications and regressions side by side; what is no number where one must be is dropped."""
        answers = np.zeros(len(values), np.uint32)
        classified = np.flatnonzero(~numeric)
        answers[classified] = _classes([values[row] for row in classified.tolist()])
        expected = "a number of at most 3.4e38, since the model is a regression"
        for row in np.flatnonzero(numeric).tolist():
            value = values[row]
            if isinstance(value, str) or not abs(value) <= _SINGLE_MAX:
                error = MalformedRecordError(self.record, name, expected, described(value))
                taken.dropped[taken.settled + row] = error
            else:
                answers[row] = number_bits(np.array([value], np.float64))[0]
        return answers

    def _decoded(self, taken: _Taken, values: Sequence[bytes]) -> Decoded[BatchT]:
        messages = taken.messages
        at = np.repeat(np.arange(len(values)), np.array(taken.of_message, np.int64))
        row = np.concatenate([np.zeros(0, np.int32), *taken.rows])
        id_of_model = taken.names("model")
        ids = taken.ids
        apart = Apart()
        for place, error in taken.dropped.items():
            message = int(at[place])
            index, key, value = apart.row(messages.key[message], messages.value[message], int(row[place]))
            taken.dead.append(self._letter(messages, message, index, error, key, value))
        if taken.dropped:
            kept = np.delete(np.arange(len(ids)), list(taken.dropped))
            ids = [ids[place] for place in kept.tolist()]
            at, row = at[kept], row[kept]
        step = max(1, len(ids) // SAMPLED_IDS)
        sample = ids[::step]
        strangers = sum(murmur2(one.encode(), self._partitions) != messages.partition for one in sample)
        id_hash = id_hashes(id_of_model.values, id_of_model.codes, ids)
        columns = _Place(
            messages=messages,
            offset=np.array(messages.offset, np.int64)[at],
            row=row,
            broker_ms=np.array(messages.broker_ms, np.int64)[at],
            id_hash=id_hash,
            misplaced=self._misplaced(
                messages.partition, id_hash, lambda rows: [ids[place].encode() for place in rows.tolist()]
            ),
            model=id_of_model,
            dead=len(taken.dead),
        )
        return Decoded(
            batch=self._batch(taken, columns),
            dead=taken.dead,
            sampled=len(sample),
            mismatched=strangers,
            cut_texts=sum(_long_texts(value) for value in values if len(value) > TEXT_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """What both kinds of batches have."""

    messages: Messages
    offset: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]
    broker_ms: npt.NDArray[np.int64]
    id_hash: npt.NDArray[np.uint64]
    misplaced: npt.NDArray[np.int8]
    model: Coded
    dead: int

    def columns(self) -> dict[str, Any]:
        """Return them by the names that a batch has for them."""
        return {
            "partition": self.messages.partition,
            "start": self.messages.start,
            "end": self.messages.end,
            "offset": self.offset,
            "row": self.row,
            "broker_ms": self.broker_ms,
            "id_hash": self.id_hash,
            "misplaced": self.misplaced,
            "model": self.model,
            "dead": self.dead,
        }


class OutputEdge(Edge[OutputBatch]):
    """Decodes `model-outputs`.

    >>> value = b'{"prediction_id": "p1", "model": "fraud", "made_at_ms": 7, "prediction": "1", "score": 0.75}'
    >>> wrong = b'{"prediction_id": "p2", "model": "fraud", "made_at_ms": 7, "prediction": "1", "score": 1.5}'
    >>> messages = Messages(partition=2, start=40, end=42, offset=[40, 41], broker_ms=[9, 9], key=[b"p1", b"p2"],
    ...                     value=[value, wrong])
    >>> decoded = OutputEdge({}, partitions=4).decode(messages)
    >>> decoded.batch.score, decoded.batch.model.at(0), decoded.dead[0].got
    (array([0.75], dtype=float32), 'fraud', '1.5')
    """

    topic = "model-outputs"
    record = "output"
    fields = _fields_of(
        Output,
        ("prediction_id", "model", "made_at_ms", "prediction"),
        {"version": None, "score": _ABSENT, "probabilities": None},
    )
    kinds: ClassVar[Mapping[str, tuple[Kind, int]]] = {
        "prediction_id": (Kind.ID, 0),
        "model": (Kind.NAME, 0),
        "version": (Kind.NAME, 1),
        "made_at_ms": (Kind.INT, 0),
        "prediction": (Kind.ANSWER, 0),
        "score": (Kind.SHARE, 0),
        "probabilities": (Kind.PROBABILITIES, 0),
    }

    def __init__(self, models: Mapping[str, Model], partitions: int) -> None:
        kinds: dict[str, set[str]] = {}
        for model in models.values():
            for name, kind in model.features.items():
                kinds.setdefault(name, set()).add(kind)
        self._numeric = {name for name, said in kinds.items() if said == {"numeric"}}
        super().__init__(models, partitions)

    @staticmethod
    def _declared(models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
        groups = {
            "segments": dict.fromkeys(name for model in models.values() for name in model.segments),
            "features": dict.fromkeys(name for model in models.values() for name in model.features),
        }
        return {group: tuple(names) for group, names in groups.items() if names}

    def _settle(self, taken: _Taken, columns: Columns, ids: Sequence[str]) -> None:
        models = taken.add_names("model", columns["model"])
        taken.add_names("version", columns["version"])
        made_at_ms = np.array(columns["made_at_ms"], np.int64)
        score = np.array(columns["score"], np.float32)
        prediction = self._answers(taken, "prediction", columns["prediction"], models)
        confidence = confidence_of(score)
        probabilities = columns["probabilities"]
        if probabilities.count(None) < len(ids):
            said = [_ABSENT if one is None else max(one.values(), default=_ABSENT) for one in probabilities]
            greatest = np.array(said, np.float32)
            confidence = np.where(np.isnan(greatest), confidence, greatest)
        taken.add("made_at_ms", made_at_ms)
        taken.add("score", score)
        taken.add("confidence", confidence)
        taken.add("prediction", prediction)
        taken.add("content", content_hashes(prediction, score, made_at_ms))
        for number, name in enumerate(self._groups.get("segments", ())):
            taken.add_names("segment " + name, columns[f"segments_{number}"])
        for number, name in enumerate(self._groups.get("features", ())):
            self._settle_feature(taken, name, columns[f"features_{number}"])

    def _settle_feature(self, taken: _Taken, name: str, column: Sequence[Any]) -> None:
        """Make blocks of one feature; a column of numbers is read at once, any other by its distinct values."""
        if name in self._numeric:
            numbers = np.array(column)
            if numbers.dtype.kind in "fi":
                state = np.where(np.isnan(numbers), ABSENT_STATE, NUMBER).astype(np.int8)
                self._add_feature(taken, name, state, numbers.astype(np.float64), np.full(len(column), -1, np.int32))
                return
        distinct = Codes(absent=())
        coded = distinct.column(column)
        states, values, names = [], [], []
        for value in distinct.names():
            if value is _ABSENT:
                states.append(ABSENT_STATE)
            elif value is None:
                states.append(NULL_STATE)
            else:
                states.append(NAME if isinstance(value, str) else NUMBER)
            values.append(_as_float(value) if states[-1] == NUMBER else _ABSENT)
            names.append(value if states[-1] == NAME else None)
        codes = taken.codes_of("feature " + name).column(names)
        self._add_feature(
            taken, name, np.array(states, np.int8)[coded], np.array(values, np.float64)[coded], codes[coded]
        )

    @staticmethod
    def _add_feature(taken: _Taken, name: str, state: Array, numbers: Array, codes: Array) -> None:
        taken.add("state " + name, state)
        taken.add("number " + name, numbers)
        taken.add("feature " + name, codes)

    def _batch_of_plain(self, scanned: Scanned, place: _Place) -> OutputBatch:
        score = scanned.column("score").astype(np.float32)
        greatest = scanned.column("greatest").astype(np.float32)
        made_at_ms, prediction = scanned.column("ints", 0), self._answers_of_plain(scanned, place.model)
        segments, features = self._groups.get("segments", ()), self._groups.get("features", ())
        return OutputBatch(
            **place.columns(),
            made_at_ms=made_at_ms,
            version=scanned.coded(1),
            prediction=prediction,
            content=content_hashes(prediction, score, made_at_ms),
            score=score,
            confidence=np.where(np.isnan(greatest), confidence_of(score), greatest),
            segments={name: scanned.coded(column) for column, name in enumerate(segments, 2)},
            features={
                name: FeatureColumn(
                    state=scanned.column("state", number),
                    numbers=scanned.column("numbers", number),
                    names=scanned.coded(2 + len(segments) + number),
                )
                for number, name in enumerate(features)
            },
        )

    def _batch(self, taken: _Taken, place: _Place) -> OutputBatch:
        return OutputBatch(
            **place.columns(),
            made_at_ms=taken.column("made_at_ms", np.int64),
            version=taken.names("version"),
            prediction=taken.column("prediction", np.uint32),
            content=taken.column("content", np.uint32),
            score=taken.column("score", np.float32),
            confidence=taken.column("confidence", np.float32),
            segments={name: taken.names("segment " + name) for name in self._groups.get("segments", ())},
            features={
                name: FeatureColumn(
                    state=taken.column("state " + name, np.int8),
                    numbers=taken.column("number " + name, np.float64),
                    names=taken.names("feature " + name),
                )
                for name in self._groups.get("features", ())
            },
        )


class LabelEdge(Edge[LabelBatch]):
    """Decodes `labels`.

    >>> value = b'{"schema": 1, "rows": 2, "columns": {"prediction_id": ["p1", "p2"], "model": ["m", "m"], '
    >>> value += b'"labelled_at_ms": [8, 9], "label": [1, "1"], "version": [null, 3]}}'
    >>> messages = Messages(partition=2, start=0, end=1, offset=[0], broker_ms=[9], key=[b"p1"], value=[value])
    >>> batch = LabelEdge({}, partitions=4).decode(messages).batch
    >>> batch.row, batch.version, bool(batch.label[0] == batch.label[1])
    (array([0, 1], dtype=int32), array([-1,  3]), True)
    """

    topic = "labels"
    record = "label"
    fields = _fields_of(
        Label,
        ("prediction_id", "model", "labelled_at_ms", "label"),
        {"version": -1, "made_at_ms": -1, "source": "system", "retracted": False},
    )
    kinds: ClassVar[Mapping[str, tuple[Kind, int]]] = {
        "prediction_id": (Kind.ID, 0),
        "model": (Kind.NAME, 0),
        "labelled_at_ms": (Kind.INT, 0),
        "version": (Kind.INT, 1),
        "made_at_ms": (Kind.INT, 2),
        "label": (Kind.ANSWER, 0),
        "source": (Kind.CHOICE, 0),
        "retracted": (Kind.BOOL, 0),
    }

    def _settle(self, taken: _Taken, columns: Columns, ids: Sequence[str]) -> None:
        del ids
        models = taken.add_names("model", columns["model"])
        taken.add("label", self._answers(taken, "label", columns["label"], models))
        for name in ("labelled_at_ms", "version", "made_at_ms"):
            taken.add(name, np.array(columns[name], np.int64))
        taken.add("retracted", np.array(columns["retracted"], np.bool_))

    def _batch_of_plain(self, scanned: Scanned, place: _Place) -> LabelBatch:
        return LabelBatch(
            **place.columns(),
            labelled_at_ms=scanned.column("ints", 0),
            label=self._answers_of_plain(scanned, place.model),
            version=scanned.column("ints", 1),
            made_at_ms=scanned.column("ints", 2),
            retracted=scanned.column("bools", 0),
        )

    def _batch(self, taken: _Taken, place: _Place) -> LabelBatch:
        return LabelBatch(
            **place.columns(),
            labelled_at_ms=taken.column("labelled_at_ms", np.int64),
            label=taken.column("label", np.uint32),
            version=taken.column("version", np.int64),
            made_at_ms=taken.column("made_at_ms", np.int64),
            retracted=taken.column("retracted", np.bool_),
        )


class Apart:
    """Takes messages of many rows apart; asked for several rows of one message in turn, it decodes it once.

    >>> apart = Apart()
    >>> apart.row(b"p1", b'{"rows":2,"columns":{"prediction_id":["p1","p2"],"features.AGE":[3,null]}}', 1)
    (1, b'p2', b'{"prediction_id":"p2","features":{"AGE":null}}')
    >>> apart.row(b"p1", b'{"prediction_id":"p1"}', 0)
    (-1, b'p1', b'{"prediction_id":"p1"}')
    """

    def __init__(self) -> None:
        self._value: bytes | None = None
        self._rows: Sequence[Any] | None = None

    def row(self, key: bytes | None, value: bytes | None, row: int) -> tuple[int, bytes | None, bytes | None]:
        """Return a row as a message of its own: its index, key and value; -1 and all of it where it is not one of many."""
        if value is not self._value:
            self._value, self._rows = value, None if value is None else _rows_of(value)
        if self._rows is None or not 0 <= row < len(self._rows):
            return -1, key, value
        raw = self._rows[row]
        return row, _key_of(raw, key), msgspec.json.encode(raw)


def _rows_of(value: bytes) -> Sequence[Any] | None:
    """Return the rows of a message of many; None for any other."""
    try:
        raw: Any = msgspec.json.decode(value)
    except REFUSALS:
        return None
    if not _has_columns(raw):
        return raw if isinstance(raw, list) else None
    rows, error = OutputEdge({}, 1)._rows_of_columns(raw)  # noqa: SLF001
    return rows if error is None else None


def _limits(name: str, kind: Kind, of: Any) -> tuple[int, int]:  # noqa: ANN401 - a type, annotated or not
    """Return what `plain.Wanted` calls `low` and `high`."""
    if kind is Kind.INT:
        (bounds,) = of.__metadata__
        return bounds.ge, bounds.le
    return int(of in (Name, ModelName)), {"model": OF_MODELS, "version": EMPTY_IS_ABSENT}.get(name, 0)


def _classes(values: Sequence[str | float]) -> npt.NDArray[np.uint32]:
    codes = Codes(absent=())
    coded = codes.column(values)
    return class_hashes(codes.names())[coded]


def _has_columns(raw: object) -> bool:
    return isinstance(raw, dict) and "columns" in raw and "prediction_id" not in raw


def _readable(messages: Messages) -> Sequence[bytes]:
    """Return the values; what must be refused whatever it holds is made unreadable."""
    keys, values = list(messages.key), list(messages.value)
    if None in keys or None in values:
        return [b"" if key is None or value is None else value for key, value in zip(keys, values, strict=True)]
    return values  # type: ignore[return-value]


def _key_of(row: object, otherwise: bytes | None) -> bytes | None:
    own = row.get("prediction_id") if isinstance(row, dict) else None
    return own.encode() if isinstance(own, str) else otherwise


def _described(value: object) -> str:
    return "nothing" if value is UNSET else described(value)


def _as_float(value: float) -> float:
    """Return a number as a double; a whole number too long for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _long_texts(value: bytes) -> int:
    """Count the texts of a message that are cut."""
    try:
        told = _TEXTS.decode(value)
    except REFUSALS:
        return 0
    rows = told if isinstance(told, list) else [told]
    texts = [text for row in rows for text in (row.text, *row.columns.text)]
    return sum(text is not None and len(text.encode()) > TEXT_BYTES for text in texts)
