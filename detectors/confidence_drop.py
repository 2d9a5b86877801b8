r"""Confidence drop: is this model less sure than it used to be?

A bet on each output that its doubt $x = 1 - \text{confidence}$ is above what is usual: it multiplies the stake by
$1 + \lambda (x - m_0)$, which is fair when the mean of $x$ is $m_0$ and loses when it is less. Doubt is read off the
confidence bin, one value a bin, so that the bet is exact on the counts.

References
----------
Waudby-Smith, I., Ramdas, A. (2024). Estimating means of bounded random variables by betting. *JRSS-B* 86, 1-27.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit, logit

from detectors.alarm import Flags, Floats, Ints
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, grouped, uniform
from schemas.finding import Effect

STAKES = (0.1, 0.2, 0.35, 0.5)
"""Shares of the largest stake that cannot lose everything, 1 / m0."""

RECOVERY_STAKES = (0.2, 0.5)
MARGIN = 0.01
"""Drop of the mean confidence that is called harmless."""

LEAST_OUTPUTS = 200
"""Outputs that a lane's reference must hold to be judged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedConfidence:
    """Doubt on lanes: `doubts` is the doubt of each confidence bin, `usual` each lane's mean, `allowed` the null.

    `bets` is what an output of a bin says, `float64[lanes, bins, stakes]`.
    """

    doubts: Floats
    usual: Floats
    allowed: Floats
    bets: Floats
    watched: Flags

    @property
    def weights(self) -> Floats:
        """Even over the stakes."""
        return uniform(len(STAKES))

    @property
    def groups(self) -> Floats:
        """Small, middle and large stakes."""
        return grouped(np.array([0, 1, 2, 2]))

    @property
    def recovery_weights(self) -> Floats:
        """Even over the stakes."""
        return uniform(len(RECOVERY_STAKES))

    def _counts(self, seen: LaneTicks) -> Ints:
        return seen.arrays["outputs_by_confidence"][:, :-1]

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values for each stake, `float64[rows, 4]`."""
        evidence: Floats = np.einsum("kb,kbg->kg", self._counts(seen), self.bets[seen.lanes])
        return evidence

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002 - one stake as good as another here
        """Count outputs, sum their doubt, and the doubt expected."""
        counts = self._counts(seen)
        outputs = counts.sum(axis=1)
        return np.stack([outputs, counts @ self.doubts, outputs * self.usual[seen.lanes]], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Mean doubt half-way between usual and seen, and no less than what the null tolerates."""
        seen = sums[:, 1] / np.maximum(sums[:, 0], 1.0)
        middle: Floats = np.clip(np.maximum((seen + self.usual) / 2, self.allowed), 0.0, 0.99)
        return middle

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Log e-values against "doubt is still at least at the midpoint", `float64[rows, 2]`."""
        stakes = np.asarray(RECOVERY_STAKES) / (1 - midpoint)[:, None]
        bets = np.log1p(-stakes[:, None, :] * (self.doubts - midpoint[:, None])[:, :, None])
        evidence: Floats = np.einsum("kb,kbg->kg", self._counts(seen), bets)
        return evidence

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say how sure it is, and how sure it used to be."""
        outputs, doubt, usual = sums[lane].tolist()
        observed, expected = 1 - doubt / max(outputs, 1), 1 - usual / max(outputs, 1)
        return Description(
            kind="confidence_drop",
            effect=Effect(observed=observed, expected=expected, unit="mean confidence"),
            message=f"mean confidence {observed:.3f}, usually {expected:.3f}",
            n=round(outputs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceDrop:
    """Mean confidence of each lane against its own reference. Blind to a world that moved: a ticket, never a page.

    Parameters
    ----------
    tolerances
        In log-odds of the mean doubt: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "confidence_drop"
    needs: ClassVar[tuple[str, ...]] = ("outputs_by_confidence",)
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = False
    least: ClassVar[str] = f"{LEAST_OUTPUTS} outputs"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Every lane that is listed."""
        return reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for outputs with a confidence."""
        return None if reference.arrays[self.needs[0]][:, :-1].any() else Unarmed.NO_CONFIDENCE

    def fit(self, reference: Reference, tolerance: float) -> FittedConfidence | None:
        """Fit each lane's mean doubt; None where outputs have no confidence."""
        counts = reference.arrays[self.needs[0]][:, :-1]
        if self.lacking(reference) is not None:
            return None
        doubts = bin_doubts(np.asarray(reference.binning.confidence_edges, dtype=np.float64))
        outputs = np.maximum(counts.sum(axis=1), 1)
        usual = counts @ doubts / outputs
        spread = np.sqrt(np.maximum(counts @ doubts**2 / outputs - usual**2, 0.0) / outputs)
        allowed = expit(logit(np.clip(usual + Z * spread + MARGIN, 1e-3, 0.95)) + tolerance)
        return FittedConfidence(
            doubts=doubts,
            usual=usual,
            allowed=allowed,
            bets=log_bets(doubts, allowed),
            watched=(counts.sum(axis=1) >= LEAST_OUTPUTS) & self.scope(reference),
        )


def log_bets(doubts: Floats, allowed: Floats) -> Floats:
    """Log of what a stake becomes by an output of each bin, `float64[lanes, bins, stakes]`.

    >>> log_bets(np.array([0.5, 0.1]), np.array([0.2]))[0].round(3)
    array([[ 0.14 ,  0.262,  0.422,  0.56 ],
           [-0.051, -0.105, -0.192, -0.288]])
    """
    stakes = np.asarray(STAKES) / allowed[:, None]
    bets: Floats = np.log1p(stakes[:, None, :] * (doubts - allowed[:, None])[:, :, None])
    return bets


def bin_doubts(edges: Floats) -> Floats:
    """One doubt for each bin: the middle of its edges.

    >>> bin_doubts(np.array([0.6, 0.8, 0.9])).round(3)
    array([0.5 , 0.3 , 0.15, 0.05])
    """
    below = max(2 * edges[0] - edges[1], 0.0) if len(edges) > 1 else edges[0]
    bounds = np.concatenate([[below], edges, [1.0]])
    doubts: Floats = np.clip(1 - (bounds[1:] + bounds[:-1]) / 2, 0.0, 1.0)
    return doubts
