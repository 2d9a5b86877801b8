"""The log and the file: one line of JSON a message, whatever stands in it."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from schemas.fields import MalformedRecordError
from schemas.incident import Severity, Status
from schemas.notification import MessageReason, Notification
from streams.runtime.channels.file import FileChannel, FileSettings
from streams.runtime.channels.log import LogChannel, LogSettings
from streams.runtime.channels.table import CHANNELS, open_channels
from streams.stages.notify import Attempt


def attempt(address: str = "stdout", model: str = "credit") -> Attempt:
    message = Notification(
        notification_id="n1",
        incident_id="260de83d-f6d6-5738-b2dd-2307938697ba",
        display_id="INC-260DE83DF6D6",
        dedup_key="e1d8",
        model=model,
        seq=3,
        episode=1,
        cause="seq:3",
        cause_at_ms=1_000,
        decided_at_ms=1_000,
        purpose="update",
        reason=MessageReason.STATUS_CHANGED,
        mode="message",
        group="responders",
        target="team:ml-oncall",
        channel="log",
        address=address,
        severity=Severity.LOW,
        status=Status.RESOLVED,
        title="title",
        text="two\nlines",
    )
    return Attempt(notification=message, number=1, details=True, decided_at_ms=1_000, late_by_ms=7)


def test_a_message_is_one_line_of_json() -> None:
    stream = io.StringIO()
    answer = asyncio.run(LogChannel(LogSettings(), stream).send(attempt(model="a\nb\x1b[2J\u202ec"), 0))
    assert answer.answer_class == "ok"
    [line] = stream.getvalue().splitlines()
    assert "\x1b" not in line
    said = json.loads(line)
    assert said["event"] == "notification"
    assert said["model"] == "a\nb[2Jc"
    assert said["late_by_ms"] == 7


def test_a_stream_that_is_gone_is_tried_again() -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError(32, "gone")

    answer = asyncio.run(LogChannel(LogSettings(), Broken()).send(attempt(), 0))
    assert (answer.answer_class, answer.reason) == ("retry", "os_error_32")


def test_a_file_gets_a_line_and_keeps_what_it_had(tmp_path: Path) -> None:
    way = FileChannel(FileSettings(folder=str(tmp_path / "out")))
    for _ in range(2):
        assert asyncio.run(way.send(attempt("ops.ndjson"), 0)).answer_class == "ok"
    lines = (tmp_path / "out" / "ops.ndjson").read_text().splitlines()
    assert [json.loads(line)["notification_id"] for line in lines] == ["n1", "n1"]


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", ".hidden", "", "a\n"])
def test_an_address_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    answer = asyncio.run(FileChannel(FileSettings(folder=str(tmp_path))).send(attempt(name or " "), 0))
    assert (answer.answer_class, answer.reason) == ("permanent", "no_file_name")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ops").symlink_to(tmp_path / "elsewhere")
    answer = asyncio.run(FileChannel(FileSettings(folder=str(tmp_path))).send(attempt("ops"), 0))
    assert answer.answer_class == "retry"
    assert not (tmp_path / "elsewhere").exists()


def test_the_disk_has_it_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", full)
    answer = asyncio.run(FileChannel(FileSettings(folder=str(tmp_path))).send(attempt("ops"), 0))
    assert (answer.answer_class, answer.reason) == ("retry", "os_error_28")


def test_after_a_line_that_a_full_disk_cut_off_the_next_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = FileChannel(FileSettings(folder=str(tmp_path)))
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:5]))
        cut_off = asyncio.run(way.send(attempt("ops"), 0))
    assert (cut_off.answer_class, cut_off.reason) == ("retry", "os_error_28")
    for _ in range(2):
        assert asyncio.run(way.send(attempt("ops"), 0)).answer_class == "ok"
    torn, *lines = (tmp_path / "ops").read_text().splitlines()
    assert len(torn) == 5
    assert [json.loads(line)["notification_id"] for line in lines] == ["n1", "n1"]


APPENDS = """
import sys
from pathlib import Path
from streams.runtime.channels.file import FileChannel
for number in range(300):
    FileChannel._append(Path(sys.argv[1]), sys.argv[2].encode() * 20_000 + b"\\n")
"""


def test_lines_of_several_processes_stay_whole_and_nothing_comes_between(tmp_path: Path) -> None:
    file = tmp_path / "sent.ndjson"
    writers = [subprocess.Popen([sys.executable, "-P", "-c", APPENDS, str(file), letter]) for letter in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert Counter(file.read_text().splitlines()) == {letter * 20_000: 300 for letter in "abc"}


def test_the_table_opens_what_has_settings(tmp_path: Path) -> None:
    assert set(CHANNELS) == {"log", "file", "webhook"}
    assert set(open_channels({"log": {}, "file": {"folder": str(tmp_path)}}, {})) == {"log", "file"}


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(MalformedRecordError, match="foldr"):
        open_channels({"file": {"foldr": "x"}}, {})
