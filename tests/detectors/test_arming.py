"""Of every lane that a detector is meant for it is known whether it is armed, and if not, why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from detectors.detector import Reference, Unarmed
from detectors.fitting import Learned, learn
from detectors.history import NO_LABEL, History
from detectors.table import DETECTORS
from schemas.model import Model

if TYPE_CHECKING:
    from tests.detectors.conftest import Ways

OF_LABELS = {"error_given_score", "raw_error", "accuracy_below_sla", "label_pipeline", "label_silence"}
Harm = Mapping[str, Callable[..., History]]


def learned(ways: Ways, history: History, **others: object) -> Learned:
    """Learn from a history, and hold every lane against its reason."""
    made: dict[str, object] = {"model": ways.model, "budget": ways.budget} | others
    model, budget = made["model"], made["budget"]
    assert isinstance(model, Model)
    found = learn(history, model, budget=budget, version=1, valid_from_ms=0, decided_at_ms=0)  # type: ignore[arg-type]
    of = found.baseline
    reference = Reference(
        model=model, binning=of.binning, lanes=of.lanes, arrays=of.arrays, reference_ms=of.reference_ms
    )
    for name, detector in DETECTORS.items():
        meant = {of.lanes[lane] for lane in np.flatnonzero(detector.scope(reference))}
        armed, unarmed = set(of.armed.get(name, ())), set(found.unarmed[name])
        assert armed | unarmed == meant, name
        assert not armed & unarmed, name
    return found


def reasons(found: Learned) -> dict[str, set[Unarmed]]:
    return {name: set(unarmed.values()) for name, unarmed in found.unarmed.items() if unarmed}


def test_a_healthy_history_leaves_no_question(ways: Ways) -> None:
    assert reasons(learned(ways, ways.stream(1, 90))) == {}


def test_without_labels_no_error_is_judged_and_it_is_said(ways: Ways, harm: Harm) -> None:
    history = ways.stream(1, 90)
    found = learned(ways, harm["labels"](history, np.full(len(history.made_at_ms), NO_LABEL)))
    assert reasons(found) == {key: {Unarmed.NO_LABELS} for key in OF_LABELS}
    assert not OF_LABELS & found.baseline.armed.keys()
    assert found.baseline.armed["feature_integrity"]


def test_few_labels_are_enough_for_some(ways: Ways, harm: Harm) -> None:
    history = ways.stream(1, 90)
    some = np.arange(len(history.made_at_ms)) % 30 == 0
    found = reasons(learned(ways, harm["labels"](history, np.where(some, history.labelled_at_ms, NO_LABEL))))
    assert found["label_silence"] == {Unarmed.FEW_LABELS}
    assert found["raw_error"] == {Unarmed.FEW_ROWS}
    assert "accuracy_below_sla" not in found


@pytest.mark.parametrize("delay_ms", [0, 10_000, 600_000])
def test_labels_that_all_come_at_one_age_are_followed(ways: Ways, harm: Harm, delay_ms: int) -> None:
    history = ways.stream(1, 90)
    assert reasons(learned(ways, harm["labels"](history, history.made_at_ms + delay_ms))) == {}


def test_labels_that_come_too_late_to_be_followed_are_not_called_missing(ways: Ways, harm: Harm) -> None:
    history = ways.stream(1, 90)
    found = learned(ways, harm["labels"](history, history.made_at_ms + 8 * 86_400_000))
    assert reasons(found) == {name: {Unarmed.LATE_LABELS} for name in ("label_pipeline", "label_silence")}


def test_what_the_model_does_not_declare_is_named(ways: Ways) -> None:
    history = replace(ways.stream(1, 90), confidence=np.full(90 * 120, np.nan, np.float32))
    bare = replace(ways.model, sla_accuracy=None, features={}, required=())
    found = reasons(learned(ways, replace(history, features={}), model=bare))
    assert found["accuracy_below_sla"] == {Unarmed.NO_PROMISE}
    assert found["feature_integrity"] == found["feature_integrity_rule"] == {Unarmed.NO_FEATURES}
    assert found["confidence_drop"] == {Unarmed.NO_CONFIDENCE}


def test_a_history_that_breaks_the_promise_cannot_watch_over_it(ways: Ways) -> None:
    found = learned(ways, ways.stream(1, 90), model=replace(ways.model, sla_accuracy=0.95))
    assert reasons(found) == {"accuracy_below_sla": {Unarmed.RANG}}
    assert found.baseline.tolerance["accuracy_below_sla"] == 0


def test_lanes_beyond_those_that_the_budget_is_divided_by_are_named(ways: Ways) -> None:
    budget = replace(ways.budget, max_rollups_per_model=2)
    found = learned(ways, ways.stream(1, 90), budget=budget)
    assert reasons(found)["feature_integrity"] == {Unarmed.BUSIER_LANES}
    assert len(found.baseline.armed["feature_integrity"]) == 2 + 3  # roll-ups, and segment values of one version
