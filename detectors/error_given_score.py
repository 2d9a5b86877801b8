"""Error given score: is this model wrong more often than its own confidence and the label's delay explain?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detectors.alarm import Flags
from detectors.binning import Floats
from detectors.detector import Reference, Unarmed
from detectors.stratified import LEAST_LABELS, Stratified, against_itself, flat, without_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGivenScore:
    """Labelled errors in cells of delay and confidence, each lane against its own reference.

    Sees what the model itself does not know: a world that moved, a corrupted input, a wrong scorer. It is silent where
    inputs are merely harder and the scores say so.

    Parameters
    ----------
    tolerances
        In log-odds: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "error_given_score"
    needs: ClassVar[tuple[str, ...]] = ("labelled_by_delay_confidence", "wrong_by_delay_confidence")
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
        total, wrong = (flat(reference.arrays[name], delay_only=False)[reference.whole()] for name in self.needs)
        if self.lacking(reference) is not None:
            return None
        rate: Floats = (wrong + 0.5) / (total + 1)
        return against_itself(reference, self.needs[0], self.needs[1], rate, total.astype(np.float64), tolerance)
