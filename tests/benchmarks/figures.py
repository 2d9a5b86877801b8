"""What is a figure of a benchmark? The median of some runs beside their spread, and what it is held against."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal


class UnfitError(Exception):
    """A run that gives no figure: rows are missing, counts are wrong, or a process ended."""


def the_one(results: Iterable[str], of: str) -> str:
    """Return the result of all runs of something.

    >>> the_one(["a", "a"], "flat")
    'a'
    >>> the_one(["a", "b"], "flat")
    Traceback (most recent call last):
    tests.benchmarks.figures.UnfitError: flat: the same input gave different results: ['a', 'b']
    """
    found = set(results)
    if len(found) != 1:
        raise UnfitError(f"{of}: the same input gave different results: {sorted(found)}")
    return found.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    Parameters
    ----------
    runs
        What each run gave; a ratio is of one run. Nothing is left out.
    unit
        Empty for a ratio.
    target
        `("≥", 0.55)`: what its median is held against; None where it is only reported.
    beside
        What stands beside it, by name, for each run: the same share by processor time, bytes on disk. A name that ends
        in `_ms` is said with that unit.
    note
        What a reader has to know.

    Examples
    --------
    >>> one = Figure(name="join_single_share", runs=[0.61, 0.58, 0.6], unit="", target=("≥", 0.55))
    >>> one.median, one.spread, one.is_met
    (0.6, (0.58, 0.61), True)
    >>> Figure(name="restore_10m_s", runs=[5.5], unit="s", target=("≤", 5.0)).is_met
    False
    """

    name: str
    runs: Sequence[float]
    unit: str
    target: tuple[Literal["≥", "≤"], float] | None = None
    beside: dict[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """The figure itself."""
        return median(self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest of the runs."""
        return min(self.runs), max(self.runs)

    @property
    def is_met(self) -> bool | None:
        """Whether it is what was aimed at; None where nothing was."""
        if self.target is None:
            return None
        sign, value = self.target
        return self.median >= value if sign == "≥" else self.median <= value

    def record(self) -> dict[str, Any]:
        """Return what goes into the file."""
        return {
            "median": self.median,
            "spread": list(self.spread),
            "runs": list(self.runs),
            "unit": self.unit,
            "target": None if self.target is None else f"{self.target[0]} {self.target[1]:,.10g}",
            "met": self.is_met,
            "beside": {name: {"median": median(runs), "runs": list(runs)} for name, runs in self.beside.items()},
            "note": self.note,
        }


def shown(value: float) -> str:
    """Write a number with as many digits as are worth reading.

    >>> shown(1_234_567.8), shown(45.678), shown(0.61234)
    ('1,234,568', '45.7', '0.612')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(runs: Sequence[float]) -> str:
    """Say between what runs lie; one run has no spread.

    >>> spread([45.67, 43.2, 44]), spread([45.67])
    ('43.2 to 45.7', 'one run')
    """
    return f"{shown(min(runs))} to {shown(max(runs))}" if len(runs) > 1 else "one run"


def beside(record: Mapping[str, Any]) -> str:
    """Say what stands beside a figure, from its record.

    >>> beside({"by_cpu": {"median": 72.62}, "with_a_snapshot_ms": {"median": 240.3}})
    'by cpu 72.6, with a snapshot 240 ms'
    """
    said = []
    for name, of in record.items():
        words = name.removesuffix("_ms")
        unit = "" if words == name else " ms"
        said.append(f"{words.replace('_', ' ')} {shown(of['median'])}{unit}")
    return ", ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is given to whatever measures.

    Parameters
    ----------
    broker
        Starts a Kafka at the first call; returns its address.
    small
        A few thousand rows: whether everything still runs and comes to the same results, not how fast.
    say
        Tells a person how far it is.
    """

    folder: Path
    broker: Callable[[], str]
    runs: int
    small: bool
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a measurement gave: figures, and a hash of each result that no change of speed may change."""

    figures: Sequence[Figure]
    results: dict[str, str]
