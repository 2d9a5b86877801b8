"""Does a machine with nothing but Python and pip come to have uv?"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE_PYTHON = Path(sys.base_prefix) / "bin" / "python3"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a folder with our script in `deploy/`, and in `bin/` the only commands that its PATH will name."""
    for folder in ("deploy", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "deploy" / "uv.sh", tmp_path / "deploy")
    for command in ("dirname", "rm"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command) or "")
    return tmp_path


def install(machine: Path, command: str, script: str) -> None:
    file = machine / "bin" / command
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def uv(machine: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PYTHON"))}
    environment["PATH"] = str(machine / "bin")
    command = ["/bin/sh", str(machine / "deploy" / "uv.sh"), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd="/").stdout


def test_the_uv_of_the_system_is_taken_as_it_is(machine: Path) -> None:
    install(machine, "uv", 'echo "told: $*"')
    assert uv(machine, "run", "x") == "told: run x\n"
    assert not (machine / "build").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "python3",
    [
        pytest.param('exec "$BASE" "$@"', id="venv"),
        # Debian without python3-venv: `-m venv` fails, and may have begun to write
        pytest.param('[ "$2" != venv ] || { mkdir -p "$3/bin"; exit 1; }; exec "$BASE" "$@"', id="no venv"),
    ],
)
def test_uv_is_brought_once_where_the_system_has_none(machine: Path, python3: str) -> None:
    (machine / "bin" / "mkdir").symlink_to(shutil.which("mkdir") or "")
    install(machine, "python3", python3.replace("$BASE", str(BASE_PYTHON)))
    assert uv(machine, "--version").startswith("uv ")
    install(machine, "python3", "exit 1")
    assert uv(machine, "--version").startswith("uv ")
