"""Label silence: have labels stopped coming, although outputs wait for them?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detectors.alarm import LOWEST, Flags, Floats, Ints
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, grouped, uniform
from detectors.label_hazard import BY_AGE, LEAST_LABELS_IN_ALL, NEEDS, Hazards, hazards, without_hazards
from detectors.silence import QUIET_SHARE, RECOVERED_SHARES, STILL_SILENT_SHARE
from schemas.finding import Effect


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedLabelSilence:
    """Hazards of the whole model; `least` is on the safe side."""

    healthy: Hazards
    least: Floats
    tick_ms: int

    @property
    def weights(self) -> Floats:
        """One alternative: nothing comes."""
        return uniform(1)

    @property
    def groups(self) -> Floats:
        """One group."""
        return grouped(np.array([0]))

    @property
    def recovery_weights(self) -> Floats:
        """Even over full and half flow."""
        return uniform(len(RECOVERED_SHARES))

    @property
    def watched(self) -> Flags:
        """Only the whole model."""
        return self.healthy.watched()

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-value, `float64[rows, 1]`: that of so many outputs without a single label."""
        unlabelled = -(self.healthy.at_risk(seen) @ np.log1p(-self.least))
        return np.where(seen.arrays["labelled_by_age"].any(axis=1), LOWEST, unlabelled)[:, None]

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002 - there is one alternative
        """Count labels expected, labels, and labels expected again: it listens from when one was due, for none may ever come."""
        return self.healthy.tally(seen)[:, [2, 1, 2]]

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Share of the expected labels below which they have still stopped."""
        return np.full(len(sums), STILL_SILENT_SHARE)

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Log e-values against "at most the midpoint's share comes" (Poisson), `float64[rows, 2]`."""
        tally = self.healthy.tally(seen)
        more = np.asarray(RECOVERED_SHARES) / midpoint[:, None]
        evidence: Floats = tally[:, 1:2] * np.log(more) - (more - 1) * (tally[:, 2] * midpoint)[:, None]
        return evidence

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say how many labels should have come."""
        minutes = max(ticks, 1) * self.tick_ms / 60_000
        observed, expected = (float(one) / minutes for one in sums[lane, 1:])
        return Description(
            kind="label_pipeline_late",
            effect=Effect(observed=observed, expected=expected, unit="labels per minute"),
            message=f"no labels for {minutes:.1f} min, {expected:.3g} a minute expected",
            n=round(float(sums[lane, 2])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSilence:
    """Labels of the whole model against those that the waiting outputs should have got by now.

    It counts what waits and not the hour, so that a stream which has just begun, or outputs that stopped, is no
    silence of labels.

    Parameters
    ----------
    tolerances
        In log of the hazard: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "label_silence"
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

    def fit(self, reference: Reference, tolerance: float) -> FittedLabelSilence | None:
        """Fit the hazards; None with too few labels."""
        healthy = hazards(reference)
        if healthy is None:
            return None
        least = np.clip((healthy.rate - Z * healthy.error) * QUIET_SHARE * np.exp(-tolerance), 0.0, 0.9)
        return FittedLabelSilence(healthy=healthy, least=least, tick_ms=reference.binning.tick_ms)
