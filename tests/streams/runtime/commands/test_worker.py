"""A worker that cannot start says why, and starts nothing."""

import io
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.runtime import logs
from streams.runtime.cursor import UnansweredError
from streams.runtime.terminal import Exit
from streams.runtime.topics import TopicFault

Tocsin = Callable[..., tuple[int, str, str]]


def test_brokers_that_do_not_say_how_their_topics_are_set_have_their_own_status(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> list[TopicFault]:
        raise TimeoutError  # what the client does; the embedded broker answers no such question either

    monkeypatch.setattr("streams.runtime.commands.worker.topics.check", check)
    status, out, err = tocsin("worker", "all")
    assert (status, out) == (Exit.BROKER, "")
    assert "no answer from " in err
    assert "--broker" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_while_it_checks_topics_has_begun_nothing_and_ends_with_0(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("streams.runtime.commands.worker.topics.check", lambda *_: signal.raise_signal(number))
    assert tocsin("worker", "all") == (Exit.DONE, "", "")


def test_a_folder_that_cannot_be_written_is_refused_at_the_start_with_what_to_do(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "in the way" / "rows"
    folder.parent.write_text("a file where a folder must be")
    monkeypatch.setattr("streams.runtime.commands.worker.topics.check", lambda *_: [])
    monkeypatch.setattr("streams.runtime.commands.worker.logs.begin", lambda _: None)
    monkeypatch.setenv("TOCSIN__JOIN__FOLDER", str(folder))
    for stages in (["join"], ["all"]):
        status, out, err = tocsin("worker", *stages)
        assert (status, out) == (Exit.SETTINGS, "")
        assert f"join: cannot write into {folder} (Not a directory): choose another join.folder" in err


@pytest.mark.parametrize(
    ("error", "wanted", "event"),
    [
        (UnansweredError("findings: timed out"), Exit.BROKER, "worker.no_answer"),
        (ValueError("a fault of ours"), Exit.FAULT, "worker.failed"),
    ],
)
def test_what_ends_a_start_is_one_line_of_the_log_and_a_status(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: Exit, event: str
) -> None:
    async def start(_: object) -> None:
        raise error

    written = io.StringIO()
    begin = logs.begin
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    monkeypatch.setattr("streams.runtime.commands.worker.topics.check", lambda *_: [])
    monkeypatch.setattr("streams.runtime.commands.worker.logs.begin", lambda level: begin(level, written))
    monkeypatch.setattr("streams.runtime.worker.SmallStages.start", start)
    try:
        status, out, err = tocsin("worker", "triage")
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)  # noqa: FBT003 -- the library's own signature
    assert (status, out, err) == (wanted, "", "")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    [line] = [line for line in lines if line["event"] == event]
    assert str(error) in line["error"]
    assert lines[-1]["event"] == "worker.ended"
    assert lines[-1]["status"] == str(int(wanted))
