"""How is a file read that an operator names? Within bounds: so many bytes, and no pipe into which nobody writes."""

import errno
import os
from pathlib import Path
from select import select

SILENT_WAIT_S = 5.0
"""How long a pipe may say nothing: `--config <(decrypt settings)` writes within moments."""


def check(file: Path) -> None:
    """Raise `OSError`, or `ValueError` for a path that is none, where a file cannot be read."""
    place = _opened(file)
    try:
        os.read(place, 0)  # which a folder refuses
    finally:
        os.close(place)


def read(file: Path, most_bytes: int) -> bytes:
    """Read a file, and no more than one byte beyond the most; errors as of `check`."""
    place = _opened(file)
    try:
        text = b""
        while len(text) <= most_bytes:
            ready, _, _ = select([place], [], [], SILENT_WAIT_S)
            if not ready:
                raise TimeoutError(errno.ETIMEDOUT, f"a pipe into which nobody wrote for {SILENT_WAIT_S:g} s")
            more = os.read(place, most_bytes + 1 - len(text))
            if not more:
                break
            text += more
        return text
    finally:
        os.close(place)


def _opened(file: Path) -> int:
    """Open without waiting for whoever writes into a pipe."""
    return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
