"""What does a healthy history look like before it is a baseline? Columns of outputs and their labels."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from detectors.alarm import Flags, Floats, Ints
from detectors.binning import Singles, feature_slots
from detectors.detector import LaneTicks, Tick
from detectors.statistics import LabelledRows, OutputRows, Rows, Statistic
from schemas.binning import Binning, FeatureBins
from schemas.lane import Lane

NO_LABEL = -1
MOST_COUNTS = 2**21
"""Counts that are laid out at one time: 16 MiB."""


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
    """Rows of one kind in order of their ticks: in each of the ways in which a row belongs to lanes its lane, or -1.

    `lanes` is `int64[rows, ways]`; for each statistic of this kind `bins` holds the bin of each row.
    """

    ticks: Ints
    lanes: Ints
    bins: dict[str, Ints]

    def between(self, first: int, stop: int) -> slice:
        """Rows of the ticks `[first, stop)`."""
        low, high = np.searchsorted(self.ticks, [first, stop])
        return slice(int(low), int(high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ByLane:
    """Rows by lane and tick: lane `lanes[i]` has `counts[i]` ticks with rows, at the places from `starts[i]` on.

    At place `p` stands tick `ticks[p]`; its rows are `rows[begins[p]:begins[p + 1]]`.
    """

    lanes: Ints
    starts: Ints
    counts: Ints
    ticks: Ints
    rows: Ints
    begins: Ints

    def rows_of(self, places: Ints) -> tuple[Ints, Ints]:
        """Rows at some places, and for each the index of its place among them."""
        sizes = self.begins[places + 1] - self.begins[places]
        of = np.repeat(np.arange(len(places)), sizes)
        first = np.repeat(self.begins[places] - np.cumsum(sizes) + sizes, sizes)
        return self.rows[first + np.arange(len(of))], of


def _placed_by_lane(kind: _Counted, judged: Flags, rows: slice) -> _ByLane:
    """Sort some rows by lane and tick, in each judged lane that they belong to; the last flag is that of no lane, -1."""
    row, way = np.nonzero(judged[kind.lanes[rows]])
    row += rows.start
    lane = kind.lanes[row, way]
    order = np.argsort(lane, kind="stable")
    row, lane = row[order], lane[order]
    tick = kind.ticks[row]
    begins = np.flatnonzero(np.diff(lane, prepend=-1) | np.diff(tick, prepend=-1))
    found, starts, counts = np.unique(lane[begins], return_index=True, return_counts=True)
    return _ByLane(
        lanes=found, starts=starts, counts=counts, ticks=tick[begins], rows=row, begins=np.append(begins, len(row))
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Successive ticks of some lanes; of a lane only those in which something counted, or all.

    Parameters
    ----------
    lanes
        `int64[lanes]`.
    ticks
        `int64[length, lanes]`: number of the tick, -1 behind the last of a lane.
    seen
        The rows of those that are not -1, in the order of `ticks`.
    """

    lanes: Ints
    ticks: Ints
    seen: LaneTicks


def _recoded(names: Names, listed: list[str]) -> Ints:
    place = {name: code for code, name in enumerate(listed)}
    table = np.array([place.get(name, -1) for name in names.values] + [-1], np.int64)
    return table[names.codes]


def _lane_axes(history: History, binning: Binning, lanes: tuple[str, ...]) -> Ints:
    """Lane of each row in each of the ways in which a row belongs to lanes, `int64[rows, ways]`; -1 in none."""
    index = {name: lane for lane, name in enumerate(lanes)}
    version = _recoded(history.version, binning.versions)
    axes = [np.zeros(len(version), np.int64), _placed(version, [Lane(v).name for v in binning.versions], index)]
    for name, listed in binning.segments.items():
        value = _recoded(history.segments[name], listed)
        axes.append(_placed(value, [Lane(segment=name, value=one).name for one in listed], index))
        both = np.where((version >= 0) & (value >= 0), version * len(listed) + value, -1)
        names = [Lane(v, name, one).name for v in binning.versions for one in listed]
        axes.append(_placed(both, names, index))
    return np.stack(axes, axis=1)


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
    made, ended
        Of each output: tick number in which it was made, and in which its label counted (`NO_LABEL` where none did).
    """

    binning: Binning
    lanes: tuple[str, ...]
    statistics: tuple[Statistic, ...]
    first_tick: int
    ticks: int
    output_ticks: int
    outputs: _Counted
    labelled: _Counted
    made: Ints
    ended: Ints

    @property
    def reference_ms(self) -> tuple[int, int]:
        """From the first output to the last, `[from, to)`, whole ticks; labels may come after."""
        tick_ms = self.binning.tick_ms
        return self.first_tick * tick_ms, (self.first_tick + self.output_ticks) * tick_ms

    def total(self) -> dict[str, Ints]:
        """Sum over all ticks: the reference."""
        totals = {}
        for one in self.statistics:
            size, kind = self._size(one), self._of(one)
            if kind is None:
                totals[one.name] = np.zeros((len(self.lanes), size), np.int64)
                if one.of == "ages":
                    totals[one.name][0] = self._ages_in_all(one.name)
            else:
                totals[one.name] = self._summed(kind, one.name, size, slice(None), 0, 1)[0]
            totals[one.name] = totals[one.name].reshape(len(self.lanes), *one.shape(self.binning))
        return totals

    def each_tick(self) -> Iterator[Tick]:
        """Give the statistics of one tick after the other."""
        tick_ms = self.binning.tick_ms
        room = sum(self._size(one) for one in self.statistics) * len(self.lanes)
        length = max(MOST_COUNTS // room, 1)
        for start in range(0, self.ticks, length):
            stop = min(start + length, self.ticks)
            arrays = {one.name: self._by_tick(one, start, stop) for one in self.statistics}
            for tick in range(start, stop):
                whole = {name: array[tick - start] for name, array in arrays.items()}
                spoke = np.any([array.reshape(len(array), -1).any(axis=1) for array in whole.values()], axis=0)
                lanes = np.flatnonzero(spoke)
                start_ms = (self.first_tick + tick) * tick_ms
                yield Tick(
                    start_ms=start_ms,
                    end_ms=start_ms + tick_ms,
                    lanes=lanes,
                    arrays={name: array[lanes] for name, array in whole.items()},
                )

    def spoken(self, names: tuple[str, ...], lanes: Ints, first: int, *, length: int, width: int) -> Iterator[Stretch]:
        """Give, lane by lane, the ticks in which one of them counted something, from tick number `first` on.

        Parameters
        ----------
        names
            Statistics, all of outputs or all of labelled outcomes.
        length, width
            A stretch is no longer than `length`, and shorter where its counts, or `width` figures for each row, would
            take too much memory.
        """
        some = self._named(names)
        width += sum(map(self._size, some))
        kind = self._of(some[0])
        assert kind is not None, names
        judged = np.zeros(len(self.lanes) + 1, np.bool_)
        judged[lanes] = True
        at = _placed_by_lane(kind, judged, kind.between(self.first_tick + first, self.first_tick + self.ticks))
        tick = at.ticks - self.first_tick
        start = 0
        while len(has := np.flatnonzero(at.counts > start)):
            ranks = start + np.arange(min(length, max(MOST_COUNTS // (len(has) * width), 1)))[:, None]
            place = np.where(ranks < at.counts[has], at.starts[has] + ranks, -1)
            chosen = place[place >= 0]
            rows, of = at.rows_of(chosen)
            arrays = {one.name: self._binned(kind, one, rows, of) for one in some}
            yield Stretch(
                lanes=at.lanes[has],
                ticks=np.where(place >= 0, tick[place], -1),
                seen=self._rows(np.broadcast_to(at.lanes[has], place.shape)[place >= 0], tick[chosen], arrays),
            )
            start += len(ranks)

    def every(
        self, names: tuple[str, ...], lanes: Ints, first: int, stop: int, *, length: int, width: int
    ) -> Iterator[Stretch]:
        """Give all ticks `[first, stop)` of some lanes, also those in which nothing counted; see `spoken`."""
        some = self._named(names)
        width += sum(map(self._size, some))
        length = min(length, max(MOST_COUNTS // (len(lanes) * width), 1))
        counted_at_once = length * max(MOST_COUNTS // (length * len(self.lanes) * width), 1)
        for begin in range(first, stop, counted_at_once):
            end = min(begin + counted_at_once, stop)
            arrays = {one.name: self._by_tick(one, begin, end)[:, lanes] for one in some}
            for start in range(begin, end, length):
                ticks = np.arange(start, min(start + length, end))
                cut = slice(start - begin, start - begin + len(ticks))
                grid = np.broadcast_to(ticks[:, None], (len(ticks), len(lanes)))
                flat = {name: array[cut].reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
                yield Stretch(lanes=lanes, ticks=grid, seen=self._rows(np.tile(lanes, len(ticks)), grid.ravel(), flat))

    def _rows(self, lanes: Ints, ticks: Ints, arrays: dict[str, Ints]) -> LaneTicks:
        return LaneTicks(lanes=lanes, start_ms=(self.first_tick + ticks) * self.binning.tick_ms, arrays=arrays)

    def _named(self, names: tuple[str, ...]) -> list[Statistic]:
        return [one for one in self.statistics if one.name in names]

    def _of(self, statistic: Statistic) -> _Counted | None:
        return {"outputs": self.outputs, "labelled": self.labelled}.get(statistic.of)

    def _size(self, statistic: Statistic) -> int:
        return math.prod(statistic.shape(self.binning))

    def _by_tick(self, statistic: Statistic, first: int, stop: int) -> Ints:
        """Count one statistic in the ticks `[first, stop)`, `int64[ticks, lanes, ...]`."""
        kind, size = self._of(statistic), self._size(statistic)
        if kind is None:
            counts = np.zeros((stop - first, len(self.lanes), size), np.int64)
            if statistic.of == "ages":
                counts[:, 0] = self._ages(statistic.name, first, stop)
        else:
            rows = kind.between(self.first_tick + first, self.first_tick + stop)
            of = kind.ticks[rows] - self.first_tick - first
            counts = self._summed(kind, statistic.name, size, rows, of, stop - first)
        return counts.reshape(stop - first, len(self.lanes), *statistic.shape(self.binning))

    def _summed(self, kind: _Counted, name: str, size: int, rows: slice, of: Ints | int, ticks: int) -> Ints:
        """Count some rows, each in the tick `of` and in all of its lanes, `int64[ticks, lanes, size]`."""
        bins = _columns(kind.bins[name][rows])
        counts = np.zeros(ticks * len(self.lanes) * size, np.int64)
        for way in kind.lanes[rows].T:
            flat = np.where(
                (way >= 0)[:, None] & (bins >= 0), ((of * len(self.lanes) + way) * size)[:, None] + bins, -1
            )
            counts += np.bincount(flat[flat >= 0], minlength=len(counts))
        return counts.reshape(ticks, len(self.lanes), size)

    def _binned(self, kind: _Counted, statistic: Statistic, rows: Ints, of: Ints) -> Ints:
        """Count some rows, each in the place `of` (ascending), `int64[places, ...]`."""
        size, places = self._size(statistic), int(of[-1]) + 1
        bins = _columns(kind.bins[statistic.name][rows])
        flat = np.where(bins >= 0, of[:, None] * size + bins, -1).ravel()
        return np.bincount(flat[flat >= 0], minlength=places * size).reshape(places, *statistic.shape(self.binning))

    def _edges(self) -> list[tuple[int, int]]:
        edges = self.binning.age_edges_ticks
        return list(pairwise(edges))

    def _last(self) -> Ints:
        """Tick in which each output ceased to wait, or the history ended."""
        return np.where(self.ended == NO_LABEL, self.ticks - 1, self.ended)

    def _ages_in_all(self, name: str) -> Ints:
        """Count output-ticks at risk, or labels, by age over the whole history, `int64[bins]`."""
        age = self._last() - self.made
        if name == "at_risk_by_age":
            return np.array([np.maximum(np.minimum(age, old - 1) - young + 1, 0).sum() for young, old in self._edges()])
        age = age[self.ended != NO_LABEL]
        return np.array([((age >= young) & (age < old)).sum() for young, old in self._edges()])

    def _ages(self, name: str, first: int, stop: int) -> Ints:
        """Count output-ticks at risk, or labels, by age in the ticks `[first, stop)`, `int64[ticks, bins]`."""
        last, length = self._last(), stop - first
        there = np.flatnonzero((self.made < stop) & (last >= first))
        made, last, is_labelled = self.made[there], last[there], self.ended[there] != NO_LABEL
        counts = np.zeros((length, len(self._edges())), np.int64)
        for number, (young, old) in enumerate(self._edges()):
            if name == "labelled_by_age":
                came = is_labelled & (last - made >= young) & (last - made < old) & (last < stop)
                counts[:, number] = np.bincount(last[came] - first, minlength=length)
                continue
            begins = np.maximum(made + young - first, 0)
            stops = np.minimum(np.minimum(made + old - 1, last) - first, length - 1)
            inside = begins <= stops
            change = np.bincount(begins[inside], minlength=length + 1) - np.bincount(
                stops[inside] + 1, minlength=length + 1
            )
            counts[:, number] = np.cumsum(change)[:length]
        return counts


def _columns(bins: Ints) -> Ints:
    """Bins as `int64[rows, features]`, also where a row has only one."""
    return bins if bins.ndim == 2 else bins[:, None]  # noqa: PLR2004 - rows, and features where a bin has them


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
        outputs=_Counted(made[order], axes[order], bins["outputs"]),
        labelled=_Counted(ended[of_label], axes[of_label], bins["labelled"]),
        made=made - first,
        ended=np.where(history.labelled, ended - first, NO_LABEL),
    )


def _features(history: History, binning: Binning) -> list[tuple[FeatureBins, FeatureHistory]]:
    return [(bins, history.features[bins.name]) for bins in binning.features]
