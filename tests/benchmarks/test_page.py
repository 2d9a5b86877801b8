"""Does docs/performance.md hold what was measured, all of it, and nothing that is not measured any more?"""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.curves import CURVES
from tests.benchmarks.figures import Figure
from tests.benchmarks.page import (
    BESIDE,
    IN_SHORT,
    PAGE,
    README,
    code_of_curves,
    curve_table,
    draw,
    figures,
    in_short,
    measured_on,
)
from tests.benchmarks.plan import Way
from tests.benchmarks.run import MEASUREMENTS

MACHINE = {
    "processors": 2, "processor": "some", "memory_gib": 8.0, "python": "3.11.7", "confluent_kafka": "2.16.1",
    "numpy": "2.4.6", "compiled": True,
}  # fmt: skip
CURVE = {
    "axis": "lanes",
    "points": [
        {"at": at, "rows_per_s": [900_000.0 - at, 1_000_000.0 - at, 1_200_000.0], "by_thread_cpu": [1_500_000.0] * 3}
        for at in (10, 100)
    ],
}


def test_the_page_has_every_figure_that_is_measured_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+)` \| \*\*", PAGE.read_text(), re.MULTILINE))
    assert named == {name for one in MEASUREMENTS for name in one.figures}


def test_the_readme_says_the_same_as_the_page() -> None:
    page, readme = PAGE.read_text(), README.read_text()
    of_page = dict(re.findall(r"^\| `(\w+)` \| \*\*([\d.,]+)", page, re.MULTILINE))
    names = [name for some in IN_SHORT.values() for name in some]
    speed = readme.partition("<!-- speed -->")[2].partition("<!-- end -->")[0]
    assert re.findall(r"\*\*([\d.,]+)\*\*", speed) == [of_page[name] for name in names]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\*\*.*)", page, re.MULTILINE))
    left_out = {
        (number, words)
        for name, (what, words) in BESIDE.items()
        for number in re.findall(rf" {what.removesuffix('_ms').replace('_', ' ')} ([\d.,]*\d)", rows[name])
    }
    assert set(re.findall(r"\(([\d.,]+) ([^)]+)\)", speed)) == left_out
    assert "](docs/performance/pending.svg)" in readme


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_is_drawn_and_told_in_figures(name: str) -> None:
    page = PAGE.read_text()
    assert (PAGE.with_suffix("") / f"{name}.svg").exists()
    assert f"]({PAGE.stem}/{name}.svg)" in page
    assert re.search(rf"<!-- {name} -->\n\| {re.escape(CURVES[name].axis)} \|(.*\n)+?<!-- end -->", page)


def test_a_figure_stands_with_its_spread_and_says_that_it_missed() -> None:
    figure = Figure(
        name="join_wide_share",
        runs=[0.4, 0.5, 0.45],
        unit="",
        target=("≥", 0.5),
        beside={"by_thread_cpu": [0.6, 0.7, 0.65]},
    )
    found = {figure.name: {**figure.record(), "machine": MACHINE, "at": "2026-11-30T01:02:03Z", "load_before": 0.31}}
    assert figures(found).splitlines()[-1] == (
        "| `join_wide_share` | **0.45** | 0.4 to 0.5 | ≥ 0.5, **missed** | by thread cpu 0.65 |"
    )
    said = measured_on(found)
    assert said.startswith("Measured on 2026-11-30: 2 processors (some), 8.0 GiB, Python 3.11.7")
    assert said.endswith("the compiled part. Load when a measurement began: 0.3 to 0.3.")


def test_what_a_figure_leaves_out_stands_beside_it_where_it_was_measured() -> None:
    figure = Figure(
        name="detect_tick_10k_lanes_ms", runs=[72.6], unit="ms", target=("≤", 100.0),
        beside={"by_cpu": [72.5], "with_a_snapshot_ms": [240.3]},
    )  # fmt: skip
    found = {figure.name: figure.record()}
    assert figures(found).splitlines()[-1] == (
        "| `detect_tick_10k_lanes_ms` | **72.6 ms** | one run | ≤ 100 | by cpu 72.5, with a snapshot 240 ms |"
    )
    assert "| **72.6** ms (240 ms with a snapshot) | ≤ 100 |" in in_short(found)
    del found[figure.name]["beside"]["with_a_snapshot_ms"]
    assert "| **72.6** ms | ≤ 100 |" in in_short(found)


def test_the_page_says_of_which_code_it_is_where_that_is_known() -> None:
    def machine(commit: str) -> dict[str, Any]:
        return {**MACHINE, "commit": commit}

    commits = {"b": "2222222", "a": "1111111-dirty", "c": "", "d": "2222222"}
    found = {
        name: {"machine": machine(commit), "at": f"2026-11-3{day}", "load_before": 0.0}
        for day, (name, commit) in zip((1, 0, 0, 1), commits.items(), strict=True)
    }
    assert "the compiled part. Code of `1111111` with changes, `2222222`. Load" in measured_on(found)
    same = {name: {"machine": machine("3333333")} for name in ("lanes", "label_delay")}
    assert code_of_curves(same) == "Code of `3333333`."
    anew = {**same, "lanes": {"machine": machine("4444444")}}
    assert code_of_curves(anew) == "Code of `4444444` (lanes), `3333333` (label delay)."
    assert code_of_curves({"lanes": {"machine": machine("")}}) == ""


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    once = {**CURVE, "points": [{"at": 10, "rows_per_s": [900_000.0], "by_thread_cpu": [1_500_000.0]}]}
    assert curve_table(once).splitlines()[-1] == "| 10 | 900,000 | one run | 1,500,000 |"
    pytest.importorskip("matplotlib", reason="no matplotlib: `make setup` brings it")
    for name, curve in {"once": once, "often": CURVE}.items():
        draw("lanes", curve, tmp_path / f"{name}.svg")
    bars = "LineCollection"
    assert bars in (tmp_path / "often.svg").read_text()
    assert bars not in (tmp_path / "once.svg").read_text()


def test_a_curve_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib: `make setup` brings it")
    for name in ("one", "two"):
        draw("lanes", CURVE, tmp_path / f"{name}.svg")
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert all(text in drawn for text in ("by the wall", "by thread CPU", "lanes", ">100<"))
    assert curve_table(CURVE).splitlines()[-1] == "| 100 | 999,900 | 899,900 to 1,200,000 | 1,500,000 |"


def test_processes_are_not_loaded_to_the_brim() -> None:
    way = Way(name="one row a message", rate=500_000.0, output_bytes=214, label_bytes=94)
    assert (way.processes, way.partitions) == (4, 16)
    assert round(way.in_bytes / 1e6) == 159
