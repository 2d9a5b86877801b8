"""docs/bad-input.md names each answer's test: each of them is there, and none of ours is left out."""

import ast
import re
from pathlib import Path

import pytest

from tests.bad_input.test_rows import REFUSED
from tests.bad_input.test_webhook import ANSWERS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bad-input.md"


def names_of(file: Path) -> set[str]:
    """Name the tests of a file without running it."""
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named() -> dict[str, set[str]]:
    """Read by file, or files, which tests the rows below it name."""
    found: dict[str, set[str]] = {}
    files = ""
    for line in PAGE.read_text().splitlines():
        paths = re.findall(r"`(tests/[^`]+\.py)`", line)
        if paths and not line.startswith("|"):
            files = " ".join(paths)
        for name in re.findall(r"`(test_\w+)`", line):
            found.setdefault(files, set()).add(name)
    return found


@pytest.mark.parametrize("files", named())
def test_each_named_test_is_there(files: str) -> None:
    there = set().union(*(names_of(ROOT / file) for file in files.split()))
    assert named()[files] - there == set()


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda file: file.stem)
def test_each_test_of_bad_input_stands_on_the_page(file: Path) -> None:
    everything = set().union(*named().values())
    assert file == Path(__file__) or names_of(file) <= everything, names_of(file) - everything


@pytest.mark.parametrize("case", [*dict.fromkeys(case for cases in REFUSED.values() for case in cases), *ANSWERS])
def test_each_case_stands_on_the_page(case: str) -> None:
    cells = {
        cell.strip() for line in PAGE.read_text().splitlines() for part in line.split("|") for cell in part.split(";")
    }
    assert case in cells
