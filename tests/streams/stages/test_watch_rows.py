"""What the watches of a model remember lies in values of bytes, and comes back bit for bit."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors.alarm import Flags
from detectors.detector import grouped, uniform
from detectors.label_silence import LabelSilence
from detectors.onset import DEPTH, push
from detectors.raw_error import RawError
from detectors.watch import Watch, WatchState, begin, watch
from streams.stages.watch_rows import DTYPES, LAYOUT, RINGS, is_laid_out_alike, states_of, values_of

LANES = tuple(f"version:{number}" for number in range(5))
WATCHED = {"raw_error": np.array([1, 0, 1, 1, 0], np.bool_), "label_silence": np.array([0, 0, 0, 0, 1], np.bool_)}


class Betting:
    """As many alternatives as it is told."""

    def __init__(self, watched: Flags, alternatives: int) -> None:
        self.watched = watched
        self.weights = uniform(alternatives)
        self.groups = grouped(np.zeros(alternatives, np.int64))
        self.recovery_weights = uniform(2)


def watches(alternatives: int = 3) -> dict[str, Watch]:
    made: dict[str, Watch] = {}
    for detector in (RawError(tolerances=(0.0,)), LabelSilence(tolerances=(0.0,))):
        fitted: Any = Betting(WATCHED[detector.name], alternatives)
        made[detector.name] = watch(detector, fitted, LANES, fitted.watched, None)
    return made


def remembered(one: Watch, seed: int, ticks: int) -> WatchState:
    """Draw a state of watched lanes; the others remember nothing."""
    rng, state, of = np.random.default_rng(seed), begin(one), one.fitted.watched
    arrays = {}
    for name in DTYPES:
        array = getattr(state, name).copy()
        drawn = rng.exponential(1e-9, array.shape) if array.dtype == np.float64 else rng.integers(0, 2, array.shape)
        array[of] = (drawn * (rng.random(array.shape) < 0.7))[of]
        arrays[name] = array
    for tick in range(ticks):
        push(state.rings, tick, rng.normal(size=(len(LANES), 6)) * (rng.random((len(LANES), 1)) < 0.5) * of[:, None])
    return replace(state, ticks=ticks, **arrays)


def assert_alike(one: WatchState, other: WatchState) -> None:
    for name in (part.name for part in fields(WatchState)):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@given(seed=st.integers(0, 2**32 - 1), stops=st.lists(st.integers(0, 700), min_size=1, max_size=4))
def test_what_was_given_at_each_stop_makes_the_whole(seed: int, stops: list[int]) -> None:
    values: dict[str, bytes] = {}
    since: dict[str, int] = {}
    for ticks in sorted(stops):
        states = {name: remembered(one, seed, ticks) for name, one in watches().items()}
        values |= dict(values_of(watches(), states, since))
        since = dict.fromkeys(states, ticks)
    back = states_of(values, since, {name: begin(one) for name, one in watches().items()})
    for name, state in states.items():
        assert_alike(back[name], state)


def test_only_the_cells_of_new_ticks_are_given() -> None:
    states = {name: remembered(one, 1, 100) for name, one in watches().items()}
    given_now = dict(values_of(watches(), states, dict.fromkeys(states, 90)))
    cells = {name for name in given_now if name.startswith(RINGS)}
    assert cells == {*(f"{RINGS}/0/{tick % DEPTH}" for tick in range(90, 100)), f"{RINGS}/1/11"}
    assert set(given_now) == {LAYOUT, *DTYPES, *cells}


def test_a_detector_that_is_new_or_gone_touches_no_other() -> None:
    states = {name: remembered(one, 2, 50) for name, one in watches().items()}
    values = dict(values_of(watches(), states, {}))
    fresh = {"raw_error": begin(watches()["raw_error"]), "silence": begin(watches()["label_silence"])}
    back = states_of(values, dict.fromkeys(states, 50), fresh)
    assert set(back) == {"raw_error"}
    assert_alike(back["raw_error"], states["raw_error"])


def test_other_alternatives_are_read_as_they_were_written() -> None:
    states = {name: remembered(one, 3, 50) for name, one in watches().items()}
    values = dict(values_of(watches(), states, {}))
    assert is_laid_out_alike(values, watches())
    assert not is_laid_out_alike(values, watches(alternatives=4))
    back = states_of(values, dict.fromkeys(states, 50), {name: begin(one) for name, one in watches(4).items()})
    assert np.array_equal(back["raw_error"].mass, states["raw_error"].mass)
