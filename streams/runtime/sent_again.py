"""How is a record known for one that was refused and sent again, and which dead letters are still to be sent?

A record that is sent again carries two headers: which attempt it is, and where it was refused first. If it is refused
again, its new dead letter says so; so the letters of one refusal are found together, and only the last of them counts.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from schemas.dead_letter import DeadLetter, SentAgain
from streams.runtime.stage_spec import Headers
from streams.runtime.topics import TOPICS
from streams.runtime.unreadable import EXPECTED

ATTEMPT, FIRST = "tocsin-attempt", "tocsin-first-refused-at"
MOST_ATTEMPTS = 4
"""The producer's own and three more; what is wrong for the fourth time is not mended by a fifth."""
MOST_OPEN = 1_000_000
"""Refusals that are looked at together: about 300 MB."""

_ATTEMPT = re.compile(rb"[2-9]")
_FIRST = re.compile(rb"([a-z-]{1,100}/\d{1,10})/(\d{1,19})/(?:-1|\d{1,10})")

Place = tuple[int, int]
"""Partition and offset among the dead letters."""

REPLAYED = frozenset(name for name, topic in TOPICS.items() if {"producers", "people"} & set(topic.written_by))
"""Topics that are written from outside. What a stage writes it says again by itself."""


class Reason(StrEnum):
    """Why a dead letter is not sent again."""

    SENT_BEFORE = "sent again before, and not refused since"
    USED_UP = f"refused {MOST_ATTEMPTS} times"
    FROM_WITHIN = "not from a topic that is written from outside"
    NOTHING = "without a value, or gone from its topic"
    UNREADABLE = "could not be read"
    NO_PARTITION = "of a partition that is not there"


def headers_of(letter: DeadLetter) -> Headers:
    """Return the headers of the record that is sent for a letter.

    >>> letter = DeadLetter(topic="labels", partition=1, offset=7, record="label", field="", expected="", got="")
    >>> headers_of(letter)
    (('tocsin-attempt', b'2'), ('tocsin-first-refused-at', b'labels/1/7/-1'))
    """
    return (ATTEMPT, str(letter.attempt + 1).encode()), (FIRST, letter.first.encode())


def as_attempt(letter: DeadLetter, headers: Headers) -> DeadLetter:
    r"""Say in a letter which attempt it is, by the headers of the refused record.

    Headers that we cannot have written say nothing: what is sent again keeps its topic and partition, and lies behind.

    >>> letter = DeadLetter(topic="labels", partition=1, offset=9, record="label", field="", expected="", got="")
    >>> again = as_attempt(letter, [(ATTEMPT, b"2"), (FIRST, b"labels/1/7/-1")])
    >>> again.attempt, again.first
    (2, 'labels/1/7/-1')
    >>> [as_attempt(letter, [(ATTEMPT, b"2"), (FIRST, first)]) == letter for first in (b"labels/1/9/-1", b"\x1b[2J")]
    [True, True]
    """
    said = dict(headers)
    attempt, first = said.get(ATTEMPT, b""), _FIRST.fullmatch(said.get(FIRST, b""))
    if first is None or not _ATTEMPT.fullmatch(attempt):
        return letter
    if first[1] != f"{letter.topic}/{letter.partition}".encode() or int(first[2]) >= letter.offset:
        return letter
    return replace(letter, attempt=int(attempt), origin=first[0].decode())


@dataclass(slots=True)
class _Refusal:
    """What is known of one refusal.

    Parameters
    ----------
    attempt, place
        Of its last letter; 0 before there is one.
    sent
        The attempt that was sent last.
    wanted
        Whether its last letter is one of those that are asked for.
    against
        Why its last letter cannot be sent, whatever was sent before.
    """

    attempt: int = 0
    place: Place = (-1, -1)
    sent: int = 1
    wanted: bool = False
    against: Reason | None = None


class Survey:
    """Which refusals are open? Learned from letters and marks, in any order.

    Parameters
    ----------
    partitions
        How many partitions each topic has that is written from outside.

    Examples
    --------
    >>> letter = DeadLetter(topic="labels", partition=1, offset=7, record="label", field="", expected="", got="")
    >>> survey = Survey({"labels": 4})
    >>> survey.meet(letter, (0, 3), wanted=True)
    >>> survey.chosen(), survey.passed_over()
    ([(0, 3)], Counter())
    >>> survey.mark(SentAgain(first="labels/1/7/-1", attempt=2))
    >>> survey.chosen(), survey.passed_over()
    ([], Counter({<Reason.SENT_BEFORE: 'sent again before, and not refused since'>: 1}))
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._partitions = partitions
        self._by_first: dict[str, _Refusal] = {}

    def __len__(self) -> int:
        return len(self._by_first)

    def meet(self, letter: DeadLetter, place: Place, *, wanted: bool) -> None:
        """Take note of a letter, which lies at a place among the dead letters."""
        known = self._by_first.setdefault(letter.first, _Refusal())
        if letter.attempt >= known.attempt:
            known.attempt, known.place, known.wanted = letter.attempt, place, wanted
            known.against = self._against(letter)

    def _against(self, letter: DeadLetter) -> Reason | None:
        if letter.topic not in self._partitions or letter.offset < 0:
            return Reason.FROM_WITHIN
        if not 0 <= letter.partition < self._partitions[letter.topic]:
            return Reason.NO_PARTITION
        if letter.expected == EXPECTED:  # it stands for a whole batch
            return Reason.UNREADABLE
        return Reason.USED_UP if letter.attempt >= MOST_ATTEMPTS else None

    def mark(self, mark: SentAgain) -> None:
        """Take note that something was sent again."""
        known = self._by_first.setdefault(mark.first, _Refusal())
        known.sent = max(known.sent, mark.attempt)

    def chosen(self) -> list[Place]:
        """Places of the letters that are to be sent, in order of place."""
        return sorted(one.place for one, reason in self._wanted() if reason is None)

    def passed_over(self) -> Counter[Reason]:
        """Count of those that were asked for and are not to be sent, by reason."""
        return Counter(reason for _, reason in self._wanted() if reason is not None)

    def _wanted(self) -> Iterator[tuple[_Refusal, Reason | None]]:
        for one in self._by_first.values():
            if one.wanted:
                yield one, Reason.SENT_BEFORE if one.sent > one.attempt else one.against
