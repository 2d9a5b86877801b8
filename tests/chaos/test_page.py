"""docs/faults.md names the tests of each fault: each row has some, and each of them is there; no fault is left out."""

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


FAULTS = {row.split("|")[1].strip(): row for row in ROWS}
REQUIRED = (
    # processes
    "end between any two steps of any host, in a loop, with a changelog that is compacted meanwhile",
    "`kill -9` of the join with a backlog, three times, into a folder with nothing in it",
    "`kill -9` of each stage with a backlog",
    "SIGTERM with records in hand",
    "SIGSTOP past the session timeout, then SIGCONT",
    "workers that come and go",
    "workers of the join that come and go faster than they can take partitions: 2, 5, 1, 2",
    # brokers
    "killed and back",
    "away for longer than every wait",
    "a leader that moves, a coordinator that changes: errors in answers to produce, fetch, commit, list-offsets, heartbeat",
    "one of three brokers that is killed and comes back",
    "a write that is refused for good",
    "a write that the client has given up, or that a broker takes for a repeat whose place it forgot",
    "slow answers",
    "a producer's queue that is full",
    "retention that took away what was not read",
    "partition counts that differ",
    "producers with another partitioner",
    # state
    "a run on disk that is torn, changed, empty or gone",
    "a disk that is full, in the middle of a run too, or read-only",
    "an empty changelog",
    "a changelog with a torn tail: blocks that no manifest names, an entry without its rows",
    # rows and time
    "duplicates, late, out of order, corrected, withdrawn, before their output, never",
    "corrupt, huge, empty, null, without a key",
    "any split into batches, both forms of a message",
    "one topic silent, both silent, for hours",
    "a clock that jumps by an hour, forward and back",
    "a row from the future",
    "rows without end",
    "workers of an old and of a new version side by side, on the same topics, in the same groups",
    "records of any version that was ever sent",
)
"""What any stream processor must be put through before it is trusted; how, the page says."""


@cache
def names_of(file: str) -> frozenset[str]:
    """Name the tests of a file without running it."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def named(row: str) -> list[tuple[str, str]]:
    """Return file and name of each test of a row."""
    return re.findall(r"`(tests/[^`]+\.py)::(test_\w+)`", row.rpartition("|")[0].rpartition("|")[2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_fault_has_tests_that_are_there(row: str) -> None:
    assert named(row), "a fault that nothing tests"
    assert [name for file, name in named(row) if name not in names_of(file)] == []


@pytest.mark.parametrize("fault", REQUIRED)
def test_each_fault_that_must_be_tested_stands_on_the_page(fault: str) -> None:
    assert fault in FAULTS
    assert [name for file, name in named(FAULTS[fault]) if name in names_of(file)]
