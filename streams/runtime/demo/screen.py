"""What does a person see while it runs? One line for each thing that happens, and one that moves."""

import sys
from typing import Any, TextIO

from schemas.finding import Finding
from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime.demo.watching import Seen
from streams.runtime.lines import plain
from streams.runtime.terminal import at, columns, lasting
from streams.stages.wording import detail

WIDTH = 110


class Screen:
    """Writes what happened to `out`, and how far it is to a terminal's last line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moves = sys.stderr.isatty()
        self._rang: set[str] = set()
        self._told: set[tuple[str, str]] = set()

    def begin(self, text: str) -> None:
        """Begin a run, of which nothing was told yet."""
        self._rang.clear()
        self._told.clear()
        self.say(text)

    def say(self, text: str = "") -> None:
        """Write a line of its own."""
        self._clear()
        self._out.write(plain(text, keep="\n") + "\n")
        self._out.flush()

    def happened(self, ms: int, text: str) -> None:
        """Write what happened, with its event time."""
        self.say(f"  {at(ms)[11:]}  {text}")

    def progress(self, text: str) -> None:
        """Replace the moving line; where nobody watches a terminal there is none."""
        if self._moves:
            sys.stderr.write(f"\r\x1b[K  {text[:WIDTH]}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._moves:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, record: Any, seen: Seen) -> None:  # noqa: ANN401 -- whatever is news
        """Tell one piece of news."""
        match record:
            case Finding(state="firing") if record.detector not in self._rang:
                self._rang.add(record.detector)  # its further lanes are counted
                effect = record.effect
                numbers = f"{effect.observed:.3g} {plain(effect.unit)}, expected {effect.expected:.3g}"
                what = detail(record.message) or numbers
                self.happened(
                    record.decided_at_ms,
                    f"finding    {record.detector} ({record.ledger}) on {plain(record.lane)}: {what}",
                )
            case Incident() if record.reason != "finding_attached":
                said = f"SEV-{int(record.severity)} {record.status}: {record.reason}"
                self.happened(record.decided_at_ms, f"incident   {record.display_id} {said}")
            case Receipt():
                self._delivered(seen.notifications[record.notification_id])
            case _:
                pass

    def _delivered(self, one: Notification) -> None:
        """Tell of each page, and of the first of other messages to each target."""
        if one.mode != "page" and (one.incident_id, one.target) in self._told:
            return
        self._told.add((one.incident_id, one.target))
        self.happened(one.decided_at_ms, f"{one.mode.ljust(9)}  to {one.target}: {plain(one.title)}")

    def summary(self, rows: list[tuple[str, str]]) -> None:
        """End with the figures."""
        self.say()
        for line in columns(("", ""), rows)[1:]:
            self.say(f"  {line}")
        self.say()


def after(ms: int | None, origin_ms: int) -> str:
    """Say how long after the origin.

    >>> after(130_000, 60_000), after(None, 0)
    ('1 min 10 s', 'not')
    """
    return "not" if ms is None else lasting(ms - origin_ms)
