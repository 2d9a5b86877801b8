"""What does the join receive? Columns of one topic and one partition."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]

NOT_LOOKED_AT, IN_PLACE, MISPLACED = -1, 0, 1
"""Whether a row lies in the partition of its id."""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A column of names as codes: row `i` is `values[codes[i]]`; code -1 is absent.

    >>> Coded(np.array([0, 1, 0, -1]), ("a", "b")).at(1)
    'b'
    """

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    def at(self, row: int) -> str | None:
        """Name of one row, None when absent."""
        code = int(self.codes[row])
        return None if code < 0 else self.values[code]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureColumn:
    """One declared feature over the rows of a batch.

    Parameters
    ----------
    state
        `int8[n]`: 0 a number, 1 a name, 2 null, 3 absent.
    numbers
        `float64[n]`, NaN where the row has no number.
    names
        Names, code -1 where the row has none.
    """

    state: npt.NDArray[np.int8]
    numbers: npt.NDArray[np.float64]
    names: Coded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputBatch:
    """Rows of `model-outputs` from one partition, in order of place; every array has `n` entries.

    Parameters
    ----------
    partition, start, end
        The partition, and the offsets `[start, end)` that this batch covers, gaps and refused messages included.
    offset, row
        Place of each row: its message's offset, and its index in that message.
    broker_ms
        The broker's time of the message.
    id_hash
        64-bit hash of (model, prediction id), stable across processes and machines.
    misplaced
        `int8[n]`: `MISPLACED` where the id belongs to another partition, `IN_PLACE` where not, `NOT_LOOKED_AT` elsewhere.
        Which rows are looked at follows from the row alone.
    model, version
        Names, coded.
    prediction
        `uint32[n]`: hash of the class name (`schemas.fields.class_name`), or the bits of the float32 for regression.
    content
        `uint32[n]`: hash of what the model said (prediction, score, time), to tell a copy from a conflict.
    score, confidence
        In [0, 1], NaN where absent. Confidence is max of the probabilities, else max(p, 1 - p) of the score.
    segments, features
        The declared ones only, by name.
    dead
        Rows of these messages that were refused (their dead letters are already made).
    """

    partition: int
    start: int
    end: int
    offset: Ints
    row: npt.NDArray[np.int32]
    broker_ms: Ints
    id_hash: npt.NDArray[np.uint64]
    misplaced: npt.NDArray[np.int8]
    made_at_ms: Ints
    model: Coded
    version: Coded
    prediction: npt.NDArray[np.uint32]
    content: npt.NDArray[np.uint32]
    score: Singles
    confidence: Singles
    segments: Mapping[str, Coded]
    features: Mapping[str, FeatureColumn]
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelBatch:
    """Rows of `labels` from one partition, in order of place; fields as in `OutputBatch`.

    Parameters
    ----------
    label
        `uint32[n]`: like `OutputBatch.prediction`.
    version
        Explicit version, -1 where absent.
    made_at_ms
        Time of the output where the label names it, -1 where not.
    retracted
        `bool[n]`.
    """

    partition: int
    start: int
    end: int
    offset: Ints
    row: npt.NDArray[np.int32]
    broker_ms: Ints
    id_hash: npt.NDArray[np.uint64]
    misplaced: npt.NDArray[np.int8]
    labelled_at_ms: Ints
    model: Coded
    label: npt.NDArray[np.uint32]
    version: Ints
    made_at_ms: Ints
    retracted: npt.NDArray[np.bool_]
    dead: int


BatchT = TypeVar("BatchT", OutputBatch, LabelBatch)


def merged(one: BatchT, other: BatchT) -> BatchT:
    """Put two batches of different messages of the same stretch together, in order of place.

    Raises
    ------
    ValueError
        They are not of the same stretch.
    """
    if (one.partition, one.start, one.end) != (other.partition, other.start, other.end):
        raise ValueError(
            f"{one.partition}: [{one.start}, {one.end}) is not {other.partition}: [{other.start}, {other.end})"
        )
    order = np.argsort(np.concatenate([one.offset, other.offset]), kind="stable")
    parts = {field.name: _both(getattr(one, field.name), getattr(other, field.name), order) for field in fields(one)}
    return type(one)(**{**parts, "partition": one.partition, "start": one.start, "end": one.end})


def _both(one: Any, other: Any, order: npt.NDArray[np.int64]) -> Any:  # noqa: ANN401 - whatever a batch has
    match one:
        case np.ndarray():
            return np.concatenate([one, other])[order]
        case Coded():
            numbers = {name: code for code, name in enumerate(dict.fromkeys((*one.values, *other.values)))}
            anew = np.array([*(numbers[name] for name in other.values), -1], np.int32)
            return Coded(np.concatenate([one.codes, anew[other.codes]])[order], tuple(numbers))
        case FeatureColumn():
            return FeatureColumn(
                *(_both(getattr(one, field.name), getattr(other, field.name), order) for field in fields(one))
            )
        case Mapping():
            return {name: _both(column, other[name], order) for name, column in one.items()}
        case _:  # a count
            return one + other
