"""Does the image hold what it must and no more? Its build is done here step by step, in a folder instead of a container."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUILT = "/opt/tocsin"
Step = tuple[str, str]


def stages() -> list[list[Step]]:
    """Read the Dockerfile: for each stage its steps, instruction and what follows it."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    steps = [tuple(line.split(" ", 1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]
    found: list[list[Step]] = []
    for instruction, rest in steps:
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, rest.strip()))
    return found


def told(stage: list[Step], instruction: str) -> list[str]:
    return [rest for name, rest in stage if name == instruction]


def test_the_image_runs_as_nobody_in_particular_hears_signals_and_has_nothing_to_build_with() -> None:
    build, image = stages()
    assert told(build, "FROM") == ["python:3.12-slim AS build"]
    assert told(image, "FROM") == ["python:3.12-slim"]
    assert told(image, "USER") == ["10001:10001"]
    assert json.loads(told(image, "ENTRYPOINT")[0]) == ["tocsin"], "no shell stands between a signal and the worker"
    assert told(image, "VOLUME") == told(image, "WORKDIR") == ["/var/lib/tocsin"]
    assert told(image, "COPY") == [f"--from=build {BUILT} {BUILT}"]
    (run,) = told(image, "RUN")
    assert "install -d -o tocsin -g tocsin /var/lib/tocsin" in run
    assert not re.search(r"apt|uv |pip install", run)
    assert "PYTHONSAFEPATH=1" in told(image, "ENV")[0]


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    copied = {name for rest in told(stages()[0], "COPY") for name in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert "*" in lines
    assert all((ROOT / name).exists() for name in copied)


def closure() -> set[str]:
    """Return what Tocsin needs at run time, by the lock file, for any system."""
    with (ROOT / "uv.lock").open("rb") as lock:
        packages = {one["name"]: one for one in tomllib.load(lock)["package"]}
    found: set[str] = set()
    waiting: list[dict[str, Any]] = [{"name": "tocsin"}]
    while waiting:
        wanted = waiting.pop()
        package = packages[wanted["name"]]
        for extra in wanted.get("extra", []):
            waiting += package["optional-dependencies"][extra]
        if wanted["name"] not in found:
            found.add(wanted["name"])
            waiting += package.get("dependencies", [])
    return found


@pytest.mark.slow
def test_the_build_leaves_the_wheel_and_what_it_needs_and_the_command_runs(tmp_path: Path) -> None:
    folder, work = tmp_path / "opt", tmp_path / "build"
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(f'#!/bin/sh\nPATH="{os.environ["PATH"]}" exec sh {ROOT / "deploy" / "uv.sh"} "$@"\n')
    uv.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment["UV_PYTHON"] = sys.executable  # here, not in an image, there is more than one

    for instruction, rest in stages()[0]:
        here = rest.replace(BUILT, str(folder))
        match instruction:
            case "FROM":
                pass
            case "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(here))
                del environment["UV_NO_CACHE"]  # the cache of this machine spares the network
            case "WORKDIR":
                work.mkdir()
            case "COPY":
                for name in here.split()[:-1]:
                    source = ROOT / name
                    (work / name).parent.mkdir(exist_ok=True)
                    (shutil.copytree if source.is_dir() else shutil.copy)(source, work / name)
            case "RUN" if rest.startswith("apt-get"):
                assert rest.endswith("gcc libc6-dev"), "what deploy/compile_plain.py looks for"
            case "RUN" if rest.startswith("pip install"):
                assert rest == "pip install --no-cache-dir 'uv>=0.9,<1'", "what deploy/uv.sh brings"
            case "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-ec", here], check=False, capture_output=True, text=True, cwd=work, env=environment
                )
                assert done.returncode == 0, done.stderr
            case _:
                pytest.fail(f"{instruction} is not known here")

    empty = tmp_path / "empty"
    empty.mkdir()
    plain = {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"}

    def call(*command: str) -> str:
        done = subprocess.run(
            [folder / "bin" / command[0], *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            cwd=empty,
            env=plain,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("tocsin", "--version").startswith("tocsin ")
    assert call("tocsin", "config", "defaults")
    asked = "import importlib.metadata as m; print(*(one.name for one in m.distributions()))"
    installed = {re.sub(r"[-_.]+", "-", name).lower() for name in call("python", "-c", asked).split()}
    elsewhere = {"async-timeout", "colorama", "exceptiongroup"}  # for other systems, or older Pythons
    assert installed <= closure()
    assert closure() - installed <= elsewhere
    where = "import streams.runtime.wiring as w, streams.runtime.demo.run as r; print(w.__file__, len(r.census(2016)))"
    file, people = call("python", "-c", where).split()
    assert Path(file).is_relative_to(folder)
    assert int(people) > 0, "Parquet can be read"
    assert not list(folder.rglob("numpy/**/tests"))
    has_compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert len(list(folder.rglob("_plain.so"))) == has_compiler
