"""Does what lies in the topics hold against the plain computation?"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from schemas.closed import Closed
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime import topics
from streams.runtime.topics import partition_of
from tests.simulation import oracle
from tests.simulation.join_oracle import Move
from tests.simulation.passed import undone
from tests.simulation.simulation import SINKS, Simulation, incident_of
from tests.simulation.stage_host import Event
from tests.simulation.workload import TICK_MS

TOCSIN = "tocsin"
STOPPED = "detection_stopped"
"""A kind of finding that follows the clock of the hosts, and is left out of comparisons."""

END_WAIT_TICKS = 20
"""A message that is younger may still be on its way, or wait for its next attempt."""


@dataclass
class Verdict:
    """What does not hold, each with enough to find it."""

    conservation: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def judge(run: Simulation) -> Verdict:
    """Judge a run that has come to rest."""
    verdict = Verdict()
    _told(run, verdict)
    sums = _join(run, verdict)
    _detect(run, sums, verdict)
    _triage(run, verdict)
    _messages(run, verdict)
    return verdict


def _told(run: Simulation, verdict: Verdict) -> None:
    """Hold what each stage was told against what lies in its inputs: what a host skips, no oracle of a stage would miss.

    What a stage skips that was told, the rows of escalate and notify show.

    Detect is told anew from its last snapshot on; its findings are compared with the join's sums instead.
    """
    for host in run.joins:
        for topic, rows in host.logs.items():
            there = [entry.value for entry in run.topics[topic, host.partition]]
            _same_order(
                f"source {host.partition}", topic, [one for one in rows if not isinstance(one, Move)], there, verdict
            )
    for (stage, sink), ledger in run.ledgers.items():
        if stage == "detect":
            continue
        told = oracle.once(ledger.consumed)
        for topic in run.specs[stage].inputs:
            there = oracle.once(Event(topic, run.decoded(topic, entry)) for entry in run.topics[topic, sink])
            ours = [event for event in told if event.topic == topic]
            _same_order(f"{stage} {sink}", topic, ours, there, verdict)
    for stage in ("escalate", "notify"):
        for sink in range(SINKS):
            verdict.conservation += undone(run.topics, run.specs[stage], sink, run.told_ms, verdict.counts)


def _same_order(where: str, topic: str, ours: list[Any], there: list[Any], verdict: Verdict) -> None:
    if ours != there:
        place = next((at for at, (one, other) in enumerate(zip(ours, there, strict=False)) if one != other), -1)
        verdict.conservation.append(f"{where}: read {len(ours)} of {len(there)} from {topic}, unlike from {place} on")


def _join(run: Simulation, verdict: Verdict) -> oracle.Sums:
    """Conservation, the oracle's counters, and the oracle's window statistics byte by byte."""
    sums: oracle.Sums = defaultdict(lambda: defaultdict(list))
    for host, journals in zip(run.joins, run.journals, strict=True):
        where = f"source {host.partition}"
        expected = oracle.join_verdict(host)
        if host.join.conservation_error() or journals.crooked:
            verdict.conservation.append(f"{where}: {host.join.conservation_error()} rows, {journals.crooked} times")
        if journals.forgotten:
            verdict.conservation.append(f"{where}: a manifest was forgotten {journals.forgotten} times")
        gauges = host.join.gauges
        counters = host.join.counters | {"pending": gauges["pending_rows"], "orphan_pending": gauges["orphan_rows"]}
        ours, theirs = ({name: n for name, n in one.items() if n} for one in (counters, expected.counters))
        for name in oracle.differing(ours, theirs):
            verdict.conservation.append(f"{where}: {name} is {ours.get(name)}, expected {theirs.get(name)}")
        verdict.counts.update(ours)
        sent = {}
        for _, value in expected.window_stats():
            stats = WindowStats.decode(value)
            sent[stats.model, stats.tick_start_ms, stats.part] = value
            sums[stats.model][stats.tick_start_ms].append(stats)
        for place in oracle.differing(journals.sent, sent):
            verdict.conservation.append(f"{where}: window statistics of {place}")
        verdict.conservation += [f"{where}: two forms of {place}" for place in journals.clashes]
        for mark in {
            one for sink in range(SINKS) for one in _marks(run, sink) if one.source_partition == host.partition
        }:
            if (mark.sampled, mark.misplaced) != expected.placed(mark.through_ms):
                verdict.conservation.append(f"{where}: {mark}, expected {expected.placed(mark.through_ms)}")
    return sums


def _marks(run: Simulation, sink: int) -> list[Closed]:
    """Return what every source partition has closed, in the order of the log."""
    records = (run.decoded(topics.WINDOW_STATS, entry) for entry in run.topics[topics.WINDOW_STATS, sink])
    return [record for record in records if isinstance(record, Closed)]


def _through_ms(run: Simulation, sink: int) -> int:
    """Event time through which every source partition has closed."""
    through: dict[int, int] = {}
    for mark in _marks(run, sink):
        through[mark.source_partition] = max(mark.through_ms, through.get(mark.source_partition, 0))
    return min(through.values())


def _detect(run: Simulation, sums: oracle.Sums, verdict: Verdict) -> None:
    """Compare findings by (id, revision): every form of one alike, none after the mark that says that no more will come."""
    marks = [_through_ms(run, sink) for sink in range(SINKS)]
    expected = {
        (one.finding_id, one.revision): one
        for model in sums
        for one in oracle.findings(model, sums[model], marks[partition_of(model, SINKS)])
    }
    keeps_watch = partition_of(TOCSIN, SINKS)
    misplaced = oracle.misplaced_rows(_marks(run, keeps_watch), marks[keeps_watch])
    expected |= {(one.finding_id, one.revision): one for one in misplaced}
    verdict.counts["findings_of_misplaced_rows"] = len(misplaced)
    ours: dict[tuple[str, int], Finding] = {}
    for sink in range(SINKS):
        newest_ms = 0
        for entry in run.topics[topics.FINDINGS, sink]:
            record = run.decoded(topics.FINDINGS, entry)
            if isinstance(record, Through):
                newest_ms = max(newest_ms, record.through_ms)
                continue
            if record.kind == STOPPED:
                continue
            record = replace(record, recorded_at_ms=0)
            place = record.finding_id, record.revision
            if place not in ours and newest_ms >= record.decided_at_ms:
                verdict.incidents.append(f"finding {place} came after its mark")
            if ours.setdefault(place, record) != record:
                verdict.incidents.append(f"finding {place} has two forms")
        if newest_ms != marks[sink]:
            verdict.incidents.append(f"sink {sink}: detect came to {newest_ms}, closed through {marks[sink]}")
    for place in oracle.differing(ours, expected):
        verdict.incidents.append(f"finding {place}: {apart(ours.get(place), expected.get(place))}")
    verdict.counts["findings"] = len(ours)


def apart(ours: Any, theirs: Any) -> str:  # noqa: ANN401 -- two records of one kind, or one of them
    """Say in which fields two records differ."""
    if ours is None or theirs is None:
        there = ours or theirs
        what = f"{there.model} {getattr(there, 'reason', '')} decided at {there.decided_at_ms}"
        return f"{'not expected' if theirs is None else 'missing'}: {what}"
    pairs = ((name, getattr(ours, name), getattr(theirs, name)) for name in ours.__struct_fields__)
    return ", ".join(f"{name} {a!s:.300} (expected {b!s:.300})" for name, a, b in pairs if a != b)


def content(incident: Incident) -> Incident:
    return replace(incident, recorded_at_ms=None)


def _incidents(routed: Iterable[Any]) -> dict[tuple[str, int], Incident]:
    """Transitions by (incident, seq)."""
    transitions = {}
    for one in routed:
        incident = content(incident_of(one))
        transitions[incident.incident_id, incident.seq] = incident
    return transitions


def _forms(routed: Iterable[Any]) -> Iterator[str]:
    """Yield the transitions that were said twice in different words."""
    said: dict[tuple[str, int], Incident] = {}
    for one in routed:
        incident = content(incident_of(one))
        place = incident.incident_id, incident.seq
        if said.setdefault(place, incident) != incident:
            yield f"transition {place} has two forms: {apart(incident, said[place])}"


def _triage(run: Simulation, verdict: Verdict) -> None:
    for sink in range(SINKS):
        events = oracle.once(run.ledgers["triage", sink].consumed)
        said = oracle.told(run.specs["triage"], sink, events)
        expected = _incidents(one for one in said if one.topic == topics.INCIDENTS)
        ours = _incidents(run.topics[topics.INCIDENTS, sink])
        verdict.incidents += _forms(run.topics[topics.INCIDENTS, sink])
        for place in oracle.differing(ours, expected):
            verdict.incidents.append(f"transition {place}: {apart(ours.get(place), expected.get(place))}")
        latest = run.topics[topics.INCIDENTS_LATEST, sink].latest()
        last = {key.decode(): content(incident_of(entry)) for key, entry in latest.items()}
        newest = {name: expected[name, seq] for name, seq in sorted(expected)}
        for name in oracle.differing(last, newest):
            verdict.incidents.append(f"latest of {name}")
        verdict.counts["incidents"] += len(newest)
        verdict.counts["transitions"] += len(expected)


def _names(routed: Iterable[Any], topic: str) -> set[str]:
    return {Notification.decode(one.value).notification_id for one in routed if getattr(one, "topic", topic) == topic}


def _told_of(routed: Iterable[Any]) -> set[str]:
    messages = (one for one in routed if getattr(one, "topic", topics.NOTIFICATIONS) == topics.NOTIFICATIONS)
    return {Notification.decode(one.value).incident_id for one in messages}


def _messages(run: Simulation, verdict: Verdict) -> None:
    """No notification is lost or doubled under another id; each comes to one end."""
    for sink in range(SINKS):
        ledger = run.ledgers["escalate", sink]
        said = oracle.told(run.specs["escalate"], sink, oracle.once(ledger.consumed))
        expected = _names(said, topics.NOTIFICATIONS)
        log = run.topics[topics.NOTIFICATIONS, sink]
        ours = _names(log, topics.NOTIFICATIONS)
        verdict.incidents += [f"notification {name} is missing" for name in expected - ours]
        verdict.incidents += [f"notification {name} is doubled" for name in ours - expected]
        silent = _told_of(said) - _told_of(log)
        verdict.incidents += [f"nobody was told of incident {name}" for name in silent]
        ends: defaultdict[str, set[str]] = defaultdict(set)
        for entry in run.topics[topics.RECEIPTS, sink]:
            receipt = Receipt.decode(entry.value)
            if receipt.final:
                ends[receipt.notification_id].add(receipt.status)
        messages = [Notification.decode(entry.value) for entry in log]
        young = {one.notification_id for one in messages if one.decided_at_ms > run.now_ms - END_WAIT_TICKS * TICK_MS}
        for name in ours:
            if len(ends[name]) != 1 and not (name in young and not ends[name]):
                verdict.incidents.append(f"notification {name} has the ends {sorted(ends[name])}")
        for name, statuses in ends.items():
            if "delivered" in statuses and not run.delivered[name]:
                verdict.incidents.append(f"notification {name} is said to be delivered, and never was")
        verdict.counts["notifications"] += len(ours)
