"""Logs: one line of JSON for each decision, whatever is in it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from streams.runtime import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
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
