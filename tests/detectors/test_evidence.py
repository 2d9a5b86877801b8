"""Each detector's evidence is fair at the edge of its null and unfair to the alarm inside it, and so is recovery's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, logsumexp
from scipy.stats import poisson

from detectors.alarm import Floats, Ints
from detectors.binning import ABSENT, FEATURE_SLOTS, NULL, UNSEEN, WRONG_TYPE
from detectors.confidence_drop import FittedConfidence, log_bets
from detectors.detector import Fitted, LaneTicks
from detectors.feature_integrity import RATIOS, FittedIntegrity, row_loss
from detectors.label_hazard import Hazards
from detectors.label_pipeline import FittedPipeline
from detectors.label_silence import FittedLabelSilence
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


NO_LEAD = np.zeros(1, np.int64)


@given(allowed=st.floats(1e-3, 0.5), rung=st.floats(0, 1), worse=st.floats(0, 1), kind=st.integers(0, 3))
def test_recovery_from_faults_of_features_is_a_fair_bet_at_most(
    allowed: float, rung: float, worse: float, kind: int
) -> None:
    rates = np.full((1, 4), allowed)
    fitted = FittedIntegrity(
        usual=rates, allowed=rates, loss=row_loss(rates), words=("",) * 4, numeric=ONE_LANE, watched=ONE_LANE
    )
    leading = np.array([kind * len(RATIOS)])
    midpoint = fitted.midpoint(np.array([[1000.0, 1000 * rung, 1000 * allowed]]), leading)
    slots = np.zeros((2, 1, 1, FEATURE_SLOTS), np.int64)
    slots[0, 0, 0, 0], slots[1, 0, 0, (NULL, WRONG_TYPE, UNSEEN, ABSENT)[kind]] = 1, 1
    well, fault = (float(np.exp(fitted.recovery(tick(feature_slots=one), leading, midpoint)[0, 0])) for one in slots)
    true = midpoint[0] + worse * (1 - midpoint[0])  # still at least as bad
    assert true * fault + (1 - true) * well <= 1 + 1e-9
    assert midpoint[0] * fault + (1 - midpoint[0]) * well == pytest.approx(1, abs=1e-9)


@given(usual=st.floats(0.01, 50), share=st.floats(0, 1))
def test_recovery_from_silence_is_a_fair_bet_at_most(usual: float, share: float) -> None:
    flow = np.full((1, 168), usual)
    fitted = FittedSilence(usual=flow, least=flow / 2, whole=0, tick_ms=10_000, watched=ONE_LANE)
    midpoint = fitted.midpoint(np.zeros((1, 3)), NO_LEAD)
    counts = np.arange(400)
    bets = np.stack([fitted.recovery(tick(outputs=np.array([[n]])), NO_LEAD, midpoint)[0] for n in counts])
    still = usual * midpoint[0] * share  # no more comes than while it was silent
    assert (logsumexp(poisson.logpmf(counts, still)[:, None] + bets, axis=0) <= 1e-9).all()


@given(hazard=st.floats(1e-4, 0.95), share=st.floats(0, 1))
def test_recovery_from_silence_of_labels_is_a_fair_bet_at_most(hazard: float, share: float) -> None:
    healthy = Hazards(rate=np.array([hazard]), error=np.zeros(1), known=ONE_LANE, whole=0, lanes=1)
    fitted = FittedLabelSilence(healthy=healthy, least=np.array([hazard / 2]), tick_ms=10_000)
    midpoint = fitted.midpoint(np.zeros((1, 3)), NO_LEAD)
    none, label = (np.exp(fitted.recovery(waiting(n), NO_LEAD, midpoint)[0]) for n in (0, 1))
    still = hazard * midpoint[0] * share
    assert (still * label + (1 - still) * none <= 1 + 1e-9).all()


@given(hazard=st.floats(1e-4, 0.95), labels=st.integers(0, 1000), leading=st.integers(0, 5), worse=st.floats(0, 1))
def test_recovery_of_the_pace_of_labels_is_a_fair_bet_at_most(
    hazard: float, labels: int, leading: int, worse: float
) -> None:
    healthy = Hazards(rate=np.array([hazard]), error=np.zeros(1), known=ONE_LANE, whole=0, lanes=1)
    fitted = FittedPipeline(healthy=healthy, slowest=np.array([hazard]), fastest=np.array([hazard]))
    lead = np.array([leading])
    midpoint = fitted.midpoint(np.array([[float(labels), float(labels), 300.0]]), lead)
    none, label = (float(np.exp(fitted.recovery(waiting(n), lead, midpoint)[0, 0])) for n in (0, 1))
    edge = min(hazard * float(np.exp(midpoint[0])), 1.0)
    assert (edge > hazard) == (leading >= 3), "sooner, or later, as it rang"
    still = edge + worse * (1 - edge) if leading >= 3 else edge * worse  # at least as far off, in the same direction
    assert still * label + (1 - still) * none <= 1 + 1e-9


def waiting(labels: int) -> LaneTicks:
    """One output that waits for its label, which may come."""
    return tick(at_risk_by_age=np.array([[1]]), labelled_by_age=np.array([[labels]]))


@given(
    usual=st.floats(0.05, 0.9),
    seen=st.floats(0, 1),
    doubt=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    law=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_recovery_from_doubt_is_a_fair_bet_at_most(
    usual: float, seen: float, doubt: list[float], law: list[float]
) -> None:
    values = np.array([*sorted(doubt), 1.0])
    null = np.array([usual])
    fitted = FittedConfidence(doubts=values, usual=null, allowed=null, bets=log_bets(values, null), watched=ONE_LANE)
    midpoint = fitted.midpoint(np.array([[100.0, 100 * seen, 100 * usual]]), NO_LEAD)
    of = np.eye(5, dtype=np.int64)
    bets = np.exp([fitted.recovery(tick(outputs_by_confidence=of[at][None]), NO_LEAD, midpoint)[0] for at in range(4)])
    true = np.array(law) / sum(law)
    if true @ values < midpoint[0]:  # mixed with certain doubt until it is as bad as the midpoint
        rest = (midpoint[0] - true @ values) / (1 - true @ values)
        true = true * (1 - rest) + rest * np.array([0, 0, 0, 1.0])
    assert true @ values >= midpoint[0] - 1e-9
    assert (true @ bets <= 1 + 1e-9).all()


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
