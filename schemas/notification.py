"""Who is to be told what, and why?"""

from enum import StrEnum
from typing import Literal

from msgspec import field

from schemas.fields import Ordinal, Whole
from schemas.incident import Severity, Status
from schemas.instant import Instant, Timed
from schemas.output import Name
from schemas.policy import Mode


class MessageReason(StrEnum):
    """Why a message is sent; the first seven are the words of Alertmanager's deduplication stage, kept for its users."""

    FIRST = "first notification"
    NEW_FINDINGS = "new findings added"
    ALL_CLEARED = "all findings cleared"
    SOME_CLEARED = "some findings cleared"
    REMINDER = "repeat interval elapsed"
    OPENED_AND_RESOLVED = "opened and resolved"
    SEVERITY_RAISED = "severity raised"
    SEVERITY_LOWERED = "severity lowered"
    STATUS_CHANGED = "status changed"
    REOPENED = "reopened"
    FLAPPING = "flapping"
    ESCALATED = "not acknowledged in time"
    ACK_OWED = "acknowledgement owed"
    ACK_EXPIRES = "acknowledgement expires soon"
    EXHAUSTED = "escalation exhausted"
    AT_RISK = "response at risk"
    BREACHED = "deadline passed"


Purpose = Literal["page", "accountable", "fallback", "update", "reminder", "resolve", "at_risk", "breach"]
"""`page` asks the responders, `accountable` those who must know; the next four state how things are; the last two warn."""


class Notification(Timed, frozen=True, kw_only=True):
    """One message for one target by one channel.

    Parameters
    ----------
    notification_id
        Deterministic; all attempts share it.
    dedup_key
        The incident's name at other systems.
    seq, episode
        Of the incident's record that it speaks of.
    cause, cause_at
        What called for it, and the decision time of that: a message whose cause is a day old is not sent any more.
    target, channel, address
        The configured target; the way to it, and where that leads, as they were when the step ran.
    group
        `responders` are not asked any more when somebody has acknowledged; `accountable` targets only by their own.
    title, text
        Built from numbers and configured names; plain text that each channel cuts and escapes in its own way.
    details
        What more there is, by name: left out where the other side says that it is too much.
    firing, cleared
        Findings that the message speaks of.
    late_by_ms
        How long after its deadline the step ran.
    """

    notification_id: str
    incident_id: str
    display_id: str
    dedup_key: str
    model: Name
    seq: Ordinal
    episode: Ordinal
    cause: str
    cause_at_ms: Instant = field(name="cause_at")
    decided_at_ms: Instant = field(name="decided_at")
    recorded_at_ms: Instant | None = field(default=None, name="recorded_at")
    purpose: Purpose
    reason: MessageReason
    mode: Mode
    group: Literal["responders", "accountable"]
    target: str
    channel: str
    address: str
    severity: Severity
    status: Status
    title: str
    text: str
    details: dict[str, str] = {}
    firing: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    late_by_ms: Whole = 0

    @property
    def destination(self) -> str:
        """Where it goes: one message at a time is on its way to a destination about an incident."""
        return f"{self.channel}|{self.address}"
