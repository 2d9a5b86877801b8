"""What do we know of a monitored model beforehand? What its owner declared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One `[models.NAME]` of the settings.

    Parameters
    ----------
    kind
        What an answer is: a class, a number, or a text. A label is right when it names the same class or text; for a
        regression when it is off by at most `threshold`.
    threshold
        Classification: the score from which the positive class is answered. Regression: see `kind`.
    sla_accuracy
        Accuracy at full maturity that was promised, in (0, 1); None where nothing was.
    segments
        Names of segments whose values are lanes.
    features
        Declared features and how they are read; nobody else's become columns.
    required
        Features that every row must have.
    label_wait_ms
        How long after an output its label may come.
    tier
        Weight of its share of the budget (6 : 3 : 1).
    """

    name: str
    kind: Literal["classification", "regression", "text"]
    threshold: float
    sla_accuracy: float | None
    segments: tuple[str, ...]
    features: Mapping[str, Literal["numeric", "categorical"]]
    required: tuple[str, ...]
    label_wait_ms: int
    tier: Literal["critical", "standard", "long_tail"]
