"""How does a command speak? Results on standard output, progress and complaints on standard error."""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from textwrap import dedent
from types import TracebackType
from typing import Any, Self

from schemas.instant import to_wire
from streams.runtime.lines import json_line, plain

PROGRESS_EVERY_S = 0.5
PROGRESS_PLAIN_EVERY_S = 10.0
"""Where nobody watches a terminal but a log."""


class Exit(IntEnum):
    """What a command's exit status says to a script."""

    DONE = 0
    NOT_SO = 1
    USAGE = 2
    SETTINGS = 3
    BROKER = 4
    DATA = 5
    FAULT = 70
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.NOT_SO: "what was asked for is not so: a check failed, the one that was named is not there, an act was refused, "
    "a worker could not finish in time",
    Exit.USAGE: "the command line cannot be understood",
    Exit.SETTINGS: "the settings cannot be used; every fault was named",
    Exit.BROKER: "the brokers do not answer, or refuse",
    Exit.DATA: "a file cannot be used, or not all of its rows",
    Exit.FAULT: "a worker found a fault of its own and ended at once; start it again",
    Exit.INTERRUPTED: "interrupted",
}


class CommandError(Exception):
    """A command cannot go on; its message says what to do, its status what kind of trouble it is."""

    def __init__(self, status: Exit, message: str) -> None:
        self.status = status
        super().__init__(message)


def say(text: str = "") -> None:
    """Write a line of a result, or several; nothing in it can move a terminal.

    Raises
    ------
    CommandError
        Standard output is closed, or takes no more.
    """
    if sys.stdout is None:  # as Python has it where it was closed before the start
        raise CommandError(Exit.DATA, "standard output is closed: open it, or send it to a file")
    with _to_output():
        sys.stdout.write(plain(text, keep="\n") + "\n")


def flush() -> None:
    """Write what waits to be written of the result; errors as of `say`."""
    if sys.stdout is not None:
        with _to_output():
            sys.stdout.flush()


@contextmanager
def _to_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # else it is tried again at the end of the process
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # somebody reads only the head of it
            raise
        raise CommandError(Exit.DATA, f"standard output cannot be written: {error.strerror or error}") from None


def say_json(value: object) -> None:
    """Write a result, or one row of it, as one line of JSON."""
    say(json_line(value, to_wire))


def complain(text: str) -> None:
    """Write what is no part of the result; nothing in it can move a terminal."""
    sys.stderr.write(plain(text, keep="\n") + "\n")
    sys.stderr.flush()


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Align a table, two spaces between columns.

    >>> columns(("id", "n"), [("a", "10"), ("bcd", "2")])
    ['id   n', 'a    10', 'bcd  2']
    """
    table = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def at(ms: int | None) -> str:
    """Write an instant for people, to the second, in UTC.

    >>> at(1_795_341_600_000), at(None)
    ('2026-11-22 10:00:00', '-')
    """
    return "-" if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def between(from_ms: int | None, to_ms: int | None) -> str:
    """Write an interval for people; one instant where it is none.

    >>> between(1_795_341_600_000, 1_795_341_820_000), between(1_795_341_600_000, 1_795_341_600_000)
    ('between 2026-11-22 10:00:00 and 10:03:40', '2026-11-22 10:00:00')
    """
    first, last = at(from_ms), at(to_ms)
    if first == last or to_ms is None:
        return first
    day = len("2026-11-22 ")
    return f"between {first} and {last[day:] if first[:day] == last[:day] else last}"


def lasting(ms: int) -> str:
    """Write a length of time for people, two units at most.

    >>> lasting(850), lasting(42_000), lasting(3_720_000), lasting(90_000_000)
    ('850 ms', '42 s', '1 h 2 min', '1 d 1 h')
    """
    if ms < 1000:  # noqa: PLR2004 -- a second
        return f"{ms} ms"
    parts = []
    seconds = ms // 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


class Parser(argparse.ArgumentParser):
    """Understands words; help that cannot be written is an error as of `say`, and no success."""

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 -- as the library has it
        if file is None or file is not sys.stdout:
            super()._print_message(message, file)
            return
        with _to_output():
            file.write(message)
            file.flush()


class Teaching(argparse.HelpFormatter):
    """Help whose paragraphs are filled to the terminal's width, and whose examples stand as they are, line by line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            block if block.startswith(("  ", "tocsin ")) else super(Teaching, self)._fill_text(block, width, indent)
            for block in dedent(text).strip("\n").split("\n\n")
        )


class Progress:
    """Tell on standard error how far long work has come, at most twice a second.

    Parameters
    ----------
    total
        How much there is, in `unit`; None where nobody knows.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._done = 0
        self._watched = sys.stderr.isatty()
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._watched:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def add(self, count: int) -> None:
        """Say that `count` more are done."""
        self._done += count
        now_s = time.monotonic()
        if now_s - self._told_s >= (PROGRESS_EVERY_S if self._watched else PROGRESS_PLAIN_EVERY_S):
            self._told_s = now_s
            self._tell(now_s - self._began_s)

    def _tell(self, elapsed_s: float) -> None:
        of = f" of {self._total:,} ({self._done / self._total:.0%})" if self._total else ""
        line = f"{self._what}: {self._done:,}{of} {self._unit}, {self._done / elapsed_s:,.0f} a second"
        sys.stderr.write(f"\r\x1b[K{line}" if self._watched else line + "\n")
        sys.stderr.flush()


class Steps:
    """Tell on standard error which step of long work is being done, and how much of it."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._told_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._watched:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def tell(self, what: str, share: float) -> None:
        """Say that `share` of `what` is done."""
        now_s = time.monotonic()
        if now_s - self._told_s >= (PROGRESS_EVERY_S if self._watched else PROGRESS_PLAIN_EVERY_S):
            self._told_s = now_s
            line = f"{what}: {share:.0%}"
            sys.stderr.write(f"\r\x1b[K{line}" if self._watched else line + "\n")
            sys.stderr.flush()
