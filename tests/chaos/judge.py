"""What was lost, and what was done twice? The topics as they lie on the brokers, held against a plain computation.

The inputs are read back and judged by the simulator's oracles, byte by byte and finding by finding. An order of acts
among findings cannot be read from two topics; it is taken from the incidents' own records, each of which names what
caused it, and then every transition has to be as one uninterrupted pass of triage in that order writes it. An order of
transitions among receipts and the clock no record names: what escalate and notify did with each is read from their rows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from config.settings import KafkaSettings, Settings
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.incident_action import IncidentAction
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.window_stats import WindowStats
from streams.runtime import specs, topics
from streams.runtime.stage_spec import StageSpec
from streams.runtime.topics import partition_of
from streams.runtime.wiring import host_settings
from streams.stages.blocks import BlockKey, Manifest
from streams.stages.policy import of_severity
from tests.chaos.load import label_rows, output_rows
from tests.chaos.reading import Following, Reading
from tests.simulation import oracle
from tests.simulation.join_oracle import JoinOracle, LabelRow, Move, OutputRow, Verdict, moved_to
from tests.simulation.judge import END_WAIT_TICKS, TOCSIN, apart, content
from tests.simulation.logs import Entry
from tests.simulation.passed import changelog_of, is_whole, undone
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
    topics.CLOCK,
)

CHANGELOGS = ("escalate", "notify")
"""Stages whose changelogs are judged."""

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
    names = {name: cluster.topic_prefix + name for name in READ}
    return Reading(cluster, "chaos-judge", names, lambda name: topics.TOPICS[name].partitions(cluster)).to_ends()


def follow_changelogs(settings: Settings) -> Following:
    """Follow what would be gone when all has come to rest."""
    names = {
        changelog_of(stage): host_settings(settings, stage, writes_clock=False).changelog(stage) for stage in CHANGELOGS
    }
    cluster = settings.kafka
    return Following(Reading(cluster, "chaos-following", names, lambda _: cluster.output_partitions))


def judge(logs: Logs, now_ms: int, taken: Mapping[str, int], settings: Settings) -> Faults:
    """Judge what has come to rest.

    Parameters
    ----------
    now_ms
        Where the clock stopped, after the last row.
    taken
        How often the receiver took each message.
    settings
        Those of the workers.
    """
    faults = Faults()
    sums = judge_join(logs, now_ms, faults)
    judge_findings(logs, sums, faults)
    judge_incidents(logs, specs.triage_spec(settings), faults)
    judge_messages(logs, now_ms, taken, faults)
    judge_passed(logs, settings, faults)
    return faults


def _sinks(logs: Logs) -> range:
    return range(1 + max(partition for topic, partition in logs if topic == topics.FINDINGS))


# ---- the join


def verdict_of(logs: Logs, source: int, now_ms: int) -> tuple[Verdict, dict[str, int]]:
    """Say what one source partition should have come to; the counters include what is no record."""
    move = moved_to(join_settings(), now_ms)
    outputs, dead_outputs = output_rows(logs[topics.OUTPUTS, source], source)
    labels, dead_labels = label_rows(logs[topics.LABELS, source], source)
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
    verdicts: dict[int, Verdict] = {}
    for source in range(SOURCES):
        verdict, theirs = verdict_of(logs, source, now_ms)
        ours, verdicts[source] = _counted(logs, source), verdict
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
                mark = Closed.decode(entry.value)
                placed = verdicts[mark.source_partition].placed(mark.through_ms)
                if (mark.sampled, mark.misplaced) != placed:
                    faults.conservation_errors.append(f"{mark}, expected {placed}")
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
    receipts: defaultdict[str, list[Receipt]] = defaultdict(list)
    for sink in _sinks(logs):
        for entry in logs[topics.NOTIFICATIONS, sink]:
            message = Notification.decode(entry.value)
            messages.setdefault(message.notification_id, message)
        for entry in logs[topics.RECEIPTS, sink]:
            receipt = Receipt.decode(entry.value)
            if receipt.final:
                receipts[receipt.notification_id].append(receipt)
    young_ms = now_ms - END_WAIT_TICKS * TICK_MS
    for name, message in messages.items():
        ends = {one.status for one in receipts[name]}
        overtaken = len(ends) > 1 and _is_overtaken(receipts[name])
        faults.counts["overtaken"] += overtaken
        if (len(ends) > 1 and not overtaken) or (not ends and message.decided_at_ms <= young_ms):
            faults.lost.append(f"notification {name} of {message.cause} has the ends {sorted(ends)}")
        if "delivered" in ends and not taken.get(name):
            faults.lost.append(f"notification {name} is said to be delivered, and never was")
    faults.incident_differences += [f"{name} was delivered, and is no notification" for name in taken.keys() - messages]
    told: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for name in taken.keys() & messages:
        message = messages[name]
        told[message.incident_id, message.cause, message.target].add(name)
    faults.pages_repeated += [f"{place}: {sorted(names)}" for place, names in told.items() if len(names) > 1]
    faults.lost += _untold(logs, messages.values(), young_ms)
    faults.lost += _untold_changes(logs, messages.values())
    faults.counts["notifications"] = len(messages)
    faults.counts["delivered"] = len(taken)
    faults.counts["same_id_repeats"] = sum(times - 1 for times in taken.values())


def _is_overtaken(receipts: Sequence[Receipt]) -> bool:
    """Whether notify ended a message when the clock had come past the end of its attempt, and the answer came after all.

    A clock that makes up for an outage moves by more in a moment than an attempt may take. An attempt began no later than
    its receipt was decided, and no earlier than that by more than it may take.
    """
    sender, wait_ms = settings().response.sender, settings().response.notify.attempt_wait_ms
    apart_ms = wait_ms - sender.attempt_timeout_ms - sender.turn_wait_ms
    answered_ms = [one.decided_at_ms for one in receipts if one.answer_class != "none"]
    ended_ms = [one.decided_at_ms for one in receipts if one.answer_class == "none"]
    return bool(answered_ms) and bool(ended_ms) and min(ended_ms) - max(answered_ms) >= apart_ms


def _untold(logs: Logs, messages: Iterable[Notification], young_ms: int) -> list[str]:
    """Name incidents that have been open long enough, and of which nobody was told.

    One that has ended may have done so before its first wait was over, if escalate was behind.
    """
    told = {message.incident_id for message in messages}
    newest = {
        incident.incident_id: incident
        for sink in _sinks(logs)
        for incident in sorted(map(incident_of, logs[topics.INCIDENTS, sink]), key=lambda one: one.seq)
    }
    return [
        f"nobody was told of incident {name}"
        for name, one in newest.items()
        if name not in told and one.is_open and one.opened_at_ms <= young_ms
    ]


def _untold_changes(logs: Logs, messages: Iterable[Notification]) -> Iterator[str]:
    """Name whom a transition was not told of, who had been told before and has to be told of such a one.

    When a message left between two transitions no topic says; but it names the last that escalate knew then.
    """
    told: defaultdict[str, defaultdict[int, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
    for message in messages:
        told[message.incident_id][message.seq].add((message.target, message.channel))
    for sink in _sinks(logs):
        transitions: defaultdict[str, dict[int, Incident]] = defaultdict(dict)
        for entry in logs[topics.INCIDENTS, sink]:
            incident = incident_of(entry)
            transitions[incident.incident_id].setdefault(incident.seq, incident)
        for name, by_seq in transitions.items():
            for before, after in pairwise(by_seq[seq] for seq in sorted(by_seq)):
                if not _is_to_be_told(before, after):
                    continue
                knew = set().union(*(places for seq, places in told[name].items() if seq < after.seq))
                for place in sorted(knew - told[name][after.seq]):
                    yield f"transition {(name, after.seq)} was not told to {place}"


def _is_to_be_told(before: Incident, after: Incident) -> bool:
    """Whether all are told of a transition who were told before; of an end some policies tell those alone who wait."""
    if not after.is_open:
        return before.is_open and of_severity(after.policy, after.severity).tells_of_end
    return (before.episode, before.severity, before.status) != (after.episode, after.severity, after.status) or (
        after.flapping and not before.flapping
    )


# ---- what was passed


def judge_passed(logs: Logs, settings: Settings, faults: Faults) -> None:
    """Every transition and every receipt has left in the rows of escalate and notify what it has to."""
    times_ms = {Clock.decode(entry.value).now_ms for sink in _sinks(logs) for entry in logs[topics.CLOCK, sink]}
    for spec in (specs.escalate_spec(settings), specs.notify_spec(settings, lambda _: None)):
        for sink in _sinks(logs):
            faults.lost += undone(logs, spec, sink, times_ms, faults.counts)
            faults.counts["changelogs_in_part"] += not is_whole(logs[changelog_of(spec.name), sink])
