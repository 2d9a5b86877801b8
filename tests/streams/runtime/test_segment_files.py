"""What a file gives back is what was put there, or nothing."""

from pathlib import Path

import numpy as np
import pytest

from schemas.fields import MalformedRecordError
from streams.runtime.segment_files import SegmentFiles, segment_files


def one_run(folder: Path) -> tuple[SegmentFiles, Path]:
    files = SegmentFiles(folder)
    files.put("7", b"0123456789" * 100)
    return files, folder / "7.run"


def test_a_run_is_mapped_aligned_and_replaced_by_name(tmp_path: Path) -> None:
    files, _ = one_run(tmp_path)
    files.put("7", np.arange(5, dtype=np.uint64).tobytes())
    assert np.frombuffer(files.open("7"), np.uint64).tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["7.run"], "nothing is left aside"


@pytest.mark.parametrize("harm", ["torn", "changed", "headless", "empty", "gone", "another length"])
def test_a_harmed_file_is_a_missing_run(tmp_path: Path, harm: str) -> None:
    files, path = one_run(tmp_path)
    value = bytearray(path.read_bytes())
    if harm == "changed":
        value[500] ^= 1
    if harm == "another length":
        value[8] ^= 1
    length = {"torn": 600, "headless": 7, "empty": 0}.get(harm, len(value))
    path.write_bytes(value[:length])
    if harm == "gone":
        path.unlink()
    with pytest.raises(MalformedRecordError, match="run"):
        files.open("7")


def test_who_looks_at_a_run_may_go_on_when_it_is_dropped(tmp_path: Path) -> None:
    files, path = one_run(tmp_path)
    looked_at = files.open("7")
    files.drop("7")
    assert not path.exists()
    assert bytes(looked_at[:4]) == b"0123"


def test_a_disk_that_takes_nothing_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a file"
    folder.write_text("in the way")
    files = SegmentFiles(folder)
    files.put("7", b"rows")
    assert files.refusing
    assert bytes(files.open("7")) == b"rows"
    assert not files.try_again()
    folder.unlink()
    assert files.try_again()
    assert not files.refusing
    files.put("8", b"more")
    assert bytes(files.open("7")) == b"rows"
    files.drop("7")
    assert (folder / "8.run").exists()


def test_an_owner_begins_empty_and_removes_what_owners_before_it_left(tmp_path: Path) -> None:
    before = segment_files(tmp_path, 3, 1)
    before.put("7", b"old")
    other = segment_files(tmp_path, 2, 1)
    other.put("7", b"another partition's")
    now = segment_files(tmp_path, 3, 2)
    now.put("7", b"new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")) == ["2/1", "3/2"]
    before.put("8", b"of a zombie")
    assert before.refusing, "its folder is gone: it reads no more"
    now.close()
    assert not (tmp_path / "3" / "2").exists()
