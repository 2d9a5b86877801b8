"""The log: one line of JSON on standard output for each message."""

import sys
from collections.abc import Mapping
from typing import TextIO

from streams.runtime.channels.channel import Answer, ChannelSettings, content
from streams.runtime.lines import json_line
from streams.stages.notify import Attempt


class LogSettings(ChannelSettings, frozen=True, kw_only=True):
    """There is nothing to set; the address is `stdout`."""


class LogChannel:
    """Writes each message as one line."""

    def __init__(self, settings: LogSettings, stream: TextIO | None = None) -> None:
        del settings
        self._stream = stream

    @classmethod
    def of(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> "LogChannel":
        """Make it from its settings."""
        del environ
        return cls(LogSettings.of(raw))

    async def send(self, attempt: Attempt, wall_ms: int) -> Answer:
        """Write one line; the address is not looked at, for there is one standard output."""
        del wall_ms
        line = json_line({"event": "notification", **content(attempt)})
        stream = sys.stdout if self._stream is None else self._stream
        try:
            stream.write(line + "\n")
            stream.flush()
        except OSError as error:
            return Answer(answer_class="retry", reason=f"os_error_{error.errno}")
        return Answer(answer_class="ok", reason="sent")

    async def close(self) -> None:
        """Nothing is held."""
