"""What happened in each tick, lane by lane? Counted on leaf cells while the tick is open, rolled up when it closes.

A tick's baseline is the one valid at its start, taken when its first row is counted, and stays. Sums are of whole
numbers, so that neither order nor batching shows. A closed tick is encoded once, and these bytes are sent, however often.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detectors.binning import ABSENT, baseline_zero, feature_slots
from detectors.statistics import Rows, Statistic, needed
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.fields import MalformedRecordError
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.stages.batch import FeatureColumn, Ints
from streams.stages.blocks import Block, BlockWriter, Run, Send
from streams.stages.cells import CellBook, Lanes
from streams.stages.distinct import distinct, numbered

DENSE_CELLS = 1024
"""Leaf cells of a model that one tick counts apart; rows of further ones are added to their lanes at once."""
_PIECES = 16
_HALF = 0.5


def declared_slots(
    columns: Mapping[str, FeatureColumn], rows: Ints, bins: Sequence[FeatureBins]
) -> npt.NDArray[np.int16]:
    """Slots of the declared features of these rows of a batch, `int16[n, features]` (`detectors.binning`)."""
    slots = np.full((len(rows), len(bins)), ABSENT, np.int16)
    for at, feature in enumerate(bins):
        column = columns.get(feature.name)
        if column is not None:
            names = column.names
            slots[:, at] = feature_slots(
                column.state[rows], column.numbers[rows], names.codes[rows], names.values, feature
            )
    return slots


class _Place(NamedTuple):
    """Where a statistic stands in the flat row of a cell."""

    statistic: Statistic
    start: int
    size: int


class _Plan:
    """How the rows of one model are counted under one baseline."""

    def __init__(
        self,
        model: str,
        version: int,
        binning: Binning,
        segments: Sequence[str],
        needs: Sequence[Statistic],
        max_lanes: int,
    ) -> None:
        self.model = model
        self.version = version
        self.binning = binning
        self.lanes = Lanes(binning, segments, max_lanes=max_lanes)
        self.places: list[_Place] = []
        self.width = 0
        for one in needs:
            if one.of != "ages":
                size = int(np.prod(one.shape(binning), dtype=np.int64))
                self.places.append(_Place(one, self.width, size))
                self.width += size
        self._folded = np.empty(0, np.int64)
        self._generation = -1

    def folded(self, cells: Ints, book: CellBook) -> Ints:
        """Folded cell of each row."""
        if self._generation != book.generation or len(self._folded) < book.cells_of(self.model):
            self._folded = np.full(2 * book.cells_of(self.model), -1, np.int64)
            self._generation = book.generation
        within = book.within_model[cells]
        folded = self._folded[within]
        if folded.min(initial=0) < 0:
            for number in distinct(cells[folded < 0]).tolist():
                cell = book.cell(number)
                self._folded[book.within_model[number]] = self.lanes.folded(cell.version, cell.values)
            folded = self._folded[within]
        return folded


class _Counts:
    """Counts of one model in one open tick."""

    def __init__(self, plan: _Plan, tick_ms: int) -> None:
        self.plan = plan
        self._tick_ms = tick_ms
        self.cells: npt.NDArray[np.int64] | None = np.zeros(0, np.int64)
        self.sparse: tuple[Ints, Ints] | None = None
        self.lanes: npt.NDArray[np.int64] | None = None
        self.rows = dict.fromkeys(("outputs", "labelled", "expired", "flips"), 0)
        self._resolved: list[Ints] = []

    def dense(self, cells: int) -> npt.NDArray[np.int64]:
        """Return the counts of the folded cells, flat, with room for so many."""
        width = self.plan.width
        if self.cells is None:
            assert self.sparse is not None
            index, counts = self.sparse
            held = int(index.max(initial=-1)) // max(width, 1) + 1
            self.cells = np.zeros(max(cells, held) * width, np.int64)
            self.cells[index] = counts
            self.sparse = None
        if len(self.cells) < cells * width:
            grown = np.zeros(max(cells, min(2 * (len(self.cells) // max(width, 1)), DENSE_CELLS)) * width, np.int64)
            grown[: len(self.cells)] = self.cells
            self.cells = grown
        return self.cells

    def entries(self) -> tuple[Ints, Ints]:
        """Flat indices and counts that are not 0."""
        if self.sparse is not None:
            return self.sparse
        assert self.cells is not None
        index = np.flatnonzero(self.cells)
        return index, self.cells[index]

    def rest(self) -> None:
        """Take less room until the next row."""
        self.sparse = self.entries()
        self.cells = None

    def resolve(self, ticks: Ints, *, labelled: bool) -> None:
        """Note outcomes by the counting tick of their outputs."""
        unique, inverse = numbered(ticks // self._tick_ms)
        n = np.bincount(inverse, minlength=len(unique))
        self._resolved.append(np.stack([unique * self._tick_ms, n * labelled, n]))
        if len(self._resolved) > _PIECES:
            self._resolved = [self.resolved()]

    def resolved(self) -> Ints:
        """`int64[3, n]`: counting ticks of outputs, outcomes with a label, outcomes."""
        if not self._resolved:
            return np.empty((3, 0), np.int64)
        ticks, labelled, outcomes = np.concatenate(self._resolved, axis=1)
        unique, inverse = np.unique(ticks, return_inverse=True)
        sums = np.zeros((3, len(unique)), np.int64)
        sums[0] = unique
        np.add.at(sums[1], inverse, labelled)
        np.add.at(sums[2], inverse, outcomes)
        return sums

    def take(self, resolved: Ints) -> None:
        """Take what a block kept of `resolved`."""
        self._resolved = [resolved]

    def by_lane(self) -> npt.NDArray[np.int64]:
        """Roll up: `int64[lanes, width]`."""
        members, width = self.plan.lanes.members, self.plan.width
        lanes = np.zeros((len(self.plan.lanes.names), width), np.int64)
        cells = self.dense(0)
        n = len(cells) // max(width, 1)
        if n:
            members = members[:n]
            rows, each = members.shape
            shape = (len(lanes), rows)
            where = (members.ravel(), np.repeat(np.arange(rows), each))
            lanes += csr_array((np.ones(rows * each, np.int64), where), shape=shape) @ cells.reshape(n, width)[:rows]
        if self.lanes is not None:
            lanes += self.lanes.reshape(lanes.shape)
        return lanes


class _AtRisk:
    """Pending outputs of one model at the start of a tick, by the tick in which they counted."""

    def __init__(self) -> None:
        self.ticks = np.empty(0, np.int64)
        self.counts = np.empty(0, np.int64)

    def add(self, ticks: Ints, counts: Ints) -> None:
        """Add outputs; what was there before is kept."""
        every = np.concatenate([self.ticks, ticks])
        self.ticks, inverse = np.unique(every, return_inverse=True)
        sums = np.zeros(len(self.ticks), np.int64)
        np.add.at(sums, inverse, np.concatenate([self.counts, counts]))
        self.counts = sums

    @property
    def first(self) -> int | None:
        """First tick with a pending output."""
        at = np.flatnonzero(self.counts > 0)[:1]
        return int(self.ticks[at[0]]) if len(at) else None

    def by_age(self, tick: int, edges: Ints, tick_ms: int) -> Ints:
        """Count outputs by age bin at a tick."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        older = np.searchsorted(self.ticks, tick - edges * tick_ms, side="right")
        by_age: Ints = total[older[:-1]] - total[older[1:]]
        return by_age

    def subtract(self, ticks: Ints, counts: Ints) -> None:
        """Take outcomes away."""
        at = np.searchsorted(self.ticks, ticks)
        self.counts[at] -= counts
        left = self.counts > 0
        if np.count_nonzero(left) < len(left) * _HALF:
            self.ticks, self.counts = self.ticks[left], self.counts[left]


class ClosedTick(NamedTuple):
    """One closed tick, until it is known to be sent."""

    end_ms: int
    sends: list[Send]


class Counting:
    """Open ticks of one partition, and the closed ones that are not sent yet.

    Parameters
    ----------
    book
        The dictionary of cells.
    models
        The configured models.
    tick_ms, max_lanes, needs
        As in the settings of the join.
    partition, partitions
        What WindowStats names as source.
    """

    def __init__(
        self,
        *,
        book: CellBook,
        models: Mapping[str, Model],
        tick_ms: int,
        max_lanes: int,
        needs: Sequence[str],
        partition: int,
        partitions: int,
    ) -> None:
        self._book = book
        self._models = models
        self._tick_ms = tick_ms
        self._max_lanes = max_lanes
        self._needs = needed(needs)
        self._ages = any(one.of == "ages" for one in self._needs)
        self._partition = partition
        self._partitions = partitions
        self._binnings: dict[str, dict[int, tuple[int, Binning]]] = {}
        self._plans: dict[tuple[str, int], _Plan] = {}
        self._open: dict[int, dict[str, _Counts]] = {}
        self._offsets: dict[int, dict[str, tuple[int, int]]] = {}
        self._looked_at: dict[int, tuple[int, int]] = {}
        self._at_risk: dict[str, _AtRisk] = {}
        self._touched: set[int] = set()
        self._warm: set[int] = set()
        self._open_runs: dict[int, Run] = {}
        self._closed: list[ClosedTick] = []
        self._closed_runs: dict[int, Run] = {}
        self._closed_through = 0
        self.closed_labelled = 0
        self.closed_expired = 0
        self.closed_sampled = 0
        self.closed_misplaced = 0

    # -- which bins

    def take_baseline(self, baseline: Baseline) -> None:
        """Use a baseline for the ticks from its start on that are not open yet."""
        if baseline.binning.tick_ms != self._tick_ms:
            expected, got = f"a tick of {self._tick_ms} ms", f"{baseline.binning.tick_ms} ms"
            raise MalformedRecordError("baseline", "binning.tick_ms", expected, got)
        of_model = self._binnings.setdefault(baseline.model, {})
        of_model[baseline.version] = (baseline.valid_from_ms, baseline.binning)

    def _version(self, model: str, tick: int) -> int:
        """Version of the baseline that is valid at a tick's start, 0 for none."""
        known = self._binnings.get(model, {})
        return max((version for version, (from_ms, _) in known.items() if from_ms <= tick), default=0)

    def _plan(self, model: str, tick: int) -> _Plan:
        version = self._version(model, tick)
        plan = self._plans.get((model, version))
        if plan is None:
            binning = self._binnings[model][version][1] if version else self._binning_zero(model)
            plan = self._new_plan(model, version, binning)
        return plan

    def _binning_zero(self, model: str) -> Binning:
        known = self._models.get(model)
        threshold = known.threshold if known is not None and known.kind == "classification" else _HALF
        return baseline_zero(self._tick_ms, threshold)

    def _new_plan(self, model: str, version: int, binning: Binning) -> _Plan:
        segments = self._models[model].segments if model in self._models else ()
        plan = _Plan(model, version, binning, segments, self._needs, self._max_lanes)
        self._plans[model, version] = plan
        return plan

    # -- rows are counted

    def cover(self, topic: str, ticks: Ints, offsets: Ints) -> None:
        """Note the offsets whose running watermark lies in each tick, rows in order of place."""
        cuts = np.flatnonzero(np.diff(ticks)) + 1
        for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ticks)], strict=True):
            if start < end:
                tick = int(ticks[start])
                of = self._offsets.setdefault(tick, {})
                first = of.get(topic, (int(offsets[start]), 0))[0]
                of[topic] = (first, int(offsets[end - 1]) + 1)
                self._touched.add(tick)

    def look_at(self, ticks: Ints, misplaced: npt.NDArray[np.bool_]) -> None:
        """Count rows whose partition was compared with that of their id, by their counting ticks."""
        unique, inverse = np.unique(ticks, return_inverse=True)
        wrong = np.bincount(inverse[misplaced], minlength=len(unique)).tolist()
        for tick, n, of_them in zip(unique.tolist(), np.bincount(inverse).tolist(), wrong, strict=True):
            before = self._looked_at.get(tick, (0, 0))
            self._looked_at[tick] = before[0] + n, before[1] + of_them
            self._touched.add(tick)

    def count(
        self, of: str, model: str, cells: Ints, ticks: Ints, rows_under: Callable[[Binning, Ints], Rows | None]
    ) -> None:
        """Count rows of one model.

        Parameters
        ----------
        of
            Which rows these are, as in `detectors.statistics.Statistic.of`.
        cells, ticks
            Cell and counting tick of each.
        rows_under
            Gives the rows of these positions as the statistics read them.
        """
        unique, inverse = numbered(ticks // self._tick_ms)
        counts = [self._counts(tick * self._tick_ms, model) for tick in unique.tolist()]
        for plan in dict.fromkeys(one.plan for one in counts):
            mine = np.array([one.plan is plan for one in counts])
            chosen = np.flatnonzero(mine[inverse])
            self._count_under(plan, of, cells, chosen, inverse[chosen], counts, rows_under)
        for at, n in enumerate(np.bincount(inverse, minlength=len(counts)).tolist()):
            counts[at].rows[of] += n
            self._touched.add(int(unique[at]) * self._tick_ms)

    def _counts(self, tick: int, model: str) -> _Counts:
        of_tick = self._open.setdefault(tick, {})
        counts = of_tick.get(model)
        if counts is None:
            counts = of_tick[model] = _Counts(self._plan(model, tick), self._tick_ms)
        return counts

    def _count_under(
        self,
        plan: _Plan,
        of: str,
        cells: Ints,
        chosen: Ints,
        tick_of: Ints,
        counts: Sequence[_Counts],
        rows_under: Callable[[Binning, Ints], Rows | None],
    ) -> None:
        places = [place for place in plan.places if place.statistic.of == of and place.size]
        if not places:
            return
        folded = plan.folded(cells[chosen], self._book)
        rows = rows_under(plan.binning, chosen)
        dense = folded < DENSE_CELLS
        ticks = ((at, tick_of == at) for at in distinct(tick_of).tolist())
        parts = [(at, np.flatnonzero(mine & dense), np.flatnonzero(mine & ~dense)) for at, mine in ticks]
        for place in places:
            if place.statistic.bins is None:
                bins = np.zeros((len(chosen), 1), np.int64)
            else:
                assert rows is not None, place.statistic.name
                bins = place.statistic.bins(rows, plan.binning).reshape(len(chosen), -1)
            for at, cells_of, lanes_of in parts:
                _add(counts[at], place, folded[cells_of], bins[cells_of])
                if len(lanes_of):
                    _add_to_lanes(counts[at], place, folded[lanes_of], bins[lanes_of])

    def resolve(self, model: str, ticks: Ints, output_ticks: Ints, *, labelled: bool) -> None:
        """Note outcomes that count in `ticks` by the counting ticks of their outputs."""
        unique, inverse = numbered(ticks // self._tick_ms)
        for at, tick in enumerate(unique.tolist()):
            of_tick = output_ticks if len(unique) == 1 else output_ticks[inverse == at]
            self._counts(tick * self._tick_ms, model).resolve(of_tick, labelled=labelled)

    # -- ticks are closed

    def close(self, through_ms: int) -> None:
        """Close every tick that ends at or before `through_ms`."""
        tick = self._first()
        while tick is not None and tick + self._tick_ms <= through_ms:
            self._close(tick)
            tick = self._next(tick + self._tick_ms)
        self._closed_through = max(self._closed_through, through_ms)
        self._forget_plans()

    def _forget_plans(self) -> None:
        """Keep those of open ticks and those under valid baselines: a sender may name a new model in each row."""
        kept = {(model, self._version(model, self._closed_through)) for model in self._binnings}
        for of_tick in self._open.values():
            kept.update((model, counts.plan.version) for model, counts in of_tick.items())
        self._plans = {key: plan for key, plan in self._plans.items() if key in kept}

    def _first(self) -> int | None:
        """Return the first tick with anything in it: a row, an offset, or an output at risk right after the last one."""
        ticks = [*self._open, *self._offsets, *self._looked_at]
        if self._ages and self._at_risk:
            ticks.append(self._closed_through)
        return min(ticks, default=None)

    def _next(self, tick: int) -> int | None:
        self._closed_through = tick
        ticks = [*self._open, *self._offsets, *self._looked_at]
        if self._ages:
            ticks += [at for model in self._at_risk for at in self._next_at_risk(model, tick)]
        return min(ticks, default=None)

    def _next_at_risk(self, model: str, tick: int) -> list[int]:
        """Return the next tick in which a model's outputs are at risk and somebody judges it, if there is one."""
        if not self._version(model, tick):
            starts = [
                -(-from_ms // self._tick_ms) * self._tick_ms for from_ms, _ in self._binnings.get(model, {}).values()
            ]
            later = [start for start in starts if start > tick]
            if not later:
                return []
            tick = min(later)
        return [tick] if self._is_at_risk(model, tick) else []

    def _edges(self, model: str, tick: int) -> Ints:
        return np.asarray(self._plan(model, tick).binning.age_edges_ticks, np.int64)

    def _is_at_risk(self, model: str, tick: int) -> bool:
        ticks = self._at_risk[model].ticks
        return len(ticks) > 0 and bool(ticks[-1] + self._edges(model, tick)[-1] * self._tick_ms > tick)

    def _close(self, tick: int) -> None:
        open_counts = self._open.pop(tick, {})
        offsets = self._offsets.pop(tick, {})
        sampled, misplaced = self._looked_at.pop(tick, (0, 0))
        self.closed_sampled += sampled
        self.closed_misplaced += misplaced
        self._touched.discard(tick)
        sends: list[Send] = []
        for model in sorted({*open_counts, *(self._at_risk if self._ages else ())}):
            counts = open_counts.get(model)
            if counts is None and not self._version(model, tick):
                continue  # nothing counts, and nobody judges what is at risk
            arrays = self._arrays(model, tick, counts)
            if counts is not None:
                self.closed_labelled += counts.rows["labelled"]
                self.closed_expired += counts.rows["expired"]
            sends += self._sends(model, tick, counts, arrays, offsets)
        if sends:
            self._closed.append(ClosedTick(tick + self._tick_ms, sends))

    def _arrays(self, model: str, tick: int, counts: _Counts | None) -> dict[str, npt.NDArray[np.int64]]:
        plan = self._plan(model, tick) if counts is None else counts.plan
        by_lane = np.zeros((1, plan.width), np.int64) if counts is None else counts.by_lane()
        ages = self._by_age(model, tick, counts, plan.binning)
        arrays: dict[str, npt.NDArray[np.int64]] = {}
        where = {place.statistic.name: place for place in plan.places}
        for one in self._needs:
            shape = (len(by_lane), *one.shape(plan.binning))
            if one.of == "ages":
                arrays[one.name] = np.zeros(shape, np.int64)
                arrays[one.name][0] = ages[one.name]
            else:
                place = where[one.name]
                arrays[one.name] = by_lane[:, place.start : place.start + place.size].reshape(shape)
        return arrays

    def _by_age(self, model: str, tick: int, counts: _Counts | None, binning: Binning) -> dict[str, Ints]:
        if not self._ages:
            return {}
        edges = np.asarray(binning.age_edges_ticks, np.int64)
        at_risk = self._at_risk.setdefault(model, _AtRisk())
        if counts is not None and counts.rows["outputs"]:
            at_risk.add(np.array([tick]), np.array([counts.rows["outputs"]]))
        by_age = at_risk.by_age(tick, edges, self._tick_ms)
        labelled = np.zeros(len(edges) - 1, np.int64)
        if counts is not None:
            ticks, with_label, outcomes = counts.resolved()
            at = np.searchsorted(edges, (tick - ticks) // self._tick_ms, side="right") - 1
            inside = (at >= 0) & (at < len(labelled))
            np.add.at(labelled, at[inside], with_label[inside])
            at_risk.subtract(ticks, outcomes)
        if len(at_risk.ticks) == 0:
            del self._at_risk[model]
        return {"at_risk_by_age": by_age, "labelled_by_age": labelled}

    def _sends(
        self,
        model: str,
        tick: int,
        counts: _Counts | None,
        arrays: Mapping[str, npt.NDArray[np.int64]],
        offsets: Mapping[str, tuple[int, int]],
    ) -> list[Send]:
        plan = self._plan(model, tick) if counts is None else counts.plan
        lanes = max((len(array) for array in arrays.values()), default=0)
        used = np.zeros(lanes, np.bool_)
        for array in arrays.values():
            used |= array.reshape(lanes, -1).any(axis=1)
        if not used.any():
            return []
        whole = WindowStats(
            model=model,
            tick_start_ms=tick,
            tick_end_ms=tick + self._tick_ms,
            source_partition=self._partition,
            source_partitions=self._partitions,
            part=0,
            parts=1,
            baseline_version=plan.version,
            offsets=dict(sorted(offsets.items())),
            lanes=tuple(plan.lanes.names[lane] for lane in np.flatnonzero(used).tolist()),
            arrays={name: array[used] for name, array in arrays.items()},
        )
        return [Send(model, part.encode()) for part in whole.split()]

    # -- what is sent, and what lasts

    def unsent(self, through_ms: int) -> list[Send]:
        """WindowStats of the closed ticks that end at or before `through_ms` and are not known to be sent."""
        return [send for one in self._closed if one.end_ms <= through_ms for send in one.sends]

    def sent(self, through_ms: int, writer: BlockWriter) -> None:
        """Forget closed ticks that are sent; their blocks count no more with the next manifest."""
        for one in self._closed:
            if one.end_ms <= through_ms and one.end_ms in self._closed_runs:
                writer.retire(self._closed_runs.pop(one.end_ms))
        self._closed = [one for one in self._closed if one.end_ms > through_ms]

    @property
    def oldest_pending_ms(self) -> int | None:
        """Earliest tick in which an output counted that had no outcome when the last tick closed; None for none."""
        firsts = [of_model.first for of_model in self._at_risk.values()]
        firsts += [tick for tick, of_tick in self._open.items() if any(one.rows["outputs"] for one in of_tick.values())]
        return min((first for first in firsts if first is not None), default=None)

    @property
    def open_ticks(self) -> int:
        """Ticks with rows that are not closed."""
        return len(self._open)

    def totals(self) -> tuple[int, int]:
        """Outcomes with and without a label in all ticks, closed and open."""
        counts = [one for of_tick in self._open.values() for one in of_tick.values()]
        return (
            self.closed_labelled + sum(one.rows["labelled"] for one in counts),
            self.closed_expired + sum(one.rows["expired"] for one in counts),
        )

    def write(self, writer: BlockWriter) -> None:
        """Write the open ticks that changed, and the closed ones that are new."""
        held = {*self._open, *self._offsets, *self._looked_at}
        for tick in [tick for tick in self._open_runs if tick not in held]:
            writer.retire(self._open_runs.pop(tick))
        for tick in self._warm - self._touched:
            for counts in self._open.get(tick, {}).values():
                counts.rest()
        self._warm = set(self._touched)
        for tick in sorted(self._touched):
            if tick in self._open_runs:
                writer.retire(self._open_runs[tick])
            self._open_runs[tick] = self._write_open(tick, writer)
        self._touched.clear()
        for one in self._closed:
            if one.end_ms not in self._closed_runs:
                header = {"end_ms": one.end_ms, "sends": [(send.model, len(send.value)) for send in one.sends]}
                value = np.frombuffer(b"".join(send.value for send in one.sends), np.uint8)
                self._closed_runs[one.end_ms] = writer.write("closed-ticks", header, {"value": value})

    def _write_open(self, tick: int, writer: BlockWriter) -> Run:
        models = []
        columns: dict[str, list[Ints]] = {name: [] for name in _OPEN_COLUMNS}
        for model, counts in self._open.get(tick, {}).items():
            index, n = counts.entries()
            lane_index = np.empty(0, np.int64) if counts.lanes is None else np.flatnonzero(counts.lanes)
            lane_n = np.empty(0, np.int64) if counts.lanes is None else counts.lanes[lane_index]
            resolved = counts.resolved()
            for name, column in zip(_OPEN_COLUMNS, [index, n, lane_index, lane_n, *resolved], strict=True):
                columns[name].append(column)
            plan = counts.plan
            models.append(
                {
                    "model": model,
                    "version": plan.version,
                    "binning": msgspec.to_builtins(plan.binning),
                    "statistics": [(place.statistic.name, place.start, place.size) for place in plan.places],
                    "width": plan.width,
                    "seen": plan.lanes.seen,
                    "leaves": plan.lanes.leaves,
                    "lanes": plan.lanes.names if len(lane_index) else [],
                    "rows": counts.rows,
                    "entries": [len(index), len(lane_index), resolved.shape[1]],
                }
            )
        header = {
            "tick": tick,
            "offsets": self._offsets.get(tick, {}),
            "looked_at": self._looked_at.get(tick, (0, 0)),
            "models": models,
        }
        arrays = {name: np.concatenate([np.empty(0, np.int64), *of]).astype("<i8") for name, of in columns.items()}
        return writer.write("open-ticks", header, arrays)

    def restore(self, open_ticks: Sequence[Block], closed_ticks: Sequence[Block]) -> None:
        """Take the blocks of `open-ticks` and `closed-ticks`."""
        for run, header, arrays in open_ticks:
            tick = header["tick"]
            self._open_runs[tick] = run
            if header["offsets"]:
                self._offsets[tick] = {topic: (first, end) for topic, (first, end) in header["offsets"].items()}
            sampled, misplaced = header.get("looked_at", (0, 0))  # a block of an older join has none
            if sampled:
                self._looked_at[tick] = sampled, misplaced
            at = [0, 0, 0]
            for entry in header["models"]:
                cut = {
                    name: arrays[name][at[kind] : at[kind] + entry["entries"][kind]].astype(np.int64)
                    for name, kind in zip(_OPEN_COLUMNS, (0, 0, 1, 1, 2, 2, 2), strict=True)
                }
                at = [start + size for start, size in zip(at, entry["entries"], strict=True)]
                self._open.setdefault(tick, {})[entry["model"]] = self._restored(entry, cut)
        for run, header, arrays in sorted(closed_ticks, key=lambda one: one[1]["end_ms"]):
            value, at_byte, sends = arrays["value"].tobytes(), 0, []
            for model, size in header["sends"]:
                sends.append(Send(model, value[at_byte : at_byte + size]))
                at_byte += size
            self._closed.append(ClosedTick(header["end_ms"], sends))
            self._closed_runs[header["end_ms"]] = run

    def _restored(self, entry: Mapping[str, Any], columns: Mapping[str, Ints]) -> _Counts:
        model, version = entry["model"], entry["version"]
        plan = self._plans.get((model, version))
        if plan is None:
            plan = self._new_plan(model, version, msgspec.convert(entry["binning"], Binning))
        counts = _Counts(plan, self._tick_ms)
        counts.rows.update(entry["rows"])
        counts.take(np.stack([columns["output_tick"], columns["labelled"], columns["outcomes"]]))
        folded = np.array([plan.lanes.folded_again(entry["seen"], leaf) for leaf in entry["leaves"]] or [0], np.int64)
        lanes = np.array([plan.lanes.lane_again(name) for name in entry["lanes"]] or [0], np.int64)
        self._take(counts, counts.dense, folded, entry, columns["index"], columns["n"])
        if len(columns["lane_index"]):
            counts.lanes = np.zeros(len(plan.lanes.names) * plan.width, np.int64)
            whole = counts.lanes
            self._take(counts, lambda _: whole, lanes, entry, columns["lane_index"], columns["lane_n"])
        return counts

    @staticmethod
    def _take(
        counts: _Counts,
        room: Callable[[int], npt.NDArray[np.int64]],
        numbers: Ints,
        entry: Mapping[str, Any],
        index: Ints,
        n: Ints,
    ) -> None:
        """Add entries of a block, whose statistics may have stood at other places."""
        cell, at = np.divmod(index, max(entry["width"], 1))
        now = {place.statistic.name: place for place in counts.plan.places}
        for name, start, size in entry["statistics"]:
            if name in now and now[name].size == size:
                of = (at >= start) & (at < start + size)
                target = numbers[cell[of]] * counts.plan.width + now[name].start + at[of] - start
                np.add.at(room(int(numbers.max()) + 1), target, n[of])

    def rebuild_at_risk(self, closed_through_ms: int, known: Iterator[tuple[Ints, Ints]]) -> None:
        """Count again which outputs were pending at `closed_through_ms`.

        Parameters
        ----------
        known
            Model numbers and counting ticks of outputs without an outcome in a closed tick.
        """
        self._closed_through = closed_through_ms
        for models, ticks in known:
            before = ticks < closed_through_ms
            for number in distinct(models[before]).tolist():
                mine, n = np.unique(ticks[before & (models == number)], return_counts=True)
                self._at_risk.setdefault(self._book.model_names[number], _AtRisk()).add(mine, n)


_OPEN_COLUMNS = ("index", "n", "lane_index", "lane_n", "output_tick", "labelled", "outcomes")


def _add(counts: _Counts, place: _Place, folded: Ints, bins: Ints) -> None:
    if len(folded):
        flat = counts.dense(int(folded.max()) + 1)
        _add_at(flat, folded[:, None] * counts.plan.width + place.start + bins, bins)


def _add_to_lanes(counts: _Counts, place: _Place, folded: Ints, bins: Ints) -> None:
    if counts.lanes is None:
        counts.lanes = np.zeros(len(counts.plan.lanes.names) * counts.plan.width, np.int64)
    for lane in counts.plan.lanes.members[folded].T:
        _add_at(counts.lanes, lane[:, None] * counts.plan.width + place.start + bins, bins)


def _add_at(flat: npt.NDArray[np.int64], index: Ints, bins: Ints) -> None:
    index, counted = index.ravel(), bins.ravel() >= 0
    np.add.at(flat, index if counted.all() else index[counted], 1)
