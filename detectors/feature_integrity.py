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
from detectors.detector import Description, LaneTicks, Reference, Unarmed, Z, filled, grouped, uniform
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

FAULTS, GROSS = 4, 2
_NULL, _TYPE, _VALUE, _ABSENT = range(FAULTS)
MAX_NAME = 80
"""Characters of a feature's name in what is said of it."""
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
            words.append(f"feature {_cut(feature.name)} is {_UNSEEN_WORDS if unseen else text}")
    return tuple(words)


def _cut(name: str) -> str:
    """Cut a feature's name, so that what follows it is read too.

    >>> _cut("age"), len(_cut("a" * 512))
    ('age', 80)
    """
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def numeric_features(binning: Binning) -> Flags:
    """Which declared features are numbers, `bool[features]`."""
    return np.array([one.kind == "numeric" for one in binning.features], dtype=np.bool_)


def _without_features(reference: Reference) -> Unarmed | None:
    return None if reference.arrays[NEEDS[0]].any() else Unarmed.NO_FEATURES


def _of_one(seen: LaneTicks, feature: Ints, numeric: Flags) -> tuple[Ints, Ints]:
    """Count rows, `int64[rows]`, and faults, `int64[rows, 4]`, of one feature of each row."""
    slots = seen.arrays[NEEDS[0]][np.arange(len(feature)), feature]
    rows, faults = fault_counts(slots[:, None], numeric[feature, None])
    return rows[:, 0], faults[:, 0]


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
        rows, faults = fault_counts(seen.arrays[NEEDS[0]], self.numeric)
        faults = faults.reshape(len(rows), rows.shape[1] * FAULTS)
        evidence = self.loss[seen.lanes]
        of_feature = evidence.reshape(*rows.shape, FAULTS * len(RATIOS))
        of_feature *= rows[:, :, None]
        row, fault = filled(faults)
        evidence[row, fault] += faults[row, fault, None] * np.log(RATIOS)
        flat: Floats = evidence.reshape(len(rows), evidence.shape[1] * len(RATIOS))
        return flat

    def _leading(self, seen: LaneTicks, leading: Ints) -> tuple[Ints, Floats, Ints]:
        """Count rows, and faults of the leading kind, and say which that is."""
        which = leading // len(RATIOS)
        rows, faults = _of_one(seen, which // FAULTS, self.numeric)
        return rows, _at(faults, which % FAULTS), which

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:
        """Count rows, faults of the leading kind, and those expected."""
        rows, faults, which = self._leading(seen, leading)
        return np.stack([rows, faults, rows * self.usual[seen.lanes, which]], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:
        """Fault rate half-way, in log-odds, between allowed and seen; no less than allowed."""
        allowed = logit(_at(self.allowed, leading // len(RATIOS)))
        seen = logit(np.clip((sums[:, 1] + 0.5) / (sums[:, 0] + 1), 1e-6, 1 - 1e-6))
        middle: Floats = expit(np.maximum((allowed + seen) / 2, allowed + np.log(1.2)))
        return middle

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:
        """Log e-values against "the leading fault is still at least at the midpoint", `float64[rows, 1]`."""
        rows, faults, which = self._leading(seen, leading)
        well = self.allowed[seen.lanes, which]
        evidence: Floats = faults * np.log(well / midpoint) + (rows - faults) * (np.log1p(-well) - np.log1p(-midpoint))
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
    least: ClassVar[str] = f"{LEAST_ROWS} outputs"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Every lane that is listed."""
        return reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for declared features."""
        return _without_features(reference)

    def fit(self, reference: Reference, tolerance: float) -> FittedIntegrity | None:
        """Fit the fault rates of each lane (upper Wilson limits); None without declared features."""
        slots = reference.arrays[NEEDS[0]]
        if self.lacking(reference) is not None:
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
            watched=(rows.max(axis=1) >= LEAST_ROWS) & self.scope(reference),
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


def _gross(faults: np.ndarray) -> np.ndarray:
    """Return what is missing (null or absent), and what is of the wrong type; faults and these are the last axis."""
    return np.stack([faults[..., _NULL] + faults[..., _ABSENT], faults[..., _TYPE]], axis=-1)


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

    def evidence(self, seen: LaneTicks) -> Floats:
        """Weight of the rows at fault less that of the others, `float64[rows, features x 2]`."""
        rows, faults = fault_counts(seen.arrays[NEEDS[0]], self.numeric)
        excess = (2 * _gross(faults) - rows[:, :, None]) * (RULE_NATS / RULE_ROWS)
        judged = self.judged[seen.lanes]
        return np.where(judged, excess.reshape(judged.shape), LOWEST)

    def _leading(self, seen: LaneTicks, leading: Ints) -> tuple[Ints, Floats]:
        """Count rows, and those at the leading fault."""
        rows, faults = _of_one(seen, leading // GROSS, self.numeric)
        return rows, _at(_gross(faults), leading % GROSS)

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:
        """Count rows, those at the leading fault, and none expected."""
        rows, faults = self._leading(seen, leading)
        return np.stack([rows, faults, np.zeros(len(rows))], axis=1)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        """Half of the rows."""
        return np.full(len(sums), 0.5)

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        """Weight of the rows without the leading fault less that of the others, `float64[rows, 1]`."""
        rows, faults = self._leading(seen, leading)
        excess: Floats = (rows - 2 * faults) * (RULE_NATS / RULE_ROWS)
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
    least: ClassVar[str] = "declared features"

    tolerances: tuple[float, ...]

    def scope(self, reference: Reference) -> Flags:
        """Return the whole model and its versions."""
        return reference.rollups_only() & reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:
        """Look for declared features."""
        return _without_features(reference)

    def fit(self, reference: Reference, tolerance: float) -> FittedRule | None:  # noqa: ARG002
        """Take what the reference itself lacked out of the rule; None without declared features."""
        slots = reference.arrays[NEEDS[0]]
        if self.lacking(reference) is not None:
            return None
        features = reference.binning.features
        numeric = numeric_features(reference.binning)
        rows, faults = fault_counts(slots, numeric)
        share = faults / np.maximum(rows, 1)[:, :, None]
        gross = _gross(share)
        wanted = np.array([[feature.required, True] for feature in features], dtype=np.bool_)
        names = [
            (f"required feature {_cut(one.name)} is missing", f"feature {_cut(one.name)} is of the wrong type")
            for one in features
        ]
        return FittedRule(
            judged=((gross < RULE_USUAL_SHARE) & wanted).reshape(len(slots), -1),
            words=tuple(text for pair in names for text in pair),
            numeric=numeric,
            watched=self.scope(reference),
        )
