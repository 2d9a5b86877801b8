"""Do the benchmarks still run, and come to the results that they always came to? In small; no time is asserted."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from tests.benchmarks import run
from tests.benchmarks.run import MEASUREMENTS, Measurement

pytestmark = pytest.mark.kafka

WAIT_S = 1_200
RESULTS = {
    "single": "19a6ed1d4904",
    "wide": "04192634646a",
    "batched": "19a6ed1d4904",
    "pending": "e49e5fe749a0",
    "flat": "19a6ed1d4904",
    "detect_tick": "2e4184f17895",
    "notification": "68afa5018a10",
}
"""Hashes of what the small form gives: the same rows in other messages give the same sums."""


@pytest.fixture(scope="module")
def found(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run all of them once, and return what they wrote into their file."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [sys.executable, run.__file__, "--small", "--runs", "1", "--broker", kafka, "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    written: dict[str, Any] = json.loads(out.read_text())
    return written


@pytest.mark.parametrize("one", [one for one in MEASUREMENTS if one.is_small], ids=lambda one: one.name)
def test_a_benchmark_gives_the_results_it_always_gave(found: dict[str, Any], one: Measurement) -> None:
    runs = [found["figures"][name]["runs"] for name in one.figures]
    assert all(len(some) == 1 and math.isfinite(some[0]) for some in runs), (
        "of so few rows no size or time means anything"
    )
    assert found["results"][one.name] == RESULTS[one.name]
