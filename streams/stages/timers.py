"""What is due, and in which order?

A timer is `(deadline, kind, subject)`. Its deadline follows from the subject's own row, written in the same step as its
cause; so a row and its timers cannot disagree after a crash, and what is kept here is an index that a new stage object
builds from the rows.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

MAX_TIMERS = 1_000_000
"""Timers of one stage object; above that it stops rather than forget one."""


@dataclass(frozen=True, slots=True, order=True)
class Timer:
    """One deadline, in ms of decision time."""

    deadline_ms: int
    kind: str
    subject: str


class Timers:
    """All timers of a stage object, by subject.

    >>> timers = Timers()
    >>> timers.put("i1", {"wait": 500, "remind": 300}); timers.put("i2", {"wait": 400})
    >>> timers.put("i1", {"wait": 700})  # what is no longer named is gone
    >>> timers.pop_due(450), timers.pop_due(699), timers.pop_due(700), len(timers)
    (Timer(deadline_ms=400, kind='wait', subject='i2'), None, Timer(deadline_ms=700, kind='wait', subject='i1'), 0)
    >>> timers.put("i3", {"wait": 900, "ask": 800}); timers.put("i4", {"wait": 850})
    >>> [timers.pop_due_of("i3", 950).kind for _ in range(2)], timers.pop_due_of("i3", 950), timers.first_due(950).subject
    (['ask', 'wait'], None, 'i4')
    """

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._subjects: dict[str, dict[str, int]] = {}
        self._count = 0

    def put(self, subject: str, timers: Mapping[str, int]) -> None:
        """Say which timers a subject has now; all others of it are gone."""
        known = self._subjects.get(subject, {})
        self._count += len(timers) - len(known)
        assert self._count <= MAX_TIMERS, f"more than {MAX_TIMERS} timers"
        for kind, deadline_ms in timers.items():
            if known.get(kind) != deadline_ms:
                heapq.heappush(self._heap, Timer(deadline_ms, kind, subject))
        if timers:
            self._subjects[subject] = dict(timers)
        else:
            self._subjects.pop(subject, None)

    def first_due(self, now_ms: int) -> Timer | None:
        """Return the first timer whose deadline has come, in the order (deadline, kind, subject); None if there is none."""
        while self._heap and self._heap[0].deadline_ms <= now_ms:
            timer = self._heap[0]
            if self._subjects.get(timer.subject, {}).get(timer.kind) == timer.deadline_ms:
                return timer
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_ms: int) -> Timer | None:
        """Take the first timer whose deadline has come."""
        timer = self.first_due(now_ms)
        if timer is not None:
            heapq.heappop(self._heap)
            self._take(timer)
        return timer

    def pop_due_of(self, subject: str, now_ms: int) -> Timer | None:
        """Take the first timer of one subject whose deadline has come, in the order (deadline, kind)."""
        known = self._subjects.get(subject, {})
        first = min(((at_ms, kind) for kind, at_ms in known.items() if at_ms <= now_ms), default=None)
        if first is None:
            return None
        timer = Timer(*first, subject)
        self._take(timer)
        return timer

    def _take(self, timer: Timer) -> None:
        known = self._subjects[timer.subject]
        self.put(timer.subject, {kind: at_ms for kind, at_ms in known.items() if kind != timer.kind})

    def __len__(self) -> int:
        return self._count
