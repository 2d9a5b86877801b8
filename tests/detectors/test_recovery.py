"""An open lane clears no more often than it was paid for while it is as bad as half-way, and soon once it is well."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest

from detectors.alarm import Floats
from detectors.detector import Tick
from detectors.raw_error import RawError
from detectors.stratified import Stratified
from detectors.watch import Watch, WatchState, advance, begin, watch

HEALTHY = 0.05
OFF = np.log(3.0)
"""Log odds ratio half-way back."""

HALF_WAY = float(expit(logit(HEALTHY) + OFF))
LABELS = 20
TOTAL, WRONG = RawError.reads


def open_lanes(lanes: int, spend: float) -> tuple[Watch, WatchState]:
    """Return lanes that rang for errors at twice `OFF`, and test now whether they are well again."""
    cells, level = logit(np.array([HEALTHY])), np.zeros(lanes)
    fitted = Stratified(
        total=TOTAL,
        wrong=WRONG,
        delay_only=False,
        cells=cells,
        offsets=level,
        healthy_cells=cells,
        healthy_offsets=level,
        recovered=level,
        watched=np.ones(lanes, np.bool_),
        kind="error_above_baseline",
    )
    one = watch(RawError(tolerances=(0.0,)), fitted, ("*",) * lanes, fitted.watched, None)
    one = replace(one, recovery_spend=np.full(lanes, spend))
    state = replace(begin(one), open=np.ones(lanes, np.bool_), midpoint=np.full(lanes, OFF))
    return one, state


def clearings(seed: int, lanes: int, ticks: int, allowed: float, rate: float, copies: int = 1) -> int:
    """Count clearings of lanes that are wrong at `rate`, `copies` of each series; each opens again at once."""
    rng = np.random.default_rng(seed)
    one, state = open_lanes(lanes, allowed / lanes / ticks)
    cleared = 0
    for _ in range(ticks):
        errors = np.repeat(rng.binomial(LABELS, rate, lanes // copies), copies)
        state, outcome = advance(one, state, labelled(errors), lump=0.0, disturbed=False)
        cleared += len(outcome.cleared)
        state = replace(state, open=np.ones(lanes, np.bool_))
    return cleared


def labelled(errors: np.ndarray) -> Tick:
    arrays = {TOTAL: np.full((len(errors), 1), LABELS), WRONG: errors[:, None]}
    return Tick(start_ms=0, end_ms=10_000, lanes=np.arange(len(errors)), arrays=arrays)


@pytest.mark.slow
def test_lanes_that_are_half_way_clear_within_the_budget_of_recovery() -> None:
    lanes, ticks, allowed = 2000, 600, 40
    cleared = clearings(6, lanes, ticks, allowed, HALF_WAY)
    assert cleared > 0
    # a bound on the mean: that the true rate is above it must not be the better explanation
    assert binomtest(cleared, lanes * ticks, allowed / lanes / ticks, alternative="greater").pvalue > 0.001


def test_lanes_that_are_as_bad_as_when_they_rang_do_not_clear() -> None:
    assert clearings(7, 1000, 200, 40, float(expit(logit(HEALTHY) + 2 * OFF))) == 0


def test_copies_of_a_lane_clear_within_the_budget_too() -> None:
    runs = [clearings(seed, 500, 150, 15, HALF_WAY, copies=50) for seed in range(8)]
    assert np.mean(runs) - 2 * np.std(runs) / np.sqrt(len(runs)) < 15


def test_a_lane_that_is_well_clears_when_the_theory_says() -> None:
    lanes, spend = 2000, 1e-6
    rng = np.random.default_rng(8)
    one, state = open_lanes(lanes, spend)
    labels = np.zeros(lanes)
    while state.open.any():
        labels[state.open] += LABELS
        state, _ = advance(one, state, labelled(rng.binomial(LABELS, HEALTHY, lanes)), lump=0.0, disturbed=False)
    information = divergence(HEALTHY, HALF_WAY)
    limit = np.log(LABELS / spend * information) / information
    assert labels.mean() == pytest.approx(limit, rel=0.3)


def test_every_order_of_good_and_bad_ticks_is_the_recursion_itself() -> None:
    one, state = open_lanes(1, 1e-3)
    rng, held = np.random.default_rng(9), np.zeros(2)
    well = np.array([-OFF, -OFF / 2])
    loss = partial(_loss, float(logit(HALF_WAY)), well)
    for errors in rng.binomial(LABELS, 0.1, 60):
        held = (held + 1e-3 / 2) * np.exp(errors * well - LABELS * loss())
        state, outcome = advance(one, state, labelled(np.array([errors])), lump=0.0, disturbed=False)
        if held.sum() >= 1:
            assert outcome.cleared.tolist() == [0]
            return
        assert state.recovery_mass[0] == pytest.approx(held, rel=1e-9)
    pytest.fail("it never cleared")


def divergence(p: float, q: float) -> float:
    """Nats an event that Bernoulli(p) gives against Bernoulli(q)."""
    return float(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def _loss(base: float, well: Floats) -> Floats:
    loss: Floats = np.log1p(np.exp(base + well)) - np.log1p(np.exp(base))
    return loss
