"""What is wrong in a history is said before it is called healthy, and what is grave is for a person to accept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE
from detectors.history import FeatureHistory, History
from detectors.suitability import Doubt, doubts

if TYPE_CHECKING:
    from tests.detectors.conftest import Ways

WEEK_MINUTES = 7 * 24 * 60


def with_state(history: History, share: float, state: int) -> History:
    """Put the first share of the rows into this state."""
    age = history.features["age"]
    hit = np.arange(len(age.state)) < share * len(age.state)
    states, numbers = np.where(hit, state, age.state).astype(np.int8), np.where(hit, np.nan, age.numbers)
    return replace(history, features={"age": FeatureHistory(states, numbers, age.names)})


def found(history: History, ways: Ways, **model: object) -> list[tuple[Doubt, bool]]:
    said = doubts(history, replace(ways.model, **model))  # type: ignore[arg-type]
    return [(one.doubt, one.grave) for one in said]


@pytest.mark.parametrize(
    ("minutes", "wanted"),
    [
        (3, [(Doubt.FEW, True), (Doubt.SHORT, True)]),
        (30, [(Doubt.SHORT, True)]),
        (61, [(Doubt.NOT_A_WEEK, False)]),
        (WEEK_MINUTES + 2, []),
    ],
)
def test_time_that_was_not_seen_is_named(ways: Ways, minutes: int, wanted: list[tuple[Doubt, bool]]) -> None:
    assert found(ways.stream(1, minutes, rate=1 if minutes > WEEK_MINUTES else 60), ways) == wanted


@pytest.mark.parametrize("state", [NULL_STATE, ABSENT_STATE])
@pytest.mark.parametrize(("share", "grave"), [(0.005, None), (0.02, False), (0.24, False), (0.25, True), (1.0, True)])
def test_a_required_feature_that_is_missing_is_named(
    ways: Ways, state: int, share: float, *, grave: bool | None
) -> None:
    history = with_state(ways.stream(1, WEEK_MINUTES + 2, rate=1), share, state)
    assert found(history, ways) == ([] if grave is None else [(Doubt.MISSING, grave)])


def test_a_feature_that_is_not_required_may_be_missing(ways: Ways) -> None:
    whole = ways.stream(1, WEEK_MINUTES + 2, rate=1)
    assert found(with_state(whole, 0.9, NULL_STATE), ways, required=()) == []
    assert found(with_state(whole, 1.0, NULL_STATE), ways, required=()) == [(Doubt.NEVER_THERE, False)]


@pytest.mark.parametrize(("share", "grave"), [(0.02, False), (0.6, True)])
def test_a_feature_of_another_type_is_named_required_or_not(ways: Ways, share: float, *, grave: bool) -> None:
    history = with_state(ways.stream(1, WEEK_MINUTES + 2, rate=1), share, NAME)
    assert found(history, ways, required=()) == [(Doubt.WRONG_TYPE, grave)]


def test_a_number_where_a_name_is_declared_is_of_another_type(ways: Ways) -> None:
    history = ways.stream(1, WEEK_MINUTES + 2, rate=1)
    assert found(history, ways, features={"age": "categorical"}) == [(Doubt.WRONG_TYPE, True)]
