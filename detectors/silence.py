r"""Silence: has a lane stopped answering?

After $\Lambda_0$ outputs that should have come and did not, silence is $e^{\Lambda_0}$ times better explained by "it
stopped" than by chance. One output is enough to show that it did not.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detectors.alarm import LOWEST, Flags, Floats, Ints
from detectors.binning import HOUR_MS, WEEK_HOURS, week_hour
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, grouped, uniform
from schemas.finding import Effect

QUIET_SHARE = 0.5
"""Traffic at this share of the usual is still called healthy: quiet days are no outage."""

UNSEEN_SHARE = 0.05
"""Share of the mean traffic that is expected in an hour of the day which the reference never saw."""

PRIOR_TICKS = 60.0
"""Ticks' worth of trust in the same hour of other days."""

RECOVERED_SHARES = (1.0, 0.5)
STILL_SILENT_SHARE = 0.1
"""Traffic below this share of the usual is "still silent"."""

LEAST_NATS_PER_WEEK = 40.0
"""A lane from which fewer outputs a week are expected is not judged: it could never ring in time to matter."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedSilence:
    """Expected outputs per tick by hour of the week, `float64[lanes, 168]`: usual, and on the safe side."""

    usual: Floats
    least: Floats
    whole: int
    tick_ms: int
    watched: Flags

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
        """Even over full and half traffic."""
        return uniform(len(RECOVERED_SHARES))

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values, `float64[rows, 1]`: what was expected where nothing came, else none at all."""
        outputs = seen.arrays["outputs"][:, 0]
        return np.where(outputs == 0, self.least[seen.lanes, week_hour(seen.start_ms)], LOWEST)[:, None]

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002 - there is one alternative
        """Count outputs twice, and those expected."""
        outputs = seen.arrays["outputs"][:, 0].astype(np.float64)
        return np.stack([outputs, outputs, self.usual[seen.lanes, week_hour(seen.start_ms)]], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Share of the usual traffic below which a lane is still silent."""
        return np.full(len(sums), STILL_SILENT_SHARE)

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Log e-values against "at most the midpoint's share comes" (Poisson), `float64[rows, 2]`."""
        silent = self.usual[seen.lanes, week_hour(seen.start_ms)] * midpoint
        more = np.asarray(RECOVERED_SHARES) / midpoint[:, None]
        evidence: Floats = seen.arrays["outputs"] * np.log(more) - (more - 1) * silent[:, None]
        return evidence

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say how much should have come; whether the whole model is silent decides what it is called."""
        minutes = max(ticks, 1) * self.tick_ms / 60_000
        observed, expected = sums[lane, 1] / minutes, sums[lane, 2] / minutes
        outage = bool(sums[self.whole, 1] == 0)
        return Description(
            kind="model_outage" if outage else "monitoring_gap",
            effect=Effect(observed=float(observed), expected=float(expected), unit="outputs per minute"),
            message=f"no outputs for {minutes:.1f} min, {expected:.3g} a minute expected"
            + ("" if outage else "; other lanes of the model go on"),
            n=round(float(sums[lane, 2])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Outputs of each lane against its own hour of the week. It listens to a lane from its first output on.

    Versions are not listened to one by one: that the last one falls silent is what a deployment is for.

    Parameters
    ----------
    tolerances
        In log of the expected traffic: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "silence"
    needs: ClassVar[tuple[str, ...]] = ("outputs", "outputs_by_week_hour")
    reads: ClassVar[tuple[str, ...]] = ("outputs",)
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = True
    least: ClassVar[str] = f"traffic of {LEAST_NATS_PER_WEEK / QUIET_SHARE:.0f} outputs a week"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Return the whole model and each segment value, in all versions together."""
        return reference.of_any_version() & reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for traffic."""
        has = reference.arrays[self.needs[1]].any() and hours_seen(reference.reference_ms).any()
        return None if has else Unarmed.NO_TRAFFIC

    def fit(self, reference: Reference, tolerance: float) -> FittedSilence | None:
        """Fit the traffic by hour of the week; None where there was none."""
        counts = reference.arrays["outputs_by_week_hour"].astype(np.float64)
        tick_ms = reference.binning.tick_ms
        ticks = hours_seen(reference.reference_ms) * (HOUR_MS / tick_ms)
        if self.lacking(reference) is not None:
            return None
        mean = counts.sum(axis=1, keepdims=True) / ticks.sum()
        day_counts = counts.reshape(len(counts), 7, 24).sum(axis=1)
        day_ticks = ticks.reshape(7, 24).sum(axis=0)
        of_day = np.where(day_ticks > 0, day_counts / np.maximum(day_ticks, 1.0), UNSEEN_SHARE * mean)
        pool = np.tile(of_day, 7)
        usual = (counts + PRIOR_TICKS * pool) / (ticks + PRIOR_TICKS)
        least = np.maximum(usual - Z * np.sqrt(usual / (ticks + PRIOR_TICKS)), 0.0) * QUIET_SHARE * np.exp(-tolerance)
        often = least.sum(axis=1) * HOUR_MS / tick_ms >= LEAST_NATS_PER_WEEK
        return FittedSilence(
            usual=usual,
            least=least,
            whole=reference.whole(),
            tick_ms=tick_ms,
            watched=often & self.scope(reference),
        )


def hours_seen(reference_ms: tuple[int, int]) -> Floats:
    """How many hours of each hour of the week a history covers, `float64[168]`.

    >>> seen = hours_seen((96 * HOUR_MS, 97 * HOUR_MS + HOUR_MS // 2))  # from a Monday, 00:00, 90 minutes
    >>> seen[:3], float(seen.sum())
    (array([1. , 0.5, 0. ]), 1.5)
    """
    start, end = reference_ms
    edges = np.arange(start // HOUR_MS, -(-end // HOUR_MS) + 1) * HOUR_MS
    held = (np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)) / HOUR_MS
    return np.bincount(week_hour(edges[:-1]), held, WEEK_HOURS).astype(np.float64)
