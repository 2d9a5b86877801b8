"""How does one detector watch the lanes of one model, tick by tick? State in, state out.

A lane is *armed* (it spends and rings), in *shadow* (it runs alike, but what it would ring is only counted), *open*
(it rang: it spends nothing and waits for its own recovery test), or *disturbed* (its null does not hold now: it spends
nothing and its mass is 0). A lane spends from its first event on, and rings only in a tick that says something about it:
what it spends in between it is owed until then.
"""

from dataclasses import dataclass, replace

import numpy as np

from detectors.alarm import RULE_SPEND, Flags, Floats, Ints, refuse_nan, step
from detectors.budget import Spend
from detectors.detector import Description, Detector, Fitted, LaneTicks, Tick
from detectors.onset import COLUMNS, GROUPS, Cells, Onset, empty_rings, onset, past, push, sums_since
from schemas.lane import Lane

RECENT_TICKS = 48
"""How far back a lane that recovered is described: 8 min at 10 s."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """A fitted detector with its shares.

    Parameters
    ----------
    armed
        `bool[lanes]`: lanes that may ring.
    spend, recovery_spend
        `float64[lanes]`: per tick, of the alarm and of the recovery test.
    weights, groups, recovery_weights
        Those of `fitted`, asked for once.
    judged
        `int64[n]`: the lanes that `fitted` watches.
    """

    detector: Detector
    fitted: Fitted
    lanes: tuple[str, ...]
    armed: Flags
    spend: Floats
    recovery_spend: Floats
    weights: Floats
    groups: Floats
    recovery_weights: Floats
    judged: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WatchState:
    """What a watch remembers; arrays have lanes first, rings third.

    Parameters
    ----------
    ticks
        Ticks taken.
    mass, recovery_mass
        M of the alarm, as of the lane's last row, and of the recovery test.
    owed
        `float64[lanes]`: what the lane spent since then.
    open, heard
        `bool[lanes]`.
    since
        `int64[lanes]`: tick number from which an onset may be dated.
    leading, midpoint
        `int64[lanes]`, `float64[lanes]`: what an open lane rang for, and what it must be better than.
    shadow_alarms
        `int64[lanes]`: how often a lane in shadow would have rung.
    """

    ticks: int
    mass: Floats
    owed: Floats
    recovery_mass: Floats
    open: Flags
    heard: Flags
    since: Ints
    leading: Ints
    midpoint: Floats
    shadow_alarms: Ints
    rings: Cells


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alarm:
    """A lane that rang: index, onset in ticks of the state, and what it means."""

    lane: int
    onset: Onset
    description: Description


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What one tick gave.

    Parameters
    ----------
    alarms
        Armed lanes that rang.
    shadow_alarms
        How many others would have.
    cleared
        `int64[n]`: open lanes whose recovery test rang.
    spent, lump_spent, recovery_spent
        Sums over armed lanes of what this tick spent; `lanes` and `testing` are how many did.
    """

    alarms: list[Alarm]
    shadow_alarms: int
    cleared: Ints
    spent: float
    lump_spent: float
    recovery_spent: float
    lanes: int
    testing: int


def watch(detector: Detector, fitted: Fitted, lanes: tuple[str, ...], armed: Flags, spend: Spend | None) -> Watch:
    """Put a fitted detector on its lanes; only where the reference holds enough can a lane be armed."""
    alarm, recovery = shares(detector, lanes, spend)
    return Watch(
        detector=detector,
        fitted=fitted,
        lanes=lanes,
        armed=armed & fitted.watched,
        spend=alarm,
        recovery_spend=recovery,
        weights=fitted.weights,
        groups=fitted.groups,
        recovery_weights=fitted.recovery_weights,
        judged=np.flatnonzero(fitted.watched),
    )


def shares(detector: Detector, lanes: tuple[str, ...], spend: Spend | None) -> tuple[Floats, Floats]:
    """Share of each lane per tick: a roll-up's, or a finer lane's; a rule has none."""
    if spend is None:
        rule = np.full(len(lanes), RULE_SPEND)
        return rule, rule
    assert detector.guarantee == "budget", detector.name
    rollup = np.array([Lane.of(name).is_rollup for name in lanes], dtype=np.bool_)
    return (
        np.where(rollup, spend.rollup, spend.fine),
        np.where(rollup, spend.recovery_rollup, spend.recovery_fine),
    )


def begin(one: Watch) -> WatchState:
    """Return the state of lanes that were never watched."""
    lanes = len(one.lanes)
    return WatchState(
        ticks=0,
        mass=np.zeros((lanes, len(one.weights))),
        owed=np.zeros(lanes),
        recovery_mass=np.zeros((lanes, len(one.recovery_weights))),
        open=np.zeros(lanes, np.bool_),
        heard=np.zeros(lanes, np.bool_),
        since=np.zeros(lanes, np.int64),
        leading=np.zeros(lanes, np.int64),
        midpoint=np.full(lanes, 0.5),
        shadow_alarms=np.zeros(lanes, np.int64),
        rings=empty_rings(lanes),
    )


def advance(
    one: Watch, state: WatchState, tick: Tick, *, lump: float, disturbed: bool, blind: bool = False
) -> tuple[WatchState, Outcome]:
    """Take one tick; the state that was given is spent.

    Its mass and rings are written on where they are: to copy them is dearer than all the rest.

    Parameters
    ----------
    lump
        Expected false alarms that a deployment adds, in all, to this tick's spend.
    disturbed
        Whether the null does not hold in this tick.
    blind
        Whether the tick was not seen at all: nothing is said, spent or forgotten.
    """
    detector, mass, rings, owed = one.detector, state.mass, state.rings, state.owed.copy()
    is_judged = not disturbed and not blind
    seen = _seen(one, tick) if is_judged else None
    if disturbed:
        mass[:], owed[:] = 0.0, 0.0

    live = one.armed & state.heard & ~state.open if is_judged else np.zeros_like(one.armed)
    spent = float(one.spend @ live)
    extra = lump if spent else 0.0
    if is_judged:
        owed += one.spend * (state.heard & ~state.open)
    if extra:
        owed += one.spend * live * (extra / spent)

    heard, leading, rang = state.heard, state.leading, np.zeros(0, np.int64)
    cell = np.zeros((len(one.lanes), COLUMNS), np.float32)
    if seen is not None:
        at = seen.lanes
        evidence = one.fitted.evidence(seen)
        refuse_nan(evidence, detector.name, one.lanes, at)
        is_whole = len(at) == len(mass)
        taken = step(mass if is_whole else mass[at], owed[at], one.weights, evidence, groups=one.groups)
        if not is_whole:
            mass[at] = taken.mass
        owed[at] = 0.0
        leading, heard = leading.copy(), heard.copy()
        leading[at] = np.where(state.open[at], leading[at], taken.leading)
        tally = one.fitted.tally(seen, leading[at])
        cell[at, :GROUPS], cell[at, GROUPS:] = taken.gain, tally
        heard[at] |= tally[:, 0] > 0
        rang = at[taken.crossed]
    push(rings, state.ticks, cell)
    ticks = state.ticks + 1

    is_armed = one.armed[rang]
    shadow, rang = rang[~is_armed], rang[is_armed]
    shadow_alarms = state.shadow_alarms
    if len(shadow):
        shadow_alarms = shadow_alarms.copy()
        shadow_alarms[shadow] += 1
    alarms, midpoint = _alarms(one, rings, ticks, state.since, rang, leading, state.midpoint)

    testing = np.flatnonzero(state.open) if is_judged else np.zeros(0, np.int64)
    recovery_mass, cleared = _recovered(one, state, seen, testing)

    is_open, since = state.open, state.since
    if len(rang) or len(cleared):
        is_open, since = is_open.copy(), since.copy()
        is_open[rang], is_open[cleared], since[cleared] = True, False, ticks
    after = replace(
        state,
        ticks=ticks,
        owed=owed,
        recovery_mass=recovery_mass,
        open=is_open,
        heard=heard,
        since=since,
        leading=leading,
        midpoint=midpoint,
        shadow_alarms=shadow_alarms,
    )
    paid = detector.guarantee == "budget"
    outcome = Outcome(
        alarms=alarms,
        shadow_alarms=len(shadow),
        cleared=cleared,
        spent=spent if paid else 0.0,
        lump_spent=extra,
        recovery_spent=float(one.recovery_spend[testing].sum()) if paid and len(testing) else 0.0,
        lanes=int(np.count_nonzero(live)),
        testing=len(testing),
    )
    return after, outcome


def _seen(one: Watch, tick: Tick) -> LaneTicks | None:
    """Rows that say something to this detector; None where there are none."""
    reads = one.detector.reads
    seen = tick.every(reads, one.judged) if one.detector.absence_counts else tick.spoken(reads, one.fitted.watched)
    return seen if len(seen.lanes) else None


def _recovered(one: Watch, state: WatchState, seen: LaneTicks | None, testing: Ints) -> tuple[Floats, Ints]:
    """Step the recovery test of the open lanes `testing`; return its M, and which of them are well again."""
    if not len(testing):
        return state.recovery_mass, testing
    evidence = np.zeros((len(testing), len(one.recovery_weights)))
    if seen is not None:
        _, place, row = np.intersect1d(testing, seen.lanes, assume_unique=True, return_indices=True)
        known = seen.picked(row)
        evidence[place] = one.fitted.recovery(known, state.leading[known.lanes], state.midpoint[known.lanes])
    refuse_nan(evidence, f"{one.detector.name} recovery", one.lanes, testing)
    mass = state.recovery_mass.copy()
    taken = step(mass[testing], one.recovery_spend[testing], one.recovery_weights, evidence)
    mass[testing] = taken.mass
    return mass, testing[taken.crossed]


def recent(one: Watch, state: WatchState, lane: int) -> Description:
    """Describe what a lane looked like in its last ticks, not before it was watched."""
    history = past(state.rings, state.ticks, np.arange(len(one.lanes)))
    since = max(state.ticks - RECENT_TICKS, 0)
    return one.fitted.describe(lane, int(state.leading[lane]), sums_since(history, since), state.ticks - since)


def _alarms(
    one: Watch, rings: Cells, ticks: int, since: Ints, rang: Ints, leading: Ints, midpoint: Floats
) -> tuple[list[Alarm], Floats]:
    """Date and describe the lanes that rang; and half-way back for each."""
    if not len(rang):
        return [], midpoint
    midpoint = midpoint.copy()
    history = past(rings, ticks, np.arange(len(one.lanes)))
    alarms = []
    for lane in rang.tolist():
        when = onset(history, lane, int(since[lane]))
        sums = sums_since(history, when.likeliest)
        midpoint[lane] = one.fitted.midpoint(sums, leading)[lane]
        described = one.fitted.describe(lane, int(leading[lane]), sums, ticks - when.likeliest)
        alarms.append(Alarm(lane=lane, onset=when, description=described))
    return alarms, midpoint


def carried(state: WatchState, was: tuple[str, ...], one: Watch) -> WatchState:
    """Carry what lanes remember over to a new baseline, by name; the rest, and what is not watched, begins anew.

    The mass goes on where the alternatives are as many: each factor is fair given the past, whichever baseline it came
    from. An open lane stays open.
    """
    index = {name: lane for lane, name in enumerate(was)}
    pairs = [(index[name], lane) for lane, name in enumerate(one.lanes) if name in index and one.fitted.watched[lane]]
    old, new = np.array(pairs, np.int64).reshape(-1, 2).T
    fresh = begin(one)

    def moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        if before.shape[1:] != after.shape[1:]:
            return after
        after = after.copy()
        after[new] = before[old]
        return after

    rings = fresh.rings.copy()
    rings[:, :, new] = state.rings[:, :, old]
    same = state.mass.shape[1:] == fresh.mass.shape[1:]
    return WatchState(
        ticks=state.ticks,
        mass=moved(state.mass, fresh.mass),
        owed=moved(state.owed, fresh.owed) if same else fresh.owed,
        recovery_mass=moved(state.recovery_mass, fresh.recovery_mass),
        open=moved(state.open, fresh.open),
        heard=moved(state.heard, fresh.heard),
        since=moved(state.since, np.full(len(one.lanes), state.ticks)),
        leading=moved(state.leading, fresh.leading) if same else fresh.leading,
        midpoint=moved(state.midpoint, fresh.midpoint),
        shadow_alarms=moved(state.shadow_alarms, fresh.shadow_alarms),
        rings=rings,
    )
