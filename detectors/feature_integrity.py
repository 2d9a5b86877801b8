"""Feature integrity: do inputs come as what they are declared to be?

Two answers. `FeatureIntegrity` bets, for each feature and fault, that its rate is above the reference's, and pays for
that from the budget. `FeatureIntegrityRule` needs no statistics: where rows with a gross fault outnumber the rows
without by 50, it rings, and no bound covers it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit, logit

from detectors.alarm import LOWEST, RULE_NATS, Flags, Floats, Ints
from detectors.binning import ABOVE, ABSENT, BELOW, NULL, UNSEEN, WRONG_TYPE, logistic_shift
from detectors.detector import Description, LaneTicks, Reference, Z, grouped, uniform
from schemas.binning import Binning
from schemas.finding import Effect

NEEDS = ("feature_slots",)
RATIOS = (2.0, 5.0, 20.0, 100.0)
LEAST_RATE = 1e-3
"""Rate of a fault that is always called harmless, in faults per row."""

LEAST_ROWS = 200
"""Rows that a lane's reference must hold to be judged."""

RULE_ROWS = 50
"""By how many the rows at fault must outnumber the others, since any moment, to ring by rule."""

RULE_USUAL_SHARE = 0.25
"""A feature at fault in more of the reference's rows than this is not judged by rule."""

FAULTS = 4
_NULL, _TYPE, _VALUE, _ABSENT = range(FAULTS)
_WORDS = ("null", "of the wrong type", "outside the reference's range", "absent")
_UNSEEN_WORDS = "never seen in the reference"


def fault_counts(slots: Ints, numeric: Flags) -> tuple[Ints, Ints]:
    """Count rows, `int64[lanes, features]`, and their faults, `int64[lanes, features, 4]`.

    Slots 10 and 11 are below and above the range of a number, and two categories like others of a name.

    >>> slots = np.zeros((1, 2, 17), np.int64)
    >>> slots[0, :, [3, 10, 11, 13, 14]] = [[90, 80], [1, 10], [2, 2], [0, 5], [7, 3]]
    >>> rows, faults = fault_counts(slots, np.array([True, False]))
    >>> rows, faults
    (array([[100, 100]]), array([[[7, 0, 3, 0], [3, 0, 5, 0]]]))
    """
    value = slots[:, :, UNSEEN] + np.where(numeric, slots[:, :, BELOW] + slots[:, :, ABOVE], 0)
    return slots.sum(axis=2), np.stack([slots[:, :, NULL], slots[:, :, WRONG_TYPE], value, slots[:, :, ABSENT]], axis=2)


def fault_words(binning: Binning) -> tuple[str, ...]:
    """Say each fault of each declared feature, flat as the counts are."""
    words = []
    for feature in binning.features:
        for fault, text in enumerate(_WORDS):
            unseen = fault == _VALUE and feature.kind == "categorical"
            words.append(f"feature {feature.name} is {_UNSEEN_WORDS if unseen else text}")
    return tuple(words)


def numeric_features(binning: Binning) -> Flags:
    """Which declared features are numbers, `bool[features]`."""
    return np.array([one.kind == "numeric" for one in binning.features], dtype=np.bool_)


def _rows_and_faults(seen: LaneTicks, numeric: Flags) -> tuple[Ints, Ints]:
    rows, faults = fault_counts(seen.arrays[NEEDS[0]], numeric)
    return np.repeat(rows, FAULTS, axis=1), faults.reshape(len(faults), rows.shape[1] * FAULTS)


def _at(values: Ints | Floats, which: Ints) -> Floats:
    picked: Floats = values[np.arange(len(values)), which].astype(np.float64)
    return picked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedIntegrity:
    """Fault rates, `float64[lanes, features x faults]`: usual, and allowed.

    `loss` is what a row without the fault says, `float64[lanes, features x faults, ratios]`.
    """

    usual: Floats
    allowed: Floats
    loss: Floats
    words: tuple[str, ...]
    numeric: Flags
    watched: Flags

    @property
    def weights(self) -> Floats:
        """Even over features, faults and ratios."""
        return uniform(self.usual.shape[1] * len(RATIOS))

    @property
    def groups(self) -> Floats:
        """Small, middle and large ratios."""
        return grouped(np.tile([0, 1, 2, 2], self.usual.shape[1]))

    @property
    def recovery_weights(self) -> Floats:
        """One alternative: as before."""
        return uniform(1)

    def evidence(self, seen: LaneTicks) -> Floats:
        """Log e-values for each feature, fault and ratio, `float64[rows, features x 4 x 4]`."""
        rows, faults = _rows_and_faults(seen, self.numeric)
        evidence = rows[:, :, None] * self.loss[seen.lanes]
        row, fault = np.nonzero(faults)
        evidence[row, fault] += faults[row, fault, None] * np.log(RATIOS)
        flat: Floats = evidence.reshape(len(rows), evidence.shape[1] * len(RATIOS))
        return flat

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:
        """Count rows, faults of the leading kind, and those expected."""
        rows, faults = _rows_and_faults(seen, self.numeric)
        which = leading // len(RATIOS)
        outputs = _at(rows, which)
        return np.stack([outputs, _at(faults, which), outputs * self.usual[seen.lanes, which]], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:
        """Fault rate half-way, in log-odds, between allowed and seen; no less than allowed."""
        allowed = logit(_at(self.allowed, leading // len(RATIOS)))
        seen = logit(np.clip((sums[:, 1] + 0.5) / (sums[:, 0] + 1), 1e-6, 1 - 1e-6))
        middle: Floats = expit(np.maximum((allowed + seen) / 2, allowed + np.log(1.2)))
        return middle

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:
        """Log e-values against "the leading fault is still at least at the midpoint", `float64[rows, 1]`."""
        rows, faults = _rows_and_faults(seen, self.numeric)
        which = leading // len(RATIOS)
        well, count, others = self.allowed[seen.lanes, which], _at(faults, which), _at(rows - faults, which)
        evidence: Floats = count * np.log(well / midpoint) + others * (np.log1p(-well) - np.log1p(-midpoint))
        return evidence.reshape(-1, 1)

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say which feature is at fault, how, and in which share of the rows."""
        rows, faults, expected = sums[lane].tolist()
        words = self.words[leading // len(RATIOS)]
        observed, usual = faults / max(rows, 1), expected / max(rows, 1)
        return Description(
            kind="feature_corruption",
            effect=Effect(observed=observed, expected=usual, unit="share of outputs"),
            message=f"{words} in {observed:.1%} of outputs, {usual:.2%} usually",
            n=round(rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureIntegrity:
    """Rates of null, wrong type, out of range or unseen, and absent, for each declared feature and lane.

    Parameters
    ----------
    tolerances
        In log-odds of a fault: see `detectors.detector.Detector`.
    """

    name: ClassVar[str] = "feature_integrity"
    needs: ClassVar[tuple[str, ...]] = NEEDS
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = False

    tolerances: tuple[float, ...]

    def fit(self, reference: Reference, tolerance: float) -> FittedIntegrity | None:
        """Fit the fault rates of each lane (upper Wilson limits); None without declared features."""
        slots = reference.arrays[NEEDS[0]]
        if not slots.any():
            return None
        numeric = numeric_features(reference.binning)
        rows, faults = fault_counts(slots, numeric)
        n = np.maximum(rows, 1)[:, :, None].astype(np.float64)
        rate = (faults / n).reshape(len(slots), -1)
        upper = wilson_upper(faults / n, n).reshape(len(slots), -1)
        allowed = logistic_shift(np.clip(upper, LEAST_RATE, 0.99), float(np.exp(tolerance)))
        return FittedIntegrity(
            usual=rate,
            allowed=allowed,
            loss=row_loss(allowed),
            words=fault_words(reference.binning),
            numeric=numeric,
            watched=(rows.max(axis=1) >= LEAST_ROWS) & reference.listed(),
        )


def row_loss(allowed: Floats) -> Floats:
    """Log factor of a row for each ratio, before what a fault adds: `float64[..., ratios]`, below 0.

    >>> row_loss(np.array([0.001])).round(5)
    array([[-0.001  , -0.00399, -0.01882, -0.0944 ]])
    """
    odds = (allowed / (1 - allowed))[..., None]
    loss: Floats = np.log1p(odds) - np.log1p(np.array(RATIOS) * odds)
    return loss


def wilson_upper(rate: Floats, n: Floats) -> Floats:
    """Upper limit of a rate seen among n (Wilson 1927), one-sided 5 %.

    >>> wilson_upper(np.array([0.0, 0.08]), np.array([100.0, 100.0])).round(4)
    array([0.0262, 0.1363])
    """
    spread = np.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    upper: Floats = (rate + Z**2 / (2 * n) + Z * spread) / (1 + Z**2 / n)
    return upper


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedRule:
    """Which faults are judged: `bool[lanes, features x 2]`, missing (null or absent) and of the wrong type."""

    judged: Flags
    words: tuple[str, ...]
    numeric: Flags
    watched: Flags

    @property
    def weights(self) -> Floats:
        """Each fault by itself: no budget is divided."""
        return np.ones(self.judged.shape[1])

    @property
    def groups(self) -> Floats:
        """One group."""
        return grouped(np.zeros(self.judged.shape[1], np.int64))

    @property
    def recovery_weights(self) -> Floats:
        """One way back."""
        return np.ones(1)

    def _rows_and_faults(self, seen: LaneTicks) -> tuple[Ints, Ints]:
        rows, faults = fault_counts(seen.arrays[NEEDS[0]], self.numeric)
        gross = np.stack([faults[:, :, _NULL] + faults[:, :, _ABSENT], faults[:, :, _TYPE]], axis=2)
        return np.repeat(rows, 2, axis=1), gross.reshape(len(gross), 2 * rows.shape[1])

    def evidence(self, seen: LaneTicks) -> Floats:
        """Weight of the rows at fault less that of the others, `float64[rows, features x 2]`."""
        rows, faults = self._rows_and_faults(seen)
        excess = (2 * faults - rows) * (RULE_NATS / RULE_ROWS)
        return np.where(self.judged[seen.lanes], excess, LOWEST)

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:
        """Count rows, those at the leading fault, and none expected."""
        rows, faults = self._rows_and_faults(seen)
        return np.stack([_at(rows, leading), _at(faults, leading), np.zeros(len(rows))], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Half of the rows."""
        return np.full(len(sums), 0.5)

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Weight of the rows without the leading fault less that of the others, `float64[rows, 1]`."""
        rows, faults = self._rows_and_faults(seen)
        excess: Floats = (_at(rows, leading) - 2 * _at(faults, leading)) * (RULE_NATS / RULE_ROWS)
        return excess[:, None]

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        """Say which feature is missing, or of the wrong type, in how much."""
        rows, faults, _ = sums[lane].tolist()
        observed = faults / max(rows, 1)
        return Description(
            kind="feature_corruption",
            effect=Effect(observed=observed, expected=0.0, unit="share of outputs"),
            message=f"{self.words[leading]} in {observed:.0%} of outputs",
            n=round(rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureIntegrityRule:
    """A required feature missing, or any feature of the wrong type, in most of the rows.

    For the whole model and its versions; a single segment is the bets' affair.

    Parameters
    ----------
    tolerances
        (0.0,): a rule does not bend.
    """

    name: ClassVar[str] = "feature_integrity_rule"
    needs: ClassVar[tuple[str, ...]] = NEEDS
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "none"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = False

    tolerances: tuple[float, ...]

    def fit(self, reference: Reference, tolerance: float) -> FittedRule | None:  # noqa: ARG002
        """Take what the reference itself lacked out of the rule; None without declared features."""
        slots = reference.arrays[NEEDS[0]]
        if not slots.any():
            return None
        features = reference.binning.features
        numeric = numeric_features(reference.binning)
        rows, faults = fault_counts(slots, numeric)
        share = faults / np.maximum(rows, 1)[:, :, None]
        gross = np.stack([share[:, :, _NULL] + share[:, :, _ABSENT], share[:, :, _TYPE]], axis=2)
        wanted = np.array([[feature.required, True] for feature in features], dtype=np.bool_)
        names = [
            (f"required feature {one.name} is missing", f"feature {one.name} is of the wrong type") for one in features
        ]
        return FittedRule(
            judged=((gross < RULE_USUAL_SHARE) & wanted).reshape(len(slots), -1),
            words=tuple(text for pair in names for text in pair),
            numeric=numeric,
            watched=reference.rollups_only() & reference.listed(),
        )
