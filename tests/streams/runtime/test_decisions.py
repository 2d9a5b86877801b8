"""Decisions: each told once, with its record's reason, and nothing in it that came from a model."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from schemas.dead_letter import DeadLetter
from schemas.finding import Effect, Finding
from schemas.incident import Incident, Reason, Severity, Status
from schemas.notification import MessageReason, Notification
from schemas.receipt import Receipt
from schemas.through import Through
from streams.runtime import logs
from streams.runtime.decisions import decisions_of
from streams.runtime.metrics import METRICS

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs" / "operations.md"
AT_S = 1_795_528_000.25
MODELS = {"fraud"}


def sample(of: type[Any], file: str, **changes: object) -> Any:  # noqa: ANN401 -- any record
    value = (ROOT / "tests" / "golden" / "wire" / file / "1.json").read_bytes().strip()
    return replace(of.decode(value), **changes)


FINDING: Finding = sample(
    Finding, "finding", finding_id="84597405cd38", model="fraud", detector="accuracy_below_sla", kind="accuracy_below_sla",
    ledger="page", effect=Effect(observed=0.8, expected=0.9, unit="accuracy"), n=400,
    message="accuracy 80.0% at full maturity, 90.0% promised",
)  # fmt: skip
INCIDENT: Incident = sample(
    Incident, "incident", display_id="INC-F78553B4348A", model="fraud", severity=Severity.HIGH,
    status=Status.INVESTIGATING, seq=1, reason=Reason.OPENED,
)  # fmt: skip
NOTIFICATION: Notification = sample(
    Notification, "notification", notification_id="4c20b774-4264", display_id="INC-F78553B4348A", severity=Severity.HIGH,
    target="team:ml-oncall", channel="webhook", mode="page", purpose="page", reason=MessageReason.ESCALATED, late_by_ms=0,
)  # fmt: skip
RECEIPT: Receipt = sample(
    Receipt, "receipt", notification_id="4c20b774-4264", channel="webhook", attempt=1, status="delivered", reason="sent"
)
LETTER: DeadLetter = sample(
    DeadLetter, "dead-letter", topic="findings", partition=2, offset=17, record="finding", field="n", expected="a number",
    got="a text of 5 characters",
)  # fmt: skip
SAMPLES: tuple[tuple[str, Any], ...] = (
    ("detect", FINDING),
    ("triage", INCIDENT),
    ("triage", replace(INCIDENT, reason=Reason.STALE_SEQ, seq=2)),
    ("escalate", NOTIFICATION),
    ("notify", RECEIPT),
    ("triage", LETTER),
)


def line_of(stage: str, output: object) -> str:
    """Write the line of a decision as a worker does."""
    decision = decisions_of(stage, MODELS)(output)
    assert decision is not None
    record = logging.LogRecord(f"tocsin.{stage}", decision.level, "", 0, "", (), None)
    record.created, record.msecs, record.decision = AT_S, 250, (decision.event, decision.fields)
    return logs.JsonLines().format(record)


def test_the_page_for_operators_shows_the_lines_that_workers_write() -> None:
    lines = "\n".join(line_of(stage, output) for stage, output in SAMPLES)
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
        line = json.loads(line_of(stage, output))
        reason = output.kind if isinstance(output, Finding) else getattr(output, "reason", None)
        assert reason is None or line["reason"] == str(reason)


def test_what_is_counted_is_in_the_table_with_as_many_labels() -> None:
    for stage, output in SAMPLES:
        decision = decisions_of(stage, MODELS)(output)
        assert decision is not None
        for name, labels, value in decision.counts:
            assert len(labels) == len(METRICS[name].labels)
            assert (METRICS[name].kind, value) == ("counter", 1)


def test_what_came_from_outside_is_told_by_no_name_of_its_own() -> None:
    hostile = "x' OR 1=1\n{}"
    told: list[Mapping[str, object]] = []
    for output in (
        replace(FINDING, model=hostile, lane=hostile, segment=hostile, version=hostile, message=hostile),
        replace(INCIDENT, model=hostile, versions=(hostile,), note=hostile, causation_id=hostile, assignee=hostile),
        replace(NOTIFICATION, model=hostile, title=hostile, text=hostile, address=hostile),
        replace(RECEIPT, model=hostile, body=hostile, provider_id=hostile),
        replace(LETTER, key=hostile.encode(), value=hostile.encode()),
    ):
        decision = decisions_of("triage", MODELS)(output)
        assert decision is not None
        told.append(decision.fields)
        assert all(hostile not in measure.labels for measure in decision.counts)
    assert told[0]["says"] == "x' OR 1=1 {}"  # one line; a detector's words, and no model's
    assert hostile not in [value for fields in told for value in fields.values()]
    assert [fields["model"] for fields in told if "model" in fields] == ["(other)"] * 2


def test_marks_of_time_are_told_to_nobody() -> None:
    assert decisions_of("detect", MODELS)(Through(partition=0, through_ms=1)) is None
