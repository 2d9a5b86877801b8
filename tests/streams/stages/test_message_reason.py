"""The rows of the table; N1, N11 and N12 are decided where incidents and receipts are known."""

import pytest

from schemas.notification import MessageReason
from streams.stages.message_reason import Last, message_reason

NOW_MS = 100 * 60_000


def ago(minutes: int) -> int:
    return NOW_MS - minutes * 60_000


def s(digits: str) -> frozenset[str]:
    return frozenset(digits)


@pytest.mark.parametrize(
    ("row", "last", "firing", "cleared", "remind_minutes", "tells", "reason"),
    [
        ("N1", None, "", "1", 10, True, None),
        ("N2", None, "1", "", 10, True, MessageReason.FIRST),
        ("N3", Last(s("123"), s(""), ago(1)), "234", "", 10, True, MessageReason.NEW_FINDINGS),
        ("N4", Last(s(""), s("12"), ago(1)), "3", "", 10, True, MessageReason.NEW_FINDINGS),
        ("N5", Last(s("12"), s(""), ago(1)), "", "12", 10, True, MessageReason.ALL_CLEARED),
        ("N5 off", Last(s("12"), s(""), ago(1)), "", "12", 10, False, MessageReason.ALL_CLEARED),
        ("N6", Last(s(""), s("123"), ago(1)), "", "345", 10, True, None),
        ("N6 late", Last(s(""), s("123"), ago(11)), "", "345", 10, True, None),
        ("N7", Last(s("12"), s("3"), ago(1)), "1", "23", 10, True, MessageReason.SOME_CLEARED),
        ("N8", Last(s("12"), s("3"), ago(9)), "1", "23", 10, False, None),
        ("N9", Last(s("123"), s(""), ago(9)), "123", "", 10, True, None),
        ("N9 edge", Last(s("123"), s(""), ago(10)), "123", "", 10, True, None),
        ("N10", Last(s("123"), s(""), ago(11)), "123", "", 10, True, MessageReason.REMINDER),
        ("N10 unknown", Last(s("123"), s(""), None), "123", "", 10, True, MessageReason.REMINDER),
    ],
)
def test_messages_are_sent_for_a_reason_and_only_once(
    row: str, last: Last | None, firing: str, cleared: str, remind_minutes: int, *, tells: bool, reason: MessageReason
) -> None:
    said = message_reason(
        last,
        s(firing),
        s(cleared),
        is_firing=bool(firing),
        now_ms=NOW_MS,
        remind_interval_ms=remind_minutes * 60_000,
        tells_of_end=tells,
    )
    assert said is reason, row


def test_nothing_is_over_while_something_fires_that_is_not_named() -> None:
    for told, reason in (("", MessageReason.SOME_CLEARED), ("12", None)):
        last = Last(s("12"), s(told), ago(1))
        rule = {"now_ms": NOW_MS, "remind_interval_ms": 10 * 60_000}
        assert message_reason(last, s(""), s("12"), is_firing=True, tells_of_end=True, **rule) is reason
