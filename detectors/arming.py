"""Which lanes may ring, and why not the others?

The history is replayed through the detectors fitted to it, with a multiple of each lane's share; where a lane rings in
its own healthy past, the detector's null is widened step by step, and what still rings stays in shadow. The width is
written into the baseline: it says what the baseline hides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from detectors.alarm import Flags, Ints
from detectors.budget import Budget, Spend
from detectors.detector import Detector, Reference, Unarmed
from detectors.history import CountedHistory
from detectors.replay import replay
from detectors.table import DETECTORS
from detectors.watch import watch
from schemas.lane import Lane

REPLAY_MS = 14 * 86_400_000
"""How much of a history is replayed, counted back from its last output; what is older is in the sums. A longer replay at
ten times each lane's share would ring by chance."""

REPLAY_SEVERITY = 10.0
"""How many times its share a lane spends in the replay: the baseline was fitted to what it is tried on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many lanes a model may have, and how many of them roll-ups that ring."""

    max_lanes_per_model: int
    max_rollups_per_model: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arming:
    """What a replay decided.

    Parameters
    ----------
    armed
        By detector that could be fitted, `bool[lanes]`.
    tolerance
        By the same, how wide its null was made, in log-odds.
    unarmed
        By detector, why a lane for which it is meant is not armed.
    """

    armed: Mapping[str, Flags]
    tolerance: Mapping[str, float]
    unarmed: Mapping[str, Mapping[str, Unarmed]]


def arm(
    counts: CountedHistory, reference: Reference, budget: Budget, told: Callable[[str, float], None] | None = None
) -> Arming:
    """Replay each detector until it is silent or as wide as it may be."""
    bounds = Bounds(max_lanes_per_model=budget.max_lanes_per_model, max_rollups_per_model=budget.max_rollups_per_model)
    may_ring = armable(reference.lanes, reference.arrays["outputs"][:, 0], bounds)
    armed: dict[str, Flags] = {}
    tolerance: dict[str, float] = {}
    unarmed: dict[str, dict[str, Unarmed]] = {}
    for name, detector in DETECTORS.items():
        lacking = detector.lacking(reference)
        watched = rang = np.zeros_like(may_ring)
        for width in detector.tolerances if lacking is None else ():
            watched, rang = _ringing(detector, width, counts, reference, budget, told)
            rang &= may_ring
            armed[name], tolerance[name] = may_ring & watched & ~rang, width
            if not rang.any():
                break
        reasons = (
            (rang, Unarmed.RANG),
            (~watched, lacking or Unarmed.FEW_ROWS),
            (~may_ring, Unarmed.BUSIER_LANES),
        )
        unarmed[name] = {
            reference.lanes[lane]: next(why for flags, why in reasons if flags[lane])
            for lane in np.flatnonzero(detector.scope(reference) & ~armed.get(name, rang)).tolist()
        }
    return Arming(armed=armed, tolerance=tolerance, unarmed=unarmed)


def armable(lanes: tuple[str, ...], traffic: Ints, bounds: Bounds) -> Flags:
    """Which lanes may ring: the busiest roll-ups and the busiest finer lanes, as many as the budget was divided by."""
    rollup = np.array([Lane.of(name).is_rollup for name in lanes], dtype=np.bool_)
    order = np.argsort(-traffic, kind="stable")
    armed = np.zeros(len(lanes), np.bool_)
    for kind, most in ((True, bounds.max_rollups_per_model), (False, bounds.max_lanes_per_model)):
        armed[order[rollup[order] == kind][:most]] = True
    return armed


def spend_of(budget: Budget, model: str, detector: Detector) -> Spend | None:
    """Shares of a detector; None where it rings by rule."""
    return None if detector.guarantee == "none" else budget.spend(model, detector.name)


def _ringing(
    detector: Detector,
    width: float,
    counts: CountedHistory,
    reference: Reference,
    budget: Budget,
    told: Callable[[str, float], None] | None,
) -> tuple[Flags, Flags]:
    """Say which lanes are watched, and which of them ring in the replay."""
    fitted = detector.fit(reference, width)
    assert fitted is not None, detector.name
    first = max(counts.output_ticks - REPLAY_MS // budget.tick_ms, 0)
    share = spend_of(budget, reference.model.name, detector)
    shadow = watch(detector, fitted, reference.lanes, np.zeros(len(reference.lanes), np.bool_), share)
    one = replace(shadow, spend=shadow.spend * (1.0 if share is None else REPLAY_SEVERITY))
    tell = None if told is None else partial(_tell, told, f"replaying {detector.name}", first, counts.ticks)
    return fitted.watched, replay(one, counts, first, tell).alarms > 0


def _tell(told: Callable[[str, float], None], what: str, first: int, ticks: int, tick: int) -> None:
    told(what, (tick - first) / (ticks - first))
