"""Healthy streams are left alone, harm is found, and its end is noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import poisson

from detectors.binning import NUMBER
from detectors.detector import LaneTicks, Tick
from detectors.history import NO_LABEL, FeatureHistory, History
from detectors.table import DETECTORS

if TYPE_CHECKING:
    from tests.detectors.conftest import Bench, Ways

MINUTE_MS = 60_000
ERRORS = ("error_given_score", "raw_error", "accuracy_below_sla")
Harm = Mapping[str, Callable[..., History]]


def test_a_healthy_stream_arms_every_detector(bench: Bench) -> None:
    assert set(bench.baseline.armed) == set(DETECTORS)
    assert all("*" in lanes for lanes in bench.baseline.armed.values())
    assert set(bench.baseline.tolerance.values()) <= {0.0, 0.02, 0.05, 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_start_with_no_labels_pending_pages_nobody(bench: Bench, ways: Ways, seed: int) -> None:
    # wrong answers are learned after 10 min on average, right ones after 30: the first labels look terrible
    assert bench.run(bench.ticks(ways.stream(100 + seed, 60))).rang(paging=True) == set()


@pytest.mark.slow
def test_healthy_lanes_ring_within_a_budget_that_is_ten_thousand_times_larger(bench: Bench, ways: Ways) -> None:
    # enough money that alarms are expected, in every detector that pays; the rule pays nothing
    allowed = rang = 0.0
    for seed in range(6):
        found = bench.run(bench.ticks(ways.stream(200 + seed, 60)), ERRORS, severity=1e4)
        rang += len(found.alarms)
        allowed += sum(found.spent.values())
    assert allowed > 2
    assert poisson.sf(rang - 1, allowed) > 0.001, (rang, allowed)


def test_more_errors_ring_are_dated_and_clear(bench: Bench, ways: Ways, harm: Harm) -> None:
    #  0 ---------- 30 ==== 40 % turned around ==== 90 -------------- 360 min
    healthy = ways.stream(1, 360)
    found = bench.run(bench.ticks(harm["answers"](healthy, ways.between(healthy, 30, 90), 0.4)), ERRORS)
    for name in ERRORS:
        assert 30 < found.first(name, "*") < 60
        assert any(90 < at < 330 and (detector, lane) == (name, "*") for at, detector, lane in found.cleared)
    for _, alarm, _ in found.details:
        # a label of an output made at minute 30 comes later: the onset is when labels began to show it
        assert alarm.onset.from_tick * 10 / 60 < 55
        assert alarm.onset.to_tick * 10 / 60 > 30
        assert alarm.description.effect.unit in {"errors per labelled output", "accuracy"}
        assert alarm.description.n > 0


def test_labels_that_all_come_at_one_age_ring_when_they_stop(ways: Ways, harm: Harm, at_one_age: Bench) -> None:
    #  0 ---------- 30 no labels 60 ------------- 120 min
    names = ("label_pipeline", "label_silence")
    stream = ways.stream(8, 120)
    labelled_at_ms = stream.made_at_ms + 10 * MINUTE_MS
    assert at_one_age.run(at_one_age.ticks(harm["labels"](stream, labelled_at_ms)), names).alarms == []
    lost = (labelled_at_ms >= 30 * MINUTE_MS) & (labelled_at_ms < 60 * MINUTE_MS)
    found = at_one_age.run(at_one_age.ticks(harm["labels"](stream, np.where(lost, NO_LABEL, labelled_at_ms))), names)
    for name in names:
        assert 30 < found.first(name, "*") < 60
        assert any(at > 60 for at, detector, _ in found.cleared if detector == name)


def test_a_fault_in_one_region_rings_there(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(2, 130)
    west = ways.between(healthy, 60, 130) & (healthy.segments["region"].codes == 2)
    found = bench.run(bench.ticks(harm["answers"](healthy, west, 0.4)), ("error_given_score",))
    assert found.first("error_given_score", "segment:region=west") < 120
    assert found.first("error_given_score", "segment:region=north") == np.inf


def test_inputs_out_of_range_ring_within_a_minute_and_clear(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(3, 120)
    rows = ways.between(healthy, 30, 60) & (np.random.default_rng(1).random(len(healthy.made_at_ms)) < 0.2)
    ticks = bench.ticks(harm["ages"](healthy, rows, healthy.features["age"].numbers * 12))
    found = bench.run(ticks, ("feature_integrity", "feature_integrity_rule"))
    assert 30 < found.first("feature_integrity", "*") < 31
    assert "feature age is outside the reference's range" in found.details[0][1].description.message
    assert found.first("feature_integrity_rule") == np.inf
    assert any(60 < at < 75 and lane == "*" for at, _, lane in found.cleared)


def test_a_required_feature_that_is_missing_rings_by_rule(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(4, 60)
    found = bench.run(
        bench.ticks(harm["ages"](healthy, ways.between(healthy, 30, 45), None)),
        ("feature_integrity", "feature_integrity_rule"),
    )
    assert 30 < found.first("feature_integrity") < 31
    assert 30 < found.first("feature_integrity_rule") < 31
    assert any(name == "feature_integrity_rule" and 45 < at < 47 for at, name, _ in found.cleared)
    assert found.spent["feature_integrity_rule"] == 0


def test_half_of_the_rows_missing_is_not_yet_most(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(4, 60)
    rows = ways.between(healthy, 30, 60) & (np.arange(len(healthy.made_at_ms)) % 5 < 2)
    found = bench.run(bench.ticks(harm["ages"](healthy, rows, None)), ("feature_integrity_rule",))
    assert not found.alarms


def test_a_feature_of_the_wrong_type_rings(bench: Bench, ways: Ways) -> None:
    healthy = ways.stream(5, 40)
    age = healthy.features["age"]
    state = np.where(ways.between(healthy, 20, 40), NUMBER + 1, age.state).astype(np.int8)
    harmed = replace(healthy, features={"age": FeatureHistory(state, age.numbers, age.names)})
    found = bench.run(bench.ticks(harmed), ("feature_integrity", "feature_integrity_rule"))
    assert 20 < found.first("feature_integrity") < 21
    assert 20 < found.first("feature_integrity_rule") < 21
    assert "wrong type" in found.details[0][1].description.message


def stopped(ticks: list[Tick], from_minute: int, to_minute: int, lanes: list[int] | None = None) -> list[Tick]:
    """Let these lanes say nothing, or all of them."""
    changed = []
    for tick in ticks:
        if from_minute <= tick.start_ms / MINUTE_MS < to_minute:
            left = ~np.isin(tick.lanes, tick.lanes if lanes is None else lanes)
            arrays = {name: array[left] for name, array in tick.arrays.items()}
            tick = replace(tick, lanes=tick.lanes[left], arrays=arrays)  # noqa: PLW2901
        changed.append(tick)
    return changed


def test_a_model_that_falls_silent_is_an_outage_until_it_answers(bench: Bench, ways: Ways) -> None:
    found = bench.run(stopped(bench.ticks(ways.stream(6, 60)), 20, 40), ("silence",))
    assert 20 < found.first("silence", "*") < 22
    assert {alarm.description.kind for _, alarm, _ in found.details} == {"model_outage"}
    assert any(40 < at < 42 and lane == "*" for at, _, lane in found.cleared)
    assert len([one for one in found.alarms if one[2] == "*"]) == 1


def test_a_region_that_falls_silent_is_no_outage_of_the_model(bench: Bench, ways: Ways) -> None:
    west = bench.baseline.lanes.index("segment:region=west")
    found = bench.run(stopped(bench.ticks(ways.stream(6, 60)), 20, 60, [west]), ("silence",))
    assert {lane for _, _, lane in found.alarms} == {"segment:region=west"}
    assert {alarm.description.kind for _, alarm, _ in found.details} == {"monitoring_gap"}


def test_a_version_that_is_replaced_is_no_silence(bench: Bench, ways: Ways) -> None:
    versions = [at for at, name in enumerate(bench.baseline.lanes) if name.startswith("version:")]
    assert not bench.run(stopped(bench.ticks(ways.stream(6, 60)), 20, 60, versions), ("silence",)).alarms


def test_a_lane_that_never_spoke_is_not_missed(bench: Bench, ways: Ways) -> None:
    assert not bench.run(stopped(bench.ticks(ways.stream(6, 30)), 0, 30), ("silence",)).alarms


def test_labels_three_times_slower_ring_for_the_pipeline(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(7, 120)
    slow = healthy.made_at_ms + 3 * (healthy.labelled_at_ms - healthy.made_at_ms)
    late = np.where(ways.between(healthy, 60, 120), slow, healthy.labelled_at_ms)
    found = bench.run(bench.ticks(harm["labels"](healthy, late)), ("label_pipeline", "label_silence"))
    assert 60 < found.first("label_pipeline") < 75
    assert found.first("label_silence") == np.inf


def test_labels_that_stop_ring_and_clear(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(8, 180)
    at = healthy.labelled_at_ms
    gone = (at >= 60 * MINUTE_MS) & (at < 90 * MINUTE_MS)
    found = bench.run(bench.ticks(harm["labels"](healthy, np.where(gone, NO_LABEL, at))), ("label_silence",))
    assert 60 < found.first("label_silence") < 62
    assert found.details[0][1].description.kind == "label_pipeline_late"
    assert any(90 <= at < 92 for at, _, _ in found.cleared)


def test_labels_that_never_begin_ring(bench: Bench, ways: Ways, harm: Harm) -> None:
    healthy = ways.stream(8, 60)
    never = np.full_like(healthy.labelled_at_ms, NO_LABEL)
    found = bench.run(bench.ticks(harm["labels"](healthy, never)), ("label_silence",))
    assert found.first("label_silence") < 20
    assert found.details[0][1].description.effect.observed == 0


def test_outputs_that_stop_are_no_silence_of_labels(bench: Bench, ways: Ways) -> None:
    # the pending labels come in and then there is nothing left to come
    stream = ways.stream(9, 400)
    kept = np.flatnonzero(~ways.between(stream, 60, 399))
    none = replace(
        stream,
        **{
            name: getattr(stream, name)[kept]
            for name in ("made_at_ms", "labelled_at_ms", "wrong", "score", "confidence")
        },
        version=replace(stream.version, codes=stream.version.codes[kept]),
        segments={name: replace(column, codes=column.codes[kept]) for name, column in stream.segments.items()},
        features={
            name: FeatureHistory(one.state[kept], one.numbers[kept], replace(one.names, codes=one.names.codes[kept]))
            for name, one in stream.features.items()
        },
    )
    assert not bench.run(bench.ticks(none), ("label_silence", "label_pipeline")).alarms


def test_a_model_that_becomes_unsure_opens_a_ticket_and_clears(bench: Bench, ways: Ways) -> None:
    healthy = ways.stream(10, 120)
    unsure = ways.between(healthy, 30, 70)
    confidence = np.where(unsure, 0.5 + (healthy.confidence - 0.5) * 0.7, healthy.confidence).astype(np.float32)
    found = bench.run(bench.ticks(replace(healthy, confidence=confidence)), ("confidence_drop",))
    assert 30 < found.first("confidence_drop", "*") < 40
    assert any(70 < at < 90 and lane == "*" for at, _, lane in found.cleared)


def rows(bench: Bench, history: History, number: int) -> LaneTicks:
    """Every lane in one tick."""
    tick = bench.ticks(history)[number]
    return tick.every(tuple(tick.arrays), np.arange(len(bench.baseline.lanes)))


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_an_empty_tick_says_nothing_unless_absence_counts(bench: Bench, ways: Ways, name: str) -> None:
    detector = DETECTORS[name]
    fitted = detector.fit(bench.reference, 0.0)
    assert fitted is not None
    some = rows(bench, ways.stream(11, 2), 0)
    evidence = fitted.evidence(replace(some, arrays={of: 0 * array for of, array in some.arrays.items()}))
    judged = getattr(fitted, "judged", np.ones_like(evidence, dtype=bool))
    assert (not evidence[judged].any()) != detector.absence_counts


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_arguments_are_left_as_they_were_and_shapes_agree(bench: Bench, ways: Ways, name: str) -> None:
    fitted = DETECTORS[name].fit(bench.reference, 0.0)
    assert fitted is not None
    some = rows(bench, ways.stream(12, 30), 170)
    before = {of: array.copy() for of, array in some.arrays.items()}
    lanes = len(bench.baseline.lanes)
    leading = np.zeros(lanes, np.int64)
    evidence = fitted.evidence(some)
    tally = fitted.tally(some, leading)
    midpoint = fitted.midpoint(tally, leading)
    recovery = fitted.recovery(some, leading, midpoint)
    assert evidence.shape == (lanes, len(fitted.weights))
    assert recovery.shape == (lanes, len(fitted.recovery_weights))
    assert tally.shape == (lanes, 3)
    assert midpoint.shape == fitted.watched.shape == (lanes,)
    assert fitted.groups.shape == (len(fitted.weights), 3)
    assert (fitted.groups.sum(axis=1) == 1).all()
    if DETECTORS[name].guarantee == "budget":
        assert fitted.weights.sum() == pytest.approx(1)
        assert fitted.recovery_weights.sum() == pytest.approx(1)
    assert all((some.arrays[of] == array).all() for of, array in before.items())


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_row_says_the_same_whichever_others_stand_beside_it(bench: Bench, ways: Ways, name: str) -> None:
    fitted = DETECTORS[name].fit(bench.reference, 0.0)
    assert fitted is not None
    some = rows(bench, ways.stream(13, 30), 170)
    leading, midpoint = np.zeros(len(some.lanes), np.int64), np.full(len(some.lanes), 0.5)
    none = np.array([], np.int64)  # where all open lanes are silent, and another speaks
    for chosen in (np.array([4, 0, 2]), np.arange(len(some.lanes))[::-1], none):
        for say in (
            fitted.evidence,
            lambda seen: fitted.tally(seen, leading[: len(seen.lanes)]),
            lambda seen: fitted.recovery(seen, leading[: len(seen.lanes)], midpoint[: len(seen.lanes)]),
        ):
            assert say(some.picked(chosen)) == pytest.approx(say(some)[chosen], rel=1e-12)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_wider_null_is_never_more_evidence(bench: Bench, ways: Ways, name: str) -> None:
    some = rows(bench, ways.stream(14, 30), 170)
    if "silence" in name:
        gone = {of: 0 * some.arrays[of] for of in ("outputs", "labelled_by_age")}
        some = replace(some, arrays={**some.arrays, **gone})
    strict, wide = (DETECTORS[name].fit(bench.reference, width) for width in (0.0, 0.2))
    assert strict is not None
    assert wide is not None
    more, less = strict.evidence(some), wide.evidence(some)
    if name != "confidence_drop":  # its stakes change with its null
        assert (less <= more + 1e-9).all()
        assert (less < more).any() or DETECTORS[name].guarantee == "none"
