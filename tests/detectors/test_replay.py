"""To replay a history at one go is to watch it tick by tick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.alarm import Floats, march, step
from detectors.arming import spend_of
from detectors.budget import Budget
from detectors.history import NO_LABEL, CountedHistory, History, counted
from detectors.replay import replay
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from detectors.watch import Watch, WatchState, advance, begin, watch

if TYPE_CHECKING:
    from tests.detectors.conftest import Bench, Ways

Harm = Mapping[str, Callable[..., History]]
FAINTEST = 1e-290
"""Mass below which only its smallness counts: what silence leaves of a lane that speaks."""


@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.1, 30), spend=st.floats(1e-12, 0.5))
def test_a_march_is_its_steps(seed: int, strength: float, spend: float) -> None:
    rng = np.random.default_rng(seed)
    ticks, lanes, weights = 40, 5, np.array([0.2, 0.3, 0.5])
    evidence = rng.normal(-0.1, strength, (ticks, lanes, 3))
    evidence[rng.random(evidence.shape) < 0.02] = -np.inf
    evidence[rng.random((ticks, lanes)) < 0.3] = 0.0
    spends: Floats = spend * rng.integers(0, 3, (ticks, lanes)).astype(np.float64)
    mass = rng.random((lanes, 3)) / 4
    taken = march(mass, spends, weights, evidence)
    for tick in range(ticks):
        one = step(mass, spends[tick], weights, evidence[tick])
        mass = one.mass
        assert np.flatnonzero(taken.rang[tick]).tolist() == one.crossed.tolist()
    assert taken.mass == pytest.approx(mass, rel=1e-9, abs=FAINTEST)


def shadow(bench: Bench, name: str, budget: Budget, severity: float) -> Watch:
    """Watch with every lane in shadow, at a multiple of its share."""
    fitted = DETECTORS[name].fit(bench.reference, 0.0)
    assert fitted is not None
    lanes = bench.baseline.lanes
    one = watch(DETECTORS[name], fitted, lanes, np.zeros(len(lanes), np.bool_), spend_of(budget, "m", DETECTORS[name]))
    return replace(one, spend=one.spend * severity)


def stepped(one: Watch, counts: CountedHistory) -> WatchState:
    """Watch tick by tick."""
    state = begin(one)
    for number, tick in enumerate(counts.each_tick()):
        if number < counts.output_ticks or not one.detector.absence_counts:
            state, _ = advance(one, state, tick, lump=0.0, disturbed=False)
    return state


def harmed(ways: Ways, harm: Harm, seed: int) -> History:
    """Ninety thin minutes in which everything goes wrong for a while, outputs stop, and a third is never labelled."""
    history = ways.stream(seed, 90, rate=20)
    history = harm["answers"](history, ways.between(history, 20, 40), 1.0)
    history = harm["ages"](history, ways.between(history, 30, 50), None)
    history = replace(history, confidence=np.where(ways.between(history, 60, 90), 0.51, history.confidence))
    never = np.random.default_rng(seed).random(len(history.made_at_ms)) < 0.3
    history = harm["labels"](history, np.where(never, NO_LABEL, history.labelled_at_ms))
    pause = np.where(ways.between(history, 50, 90), 25 * 60_000, 0)
    labelled = np.where(history.labelled, history.labelled_at_ms + pause, NO_LABEL)
    return replace(history, made_at_ms=history.made_at_ms + pause, labelled_at_ms=labelled)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_replay_is_what_was_watched(bench: Bench, ways: Ways, harm: Harm, name: str, seed: int) -> None:
    one = shadow(bench, name, ways.budget, severity=1e3)
    counts = counted(harmed(ways, harm, seed), bench.baseline.binning, needed(NEEDS))
    state, replayed = stepped(one, counts), replay(one, counts, 0)
    assert replayed.alarms.tolist() == state.shadow_alarms.tolist()
    assert replayed.alarms.any()
    spent = replayed.owed[:, None] * one.weights, state.owed[:, None] * one.weights
    assert replayed.mass + spent[0] == pytest.approx(state.mass + spent[1], rel=1e-9, abs=FAINTEST)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector_that_watches_nothing_is_replayed_too(bench: Bench, ways: Ways, name: str) -> None:
    one = shadow(bench, name, ways.budget, severity=1.0)
    one = replace(one, judged=one.judged[:0])
    counts = counted(ways.stream(5, 30), bench.baseline.binning, needed(NEEDS))
    assert not replay(one, counts, 0).mass.any()


def test_only_what_came_last_is_replayed(bench: Bench, ways: Ways, harm: Harm) -> None:
    history = ways.stream(3, 60)
    counts = counted(harm["ages"](history, ways.between(history, 10, 20), None), bench.baseline.binning, needed(NEEDS))
    one = shadow(bench, "feature_integrity", ways.budget, severity=1.0)
    assert replay(one, counts, 0).alarms.any()
    assert not replay(one, counts, 20 * 6).alarms.any()


def test_the_sums_of_all_ticks_are_the_reference(bench: Bench, ways: Ways, harm: Harm) -> None:
    counts = counted(harmed(ways, harm, 4), bench.baseline.binning, needed(NEEDS))
    sums = {name: np.zeros_like(array) for name, array in counts.total().items()}
    for tick in counts.each_tick():
        for name, array in tick.arrays.items():
            sums[name][tick.lanes] += array
    for name, array in counts.total().items():
        assert (array == sums[name]).all(), name
