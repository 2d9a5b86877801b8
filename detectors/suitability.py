"""Is a history fit to be what all that follows is compared with?

What is wrong in it is called healthy from then on. So nothing here is repaired or passed over in silence: it is said, and
what would make the result useless or dangerous is grave, to be accepted by a person or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE, NUMBER
from detectors.feature_integrity import RULE_USUAL_SHARE
from detectors.fitting import LEAST_OUTPUTS
from detectors.history import FeatureHistory, History
from schemas.model import Model

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
LEAST_SPAN_MS = HOUR_MS
"""A history that spans less has seen one moment, and not how traffic and errors go."""

WEEK_MS = 7 * DAY_MS
"""A history that spans less has not seen every day of the week: what differs on the others may ring."""

WORTH_SAYING_SHARE = 0.01
"""Share of the rows at fault from which on a feature is named; from `RULE_USUAL_SHARE` on that is grave."""


class Doubt(StrEnum):
    """What is doubtful."""

    FEW = "few"
    SHORT = "short"
    NOT_A_WEEK = "not_a_week"
    MISSING = "missing"
    WRONG_TYPE = "wrong_type"
    NEVER_THERE = "never_there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubtful:
    """One thing that is doubtful in a history.

    Parameters
    ----------
    feature
        Its name, "" where it is about no feature.
    observed, limit
        What is there and from where on it is doubted no more, or gravely: outputs, ms, or shares of the outputs.
    grave
        Whether the history is no reference unless a person says so.
    """

    doubt: Doubt
    feature: str = ""
    observed: float
    limit: float
    grave: bool


def doubts(history: History, model: Model) -> list[Doubtful]:
    """Name what is doubtful in a history of at least one output.

    >>> from detectors.history import Names
    >>> none = Names(np.full(3, -1, np.int32), ())
    >>> age = FeatureHistory(np.array([0, 2, 3], np.int8), np.array([41.0, np.nan, np.nan]), none)
    >>> history = History(made_at_ms=np.array([0, 5, HOUR_MS]), labelled_at_ms=np.full(3, -1), wrong=np.zeros(3, bool),
    ...     score=np.zeros(3, np.float32), confidence=np.zeros(3, np.float32), version=none, segments={},
    ...     features={"age": age})
    >>> model = Model(name="m", kind="classification", threshold=0.5, sla_accuracy=None, segments=(),
    ...     features={"age": "numeric"}, required=("age",), label_wait_ms=1, tier="standard")
    >>> [(one.doubt.value, one.feature, round(one.observed, 2), one.grave) for one in doubts(history, model)]
    [('few', '', 3, True), ('not_a_week', '', 3600000, False), ('missing', 'age', 0.67, True)]
    """
    return [*_of_size(history), *(one for name in model.features for one in _of_feature(history, model, name))]


def _of_size(history: History) -> Iterator[Doubtful]:
    outputs = len(history.made_at_ms)
    if outputs < LEAST_OUTPUTS:
        yield Doubtful(doubt=Doubt.FEW, observed=outputs, limit=LEAST_OUTPUTS, grave=True)
    span_ms = int(np.ptp(history.made_at_ms))
    if span_ms < LEAST_SPAN_MS:
        yield Doubtful(doubt=Doubt.SHORT, observed=span_ms, limit=LEAST_SPAN_MS, grave=True)
    elif span_ms < WEEK_MS:
        yield Doubtful(doubt=Doubt.NOT_A_WEEK, observed=span_ms, limit=WEEK_MS, grave=False)


def _of_feature(history: History, model: Model, name: str) -> Iterator[Doubtful]:
    feature = history.features[name]
    missing, wrong = _faulty(feature, is_number=model.features[name] == "numeric")
    is_required = name in model.required
    if is_required and missing >= WORTH_SAYING_SHARE:
        grave = missing >= RULE_USUAL_SHARE
        yield Doubtful(doubt=Doubt.MISSING, feature=name, observed=missing, limit=RULE_USUAL_SHARE, grave=grave)
    elif missing == 1.0:
        yield Doubtful(doubt=Doubt.NEVER_THERE, feature=name, observed=1.0, limit=1.0, grave=False)
    if wrong >= WORTH_SAYING_SHARE:
        grave = wrong >= RULE_USUAL_SHARE
        yield Doubtful(doubt=Doubt.WRONG_TYPE, feature=name, observed=wrong, limit=RULE_USUAL_SHARE, grave=grave)


def _faulty(feature: FeatureHistory, *, is_number: bool) -> tuple[float, float]:
    """Return the share of the rows in which a feature is missing, and in which it is of the wrong type."""
    state = feature.state
    missing = np.isin(state, (NULL_STATE, ABSENT_STATE)) | ((state == NUMBER) & np.isnan(feature.numbers) & is_number)
    wrong = state == (NAME if is_number else NUMBER)
    return float(missing.mean()), float(wrong.mean())
