"""Do the four import names mean this checkout, and does a wheel carry them and nothing else?"""

import ast
import importlib.metadata
import importlib.util
import itertools
import re
import subprocess
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


@pytest.mark.slow
def test_a_wheel_carries_exactly_the_four_packages(tmp_path: Path) -> None:
    build = ["sh", "deploy/uv.sh", "build", "--wheel", "--out-dir", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
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
