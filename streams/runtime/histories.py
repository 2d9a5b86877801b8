"""How do outputs and labels from files become the history that a baseline is fitted to?

A row of the file of outputs may carry its label beside it (`label`, `labelled_at_ms`); or the labels come in a file of
their own. The first label by time counts, as in the join, and only within the model's wait.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE, NUMBER, confidence_of
from detectors.history import NO_LABEL, FeatureHistory, History, Names
from schemas.fields import MalformedRecordError, class_name
from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from streams.runtime.row_files import Row

MOST_NAMED = 20
"""Faulty rows that are named one by one; the others are counted."""


@dataclass(slots=True)
class Gathered:
    """A history in the making.

    Parameters
    ----------
    refused, refused_labels
        Rows that are no outputs, and of those of labels such as are none, as far as they are named; `refused_rows` counts
        all.
    foreign_rows
        Rows of other models.
    repeated_rows
        Outputs of an id that was there already: the first counts.
    matched_rows
        Labels in rows of their own that have an output.
    orphans, late
        Labels without an output, and those that came after the model's wait.
    """

    outputs: dict[str, Output] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    refused_labels: list[str] = field(default_factory=list)
    refused_rows: int = 0
    foreign_rows: int = 0
    repeated_rows: int = 0
    matched_rows: int = 0
    orphans: int = 0
    late: int = 0

    def refuse(self, among: list[str], place: int, error: MalformedRecordError) -> None:
        """Take note of a row that cannot be read."""
        self.refused_rows += 1
        if len(among) < MOST_NAMED:
            among.append(f"{place}: {error}")


def gather(
    rows: Iterable[Row], label_rows: Iterable[Row], model: Model, told: Callable[[int], None] | None = None
) -> Gathered:
    """Read outputs, and labels beside them or in rows of their own; `told` learns of each row."""
    found = Gathered()
    for row in rows:
        try:
            _take_output(row, model, found)
        except MalformedRecordError as error:
            found.refuse(found.refused, row.place, error)
        if told is not None:
            told(1)
    for row in label_rows:
        try:
            label = row.label()
            found.matched_rows += label.model == model.name and label.prediction_id in found.outputs
            _take_label(label, model, found)
        except MalformedRecordError as error:
            found.refuse(found.refused_labels, row.place, error)
        if told is not None:
            told(1)
    wait_ms = model.label_wait_ms
    for name, label in list(found.labels.items()):
        output = found.outputs.get(name)
        if output is None or label.labelled_at_ms - output.made_at_ms > wait_ms:
            del found.labels[name]
            found.orphans += output is None
            found.late += output is not None
    return found


def _take_output(row: Row, model: Model, found: Gathered) -> None:
    output = row.output()
    if output.model != model.name:
        found.foreign_rows += 1
        return
    if output.prediction_id in found.outputs:
        found.repeated_rows += 1
        return
    found.outputs[output.prediction_id] = output
    label = row.label_beside()
    if label is not None:
        _take_label(label, model, found)


def _take_label(label: Label, model: Model, found: Gathered) -> None:
    if label.model != model.name:
        found.foreign_rows += 1
        return
    if label.retracted:
        return
    known = found.labels.get(label.prediction_id)
    if known is None or label.labelled_at_ms < known.labelled_at_ms:
        found.labels[label.prediction_id] = label


def history_of(found: Gathered, model: Model) -> History:
    """Put what was gathered into columns."""
    outputs = list(found.outputs.values())
    labels = [found.labels.get(one.prediction_id) for one in outputs]
    score = np.array([math.nan if one.score is UNSET else one.score for one in outputs], np.float32)
    return History(
        made_at_ms=np.array([one.made_at_ms for one in outputs], np.int64),
        labelled_at_ms=np.array([NO_LABEL if one is None else one.labelled_at_ms for one in labels], np.int64),
        wrong=np.array(
            [
                label is not None and is_wrong(output.prediction, label.label, model)
                for output, label in zip(outputs, labels, strict=True)
            ],
            np.bool_,
        ),
        score=score,
        confidence=_confidence(outputs, score),
        version=names_of([one.version or None for one in outputs]),
        segments={name: names_of([one.segments.get(name) for one in outputs]) for name in model.segments},
        features={name: _feature(outputs, name) for name in model.features},
    )


def is_wrong(prediction: str | float, label: str | float, model: Model) -> bool:
    """Say whether an answer is wrong, as the join does.

    >>> classes = Model(name="m", kind="classification", threshold=0.5, sla_accuracy=None, segments=(), features={},
    ...                 required=(), label_wait_ms=1, tier="standard")
    >>> is_wrong(1, "1", classes), is_wrong("yes", "no", classes)
    (False, True)
    """
    if model.kind != "regression":
        return class_name(prediction) != class_name(label)
    if isinstance(prediction, str) or isinstance(label, str):
        return True
    return bool(abs(np.float32(prediction) - np.float32(label)) > model.threshold)


def _confidence(outputs: list[Output], score: np.ndarray) -> np.ndarray:
    """Return the greatest probability where there are any, else that of the score."""
    best = [
        math.nan if one.probabilities is UNSET or not one.probabilities else max(one.probabilities.values())
        for one in outputs
    ]
    probability = np.array(best, np.float32)
    return np.where(np.isnan(probability), confidence_of(score), probability)


def names_of(column: list[str | None]) -> Names:
    """Code a column of names.

    >>> names_of(["b", None, "b"]).codes
    array([ 0, -1,  0], dtype=int32)
    """
    codes: dict[str, int] = {}
    coded = [-1 if name is None else codes.setdefault(name, len(codes)) for name in column]
    return Names(np.array(coded, np.int32), tuple(codes))


def _feature(outputs: list[Output], name: str) -> FeatureHistory:
    state = np.full(len(outputs), ABSENT_STATE, np.int8)
    numbers = np.full(len(outputs), math.nan)
    names: list[str | None] = [None] * len(outputs)
    for row, output in enumerate(outputs):
        if name not in output.features:
            continue
        value = output.features[name]
        if value is None:
            state[row] = NULL_STATE
        elif isinstance(value, str):
            state[row] = NAME
            names[row] = value
        else:
            state[row] = NUMBER
            numbers[row] = value
    return FeatureHistory(state, numbers, names_of(names))
