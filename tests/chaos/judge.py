"""What was lost, and what was done twice? The topics as they lie on the brokers, held against a plain computation.

The inputs are read back and judged by the simulator's oracles, byte by byte and finding by finding. An order of acts
among findings cannot be read from two topics; it is taken from the incidents' own records, each of which names what
caused it, and then every transition has to be as one uninterrupted pass of triage in that order writes it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition
from msgspec.structs import replace

from config.settings import KafkaSettings
from schemas.closed import Closed
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.incident_action import IncidentAction
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.window_stats import WindowStats
from streams.runtime import kafka, specs, topics
from streams.runtime.cursor import headers_of
from streams.runtime.stage_spec import StageSpec
from streams.runtime.topics import partition_of
from streams.stages.blocks import BlockKey, Manifest
from tests.chaos.load import label_rows, output_rows
from tests.simulation import oracle
from tests.simulation.join_oracle import JoinOracle, LabelRow, Move, OutputRow, Verdict, moved_to
from tests.simulation.judge import END_WAIT_TICKS, TOCSIN, apart, content
from tests.simulation.logs import Entry
from tests.simulation.simulation import incident_of
from tests.simulation.workload import SOURCES, TICK_MS, baselines, join_settings, settings

READ = (
    topics.OUTPUTS,
    topics.LABELS,
    topics.CHANGELOG,
    topics.WINDOW_STATS,
    topics.FINDINGS,
    topics.ACTIONS,
    topics.INCIDENTS,
    topics.INCIDENTS_LATEST,
    topics.NOTIFICATIONS,
    topics.RECEIPTS,
    topics.DEAD_LETTERS,
)
READ_WAIT_S = 120.0

Logs = Mapping[tuple[str, int], Sequence[Entry]]
"""What lies in each partition of each topic."""


@dataclass
class Faults:
    """What does not hold, each with enough to find it."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    conservation_errors: list[str] = field(default_factory=list)
    incident_differences: list[str] = field(default_factory=list)
    pages_repeated: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def all(self) -> dict[str, list[str]]:
        """By the name of the figure."""
        return {name: one for name, one in vars(self).items() if isinstance(one, list)}


def read_logs(cluster: KafkaSettings) -> Logs:
    """Read all there is; of compacted topics what is left."""
    prefix = cluster.topic_prefix
    further = {"isolation.level": "read_uncommitted", "enable.partition.eof": True}
    consumer = kafka.consumer(cluster, "chaos-judge", f"{prefix}chaos-judge", None, **further)
    places = [(topic, at) for topic in READ for at in range(topics.TOPICS[topic].partitions(cluster))]
    logs: dict[tuple[str, int], list[Entry]] = {place: [] for place in places}
    consumer.assign([TopicPartition(prefix + topic, partition, OFFSET_BEGINNING) for topic, partition in places])
    left, until_s = set(places), time.monotonic() + READ_WAIT_S
    while left:
        assert time.monotonic() < until_s, f"{left} were not read to their ends"
        for message in consumer.consume(10_000, 0.2):
            place = (message.topic() or "").removeprefix(prefix), message.partition() or 0
            error = message.error()
            if error is None:
                headers = headers_of(message.headers())
                entry = Entry(message.offset() or 0, message.key(), message.value(), headers, message.timestamp()[1])
                logs[place].append(entry)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error  # noqa: SLF001 -- so it is named
                left.discard(place)
    consumer.close()
    return logs


def judge(logs: Logs, now_ms: int, taken: Mapping[str, int], triage: StageSpec[Any, Any]) -> Faults:
    """Judge what has come to rest.

    Parameters
    ----------
    now_ms
        Where the clock stopped, after the last row.
    taken
        How often the receiver took each message.
    triage
        The spec of triage.
    """
    faults = Faults()
    sums = judge_join(logs, now_ms, faults)
    judge_findings(logs, sums, faults)
    judge_incidents(logs, triage, faults)
    judge_messages(logs, now_ms, taken, faults)
    return faults


def _sinks(logs: Logs) -> range:
    return range(1 + max(partition for topic, partition in logs if topic == topics.FINDINGS))


# ---- the join


def verdict_of(logs: Logs, source: int, now_ms: int) -> tuple[Verdict, dict[str, int]]:
    """Say what one source partition should have come to; the counters include what is no record."""
    move = moved_to(join_settings(), now_ms)
    outputs, dead_outputs = output_rows(logs[topics.OUTPUTS, source])
    labels, dead_labels = label_rows(logs[topics.LABELS, source])
    one = JoinOracle(
        settings=join_settings(),
        models=settings().models,
        partition=source,
        partitions=SOURCES,
        baselines=baselines(),
    )
    output_log: list[OutputRow | Move] = [*outputs, move]
    label_log: list[LabelRow | Move] = [*labels, move]
    verdict = one.judge(output_log, label_log)
    counters = Counter(verdict.counters)
    for name, dead in (("output", dead_outputs), ("label", dead_labels)):
        counters[f"dead_{name}"] += dead
        counters[f"{name}_rows"] += dead
    return verdict, {name: n for name, n in counters.items() if n}


def conservation_errors(counters: Mapping[str, int]) -> list[str]:
    """Name the equations of conservation that a manifest's counters break when nothing is pending any more."""
    count = Counter(counters)
    labels = ("joined", "corrected", "duplicate_label", "late_label", "orphan_expired", "dead_label")
    outputs = ("labelled", "expired", "duplicate_output", "dead_output")
    sides = {
        "rows of model-outputs": (count["output_rows"], sum(count[name] for name in outputs)),
        "rows of labels": (count["label_rows"], sum(count[name] for name in labels)),
        "joined and labelled": (count["joined"], count["labelled"]),
    }
    return [f"{what}: {left}, accounted for {right}" for what, (left, right) in sides.items() if left != right]


def judge_join(logs: Logs, now_ms: int, faults: Faults) -> oracle.Sums:
    """Hold outcomes, counters and window statistics against the oracle; return the oracle's sums."""
    sums: oracle.Sums = defaultdict(lambda: defaultdict(list))
    expected: dict[tuple[int, str, int, int], bytes] = {}
    for source in range(SOURCES):
        verdict, theirs = verdict_of(logs, source, now_ms)
        ours = _counted(logs, source)
        faults.conservation_errors += [f"source {source}: {error}" for error in conservation_errors(ours)]
        for name in oracle.differing(ours, theirs):
            difference = ours.get(name, 0) - theirs.get(name, 0)
            said = f"source {source}: {name} is {ours.get(name, 0)}, expected {theirs.get(name, 0)}"
            if name in {"labelled", "expired"}:
                (faults.lost if difference < 0 else faults.doubled).append(said)
            else:
                faults.conservation_errors.append(said)
        faults.counts.update(theirs)
        for _, value in verdict.window_stats():
            stats = WindowStats.decode(value)
            expected[source, stats.model, stats.tick_start_ms, stats.part] = value
            sums[stats.model][stats.tick_start_ms].append(stats)
    sent: dict[tuple[int, str, int, int], bytes] = {}
    for sink in _sinks(logs):
        for entry in logs[topics.WINDOW_STATS, sink]:
            if entry.key is None:
                continue
            stats = WindowStats.decode(entry.value)
            place = stats.source_partition, stats.model, stats.tick_start_ms, stats.part
            if sent.setdefault(place, entry.value) != entry.value:
                faults.doubled.append(f"window statistics of {place} have two forms")
    faults.lost += [f"window statistics of {place} are missing" for place in expected.keys() - sent.keys()]
    faults.doubled += [f"window statistics of {place} are not expected" for place in sent.keys() - expected.keys()]
    wrong = [place for place in sent.keys() & expected.keys() if sent[place] != expected[place]]
    faults.doubled += [f"window statistics of {place} do not say what was" for place in wrong]
    faults.counts["window_stats"] = len(sent)
    return sums


def _counted(logs: Logs, source: int) -> dict[str, int]:
    """Return what the last manifest of a source partition counts."""
    manifests = (
        entry.value
        for entry in reversed(logs[topics.CHANGELOG, source])
        if entry.key is not None and entry.value is not None and BlockKey.decode(entry.key).kind == "manifest"
    )
    return {name: n for name, n in Manifest.decode(next(manifests)).counters.items() if n}


# ---- detect


def _through_ms(logs: Logs, sink: int) -> int:
    """Event time through which every source partition has closed."""
    through: dict[int, int] = {}
    for entry in logs[topics.WINDOW_STATS, sink]:
        if entry.key is None:
            closed = Closed.decode(entry.value)
            through[closed.source_partition] = max(closed.through_ms, through.get(closed.source_partition, 0))
    return min(through.values())


def judge_findings(logs: Logs, sums: oracle.Sums, faults: Faults) -> None:
    """Compare findings by (id, revision)."""
    sinks = len(_sinks(logs))
    through_ms = [_through_ms(logs, sink) for sink in range(sinks)]
    expected = {
        (one.finding_id, one.revision): one
        for model in sums
        for one in oracle.findings(model, sums[model], through_ms[partition_of(model, sinks)])
    }
    ours: dict[tuple[str, int], Finding] = {}
    for sink in range(sinks):
        for entry in logs[topics.FINDINGS, sink]:
            record = specs.decode(topics.FINDINGS, entry.key, entry.value, entry.headers)
            if not isinstance(record, Finding) or record.model == TOCSIN:
                continue
            record = replace(record, recorded_at_ms=0)
            if ours.setdefault((record.finding_id, record.revision), record) != record:
                faults.doubled.append(f"finding {record.finding_id} {record.revision} has two forms")
    for place in oracle.differing(ours, expected):
        said = f"finding {place}: {apart(ours.get(place), expected.get(place))}"
        if place not in ours:
            faults.lost.append(said)
        elif place not in expected:
            faults.doubled.append(said)
        else:
            faults.incident_differences.append(said)
    faults.counts["findings"] = len(ours)


# ---- triage


Transitions = dict[tuple[str, int], Incident]


def judge_incidents(logs: Logs, spec: StageSpec[Any, Any], faults: Faults) -> None:
    """Compare every transition of every incident with a plain pass over findings and acts."""
    for sink in _sinks(logs):
        ours: Transitions = {}
        for entry in logs[topics.INCIDENTS, sink]:
            incident = content(incident_of(entry))
            place = incident.incident_id, incident.seq
            faults.counts["repeated_transitions"] += place in ours
            if ours.setdefault(place, incident) != incident:
                faults.doubled.append(f"transition {place} has two forms: {apart(incident, ours[place])}")
        answered = {one.causation_id for one in ours.values()}
        faults.lost += [f"act {name} has no answer" for name in _acts(logs, sink).keys() - answered]
        expected = _in_order_of(ours, logs, sink, spec)
        for place in oracle.differing(ours, expected):
            said = f"transition {place}: {apart(ours.get(place), expected.get(place))}"
            faults.incident_differences.append(said)
            if place[1] == 1 and place not in ours:
                faults.lost.append(f"incident {place[0]} is missing")
        last = {(entry.key or b"").decode(): entry for entry in logs[topics.INCIDENTS_LATEST, sink]}
        newest = dict(sorted(ours))
        for name, entry in last.items():
            if incident_of(entry).seq != newest[name]:
                faults.incident_differences.append(f"latest of {name}: {incident_of(entry).seq}, not {newest[name]}")
        faults.counts["incidents"] += len(newest)
        faults.counts["transitions"] += len(ours)


def _acts(logs: Logs, sink: int) -> dict[str, IncidentAction]:
    """Return the acts by their ids, the first of each."""
    acts: dict[str, IncidentAction] = {}
    for entry in logs[topics.ACTIONS, sink]:
        act = specs.decode(topics.ACTIONS, entry.key, entry.value, entry.headers)
        acts.setdefault(act.act_id, act)
    return acts


def _in_order_of(ours: Transitions, logs: Logs, sink: int, spec: StageSpec[Any, Any]) -> Transitions:
    """Let triage take findings in their order, and each act when its incident has come to where its record says it was.

    What Tocsin finds in itself follows the clock of its hosts: it is judged by what lies in the log as all else is.
    """
    acts = _acts(logs, sink)
    by_place = {place: acts[one.causation_id] for place, one in sorted(ours.items()) if one.causation_id in acts}
    stage = spec.make_stage({}, sink)
    said: Transitions = {}

    def take(record: Any) -> None:  # noqa: ANN401 -- whatever triage takes
        for one in stage.receive([record]):
            if isinstance(one, Incident):
                said[one.incident_id, one.seq] = content(one)

    def let_act() -> None:
        moving = True
        while moving:
            moving = False
            for (name, seq), act in list(by_place.items()):
                if (name, seq - 1) in said and (name, seq) not in said:
                    del by_place[name, seq]
                    take(act)
                    moving = True

    for entry in logs[topics.FINDINGS, sink]:
        take(specs.decode(topics.FINDINGS, entry.key, entry.value, entry.headers))
        let_act()
    return said


# ---- messages


def judge_messages(logs: Logs, now_ms: int, taken: Mapping[str, int], faults: Faults) -> None:
    """Every incident is told of, every message comes to one end, and no cause tells a target under two ids."""
    messages: dict[str, Notification] = {}
    ends: defaultdict[str, set[str]] = defaultdict(set)
    for sink in _sinks(logs):
        for entry in logs[topics.NOTIFICATIONS, sink]:
            message = Notification.decode(entry.value)
            messages.setdefault(message.notification_id, message)
        for entry in logs[topics.RECEIPTS, sink]:
            receipt = Receipt.decode(entry.value)
            if receipt.final:
                ends[receipt.notification_id].add(receipt.status)
    young_ms = now_ms - END_WAIT_TICKS * TICK_MS
    for name, message in messages.items():
        if len(ends[name]) > 1 or (not ends[name] and message.decided_at_ms <= young_ms):
            faults.lost.append(f"notification {name} of {message.cause} has the ends {sorted(ends[name])}")
        if "delivered" in ends[name] and not taken.get(name):
            faults.lost.append(f"notification {name} is said to be delivered, and never was")
    faults.incident_differences += [f"{name} was delivered, and is no notification" for name in taken.keys() - messages]
    told: defaultdict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for name in taken.keys() & messages:
        message = messages[name]
        told[message.incident_id, message.cause, message.purpose, message.target].add(name)
    faults.pages_repeated += [f"{place}: {sorted(names)}" for place, names in told.items() if len(names) > 1]
    faults.lost += _untold(logs, messages.values(), young_ms)
    faults.counts["notifications"] = len(messages)
    faults.counts["delivered"] = len(taken)
    faults.counts["same_id_repeats"] = sum(times - 1 for times in taken.values())


def _untold(logs: Logs, messages: Iterable[Notification], young_ms: int) -> list[str]:
    """Name incidents that have been open long enough, and of which nobody was told."""
    told = {message.incident_id for message in messages}
    untold = {
        incident.incident_id: incident
        for sink in _sinks(logs)
        for incident in map(incident_of, logs[topics.INCIDENTS, sink])
        if incident.incident_id not in told
    }
    return [f"nobody was told of incident {name}" for name, one in untold.items() if one.opened_at_ms <= young_ms]
