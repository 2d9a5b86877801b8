"""An alarm says since when, and the interval holds the truth."""

import numpy as np
import pytest

from detectors.alarm import Floats, step
from detectors.onset import COLUMNS, DEPTH, GROUPS, LEVELS, WIDTH, empty_rings, onset, past, push, sums_since

RATIOS = np.array([1.15, 1.3, 1.5, 1.8, 2.2, 3, 5, 10])


def cell(evidence: float, events: float = 1.0) -> Floats:
    return np.array([[evidence] * GROUPS + [events, events / 2, events / 4]])


@pytest.mark.parametrize("ticks", [1, 7, 8, 48, 49, 63, 64, 500, 3072, 5000])
def test_nothing_within_reach_is_lost_or_counted_twice(ticks: int) -> None:
    rings = empty_rings(1)
    for tick in range(ticks):
        push(rings, tick, cell(0.0, events=tick))
    line = past(rings, ticks, np.array([0]))
    assert line.ends[-1] == ticks
    assert (line.starts[1:] == line.ends[:-1]).all()
    assert line.starts[0] <= max(ticks - (DEPTH - 1) * WIDTH ** (LEVELS - 1), 0)
    for start, end, one in zip(line.starts, line.ends, line.cells[:, 0], strict=True):
        assert one[GROUPS] == sum(range(start, end))
    assert sums_since(line, int(line.starts[0]))[0].tolist() == line.cells[:, 0, GROUPS:].sum(axis=0).tolist()


def test_lanes_are_dated_alone() -> None:
    rings = empty_rings(3)
    for tick in range(100):
        now = np.zeros((3, COLUMNS))
        now[:, :GROUPS] = np.where(tick >= np.array([30, 60, 90]), 1.0, -1.0)[:, None]
        push(rings, tick, now)
    line = past(rings, 100, np.array([2, 0]))
    assert [onset(line, lane, 0).likeliest for lane in (0, 1)] == [90, pytest.approx(30, abs=4)]


def test_a_lane_is_not_dated_back_beyond_its_watch() -> None:
    rings = empty_rings(1)
    for tick in range(100):
        push(rings, tick, cell(1.0))
    found = onset(past(rings, 100, np.array([0])), 0, not_before=80)
    assert (found.likeliest, found.from_tick) == (80, 80)


def test_the_memory_of_a_lane_does_not_grow() -> None:
    assert empty_rings(1).nbytes == 3 * 48 * 6 * 4


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "widest"), [(1.5, 130), (2.0, 45), (4.0, 8)])
def test_the_interval_covers_the_truth(ratio: float, widest: int) -> None:
    lanes, start, allowed = 120, 300, 0.05
    rng, odds = np.random.default_rng(1), allowed / (1 - allowed)
    groups = np.repeat(np.eye(3), [2, 3, 3], axis=0)
    mass, rings = np.zeros((lanes, 8)), empty_rings(lanes)
    covered: list[bool] = []
    widths: list[int] = []
    for tick in range(start + 1500):
        rate = allowed if tick < start else ratio * odds / (1 + ratio * odds)
        errors = rng.binomial(20, rate, lanes)
        loss = 20 * (np.log1p(odds * RATIOS) - np.log1p(odds))
        out = step(
            mass, np.full(lanes, 1e-6), np.full(8, 1 / 8), errors[:, None] * np.log(RATIOS) - loss, groups=groups
        )
        mass = out.mass
        counts = np.stack([np.full(lanes, 20.0), errors, np.ones(lanes)], axis=1)
        push(rings, tick, np.hstack([out.gain, counts]))
        if tick >= start and len(covered) < lanes:
            line = past(rings, tick + 1, out.crossed)
            for lane in range(len(out.crossed)):
                found = onset(line, lane, 0)
                covered.append(found.from_tick <= start < found.to_tick)
                widths.append(found.to_tick - found.from_tick)
    assert np.mean(covered) > 0.88
    assert np.median(widths) < widest
