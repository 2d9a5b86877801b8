"""What should have come out? A plain computation over the same logs: no crash, no host, no order but that of time.

The join is told by `join_oracle`, row by row. Its sums per tick are added up over the source partitions, each detector
is stepped once over each closed tick, and what it says becomes findings. Incidents and messages follow from findings,
acts and the clock by one uninterrupted pass of each stage over what it was told, in the order in which that became
durable: between a person's act and a finding only the log can say who was first.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from detectors.arming import spend_of
from detectors.budget import Budget
from detectors.detector import Reference, Tick
from detectors.statistics import needed
from detectors.table import DETECTORS, NEEDS
from detectors.watch import Watch, WatchState, advance, begin, recent, watch
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.incident import Incident
from schemas.incident_action import IncidentAction
from schemas.lane import Lane
from schemas.receipt import Receipt
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime.stage_spec import Handed, Routed, StageSpec
from tests.simulation.join_host import JoinHost
from tests.simulation.join_oracle import JoinOracle, LabelRow, OutputRow, Verdict
from tests.simulation.stage_host import Event
from tests.simulation.workload import SOURCES, TICK_MS, baselines, join_settings, settings

LABEL_DETECTORS = ("label_pipeline", "label_silence")

Sums = dict[str, dict[int, list[WindowStats]]]
"""WindowStats by model and start of the tick."""


def join_verdict(host: JoinHost) -> Verdict:
    """Judge what one source partition has read, with the moves of its watermarks where they were decided."""
    oracle = JoinOracle(
        settings=join_settings(),
        models=settings().models,
        partition=host.partition,
        partitions=SOURCES,
        baselines=baselines(),
    )
    outputs = [row for row in host.logs["model-outputs"] if not isinstance(row, LabelRow)]
    labels = [row for row in host.logs["labels"] if not isinstance(row, OutputRow)]
    return oracle.judge(outputs, labels)


class _Detection:
    """The detectors of one model, stepped tick by tick; an incident of each open (detector, lane) is remembered."""

    def __init__(self, baseline: Baseline, budget: Budget) -> None:
        self.baseline = baseline
        self.watches: dict[str, tuple[Watch, WatchState]] = {}
        self.firing: dict[tuple[str, str], Finding] = {}
        self.disturbed = False
        reference = Reference(
            model=settings().models[baseline.model],
            binning=baseline.binning,
            lanes=baseline.lanes,
            arrays=baseline.arrays,
            reference_ms=baseline.reference_ms,
        )
        for name, detector in DETECTORS.items():
            fitted = detector.fit(reference, baseline.tolerance.get(name, 0.0))
            if fitted is not None:
                armed = np.isin(np.array(baseline.lanes), np.array(baseline.armed.get(name, ())))
                one = watch(detector, fitted, baseline.lanes, armed, spend_of(budget, baseline.model, detector))
                self.watches[name] = one, begin(one)

    def tick(self, stats: Sequence[WindowStats], start_ms: int) -> list[Finding]:
        """Step every detector once."""
        arrays = {
            one.name: np.zeros((len(self.baseline.lanes), *one.shape(self.baseline.binning)), np.int64)
            for one in needed(NEEDS)
        }
        for one in stats:
            for name, counts in one.arrays.items():
                for at, lane in enumerate(one.lanes):
                    if lane in self.baseline.lanes:
                        arrays[name][self.baseline.lanes.index(lane)] += counts[at]
        lanes = np.flatnonzero(np.isin(self.baseline.lanes, [lane for one in stats for lane in one.lanes]))
        some = {name: counts[lanes] for name, counts in arrays.items()}
        tick = Tick(start_ms=start_ms, end_ms=start_ms + TICK_MS, lanes=lanes, arrays=some)
        found: list[Finding] = []
        disturbed = self.disturbed
        for name, (one_watch, state) in self.watches.items():
            after, outcome = advance(
                one_watch, state, tick, lump=0.0, disturbed=disturbed and one_watch.detector.delay_conditioned
            )
            self.watches[name] = one_watch, after
            for alarm in outcome.alarms:
                lane = self.baseline.lanes[alarm.lane]
                zero_ms = tick.end_ms - after.ticks * TICK_MS
                finding = _finding(self.baseline.model, lane, name, tick.end_ms, alarm.description.kind)
                self.firing[name, lane] = replace(
                    finding,
                    onset_from_ms=zero_ms + alarm.onset.from_tick * TICK_MS,
                    onset_to_ms=zero_ms + alarm.onset.to_tick * TICK_MS,
                    effect=alarm.description.effect,
                    n=alarm.description.n,
                    log_evidence=alarm.onset.log_evidence,
                    baseline_version=self.baseline.version,
                    message=alarm.description.message,
                )
                found.append(self.firing[name, lane])
            for at in outcome.cleared.tolist():
                now = recent(one_watch, after, at)
                firing = self.firing.pop((name, self.baseline.lanes[at]))
                found.append(
                    replace(
                        firing,
                        revision=1,
                        state="cleared",
                        decided_at_ms=tick.end_ms,
                        effect=now.effect,
                        n=now.n,
                        message="recovered",
                    )
                )
        late = any(self.watches[name][1].open.any() for name in LABEL_DETECTORS if name in self.watches)
        wrong = any(state.open.any() for one, state in self.watches.values() if one.detector.delay_conditioned)
        self.disturbed = bool(late and (self.disturbed or not wrong))
        return found


def _finding(model: str, lane: str, detector: str, end_ms: int, kind: str) -> Finding:
    where = Lane.of(lane)
    segment = f"{where.segment}={where.value}" if where.segment else ""
    is_rule = detector not in DETECTORS or DETECTORS[detector].guarantee == "none"
    ledger = settings().budget().signal(detector).ledger if not is_rule else "page"
    return Finding(
        finding_id=finding_id(
            tenant=settings().tenant,
            environment=settings().environment,
            model=model,
            version=where.version,
            segment=segment,
            detector=detector,
            alarm_tick_ms=end_ms,
        ),
        state="firing",
        tenant=settings().tenant,
        environment=settings().environment,
        model=model,
        version=where.version,
        segment=segment,
        lane=lane,
        detector=detector,
        kind=kind,
        ledger=ledger,
        guarantee="none" if is_rule else "budget",
        alarm_tick_ms=end_ms,
        decided_at_ms=end_ms,
        onset_from_ms=end_ms - TICK_MS,
        onset_to_ms=end_ms,
        effect=Effect(observed=0.0, expected=0.0, unit=""),
        n=0,
        log_evidence=0.0,
        baseline_version=0,
    )


def findings(model: str, sums: Mapping[int, list[WindowStats]], through_ms: int) -> list[Finding]:
    """Step all detectors of a model over all closed ticks; its findings in order."""
    baseline = next((one for one in baselines() if one.model == model), None)
    if baseline is not None:
        detection = _Detection(baseline, settings().budget())
        ticks = range(min(sums), through_ms, TICK_MS)
        return [found for start_ms in ticks for found in detection.tick(sums.get(start_ms, []), start_ms)]
    return _unknown(model, sums, through_ms)


def _unknown(model: str, sums: Mapping[int, list[WindowStats]], through_ms: int) -> list[Finding]:
    """Ring with the first rows of a model that is not configured, until none came for half an hour."""
    found: list[Finding] = []
    heard_ms = None
    for end_ms in range(min(sums) + TICK_MS, through_ms + TICK_MS, TICK_MS):
        stats = sums.get(end_ms - TICK_MS, [])
        if stats and heard_ms is None:
            outputs = sum(int(one.arrays["outputs"].max(initial=0)) for one in stats)
            gap = _finding(model, "*", "unknown_model", end_ms, "monitoring_gap")
            effect = Effect(observed=float(outputs), expected=0.0, unit="outputs")
            message = "outputs of a model that is not configured: nobody watches it"
            found.append(replace(gap, ledger="ticket", effect=effect, n=outputs, message=message))
        if stats:
            heard_ms = end_ms
        elif heard_ms is not None and end_ms - heard_ms >= 1_800_000:
            heard_ms = None
            cleared = replace(found[-1], revision=1, state="cleared", decided_at_ms=end_ms, n=0)
            found.append(replace(cleared, message="no rows of this model for 30 minutes"))
    return found


def misplaced_rows(marks: Iterable[Closed], through_ms: int) -> list[Finding]:
    """Add up, tick by tick, what marks say of rows in other partitions than their ids'; its findings in order."""
    newest: dict[int, Closed] = {}
    more: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for mark in marks:
        before = newest.get(mark.source_partition)
        if before is None or mark.through_ms > before.through_ms:
            newest[mark.source_partition] = mark
            more[mark.through_ms][0] += mark.sampled - (before.sampled if before else 0)
            more[mark.through_ms][1] += mark.misplaced - (before.misplaced if before else 0)
    found: list[Finding] = []
    rows = wrong = 0
    for end_ms in sorted(end_ms for end_ms, (sampled, _) in more.items() if sampled and end_ms <= through_ms):
        rows, wrong = rows + more[end_ms][0], wrong + more[end_ms][1]
        effect = Effect(observed=wrong / rows, expected=0.0, unit="of the rows that were looked at")
        is_open, rings = len(found) % 2 == 1, wrong >= 5 and wrong >= rows / 100
        if rings and not is_open:
            message = (
                f"{wrong} of {rows} rows that were looked at lie in another partition than their ids': labels miss "
                "their outputs"
            )
            one = _finding("tocsin", "*", "misplaced_rows", end_ms, "misplaced_rows")
            found.append(replace(one, ledger="ticket", effect=effect, n=rows, message=message))
            rows = wrong = 0
        elif rows >= 500:
            if is_open and not rings:
                message = f"of {rows} rows that were looked at {wrong} lie in another partition than their ids'"
                one = replace(found[-1], revision=1, state="cleared", decided_at_ms=end_ms)
                found.append(replace(one, effect=effect, n=rows, message=message))
            rows = wrong = 0
    return found


def once(events: Iterable[Event]) -> list[Event]:
    """Leave out every repeat: a stage that is told the same again must not show it."""
    told_already: set[Any] = set()
    first = []
    for event in events:
        match event.value:
            case Finding(finding_id=name, revision=revision):
                key: Any = ("finding", name, revision)
            case Incident(incident_id=name, seq=seq):
                key = ("incident", name, seq)
            case IncidentAction(act_id=name):
                key = ("act", name)
            case Receipt() as receipt:
                key = ("receipt", replace(receipt, at_ms=None).encode())
            case Through(through_ms=through_ms):
                key = ("through", through_ms)
            case _:
                key = None  # the time: going back, or standing still, is for the stage to see
        if key is None or key not in told_already:
            first.append(event)
            told_already.add(key)
    return first


def told(spec: StageSpec[Any, Any], partition: int, events: Sequence[Event]) -> list[Routed]:
    """Let one stage take everything that it was told, at one go and without a crash; return what it says."""
    rows: MutableMapping[str, bytes] = {}
    stage: Any = spec.make_stage(rows, partition)
    said: list[Routed] = []
    for event in events:
        match event.topic:
            case "advance":
                outputs = stage.advance(event.value)
            case "clock":
                outputs = stage.clock(event.value, event.live)
            case "taken":
                continue
            case "more":
                outputs = stage.more()
            case _:
                outputs = stage.receive([event.value])
        for output in outputs:
            routed = spec.route(output)
            if not isinstance(routed, Handed):
                said += [routed] if isinstance(routed, Routed) else routed
    return said


def differing(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[Any]:
    """Return the keys at which two mappings differ."""
    return [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
