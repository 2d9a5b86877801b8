"""Should a message about an incident be sent to a destination, and for which reason?

The deduplication stage of Prometheus Alertmanager (Apache-2.0) as a table, with our own rows for what opens and ends
while nothing can be delivered. `last` is what the last *delivered* message spoke of.
"""

from dataclasses import dataclass

from schemas.notification import MessageReason


@dataclass(frozen=True, slots=True)
class Last:
    """The last message that was delivered to a destination: its findings, and when; None where that is not known."""

    firing: frozenset[str]
    cleared: frozenset[str]
    at_ms: int | None


def message_reason(
    last: Last | None,
    firing: frozenset[str],
    cleared: frozenset[str],
    *,
    is_firing: bool,
    now_ms: int,
    remind_interval_ms: int,
    tells_of_end: bool,
) -> MessageReason | None:
    """Return why to send, None where there is nothing to say; `is_firing` is whether any fires, also one that is not named.

    >>> one, two = frozenset({"1"}), frozenset({"1", "2"})
    >>> rule = {"is_firing": True, "remind_interval_ms": 9, "tells_of_end": True}
    >>> message_reason(Last(one, frozenset(), 0), two, frozenset(), now_ms=1, **rule)
    <MessageReason.NEW_FINDINGS: 'new findings added'>
    >>> message_reason(Last(one, frozenset(), 0), one, frozenset(), now_ms=9, **rule)
    """
    if last is None:
        return MessageReason.FIRST if is_firing else None
    if not firing <= last.firing:
        return MessageReason.NEW_FINDINGS
    if not is_firing:
        # what began and ended between two messages was never told, and needs no end
        return MessageReason.ALL_CLEARED if last.firing else None
    if tells_of_end and not cleared <= last.cleared:
        return MessageReason.SOME_CLEARED
    if last.at_ms is None or last.at_ms < now_ms - remind_interval_ms:
        return MessageReason.REMINDER
    return None
