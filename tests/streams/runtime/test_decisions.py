"""Decisions: each told once, with its record's reason, and nothing in it that came from a model."""

import asyncio
import io
import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.dead_letter import DeadLetter
from schemas.finding import Effect, Finding
from schemas.incident import Incident, Reason, Severity, Status
from schemas.notification import MessageReason, Notification
from schemas.receipt import Receipt
from schemas.response import SenderSettings
from schemas.through import Through
from streams.runtime import logs
from streams.runtime.channels.log import LogChannel, LogSettings
from streams.runtime.decisions import decisions_of
from streams.runtime.metrics import METRICS
from streams.runtime.sender import Sender
from streams.stages.notify import Attempt

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs" / "operations.md"
MODELS = {"fraud"}
CHANNELS = {"log", "webhook"}


def sample(of: type[Any], file: str, **changes: object) -> Any:  # noqa: ANN401 -- any record
    value = (ROOT / "tests" / "golden" / "wire" / file / "1.json").read_bytes().strip()
    return replace(of.decode(value), **changes)


FINDING: Finding = sample(
    Finding, "finding", finding_id="6075093592987a064b6c3b6603ae0a9cef9fbbaf535664dac4080bb88c545ed7", model="fraud",
    detector="feature_integrity", kind="feature_corruption", ledger="page",
    effect=Effect(observed=0.55, expected=0.0, unit="share of outputs"), n=40,
    message="feature amount is null in 55.0% of outputs, 0.00% usually",
)  # fmt: skip
INCIDENT: Incident = sample(
    Incident, "incident", display_id="INC-7E778A035739", model="fraud", severity=Severity.HIGH,
    status=Status.INVESTIGATING, seq=1, reason=Reason.OPENED,
)  # fmt: skip
NOTIFICATION: Notification = sample(
    Notification, "notification", notification_id="75b07a91-4d97-5fb5-954c-8b1a4c1e7de5", display_id="INC-7E778A035739",
    severity=Severity.HIGH, target="team:ml-oncall", channel="log", mode="page", purpose="page",
    reason=MessageReason.FIRST, late_by_ms=812,
)  # fmt: skip
RECEIPT: Receipt = sample(
    Receipt, "receipt", notification_id="75b07a91-4d97-5fb5-954c-8b1a4c1e7de5", channel="log", attempt=1,
    status="delivered", reason="sent",
)  # fmt: skip
LETTER: DeadLetter = sample(
    DeadLetter, "dead-letter", topic="findings", partition=2, offset=17, record="finding", field="n", expected="a number",
    got="a text of 5 characters",
)  # fmt: skip
SAMPLES: tuple[tuple[str, Any], ...] = (
    ("detect", FINDING),
    ("triage", INCIDENT),
    ("escalate", NOTIFICATION),
    ("notify", RECEIPT),
    ("triage", replace(INCIDENT, reason=Reason.STALE_SEQ, seq=2)),
    ("triage", LETTER),
)
SENDER = SenderSettings(
    in_flight_limit=1, waiting_limit=1, attempt_timeout_ms=60_000, turn_wait_ms=60_000, close_wait_ms=60_000
)
WRITTEN_AT = ("15:04:57.622", "15:06:58.298", "15:07:10.959", "15:07:11.004", "15:21:40.250", "15:21:40.250")
"""When the lines of the page were written, on the day of its examples."""


def written(record: logging.LogRecord, at: str) -> str:
    """Write a line as a worker's log does."""
    when = datetime.fromisoformat(f"2026-11-30T{at}Z")
    record.created, record.msecs = when.timestamp(), when.microsecond / 1_000
    return logs.JsonLines().format(record)


def told(stage: str, output: object) -> logging.LogRecord:
    """Tell of a decision as a host does."""
    decision = decisions_of(stage, MODELS, CHANNELS)(output)
    assert decision is not None
    record = logging.LogRecord(f"tocsin.{stage}", decision.level, "", 0, "", (), None)
    record.decision = (decision.event, decision.fields)
    return record


def sent(notification: Notification, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """Have a message delivered, and return what the sender logs of it."""

    async def deliver(_: Receipt) -> None:
        """Write no receipt."""

    async def play() -> None:
        channel = LogChannel(LogSettings(), io.StringIO())
        sender = Sender(channels={"log": channel}, settings=SENDER, deliver=deliver)
        sender.submit(Attempt(notification=notification, number=1, details=True, decided_at_ms=0, late_by_ms=0))
        await sender.settle()

    with caplog.at_level(logging.INFO, logger="tocsin.sender"):
        asyncio.run(play())
    [record] = [one for one in caplog.records if one.name == "tocsin.sender"]
    return record


def test_the_page_for_operators_shows_the_lines_that_workers_write(caplog: pytest.LogCaptureFixture) -> None:
    records = [sent(NOTIFICATION, caplog) if output is RECEIPT else told(stage, output) for stage, output in SAMPLES]
    lines = "\n".join(map(written, records, WRITTEN_AT))
    text = OPERATIONS.read_text()
    head, _, rest = text.partition("Text of models is in no line.\n\n```json\n")
    shown, _, tail = rest.partition("\n```\n")
    if os.environ.get("UPDATE_GOLDEN") == "1" and shown != lines:
        OPERATIONS.write_text(text.replace(f"```json\n{shown}\n```\n", f"```json\n{lines}\n```\n"))
        return
    assert head
    assert tail
    assert shown == lines, "UPDATE_GOLDEN=1 writes the lines anew"


def test_a_line_has_the_reason_of_its_record() -> None:
    for stage, output in SAMPLES:
        line = json.loads(logs.JsonLines().format(told(stage, output)))
        reason = output.kind if isinstance(output, Finding) else getattr(output, "reason", None)
        assert reason is None or line["reason"] == str(reason)


def test_what_is_counted_is_in_the_table_with_as_many_labels() -> None:
    for stage, output in SAMPLES:
        decision = decisions_of(stage, MODELS, CHANNELS)(output)
        assert decision is not None
        for name, labels, value in decision.counts:
            assert len(labels) == len(METRICS[name].labels)
            assert (METRICS[name].kind, value) == ("counter", 1)


def test_what_came_from_outside_is_told_by_no_name_of_its_own() -> None:
    hostile = "x' OR 1=1\n{}"
    fields_told: list[Mapping[str, object]] = []
    for output in (
        replace(FINDING, model=hostile, lane=hostile, segment=hostile, version=hostile, message=hostile),
        replace(INCIDENT, model=hostile, versions=(hostile,), note=hostile, causation_id=hostile, assignee=hostile),
        replace(NOTIFICATION, model=hostile, title=hostile, text=hostile, address=hostile, channel=hostile),
        replace(RECEIPT, model=hostile, channel=hostile, body=hostile, provider_id=hostile),
        replace(LETTER, key=hostile.encode(), value=hostile.encode()),
    ):
        decision = decisions_of("triage", MODELS, CHANNELS)(output)
        assert decision is not None
        fields_told.append(decision.fields)
        assert all(hostile not in measure.labels for measure in decision.counts)
    assert fields_told[0]["says"] == "x' OR 1=1 {}"  # one line; a detector's words, and no model's
    assert hostile not in [value for fields in fields_told for value in fields.values()]
    assert [fields["model"] for fields in fields_told if "model" in fields] == ["(other)"] * 2


def test_marks_of_time_are_told_to_nobody() -> None:
    assert decisions_of("detect", MODELS, CHANNELS)(Through(partition=0, through_ms=1)) is None
