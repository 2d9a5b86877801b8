"""Each detector's evidence is fair at the edge of its null and unfair to the alarm inside it, and so is recovery's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from detectors.alarm import Floats, Ints
from detectors.binning import FEATURE_SLOTS, NULL
from detectors.confidence_drop import FittedConfidence, log_bets
from detectors.detector import Fitted, LaneTicks
from detectors.feature_integrity import FittedIntegrity, row_loss
from detectors.label_hazard import Hazards
from detectors.label_pipeline import FittedPipeline
from detectors.silence import FittedSilence
from detectors.stratified import Stratified

ONE_LANE = np.array([True])
RATES = st.floats(0.01, 0.9)


def tick(**arrays: Ints) -> LaneTicks:
    lanes = np.arange(len(next(iter(arrays.values()))))
    return LaneTicks(lanes=lanes, start_ms=np.zeros_like(lanes), arrays=arrays)


def factors(fitted: Fitted, of: LaneTicks) -> Floats:
    """Return the e-values of a tick, for each alternative."""
    factor: Floats = np.exp(fitted.evidence(of)[0])
    return factor


def stratified(allowed: float, healthy: float) -> Stratified:
    return Stratified(
        total="n",
        wrong="s",
        delay_only=False,
        cells=logit(np.array([allowed])),
        offsets=np.zeros(1),
        healthy_cells=logit(np.array([healthy])),
        healthy_offsets=np.zeros(1),
        recovered=np.zeros(1),
        watched=ONE_LANE,
        kind="error_above_baseline",
    )


@given(allowed=RATES, share=st.floats(0, 1))
def test_errors_are_a_fair_bet_at_most(allowed: float, share: float) -> None:
    fitted, true = stratified(allowed, allowed), allowed * share
    wrong = factors(fitted, tick(n=np.array([[1]]), s=np.array([[1]])))
    right = factors(fitted, tick(n=np.array([[1]]), s=np.array([[0]])))
    assert (true * wrong + (1 - true) * right <= 1 + 1e-9).all()
    assert allowed * wrong + (1 - allowed) * right == pytest.approx(1, abs=1e-9)


@given(healthy=st.floats(0.01, 0.5), off=st.floats(0.15, 2), more=st.floats(0, 2))
def test_recovery_from_errors_is_a_fair_bet_at_most(healthy: float, off: float, more: float) -> None:
    fitted, midpoint = stratified(healthy, healthy), np.array([off])
    true = float(expit(logit(healthy) + off + more))
    bets = [
        np.exp(fitted.recovery(tick(n=np.array([[1]]), s=np.array([[wrong]])), np.zeros(1, np.int64), midpoint)[0])
        for wrong in (0, 1)
    ]
    assert ((1 - true) * bets[0] + true * bets[1] <= 1 + 1e-9).all()


@given(allowed=st.floats(0.05, 0.9), doubt=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_doubt_is_a_fair_bet_at_most(allowed: float, doubt: list[float]) -> None:
    # any law on three doubts whose mean is at most allowed
    values = np.array([0.0, *sorted(doubt)])
    null = np.array([allowed])
    fitted = FittedConfidence(doubts=values, usual=null, allowed=null, bets=log_bets(values, null), watched=ONE_LANE)
    law = np.array([0.1, 0.2, 0.3, 0.4])
    law = law if law @ values <= allowed else np.array([1.0, 0, 0, 0])
    bets = np.stack(
        [
            factors(fitted, tick(outputs_by_confidence=np.append(np.eye(4, dtype=np.int64)[at], 0)[None]))
            for at in range(4)
        ]
    )
    assert (law @ bets <= 1 + 1e-9).all()
    back = np.stack(
        [
            np.exp(
                fitted.recovery(
                    tick(outputs_by_confidence=np.append(np.eye(4, dtype=np.int64)[at], 0)[None]),
                    np.zeros(1, np.int64),
                    np.array([min(law @ values, 0.95)]),
                )[0]
            )
            for at in range(4)
        ]
    )
    assert (law @ back <= 1 + 1e-9).all()


@given(allowed=st.floats(1e-3, 0.5), share=st.floats(0, 1))
def test_faults_of_features_are_a_fair_bet_at_most(allowed: float, share: float) -> None:
    rates = np.full((1, 4), allowed)
    fitted = FittedIntegrity(
        usual=rates, allowed=rates, loss=row_loss(rates), words=("",) * 4, numeric=ONE_LANE, watched=ONE_LANE
    )
    slots = np.zeros((2, 1, 1, FEATURE_SLOTS), np.int64)
    slots[0, 0, 0, 0], slots[1, 0, 0, NULL] = 1, 1
    well, null = (factors(fitted, tick(feature_slots=one)) for one in slots)
    true = allowed * share
    assert (true * null[:4] + (1 - true) * well[:4] <= 1 + 1e-9).all()


@given(hazard=st.floats(1e-4, 0.4), times=st.floats(0.2, 5))
def test_the_pace_of_labels_is_a_fair_bet_both_ways(hazard: float, times: float) -> None:
    healthy = Hazards(rate=np.array([hazard]), error=np.zeros(1), known=ONE_LANE, whole=0, lanes=1)
    fitted = FittedPipeline(healthy=healthy, slowest=np.array([hazard]), fastest=np.array([hazard]))
    true = min(hazard * times, 1.0)
    none, label = (
        factors(fitted, tick(at_risk_by_age=np.array([[1]]), labelled_by_age=np.array([[n]]))) for n in (0, 1)
    )
    mean = true * label + (1 - true) * none
    # alternatives below 1 say "slower", fair when labels come no slower; those above 1 the other way round
    assert (mean[:3] <= 1 + 1e-9).all() or times < 1
    assert (mean[3:] <= 1 + 1e-9).all() or times > 1


@given(least=st.floats(0.01, 20), more=st.floats(1, 5))
def test_silence_is_a_fair_bet_at_most(least: float, more: float) -> None:
    flow = np.full((1, 168), least)
    fitted = FittedSilence(usual=flow, least=flow, whole=0, tick_ms=10_000, watched=ONE_LANE)
    silent = factors(fitted, tick(outputs=np.array([[0]])))[0]
    spoken = factors(fitted, tick(outputs=np.array([[1]])))[0]
    nothing = np.exp(-least * more)
    assert nothing * silent + (1 - nothing) * spoken <= 1 + 1e-9


def test_the_worked_example_of_delay_strata() -> None:
    # labels 24 ticks late when wrong, 216 when right, 10 % wrong: of those at ages 0 and 1, half are wrong
    cells = np.array([0.4953883621, 0.4861325295])
    fitted = Stratified(
        total="n",
        wrong="s",
        delay_only=False,
        cells=logit(cells),
        offsets=np.zeros(1),
        healthy_cells=logit(cells),
        healthy_offsets=np.zeros(1),
        recovered=np.zeros(1),
        watched=ONE_LANE,
        kind="error_above_baseline",
    )
    evidence = fitted.evidence(tick(n=np.array([[11, 8]]), s=np.array([[7, 5]])))
    assert evidence[0, 2] == pytest.approx(0.6906632063, abs=1e-9)
