"""What can be run of a page of documentation: its fenced blocks, as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BROKER = "localhost:9092"
"""The address in all examples; a test puts its own there, and changes nothing else."""
LONGEST_S = 60

_PART = re.compile(r"^#+ (?P<heading>[^\n]*)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """One fenced block, and the heading above it."""

    heading: str
    language: str
    text: str

    def run(self, broker: str, folder: Path, path: str = "") -> str:
        """Run it in a folder, with the programs of `path` before all others; return what it said."""
        command = {"python": [sys.executable, "-c"], "sh": ["bash", "-euc"]}[self.language]
        environment: Mapping[str, str] = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
        done = subprocess.run(
            [*command, self.text.replace(BROKER, broker)],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=LONGEST_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def examples(page: str) -> list[Example]:
    """Return the fenced blocks of a page, in order."""
    found, heading = [], ""
    for part in _PART.finditer((DOCS / page).read_text(encoding="utf-8")):
        if part["heading"] is not None:
            heading = part["heading"]
        else:
            found.append(Example(heading, part["language"], part["text"]))
    return found
