"""What comes from the model and from the world, row by row, and from when on is something wrong?

Pure: a seed gives one stream. Outputs are evenly spaced in event time; a label follows after an exponential delay,
sooner when the answer was wrong, as where complaints come faster than confirmations.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from detectors.binning import NAME, NUMBER, confidence_of
from detectors.history import FeatureHistory, History, Names
from schemas.label import Label
from schemas.output import Output
from streams.runtime.demo.census import CATEGORIES, SEGMENTS, THRESHOLD, Census

Fault = Literal["unit", "rollback", "none"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MODEL = "employment"
VERSION = "2015"
ROWS_PER_MINUTE = 300
WRONG_DELAY_MS = 10 * 60_000
RIGHT_DELAY_MS = 30 * 60_000
MINUTE_MS = 60_000

MONTHS_PER_YEAR = 12
UNIT_SHARE = 0.2
OLD = 85


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """Outputs and labels of one run, by event time; arrays have one entry an output.

    Parameters
    ----------
    name
        Beginning of every prediction id.
    age
        As the model was given it: under the fault `unit` some are months.
    fault_at_ms
        Event time of the first output with the fault; None without one.
    labelled_at_ms
        When the truth about each output becomes known.
    """

    people: Census
    name: str
    made_at_ms: Ints
    labelled_at_ms: Ints
    age: Ints
    score: Floats
    fault_at_ms: int | None

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Whether the answer is wrong."""
        wrong: npt.NDArray[np.bool_] = (self.score >= THRESHOLD) != self.people.employed
        return wrong

    @property
    def begins_at_ms(self) -> int:
        """Event time of the first output."""
        return int(self.made_at_ms[0])

    def outputs(self, from_ms: int, to_ms: int) -> list[Output]:
        """Return the outputs made in `[from_ms, to_ms)`, in order."""
        start, end = np.searchsorted(self.made_at_ms, [from_ms, to_ms])
        return [self._output(row) for row in range(start, end)]

    def labels(self, from_ms: int, to_ms: int) -> list[Label]:
        """Return the labels that become known in `[from_ms, to_ms)`, in order."""
        rows = np.flatnonzero((self.labelled_at_ms >= from_ms) & (self.labelled_at_ms < to_ms))
        return [self._label(row) for row in rows[np.argsort(self.labelled_at_ms[rows], kind="stable")].tolist()]

    def history(self) -> History:
        """Return it as what a baseline is fitted to, with every label that ever comes."""
        n = len(self.made_at_ms)
        score, none = self.score.astype(np.float32), Names(np.full(n, -1, np.int32), ())
        age = FeatureHistory(np.full(n, NUMBER, np.int8), self.age.astype(np.float64), none)
        codes = {name: _names(column) for name, column in self.people.codes.items()}
        names = {
            name: FeatureHistory(np.full(n, NAME, np.int8), np.full(n, np.nan), codes[name]) for name in CATEGORIES
        }
        return History(
            made_at_ms=self.made_at_ms,
            labelled_at_ms=self.labelled_at_ms,
            wrong=self.wrong,
            score=score,
            confidence=confidence_of(score),
            version=Names(np.zeros(n, np.int32), (VERSION,)),
            segments={name: codes[name] for name in SEGMENTS},
            features={"AGEP": age, **names},
        )

    def _output(self, row: int) -> Output:
        codes = self.people.codes
        return Output(
            prediction_id=f"{self.name}-{row:06d}",
            model=MODEL,
            version=VERSION,
            made_at_ms=int(self.made_at_ms[row]),
            prediction=int(self.score[row] >= THRESHOLD),
            score=float(self.score[row]),
            segments={name: str(codes[name][row]) for name in SEGMENTS},
            features={"AGEP": int(self.age[row]), **{name: str(codes[name][row]) for name in CATEGORIES}},
        )

    def _label(self, row: int) -> Label:
        return Label(
            prediction_id=f"{self.name}-{row:06d}",
            model=MODEL,
            labelled_at_ms=int(self.labelled_at_ms[row]),
            label=int(self.people.employed[row]),
        )


def _names(column: npt.NDArray[np.int16]) -> Names:
    values, codes = np.unique(column, return_inverse=True)
    return Names(codes.astype(np.int32), tuple(map(str, values)))


def stream(
    people: Census, *, name: str, begins_at_ms: int, seed: int, fault: Fault = "none", fault_at_ms: int | None = None
) -> Stream:
    """Make one run; what lies before `fault_at_ms` is the same, whatever the fault.

    >>> from streams.runtime.demo.census import census
    >>> run = stream(census(2016), name="demo", begins_at_ms=1_768_208_400_000, seed=1)
    >>> [one.prediction_id for one in run.outputs(run.begins_at_ms, run.begins_at_ms + 400)]
    ['demo-000000', 'demo-000001']
    """
    rng = np.random.default_rng(seed)
    rows = len(people)
    made_at_ms = begins_at_ms + np.arange(rows, dtype=np.int64) * (MINUTE_MS // ROWS_PER_MINUTE)
    delay, hit, donor = rng.exponential(size=rows), rng.random(rows) < UNIT_SHARE, rng.random(rows)
    age, score = people.age.astype(np.int64), people.score
    if fault != "none":
        assert fault_at_ms is not None, "a fault begins at some time"
        broken = made_at_ms >= fault_at_ms
        if fault == "unit":
            broken &= hit
            age = np.where(broken, age * MONTHS_PER_YEAR, age)
            score = np.where(broken, _score_if_old(people, donor), score)
        else:
            score = np.where(broken, _score_of_old_version(people), score)
    wrong = (score >= THRESHOLD) != people.employed
    delay_ms = np.maximum(1, np.rint(delay * np.where(wrong, WRONG_DELAY_MS, RIGHT_DELAY_MS))).astype(np.int64)
    return Stream(
        people=people,
        name=name,
        made_at_ms=made_at_ms,
        labelled_at_ms=made_at_ms + delay_ms,
        age=age,
        score=score,
        fault_at_ms=None if fault == "none" else fault_at_ms,
    )


def _score_if_old(people: Census, chance: Floats) -> Floats:
    """Return what the classifier would say if each person were 85 or more, as it does of somebody alike who is.

    Alike is equal schooling and relationship; where nobody of that age is, equal schooling; else anybody that old.
    """
    old = np.flatnonzero(people.age >= OLD)
    schooling, relation = (people.codes[name].astype(np.int64) for name in ("SCHL", "RELP"))
    score = _drawn(people.score, old, np.zeros_like(schooling), chance)
    for alike in (schooling, schooling * 1_000 + relation):
        found = _drawn(people.score, old, alike, chance)
        score = np.where(np.isnan(found), score, found)
    return score


def _drawn(score: Floats, donors: Ints, alike: Ints, chance: Floats) -> Floats:
    """Draw for each row the score of one of the donors that are alike; NaN where there is none."""
    order = donors[np.argsort(alike[donors], kind="stable")]
    first = np.searchsorted(alike[order], alike, side="left")
    count = np.searchsorted(alike[order], alike, side="right") - first
    drawn = order[np.minimum(first + (chance * count).astype(np.int64), len(order) - 1)]
    return np.where(count > 0, score[drawn], np.nan)


def _score_of_old_version(people: Census) -> Floats:
    """Return the score of a model that knows only the decade of age and the sex: the share of employed among those."""
    cell = people.age.astype(np.int64) // 10 * 10 + people.codes["SEX"]
    share = np.bincount(cell, people.employed) / np.maximum(np.bincount(cell), 1)
    score: Floats = share[cell]
    return score
