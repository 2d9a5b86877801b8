"""docs/faults.md names the tests of each fault: each row has some, and each of them is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]


@cache
def names_of(file: str) -> frozenset[str]:
    """Name the tests of a file without running it."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_fault_has_tests_that_are_there(row: str) -> None:
    named = re.findall(r"`(tests/[^`]+\.py)::(test_\w+)`", row.rpartition("|")[0].rpartition("|")[2])
    assert named, "a fault that nothing tests"
    assert [name for file, name in named if name not in names_of(file)] == []
