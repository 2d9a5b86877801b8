"""A file: one line of JSON for each message, on the disk before it counts as delivered."""

import asyncio
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from config.reader import shown
from streams.runtime.channels.channel import Answer, ChannelSettings, Objection, content
from streams.runtime.lines import json_line
from streams.stages.notify import Attempt

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class FileSettings(ChannelSettings, frozen=True, kw_only=True):
    """Where the files are; an address is the name of a file in `folder`."""

    folder: Annotated[str, Meta(min_length=1)]

    @classmethod
    def objections(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Objection]:
        """Refuse what no system takes for a path."""
        del environ
        folder = raw.get("folder")
        if isinstance(folder, str) and "\0" in folder:
            yield Objection("folder", "a path", shown(folder), 'write for instance folder = "/var/spool/tocsin"')

    @classmethod
    def nowhere(cls, raw: Mapping[str, object], address: str) -> Objection | None:
        """Refuse what is no name of a file."""
        del raw
        if _NAME.fullmatch(address):
            return None
        expected = "the name of a file: letters, digits, dots, dashes and underscores, at most 100"
        return Objection(
            "address", expected, shown(address), "write one without a path; the folder is channels.file.folder"
        )


class FileChannel:
    """Appends each message as one line and waits until the disk has it."""

    def __init__(self, settings: FileSettings) -> None:
        self._folder = Path(settings.folder)

    @classmethod
    def of(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> "FileChannel":
        """Make it from its settings."""
        del environ
        return cls(FileSettings.of(raw))

    async def send(self, attempt: Attempt, wall_ms: int) -> Answer:
        """Append one line."""
        del wall_ms
        name = attempt.notification.address
        if not _NAME.fullmatch(name):
            return Answer(answer_class="permanent", reason="no_file_name")
        line = json_line(content(attempt)).encode() + b"\n"
        try:
            await asyncio.to_thread(self._append, self._folder / name, line)
        except OSError as error:
            return Answer(answer_class="retry", reason=f"os_error_{error.errno}")
        return Answer(answer_class="ok", reason="sent")

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        """Append in one write, so that lines of several writers stay whole; what a full disk cut off gets its end first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        try:
            fcntl.flock(
                descriptor, fcntl.LOCK_EX
            )  # until it is closed: what another writer has half written is no cut line
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(descriptor, line)
            if written != len(line):
                raise OSError(28, "the disk took a part of the line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Nothing is held."""
