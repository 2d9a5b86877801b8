"""On real people and a real classifier: a healthy year pages nobody, and harm is heard within minutes.

Each promise prints what it measured (`pytest -s`).
"""

from functools import cache

import pytest

from detectors.budget import Budget
from detectors.fitting import fit_baseline
from detectors.history import counted
from detectors.statistics import needed
from detectors.table import NEEDS
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.finding import Finding
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.runtime.demo.census import CATEGORIES, SEGMENTS, census
from streams.runtime.demo.generator import MINUTE_MS, Fault, stream
from streams.stages.detect import TICKS_AT_ONCE, Detect

pytestmark = pytest.mark.slow

TICK_MS = 10_000
BEGIN_MS = 1_768_208_400_000
FAULT_MINUTE = 60
MODEL = Model(
    name="employment",
    kind="classification",
    threshold=0.5,
    sla_accuracy=0.8,
    segments=SEGMENTS,
    features={"AGEP": "numeric", **dict.fromkeys(CATEGORIES, "categorical")},
    required=("AGEP",),
    label_wait_ms=14 * 86_400_000,
    tier="standard",
)
BUDGET = Budget(
    pages_per_week=1,
    tickets_per_week=20,
    tick_ms=TICK_MS,
    tiers={"employment": "standard"},
    max_lanes_per_model=500,
    max_rollups_per_model=16,
)


@cache
def baseline() -> Baseline:
    healthy = stream(census(2015), name="2015", begins_at_ms=BEGIN_MS, seed=1).history()
    return fit_baseline(healthy, MODEL, budget=BUDGET, version=1, valid_from_ms=BEGIN_MS, decided_at_ms=BEGIN_MS)


def found_in(seed: int, fault: Fault, minutes: int) -> list[Finding]:
    """Run detect over 2016, from a start with no labels pending."""
    run = stream(
        census(2016),
        name="2016",
        begins_at_ms=BEGIN_MS,
        seed=seed,
        fault=fault,
        fault_at_ms=None if fault == "none" else BEGIN_MS + FAULT_MINUTE * MINUTE_MS,
    )
    counts = counted(run.history(), baseline().binning, needed(NEEDS))
    detect = Detect(
        rows={},
        partition=0,
        partition_of=lambda _: 0,
        tenant="",
        environment="",
        models={"employment": MODEL},
        budget=BUDGET,
        ticks_at_once=TICKS_AT_ONCE,
    )
    detect.receive(baseline().split())
    findings: list[Finding] = []
    for tick in counts.each_tick():
        if tick.start_ms >= min(BEGIN_MS + minutes * MINUTE_MS, counts.reference_ms[1]):
            break
        stats = WindowStats(
            model="employment",
            tick_start_ms=tick.start_ms,
            tick_end_ms=tick.end_ms,
            source_partition=0,
            source_partitions=1,
            part=0,
            parts=1,
            baseline_version=1,
            offsets={},
            lanes=tuple(baseline().lanes[lane] for lane in tick.lanes),
            arrays=tick.arrays,
        )
        mark = Closed(source_partition=0, source_partitions=1, through_ms=tick.end_ms, cause="records")
        findings += [one for one in detect.receive([stats, mark]) if isinstance(one, Finding)]
    return findings


def minutes_after_fault(findings: list[Finding]) -> dict[tuple[str, str], float]:
    """Return when each detector first rang, by ledger and name, in minutes after the fault began."""
    first: dict[tuple[str, str], float] = {}
    for one in findings:
        first.setdefault((one.ledger, one.detector), (one.alarm_tick_ms - BEGIN_MS) / MINUTE_MS - FAULT_MINUTE)
    return first


def test_every_detector_is_armed_by_2015() -> None:
    print(baseline().tolerance, {name: len(lanes) for name, lanes in baseline().armed.items()})  # noqa: T201
    assert all("*" in lanes for lanes in baseline().armed.values())
    assert set(baseline().tolerance.values()) == {0.0}


@pytest.mark.parametrize("seed", [2, 3])
def test_2016_pages_nobody(seed: int) -> None:
    assert [one for one in found_in(seed, "none", 10_000) if one.ledger == "page"] == []


@pytest.mark.parametrize("seed", [2, 3])
def test_months_instead_of_years_page_within_a_minute(seed: int) -> None:
    first = minutes_after_fault(found_in(seed, "unit", FAULT_MINUTE + 60))
    print(first)  # noqa: T201
    assert min(first.values()) > 0
    assert first["page", "feature_integrity"] < 1
    assert first["page", "error_given_score"] < 30


@pytest.mark.parametrize("seed", [2, 3])
def test_a_silent_rollback_is_told_within_minutes_and_pages_within_the_hour(seed: int) -> None:
    first = minutes_after_fault(found_in(seed, "rollback", FAULT_MINUTE + 75))
    print(first)  # noqa: T201
    assert min(first.values()) > 0
    assert first["ticket", "confidence_drop"] < 5
    assert min(at for (ledger, _), at in first.items() if ledger == "page") < 60
