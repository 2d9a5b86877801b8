"""What is a channel? A way to tell somebody something, which answers what became of it.

A channel is one file here with its settings, and one entry in `table.py`.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol, Self

import msgspec

from config.fault import Fault
from config.typed import typed, unplaced
from schemas.fields import MalformedRecordError
from schemas.ids import rfc3339
from schemas.receipt import MAX_BODY_BYTES, AnswerClass
from streams.stages.notify import Attempt

MAX_RETRY_AFTER_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the other side answered.

    Parameters
    ----------
    answer_class
        What it means; see `schemas.receipt`.
    reason
        In a word: `sent`, `http_503`, `timeout`.
    retry_after_ms
        How long it asks to wait; None where it does not say.
    body
        Beginning of the answer, at most 2 KiB.
    """

    answer_class: AnswerClass
    reason: str
    code: int = 0
    provider_id: str = ""
    retry_after_ms: int | None = None
    body: str = ""


class Channel(Protocol):
    """A way to tell somebody."""

    async def send(self, attempt: Attempt, wall_ms: int) -> Answer:
        """Make one attempt; `wall_ms` is the wall clock's time, for signatures and dates."""
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...


class Objection(NamedTuple):
    """Why a setting that is well written cannot be used."""

    setting: str
    expected: str
    got: str
    remedy: str


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of a channel's settings, `[channels.NAME]`."""

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Self:
        """Read what a TOML file says; `MalformedRecordError` names the first fault."""
        faults: list[Fault] = []
        settings = typed(unplaced(raw), cls, "", faults)
        if settings is None:
            first = faults[0]
            raise MalformedRecordError(cls.__name__.lower(), first.setting, first.expected, first.got)
        return settings

    @classmethod
    def objections(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Objection]:
        """Say what cannot be used here of a table that may have other faults besides; nothing by default."""
        del raw, environ
        yield from ()

    @classmethod
    def nowhere(cls, raw: Mapping[str, object], address: str) -> Objection | None:
        """Say why an address leads nowhere by this table; None where it leads somewhere, or takes none."""
        del raw, address
        return None


def harmless(text: str) -> str:
    r"""Take out what a terminal or a viewer would act on: control and bidirectional characters; keep line breaks.

    >>> harmless("a\x1b[31mb\u202ec\nd\x85")
    'a[31mbc\nd'
    """
    return "".join(rune for rune in text if rune == "\n" or unicodedata.category(rune)[0] != "C")


def content(attempt: Attempt) -> dict[str, object]:
    """Return what a message says, for machines: numbers, names and the text made of them."""
    message = attempt.notification
    said: dict[str, object] = {
        "notification_id": message.notification_id,
        "incident_id": message.incident_id,
        "display_id": message.display_id,
        "dedup_key": message.dedup_key,
        "model": harmless(message.model),
        "severity": message.severity.display,
        "status": str(message.status),
        "purpose": message.purpose,
        "reason": str(message.reason),
        "mode": message.mode,
        "target": message.target,
        "title": harmless(message.title),
        "text": harmless(message.text),
        "decided_at": rfc3339(message.decided_at_ms),
        "late_by_ms": attempt.late_by_ms,
        "seq": message.seq,
    }
    if attempt.details:
        said["details"] = {name: harmless(text) for name, text in message.details.items()}
        said["firing"] = list(message.firing)
        said["cleared"] = list(message.cleared)
    return said


def beginning(body: bytes) -> str:
    """Return the beginning of an answer, for its receipt."""
    return harmless(body[:MAX_BODY_BYTES].decode("utf-8", "replace"))


def by_status(code: int, retry_after_ms: int | None, body: bytes) -> Answer:
    """Return what an HTTP status means; a redirect is not followed, so it means never.

    >>> [by_status(code, None, b"").answer_class for code in (204, 301, 400, 403, 408, 413, 429, 503)]
    ['ok', 'permanent', 'permanent', 'disable', 'retry', 'shrink', 'retry', 'retry']
    """
    answer: AnswerClass
    if 200 <= code < 300:  # noqa: PLR2004 -- the class of success
        answer = "ok"
    elif code in {408, 425, 429} or code >= 500:  # noqa: PLR2004 -- the other side's trouble
        answer = "retry"
    elif code == 413:  # noqa: PLR2004 -- content too large
        answer = "shrink"
    elif code in {401, 403, 410}:
        answer = "disable"
    else:
        answer = "permanent"
    return Answer(
        answer_class=answer,
        reason="sent" if answer == "ok" else f"http_{code}",
        code=code,
        retry_after_ms=retry_after_ms,
        body=beginning(body),
    )


def retry_after(header: str | None, wall_ms: int) -> int | None:
    """Read `Retry-After`: seconds or a date; a date that has passed is 0, anything else is no wish at all.

    >>> retry_after("3", 0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 20_000)
    (3000, 40000)
    >>> retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 20_000), retry_after("soon", 0), retry_after("-5", 0)
    (0, None, None)
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * 1_000, MAX_RETRY_AFTER_MS)
    try:
        at_ms = int(parsedate_to_datetime(text).timestamp() * 1_000)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(at_ms - wall_ms, 0), MAX_RETRY_AFTER_MS)
