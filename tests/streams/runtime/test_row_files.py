"""Rows out of files: NDJSON and Parquet alike, each with its place."""

import datetime as dt
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.fields import MalformedRecordError
from schemas.label import Label
from schemas.output import Output
from streams.runtime import row_files
from streams.runtime.row_files import Row, count_rows, read_rows, refuse_pipes
from streams.runtime.terminal import CommandError, Exit


def test_both_forms_give_the_same_outputs(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.ndjson", tmp_path / "rows.parquet"
    lines.write_text(
        '{"prediction_id":"p1","model":"m","made_at_ms":1764064800000,"prediction":"1","score":0.5,'
        '"features":{"age":7.0,"kind":null},"segments":{"region":"n"}}\n\n'
        '{"prediction_id":"p2","model":"m","made_at_ms":1764064800001,"prediction":"0",'
        '"features":{"age":null,"kind":"x"},"segments":{}}\n'
    )
    made_at = [dt.datetime(2025, 11, 25, 10, tzinfo=dt.UTC) + dt.timedelta(milliseconds=n) for n in range(2)]
    columns = {
        "prediction_id": ["p1", "p2"],
        "model": ["m", "m"],
        "made_at_ms": pa.array(made_at, pa.timestamp("ms", "UTC")),
        "prediction": ["1", "0"],
        "score": [0.5, float("nan")],
        "features.age": [7.0, None],
        "features.kind": [None, "x"],
        "segments": [{"region": "n"}, {"region": None}],
    }
    pq.write_table(pa.table(columns), table)
    assert [row.output() for row in read_rows(table)] == [row.output() for row in read_rows(lines)]
    assert [row.place for row in read_rows(table)] == [1, 2]
    assert [row.place for row in read_rows(lines)] == [1, 3]
    assert (count_rows(table), count_rows(lines)) == (2, None)


def faults(file: Path) -> dict[int, str]:
    return {row.place: str(row.fault) for row in read_rows(file) if row.fault is not None}


def test_a_line_that_is_no_object_is_a_fault_of_its_own_and_the_next_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text('{"prediction_id":"p1"}\n[1]\n\n{"score": -Infinity}\n{"prediction_id":"p5"}\n')
    assert [row.place for row in read_rows(file) if row.fault is None] == [1, 5]
    found = faults(file)
    assert found[2] == "row: expected a JSON object on one line, got 4 bytes that are none"
    assert found[4].startswith("row.score: expected a finite number")


def test_a_line_beyond_the_bound_is_one_fault_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 20)
    file = tmp_path / "rows.ndjson"
    file.write_text('{"a":1}\n' + "x" * 70 + '\n{"a":2}\n')
    assert [row.place for row in read_rows(file) if row.fault is None] == [1, 3]
    assert faults(file) == {2: "row: expected at most 20 bytes, got more"}


def test_what_a_row_is_meant_to_be_is_told_by_all_of_its_fields() -> None:
    meant = {"prediction_id": "p", "model": "m"}
    time = {**meant, "made_at_ms": 1}
    told = {**meant, "labelled_at_ms": 2, "label": 0}
    assert isinstance(Row(1, {**time, **told}).record(), Label)  # a label that knows when its output was made
    assert isinstance(Row(1, {**time, **told, "prediction": 1}).record(), Output)
    for fields, field in (
        (time, "output.prediction"),
        ({**time, **told, "score": 0.5}, "output.prediction"),
        ({**meant, "prediction": 1}, "output.made_at_ms"),
        ({**meant, "label": 1}, "label.labelled_at_ms"),
        (meant, "row: expected an output (made_at_ms, prediction) or a label (labelled_at_ms, label), got neither"),
    ):
        with pytest.raises(MalformedRecordError, match=re.escape(field)):
            Row(1, fields).record()


@pytest.mark.parametrize("content", [None, b"PAR1 and then nothing of the kind"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "rows"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandError) as caught:
        list(read_rows(file))
    assert caught.value.status == Exit.DATA
    assert str(file) in str(caught.value)


def test_a_column_and_its_own_parts_together_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"features": ["x"], "features.age": [1.0]}), file)
    assert faults(file) == {1: "row.features: expected either features or columns features.…, got both"}


def test_a_mark_of_byte_order_in_front_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    lines = tmp_path / "rows.ndjson"
    row = b'{"prediction_id":"p1","model":"m","labelled_at_ms":1,"label":1}\n'
    lines.write_bytes(b"\xef\xbb\xbf" + row + row)
    assert [one.label().prediction_id for one in read_rows(lines)] == ["p1", "p1"]


@contextmanager
def piped(file: Path, content: bytes) -> Iterator[Path]:
    """Write into a real FIFO, as slowly as a pipe is, once."""
    os.mkfifo(file)

    def write() -> None:
        with file.open("wb", buffering=0) as end:
            end.write(content[:2])  # less than what tells Parquet from lines
            end.write(content[2:])

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    yield file
    writer.join(10)


def test_a_fifo_is_opened_once_and_gives_all_of_its_rows(tmp_path: Path) -> None:
    content = b"".join(b'{"prediction_id":"p%d"}\n' % n for n in range(6_000))
    with piped(tmp_path / "rows", content) as fifo:
        assert count_rows(fifo) is None
        assert [row.fields["prediction_id"] for row in read_rows(fifo)] == [f"p{n}" for n in range(6_000)]


READS = """
from pathlib import Path
from streams.runtime.row_files import count_rows, read_rows
file = Path("/dev/stdin")
print(count_rows(file), *(row.fields["a"] for row in read_rows(file)))
"""


def test_standard_input_gives_all_of_its_rows(tmp_path: Path) -> None:
    lines = b'{"a":1}\n{"a":2}\n{"a":3}\n'
    command = [sys.executable, "-c", READS]
    assert subprocess.run(command, input=lines, capture_output=True, check=True).stdout == b"None 1 2 3\n"
    file = tmp_path / "rows"
    file.write_bytes(lines)
    with file.open("rb") as given:
        assert subprocess.run(command, stdin=given, capture_output=True, check=True).stdout == b"None 1 2 3\n"


def test_parquet_from_a_pipe_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prediction_id": ["p1"]}), table)
    with piped(tmp_path / "rows", table.read_bytes()) as fifo, pytest.raises(CommandError) as caught:
        list(read_rows(fifo))
    assert caught.value.status == Exit.DATA
    assert "rows: Parquet is not read from a pipe: write it into a file, and name that" in str(caught.value)


def test_a_pipe_that_would_be_read_twice_is_refused(tmp_path: Path) -> None:
    fifo, other, file = tmp_path / "fifo", tmp_path / "other", tmp_path / "file"
    os.mkfifo(fifo)
    os.mkfifo(other)
    file.touch()
    refuse_pipes([fifo, other, file, file])
    refuse_pipes([file], "it is read twice")
    for files, twice, why in (
        ([fifo, other, fifo], "", "it is named twice"),
        ([fifo], "all is read twice", "all is read twice"),
    ):
        with pytest.raises(CommandError) as caught:
            refuse_pipes(files, twice)
        assert caught.value.status == Exit.USAGE
        assert f"fifo can be read only once, and {why}: write it into a file" in str(caught.value)
