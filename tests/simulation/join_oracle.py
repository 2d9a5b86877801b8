"""What should the join have done? Row by row, from `docs/decisions/0004-the-join-by-place.md` alone.

It is given the two logs of one partition, with the moves of each watermark at their positions, and asks nothing of who
was read first: every row gets the watermark at its place, then the rules are applied as they are written. Slow, plain,
and sharing with the join only the records, the bins of a value, and the encoding of WindowStats.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import murmur2

from detectors.binning import ABSENT_STATE, NAME, NULL_STATE, NUMBER, baseline_zero, feature_slots
from detectors.statistics import LabelledRows, OutputRows, Rows, needed
from schemas.baseline import Baseline
from schemas.binning import Binning
from schemas.lane import OTHER, Lane
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.stages.batch import Coded, FeatureColumn, LabelBatch, OutputBatch
from streams.stages.join import JoinSettings

NEVER = -(1 << 62)
OUTPUTS, LABELS = "model-outputs", "labels"


@dataclass(frozen=True, kw_only=True)
class OutputRow:
    """One row of model-outputs; a feature that is not in the mapping is absent, None is null.

    `misplaced` says whether the id belongs to another partition; None: nobody looked.
    """

    offset: int
    row: int = 0
    broker_ms: int
    id_hash: int
    misplaced: bool | None = None
    made_at_ms: int
    model: str
    version: str | None = None
    prediction: int = 0
    content: int = 0
    score: float = math.nan
    confidence: float = math.nan
    segments: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One row of labels."""

    offset: int
    row: int = 0
    broker_ms: int
    id_hash: int
    misplaced: bool | None = None
    labelled_at_ms: int
    model: str
    label: int = 0
    version: int = -1
    made_at_ms: int = -1
    retracted: bool = False


def misplaced(id_hash: int, prediction_id: str, partition: int, partitions: int) -> bool | None:
    """Say whether a row that is looked at belongs to another partition; None of the others."""
    return murmur2(prediction_id.encode(), partitions) != partition if id_hash % 64 == 0 else None


@dataclass(frozen=True)
class Move:
    """The clock moves a watermark to `to_ms`, if that is forward."""

    to_ms: int


def moved_to(settings: JoinSettings, clock_ms: int) -> Move:
    """Move of a topic at its edge when the clock says so."""
    return Move(clock_ms - settings.allowed_disorder_ms - settings.idle_after_ms)


@dataclass
class _Known:
    """An accepted output."""

    row: OutputRow
    place_ms: int
    due_ms: int
    tick: int
    labels: "list[_Placed]" = field(default_factory=list)
    first: "_Placed | None" = None
    outcome_tick: int | None = None


@dataclass
class _Placed:
    """A label and the watermark at its place."""

    row: LabelRow
    place_ms: int
    tick: int


@dataclass(frozen=True)
class Outcome:
    """What became of one output; `delay_ms` is -1 where it expired."""

    model: str
    id_hash: int
    made_at_ms: int
    tick_ms: int
    labelled: bool
    delay_ms: int
    wrong: bool


@dataclass
class Verdict:
    """What the join should hold after these logs: counters and gauges, outcomes, and WindowStats as they are sent.

    `looked_at` has the tick of each row whose partition was looked at, and whether it belongs to another one.
    """

    counters: dict[str, int]
    outcomes: list[Outcome]
    closed_through_ms: int
    window_stats: Callable[[], list[tuple[str, bytes]]]
    looked_at: list[tuple[int, bool]]

    def placed(self, through_ms: int) -> tuple[int, int]:
        """Return what a `Closed` through this time should say: rows that were looked at, and of them the misplaced ones."""
        before = [is_misplaced for tick, is_misplaced in self.looked_at if tick < through_ms]
        return len(before), sum(before)


class JoinOracle:
    """The join of one partition, told from its whole past."""

    def __init__(
        self,
        *,
        settings: JoinSettings,
        models: Mapping[str, Model],
        partition: int,
        partitions: int,
        baselines: Sequence[Baseline] = (),
    ) -> None:
        self.settings = settings
        self.models = models
        self.partition = partition
        self.partitions = partitions
        self.baselines = baselines

    def judge(self, outputs: Sequence[OutputRow | Move], labels: Sequence[LabelRow | Move]) -> Verdict:
        """Apply every rule to two logs."""
        self.counters: dict[str, int] = defaultdict(int)
        self.offsets: dict[int, dict[str, list[int]]] = defaultdict(dict)
        self.looked_at: list[tuple[int, bool]] = []
        known, output_mark = self._place_outputs(outputs)
        placed, label_mark = self._place_labels(labels)
        now = min(output_mark, label_mark)
        self._pair(known, placed, output_mark)
        flips = [flip for one in known for flip in self._decide(one, now)]
        counters = self.counters
        counters["labelled"] = counters["joined"] = sum(one.first is not None for one in known)
        counters["expired"] = sum(one.first is None and one.outcome_tick is not None for one in known)
        counters["pending"] = len(known) - counters["labelled"] - counters["expired"]
        counters["label_flips"] = len(flips)
        closed = max(self._tick(now), 0)
        ended = [one for one in known if one.outcome_tick is not None and one.outcome_tick < closed]
        counters["closed_labelled"] = sum(one.first is not None for one in ended)
        counters["closed_expired"] = sum(one.first is None for one in ended)
        outcomes = [self._outcome(one) for one in known if one.outcome_tick is not None]
        elsewhere = [is_misplaced for tick, is_misplaced in self.looked_at if tick < closed]
        counters["closed_sampled"], counters["closed_misplaced"] = len(elsewhere), sum(elsewhere)
        return Verdict(
            dict(counters), outcomes, closed, lambda: list(self._window_stats(known, flips, closed)), self.looked_at
        )

    def _tick(self, time_ms: int) -> int:
        return time_ms // self.settings.tick_ms * self.settings.tick_ms

    def _wait(self, model: str) -> int:
        return self.models[model].label_wait_ms if model in self.models else self.settings.default_label_wait_ms

    def _cover(self, topic: str, place_ms: int, offset: int) -> None:
        span = self.offsets[self._tick(place_ms)].setdefault(topic, [offset, offset + 1])
        span[1] = offset + 1

    def _look_at(self, row: OutputRow | LabelRow, tick: int) -> None:
        if row.misplaced is not None:
            self.looked_at.append((tick, row.misplaced))

    # rules 1, 2, 9
    def _place_outputs(self, log: Sequence[OutputRow | Move]) -> tuple[list[_Known], int]:
        settings, counters, mark = self.settings, self.counters, NEVER
        by_id: dict[int, list[_Known]] = defaultdict(list)
        known: list[_Known] = []
        for item in log:
            if isinstance(item, Move):
                mark = max(mark, item.to_ms)
                continue
            counters["output_rows"] += 1
            if item.made_at_ms > item.broker_ms + settings.future_skew_ms:
                counters["dead_output"] += 1
                counters["future_rows"] += 1
                continue
            mark = max(mark, min(item.made_at_ms, item.broker_ms) - settings.allowed_disorder_ms)
            self._cover(OUTPUTS, mark, item.offset)
            self._look_at(item, max(self._tick(item.made_at_ms), self._tick(mark)))
            same = [one for one in by_id[item.id_hash] if mark <= one.due_ms + settings.orphan_wait_ms]
            if same:
                counters["duplicate_output"] += 1
                counters["conflicting_output"] += item.content != same[0].row.content
                continue
            due_ms = item.made_at_ms + self._wait(item.model)
            counters["late_output"] += mark > due_ms
            one = _Known(item, mark, due_ms, max(self._tick(item.made_at_ms), self._tick(mark)))
            by_id[item.id_hash].append(one)
            known.append(one)
        return known, mark

    # rule 9
    def _place_labels(self, log: Sequence[LabelRow | Move]) -> tuple[list[_Placed], int]:
        settings, counters, mark = self.settings, self.counters, NEVER
        placed = []
        for item in log:
            if isinstance(item, Move):
                mark = max(mark, item.to_ms)
                continue
            counters["label_rows"] += 1
            if item.labelled_at_ms > item.broker_ms + settings.future_skew_ms:
                counters["dead_label"] += 1
                counters["future_rows"] += 1
                continue
            mark = max(mark, min(item.labelled_at_ms, item.broker_ms) - settings.allowed_disorder_ms)
            self._cover(LABELS, mark, item.offset)
            self._look_at(item, max(self._tick(item.labelled_at_ms), self._tick(mark)))
            placed.append(_Placed(item, mark, max(self._tick(item.labelled_at_ms), self._tick(mark))))
        return placed, mark

    # rules 3, 8
    def _pair(self, known: Sequence[_Known], placed: Sequence[_Placed], output_mark: int) -> None:
        wait, counters = self.settings.orphan_wait_ms, self.counters
        by_id: dict[int, list[_Known]] = defaultdict(list)
        for one in known:
            by_id[one.row.id_hash].append(one)
        for label in placed:
            said_due = label.row.made_at_ms + self._wait(label.row.model) if label.row.made_at_ms >= 0 else None
            if said_due is not None and said_due + wait < label.place_ms:
                counters["late_label"] += 1
                continue
            for one in by_id[label.row.id_hash]:
                if one.place_ms <= label.place_ms + wait and label.place_ms <= one.due_ms + wait:
                    one.labels.append(label)
                    break
            else:
                if output_mark <= label.place_ms + wait:
                    counters["orphan_pending"] += 1
                elif said_due is not None and said_due < label.place_ms:
                    counters["late_label"] += 1
                else:
                    counters["orphan_expired"] += 1

    # rules 4, 5, 6, 7
    def _decide(self, one: _Known, now: int) -> "Iterator[tuple[_Known, int]]":
        settings, counters = self.settings, self.counters
        stands: _Placed | None = None
        for label in one.labels:
            row = label.row
            if one.first is None:
                if row.retracted:
                    counters["duplicate_label"] += 1
                elif row.labelled_at_ms <= one.due_ms and label.place_ms <= one.due_ms:
                    one.first = stands = label
                    one.outcome_tick = max(one.tick, label.tick)
                else:
                    counters["late_label"] += 1
            elif label.place_ms > one.first.place_ms + settings.correction_wait_ms:
                counters["late_label"] += 1
            elif stands is not None and _is_higher(row, stands.row):
                counters["corrected"] += 1
                if self._stands_wrong(one, stands.row) != self._stands_wrong(one, row):
                    assert one.outcome_tick is not None
                    yield one, max(label.tick, one.outcome_tick)
                stands = label
            else:
                counters["duplicate_label"] += 1
        if one.first is None and now > one.due_ms:
            one.outcome_tick = max(self._tick(one.due_ms), one.tick)

    def _wrong(self, one: _Known, label: int) -> bool:
        model = self.models.get(one.row.model)
        if model is None or model.kind != "regression":
            return label != one.row.prediction
        said, true = np.array([one.row.prediction, label], np.uint32).view(np.float32).astype(float).tolist()
        return not abs(said - true) <= model.threshold

    def _stands_wrong(self, one: _Known, row: LabelRow) -> bool:
        return not row.retracted and self._wrong(one, row.label)

    def _outcome(self, one: _Known) -> Outcome:
        assert one.outcome_tick is not None
        row = one.row
        if one.first is None:
            return Outcome(row.model, row.id_hash, row.made_at_ms, one.outcome_tick, False, -1, False)  # noqa: FBT003
        delay = max(one.first.row.labelled_at_ms - row.made_at_ms, 0)
        wrong = self._wrong(one, one.first.row.label)
        return Outcome(row.model, row.id_hash, row.made_at_ms, one.outcome_tick, True, delay, wrong)  # noqa: FBT003

    # rule 10, and what a closed tick says
    def _window_stats(
        self, known: Sequence[_Known], flips: Sequence[tuple[_Known, int]], closed: int
    ) -> "Iterator[tuple[str, bytes]]":
        events: dict[int, dict[str, list[tuple[str, _Known]]]] = defaultdict(lambda: defaultdict(list))
        for one in known:
            events[one.tick][one.row.model].append(("outputs", one))
            if one.outcome_tick is not None:
                of = "expired" if one.first is None else "labelled"
                events[one.outcome_tick][one.row.model].append((of, one))
        for one, tick in flips:
            events[tick][one.row.model].append(("flips", one))
        at_risk: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        tick = min(events, default=closed)
        while tick < closed:
            judged = [model for model in at_risk if self._binning(model, tick)[0]]
            risky = [model for model in judged if any(at_risk[model].values())]
            for model in sorted({*events[tick], *risky}):
                yield from self._tick_stats(model, tick, events[tick][model], at_risk[model])
            tick = self._next_tick(tick, events, at_risk)

    def _next_tick(self, tick: int, events: Mapping[int, object], at_risk: Mapping[str, Mapping[int, int]]) -> int:
        following = tick + self.settings.tick_ms
        for model, by_tick in at_risk.items():
            version, binning = self._binning(model, following)
            later = not version and any(one.model == model and one.valid_from_ms > following for one in self.baselines)
            last = binning.age_edges_ticks[-1] * self.settings.tick_ms
            if any(n and (later or start + last > tick) for start, n in by_tick.items()):
                return following
        return min((one for one in events if one > tick), default=1 << 62)

    def _binning(self, model: str, tick: int) -> tuple[int, Binning]:
        valid = [one for one in self.baselines if one.model == model and one.valid_from_ms <= tick]
        if valid:
            best = max(valid, key=lambda one: one.version)
            return best.version, best.binning
        known = self.models.get(model)
        threshold = known.threshold if known is not None and known.kind == "classification" else 0.5
        return 0, baseline_zero(self.settings.tick_ms, threshold)

    def _tick_stats(
        self, model: str, tick: int, events: Sequence[tuple[str, _Known]], at_risk: dict[int, int]
    ) -> "Iterator[tuple[str, bytes]]":
        version, binning = self._binning(model, tick)
        names = self._lane_names(model, binning)
        needs = needed(self.settings.needs)
        arrays = {one.name: np.zeros((len(names), *one.shape(binning)), np.int64) for one in needs}
        for of, one in events:
            for statistic in needs:
                if statistic.of == of:
                    bins = np.zeros(1, np.int64)
                    if statistic.bins is not None:
                        bins = statistic.bins(self._as_rows(of, one, tick, binning), binning).ravel()
                    for lane in self._lanes_of(one, binning, names):
                        flat = arrays[statistic.name][lane].reshape(-1)
                        for at in bins.tolist():
                            flat[at] += at >= 0
        self._count_ages(tick, events, at_risk, binning, arrays)
        used = [at for at in range(len(names)) if any(array[at].any() for array in arrays.values())]
        if used:
            whole = WindowStats(
                model=model,
                tick_start_ms=tick,
                tick_end_ms=tick + self.settings.tick_ms,
                source_partition=self.partition,
                source_partitions=self.partitions,
                part=0,
                parts=1,
                baseline_version=version,
                offsets={topic: (first, end) for topic, (first, end) in sorted(self.offsets.get(tick, {}).items())},
                lanes=tuple(names[at] for at in used),
                arrays={name: array[used] for name, array in arrays.items()},
            )
            for part in whole.split():
                yield model, part.encode()

    def _count_ages(
        self,
        tick: int,
        events: Sequence[tuple[str, _Known]],
        at_risk: dict[int, int],
        binning: Binning,
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        def bin_of(start: int) -> int | None:
            age = (tick - start) // self.settings.tick_ms
            spans = list(zip(binning.age_edges_ticks, binning.age_edges_ticks[1:], strict=False))
            return next((at for at, (low, high) in enumerate(spans) if low <= age < high), None)

        for of, _ in events:
            at_risk[tick] += of == "outputs"
        for start, n in at_risk.items():
            at = bin_of(start)
            if at is not None and "at_risk_by_age" in arrays:
                arrays["at_risk_by_age"][0, at] += n
        for of, one in events:
            if of in ("labelled", "expired"):
                at_risk[one.tick] -= 1
                at = bin_of(one.tick)
                if of == "labelled" and at is not None and "labelled_by_age" in arrays:
                    arrays["labelled_by_age"][0, at] += 1

    def _as_rows(self, of: str, one: _Known, tick: int, binning: Binning) -> Rows:
        score, confidence = np.array([one.row.score], np.float32), np.array([one.row.confidence], np.float32)
        if of == "outputs":
            slots = [_slot(one.row.features, feature.name, feature) for feature in binning.features]
            return OutputRows(
                tick_ms=np.array([tick]),
                score=score,
                confidence=confidence,
                feature_slots=np.array([slots], np.int16).reshape(1, len(slots)),
            )
        assert one.first is not None
        delay = max(one.first.row.labelled_at_ms - one.row.made_at_ms, 0)
        return LabelledRows(
            tick_ms=np.array([tick]),
            made_at_ms=np.array([one.row.made_at_ms]),
            delay_ms=np.array([delay]),
            score=score,
            confidence=confidence,
            wrong=np.array([self._wrong(one, one.first.row.label)]),
        )

    def _listed(self, model: str, binning: Binning) -> tuple[list[Lane], list[Lane]]:
        declared = self.models[model].segments if model in self.models else ()
        values = [(name, value) for name in declared for value in binning.segments.get(name, [])]
        names = list(dict.fromkeys(name for name, _ in values))
        listed = [Lane(), *(Lane(version) for version in binning.versions)]
        listed += [Lane("", name, value) for name, value in values]
        listed += [Lane(version, name, value) for version in binning.versions for name, value in values]
        others = [Lane(OTHER)] if binning.versions else []
        others += [Lane("", name, OTHER) for name in names]
        others += [Lane(OTHER, name, OTHER) for name in names if binning.versions]
        return listed[: self.settings.max_lanes_per_model], others

    def _lane_names(self, model: str, binning: Binning) -> list[str]:
        listed, others = self._listed(model, binning)
        return [lane.name for lane in [*listed, *others]]

    def _lanes_of(self, one: _Known, binning: Binning, names: Sequence[str]) -> list[int]:
        listed, others = self._listed(one.row.model, binning)
        version = one.row.version or ""
        lanes = [Lane()]
        if binning.versions:
            lanes.append(Lane(version) if Lane(version) in listed and version else Lane(OTHER))
        for name in dict.fromkeys(lane.segment for lane in others if lane.segment):
            value = one.row.segments.get(name, OTHER)
            lanes.append(Lane("", name, value) if Lane("", name, value) in listed else Lane("", name, OTHER))
            if binning.versions:
                both = Lane(version, name, value)
                lanes.append(both if both in listed and version else Lane(OTHER, name, OTHER))
        return [names.index(lane.name) for lane in lanes]


def _is_higher(now: LabelRow, before: LabelRow) -> bool:
    if now.version >= 0 and before.version >= 0:
        return now.version > before.version
    if now.labelled_at_ms != before.labelled_at_ms:
        return now.labelled_at_ms > before.labelled_at_ms
    return (now.label, now.retracted) != (before.label, before.retracted)


def _slot(features: Mapping[str, float | str | None], name: str, bins: object) -> int:
    absent = name not in features
    value = features.get(name)
    state = ABSENT_STATE if absent else NULL_STATE if value is None else NAME if isinstance(value, str) else NUMBER
    number = float(value) if isinstance(value, int | float) else math.nan
    names = (value,) if isinstance(value, str) else ()
    code = 0 if names else -1
    slots = feature_slots(np.array([state], np.int8), np.array([number]), np.array([code], np.int32), names, bins)  # type: ignore[arg-type]
    return int(slots[0])


# -- rows as the join takes them


def _coded(values: Sequence[str | None]) -> Coded:
    names = tuple(dict.fromkeys(value for value in values if value is not None))
    codes = [-1 if value is None else names.index(value) for value in values]
    return Coded(np.array(codes, np.int32), names)


def _feature(rows: Sequence[OutputRow], name: str) -> FeatureColumn:
    values = [row.features.get(name, ...) for row in rows]
    state = [
        ABSENT_STATE if value is ... else NULL_STATE if value is None else NAME if isinstance(value, str) else NUMBER
        for value in values
    ]
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    names = _coded([value if isinstance(value, str) else None for value in values])
    return FeatureColumn(np.array(state, np.int8), np.array(numbers), names)


def output_batch(rows: Sequence[OutputRow], *, partition: int, start: int, end: int, dead: int = 0) -> OutputBatch:
    """Columns of these rows, which lie in the offsets `[start, end)`."""
    return OutputBatch(
        partition=partition,
        start=start,
        end=end,
        offset=np.array([row.offset for row in rows], np.int64),
        row=np.array([row.row for row in rows], np.int32),
        broker_ms=np.array([row.broker_ms for row in rows], np.int64),
        id_hash=np.array([row.id_hash for row in rows], np.uint64),
        misplaced=np.array([-1 if row.misplaced is None else row.misplaced for row in rows], np.int8),
        made_at_ms=np.array([row.made_at_ms for row in rows], np.int64),
        model=_coded([row.model for row in rows]),
        version=_coded([row.version for row in rows]),
        prediction=np.array([row.prediction for row in rows], np.uint32),
        content=np.array([row.content for row in rows], np.uint32),
        score=np.array([row.score for row in rows], np.float32),
        confidence=np.array([row.confidence for row in rows], np.float32),
        segments={
            name: _coded([row.segments.get(name) for row in rows])
            for name in sorted({name for row in rows for name in row.segments})
        },
        features={name: _feature(rows, name) for name in sorted({name for row in rows for name in row.features})},
        dead=dead,
    )


def label_batch(rows: Sequence[LabelRow], *, partition: int, start: int, end: int, dead: int = 0) -> LabelBatch:
    """Columns of these rows, which lie in the offsets `[start, end)`."""
    return LabelBatch(
        partition=partition,
        start=start,
        end=end,
        offset=np.array([row.offset for row in rows], np.int64),
        row=np.array([row.row for row in rows], np.int32),
        broker_ms=np.array([row.broker_ms for row in rows], np.int64),
        id_hash=np.array([row.id_hash for row in rows], np.uint64),
        misplaced=np.array([-1 if row.misplaced is None else row.misplaced for row in rows], np.int8),
        labelled_at_ms=np.array([row.labelled_at_ms for row in rows], np.int64),
        model=_coded([row.model for row in rows]),
        label=np.array([row.label for row in rows], np.uint32),
        version=np.array([row.version for row in rows], np.int64),
        made_at_ms=np.array([row.made_at_ms for row in rows], np.int64),
        retracted=np.array([row.retracted for row in rows], np.bool_),
        dead=dead,
    )
