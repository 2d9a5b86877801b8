"""The core rings no more often than it was paid for, and as soon as the theory says."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from detectors.alarm import EvidenceError, Floats, Ints, refuse_nan, step

RATIOS = np.array([1.15, 1.3, 1.5, 1.8, 2.2, 3, 5, 10])


def bernoulli(errors: Ints, outcomes: int, allowed: float, ratios: Floats) -> Floats:
    """Log e-values of error counts against odds ratios above an allowed rate."""
    odds = allowed / (1 - allowed)
    evidence: Floats = errors[:, None] * np.log(ratios) - outcomes * (np.log1p(odds * ratios) - np.log1p(odds))
    return evidence


def alarms(rng: np.random.Generator, lanes: int, ticks: int, spend: float, rate: float, copies: int = 1) -> int:
    """Count alarms of healthy lanes, `copies` of each series, 20 outcomes a tick, 5 % allowed."""
    mass = np.zeros((lanes, len(RATIOS)))
    weights = np.full(len(RATIOS), 1 / len(RATIOS))
    rang = 0
    for _ in range(ticks):
        errors = np.repeat(rng.binomial(20, rate, lanes // copies), copies)
        tick = step(mass, np.full(lanes, spend), weights, bernoulli(errors, 20, 0.05, RATIOS))
        mass = tick.mass
        rang += len(tick.crossed)
    return rang


def test_the_worked_example() -> None:
    ratios = np.array([1.5, 3.0])
    hit, miss = bernoulli(np.array([1]), 1, 0.05, ratios)[0], bernoulli(np.array([0]), 1, 0.05, ratios)[0]
    assert hit == pytest.approx([0.3807724955, 1.0033021089], abs=1e-10)
    assert miss == pytest.approx([-0.0246926126, -0.0953101798], abs=1e-10)
    mass, levels, rang = np.zeros((1, 2)), [], []
    for outcomes, errors in ((20, 1), (20, 3), (0, 0), (20, 5), (20, 6)):
        evidence = bernoulli(np.array([errors]), outcomes, 0.05, ratios)
        tick = step(mass, np.array([0.01]), np.array([0.5, 0.5]), evidence)
        mass = tick.mass
        levels.append(float(tick.level[0]))
        rang.append(len(tick.crossed))
    assert levels == pytest.approx([0.006806686, 0.048740808, 0.058740808, 1.547004715, 0.576562861], abs=1e-9)
    assert rang == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("ratio", [1.15, 1.3, 1.5])
def test_an_e_value_is_1_on_average_at_the_allowed_rate_and_less_below(ratio: float) -> None:
    rng = np.random.default_rng(1)
    at = np.exp(bernoulli(rng.binomial(20, 0.05, 200_000), 20, 0.05, np.array([ratio])))
    assert abs(at.mean() - 1) < 3 * at.std() / np.sqrt(len(at))
    below = np.exp(bernoulli(rng.binomial(20, 0.03, 200_000), 20, 0.05, np.array([ratio])))
    assert below.mean() < 1
    if ratio == 1.5:
        assert below.mean() == pytest.approx(0.823, abs=0.01)


def test_healthy_lanes_ring_within_the_budget() -> None:
    # 1,000 lanes, 1,000 ticks, 50 allowed
    runs = [alarms(np.random.default_rng(seed), 1000, 1000, 50 / 1e6, 0.05) for seed in range(4)]
    assert 5 < np.mean(runs) <= 50


def mean_and_error(runs: Sequence[int]) -> tuple[float, float]:
    """Return the mean of some runs, and its standard error."""
    return float(np.mean(runs)), float(np.std(runs, ddof=1) / np.sqrt(len(runs)))


def test_copies_of_a_lane_ring_as_often_as_lanes_of_their_own_and_within_the_budget() -> None:
    # 1,000 lanes, 500 ticks, 250 allowed; blocks of 50 ring together, so that their count is lumpy and takes more runs
    own, own_error = mean_and_error([alarms(np.random.default_rng(seed), 1000, 500, 5e-4, 0.05) for seed in range(4)])
    copied = [alarms(np.random.default_rng(seed), 1000, 500, 5e-4, 0.05, copies=50) for seed in range(100, 124)]
    mean, error = mean_and_error(copied)
    assert all(count % 50 == 0 for count in copied)
    assert mean <= 250
    assert abs(mean - own) < 3 * np.hypot(error, own_error)


@pytest.mark.slow
def test_the_budget_holds_over_thousands_of_healthy_series() -> None:
    # 5,000 lanes, 4 weeks of 5-minute ticks, 4 false pages allowed in all of them together each week: 16
    lanes, ticks, allowed = 5000, 4 * 2016, 16
    rang = alarms(np.random.default_rng(3), lanes, ticks, allowed / lanes / ticks, 0.05)
    # a bound on the mean: that the true rate is above it must not be the better explanation
    assert binomtest(rang, lanes * ticks, allowed / lanes / ticks, alternative="greater").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("level", "run_length"), [(100, 179.24), (1000, 1785.32)])
def test_run_lengths_are_those_of_the_shiryaev_roberts_table(level: int, run_length: float) -> None:
    # N(0,1) against N(1,1): R = M / w, so that a level A of R is a spend of 1 / A
    rng, runs = np.random.default_rng(4), 4000
    mass, lengths, alive, ticks = np.zeros((runs, 1)), np.zeros(runs), np.ones(runs, bool), 0
    while alive.any():
        ticks += 1
        tick = step(mass, np.full(runs, 1 / level), np.ones(1), rng.normal(size=(runs, 1)) - 0.5)
        mass = tick.mass
        rang = tick.crossed[alive[tick.crossed]]
        lengths[rang], alive[rang] = ticks, False
    assert abs(lengths.mean() - run_length) < 4 * lengths.std() / np.sqrt(runs)


def test_the_delay_is_that_of_the_shiryaev_roberts_table() -> None:
    rng, runs = np.random.default_rng(5), 4000
    mass, lengths, alive, ticks = np.zeros((runs, 1)), np.zeros(runs), np.ones(runs, bool), 0
    while alive.any():
        ticks += 1
        tick = step(mass, np.full(runs, 0.001), np.ones(1), rng.normal(1, 1, size=(runs, 1)) - 0.5)
        mass = tick.mass
        rang = tick.crossed[alive[tick.crossed]]
        lengths[rang], alive[rang] = ticks, False
    assert lengths.mean() == pytest.approx(12.29, abs=4 * lengths.std() / np.sqrt(runs))


@given(st.lists(st.floats(-2, 1), min_size=1, max_size=20))
def test_with_one_alternative_it_is_the_recursion_itself(evidence: list[float]) -> None:
    mass, ratio = np.zeros((1, 1)), 0.0
    for one in evidence:
        mass = step(mass, np.array([1e-12]), np.ones(1), np.array([[one]])).mass
        ratio = (ratio + 1) * np.exp(one)
    assert mass[0, 0] / 1e-12 == pytest.approx(ratio, rel=1e-12)


def test_lanes_do_not_touch_one_another() -> None:
    rng = np.random.default_rng(6)
    mass, evidence = rng.random((9, 3)) / 9, rng.normal(size=(9, 3))
    spend, weights, order = rng.random(9) / 9, np.array([0.2, 0.3, 0.5]), rng.permutation(9)
    mixed = step(mass[order], spend[order], weights, evidence[order])
    straight = step(mass, spend, weights, evidence)
    assert mixed.mass == pytest.approx(straight.mass[order], abs=1e-12)
    assert mixed.level == pytest.approx(straight.level[order], abs=1e-12)


def test_a_tick_may_be_split_when_it_is_paid_once() -> None:
    weights, first, second = np.array([0.4, 0.6]), np.array([[0.3, -0.2]]), np.array([[-0.1, 0.9]])
    whole = step(np.zeros((1, 2)), np.array([0.1]), weights, first + second)
    part = step(np.zeros((1, 2)), np.array([0.1]), weights, first)
    part = step(part.mass, np.zeros(1), weights, second)
    assert part.mass == pytest.approx(whole.mass, abs=1e-12)


def test_without_data_only_the_spend_comes() -> None:
    tick = step(np.array([[0.2]]), np.array([0.1]), np.ones(1), np.zeros((1, 1)))
    assert tick.mass[0, 0] == pytest.approx(0.3)


def test_a_lane_rings_only_when_something_is_said() -> None:
    tick = step(np.array([[0.9], [0.9]]), np.full(2, 0.2), np.ones(1), np.array([[0.0], [0.01]]))
    assert tick.crossed.tolist() == [1]
    assert tick.mass[:, 0] == pytest.approx([1.1, 0.0])


def test_evidence_beyond_all_bounds_is_no_trouble() -> None:
    evidence = np.array([[np.inf, -np.inf]])
    tick = step(np.zeros((1, 2)), np.array([0.01]), np.array([0.5, 0.5]), evidence)
    assert np.isfinite(tick.level).all()
    assert tick.crossed.tolist() == [0]


def test_evidence_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(EvidenceError, match=r"raw_error .* lane b"):
        refuse_nan(np.array([[0.0], [np.nan]]), "raw_error", ("a", "b"), np.arange(2))
    refuse_nan(np.array([[-np.inf, 1.0]]), "silence", ("a",), np.arange(1))
