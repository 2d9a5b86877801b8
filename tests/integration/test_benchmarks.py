"""Do the benchmarks still run, and come to the results that they always came to? In small; no time is asserted."""

import json
import math
import subprocess
import sys
from collections import ChainMap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import curves, run
from tests.benchmarks.curves import CURVES
from tests.benchmarks.page import BESIDE
from tests.benchmarks.run import MEASUREMENTS, Measurement

pytestmark = pytest.mark.kafka

WAIT_S = 1_200
RESULTS = {
    "single": "b5e7ce4393cc",
    "wide": "7290fa8ae69d",
    "batched": "b5e7ce4393cc",
    "pending": "52dc799004b8",
    "flat": "b5e7ce4393cc",
    "detect_tick": "2e4184f17895",
    "notification": "68afa5018a10",
}
"""Hashes of what the small form gives: the same rows in other messages give the same sums."""
OF_CURVES = {
    "pending": "5cf2f37fb66d",
    "lanes": "202a473171a3",
    "features": "c135e09a74f5",
    "partitions": "3fb083cb89c0",
    "label_delay": "f5a20b512905",
}
"""Hashes of the sums of each curve's last point, in small."""


def written(file: str, kafka: str, out: Path, *words: str) -> dict[str, Any]:
    """Run the small form once, and return what it wrote."""
    command = [sys.executable, file, "--small", "--runs", "1", "--broker", kafka, "--out", str(out), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    wrote: dict[str, Any] = json.loads(out.read_text())
    return wrote


@pytest.fixture(scope="module")
def found(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measure all figures."""
    return written(run.__file__, kafka, tmp_path_factory.mktemp("bench") / "bench.json")


@pytest.fixture(scope="module")
def grown(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measure all curves, beside one another, for they mostly wait."""
    folder = tmp_path_factory.mktemp("curves")

    def one(name: str) -> dict[str, Any]:
        return written(curves.__file__, kafka, folder / f"{name}.json", "--only", name)

    with ThreadPoolExecutor(len(CURVES)) as pool:
        return dict(ChainMap(*pool.map(one, CURVES)))


@pytest.mark.parametrize("one", [one for one in MEASUREMENTS if one.is_small], ids=lambda one: one.name)
def test_a_benchmark_gives_the_results_it_always_gave(found: dict[str, Any], one: Measurement) -> None:
    runs = [found["figures"][name]["runs"] for name in one.figures]
    assert all(len(some) == 1 and math.isfinite(some[0]) for some in runs), (
        "of so few rows no size or time means anything"
    )
    assert found["results"][one.name] == RESULTS[one.name]


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, (what, _) in BESIDE.items()])
def test_what_a_figure_leaves_out_is_measured_beside_it(found: dict[str, Any], name: str, what: str) -> None:
    [value] = found["figures"][name]["beside"][what]["runs"]
    assert math.isfinite(value)


@pytest.mark.parametrize("name", CURVES)
def test_a_point_of_a_curve_gives_the_sums_it_always_gave(grown: dict[str, Any], name: str) -> None:
    [point] = grown[name]["points"]
    assert point["at"] == max(CURVES[name].points)
    assert [len(point[by]) for by in ("rows_per_s", "by_thread_cpu")] == [1, 1]
    assert point["results"] == OF_CURVES[name]
