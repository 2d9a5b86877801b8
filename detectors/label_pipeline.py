r"""Label pipeline: do labels come sooner or later than they used to?

The twin of the error detectors: those are right only while labels come as late as they did, and this one says when
they do not. With $R_a$ outputs at risk and $L_a$ labels in age bin $a$, allowed hazard $h$ and ratio $\rho$,

$$\log e = \sum_a L_a \log\frac{\rho h_a}{h_a} + (R_a - L_a) \log\frac{1 - \rho h_a}{1 - h_a}$$

is fair or worse whenever the hazards are at most $h$ ($\rho > 1$) or at least $h$ ($\rho < 1$).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detectors.alarm import Flags, Floats, Ints
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, grouped, uniform
from detectors.label_hazard import (
    BY_AGE,
    HIGHEST_HAZARD,
    LEAST_LABELS_IN_ALL,
    NEEDS,
    Hazards,
    hazards,
    without_hazards,
)
from schemas.finding import Effect

RATIOS = (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)
MARGIN = 0.03
"""A change of the hazard that is called harmless."""

LEAST_RATIO = 1.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedPipeline:
    """Hazards of the whole model: `slowest` and `fastest` are the bounds of what is called healthy."""

    healthy: Hazards
    slowest: Floats
    fastest: Floats

    @property
    def weights(self) -> Floats:
        """Even over the ratios."""
        return uniform(len(RATIOS))

    @property
    def groups(self) -> Floats:
        """Slower, a little either way, faster."""
        return grouped(np.array([0, 0, 1, 1, 2, 2]))

    @property
    def recovery_weights(self) -> Floats:
        """One alternative: as before."""
        return uniform(1)

    @property
    def watched(self) -> Flags:
        """Only the whole model."""
        return self.healthy.watched()

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values for each ratio, `float64[rows, 6]`."""
        ratio = np.array(RATIOS)[:, None]
        allowed = np.where(ratio > 1, self.fastest, self.slowest)
        broken = np.clip(ratio * allowed, 0.0, HIGHEST_HAZARD)
        labels, at_risk = self.healthy.labelled(seen), self.healthy.at_risk(seen)
        came, stayed = _log_ratios(broken, allowed)
        evidence: Floats = labels @ came.T + (at_risk - labels) @ stayed.T
        return evidence

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002 - the same for each ratio
        """Count labels, labels again, and labels expected."""
        return self.healthy.tally(seen)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:
        """Half the log ratio of labels to labels expected, in the direction that leads."""
        seen = np.log((sums[:, 1] + 0.5) / (sums[:, 2] + 0.5)) / 2
        least = np.log(LEAST_RATIO)
        faster = np.array(RATIOS)[leading] > 1
        middle: Floats = np.where(faster, np.maximum(seen, least), np.minimum(seen, -least))
        return middle

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Log e-values against "still at least as far off as the midpoint", `float64[rows, 1]`."""
        off = np.clip(self.healthy.rate * np.exp(midpoint)[:, None], 1e-12, HIGHEST_HAZARD)
        labels, at_risk = self.healthy.labelled(seen), self.healthy.at_risk(seen)
        came, stayed = _log_ratios(self.healthy.rate, off)
        evidence: Floats = (labels * came + (at_risk - labels) * stayed).sum(axis=1, keepdims=True)
        return evidence

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say how many labels came, and how many should have."""
        labels, expected = float(sums[lane, 1]), float(sums[lane, 2])
        pace = "sooner" if RATIOS[leading] > 1 else "later"
        return Description(
            kind="label_pipeline_late",
            effect=Effect(observed=labels, expected=expected, unit="labels"),
            message=f"labels come {pace} than they did: {labels:.0f} since then, {expected:.0f} expected",
            n=round(expected),
        )


def _log_ratios(broken: Floats, allowed: Floats) -> tuple[Floats, Floats]:
    """Log likelihood ratios of one output-tick that ended with a label, and of one that did not."""
    return np.log(broken / allowed), np.log1p(-broken) - np.log1p(-allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPipeline:
    """Hazard of the label by age, both ways, for the whole model. A ticket: while it is open, errors are not judged.

    Parameters
    ----------
    tolerances
        In log of the hazard: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "label_pipeline"
    needs: ClassVar[tuple[str, ...]] = NEEDS
    reads: ClassVar[tuple[str, ...]] = BY_AGE
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = False
    least: ClassVar[str] = f"{LEAST_LABELS_IN_ALL} labels"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Return the whole model alone."""
        return reference.whole_only()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for labels."""
        return without_hazards(reference)

    def fit(self, reference: Reference, tolerance: float) -> FittedPipeline | None:
        """Fit the hazards; None with too few labels."""
        healthy = hazards(reference)
        if healthy is None:
            return None
        slowest = (healthy.rate - Z * healthy.error) * (1 - MARGIN) * np.exp(-tolerance)
        fastest = (healthy.rate + Z * healthy.error) * (1 + MARGIN) * np.exp(tolerance)
        return FittedPipeline(
            healthy=healthy,
            slowest=np.clip(slowest, 1e-12, 0.9),
            fastest=np.clip(fastest, 1e-12, HIGHEST_HAZARD),  # where all labels come at once, none comes sooner
        )
