"""Does continuous integration bring the programs that tests need, and say so where it cannot?"""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLING = 'echo "apt-get $*" >> calls; for one in "$@"; do case $one in kcat | docker-compose | gcc) : > "bin/$one"; chmod +x "bin/$one";; esac; done'


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a folder with the script, and in `bin/` the only commands that its PATH will name."""
    for folder in (".ci", "deploy", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "deploy" / "uv.sh").write_text('echo "uv $*" >> calls\n')
    for command in ("dirname", "rm", "env", "chmod", "sh"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command) or "")
    install(tmp_path, "make", 'echo "make $*, Kafka required: $TOCSIN_REQUIRE_KAFKA" >> calls')
    install(tmp_path, "sudo", '[ "$1" = -n ] && shift; exec "$@"')
    (tmp_path / "bin" / "true").symlink_to(shutil.which("true") or "")
    return tmp_path


def install(machine: Path, command: str, script: str) -> None:
    file = machine / "bin" / command
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def run(machine: Path) -> tuple[int, list[str], str]:
    environment = {"PATH": str(machine / "bin")}
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, machine / ".ci" / "run"], check=False, capture_output=True, text=True, cwd="/", env=environment
    )
    calls = machine / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr


TESTED = ["make test, Kafka required: 1", "uv run --frozen python deploy/verdict.py build/junit.xml"]


def test_what_is_missing_is_installed_before_the_tests(machine: Path) -> None:
    install(machine, "apt-get", INSTALLING)
    install(machine, "kcat", "")
    installed = "apt-get install -y -qq --no-install-recommends docker-compose gcc libc6-dev"
    assert run(machine)[:2] == (0, ["apt-get update -qq", installed, *TESTED])
    assert run(machine)[1][2:] == [*TESTED, *TESTED], "the second time it is there"


def test_without_a_way_to_install_it_says_what_is_missing_and_runs_nothing(machine: Path) -> None:
    status, calls, said = run(machine)
    assert (status, calls) == (1, [])
    assert "kcat docker-compose gcc libc6-dev: not here" in said
    assert "apt-get install kcat docker-compose gcc libc6-dev" in said


def test_a_verdict_that_is_not_green_is_not_green(machine: Path) -> None:
    for program in ("kcat", "docker-compose", "gcc"):
        install(machine, program, "")
    (machine / "deploy" / "uv.sh").write_text("exit 1\n")
    assert run(machine)[0] == 1
