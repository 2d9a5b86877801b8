"""How does a worker log? JSON on standard output, one line a decision.

A message in the manner `incident.opened model=fraud reason=accuracy_below_sla` becomes an event with its fields; any
other stays a text. What a foreign library says goes the same way.
"""

import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from streams.runtime.lines import json_line
from streams.runtime.terminal import complain

_FIELD = r" ([a-z_]+)=(\[[^\]]*\]|[^ \[][^ ]*|)"
_DECISION = re.compile(rf"([a-z_]+(?:\.[a-z_]+)+)((?:{_FIELD})*?)(?: error=(.*))?", re.DOTALL)
FOREIGN = ("faust", "aiokafka", "mode", "httpx", "httpcore", "asyncio", "streams")
"""Libraries that tell much, URLs and headers too: of them only warnings and worse are written. Under `streams` mode tells of its services that
are classes of ours; what we tell ourselves is under `tocsin`."""
CLIENTS = ("tocsin.kafka", "aiokafka")
"""Clients of the brokers, which say the same at each try while those are away."""
REPEAT_EVERY_S = 30.0
"""How often one client's complaint of one kind is written."""
MOST_KINDS = 1_000
"""Kinds of complaints that are remembered at once."""
MAX_TEXT = 2_000
"""Characters of one text in a log line."""
MAX_FRAMES = 20


class JsonLines(logging.Formatter):
    """One record, one line of JSON: when, how bad, from whom, what, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, without its end."""
        text = record.getMessage()
        decision: tuple[str, Mapping[str, object]] | None = getattr(record, "decision", None)
        line: dict[str, object] = {
            "at": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "from": record.name,
            **(parsed(text) if decision is None else named(*decision)),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
            line["error"] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json_line(line, str)


def parsed(text: str) -> dict[str, object]:
    """Take a line in our manner apart.

    >>> parsed("incident.opened model=fraud severity=2")
    {'event': 'incident.opened', 'model': 'fraud', 'severity': '2'}
    >>> parsed("host.took stage=triage partitions=[0, 1]")
    {'event': 'host.took', 'stage': 'triage', 'partitions': '[0, 1]'}
    >>> parsed("record.refused offset=7 error=output.score: expected a number, got null")
    {'event': 'record.refused', 'offset': '7', 'error': 'output.score: expected a number, got null'}
    >>> parsed("Connection closed")
    {'event': 'log', 'text': 'Connection closed'}
    """
    found = _DECISION.fullmatch(text)
    if found is None:
        return {"event": "log", "text": text[:MAX_TEXT]}
    event, fields, error = found[1], found[2], found[5]
    line = named(event, dict(re.findall(_FIELD, fields)))
    return line if error is None else {**line, "error": error[:MAX_TEXT]}


def named(event: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Lay an event's fields beside those that each line has.

    >>> named("act.refused", {"reason": "stale_seq", "from": "pager"})
    {'event': 'act.refused', 'reason': 'stale_seq', 'from_': 'pager'}
    """
    clash = {"at", "level", "from", "event", "frames"}
    return {"event": event, **{f"{name}_" if name in clash else name: value for name, value in fields.items()}}


def tell(logger: logging.Logger, event: str, fields: Mapping[str, object], level: int = logging.INFO) -> None:
    """Log a decision; its fields stay what they are, whatever text is in them."""
    if logger.isEnabledFor(level):
        text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
        logger.log(level, "%s", text, extra={"decision": (event, fields)})


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; that it takes no more is said once, and the worker goes on."""

    _is_broken = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the library's name
        """Learn of a failed write while it is handled."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_broken:
            self._is_broken = True
            with suppress(OSError):
                complain(
                    f"tocsin: the log cannot be written ({error.strerror or error}); the worker goes on without it"
                )


class Seldom(logging.Filter):
    """Lets the first of many equal complaints pass, and then one in a while, with how many there were."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._kinds: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        # librdkafka gives what, who and the text; the others a form and what is filled in
        args = record.args[:2] if isinstance(record.args, tuple) and len(record.args) == 3 else ()  # noqa: PLR2004
        kind, now_s = (record.name, record.levelno, record.msg, args), self._now_s()
        if len(self._kinds) >= MOST_KINDS:
            self._kinds.clear()
        written_s, held = self._kinds.get(kind, (-REPEAT_EVERY_S, 0))
        if now_s - written_s < REPEAT_EVERY_S:
            self._kinds[kind] = written_s, held + 1
            return False
        self._kinds[kind] = now_s, 0
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} more of this kind)", None
        return True


def begin(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream`, standard output where none is given; a second call replaces the first.

    What nobody catches, in whichever thread, becomes such a line too.
    """
    handler = Lines(sys.stdout if stream is None else stream)
    handler.setFormatter(JsonLines())
    seldom = Seldom()
    handler.addFilter(lambda record: not record.name.startswith(CLIENTS) or seldom.filter(record))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in FOREIGN:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)  # noqa: FBT003 -- the library's own signature
    sys.excepthook, threading.excepthook = _say_main, _say_thread


def _say_main(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Say what nobody caught as all else is said."""
    logging.getLogger("tocsin").critical("error.uncaught", exc_info=(kind, error, at))


def _say_thread(end: threading.ExceptHookArgs) -> None:
    if end.exc_value is not None and not isinstance(end.exc_value, SystemExit):
        name = "" if end.thread is None else end.thread.name
        fields = {"thread": name}
        logging.getLogger("tocsin").critical(
            "error.uncaught",
            exc_info=(end.exc_type, end.exc_value, end.exc_traceback),
            extra={"decision": ("error.uncaught", fields)},
        )
