r"""How soon does an output get its label, as a rate per tick of age?

Of $R_a$ output-ticks at risk (age in bin $a$, no label yet), $L_a$ ended with a label: the hazard is $h_a = L_a / R_a$.
Unlike the delays of those labels that are in, hazards are not biased to the fast ones.

References
----------
Kaplan, E. L., Meier, P. (1958). Nonparametric estimation from incomplete observations. *JASA* 53, 457-481.
"""

from dataclasses import dataclass

import numpy as np

from detectors.alarm import Flags, Floats
from detectors.detector import LaneTicks, Reference, Unarmed
from detectors.stratified import without_labels

BY_AGE = ("at_risk_by_age", "labelled_by_age")
LABELLED = "labelled_by_delay_confidence"
"""Every label, whatever its age."""

NEEDS = (*BY_AGE, LABELLED)
LEAST_LABELS = 20
"""Labels that an age bin of the reference must hold to be judged."""

LEAST_LABELS_IN_ALL = 500
HIGHEST_HAZARD = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hazards:
    """Hazards of the label by age bin, `float64[bins]`, in labels per output-tick; the whole model only.

    `known` are the bins with enough labels; the others say nothing. `error` is one standard error.
    """

    rate: Floats
    error: Floats
    known: Flags
    whole: int
    lanes: int

    def watched(self) -> Flags:
        """Only the whole model."""
        return np.array([lane == self.whole for lane in range(self.lanes)], dtype=np.bool_)

    def at_risk(self, seen: LaneTicks) -> Floats:
        """Output-ticks at risk in the known bins, `float64[rows, bins]`."""
        waiting: Floats = seen.arrays["at_risk_by_age"][:, self.known].astype(np.float64)
        return waiting

    def labelled(self, seen: LaneTicks) -> Floats:
        """Labels in the known bins, `float64[rows, bins]`."""
        labels: Floats = seen.arrays["labelled_by_age"][:, self.known].astype(np.float64)
        return labels

    def tally(self, seen: LaneTicks) -> Floats:
        """Count labels, labels again, and labels expected, `float64[rows, 3]`."""
        labels = self.labelled(seen).sum(axis=1)
        return np.stack([labels, labels, self.at_risk(seen) @ self.rate], axis=1)


def without_hazards(reference: Reference) -> Unarmed | None:
    """Whether the whole model has too few labels, or at no age enough of them, or none at an age that is followed."""
    labelled = reference.arrays["labelled_by_age"][reference.whole()]
    if not labelled.any():
        return without_labels(reference, LABELLED) or Unarmed.LATE_LABELS
    enough = labelled.sum() >= LEAST_LABELS_IN_ALL and (labelled >= LEAST_LABELS).any()
    return None if enough else Unarmed.FEW_LABELS


def hazards(reference: Reference) -> Hazards | None:
    """Estimate from a reference; None where it has too few labels."""
    whole = reference.whole()
    at_risk, labelled = (reference.arrays[name][whole].astype(np.float64) for name in BY_AGE)
    if without_hazards(reference) is not None:
        return None
    known = labelled >= LEAST_LABELS
    rate = np.clip(labelled[known] / np.maximum(at_risk[known], 1.0), 1e-9, HIGHEST_HAZARD)
    return Hazards(
        rate=rate,
        error=np.sqrt(rate * (1 - rate) / np.maximum(at_risk[known], 1.0)),
        known=known,
        whole=whole,
        lanes=len(reference.lanes),
    )
