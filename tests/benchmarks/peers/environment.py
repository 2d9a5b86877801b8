"""With which Python does a peer run? With one of its own, in `build/peers`, made from its pinned list when first asked for."""

import fcntl
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from tests.benchmarks.deployment import ROOT

HERE = Path(__file__).parent
UV = ("sh", str(ROOT / "deploy" / "uv.sh"))
MAKE_WAIT_S = 600
OURS = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
"""Variables that would lead a peer into our environment."""


class NoEnvironmentError(Exception):
    """The packages of a peer could not be brought: most often there is no network."""


def python(peer: str) -> Path:
    """Return the Python that has a peer's packages.

    Raises
    ------
    NoEnvironmentError
        It is not there, and could not be made.
    """
    listed = HERE / f"on_{peer}" / "requirements.txt"
    folder = ROOT / "build" / "peers" / peer
    command, mark = folder / "bin" / "python", folder / "made-of"
    made_of = sha256(listed.read_bytes() + sys.version.encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests and a benchmark may both ask
        if not (mark.exists() and mark.read_text() == made_of):
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--quiet", "--python", sys.executable, str(folder))
            _uv("pip", "sync", "--quiet", "--require-hashes", "--python", str(command), str(listed))
            mark.write_text(made_of)
    return command


def environ() -> dict[str, str]:
    """Return the variables of a process that is not ours."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def _uv(*words: str) -> None:
    done = subprocess.run(
        [*UV, *words], check=False, capture_output=True, text=True, timeout=MAKE_WAIT_S, env=environ(), cwd=ROOT
    )
    if done.returncode != 0:
        problem = f"`uv {' '.join(words[:2])}` ended with status {done.returncode}:\n{done.stderr[-2000:]}"
        raise NoEnvironmentError(f"packages of peers are brought once, and need the network for it: {problem}")


def versions(peer: str) -> dict[str, str]:
    """Return which versions a peer's job stands on, as its list pins them."""
    lines = (HERE / f"on_{peer}" / "requirements.in").read_text().split()
    names = {line.partition("=")[0].partition(">")[0].partition("[")[0] for line in lines}
    listed = (HERE / f"on_{peer}" / "requirements.txt").read_text().splitlines()
    pinned = (line.split()[0].split("==") for line in listed if "==" in line)
    return {name: version for name, version in pinned if name in names}
