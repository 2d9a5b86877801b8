"""What are operators told of what a stage decides? One line of the log, and one count, with the record's own reason.

Of what came from outside only names are told that the settings know: a model or a channel that nobody configured is
`(other)`. A
finding's own words are a detector's: numbers, and names of features that the settings declare.
"""

import logging
from collections.abc import Callable, Collection
from typing import Any

from schemas.dead_letter import DeadLetter
from schemas.fields import TOCSIN
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime.metrics import Measure, named
from streams.runtime.stage_spec import Decision
from streams.stages.wording import detail


def decisions_of(stage: str, models: Collection[str], channels: Collection[str]) -> Callable[[Any], Decision | None]:
    """Return what says of each output of a stage what operators are told; None of marks of time and the like.

    >>> tell = decisions_of("triage", {"fraud"}, {"log"})
    >>> letter = DeadLetter(topic="findings", partition=2, offset=7, record="finding", field="n", expected="a number",
    ...                     got="null")
    >>> told = tell(letter); told.event, told.fields["offset"], told.fields["error"]
    ('record.refused', 7, 'finding.n: expected a number, got null')
    """
    known = {*models, TOCSIN}

    def tell(output: Any) -> Decision | None:  # noqa: ANN401 -- any record past the join
        match output:
            case Finding():
                return _finding(output, known)
            case Incident():
                return _incident(output, known)
            case Notification():
                return _notification(output, channels)
            case Receipt():
                return _receipt(output, channels)
            case DeadLetter():
                return _dead_letter(output, stage)
        return None

    return tell


def _finding(finding: Finding, known: Collection[str]) -> Decision:
    model = named(finding.model, known)
    fields = {
        "finding": finding.finding_id,
        "model": model,
        "detector": finding.detector,
        "reason": finding.kind,
        "ledger": finding.ledger,
        "observed": finding.effect.observed,
        "expected": finding.effect.expected,
        "unit": finding.effect.unit,
        "n": finding.n,
        "says": detail(finding.message),
    }
    counted = Measure("tocsin_findings_total", (model, finding.detector, finding.ledger, finding.state), 1)
    return Decision(event=f"finding.{finding.state}", fields=fields, counts=(counted,))


def _incident(incident: Incident, known: Collection[str]) -> Decision:
    reason, severity = incident.reason.value, incident.severity.display
    fields = {
        "incident": incident.display_id,
        "model": named(incident.model, known),
        "severity": severity,
        "status": incident.status.value,
        "seq": incident.seq,
        "reason": reason,
    }
    return Decision(
        event="act.refused" if incident.reason.refuses else f"incident.{reason}",
        fields=fields,
        counts=(Measure("tocsin_incident_records_total", (severity, reason), 1),),
    )


def _notification(message: Notification, channels: Collection[str]) -> Decision:
    channel = named(message.channel, channels)
    fields = {
        "id": message.notification_id,
        "incident": message.display_id,
        "severity": message.severity.display,
        "target": message.target,
        "channel": channel,
        "mode": message.mode,
        "purpose": message.purpose,
        "reason": message.reason.value,
        "late_by_ms": message.late_by_ms,
    }
    counted = Measure("tocsin_notifications_total", (channel, message.mode, message.reason.value), 1)
    return Decision(event="notification.asked", fields=fields, counts=(counted,))


def _receipt(receipt: Receipt, channels: Collection[str]) -> Decision:
    channel = named(receipt.channel, channels)
    fields = {
        "id": receipt.notification_id,
        "channel": channel,
        "attempt": receipt.attempt,
        "reason": receipt.reason,
    }
    return Decision(
        event=f"notification.{receipt.status}",
        fields=fields,
        counts=(Measure("tocsin_attempts_total", (channel, receipt.status), 1),),
    )


def _dead_letter(letter: DeadLetter, stage: str) -> Decision:
    fields = {
        "stage": stage,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "error": letter.complaint,
    }
    counted = Measure("tocsin_dead_letters_total", (stage,), 1)
    return Decision(event="record.refused", fields=fields, counts=(counted,), level=logging.WARNING)
