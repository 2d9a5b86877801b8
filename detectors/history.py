"""What does a healthy history look like before it is a baseline? Columns of outputs and their labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.alarm import Flags, Floats, Ints
from detectors.binning import Singles, feature_slots
from detectors.statistics import LabelledRows, OutputRows, Rows, Statistic
from schemas.binning import Binning, FeatureBins
from schemas.lane import Lane

NO_LABEL = -1


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A column of names as codes: row `i` is `values[codes[i]]`; code -1 is absent."""

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    def counts(self) -> Ints:
        """Rows of each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values)).astype(np.int64)

    def most_frequent(self, most: int) -> list[str]:
        """Return up to `most` values by falling frequency, ties by name."""
        counted = [(-count, name) for name, count in zip(self.values, self.counts().tolist(), strict=True) if count]
        return [name for _, name in sorted(counted)[:most]]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHistory:
    """One declared feature: state of each row (`detectors.binning`), its number or NaN, its name or -1."""

    state: npt.NDArray[np.int8]
    numbers: Floats
    names: Names


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """Outputs of one model in any order, `n` rows each with its label if it has one.

    Parameters
    ----------
    made_at_ms
        When the output was made.
    labelled_at_ms
        When its first label came; `NO_LABEL` where none did.
    wrong
        Whether the answer was wrong; False where there is no label.
    score, confidence
        In [0, 1], NaN where absent.
    version, segments, features
        Declared segments and features by name.
    """

    made_at_ms: Ints
    labelled_at_ms: Ints
    wrong: Flags
    score: Singles
    confidence: Singles
    version: Names
    segments: Mapping[str, Names]
    features: Mapping[str, FeatureHistory]

    @property
    def labelled(self) -> Flags:
        """Rows with a label."""
        has: Flags = self.labelled_at_ms != NO_LABEL
        return has


def lane_names(binning: Binning) -> tuple[str, ...]:
    """Name the lanes of a baseline: the model, its versions, segment values, and both together.

    >>> lane_names(Binning(tick_ms=1, score_edges=[], confidence_edges=[], delay_edges_ms=[], age_edges_ticks=[],
    ...                    versions=["7"], segments={"SEX": ["1"]}))
    ('*', 'version:7', 'segment:SEX=1', 'version:7|segment:SEX=1')
    """
    values = [(name, value) for name, listed in binning.segments.items() for value in listed]
    return (
        Lane().name,
        *(Lane(version=version).name for version in binning.versions),
        *(Lane(segment=name, value=value).name for name, value in values),
        *(Lane(version, name, value).name for version in binning.versions for name, value in values),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Rows of one kind in order of their ticks: for each lane axis the lane of each row, for each statistic its bin."""

    ticks: Ints
    lanes: list[Ints]
    bins: dict[str, Ints]


def _recoded(names: Names, listed: list[str]) -> Ints:
    place = {name: code for code, name in enumerate(listed)}
    table = np.array([place.get(name, -1) for name in names.values] + [-1], np.int64)
    return table[names.codes]


def _lane_axes(history: History, binning: Binning, lanes: tuple[str, ...]) -> list[Ints]:
    """Lane of each row in each of the ways in which a row belongs to lanes; -1 in none."""
    index = {name: lane for lane, name in enumerate(lanes)}
    version = _recoded(history.version, binning.versions)
    axes = [np.zeros(len(version), np.int64), _placed(version, [Lane(v).name for v in binning.versions], index)]
    for name, listed in binning.segments.items():
        value = _recoded(history.segments[name], listed)
        axes.append(_placed(value, [Lane(segment=name, value=one).name for one in listed], index))
        both = np.where((version >= 0) & (value >= 0), version * len(listed) + value, -1)
        names = [Lane(v, name, one).name for v in binning.versions for one in listed]
        axes.append(_placed(both, names, index))
    return axes


def _placed(codes: Ints, names: list[str], index: Mapping[str, int]) -> Ints:
    table = np.array([index.get(name, -1) for name in names] + [-1], np.int64)
    return table[codes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountedHistory:
    """A history in bins, from which each tick's statistics, and their sum, can be counted.

    Parameters
    ----------
    first_tick, ticks
        Number of the first tick (its start over its length), and how many there are, to the last label.
    output_ticks
        How many there are to the last output.
    """

    binning: Binning
    lanes: tuple[str, ...]
    statistics: tuple[Statistic, ...]
    first_tick: int
    ticks: int
    output_ticks: int
    outputs: _Counted
    labelled: _Counted
    ages: Mapping[str, Ints]

    @property
    def reference_ms(self) -> tuple[int, int]:
        """From the first output to the last, `[from, to)`, whole ticks; labels may come after."""
        tick_ms = self.binning.tick_ms
        return self.first_tick * tick_ms, (self.first_tick + self.output_ticks) * tick_ms

    def shape(self, statistic: Statistic) -> tuple[int, ...]:
        """Shape of one statistic, lanes first."""
        return (len(self.lanes), *statistic.shape(self.binning))

    def total(self) -> dict[str, Ints]:
        """Sum over all ticks: the reference."""
        whole = slice(0, self.ticks)
        return {one.name: self._counted(one, whole) for one in self.statistics}

    def each_tick(self, skipped: int) -> Iterator[tuple[int, dict[str, Ints], bool]]:
        """Give each tick's start in ms, its statistics, and whether it is empty; the first `skipped` are left out."""
        for tick in range(skipped, self.ticks):
            one = slice(tick, tick + 1)
            arrays = {statistic.name: self._counted(statistic, one) for statistic in self.statistics}
            empty = not any(array.any() for array in arrays.values())
            yield (self.first_tick + tick) * self.binning.tick_ms, arrays, empty

    def _counted(self, statistic: Statistic, ticks: slice) -> Ints:
        shape = self.shape(statistic)
        counts = np.zeros(shape, np.int64)
        if statistic.of == "ages":
            counts[0] = self.ages[statistic.name][ticks].sum(axis=0)
            return counts
        if statistic.of not in {"outputs", "labelled"}:
            return counts
        rows = self.outputs if statistic.of == "outputs" else self.labelled
        low, high = np.searchsorted(rows.ticks, [self.first_tick + ticks.start, self.first_tick + ticks.stop])
        size = int(np.prod(shape[1:]))
        bins = rows.bins[statistic.name][low:high]
        bins = bins if bins.ndim == 2 else bins[:, None]  # noqa: PLR2004 - rows, and features where a bin has them
        for axis in rows.lanes:
            lane = axis[low:high, None]
            flat = np.where((lane >= 0) & (bins >= 0), lane * size + bins, -1).ravel()
            counts += np.bincount(flat[flat >= 0], minlength=len(self.lanes) * size).reshape(shape)
        return counts


def counted(history: History, binning: Binning, statistics: tuple[Statistic, ...]) -> CountedHistory:
    """Bin a history: an output counts in the tick in which it was made, its outcome in the later of both rows'."""
    lanes = lane_names(binning)
    tick_ms = binning.tick_ms
    made = history.made_at_ms // tick_ms
    ended = np.maximum(made, history.labelled_at_ms // tick_ms)
    axes = _lane_axes(history, binning, lanes)
    order = np.argsort(made, kind="stable")
    slots = np.stack(
        [
            feature_slots(one.state, one.numbers, one.names.codes, one.names.values, bins)
            for bins, one in _features(history, binning)
        ]
        or [np.zeros(len(made), np.int16)],
        axis=1,
    )[:, : len(binning.features)]
    outputs = OutputRows(
        tick_ms=made[order] * tick_ms,
        score=history.score[order],
        confidence=history.confidence[order],
        feature_slots=slots[order],
    )
    of_label = np.flatnonzero(history.labelled)
    of_label = of_label[np.argsort(ended[of_label], kind="stable")]
    labelled = LabelledRows(
        tick_ms=ended[of_label] * tick_ms,
        made_at_ms=history.made_at_ms[of_label],
        delay_ms=np.maximum(history.labelled_at_ms - history.made_at_ms, 0)[of_label],
        score=history.score[of_label],
        confidence=history.confidence[of_label],
        wrong=history.wrong[of_label],
    )
    first = int(made.min())
    last = max(int(made.max()), int(ended[of_label].max(initial=0)))
    rows: dict[str, Rows] = {"outputs": outputs, "labelled": labelled}
    bins: dict[str, dict[str, Ints]] = {"outputs": {}, "labelled": {}}
    for one in statistics:
        if one.of in bins:
            of = rows[one.of]
            bins[one.of][one.name] = np.zeros(len(of.tick_ms), np.int64) if one.bins is None else one.bins(of, binning)
    return CountedHistory(
        binning=binning,
        lanes=lanes,
        statistics=statistics,
        first_tick=first,
        ticks=last - first + 1,
        output_ticks=int(made.max()) - first + 1,
        outputs=_Counted(made[order], [axis[order] for axis in axes], bins["outputs"]),
        labelled=_Counted(ended[of_label], [axis[of_label] for axis in axes], bins["labelled"]),
        ages=_ages(made - first, np.where(history.labelled, ended - first, NO_LABEL), last - first + 1, binning),
    )


def _features(history: History, binning: Binning) -> list[tuple[FeatureBins, FeatureHistory]]:
    return [(bins, history.features[bins.name]) for bins in binning.features]


def _ages(made: Ints, ended: Ints, ticks: int, binning: Binning) -> dict[str, Ints]:
    """Count output-ticks at risk and labels by tick and age bin, `int64[ticks, bins]` each."""
    edges = np.asarray(binning.age_edges_ticks)
    at_risk = np.zeros((ticks, len(edges) - 1), np.int64)
    labelled = np.zeros_like(at_risk)
    last = np.where(ended == NO_LABEL, ticks - 1, ended)
    for number, (young, old) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        begins, stops = made + young, np.minimum(made + old - 1, last)
        inside = (begins <= stops) & (begins < ticks)
        change = np.bincount(begins[inside], minlength=ticks + 1) - np.bincount(
            np.minimum(stops[inside] + 1, ticks), minlength=ticks + 1
        )
        at_risk[:, number] = np.cumsum(change)[:ticks]
        came = (ended != NO_LABEL) & (ended - made >= young) & (ended - made < old)
        labelled[:, number] = np.bincount(ended[came], minlength=ticks)
    return {"at_risk_by_age": at_risk, "labelled_by_age": labelled}
