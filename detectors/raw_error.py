"""Raw error: is this model wrong more often than at this hour of the day and this delay of the label?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detectors.alarm import Flags
from detectors.binning import DELAY_BINS, HOUR_BLOCKS
from detectors.detector import Reference, Unarmed
from detectors.stratified import LEAST_LABELS, Stratified, against_itself, without_labels

PRIOR_LABELS = 500.0
"""Labels' worth of trust in the delay's overall rate, where a block of hours was hardly seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawError:
    """Labelled errors in cells of delay and hour block of the output, each lane against its own reference.

    It does not look at scores, so that it also sees harder inputs on which the model is rightly unsure. A cell with
    few labels leans on all hours of its delay: with `n` labels, `s` wrong and the delay's rate `p`,

        rate = (s + 500 p) / (n + 500)

    Parameters
    ----------
    tolerances
        In log-odds: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "raw_error"
    needs: ClassVar[tuple[str, ...]] = ("labelled_by_delay_hour", "wrong_by_delay_hour")
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = True
    absence_counts: ClassVar[bool] = False
    least: ClassVar[str] = f"{LEAST_LABELS} labelled outputs"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Every lane that is listed."""
        return reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Labels."""
        return without_labels(reference, self.needs[0])

    def fit(self, reference: Reference, tolerance: float) -> Stratified | None:
        """Fit cell rates to the whole model, and an offset to each lane; None without labels."""
        total, wrong = (
            reference.arrays[name][reference.whole()].reshape(DELAY_BINS, HOUR_BLOCKS).astype(np.float64)
            for name in self.needs
        )
        if self.lacking(reference) is not None:
            return None
        of_delay = total.sum(axis=1, keepdims=True)
        pool = (wrong.sum(axis=1, keepdims=True) + 0.5) / (of_delay + 1)
        rate = (wrong + PRIOR_LABELS * pool) / (total + PRIOR_LABELS)
        strength = total + np.minimum(PRIOR_LABELS, of_delay)
        return against_itself(reference, self.needs[0], self.needs[1], rate.ravel(), strength.ravel(), tolerance)
