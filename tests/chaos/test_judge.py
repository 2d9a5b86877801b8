"""Does the judge see it when something is lost, or done twice? A calm run is clean; each change of its logs is found."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.incident_action import IncidentAction
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.window_stats import WindowStats
from streams.runtime import specs, topics
from streams.runtime.stage_spec import Routed, Rows
from streams.stages.blocks import BlockKey, Manifest
from tests.chaos.judge import (
    CHANGELOGS,
    READ,
    Faults,
    judge_findings,
    judge_incidents,
    judge_join,
    judge_messages,
    judge_passed,
)
from tests.chaos.load import label_rows, output_rows, said_row
from tests.simulation import oracle, passed
from tests.simulation.join_oracle import LabelRow
from tests.simulation.judge import TOCSIN
from tests.simulation.logs import Entry
from tests.simulation.passed import changelog_of
from tests.simulation.simulation import SINKS, Chaos, Simulation, incident_of
from tests.simulation.workload import SOURCES, TICK_MS, settings

CALM = Chaos(crash=0.0, stop=0.0, compact=0.0, lead_ticks=0, jump=0.0, jump_ms=0)
Logs = dict[tuple[str, int], list[Entry]]


class Said(Simulation):
    """A simulation whose rows come as a producer says them, with a row in every partition in every tick."""

    def __init__(self, seed: int) -> None:
        self.said: Logs = {
            (topic, source): [] for topic in (topics.OUTPUTS, topics.LABELS) for source in range(SOURCES)
        }
        self._fillers = count()
        super().__init__(seed, CALM)

    def _arrive(self, until_ms: int) -> None:
        arrivals = self.work.arrivals
        while self._arrived < len(arrivals) and arrivals[self._arrived].at_ms <= until_ms:
            arrival = arrivals[self._arrived]
            topic = topics.LABELS if isinstance(arrival.row, LabelRow) else topics.OUTPUTS
            self._say(topic, arrival.partition, said_row(arrival.row, "s", arrival.at_ms, 0), arrival.at_ms)
            self._arrived += 1
        for source in range(SOURCES):
            one = {"prediction_id": f"f{next(self._fillers)}", "model": "gamma"}
            output = {**one, "made_at_ms": until_ms, "version": "v1", "prediction": "yes", "score": 0.75}
            self._say(topics.OUTPUTS, source, output, until_ms)
            self._say(topics.LABELS, source, {**one, "labelled_at_ms": until_ms, "label": "yes"}, until_ms)

    def _say(self, topic: str, source: int, row: dict[str, Any], at_ms: int) -> None:
        log = self.topics[topic, source]
        entry = Entry(log.end, None, json.dumps(row).encode(), (), at_ms)
        self.said[topic, source].append(entry)
        rows, _ = label_rows([entry], source) if topic == topics.LABELS else output_rows([entry], source)
        log.append(None, rows[0])


@pytest.fixture(scope="module")
def run() -> Said:
    simulation = Said(5)
    simulation.run()
    return simulation


def read(run: Said) -> Logs:
    names = (*READ, *map(changelog_of, CHANGELOGS))
    past = {(topic, sink): list(run.topics[topic, sink]) for topic in names for sink in range(SINKS)}
    past[topics.CLOCK, 0] = [Entry(at, None, Clock(now_ms=now_ms).encode()) for at, now_ms in enumerate(run.told_ms)]
    return past | {place: list(entries) for place, entries in run.said.items()}


@pytest.fixture
def logs(run: Said) -> Logs:
    """Return everything as it would be read from the brokers, to be changed."""
    return read(run)


@pytest.fixture(scope="module")
def calm(run: Said) -> tuple[oracle.Sums, Faults]:
    faults, logs = Faults(), read(run)
    sums = judge_join(logs, run.now_ms, faults)
    judge_findings(logs, sums, faults)
    judge_incidents(logs, specs.triage_spec(settings()), faults)
    judge_messages(logs, run.now_ms, run.delivered, faults)
    judge_passed(logs, settings(), faults)
    return sums, faults


def test_a_calm_run_is_clean(calm: tuple[oracle.Sums, Faults]) -> None:
    _, faults = calm
    assert not any(faults.all().values()), faults
    assert faults.counts["findings"] > 0
    assert faults.counts["incidents"] > 0
    assert faults.counts["delivered"] > faults.counts["incidents"]
    assert faults.counts["future_rows"] > 0
    assert faults.counts["changelogs_in_part"] == faults.counts["ladders_unexplained"] == 0


def test_a_ladder_with_more_orders_than_are_tried_is_counted_and_no_fault(
    run: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passed, "MOST_MOVES", 0)
    faults = Faults()
    judge_passed(read(run), settings(), faults)
    assert not faults.lost
    assert faults.counts["ladders_unexplained"] > 0


def first(logs: Logs, topic: str, wanted: Callable[[Entry], bool]) -> tuple[list[Entry], int]:
    """Return the log and place of the first record that is wanted."""
    return next(
        (logs[topic, sink], at) for sink in range(SINKS) for at, entry in enumerate(logs[topic, sink]) if wanted(entry)
    )


def is_stats(entry: Entry) -> bool:
    return entry.key is not None


def is_finding(entry: Entry) -> bool:
    record = specs.decode(topics.FINDINGS, entry.key, entry.value, entry.headers)
    return isinstance(record, Finding) and record.model != TOCSIN


def test_what_the_join_lost_doubled_or_did_not_count_is_found(run: Said, logs: Logs) -> None:
    log, at = first(logs, topics.WINDOW_STATS, is_stats)
    gone = WindowStats.decode(log.pop(at).value)
    log, at = first(logs, topics.WINDOW_STATS, is_stats)
    stats = WindowStats.decode(log[at].value)
    more = dataclasses.replace(
        stats, arrays={name: counts + (name == "outputs") for name, counts in stats.arrays.items()}
    )
    log.insert(at + 1, log[at]._replace(value=more.encode()))
    log = logs[topics.CHANGELOG, 2]
    at = max(at for at, entry in enumerate(log) if BlockKey.decode(entry.key or b"").kind == "manifest")
    manifest = Manifest.decode(log[at].value)
    less = {**manifest.counters, "labelled": manifest.counters["labelled"] - 1}
    log[at] = log[at]._replace(value=replace(manifest, counters=less).encode())

    faults = Faults()
    judge_join(logs, run.now_ms, faults)
    missing = gone.source_partition, gone.model, gone.tick_start_ms, gone.part
    changed = stats.source_partition, stats.model, stats.tick_start_ms, stats.part
    assert f"window statistics of {missing} are missing" in faults.lost
    assert faults.doubled == [f"window statistics of {changed} have two forms"]
    assert len(faults.lost) == 2
    assert [error.split(":")[1] for error in faults.conservation_errors] == [
        " rows of model-outputs",
        " joined and labelled",
    ]


def test_findings_that_are_missing_invented_or_said_in_two_forms_are_found(
    calm: tuple[oracle.Sums, Faults], logs: Logs
) -> None:
    sums, _ = calm
    log, at = first(logs, topics.FINDINGS, is_finding)
    entry = log.pop(at)
    faults = Faults()
    judge_findings(logs, sums, faults)
    assert (len(faults.lost), len(faults.doubled)) == (1, 0)

    finding = Finding.decode(entry.value)
    log[at:at] = [entry, entry._replace(value=replace(finding, n=finding.n + 1).encode())]
    log.append(entry._replace(value=replace(finding, finding_id="f" * 64).encode()))
    faults = Faults()
    judge_findings(logs, sums, faults)
    assert (len(faults.lost), len(faults.doubled)) == (0, 2)


def changed(entry: Entry, **changes: Any) -> Entry:  # noqa: ANN401
    """Write an incident's record again, with changes."""
    said = specs._incident(replace(incident_of(entry), **changes), settings())[0]  # noqa: SLF001
    assert isinstance(said, Routed)
    return entry._replace(value=said.value, headers=said.headers)


def of_seq(seq: int) -> Callable[[Entry], bool]:
    return lambda entry: incident_of(entry).seq == seq


def test_transitions_that_are_missing_or_changed_are_found(logs: Logs) -> None:
    triage = specs.triage_spec(settings())
    log, at = first(logs, topics.INCIDENTS, of_seq(2))
    log[at] = changed(log[at], note="somebody else's")
    faults = Faults()
    judge_incidents(logs, triage, faults)
    assert len(faults.incident_differences) == 1

    log, at = first(logs, topics.INCIDENTS, of_seq(1))
    opened: Incident = incident_of(log[at])
    log[:] = [entry for entry in log if incident_of(entry).incident_id != opened.incident_id]
    for sink in range(SINKS):
        latest = logs[topics.INCIDENTS_LATEST, sink]
        latest[:] = [entry for entry in latest if entry.key != opened.incident_id.encode()]
    faults = Faults()
    judge_incidents(logs, triage, faults)
    assert [fault for fault in faults.lost if opened.incident_id in fault]


def test_a_transition_that_is_said_again_is_no_fault_and_one_that_is_said_otherwise_is(logs: Logs) -> None:
    log, at = first(logs, topics.INCIDENTS, of_seq(2))
    log.insert(at, log[at])
    faults = Faults()
    judge_incidents(logs, specs.triage_spec(settings()), faults)
    assert (faults.incident_differences, faults.doubled) == ([], [])
    assert faults.counts["repeated_transitions"] == 1
    log.insert(at + 1, changed(log[at], note="said otherwise"))
    judge_incidents(logs, specs.triage_spec(settings()), faults)
    assert len(faults.doubled) == 1


def test_an_order_of_acts_and_findings_that_the_records_tell_is_taken_from_them(run: Said, logs: Logs) -> None:
    """The acts of the run came among findings; were they taken first or last, the transitions would be others."""
    assert any(run.topics[topics.ACTIONS, sink].end for sink in range(SINKS))
    for sink in range(SINKS):
        logs[topics.ACTIONS, sink].reverse()
    faults = Faults()
    judge_incidents(logs, specs.triage_spec(settings()), faults)
    assert faults.incident_differences == []


def test_an_act_that_nothing_answers_is_found(logs: Logs) -> None:
    log, at = first(logs, topics.ACTIONS, lambda _: True)
    act = IncidentAction.decode(log[at].value)
    log.append(log[at]._replace(value=replace(act, act_id="nobody heard it").encode()))
    faults = Faults()
    judge_incidents(logs, specs.triage_spec(settings()), faults)
    assert faults.lost == ["act nobody heard it has no answer"]


def test_messages_that_are_doubled_lost_or_never_written_are_found(run: Said, logs: Logs) -> None:
    log, at = first(logs, topics.NOTIFICATIONS, lambda _: True)
    message = Notification.decode(log[at].value)
    taken = dict(run.delivered)
    doubled = replace(message, notification_id="under another id")
    log.append(log[at]._replace(value=doubled.encode()))
    taken[doubled.notification_id] = 1
    faults = Faults()
    judge_messages(logs, run.now_ms, taken, faults)
    assert len(faults.pages_repeated) == 1
    assert len(faults.lost) == 1, "it has no end"

    faults = Faults()
    judge_messages(logs, run.now_ms, {**run.delivered, "nobody's": 1}, faults)
    assert len(faults.incident_differences) == 1

    reached = next(name for name, times in run.delivered.items() if times)
    faults = Faults()
    judge_messages(logs, run.now_ms, {**run.delivered, reached: 0}, faults)
    assert [fault for fault in faults.lost if reached in fault]


def test_two_ends_of_a_message_are_a_fault_unless_the_clock_has_overtaken_its_attempt(run: Said, logs: Logs) -> None:
    log, at = first(logs, topics.RECEIPTS, lambda entry: Receipt.decode(entry.value).status == "delivered")
    answer = Receipt.decode(log[at].value)
    sender, wait_ms = settings().response.sender, settings().response.notify.attempt_wait_ms
    first_ms = answer.decided_at_ms + wait_ms - sender.attempt_timeout_ms - sender.turn_wait_ms
    ended = replace(answer, status="cancelled", reason="resolved", answer_class="none")
    for decided_at_ms, overtaken in ((first_ms - 1, False), (first_ms, True)):
        log.append(log[at]._replace(value=replace(ended, decided_at_ms=decided_at_ms).encode()))
        faults = Faults()
        judge_messages(logs, run.now_ms, run.delivered, faults)
        assert (len(faults.lost), faults.counts["overtaken"]) == (not overtaken, overtaken)
        log.pop()


def test_the_same_id_again_is_counted_apart(run: Said, logs: Logs) -> None:
    before, after = Faults(), Faults()
    reached = next(name for name, times in run.delivered.items() if times)
    judge_messages(logs, run.now_ms, run.delivered, before)
    judge_messages(logs, run.now_ms, {**run.delivered, reached: run.delivered[reached] + 2}, after)
    assert after.counts["same_id_repeats"] == before.counts["same_id_repeats"] + 2
    assert after.pages_repeated == before.pages_repeated == []


def silence(logs: Logs, incident_id: str) -> None:
    """Take away all that was said of an incident."""
    for sink in range(SINKS):
        messages = logs[topics.NOTIFICATIONS, sink]
        messages[:] = [one for one in messages if Notification.decode(one.value).incident_id != incident_id]


def newest(logs: Logs) -> dict[str, Incident]:
    incidents = [incident_of(entry) for sink in range(SINKS) for entry in logs[topics.INCIDENTS, sink]]
    return {one.incident_id: one for one in sorted(incidents, key=lambda one: one.seq)}


def test_an_open_incident_of_which_nobody_was_told_is_found(run: Said, logs: Logs) -> None:
    silent = next(one for one in newest(logs).values() if one.is_open)
    assert silent.opened_at_ms < run.now_ms - 20 * TICK_MS
    silence(logs, silent.incident_id)
    faults = Faults()
    judge_messages(logs, run.now_ms, {}, faults)
    assert f"nobody was told of incident {silent.incident_id}" in faults.lost


def test_an_incident_that_ended_before_its_first_wait_was_over_may_be_told_to_nobody_but_not_if_escalate_noted_it(
    run: Said, logs: Logs
) -> None:
    silent = next(one for one in newest(logs).values() if not one.is_open)
    silence(logs, silent.incident_id)
    faults = Faults()
    judge_messages(logs, run.now_ms, {}, faults)
    assert not [fault for fault in faults.lost if silent.incident_id in fault]
    judge_passed(logs, settings(), faults)
    assert [fault for fault in faults.lost if fault.endswith("was noted, and never written")]


def test_a_change_that_somebody_who_was_told_before_is_not_told_of_is_found(run: Said, logs: Logs) -> None:
    last = next(
        message
        for sink in range(SINKS)
        for message in (Notification.decode(one.value) for one in logs[topics.NOTIFICATIONS, sink])
        if message.cause == f"seq:{message.seq}"
    )
    for sink in range(SINKS):
        said = logs[topics.NOTIFICATIONS, sink]
        said[:] = [one for one in said if Notification.decode(one.value).notification_id != last.notification_id]
    faults = Faults()
    judge_messages(logs, run.now_ms, {}, faults)
    place = last.target, last.channel
    assert f"transition {(last.incident_id, last.seq)} was not told to {place}" in faults.lost


class HardOfHearing(Said):
    """A run in which a stage is never told of some records that its host has read, and goes on as if it had been."""

    def __init__(self, seed: int, unheard: Mapping[str, Sequence[Callable[[Any], bool]]]) -> None:
        super().__init__(seed)
        self.unheard: list[tuple[str, Any]] = []
        for stage, wanted in unheard.items():
            left = list(wanted)
            for sink in range(SINKS):
                host = self._smalls[stage, sink]
                host.spec = dataclasses.replace(host.spec, make_stage=self._deaf(stage, host.spec.make_stage, left))

    def _deaf(
        self, stage: str, make: Callable[[Rows, int], Any], left: list[Callable[[Any], bool]]
    ) -> Callable[[Rows, int], Any]:
        def is_heard(record: Any) -> bool:  # noqa: ANN401 -- whatever the stage takes
            for wanted in left:
                if wanted(record):
                    left.remove(wanted)
                    self.unheard.append((stage, record))
                    return False
            return True

        def made(rows: Rows, partition: int) -> Any:  # noqa: ANN401 -- a stage
            one = make(rows, partition)
            receive = one.receive
            one.receive = lambda records: receive([record for record in records if is_heard(record)])
            return one

        return made


def is_acknowledged(record: Any) -> bool:  # noqa: ANN401 -- whatever a stage takes, here and below
    return isinstance(record, Incident) and record.seq > 1 and record.acknowledged


def is_end(record: Any) -> bool:  # noqa: ANN401
    return isinstance(record, Receipt) and record.final


def is_refusal(record: Any) -> bool:  # noqa: ANN401
    return isinstance(record, Receipt) and not record.final


def is_message(record: Any) -> bool:  # noqa: ANN401
    return isinstance(record, Notification)


@pytest.mark.parametrize(
    ("stage", "wanted", "found"),
    [
        ("escalate", is_acknowledged, "the ladder of {} is at {}, and {} was passed"),
        ("escalate", is_end, "message {} is waited for, and its end was passed: delivered"),
        ("notify", is_acknowledged, "of incident {} it knows Seen"),
        ("notify", is_message, "message {} was passed, and neither waits nor has ended"),
        ("notify", is_end, "message {} has not ended, and its end was passed: delivered"),
        ("notify", is_refusal, "attempt 1 of {} is on its way, and its receipt was passed: server"),
    ],
)
def test_a_record_that_escalate_or_notify_skips_is_found(
    run: Said, stage: str, wanted: Callable[[Any], bool], found: str
) -> None:
    heard = HardOfHearing(run.seed, {stage: [wanted]})
    heard.run()
    [(_, record)] = heard.unheard
    faults = Faults()
    judge_passed(read(heard), settings(), faults)
    seq = record.seq if isinstance(record, Incident) else 0
    what = found.format(getattr(record, "notification_id", record.incident_id), seq - 1, seq)
    assert [fault for fault in faults.lost if fault.split(": ", 1)[1].startswith(what)], faults.lost


def test_of_two_transitions_in_one_group_the_first_that_escalate_skips_is_found() -> None:
    def is_raised(record: Any) -> bool:  # noqa: ANN401
        return isinstance(record, Incident) and record.reason == "severity_raised"

    heard = HardOfHearing(79, {"escalate": [is_raised]})
    heard.run()
    [(_, raised)] = heard.unheard
    faults, logs = Faults(), read(heard)
    judge_passed(logs, settings(), faults)
    told_of = [raised.seq, raised.seq + 1]
    said = f"no order of what was passed makes the ladder of {raised.incident_id}; it was told of {told_of}"
    assert [fault for fault in faults.lost if fault.endswith(said)], faults.lost
    judge_messages(logs, heard.now_ms, heard.delivered, faults)
    assert [
        fault
        for fault in faults.lost
        if fault.startswith(f"transition {(raised.incident_id, raised.seq)} was not told to")
    ]


def test_of_a_changelog_that_was_compacted_what_is_left_is_judged(run: Said) -> None:
    heard = HardOfHearing(run.seed, {"escalate": [is_end]})
    heard.run()
    logs = read(heard)
    for stage in CHANGELOGS:
        for sink in range(SINKS):
            log = logs[changelog_of(stage), sink]
            newest = {entry.key: entry.offset for entry in log}
            log[:] = [entry for entry in log if newest[entry.key] == entry.offset]
    faults = Faults()
    judge_passed(logs, settings(), faults)
    assert faults.counts["changelogs_in_part"] > 0
    assert ["is waited for" in fault for fault in faults.lost] == [True]


def test_records_that_a_stage_has_not_read_when_all_has_come_to_rest_are_found(logs: Logs) -> None:
    log, at = first(logs, topics.INCIDENTS, of_seq(2))
    log.append(log[at]._replace(offset=log[-1].offset + 1))
    faults = Faults()
    judge_passed(logs, settings(), faults)
    said = f"the last 1 of {len(log)} records of incidents were not read"
    assert [fault.split(": ", 1)[1] for fault in faults.lost] == [said, said], "by neither"
