"""History out of files: each output once, its first label, and only in time."""

import math

import numpy as np

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE, NUMBER
from detectors.history import NO_LABEL
from schemas.model import Model
from streams.runtime.histories import gather, history_of
from streams.runtime.row_files import Row

MODEL = Model(
    name="m",
    kind="classification",
    threshold=0.5,
    sla_accuracy=None,
    segments=("region",),
    features={"age": "numeric"},
    required=(),
    label_wait_ms=100,
    tier="standard",
)


def output(number: int, **more: object) -> Row:
    fields = {"prediction_id": f"p{number}", "model": "m", "made_at_ms": 1000 + number, "prediction": 1, **more}
    return Row(number, fields)


def label(number: int, labelled_at_ms: int, **more: object) -> Row:
    fields = {"prediction_id": f"p{number}", "model": "m", "labelled_at_ms": labelled_at_ms, "label": 0, **more}
    return Row(number, fields)


def test_a_label_beside_its_output_counts_whatever_the_models_version_is_called() -> None:
    found = gather([output(1, version="2015", label="1", labelled_at_ms=1050)], [], MODEL)
    history = history_of(found, MODEL)
    assert (found.refused_rows, history.labelled_at_ms.tolist(), history.wrong.tolist()) == (0, [1050], [False])


def test_the_first_label_by_time_counts_and_one_beyond_the_wait_does_not() -> None:
    #  p1 at 1001: labels at 1090 and 1050    p2 at 1002: label at 1103, a wait of 100 is over
    rows = [label(1, 1090, label=1), label(1, 1050), label(2, 1103), label(9, 1050), label(1, 1001, retracted=True)]
    found = gather([output(1), output(2)], rows, MODEL)
    history = history_of(found, MODEL)
    assert history.labelled_at_ms.tolist() == [1050, NO_LABEL]
    assert history.wrong.tolist() == [True, False]
    assert (found.orphans, found.late) == (1, 1)


def test_what_cannot_be_used_is_counted_by_its_kind_and_named() -> None:
    rows = [output(1), output(1, prediction=0), output(2, model="other"), output(3, score=2)]
    found = gather(rows, [], MODEL)
    assert (len(found.outputs), found.repeated_rows, found.foreign_rows, found.refused_rows) == (1, 1, 1, 1)
    assert found.refused == ["3: output.score: expected a number of at most 1.0, got 2"]
    assert found.outputs["p1"].prediction == 1


def test_each_state_of_a_feature_is_told_from_the_others() -> None:
    states = [
        output(1, features={"age": 7}),
        output(2, features={"age": "x"}),
        output(3, features={"age": None}),
        output(4),
    ]
    feature = history_of(gather(states, [], MODEL), MODEL).features["age"]
    assert feature.state.tolist() == [NUMBER, NAME, NULL_STATE, ABSENT_STATE]
    assert feature.names.codes.tolist() == [-1, 0, -1, -1]
    assert feature.numbers[0] == 7
    assert np.isnan(feature.numbers[1:]).all()


def test_confidence_is_the_greatest_probability_else_that_of_the_score() -> None:
    rows = [output(1, score=0.2), output(2, probabilities={"a": 0.6, "b": 0.4}, score=0.1), output(3)]
    confidence = history_of(gather(rows, [], MODEL), MODEL).confidence
    assert [round(float(one), 6) for one in confidence[:2]] == [0.8, 0.6]
    assert math.isnan(confidence[2])
