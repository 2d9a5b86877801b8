"""Accuracy below SLA: is this model wrong more often than was promised?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import logit

from detectors.alarm import Flags
from detectors.detector import Reference, Unarmed
from detectors.stratified import Stratified, flat, upper_cells, without_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyBelowSla:
    """Labelled errors in cells of the delay against the accuracy that was promised at full maturity.

    What delays do to errors does not depend on how many there are: an odds ratio of the error rate is the same odds
    ratio in every cell. So the reference's cells are shifted by `logit(1 - sla) - logit(reference's error rate)`, and
    the null is "errors are no more frequent than promised". Judged for the whole model and its versions: a promise is
    not made for each segment.

    Parameters
    ----------
    tolerances
        (0.0,): a promise is not widened until history keeps it; a history that breaks it leaves the lane in shadow.
    """

    name: ClassVar[str] = "accuracy_below_sla"
    needs: ClassVar[tuple[str, ...]] = ("labelled_by_delay_confidence", "wrong_by_delay_confidence")
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = True
    absence_counts: ClassVar[bool] = False
    least: ClassVar[str] = "a promise"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Return the whole model and its versions."""
        return reference.rollups_only() & reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for a promise, and for labels."""
        if reference.model.sla_accuracy is None:
            return Unarmed.NO_PROMISE
        return without_labels(reference, self.needs[0])

    def fit(self, reference: Reference, tolerance: float) -> Stratified | None:
        """Fit the delay's shape to the whole model; None without a promise, or without labels."""
        promised = reference.model.sla_accuracy
        whole = reference.whole()
        total, wrong = (flat(reference.arrays[name], delay_only=True) for name in self.needs)
        if promised is None or self.lacking(reference) is not None:
            return None
        lanes = len(reference.lanes)
        overall = float((wrong[whole].sum() + 0.5) / (total[whole].sum() + 1))
        rate = (wrong[whole] + 0.5) / (total[whole] + 1)
        shift = float(logit(1 - promised) - logit(overall))
        lane_error = (wrong.sum(axis=1) + 0.5) / (total.sum(axis=1) + 1)
        return Stratified(
            total=self.needs[0],
            wrong=self.needs[1],
            delay_only=True,
            cells=upper_cells(rate, total[whole].astype(np.float64)) + shift,
            offsets=np.full(lanes, tolerance),
            healthy_cells=logit(rate) + shift,
            healthy_offsets=np.zeros(lanes),
            recovered=np.minimum(logit(lane_error) - logit(1 - promised), 0.0),
            watched=self.scope(reference),
            kind="accuracy_below_sla",
            sla_error=1 - promised,
        )
