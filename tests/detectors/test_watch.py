"""A lane rings once, is silent while open, comes back by its own test, and nothing of before is held against it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import pytest

from detectors.alarm import Flags, Floats, Ints
from detectors.detector import Description, LaneTicks, Reference, Tick, Unarmed, grouped, uniform
from detectors.watch import Outcome, Watch, WatchState, advance, begin, carried, watch
from schemas.finding import Effect

LANES = ("*", "segment:a=1", "segment:a=2")
ALL = np.ones(3, np.bool_)


@dataclass(frozen=True)
class Told:
    """Evidence as the tick says; recovery is its opposite."""

    watched: Flags = field(default_factory=lambda: ALL)
    weights: Floats = field(default_factory=lambda: uniform(1))
    recovery_weights: Floats = field(default_factory=lambda: uniform(1))
    groups: Floats = field(default_factory=lambda: grouped(np.array([0])))

    def evidence(self, seen: LaneTicks) -> Floats:
        return seen.arrays["nats"].astype(np.float64)[:, None]

    def tally(self, seen: LaneTicks, leading: Ints) -> Floats:  # noqa: ARG002
        events = seen.arrays["events"]
        return np.stack([events, events, np.zeros(len(events))], axis=1).astype(np.float64)

    def midpoint(self, sums: Floats, leading: Ints) -> Floats:  # noqa: ARG002
        return np.full(len(sums), 0.5)

    def recovery(self, seen: LaneTicks, leading: Ints, midpoint: Floats) -> Floats:  # noqa: ARG002
        return -self.evidence(seen)

    def describe(self, lane: int, leading: int, sums: Floats, ticks: int) -> Description:  # noqa: ARG002
        effect = Effect(observed=float(sums[lane, 1]), expected=0.0, unit="events")
        return Description(kind="drift", effect=effect, message="", n=int(sums[lane, 0]))


@dataclass(frozen=True)
class Telling:
    name: ClassVar[str] = "telling"
    needs: ClassVar[tuple[str, ...]] = ("nats", "events")
    reads: ClassVar[tuple[str, ...]] = needs
    guarantee: ClassVar[Literal["budget", "none"]] = "budget"
    delay_conditioned: ClassVar[bool] = False
    absence_counts: ClassVar[bool] = False
    least: ClassVar[str] = "nothing"
    tolerances: ClassVar[tuple[float, ...]] = (0.0,)

    def scope(self, reference: Reference) -> Flags:
        return reference.listed()

    def lacking(self, reference: Reference) -> Unarmed | None:  # noqa: ARG002
        return None

    def fit(self, reference: Reference, tolerance: float) -> Told | None:  # noqa: ARG002
        return Told()


def watching(armed: Flags = ALL) -> Watch:
    rule = watch(Telling(), Told(), LANES, armed, None)
    return replace(rule, spend=np.full(3, 1e-3), recovery_spend=np.full(3, 1e-4))


def told(*nats: int, events: int = 1) -> Tick:
    arrays = {"nats": np.array(nats, np.int64), "events": np.full(3, events, np.int64)}
    return Tick(start_ms=0, end_ms=1, lanes=np.arange(3), arrays=arrays)


def run(one: Watch, *ticks: Tick, state: WatchState | None = None, **how: float) -> tuple[WatchState, list[Outcome]]:
    state, outcomes = begin(one) if state is None else state, []
    for tick in ticks:
        state, outcome = advance(
            one,
            state,
            tick,
            lump=how.get("lump", 0.0),
            disturbed=bool(how.get("disturbed")),
            blind=bool(how.get("blind")),
        )
        outcomes.append(outcome)
    return state, outcomes


def rang(outcomes: list[Outcome]) -> list[list[int]]:
    return [[alarm.lane for alarm in outcome.alarms] for outcome in outcomes]


def test_a_lane_rings_once_and_then_spends_nothing() -> None:
    _, outcomes = run(watching(), told(0, 0, 0), told(9, 0, 0), told(9, 0, 0), told(9, 0, 0))
    assert rang(outcomes) == [[], [0], [], []]
    assert [outcome.spent for outcome in outcomes] == pytest.approx([0.0, 3e-3, 2e-3, 2e-3])
    assert [outcome.lanes for outcome in outcomes] == [0, 3, 2, 2]
    assert [outcome.recovery_spent for outcome in outcomes] == pytest.approx([0, 0, 1e-4, 1e-4])


def test_it_comes_back_by_its_own_test_and_begins_at_nothing() -> None:
    state, outcomes = run(watching(), told(0, 0, 0), told(9, 0, 0), told(-12, 0, 0), told(9, 0, 0))
    assert [outcome.cleared.tolist() for outcome in outcomes] == [[], [], [0], []]
    assert rang(outcomes) == [[], [0], [], [0]]
    assert outcomes[3].alarms[0].onset.from_tick == 3  # not before it was well
    assert state.open.tolist() == [True, False, False]


def test_a_lane_in_shadow_is_counted_and_not_heard() -> None:
    state, outcomes = run(watching(np.array([False, True, True])), told(0, 0, 0), told(9, 0, 0), told(9, 0, 0))
    assert rang(outcomes) == [[], [], []]
    assert state.shadow_alarms.tolist() == [2, 0, 0]
    assert outcomes[1].spent == pytest.approx(2e-3)


def test_a_lane_spends_from_its_first_event_on() -> None:
    _, outcomes = run(watching(), told(9, 9, 9, events=0), told(9, 9, 9, events=0), told(0, 0, 0), told(0, 0, 0))
    assert rang(outcomes) == [[], [], [], []]
    assert [outcome.spent for outcome in outcomes] == pytest.approx([0, 0, 0, 3e-3])


def test_a_disturbed_lane_forgets_and_a_blind_one_does_not() -> None:
    one = watching()
    for how, left in (("disturbed", 0.0), ("blind", 1e-3 * np.exp(5))):
        state, _ = run(one, told(0, 0, 0), told(5, 5, 5))
        state, outcomes = run(one, told(9, 9, 9), state=state, **{how: 1.0})
        assert state.mass[:, 0] == pytest.approx(left)
        assert outcomes[0].spent == 0
        assert rang(outcomes) == [[]]


def test_a_lump_is_divided_over_the_armed_and_said() -> None:
    one = watching(np.array([True, True, False]))
    state, _ = run(one, told(0, 0, 0))
    state, outcomes = run(one, told(0, 0, 0), state=state, lump=0.01)
    assert outcomes[0].lump_spent == pytest.approx(0.01)
    assert state.mass[:, 0] == pytest.approx([6e-3, 6e-3, 1e-3])
    _, unheard = run(one, told(0, 0, 0), lump=0.01)
    assert unheard[0].lump_spent == 0


def test_a_new_baseline_carries_what_lanes_remember_by_name() -> None:
    one = watching()
    state, _ = run(one, told(0, 0, 0), told(9, 3, 1))
    after = carried(state, LANES, replace(one, lanes=("segment:a=2", "new", "*")))
    assert after.mass[:, 0] == pytest.approx([state.mass[2, 0], 0, 0])
    assert after.open.tolist() == [False, False, True]
    assert after.since.tolist() == [0, 2, 0]
    assert (after.rings[:, :, 2] == state.rings[:, :, 0]).all()
