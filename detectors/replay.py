"""Which lanes would have rung, had a healthy history been watched?

Nobody is told and no lane opens: what rings begins again. It gives what `detectors.watch` gives tick by tick, but costs
by rows: a lane is taken only through the ticks that say something of it, many at one go. Where absence counts, and for
labels that are waited for, that is every tick.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from detectors.alarm import Floats, Ints, march, refuse_nan
from detectors.history import CountedHistory, Stretch
from detectors.statistics import STATISTICS
from detectors.watch import Watch

LENGTH = 256
"""Ticks that are taken at one go."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replayed:
    """What a replay left behind.

    Parameters
    ----------
    alarms
        `int64[lanes]`: how often each rang.
    mass
        `float64[lanes, alternatives]`: M after each lane's last row.
    owed
        `float64[lanes]`: what it spent since then.
    """

    alarms: Ints
    mass: Floats
    owed: Floats


def replay(one: Watch, counts: CountedHistory, first: int, told: Callable[[int], None] | None = None) -> Replayed:
    """Take a history from tick number `first` on; `told` learns now and then up to which tick it was taken.

    Where absence counts, it is taken to its last output: that none come after it says nothing.
    """
    stop = counts.output_ticks if one.detector.absence_counts else counts.ticks
    lanes = len(one.lanes)
    mass, alarms = np.zeros((lanes, len(one.weights))), np.zeros(lanes, np.int64)
    heard, last = np.zeros(lanes, np.bool_), np.full(lanes, first - 1)
    for stretch in _stretches(one, counts, first, stop) if len(one.judged) else ():
        at, there = stretch.lanes, stretch.ticks >= 0
        evidence = np.zeros((*there.shape, len(one.weights)))
        evidence[there] = said = one.fitted.evidence(stretch.seen)
        refuse_nan(said, one.detector.name, one.lanes, stretch.seen.lanes)
        spoke = np.zeros(there.shape, np.bool_)
        spoke[there] = one.fitted.tally(stretch.seen, np.zeros(len(said), np.int64))[:, 0] > 0
        heard_by = np.logical_or.accumulate(np.vstack([heard[at], spoke]))
        waited = np.diff(np.vstack([last[at], stretch.ticks]), axis=0) * (there & heard_by[:-1])
        taken = march(mass[at], waited * one.spend[at], one.weights, evidence)
        mass[at], heard[at] = taken.mass, heard_by[-1]
        alarms[at] += taken.rang.sum(axis=0)
        last[at] = stretch.ticks.max(axis=0)
        if told is not None:
            told(int(last[at].max()))
    return Replayed(alarms=alarms, mass=mass, owed=one.spend * heard * (stop - 1 - last))


def _stretches(one: Watch, counts: CountedHistory, first: int, stop: int) -> Iterator[Stretch]:
    width = len(one.weights)
    if one.detector.absence_counts or any(STATISTICS[name].of == "ages" for name in one.detector.reads):
        return counts.every(one.detector.reads, one.judged, first, stop, length=LENGTH, width=width)
    return counts.spoken(one.detector.reads, one.judged, first, length=LENGTH, width=width)
