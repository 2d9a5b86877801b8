"""Of which code is this a measurement?"""

import subprocess
from pathlib import Path


def commit() -> str:
    """Name the commit, `-dirty` where files differ from it; empty where nobody knows."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],  # noqa: S607 - whichever git there is, or none
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return asked.stdout.strip()
