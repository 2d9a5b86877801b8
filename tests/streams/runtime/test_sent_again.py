"""Which refusals are open, whatever was sent again, refused again, or claimed by somebody else's headers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import DeadLetter, SentAgain
from streams.runtime.sent_again import ATTEMPT, FIRST, MOST_ATTEMPTS, REPLAYED, Reason, Survey, as_attempt, headers_of
from streams.runtime.topics import TOPICS
from streams.runtime.unreadable import EXPECTED


def letter(offset: int, **others: Any) -> DeadLetter:  # noqa: ANN401 -- any field
    said: dict[str, Any] = {
        "topic": "labels",
        "partition": 1,
        "record": "label",
        "field": "",
        "expected": "",
        "got": "",
    }
    return DeadLetter(offset=offset, **said | others)


def survey() -> Survey:
    return Survey({"labels": 4, "model-outputs": 4})


def test_the_last_letter_of_a_refusal_counts_until_it_is_sent() -> None:
    #  refused@7   sent (2)   refused@30   sent (3)
    seen = survey()
    seen.meet(letter(7), (1, 0), wanted=True)
    assert seen.chosen() == [(1, 0)]
    seen.mark(SentAgain(first="labels/1/7/-1", attempt=2))
    assert (seen.chosen(), seen.passed_over()) == ([], {Reason.SENT_BEFORE: 1})
    seen.meet(letter(30, attempt=2, origin="labels/1/7/-1"), (1, 9), wanted=True)
    assert (seen.chosen(), seen.passed_over()) == ([(1, 9)], {})
    seen.mark(SentAgain(first="labels/1/7/-1", attempt=3))
    assert seen.chosen() == []


def test_copies_of_one_refusal_are_sent_once() -> None:
    """Who runs the command twice before the join has answered gets two letters of one attempt, and not four of the next."""
    seen = survey()
    for place, offset in enumerate((30, 31, 32)):
        seen.meet(letter(offset, attempt=2, origin="labels/1/7/-1"), (1, place), wanted=True)
    assert seen.chosen() == [(1, 2)]


def test_there_is_an_end_of_attempts() -> None:
    seen = survey()
    seen.meet(letter(30, attempt=MOST_ATTEMPTS, origin="labels/1/7/-1"), (1, 0), wanted=True)
    assert (seen.chosen(), seen.passed_over()) == ([], {Reason.USED_UP: 1})


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (letter(-1, topic="notifications", partition=-1), Reason.FROM_WITHIN),
        (letter(-1, partition=-1), Reason.FROM_WITHIN),
        (letter(7, topic="findings"), Reason.FROM_WITHIN),
        (letter(7, partition=4), Reason.NO_PARTITION),
        (letter(7, expected=EXPECTED), Reason.UNREADABLE),
    ],
)
def test_what_cannot_be_sent_is_passed_over_with_the_reason(what: DeadLetter, reason: Reason) -> None:
    seen = survey()
    seen.meet(what, (1, 0), wanted=True)
    assert (seen.chosen(), seen.passed_over()) == ([], {reason: 1})


def test_what_was_not_asked_for_is_not_spoken_of() -> None:
    seen = survey()
    seen.meet(letter(7), (1, 0), wanted=False)
    seen.mark(SentAgain(first="labels/1/8/-1", attempt=2))
    assert (seen.chosen(), seen.passed_over()) == ([], {})


@given(st.permutations(range(5)))
def test_the_order_of_reading_does_not_matter(order: list[int]) -> None:
    steps = [
        lambda seen: seen.meet(letter(7), (1, 0), wanted=True),
        lambda seen: seen.mark(SentAgain(first="labels/1/7/-1", attempt=2)),
        lambda seen: seen.meet(letter(30, attempt=2, origin="labels/1/7/-1"), (1, 5), wanted=True),
        lambda seen: seen.meet(letter(8), (1, 1), wanted=True),
        lambda seen: seen.mark(SentAgain(first="labels/1/8/-1", attempt=2)),
    ]
    seen = survey()
    for step in order:
        steps[step](seen)
    assert (seen.chosen(), seen.passed_over()) == ([(1, 5)], {Reason.SENT_BEFORE: 1})


def test_headers_lead_back_to_the_first_refusal() -> None:
    first = letter(7, row=4)
    second = as_attempt(letter(30), headers_of(first))
    third = as_attempt(letter(60), headers_of(second))
    assert [(one.attempt, one.first) for one in (first, second, third)] == [(n, "labels/1/7/4") for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((ATTEMPT, b"2"),),
        ((FIRST, b"labels/1/7/-1"),),
        ((ATTEMPT, b"1"), (FIRST, b"labels/1/7/-1")),
        ((ATTEMPT, b"99999999999999999999"), (FIRST, b"labels/1/7/-1")),
        ((ATTEMPT, b""), (FIRST, b"labels/1/7/-1")),
        ((ATTEMPT, "٢".encode()), (FIRST, b"labels/1/7/-1")),
        ((ATTEMPT, b"2"), (FIRST, b"labels/1/30/-1")),
        ((ATTEMPT, b"2"), (FIRST, b"labels/2/7/-1")),
        ((ATTEMPT, b"2"), (FIRST, b"model-outputs/1/7/-1")),
        ((ATTEMPT, b"2"), (FIRST, b"labels/1/7/-1\n")),
        ((ATTEMPT, b"2"), (FIRST, b"labels/1/7/-1/\x1b[2J")),
        ((ATTEMPT, b"2"), (FIRST, b"\xff" * 10_000)),
    ],
)
def test_headers_that_are_not_ours_say_nothing(headers: tuple[tuple[str, bytes], ...]) -> None:
    """A producer cannot hide somebody else's refusal, nor use up its attempts."""
    assert as_attempt(letter(30), headers) == letter(30)


def test_what_is_written_from_outside_can_be_sent_again() -> None:
    assert sorted(REPLAYED) == ["deployments", "incident-actions", "labels", "model-outputs"]
    assert TOPICS["dead-letters"].written_by[-1] == "command line"
