"""What is due, and since when?

A timer is a row: `(kind, subject, absolute deadline)`, written with its cause and deleted when it fires. The order of
firing is (deadline, kind, subject). The heap here is an index that a new object builds from the rows.
"""

import heapq
from collections.abc import MutableMapping
from dataclasses import dataclass

MAX_TIMERS = 1_000_000
"""Timers of one stage object; above that it stops rather than forget one."""

_PREFIX = "timer/"


@dataclass(frozen=True, slots=True, order=True)
class Timer:
    """One deadline, in ms of decision time."""

    deadline_ms: int
    kind: str
    subject: str


class Timers:
    """The timers of a stage, over its rows.

    >>> rows: dict[str, bytes] = {}
    >>> timers = Timers(rows)
    >>> timers.set("wait", "i1", 500); timers.set("wait", "i2", 300); timers.set("wait", "i1", 700)
    >>> timers.pop_due(400), Timers(rows).pop_due(699)
    (Timer(deadline_ms=300, kind='wait', subject='i2'), None)
    >>> Timers(rows).pop_due(700), rows
    (Timer(deadline_ms=700, kind='wait', subject='i1'), {})
    """

    def __init__(self, rows: MutableMapping[str, bytes]) -> None:
        self._rows = rows
        self._heap: list[Timer] = []
        self._deadlines: dict[tuple[str, str], int] = {}
        for key in rows:
            if key.startswith(_PREFIX):
                kind, subject = key.removeprefix(_PREFIX).split("/", 1)
                self._add(kind, subject, int(rows[key]))

    def _add(self, kind: str, subject: str, deadline_ms: int) -> None:
        self._deadlines[kind, subject] = deadline_ms
        heapq.heappush(self._heap, Timer(deadline_ms, kind, subject))

    def set(self, kind: str, subject: str, deadline_ms: int) -> None:
        """Set the timer of that kind and subject, in place of an earlier one."""
        if self._deadlines.get((kind, subject)) == deadline_ms:
            return
        assert len(self._deadlines) < MAX_TIMERS, f"more than {MAX_TIMERS} timers"
        self._rows[f"{_PREFIX}{kind}/{subject}"] = b"%d" % deadline_ms
        self._add(kind, subject, deadline_ms)

    def cancel(self, kind: str, subject: str) -> None:
        """Delete the timer, if there is one."""
        if self._deadlines.pop((kind, subject), None) is not None:
            del self._rows[f"{_PREFIX}{kind}/{subject}"]

    def deadline(self, kind: str, subject: str) -> int | None:
        """Return when it fires, None where there is none."""
        return self._deadlines.get((kind, subject))

    def pop_due(self, now_ms: int) -> Timer | None:
        """Take the first timer whose deadline has come; None when there is none."""
        while self._heap and self._heap[0].deadline_ms <= now_ms:
            timer = heapq.heappop(self._heap)
            if self._deadlines.get((timer.kind, timer.subject)) == timer.deadline_ms:
                self.cancel(timer.kind, timer.subject)
                return timer
        return None

    def __len__(self) -> int:
        return len(self._deadlines)
