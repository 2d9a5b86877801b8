"""Rows out of files: NDJSON and Parquet alike, each with its place."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.fields import MalformedRecordError
from streams.runtime.row_files import count_rows, read_rows
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


def test_a_line_that_is_no_object_is_named_by_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text('{"prediction_id":"p1"}\n[1]\n')
    with pytest.raises(MalformedRecordError, match=r"rows\.ndjson:2: expected a JSON object on one line"):
        list(read_rows(file))


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
    with pytest.raises(MalformedRecordError, match=r"row\.features"):
        list(read_rows(file))
