"""Who may ring how often for nothing?

The operator states how many false pages, and how many tickets, a week may cost over everything. That number is cut by
fixed shares down to one lane and one tick, among what is *configured* and not among what is seen, so that each owner of
a partition knows its share without asking the others, and the parts add up to the whole.

    N = 75 % lanes + 20 % reserve for deployments + 5 % recovery tests
    lanes: over models by tier 6 : 3 : 1, over signals, then 30 % / 16 roll-ups and 70 % / 500 lanes
    reserve: over models by tier;   recovery: like lanes

Shares of signals that are not built are nobody's: they are named and not spent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

Ledger = Literal["page", "ticket"]
Tier = Literal["critical", "standard", "long_tail"]

WEEK_MS = 604_800_000
LANES_SHARE, RESERVE_SHARE, RECOVERY_SHARE = 0.75, 0.20, 0.05
ROLLUPS_SHARE, FINE_SHARE = 0.30, 0.70
TIER_WEIGHTS: Mapping[str, float] = MappingProxyType({"critical": 6.0, "standard": 3.0, "long_tail": 1.0})
LUMP_PAGES = 0.01
"""What a deployment adds to the spend of its model's lanes, in expected false pages in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One line of the table of shares: a signal's share of its ledger, and the detectors that divide it evenly."""

    name: str
    ledger: Ledger
    share: float
    detectors: tuple[str, ...]


SIGNALS: tuple[Signal, ...] = (
    Signal(name="error_given_score", ledger="page", share=0.25, detectors=("error_given_score",)),
    Signal(name="raw_error", ledger="page", share=0.15, detectors=("raw_error",)),
    Signal(name="accuracy_below_sla", ledger="page", share=0.20, detectors=("accuracy_below_sla",)),
    Signal(name="integrity", ledger="page", share=0.20, detectors=("feature_integrity",)),
    Signal(name="silence", ledger="page", share=0.20, detectors=("silence",)),
    Signal(name="confidence", ledger="ticket", share=0.40, detectors=("confidence_drop",)),
    Signal(name="drift", ledger="ticket", share=0.40, detectors=()),
    Signal(name="label_pipeline", ledger="ticket", share=0.20, detectors=("label_pipeline", "label_silence")),
)
"""The shares of what pages, and of what opens tickets; each ledger's sum to 1."""


class BudgetError(ValueError):
    """The parts are more than the whole; the message names the excess. What to do: lower the shares that it names."""


@dataclass(frozen=True, slots=True)
class Spend:
    """Expected false alarms per tick of one detector on one lane: for its alarm, and for its recovery test."""

    fine: float
    rollup: float
    recovery_fine: float
    recovery_rollup: float


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the proof: what, of which model, out of which ledger, how many a week, and whether it is spent."""

    ledger: Ledger
    model: str
    what: str
    per_week: float
    spent: bool


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of a deployment.

    Parameters
    ----------
    pages_per_week, tickets_per_week
        Expected false pages, and tickets, of a week over everything.
    tick_ms
        Length of a tick.
    tiers
        Tier of each configured model by name.
    max_lanes_per_model, max_rollups_per_model
        Between how many a model's share is divided, whatever it has.

    Examples
    --------
    One model at one page a week: what the first signal spends each tick, and how many nats a lane must earn.

    >>> budget = Budget(pages_per_week=1, tickets_per_week=20, tick_ms=10_000, tiers={"m": "standard"},
    ...                 max_lanes_per_model=500, max_rollups_per_model=16)
    >>> spend = budget.spend("m", "error_given_score")
    >>> f"{spend.fine:.1e} {spend.rollup:.1e}"
    '4.3e-09 5.8e-08'
    >>> budget.reserve("m"), budget.unbuilt()
    (0.2, ('drift',))
    >>> budget.proven()["page"]
    1.0
    """

    pages_per_week: float
    tickets_per_week: float
    tick_ms: int
    tiers: Mapping[str, Tier]
    max_lanes_per_model: int
    max_rollups_per_model: int
    signals: tuple[Signal, ...] = SIGNALS

    @property
    def ticks_per_week(self) -> float:
        """Ticks of a week: 60,480 at 10 s."""
        return WEEK_MS / self.tick_ms

    @cached_property
    def _weight(self) -> float:
        return sum(TIER_WEIGHTS[tier] for tier in self.tiers.values())

    def model_share(self, model: str) -> float:
        """Share of one configured model in all of them.

        >>> budget = Budget(pages_per_week=1, tickets_per_week=20, tick_ms=10_000, tiers={"a": "critical",
        ...                 "b": "standard", "c": "long_tail"}, max_lanes_per_model=500, max_rollups_per_model=16)
        >>> [round(budget.model_share(model), 2) for model in "abc"]
        [0.6, 0.3, 0.1]
        """
        return TIER_WEIGHTS[self.tiers[model]] / self._weight

    def per_week(self, ledger: Ledger) -> float:
        """Return N of one ledger."""
        return self.pages_per_week if ledger == "page" else self.tickets_per_week

    def reserve(self, model: str) -> float:
        """Return what the deployments of a model may add in one week of event time, in expected false pages."""
        return self.pages_per_week * RESERVE_SHARE * self.model_share(model)

    def signal(self, detector: str) -> Signal:
        """Return the signal whose share a detector spends."""
        return next(one for one in self.signals if detector in one.detectors)

    def spend(self, model: str, detector: str) -> Spend:
        """Return what a detector spends each tick on one lane of a model."""
        signal = self.signal(detector)
        share = self.model_share(model) * signal.share / len(signal.detectors)
        per_tick = self.per_week(signal.ledger) * share / self.ticks_per_week
        rollup, fine = ROLLUPS_SHARE / self.max_rollups_per_model, FINE_SHARE / self.max_lanes_per_model
        return Spend(
            fine=per_tick * LANES_SHARE * fine,
            rollup=per_tick * LANES_SHARE * rollup,
            recovery_fine=per_tick * RECOVERY_SHARE * fine,
            recovery_rollup=per_tick * RECOVERY_SHARE * rollup,
        )

    def unbuilt(self) -> tuple[str, ...]:
        """Name the signals that have a share and no detector."""
        return tuple(signal.name for signal in self.signals if not signal.detectors)

    def terms(self) -> list[Term]:
        """List all parts of a week, unspent ones included."""
        terms = []
        for model in self.tiers:
            for signal in self.signals:
                whole = self.per_week(signal.ledger) * self.model_share(model) * signal.share
                for what, share in (("lanes", LANES_SHARE), ("recovery", RECOVERY_SHARE)):
                    terms.append(
                        Term(signal.ledger, model, f"{signal.name} {what}", whole * share, bool(signal.detectors))
                    )
            ledgers: tuple[Ledger, ...] = ("page", "ticket")
            for ledger in ledgers:
                kept = self.per_week(ledger) * RESERVE_SHARE * self.model_share(model)
                terms.append(Term(ledger, model, "reserve for deployments", kept, ledger == "page"))
        return terms

    def proven(self) -> dict[Ledger, float]:
        """Prove that the parts do not exceed the whole, and return their sums for each ledger.

        Raises
        ------
        BudgetError
            Names the ledger, the excess, and the shares that make it.
        """
        sums: dict[Ledger, float] = {"page": 0.0, "ticket": 0.0}
        for term in self.terms():
            sums[term.ledger] += term.per_week
        for ledger, total in sums.items():
            excess = total - self.per_week(ledger)
            if excess > 1e-9 * max(self.per_week(ledger), 1.0):
                shares = ", ".join(f"{one.name} {one.share:.0%}" for one in self.signals if one.ledger == ledger)
                raise BudgetError(
                    f"{ledger}s: expected at most {self.per_week(ledger):g} a week, the shares ({shares}) "
                    f"add up to {total:g}: {excess:g} too many"
                )
        return {ledger: round(total, 9) for ledger, total in sums.items()}

    def lump(self, model: str, reserve_spent: float) -> float:
        """Return what a deployment of a model adds, given what its earlier ones took from this week's reserve.

        >>> budget = Budget(pages_per_week=1, tickets_per_week=20, tick_ms=10_000, tiers={"m": "standard"},
        ...                 max_lanes_per_model=500, max_rollups_per_model=16)
        >>> budget.lump("m", 0.0), round(budget.lump("m", 0.196), 6), budget.lump("m", 0.2)
        (0.01, 0.004, 0.0)
        """
        return max(min(LUMP_PAGES, self.reserve(model) - reserve_spent), 0.0)
