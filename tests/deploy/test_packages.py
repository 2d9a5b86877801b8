"""Do the four import names mean this checkout, and does a wheel carry them, and nothing else, and read rows?"""

import ast
import importlib.metadata
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"schemas", "detectors", "config", "streams"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_an_import_name_resolves_into_this_checkout(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    assert [Path(folder) for folder in spec.submodule_search_locations] == [ROOT / name]


def test_the_command_does_not_take_modules_of_the_folder_it_is_called_in(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    command = [f"{sysconfig.get_path('scripts')}/tocsin", "--version"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert answer.stdout.startswith("tocsin ")


def test_no_folder_below_tests_is_a_package() -> None:
    # `tests/config/__init__.py` would be imported as `config`
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_what_is_installed_with_the_packages_is_imported_by_them() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9-]", one)[0] for one in needed}
    trees = (ast.walk(ast.parse(file.read_text())) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    imported: set[str] = set()
    for node in itertools.chain.from_iterable(trees):
        if isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    whose = importlib.metadata.packages_distributions()
    assert names <= {name.replace("_", "-") for one in imported for name in whose.get(one.split(".")[0], ())}


UV = ("sh", str(ROOT / "deploy" / "uv.sh"))
READS = """
from streams.runtime import fetched, plain
from streams.runtime.decode import Messages, OutputEdge

row = b'{"prediction_id":"p1","model":"fraud","made_at_ms":5,"prediction":"1","score":0.75}'
edge = OutputEdge({}, 4)
edge._row = edge._table = None  # whoever is left to read it is compiled
some = Messages(partition=0, start=100, end=101, offset=[100], broker_ms=[5_000], key=[b"p1"], value=[row])
batch = edge.decode(some).batch
print(plain.LIBRARY, fetched._library() is not None, batch.made_at_ms.tolist(), batch.score.tolist())
"""
"""What is run with an installed wheel: where its compiled part lies, whether messages come through it, and what it reads."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*UV, "build", "--wheel", "--out-dir", str(folder)], check=True, capture_output=True, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_carries_exactly_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    here = {
        str(file.relative_to(ROOT))
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert here <= set(names)


@pytest.mark.slow
@pytest.mark.program("gcc")
def test_a_wheel_with_a_compiled_part_is_for_any_python_3_and_this_kind_of_machine_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (said,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.stem.endswith(f"-py3-none-{machine}")
    assert f"Tag: py3-none-{machine}" in said.splitlines()
    assert "Root-Is-Purelib: false" in said.splitlines()


@pytest.mark.slow
@pytest.mark.program("gcc")
def test_the_compiled_part_of_an_installed_wheel_reads_rows(wheel: Path, tmp_path: Path) -> None:
    install = [*UV, "pip", "install", "--offline", "--no-deps", "--python", sys.executable, "--target", str(tmp_path)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    answer = subprocess.run(
        [sys.executable, "-P", "-c", READS],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert answer.stdout == f"{tmp_path}/streams/runtime/_plain.so True [5] [0.75]\n"
