"""Do the benchmarks still run, and come to the results that they always came to? In small; no time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import run
from tests.benchmarks.run import MEASUREMENTS

pytestmark = pytest.mark.kafka

WAIT_S = 300
RESULTS = {
    "single": "19a6ed1d4904",
    "wide": "04192634646a",
    "batched": "19a6ed1d4904",
    "pending": "e49e5fe749a0",
    "flat": "19a6ed1d4904",
}
"""Hashes of what the small form gives: the same rows in other messages give the same sums."""


@pytest.mark.parametrize("name", [one.name for one in MEASUREMENTS])
def test_a_benchmark_gives_the_results_it_always_gave(kafka: str, tmp_path: Path, name: str) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, run.__file__, "--small", "--runs", "1", "--only", name, "--broker", kafka, "--out", str(out)],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    [of] = [one for one in MEASUREMENTS if one.name == name]
    assert set(found["figures"]) == set(of.figures)
    assert all(figure["median"] > 0 for figure in found["figures"].values())
    assert {key: value for key, value in RESULTS.items() if key in found["results"]} == found["results"]
