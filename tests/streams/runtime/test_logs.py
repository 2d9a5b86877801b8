"""Logs: one line of JSON for each decision, whatever is in it."""

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from schemas.dead_letter import DeadLetter
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import logs
from streams.runtime.decisions import decisions_of


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # they are what they were behind the test
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    written = io.StringIO()
    logs.begin(stream=written)
    yield written
    root.handlers[:], root.level = before[0], before[1]
    logging.captureWarnings(False)  # noqa: FBT003 -- the library's own signature


def test_a_decision_becomes_an_event_with_its_fields(stream: io.StringIO) -> None:
    logging.getLogger("tocsin.triage").info("incident.opened model=%s reason=%s", "fraud", "accuracy_below_sla")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["model"], line["reason"]) == ("incident.opened", "fraud", "accuracy_below_sla")
    assert (line["level"], line["from"]) == ("info", "tocsin.triage")


def test_a_text_with_newlines_stays_one_line(stream: io.StringIO) -> None:
    logging.getLogger("foreign").warning('two\nlines "quoted" \x1b[31m')
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["text"] == 'two\nlines "quoted" \x1b[31m'


def test_a_field_cannot_pass_for_the_lines_own(stream: io.StringIO) -> None:
    logging.getLogger("tocsin").info("act.taken level=critical from=elsewhere")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["from"], line["level_"]) == ("info", "tocsin", "critical")


def test_an_error_is_told_with_its_place(stream: io.StringIO) -> None:
    try:
        raise KeyError("absent")  # noqa: TRY301 -- what is told of it is the point
    except KeyError:
        logging.getLogger("tocsin").exception("host.ended reason=%s", "fault")
    line = json.loads(stream.getvalue())
    assert line["error"] == "KeyError: 'absent'"
    assert "test_logs.py" in line["frames"][-1]


def test_what_nobody_catches_is_one_line_in_whichever_thread(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("absent")

    thread = threading.Thread(target=fail, name="asker")
    thread.start()
    thread.join()
    try:
        fail()
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["thread"]) == ("error.uncaught", "critical", "asker")
    assert (second["event"], second["error"]) == ("error.uncaught", "KeyError: 'absent'")
    assert "fail" in first["frames"][-1]
    assert capsys.readouterr().err == ""


def test_a_decision_keeps_its_fields_whatever_text_is_in_them(stream: io.StringIO) -> None:
    logs.tell(logging.getLogger("tocsin.triage"), "incident.opened", {"model": "a b=c\n", "severity": 2, "level": "x"})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["model"], line["severity"], line["level_"]) == ("incident.opened", "a b=c\n", 2, "x")


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logs.begin(logging.WARNING, stream)
    logs.tell(logging.getLogger("tocsin.triage"), "incident.opened", {})
    logging.getLogger("tocsin.host").info("host.took stage=triage")
    logging.getLogger("tocsin.host").warning("broker.away stage=triage")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["broker.away"]


def test_a_client_says_once_in_a_while_what_it_tries_all_the_time() -> None:
    now_s = 0.0
    seldom = logs.Seldom(lambda: now_s)

    def said(who: str) -> str | None:
        text = f"connect failed after {now_s} s"
        record = logging.LogRecord("tocsin.kafka", logging.ERROR, "", 0, "%s [%s] %s", ("FAIL", who, text), None)
        return record.getMessage() if seldom.filter(record) else None

    assert said("one") == "FAIL [one] connect failed after 0.0 s"
    assert said("two") is not None, "another client is another kind"
    for now_s in (1.0, 2.0, 29.9):  # noqa: B007 -- `said` looks at it
        assert said("one") is None
    now_s = 30.0
    assert said("one") == "FAIL [one] connect failed after 30.0 s (and 3 more of this kind)"


def test_a_log_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as full:
        handler = logs.Lines(full)
        for number in range(3):
            handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
        assert capsys.readouterr().err == (
            "tocsin: the log cannot be written (No space left on device); the worker goes on without it\n"
        )


ROOT = Path(__file__).parents[3]
EVENT = re.compile(
    r"""(?:log\.(?:info|warning|error|critical|exception)|tell)\(\s*(?:log,\s*)?"([a-z]+\.[a-z_]+)[" ]"""
)


def test_each_event_of_a_workers_log_stands_on_the_page() -> None:
    files = [*(ROOT / "streams" / "runtime").glob("*.py"), ROOT / "streams" / "runtime" / "commands" / "worker.py"]
    events = {event for file in files for event in EVENT.findall(file.read_text(encoding="utf-8"))}
    assert {"join.took", "host.ended", "worker.no_answer", "join.disk_refuses"} <= events
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert {event for event in events if f"`{event}`" not in page} == set()


def test_the_lines_of_the_page_have_the_fields_that_a_worker_writes() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    lines = [
        json.loads(line) for line in page.splitlines() if line.startswith('{"at":') and "tocsin.probes" not in line
    ]
    wire = ROOT / "tests" / "golden" / "wire"
    finding, incident, asked, receipt, letter = (
        kind.decode((wire / name / "1.json").read_bytes())
        for name, kind in (
            ("finding", Finding), ("incident", Incident), ("notification", Notification), ("receipt", Receipt),
            ("dead-letter", DeadLetter),
        )
    )  # fmt: skip
    told = [decisions_of("triage", (), ())(one) for one in (finding, incident, asked, receipt, incident, letter)]
    head = {"at", "level", "from", "event"}
    assert [set(line) for line in lines] == [head | set(one.fields) for one in told if one is not None]
