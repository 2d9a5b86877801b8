"""Is a lane not as it should be? Window statistics in, findings out.

A tick closes when the `Closed` of every source partition has passed its end. Then its integers are added up, and each
detector of each model of this partition is stepped once, also where no row came: absence is evidence too. Only until
somebody was heard are empty ticks passed at one go. What is found depends on the log alone, not on the order in which
source partitions are read. Behind a backlog hundreds of ticks become due together: they are closed a piece at a time
(`streams.stages.stage.InPieces`).

A snapshot is taken every `SNAPSHOT_TICKS` ticks, when no other is due, and after a baseline or a deployment was read,
before the next tick; in between, a restart reads on from the last one (`streams.stages.state_rows` has the rows).
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import repeat
from typing import Literal

import msgspec
import numpy as np

from detectors.alarm import Ints
from detectors.arming import spend_of
from detectors.budget import WEEK_MS, Budget
from detectors.detector import Reference, Tick
from detectors.statistics import needed
from detectors.table import DETECTORS, READS
from detectors.usable import fits
from detectors.watch import Alarm, Outcome, Watch, WatchState, advance, begin, carried, recent, watch
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.deployment import Deployment
from schemas.fields import TOCSIN
from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.lane import Lane
from schemas.ledger_entry import LedgerEntry
from schemas.model import Model
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.stages.stage import whole
from streams.stages.state_rows import StateRows, quoted
from streams.stages.watch_rows import is_laid_out_alike, states_of, values_of

In = WindowStats | Closed | Baseline | Deployment
Out = Finding | LedgerEntry | Through

SNAPSHOT_TICKS = 10
TICKS_AT_ONCE = 10
"""Ticks that one call closes: one takes 4 ms with 500 lanes and 70 ms with 10,000 (`bench_detect_tick.py`, 20 features), and
may take ten times as long on a loaded machine, where a worker that is silent for its session ends."""

LEDGER_MS = 3_600_000
"""Event time that one ledger entry covers at most."""

SILENT_WAIT_MS = 300_000
"""How long a source partition may be silent, by the clock and at the live edge, before that is a gap of our monitoring:
longer than a join takes to be restarted, and as long as `worker.restore_wait`."""

SILENT_WAIT_TICKS = 3
"""The same in ticks, where that is longer: a source partition that follows is heard of once a tick."""

FAR_BEHIND_MS = 600_000
"""How far behind the clock a source partition is that reads history, as all do at an installation, or after an outage. One
join reads them in no even turn: they are silent when all of them are."""

BASELINE_WAIT_MS = 60_000
"""How long a tick waits, by the clock and at the live edge, for a baseline that its statistics name."""

MISPLACED_ROWS = 5
"""Rows in the wrong partition, of those that were looked at, from which on that is a gap of our monitoring: fewer may be a
hand that tried something."""

MISPLACED_SHARE = 0.01
"""The same as a share of the rows that were looked at."""

DEPLOYMENTS_KEPT = 4096
"""Deployments of a partition that are remembered, the latest, to tell a repeat."""

UNKNOWN_MODELS_TOLD = 5
"""Unknown models of a partition that ring at once, the last of them for all that follow: names without end open no incidents
without end."""

UNKNOWN_QUIET_MS = 1_800_000
"""How long no row of an unknown model comes until its finding clears: half of the hold-down that is shipped, so that a row
which somebody sent once opens no incident."""

UNKNOWN = "unknown_model"

MISPLACED = "misplaced_rows"
_MOST_ROWS = 2**63 - 1

LABEL_DETECTORS = ("label_pipeline", "label_silence")

Reason = Literal["base", "lump", "recovery", "ticket"]


@dataclass(slots=True)
class Account:
    """What one detector spent for one reason since the last ledger entry."""

    from_ms: int
    spent: float = 0.0
    lanes: int = 0
    alarms: int = 0


@dataclass(slots=True)
class ModelState:
    """What is remembered of a model.

    Parameters
    ----------
    baseline
        The one in use, None before the first.
    watches, states
        By detector.
    open_findings
        The firing finding of each open (detector, lane).
    disturbed
        Whether labels come so that errors cannot be judged by their delay.
    deployments
        How many wait to be paid for in the next tick.
    reserve_week, reserve_spent
        Week of event time, and what lumps took from its reserve.
    in_rows
        By detector, up to which of its ticks its rings are in rows.
    """

    baseline: Baseline | None = None
    index: dict[str, int] = field(default_factory=dict)
    watches: dict[str, Watch] = field(default_factory=dict)
    states: dict[str, WatchState] = field(default_factory=dict)
    open_findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    disturbed: bool = False
    deployments: int = 0
    reserve_week: int = -1
    reserve_spent: float = 0.0
    accounts: dict[tuple[str, Reason], Account] = field(default_factory=dict)
    in_rows: dict[str, int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """Version of the baseline in use, 0 for none."""
        return 0 if self.baseline is None else self.baseline.version


@dataclass(slots=True)
class Counts:
    """What a stage did since it began, for metrics.

    Parameters
    ----------
    repeats
        Records that changed nothing.
    blind_ticks
        Ticks with rows of a model that has no baseline, or whose statistics are not under it, or not cut as this
        version cuts them (while an older join still runs), so that nothing is said.
    unknown_model_ticks
        Ticks with rows of a model that is not configured.
    shadow_alarms
        Alarms of lanes that are not armed.
    spent
        By ledger, expected false pages or tickets.
    """

    ticks: int = 0
    repeats: int = 0
    blind_ticks: int = 0
    unknown_model_ticks: int = 0
    shadow_alarms: int = 0
    spent: dict[str, float] = field(default_factory=lambda: {"page": 0.0, "ticket": 0.0})


class Looked(msgspec.Struct, array_like=True, frozen=True):
    """Rows whose partition was compared with that of their id, and those that belong to another one.

    >>> Looked(400, 4).are_wrong, Looked(600, 5).are_wrong, Looked(400, 5).are_wrong
    (False, False, True)
    """

    rows: int = 0
    misplaced: int = 0

    @property
    def are_wrong(self) -> bool:
        """Whether a person has to know."""
        return self.misplaced >= max(MISPLACED_ROWS, MISPLACED_SHARE * self.rows)

    @property
    def are_enough(self) -> bool:
        """Whether so many were looked at that a producer who misplaces `MISPLACED_SHARE` of them shows."""
        return self.rows >= MISPLACED_ROWS / MISPLACED_SHARE

    def plus(self, other: "Looked") -> "Looked":
        """Add up, to no more than state and findings can hold."""
        return Looked(min(self.rows + other.rows, _MOST_ROWS), min(self.misplaced + other.misplaced, _MOST_ROWS))

    def since(self, before: "Looked") -> "Looked":
        """Return what came since a count of the same join; all of it where that has begun anew."""
        if self.rows < before.rows or self.misplaced < before.misplaced:
            return self
        return Looked(self.rows - before.rows, self.misplaced - before.misplaced)


class _ModelRow(msgspec.Struct, array_like=True):
    version: int
    ticks: dict[str, int]
    open_findings: list[tuple[str, str, Finding]]
    disturbed: bool
    deployments: int
    reserve_week: int
    reserve_spent: float
    accounts: list[tuple[str, Reason, int, float, int, int]]


class _State(msgspec.Struct, array_like=True):
    next_ms: int | None
    sources: int
    first: dict[int, int]
    through: dict[int, int]
    pending: list[bytes]
    models: dict[str, _ModelRow]
    seen_deployments: list[str]
    gaps: list[tuple[str, str, Finding]]
    given_up: list[tuple[str, int]]
    looked_at: dict[int, Looked] = {}
    looked_by: dict[int, Looked] = {}
    looked: Looked = Looked()
    unknown: dict[str, int] = {}


STATE, WATCHES, BASELINES = "state", "watches", "baselines"
"""What the values in rows are called: all but the following two; the lanes of each model; parts of baselines."""


class Detect:
    """Detection on one partition of `window-stats`.

    Parameters
    ----------
    rows
        The state; a new object over the same mapping goes on bit for bit from its last snapshot.
    partition, partition_of
        The partition of `window-stats` that this object reads, and which one a model's records go to.
    tenant, environment
        Of the deployment: part of each finding's identity.
    models
        All configured models by name; those of other partitions are left alone.
    budget
        Of the deployment; its tick is ours. One that is more than its parts is refused.
    ticks_at_once
        Ticks that one call closes at most, 1 or more; the others are left for `more`.
    """

    def __init__(
        self,
        *,
        rows: MutableMapping[str, bytes],
        partition: int,
        partition_of: Callable[[str], int],
        tenant: str,
        environment: str,
        models: Mapping[str, Model],
        budget: Budget,
        ticks_at_once: int,
    ) -> None:
        budget.proven()
        self._rows = StateRows(rows)
        self._partition = partition
        self._tenant, self._environment = tenant, environment
        self._configured = models
        self._budget = budget
        self._tick_ms = budget.tick_ms
        self._ticks_at_once = ticks_at_once
        self._keeps_watch = partition_of(TOCSIN) == partition
        self._statistics = needed(READS)
        self.counts = Counts()

        self._next_ms: int | None = None
        self._sources = 0
        self._first: dict[int, int] = {}
        self._through: dict[int, int] = {}
        self._pending: dict[int, dict[str, dict[tuple[int, int], WindowStats]]] = {}
        self._starts: list[int] = []  # of the pending ticks, a heap
        self._models = {name: ModelState() for name in sorted(models) if partition_of(name) == partition}
        self._parts: dict[str, dict[int, dict[int, Baseline]]] = {name: {} for name in self._models}
        self._seen_deployments: dict[str, None] = {}
        self._gaps: dict[tuple[str, str], Finding] = {}
        self._unknown: dict[str, int] = {}  # models with a gap, by the end of the last tick in which rows of them count
        self._given_up: dict[tuple[str, int], None] = {}
        self._looked_at: dict[int, Looked] = {}  # by source partition, as its last `Closed` counts them
        self._looked_by: dict[int, Looked] = {}  # of all, by the end of the tick in which they are judged
        self._looked = Looked()  # since they were last found right or wrong

        self._strangers: list[str] = []
        self._settled = True
        self._ticks_since = 0
        self._now_ms: int | None = None
        self._heard_at_ms: dict[int, int] = {}  # the first time that was told after it
        self._far_behind: set[int] = set()
        self._waits_for: tuple[str, int] | None = None
        self._waits_since_ms: int | None = None
        self._load()

    @property
    def settled(self) -> bool:
        """Whether all that was received is in the mapping: only right after a snapshot."""
        return self._settled

    @property
    def through_ms(self) -> int | None:
        """End of the last tick that was closed; None before it is known where to begin."""
        return self._next_ms

    @property
    def models(self) -> Mapping[str, ModelState]:
        """What is remembered of this partition's models, to look at."""
        return self._models

    def receive(self, records: Sequence[In]) -> list[Out]:
        """Take records of this partition in order; a repeat changes nothing.

        What is due is closed before the next record is taken, so that pieces are cut behind the last record alone.
        """
        answers: list[Out] = []
        pinned = False
        for record in records:
            if not pinned:
                answers = whole(self, answers)
            self._settled = False
            if isinstance(record, WindowStats):
                self._take_stats(record)
            elif isinstance(record, Closed):
                answers += self._take_closed(record)
            elif isinstance(record, Baseline):
                pinned |= self._take_baseline(record)
            else:
                pinned |= self._take_deployment(record)
        if pinned:
            self._snapshot()
            return answers
        return answers + self.more()

    def advance(self, decided_at_ms: int) -> list[Out]:  # noqa: ARG002 - `Closed` alone moves this stage
        """Close ticks that waited for a snapshot; the time is told by `Closed`."""
        return self.more()

    @property
    def has_more(self) -> bool:
        """Whether a tick is due; of a snapshot, what was received says so again."""
        return self._is_due()

    def more(self) -> list[Out]:
        """Close the first of the ticks that are due.

        A snapshot waits for the last of them: each holds the statistics of all that are still to be closed.
        """
        answers: list[Out] = []
        for _ in range(self._ticks_at_once):
            if not self._is_due():
                break
            self._pass_empty()
            answers += self._tick()
        if self._ticks_since >= SNAPSHOT_TICKS and not self._is_due():
            self._snapshot()
        return answers

    def clock(self, now_ms: int, live: bool) -> list[Out]:  # noqa: FBT001 - as the host calls it
        """Learn the time of the world, and whether all there was had been read.

        It decides nothing but gaps of our own monitoring: a source partition that is silent, a baseline that does not
        come.
        """
        answers = whole(self, [])
        self._now_ms = max(now_ms, self._now_ms or now_ms)
        if not live:
            self._heard_at_ms.clear()
            self._waits_since_ms = None
            return answers
        answers += self._missed_sources(self._now_ms)
        if self._waits_for is None:
            self._waits_since_ms = None
        elif self._waits_since_ms is None:
            self._waits_since_ms = self._now_ms
        elif self._now_ms - self._waits_since_ms >= BASELINE_WAIT_MS:
            self._given_up[self._waits_for] = None
            self._settled = False
            answers += self.more()
        return answers

    # What comes in

    def _take_stats(self, stats: WindowStats) -> None:
        start_ms, place = stats.tick_start_ms, (stats.source_partition, stats.part)
        parts = self._pending.get(start_ms, {}).get(stats.model, {})
        if place in parts or (self._next_ms is not None and start_ms < self._next_ms):
            self.counts.repeats += 1
            return
        self._first.setdefault(stats.source_partition, start_ms)
        if start_ms not in self._pending:
            heappush(self._starts, start_ms)
        self._pending.setdefault(start_ms, {}).setdefault(stats.model, {})[place] = stats

    def _take_closed(self, closed: Closed) -> list[Out]:
        source = closed.source_partition
        if closed.through_ms <= self._through.get(source, -1):
            self.counts.repeats += 1
            return []
        self._sources = closed.source_partitions
        self._first.setdefault(source, closed.through_ms - self._tick_ms)
        self._through[source] = closed.through_ms
        self._heard_at_ms.pop(source, None)
        if self._keeps_watch:
            self._take_looked(closed)
        gap = self._gaps.pop((TOCSIN, str(source)), None)
        if gap is None:
            return []
        return [self._cleared(gap, self._undecided_ms(), gap.effect, 0, "the source partition is read again")]

    def _take_looked(self, closed: Closed) -> None:
        looked = Looked(closed.sampled, closed.misplaced)
        more = looked.since(self._looked_at.get(closed.source_partition, Looked()))
        self._looked_at[closed.source_partition] = looked
        if more.rows:
            by_then = self._looked_by.get(closed.through_ms, Looked())
            self._looked_by[closed.through_ms] = by_then.plus(more)

    def _take_baseline(self, part: Baseline) -> bool:
        state = self._models.get(part.model)
        if state is None:
            return False
        if part.version <= state.version or part.part in self._parts[part.model].get(part.version, {}):
            self.counts.repeats += 1
            return False
        self._parts[part.model].setdefault(part.version, {})[part.part] = part
        return True

    def _take_deployment(self, deployment: Deployment) -> bool:
        state = self._models.get(deployment.model)
        if state is None:
            return False
        if deployment.deployment_id in self._seen_deployments:
            self.counts.repeats += 1
            return False
        self._seen_deployments[deployment.deployment_id] = None
        if len(self._seen_deployments) > DEPLOYMENTS_KEPT:
            del self._seen_deployments[next(iter(self._seen_deployments))]
        state.deployments += 1
        return True

    # Closing ticks

    def _pass_empty(self) -> None:
        """Pass the ticks in which nothing can happen at one go, all but the last of them: its `Through` says so of all.

        Where nobody listens yet, an empty tick adds nothing. Once a model was heard its absence is evidence, tick by
        tick, and no tick is passed.
        """
        next_ms = self._next_ms
        assert next_ms is not None
        if next_ms in self._pending or not all(self._is_idle(model) for model in self._models):
            return
        last_ms = min([*self._through.values(), *self._starts[:1], *self._looked_by]) - self._tick_ms
        quiet = [heard_ms + UNKNOWN_QUIET_MS - self._tick_ms for heard_ms in self._unknown.values()]
        passed = (min([last_ms, *self._next_adoptions(next_ms), *quiet]) - next_ms) // self._tick_ms
        if passed > 0:
            self._next_ms = next_ms + passed * self._tick_ms
            self._ticks_since += passed
            self.counts.ticks += passed

    def _is_idle(self, model: str) -> bool:
        """Whether nothing of a model listens, fires, or waits for the next tick to be said."""
        state = self._models[model]
        waits = state.open_findings or state.accounts or (model, UNKNOWN) in self._gaps
        return not waits and not any(one.heard.any() for one in state.states.values())

    def _next_adoptions(self, next_ms: int) -> Iterator[int]:
        """Yield the starts of the ticks, from the next one on, that take a baseline into use."""
        for model, state in self._models.items():
            for version, parts in self._parts[model].items():
                if version > state.version and self._is_complete(model, version):
                    wait_ms = max(parts[0].valid_from_ms - next_ms, 0)
                    yield next_ms + -(-wait_ms // self._tick_ms) * self._tick_ms

    def _is_due(self) -> bool:
        if not self._sources or len(self._through) < self._sources:
            return False
        if self._next_ms is None:
            self._next_ms = min(self._first.values())
        if min(self._through.values()) < self._next_ms + self._tick_ms:
            return False
        waits_for = self._awaited(self._next_ms)
        if waits_for != self._waits_for:
            self._waits_for, self._waits_since_ms = waits_for, None
        return waits_for is None

    def _awaited(self, start_ms: int) -> tuple[str, int] | None:
        """Name a baseline that this tick's statistics are under and that is still to come.

        Where a later one is complete it is not to come any more: they are read in order.
        """
        for model, parts in sorted(self._pending.get(start_ms, {}).items()):
            if model in self._models:
                named = max(stats.baseline_version for stats in parts.values())
                known = max(self._models[model].version, self._newest(model))
                if named > known and (model, named) not in self._given_up:
                    return model, named
        return None

    def _newest(self, model: str) -> int:
        return max((version for version in self._parts[model] if self._is_complete(model, version)), default=0)

    def _is_complete(self, model: str, version: int) -> bool:
        parts = self._parts[model].get(version, {})
        return bool(parts) and len(parts) == next(iter(parts.values())).parts

    def _tick(self) -> list[Out]:
        start_ms = self._next_ms
        assert start_ms is not None
        end_ms = start_ms + self._tick_ms
        pending = self._pending.pop(start_ms, {})
        while self._starts and self._starts[0] <= start_ms:
            heappop(self._starts)
        answers: list[Out] = []
        for model in sorted({*self._models, *pending}):
            stats = [one for _, one in sorted(pending.get(model, {}).items())]
            if model in self._models:
                answers += self._model_tick(model, stats, start_ms, end_ms)
            else:
                answers += self._unknown_tick(model, stats, start_ms, end_ms)
        answers += self._quiet(end_ms)
        answers += self._judge_places(start_ms, end_ms)
        if start_ms // LEDGER_MS != end_ms // LEDGER_MS:
            answers += self._ledger(end_ms)
        self._next_ms = end_ms
        self._ticks_since += 1
        self._settled = False
        self.counts.ticks += 1
        answers.append(Through(partition=self._partition, through_ms=end_ms))
        return answers

    def _model_tick(self, model: str, stats: list[WindowStats], start_ms: int, end_ms: int) -> list[Out]:
        state = self._models[model]
        answers: list[Out] = []
        gap = self._gaps.pop((model, UNKNOWN), None)
        self._unknown.pop(model, None)
        if gap is not None:
            answers.append(self._cleared(gap, end_ms, gap.effect, 0, "the model is configured now"))
        wanted = self._version_for(model, stats, start_ms)
        if wanted > state.version:
            self._adopt(model, wanted)
        if state.baseline is None:
            self.counts.blind_ticks += bool(stats)
            return answers
        answers += self._left(state, end_ms)
        if not stats and not any(one.heard.any() for one in state.states.values()):
            return answers  # its life begins with its first rows: how long before that the log began says nothing
        blind = any(one.baseline_version != state.version or not self._fits(one, state.baseline) for one in stats)
        self.counts.blind_ticks += blind
        lanes, arrays = self._summed(state.baseline, state.index, [] if blind else stats)
        tick = Tick(start_ms=start_ms, end_ms=end_ms, lanes=lanes, arrays=arrays)
        lumps = self._lumps(model, start_ms)
        disturbed = state.disturbed
        for name, one in state.watches.items():
            state.states[name], outcome = advance(
                one,
                state.states[name],
                tick,
                lump=lumps.get(name, 0.0),
                disturbed=disturbed and one.detector.delay_conditioned,
                blind=blind,
            )
            self.counts.shadow_alarms += outcome.shadow_alarms
            answers += self._rung(model, name, outcome.alarms, end_ms)
            answers += self._recovered(model, name, outcome.cleared, end_ms)
            answers += self._paid(model, name, outcome, start_ms, end_ms)
        self._judge_labels(state)
        return answers

    def _version_for(self, model: str, stats: list[WindowStats], start_ms: int) -> int:
        """Say which baseline judges a tick: the one that its statistics name, else the one valid at its start."""
        if stats:
            named = max(one.baseline_version for one in stats)
            return named if self._is_complete(model, named) else 0
        valid = (
            version
            for version, parts in self._parts[model].items()
            if self._is_complete(model, version) and parts[0].valid_from_ms <= start_ms
        )
        return max(valid, default=0)

    def _adopt(self, model: str, version: int) -> None:
        """Take a baseline into use: what lanes remember goes on by name."""
        state = self._models[model]
        whole = Baseline.joined(list(self._parts[model][version].values()))
        assert whole is not None
        was = () if state.baseline is None else state.baseline.lanes
        before, remembered = state.watches, state.states
        self._watch_under(state, model, whole)
        for name, one in state.watches.items():
            if name in before:
                state.states[name] = carried(remembered[name], was, one)
        self._parts[model] = {at: parts for at, parts in self._parts[model].items() if at >= version}
        for key in [key for key in self._given_up if key[0] == model and key[1] <= version]:
            del self._given_up[key]

    def _left(self, state: ModelState, end_ms: int) -> list[Out]:
        """Clear what fires in lanes that are not watched any more: a newer baseline, or Tocsin, does without them."""
        gone = [
            (name, lane)
            for name, lane in state.open_findings
            if name not in state.states or lane not in state.index or not state.states[name].open[state.index[lane]]
        ]
        return [
            self._cleared(finding, end_ms, finding.effect, 0, f"not watched any more under baseline {state.version}")
            for finding in (state.open_findings.pop(key) for key in gone)
        ]

    def _watch_under(self, state: ModelState, model: str, whole: Baseline) -> None:
        reference = Reference(
            model=self._configured[model],
            binning=whole.binning,
            lanes=whole.lanes,
            arrays=whole.arrays,
            reference_ms=whole.reference_ms,
        )
        state.baseline = whole
        state.index = {name: lane for lane, name in enumerate(whole.lanes)}
        state.watches, state.states, state.in_rows = {}, {}, {}
        for name, detector in DETECTORS.items():
            fitted = detector.fit(reference, whole.tolerance.get(name, 0.0))
            if fitted is not None:
                listed = frozenset(whole.armed.get(name, ()))
                armed = np.array([lane in listed for lane in whole.lanes], dtype=np.bool_)
                share = spend_of(self._budget, model, detector)
                one = watch(detector, fitted, whole.lanes, self._within_bounds(armed, whole), share)
                state.watches[name], state.states[name] = one, begin(one)

    def _within_bounds(self, armed: np.ndarray, whole: Baseline) -> np.ndarray:
        """Keep to as many lanes as the budget was divided by, whatever a baseline lists."""
        rollup = np.array([Lane.of(name).is_rollup for name in whole.lanes], dtype=np.bool_)
        rollups, fine = armed & rollup, armed & ~rollup
        kept: np.ndarray = (rollups & (np.cumsum(rollups) <= self._budget.max_rollups_per_model)) | (
            fine & (np.cumsum(fine) <= self._budget.max_lanes_per_model)
        )
        return kept

    def _fits(self, stats: WindowStats, whole: Baseline) -> bool:
        return fits(whole.binning, stats.lanes, stats.arrays, self._statistics)

    def _summed(
        self, whole: Baseline, index: Mapping[str, int], stats: Sequence[WindowStats]
    ) -> tuple[Ints, dict[str, Ints]]:
        """Add up integers on those lanes of the baseline that have any; lanes that it does not list are not watched."""
        places = [np.fromiter(map(index.get, one.lanes, repeat(-1)), np.int64, len(one.lanes)) for one in stats]
        lanes = np.unique(np.concatenate([np.zeros(0, np.int64), *places]))
        lanes = lanes[lanes >= 0]
        arrays = {one.name: np.zeros((len(lanes), *one.shape(whole.binning)), np.int64) for one in self._statistics}
        for one, place in zip(stats, places, strict=True):
            known = place >= 0
            at = np.searchsorted(lanes, place[known])
            everywhere = np.array_equal(at, np.arange(len(lanes)))
            for name in arrays.keys() & one.arrays.keys():
                counts = one.arrays[name] if known.all() else one.arrays[name][known]
                if everywhere:
                    arrays[name] += counts
                else:
                    arrays[name][at] += counts
        return lanes, arrays

    def _judge_labels(self, state: ModelState) -> None:
        """Errors are not judged by delay while labels come late or soon, unless errors rang first.

        When wrong answers are learned sooner than right ones, more errors make labels come sooner: then the errors are
        the news, and not the labels.
        """
        late = any(name in state.states and state.states[name].open.any() for name in LABEL_DETECTORS)
        errors = any(
            bool(state.states[name].open.any()) for name, one in state.watches.items() if one.detector.delay_conditioned
        )
        state.disturbed = late and (state.disturbed or not errors)

    # What is spent

    def _lumps(self, model: str, start_ms: int) -> dict[str, float]:
        """Take what deployments add to this tick from the reserve of its week, and divide it over what pages."""
        state = self._models[model]
        week = start_ms // WEEK_MS
        if week != state.reserve_week:
            state.reserve_week, state.reserve_spent = week, 0.0
        lump = 0.0
        for _ in range(state.deployments):
            one = self._budget.lump(model, state.reserve_spent)
            state.reserve_spent += one
            lump += one
        state.deployments = 0
        if not lump:
            return {}
        paging = {
            name: self._budget.signal(name).share
            for name, one in state.watches.items()
            if one.detector.guarantee == "budget" and self._budget.signal(name).ledger == "page"
        }
        return {name: lump * share / sum(paging.values()) for name, share in paging.items()}

    def _ledger_of(self, name: str) -> Literal["page", "ticket"]:
        return "page" if DETECTORS[name].guarantee == "none" else self._budget.signal(name).ledger

    def _paid(self, model: str, name: str, outcome: Outcome, start_ms: int, end_ms: int) -> list[Out]:
        accounts = self._models[model].accounts
        ledger = self._ledger_of(name)
        base: Reason = "base" if ledger == "page" else "ticket"
        self.counts.spent[ledger] += outcome.spent + outcome.recovery_spent + outcome.lump_spent
        for reason, spent, lanes, alarms in (
            (base, outcome.spent, outcome.lanes, len(outcome.alarms)),
            ("recovery", outcome.recovery_spent, outcome.testing, len(outcome.cleared)),
        ):
            if spent or alarms:
                account = accounts.setdefault((name, reason), Account(from_ms=start_ms))
                account.spent += spent
                account.lanes = max(account.lanes, lanes)
                account.alarms += alarms
        if not outcome.lump_spent:
            return []
        lump = Account(from_ms=start_ms, spent=outcome.lump_spent, lanes=outcome.lanes)
        return [self._entry(model, name, "lump", lump, end_ms)]

    def _ledger(self, end_ms: int) -> list[Out]:
        entries: list[Out] = []
        for model, state in self._models.items():
            for (name, reason), account in sorted(state.accounts.items()):
                entries.append(self._entry(model, name, reason, account, end_ms))
            state.accounts.clear()
        return entries

    def _entry(self, model: str, name: str, reason: Reason, account: Account, end_ms: int) -> LedgerEntry:
        return LedgerEntry(
            model=model,
            detector=name,
            ledger=self._ledger_of(name),
            from_ms=account.from_ms,
            to_ms=end_ms,
            reason=reason,
            spent=account.spent,
            lanes=account.lanes,
            alarms=account.alarms,
            decided_at_ms=end_ms,
        )

    # What is found

    def _rung(self, model: str, name: str, alarms: Sequence[Alarm], end_ms: int) -> list[Out]:
        state = self._models[model]
        findings: list[Out] = []
        for alarm in alarms:
            lane = state.watches[name].lanes[alarm.lane]
            began_ms = end_ms - state.states[name].ticks * self._tick_ms
            finding = self._firing(
                model=model,
                lane=lane,
                detector=name,
                kind=alarm.description.kind,
                ledger=self._ledger_of(name),
                guarantee=DETECTORS[name].guarantee,
                alarm_tick_ms=end_ms,
                decided_at_ms=end_ms,
                onset_ms=(
                    began_ms + alarm.onset.from_tick * self._tick_ms,
                    began_ms + alarm.onset.to_tick * self._tick_ms,
                ),
                effect=alarm.description.effect,
                n=alarm.description.n,
                log_evidence=alarm.onset.log_evidence,
                message=alarm.description.message,
            )
            state.open_findings[name, lane] = finding
            findings.append(finding)
        return findings

    def _recovered(self, model: str, name: str, cleared: Ints, end_ms: int) -> list[Out]:
        state = self._models[model]
        findings: list[Out] = []
        for lane in cleared.tolist():
            firing = state.open_findings.pop((name, state.watches[name].lanes[lane]))
            now = recent(state.watches[name], state.states[name], lane)
            findings.append(self._cleared(firing, end_ms, now.effect, now.n, "recovered"))
        return findings

    def _firing(
        self,
        *,
        model: str,
        lane: str,
        detector: str,
        kind: str,
        ledger: Literal["page", "ticket"],
        guarantee: Literal["budget", "none"],
        alarm_tick_ms: int,
        decided_at_ms: int,
        onset_ms: tuple[int, int],
        effect: Effect,
        n: int,
        log_evidence: float,
        message: str,
        segment: str = "",
    ) -> Finding:
        where = Lane.of(lane)
        version, segment = where.version, f"{where.segment}={where.value}" if where.segment else segment
        state = self._models.get(model)
        return Finding(
            finding_id=finding_id(
                tenant=self._tenant,
                environment=self._environment,
                model=model,
                version=version,
                segment=segment,
                detector=detector,
                alarm_tick_ms=alarm_tick_ms,
            ),
            state="firing",
            tenant=self._tenant,
            environment=self._environment,
            model=model,
            version=version,
            segment=segment,
            lane=lane,
            detector=detector,
            kind=kind,
            ledger=ledger,
            guarantee=guarantee,
            alarm_tick_ms=alarm_tick_ms,
            decided_at_ms=decided_at_ms,
            onset_from_ms=onset_ms[0],
            onset_to_ms=onset_ms[1],
            effect=effect,
            n=n,
            log_evidence=log_evidence,
            baseline_version=0 if state is None else state.version,
            message=message,
        )

    def _cleared(self, firing: Finding, decided_at_ms: int, effect: Effect, n: int, message: str) -> Finding:
        return msgspec.structs.replace(
            firing,
            revision=firing.revision + 1,
            state="cleared",
            decided_at_ms=decided_at_ms,
            effect=effect,
            n=n,
            message=message,
        )

    # Gaps of our own monitoring

    def _unknown_tick(self, model: str, stats: list[WindowStats], start_ms: int, end_ms: int) -> list[Out]:
        """One ticket for a model that nobody configured; its rows are counted by the join, and watched by nobody."""
        self.counts.unknown_model_ticks += 1
        if model in self._unknown:
            self._unknown[model] = end_ms
            return []
        if len(self._unknown) >= UNKNOWN_MODELS_TOLD:
            return []
        self._unknown[model] = end_ms
        is_last = len(self._unknown) == UNKNOWN_MODELS_TOLD
        outputs = sum(int(one.arrays["outputs"].max(initial=0)) for one in stats if "outputs" in one.arrays)
        finding = self._firing(
            model=model,
            lane="*",
            detector=UNKNOWN,
            kind="monitoring_gap",
            ledger="ticket",
            guarantee="none",
            alarm_tick_ms=end_ms,
            decided_at_ms=end_ms,
            onset_ms=(start_ms, end_ms),
            effect=Effect(observed=float(outputs), expected=0.0, unit="outputs"),
            n=outputs,
            log_evidence=0.0,
            message="outputs of a model that is not configured: nobody watches it"
            + (", nor others that may come and ring no more: `tocsin status` names them" if is_last else ""),
        )
        self._gaps[model, UNKNOWN] = finding
        return [finding]

    def _quiet(self, end_ms: int) -> list[Out]:
        """Clear the gaps of unknown models of which no rows come any more."""
        answers: list[Out] = []
        for model, heard_ms in list(self._unknown.items()):
            if end_ms - heard_ms >= UNKNOWN_QUIET_MS:
                del self._unknown[model]
                gap = self._gaps.pop((model, UNKNOWN))
                message = f"no rows of this model for {UNKNOWN_QUIET_MS // 60_000} minutes"
                answers.append(self._cleared(gap, end_ms, gap.effect, 0, message))
        return answers

    def _missed_sources(self, now_ms: int) -> list[Out]:
        """Say which source partitions have not closed a tick for too long."""
        findings: list[Out] = []
        self._hear(now_ms)
        far_heard_at_ms = max((self._heard_at_ms[source] for source in self._far_behind), default=0)
        for source, through_ms in sorted(self._through.items()):
            is_far = source in self._far_behind
            silent_ms = now_ms - (far_heard_at_ms if is_far else self._heard_at_ms[source])
            wait_ms = max(SILENT_WAIT_MS, SILENT_WAIT_TICKS * self._tick_ms)
            if self._keeps_watch and silent_ms >= wait_ms and (TOCSIN, str(source)) not in self._gaps:
                finding = self._firing(
                    model=TOCSIN,
                    lane="*",
                    detector="monitoring_gap",
                    kind="detection_stopped",
                    ledger="ticket",
                    guarantee="none",
                    alarm_tick_ms=through_ms,
                    decided_at_ms=self._undecided_ms(),
                    onset_ms=(through_ms, through_ms),
                    effect=Effect(observed=silent_ms / 1000, expected=self._tick_ms / 1000, unit="seconds of silence"),
                    n=0,
                    log_evidence=0.0,
                    message=f"source partition {source} has closed no tick: its join is stopped or stuck"
                    + (", and far behind" if is_far else ""),
                    segment=f"source_partition={source}",
                )
                self._gaps[TOCSIN, str(source)] = finding
                self._settled = False
                findings.append(finding)
        return findings

    def _judge_places(self, start_ms: int, end_ms: int) -> list[Out]:
        """One ticket while rows lie in other partitions than their ids'; it clears when enough that lie right have come.

        A tick takes from each source partition what its marks up to there have counted: which of the partitions was read
        first decides nothing.
        """
        by_now = [through_ms for through_ms in self._looked_by if through_ms <= end_ms]
        if not by_now:
            return []
        for through_ms in by_now:
            self._looked = self._looked.plus(self._looked_by.pop(through_ms))
        looked, gap = self._looked, self._gaps.get((TOCSIN, MISPLACED))
        effect = Effect(observed=looked.misplaced / looked.rows, expected=0.0, unit="of the rows that were looked at")
        if gap is None and looked.are_wrong:
            self._looked = Looked()
            finding = self._firing(
                model=TOCSIN,
                lane="*",
                detector=MISPLACED,
                kind=MISPLACED,
                ledger="ticket",
                guarantee="none",
                alarm_tick_ms=end_ms,
                decided_at_ms=end_ms,
                onset_ms=(start_ms, end_ms),
                effect=effect,
                n=looked.rows,
                log_evidence=0.0,
                message=f"{looked.misplaced} of {looked.rows} rows that were looked at lie in another partition than their "
                "ids': labels miss their outputs",
            )
            self._gaps[TOCSIN, MISPLACED] = finding
            return [finding]
        if not looked.are_enough:
            return []
        self._looked = Looked()
        if gap is None or looked.are_wrong:
            return []
        del self._gaps[TOCSIN, MISPLACED]
        message = (
            f"of {looked.rows} rows that were looked at {looked.misplaced} lie in another partition than their ids'"
        )
        return [self._cleared(gap, end_ms, effect, looked.rows, message)]

    def _hear(self, now_ms: int) -> None:
        """Note the time for those that closed a tick since it was told last, and which of them are far behind it."""
        for source, through_ms in self._through.items():
            if source not in self._heard_at_ms:
                self._heard_at_ms[source] = now_ms
                self._far_behind.discard(source)
                if now_ms - through_ms > FAR_BEHIND_MS:
                    self._far_behind.add(source)

    def _undecided_ms(self) -> int:
        """End of the tick that is closed next: no `Through` has passed it."""
        return (min(self._first.values()) if self._next_ms is None else self._next_ms) + self._tick_ms

    # State in rows

    def _snapshot(self) -> None:
        state = _State(
            next_ms=self._next_ms,
            sources=self._sources,
            first=self._first,
            through=self._through,
            pending=[
                one.encode()
                for _, models in sorted(self._pending.items())
                for _, parts in sorted(models.items())
                for _, one in sorted(parts.items())
            ],
            models={name: _row_of(one) for name, one in self._models.items()},
            seen_deployments=list(self._seen_deployments),
            gaps=[(model, what, finding) for (model, what), finding in self._gaps.items()],
            given_up=list(self._given_up),
            looked_at=self._looked_at,
            looked_by=self._looked_by,
            looked=self._looked,
            unknown=self._unknown,
        )
        for name in self._strangers:
            self._rows.drop(name)
        self._strangers = []
        self._rows.put(STATE, msgspec.msgpack.encode(state))
        for model, one in self._models.items():
            self._put_watches(model, one)
            self._put_baselines(model)
        self._rows.seal()
        self._settled, self._ticks_since = True, 0

    def _put_watches(self, model: str, state: ModelState) -> None:
        where = f"{WATCHES}/{quoted(model)}"
        if not state.in_rows:
            self._rows.drop(where)
        for name, value in values_of(state.watches, state.states, state.in_rows):
            self._rows.put(f"{where}/{name}", value)
        state.in_rows = {name: one.ticks for name, one in state.states.items()}

    def _put_baselines(self, model: str) -> None:
        """Write the parts that are new, once, and delete those that are not used any more."""
        where = f"{BASELINES}/{quoted(model)}"
        parts = {
            f"{where}/{version}/{number}": part
            for version, parts in self._parts[model].items()
            for number, part in parts.items()
        }
        for name in self._rows.names(where):
            if name not in parts:
                self._rows.drop(name)
        for name, part in parts.items():
            if name not in self._rows:
                self._rows.put(name, part.encode())

    def _load(self) -> None:
        values = self._rows.read()
        if not values:
            return
        state = msgspec.msgpack.decode(values.pop(STATE), type=_State)
        self._next_ms, self._sources = state.next_ms, state.sources
        self._first, self._through = state.first, state.through
        self._seen_deployments = dict.fromkeys(state.seen_deployments)
        self._gaps = {(model, what): finding for model, what, finding in state.gaps}
        since_ms = state.next_ms or 0  # of a gap of an earlier Tocsin, which did not note when rows came
        self._unknown = {model: state.unknown.get(model, since_ms) for model, what in self._gaps if what == UNKNOWN}
        self._given_up = dict.fromkeys(state.given_up)
        self._looked_at, self._looked_by, self._looked = state.looked_at, state.looked_by, state.looked
        for stats in map(WindowStats.decode, state.pending):
            place = (stats.source_partition, stats.part)
            self._pending.setdefault(stats.tick_start_ms, {}).setdefault(stats.model, {})[place] = stats
        self._starts = sorted(self._pending)
        by_model: dict[tuple[str, str], dict[str, bytes]] = {}
        for name, value in values.items():
            kind, model, rest = name.split("/", 2)
            by_model.setdefault((kind, model), {})[rest] = value
        for name in self._models:
            for value in by_model.pop((BASELINES, quoted(name)), {}).values():
                part = Baseline.decode(value)
                self._parts[name].setdefault(part.version, {})[part.part] = part
            watches = by_model.pop((WATCHES, quoted(name)), {})
            if name in state.models:
                self._restore(name, state.models[name], watches)
        self._strangers = [f"{kind}/{model}" for kind, model in by_model]

    def _restore(self, name: str, row: _ModelRow, values: Mapping[str, bytes]) -> None:
        state = self._models[name]
        if row.version:
            whole = Baseline.joined(list(self._parts[name][row.version].values()))
            assert whole is not None
            self._watch_under(state, name, whole)
            for detector, before in states_of(values, row.ticks, state.states).items():
                # carried, since a newer Tocsin may bet on other alternatives than the one that wrote the rows
                state.states[detector] = carried(before, whole.lanes, state.watches[detector])
            if is_laid_out_alike(values, state.watches):
                state.in_rows = dict(row.ticks)
        state.open_findings = {(detector, lane): finding for detector, lane, finding in row.open_findings}
        state.disturbed, state.deployments = row.disturbed, row.deployments
        state.reserve_week, state.reserve_spent = row.reserve_week, row.reserve_spent
        state.accounts = {
            (detector, reason): Account(from_ms=from_ms, spent=spent, lanes=lanes, alarms=alarms)
            for detector, reason, from_ms, spent, lanes, alarms in row.accounts
        }


def _row_of(state: ModelState) -> _ModelRow:
    return _ModelRow(
        version=state.version,
        ticks={name: one.ticks for name, one in state.states.items()},
        open_findings=[(detector, lane, finding) for (detector, lane), finding in state.open_findings.items()],
        disturbed=state.disturbed,
        deployments=state.deployments,
        reserve_week=state.reserve_week,
        reserve_spent=state.reserve_spent,
        accounts=[
            (detector, reason, one.from_ms, one.spent, one.lanes, one.alarms)
            for (detector, reason), one in state.accounts.items()
        ],
    )
