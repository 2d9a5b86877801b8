r"""Is a model wrong more often than it should be, when wrong answers are learned sooner or later than right ones?

Among the labels that are in, errors are over- or under-represented as long as the rest is on its way. Within one delay
they are not: there the odds of "wrong" are $o(p)\, f_E(a) / f_C(a)$, so that a change of the error rate $p$ by an odds
ratio is the *same* odds ratio in every cell of the delay. With $s$ errors among $n_c$ labels in cell $c$ whose odds of
being wrong are at most $o_c$,

$$\log e = s \log r - \sum_c n_c \left[\log(1 + r\,o_c) - \log(1 + o_c)\right]$$

has $E[e] \le 1$ for every $r > 1$, as long as labels come as late as they did.

References
----------
Podkopaev, A., Ramdas, A. (2022). Tracking the risk of a deployed model and detecting harmful distribution shifts.
*ICLR* (arXiv:2110.06177).
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.special import expit, logit

from detectors.alarm import Flags, Floats, Ints
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, filled, grouped, uniform
from schemas.finding import Effect

RATIOS = (1.15, 1.3, 1.5, 1.8, 2.2, 3.0, 5.0, 10.0)
GROUP_OF_RATIO = (0, 0, 1, 1, 1, 2, 2, 2)
LEAST_LABELS = 200
"""Labelled outputs that a lane's reference must hold to be judged."""

LEAST_RATIO = 1.15
"""Odds ratio below which a lane counts as recovered at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stratified:
    """Errors in cells, on lanes. Logits throughout.

    Parameters
    ----------
    total, wrong
        Names of the statistics; their bins, flat, are the cells; with `delay_only` summed over all but the delay.
    cells, offsets
        The null: in cell c of lane k at most `expit(cells[c] + offsets[k])` of the labels are wrong.
    healthy_cells, healthy_offsets
        What is expected instead, not on the safe side.
    recovered
        `float64[lanes]`: where a lane stands, relative to expected, when it is well.
    sla_error
        Where not None, effects are accuracies against this promise.
    """

    total: str
    wrong: str
    delay_only: bool
    cells: Floats
    offsets: Floats
    healthy_cells: Floats
    healthy_offsets: Floats
    recovered: Floats
    watched: Flags
    kind: str
    sla_error: float | None = None

    @property
    def weights(self) -> Floats:
        """Even over the odds ratios."""
        return uniform(len(RATIOS))

    @property
    def groups(self) -> Floats:
        """Small, middle and large ratios."""
        return grouped(np.array(GROUP_OF_RATIO))

    @property
    def recovery_weights(self) -> Floats:
        """Even over two ways of being well."""
        return uniform(2)

    def _counts(self, seen: LaneTicks, name: str) -> Ints:
        return flat(seen.arrays[name], delay_only=self.delay_only)

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values for each odds ratio, `float64[rows, 8]`."""
        total = self._counts(seen, self.total)
        errors = self._counts(seen, self.wrong).sum(axis=1)
        row, cell = filled(total)
        allowed = expit(self.cells[cell] + self.offsets[seen.lanes[row]])
        loss = total[row, cell][:, None] * _losses(allowed, np.log(RATIOS))
        evidence: Floats = errors[:, None] * np.log(RATIOS) - _by_row(loss, row, len(total))
        return evidence

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002 - one alternative as good as another here
        """Labels, errors, errors expected of a healthy lane at these delays."""
        total = self._counts(seen, self.total)
        row, cell = filled(total)
        rate = expit(self.healthy_cells[cell] + self.healthy_offsets[seen.lanes[row]])
        expected = _by_row((total[row, cell] * rate)[:, None], row, len(total))[:, 0]
        return np.stack([total.sum(axis=1), self._counts(seen, self.wrong).sum(axis=1), expected], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Half the log odds ratio that was seen, and no less than what the null itself tolerates."""
        tolerated = np.median(self.cells - self.healthy_cells) + self.offsets - self.healthy_offsets
        return np.maximum(np.maximum(_log_ratio(sums) / 2, tolerated), np.log(LEAST_RATIO))

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Log e-values against "still at least at the midpoint", `float64[rows, 2]`."""
        total = self._counts(seen, self.total)
        errors = self._counts(seen, self.wrong).sum(axis=1)
        recovered = self.recovered[seen.lanes]
        well = np.stack([recovered, (recovered + midpoint) / 2], axis=1) - midpoint[:, None]
        row, cell = filled(total)
        off = expit(self.healthy_cells[cell] + self.healthy_offsets[seen.lanes[row]] + midpoint[row])
        loss = total[row, cell][:, None] * _losses(off, well[row])
        evidence: Floats = errors[:, None] * well - _by_row(loss, row, len(total))
        return evidence

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say how often it was wrong, and how often it should have been."""
        labels, errors, expected = sums[lane].tolist()
        if self.sla_error is None:
            observed, healthy, unit = errors / max(labels, 1), expected / max(labels, 1), "errors per labelled output"
            words = f"{observed:.1%} of labelled outputs wrong, {healthy:.1%} expected at these delays"
        else:
            ratio = float(_log_ratio(sums)[lane])
            observed, healthy, unit = 1 - float(expit(logit(self.sla_error) + ratio)), 1 - self.sla_error, "accuracy"
            words = f"accuracy {observed:.1%} at full maturity, {healthy:.1%} promised"
        effect = Effect(observed=observed, expected=healthy, unit=unit)
        return Description(kind=self.kind, effect=effect, message=words, n=round(labels))


def without_labels(reference: Reference, total: str) -> Unarmed | None:
    """Whether the whole model has no label that counts."""
    return None if reference.arrays[total][reference.whole()].any() else Unarmed.NO_LABELS


def flat(counts: Ints, *, delay_only: bool) -> Ints:
    """Lay cells in one axis, `int64[lanes, cells]`."""
    cells: Ints = counts.sum(axis=2) if delay_only else counts.reshape(len(counts), prod(counts.shape[1:]))
    return cells


def _losses(rate: Floats, log_ratio: Floats) -> Floats:
    """log(1 + r o) - log(1 + o) for the odds o of each rate and ratios r, `float64[n, ratios]`.

    >>> _losses(np.array([0.05]), np.log([1.5, 3.0]))
    array([[0.02469261, 0.09531018]])
    """
    losses: Floats = np.log1p(rate[:, None] * np.expm1(log_ratio))
    return losses


def _by_row(values: Floats, row: Ints, rows: int) -> Floats:
    """Sum values of ascending rows, `float64[n, m]` to `float64[rows, m]`."""
    sums = np.zeros((rows, values.shape[1]))
    if len(row):
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        sums[row[starts]] = np.add.reduceat(values, starts, axis=0)
    return sums


def _log_ratio(sums: Floats) -> Floats:
    """Log odds ratio of observed to expected, with half an error added to each."""
    labels, errors, expected = sums[:, 0], sums[:, 1], sums[:, 2]
    observed = np.log((errors + 0.5) / np.maximum(labels - errors + 0.5, 0.5))
    healthy = np.log((expected + 0.5) / np.maximum(labels - expected + 0.5, 0.5))
    ratio: Floats = observed - healthy
    return ratio


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offsets:
    """How far each lane lies from the cells of its model: one Newton step of its log-odds, and that step's error."""

    estimate: Floats
    error: Floats
    watched: Flags


def lane_offsets(reference: Reference, total: Ints, wrong: Ints, cells: Floats) -> Offsets:
    """Estimate each lane's log-odds relative to `cells` (logits), from counts `int64[lanes, cells]`.

    With O errors where E are expected with variance V, the step is (O - E) / V, its error 1 / sqrt(V).
    """
    rate = expit(cells)
    expected, variance = total @ rate, total @ (rate * (1 - rate))
    safe = np.maximum(variance, 1.0)
    estimate = np.clip((wrong.sum(axis=1) - expected) / safe, -4.0, 4.0)
    watched = (total.sum(axis=1) >= LEAST_LABELS) & reference.listed()
    return Offsets(estimate=estimate, error=1 / np.sqrt(safe), watched=watched)


def upper_cells(rate: Floats, n: Floats) -> Floats:
    """Logits of cell rates, one standard error up; Z more come with each lane's offset."""
    upper = rate + np.sqrt(rate * (1 - rate) / np.maximum(n, 1.0))
    safe: Floats = logit(np.clip(upper, 1e-4, 0.9999))
    return safe


def against_itself(
    reference: Reference, total: str, wrong: str, rate: Floats, strength: Floats, tolerance: float
) -> Stratified:
    """Build the test of each lane against its own reference, from cell rates and the events behind each."""
    cells = upper_cells(rate, strength)
    healthy = logit(np.clip(rate, 1e-4, 0.9999))
    counts, errors = flat(reference.arrays[total], delay_only=False), flat(reference.arrays[wrong], delay_only=False)
    safe, fair = (lane_offsets(reference, counts, errors, one) for one in (cells, healthy))
    return Stratified(
        total=total,
        wrong=wrong,
        delay_only=False,
        cells=cells,
        offsets=safe.estimate + Z * safe.error + tolerance,
        healthy_cells=healthy,
        healthy_offsets=fair.estimate,
        recovered=np.zeros(len(reference.lanes)),
        watched=safe.watched,
        kind="error_above_baseline",
    )
