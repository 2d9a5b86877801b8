"""How does a worker log? JSON on standard output, one line a decision.

A message in the manner `incident.opened model=fraud reason=accuracy_below_sla` becomes an event with its fields; any
other stays a text. What a foreign library says goes the same way.
"""

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from streams.runtime.lines import json_line

_FIELD = r" ([a-z_]+)=(\[[^\]]*\]|[^ \[][^ ]*|)"
_DECISION = re.compile(rf"([a-z_]+(?:\.[a-z_]+)+)((?:{_FIELD})*?)(?: error=(.*))?", re.DOTALL)
FOREIGN = ("faust", "aiokafka", "mode", "httpx", "httpcore", "asyncio")
"""Libraries that tell much, URLs and headers too: of them only warnings and worse are written."""
MAX_TEXT = 2_000
"""Characters of one text in a log line."""
MAX_FRAMES = 20


class JsonLines(logging.Formatter):
    """One record, one line of JSON: when, how bad, from whom, what, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, without its end."""
        text = record.getMessage()
        line: dict[str, object] = {
            "at": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "from": record.name,
            **parsed(text),
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
    named: dict[str, object] = dict(re.findall(_FIELD, fields))
    clash = {"at", "level", "from", "event", "error", "frames"}
    line = {"event": event, **{f"{name}_" if name in clash else name: value for name, value in named.items()}}
    return line if error is None else {**line, "error": error[:MAX_TEXT]}


def begin(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream`, standard output where none is given; a second call replaces the first."""
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in FOREIGN:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)  # noqa: FBT003 -- the library's own signature
