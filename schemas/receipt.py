"""What became of a message, and why?"""

from typing import Literal

from msgspec import field

from schemas.fields import Count, Whole
from schemas.instant import Instant, Timed
from schemas.output import Name

MAX_BODY_BYTES = 2_048

AnswerClass = Literal["ok", "accepted", "retry", "shrink", "permanent", "disable", "none"]
"""What the other side's answer means: done; taken; later; with less; never; not to this destination. `none`: not asked."""

ReceiptStatus = Literal["delivered", "accepted", "retrying", "cancelled", "dead"]


class Receipt(Timed, frozen=True, kw_only=True):
    """The end of one attempt, or of the whole message.

    Parameters
    ----------
    attempt
        From 1; 0 where nothing was tried.
    answer_class, code, reason
        What the answer means, its number where it has one, and the reason in a word.
    retry_after_ms
        How long the other side asks to wait; None where it does not say.
    at
        Wall time of the attempt's end; for the reader, never for a decision.
    decided_at
        On the clock by which the attempt was made: its start plus what it took.
    body
        Beginning of the answer, at most 2 KiB.
    """

    notification_id: str
    incident_id: str
    model: Name
    target: str
    channel: str
    episode: Whole
    mode: Literal["page", "message", "ticket"]
    attempt: Count
    answer_class: AnswerClass = field(name="class")
    status: ReceiptStatus
    reason: str
    code: Whole = 0
    provider_id: str = ""
    retry_after_ms: Count | None = None
    at_ms: Instant | None = field(default=None, name="at")
    decided_at_ms: Instant = field(name="decided_at")
    body: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more will be tried.

        >>> Receipt(notification_id="n", incident_id="i", model="m", target="t", channel="log", episode=1, mode="page",
        ...         attempt=1, answer_class="retry", status="retrying", reason="timeout", decided_at_ms=0).final
        False
        """
        return self.status != "retrying"

    @property
    def reached(self) -> bool:
        """Whether the other side has it."""
        return self.status in {"delivered", "accepted"}
