"""What a file gives back is what was put there, or nothing."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schemas.fields import MalformedRecordError
from streams.runtime.segment_files import FolderError, SegmentFiles, check_folder, segment_files


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


def test_a_disk_that_is_full_in_the_middle_of_a_run_loses_nothing(tmp_path: Path) -> None:
    files, path = one_run(tmp_path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # a write beyond is cut, and the next one refused
    try:
        files.put("7", b"another" * 1_000)
        files.put("8", b"more" * 2_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.refusing
    assert bytes(files.open("7")) == b"another" * 1_000
    assert bytes(files.open("8")) == b"more" * 2_000
    assert path.read_bytes() == before, "a torn run takes nobody's place"
    assert files.try_again()
    files.put("8", b"small")
    assert bytes(files.open("8")) == b"small"


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


def test_a_disk_that_lets_go_of_nothing_is_tried_again_and_then_does(tmp_path: Path) -> None:
    files, path = one_run(tmp_path)
    aside = path.rename(tmp_path / "aside")
    path.mkdir()  # what cannot be unlinked, whoever asks
    files.drop("7")
    assert files.refusing
    assert files.why == os.strerror(errno.EISDIR)
    assert not files.try_again()
    path.rmdir()
    aside.rename(path)
    assert files.try_again()
    assert not files.refusing
    assert not path.exists(), "it is removed after all"


def test_a_folder_is_made_and_tried_before_the_start_and_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]

    def failing(number: int) -> None:
        def fail(**_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("streams.runtime.segment_files.tempfile.TemporaryFile", fail)

    failing(errno.ENOSPC)
    check_folder(tmp_path)
    failing(errno.EROFS)
    with pytest.raises(FolderError, match="Read-only file system"):
        check_folder(tmp_path)


def owned(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))


HOLD = """
import sys, time
from pathlib import Path
from streams.runtime.segment_files import segment_files
files = segment_files(Path(sys.argv[1]), 3, 1, 77)
files.put("7", b"another process's")
print("holds", flush=True)
sys.stdin.read()
files.put("8", b"still its own")
print(files.refusing, flush=True)
sys.stdin.close()
time.sleep(3600)
"""


def test_no_process_writes_or_removes_what_another_holds_and_what_nobody_holds_goes(tmp_path: Path) -> None:
    #  other  holds 3/1-77 -------------------killed
    #  we             take 3 again: 3/2-78    take 3 again: 3/3-79, and 3/1-77 is gone
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        segment_files(tmp_path, 2, 1, 77).put("7", b"another partition's")
        now = segment_files(tmp_path, 3, 1, 78)
        now.put("7", b"of the same epoch, by another deployment")
        assert owned(tmp_path) == ["2/1-77", "3/1-77", "3/1-78"]
        other.stdin.close()
        assert other.stdout.readline() == "False\n", "it writes on"
        assert bytes(now.open("7")) == b"of the same epoch, by another deployment"
        other.kill()
    then = segment_files(tmp_path, 3, 3, 79)
    assert owned(tmp_path) == ["2/1-77", "3/1-78", "3/3-79"], "what the killed one held is gone, what we hold is not"
    now.close()
    then.close()
    assert owned(tmp_path) == ["2/1-77"]


def test_what_was_not_written_by_an_owner_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "3" / "notes").mkdir(parents=True)
    segment_files(tmp_path, 3, 1, 77).close()
    assert owned(tmp_path) == ["3/notes"]
