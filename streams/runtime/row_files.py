"""How do rows come out of a file? NDJSON or Parquet, outputs or labels, each checked as if it came from a topic.

In Parquet nested names are columns with a dot (`features.amount`) or structs; an empty value is absent, except of a
feature, where it is explicitly nothing. Times may be timestamps or whole milliseconds.

A pipe (`<(…)`, `/dev/stdin`, a FIFO) is opened once and read once, so it can hold NDJSON and not Parquet.
"""

import json
import math
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec

from schemas.fields import REFUSALS, MalformedRecordError
from schemas.label import Label
from schemas.output import Output
from streams.runtime.lines import plain
from streams.runtime.terminal import CommandError, Exit

BATCH_ROWS = 10_000
"""Rows of a Parquet file in memory at once."""
MAX_LINE_BYTES = 10_000_000

_PARQUET = b"PAR1"
_BESIDE = ("prediction_id", "model", "label", "labelled_at_ms")
_OF_A_LABEL = {"label", "labelled_at_ms"}
_OF_AN_OUTPUT = {"score", "probabilities", "features"}
"""What a model is given and says beside its answer: a row that has it and a time of its own is no label."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its place in the file, from 1, and its fields by name, or why it has none."""

    place: int
    fields: Mapping[str, object]
    fault: MalformedRecordError | None = None

    def wire(self) -> bytes:
        """Return the row as a message; where the file holds none, `MalformedRecordError` says why."""
        if self.fault is not None:
            raise self.fault
        return msgspec.json.encode(self.fields)

    def record(self) -> Output | Label:
        """Read it as what it is meant to be: what lacks its answer is still no label.

        >>> Row(1, {"prediction_id": "p", "model": "m", "made_at_ms": 7, "score": 0.5}).record()
        Traceback (most recent call last):
        schemas.fields.MalformedRecordError: output.prediction: expected a value (the field is required), got nothing
        """
        named = self.fields.keys()
        if "prediction" in named or ("made_at_ms" in named and (_OF_AN_OUTPUT & named or not _OF_A_LABEL & named)):
            return self.output()
        if self.fault is not None or _OF_A_LABEL & named:
            return self.label()
        what = "an output (made_at_ms, prediction) or a label (labelled_at_ms, label)"
        raise MalformedRecordError("row", "", what, "neither")

    def output(self) -> Output:
        """Read it as an output."""
        return Output.decode(self.wire())

    def label(self) -> Label:
        """Read it as a label."""
        return Label.decode(self.wire())

    def label_beside(self) -> Label | None:
        """Read the label that stands beside an output, None where none does; `version` is then the output's."""
        if "label" not in self.fields or "labelled_at_ms" not in self.fields:
            return None
        return Label.decode(msgspec.json.encode({name: self.fields.get(name) for name in _BESIDE}))


def count_rows(file: Path) -> int | None:
    """Return how many rows a file has, where it says so itself; a pipe is left untouched."""
    if is_pipe(file) or not _is_parquet(file):
        return None
    import pyarrow.parquet as pq  # noqa: PLC0415 -- a heavy library, for those who have such files

    try:
        rows: int = pq.ParquetFile(file).metadata.num_rows
    except (OSError, ValueError) as error:
        raise _unusable(file, error) from None
    return rows


def read_rows(file: Path) -> Iterator[Row]:
    """Read the rows of a file in order; a line that is no JSON object is a row with a fault."""
    return _parquet(file) if not is_pipe(file) and _is_parquet(file) else _ndjson(file)


def is_pipe(file: Path) -> bool:
    """Say whether what is read of it is gone: a pipe, a terminal, and whatever else is no regular file."""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        raise _unusable(file, error) from None
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_pipes(files: Sequence[Path], twice: str = "") -> None:
    """Refuse a pipe that would be read more than once, for then rows would be lost: named twice, or for what `twice` says."""
    for at, file in enumerate(files):
        if is_pipe(file):
            why = twice or ("it is named twice" if any(map(file.samefile, files[:at])) else "")
            if why:
                remedy = "write it into a file, and name that"
                raise CommandError(Exit.USAGE, f"{plain(str(file))} can be read only once, and {why}: {remedy}")


def _is_parquet(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(4) == _PARQUET
    except (OSError, ValueError) as error:
        raise _unusable(file, error) from None


def _unusable(file: Path, error: Exception) -> CommandError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CommandError(Exit.DATA, f"{plain(str(file))} cannot be read: {why}")


def _ndjson(file: Path) -> Iterator[Row]:
    try:
        with file.open("rb") as lines:
            yield from _rows(lines, file)
    except OSError as error:
        raise _unusable(file, error) from None


def _rows(lines: BinaryIO, file: Path) -> Iterator[Row]:
    place = 0
    while line := lines.readline(MAX_LINE_BYTES):
        place += 1
        if place == 1:
            if line.startswith(_PARQUET):
                why = "Parquet is not read from a pipe: write it into a file, and name that"
                raise CommandError(Exit.DATA, f"{plain(str(file))}: {why}")
            line = line.removeprefix(BOM_UTF8)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := lines.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Row(place, {}, MalformedRecordError("row", "", f"at most {MAX_LINE_BYTES:,} bytes", "more"))
        elif line.strip():
            try:
                yield Row(place, msgspec.json.decode(line, type=dict[str, object]))
            except REFUSALS:
                yield Row(place, {}, _fault(line))


def _fault(line: bytes) -> MalformedRecordError:
    """Say why a line is no JSON object.

    >>> str(_fault(b'{"features": {"age": NaN}}'))
    'row.features.age: expected a finite number, or null for a feature that was nothing (JSON has no NaN), got NaN'
    >>> str(_fault(b"[1]"))
    'row: expected a JSON object on one line, got 3 bytes that are none'
    """
    try:
        path, value = _endless(json.loads(line), "")
    except (ValueError, RecursionError):
        path, value = "", None
    if value is None:
        return MalformedRecordError("row", "", "a JSON object on one line", f"{len(line)} bytes that are none")
    what = "a finite number, or null for a feature that was nothing (JSON has no NaN)"
    return MalformedRecordError("row", path, what, "NaN" if math.isnan(value) else "Infinity")


def _endless(value: object, path: str) -> tuple[str, float | None]:
    """Find the first number that is none, and the path to it."""
    if isinstance(value, float) and not math.isfinite(value):
        return path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        found = _endless(one, f"{path}.{name}".lstrip("."))
        if found[1] is not None:
            return found
    return path, None


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 -- a heavy library, for those who have such files
    import pyarrow.parquet as pq  # noqa: PLC0415 -- as above

    place = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                place += 1
                try:
                    yield Row(place, nested(row))
                except MalformedRecordError as error:
                    yield Row(place, {}, error)
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, error) from None


def nested(row: Mapping[str, object]) -> dict[str, object]:
    """Put columns with a dot into objects, and leave out what is empty.

    >>> nested({"score": None, "features.a": None, "features.b": 2.0, "segments.s": "x", "segments.t": None})
    {'features': {'a': None, 'b': 2.0}, 'segments': {'s': 'x'}}
    """
    fields: dict[str, object] = {}
    for name, value in row.items():
        outer, dot, inner = name.partition(".")
        plain = _plain(value)
        if isinstance(plain, dict):
            plain = {key: one for key, one in plain.items() if one is not None or name == "features"}
        if dot:
            if plain is not None or outer == "features":
                group = fields.setdefault(outer, {})
                if not isinstance(group, dict):
                    raise MalformedRecordError("row", outer, f"either {outer} or columns {outer}.…", "both")
                group[inner] = plain
        elif plain is not None:
            fields[name] = plain
    return fields


def _plain(value: object) -> object:
    """Make JSON of what Parquet can hold: not-a-number is nothing, an instant is milliseconds."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value
