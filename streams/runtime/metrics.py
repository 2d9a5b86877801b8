"""What can be measured of a worker? One table of names; the values are read when somebody scrapes."""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Measure(NamedTuple):
    """One value, of a name in the table, with the values of its labels in their order."""

    name: str
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured under one name: in the unit that the name ends with."""

    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str

    def family(self, name: str) -> CounterMetricFamily | GaugeMetricFamily:
        """Return an empty family."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(name, self.help, labels=self.labels)


def _gauge(labels: str, text: str) -> Measured:
    return Measured("gauge", tuple(labels.split()), text)


def _counter(labels: str, text: str) -> Measured:
    return Measured("counter", tuple(labels.split()), text)


METRICS: Mapping[str, Measured] = {
    # the process
    "tocsin_build_info": _gauge("version python", "Always 1; its labels say what runs."),
    "tocsin_ready": _gauge("", "1 while /ready answers 200, else 0."),
    "tocsin_heartbeat_age_seconds": _gauge("loop", "Time since a loop last came round."),
    # every stage
    "tocsin_partitions_owned": _gauge("stage", "Partitions that this worker works on."),
    "tocsin_restore_progress_ratio": _gauge(
        "stage partition", "Share of a partition's changelog that is read; 1 once the partition is worked on."
    ),
    "tocsin_rebalances_total": _counter("stage", "Times that the group gave out its partitions anew."),
    "tocsin_broker_silence_seconds": _gauge("stage", "Time since the brokers last answered."),
    "tocsin_lag_offsets": _gauge(
        "stage topic partition", "Offsets between what is read and the end of the log: messages, not rows."
    ),
    "tocsin_watermark_lag_seconds": _gauge(
        "stage partition", "How far the time up to which a stage has decided lies behind the clock."
    ),
    "tocsin_checkpoint_age_seconds": _gauge("stage", "Time since all that was read was durable."),
    "tocsin_checkpoints_total": _counter("stage", "Times that state was made durable."),
    "tocsin_producer_queue_records": _gauge("stage", "Records that the brokers have not acknowledged."),
    "tocsin_dead_letters_total": _counter("stage", "Records that were refused and laid aside."),
    "tocsin_offsets_lost_total": _counter("stage", "Offsets that retention took away before they were read."),
    # join
    "tocsin_conservation_error_rows": _gauge(
        "partition", "Rows by which the equations of conservation do not balance: anything but 0 is a defect of Tocsin."
    ),
    "tocsin_partitioner_mismatch_ratio": _gauge(
        "topic", "Share of sampled rows, of the last minute, that lie in another partition than their ids'; must be 0."
    ),
    "tocsin_join_sampled_rows_total": _counter("topic", "Rows whose partition was compared with their id's."),
    "tocsin_join_mismatched_rows_total": _counter(
        "topic", "Sampled rows that lie in another partition than their ids'."
    ),
    "tocsin_join_rows_total": _counter("topic partition", "Rows that were read, dead ones too."),
    "tocsin_join_outputs_total": _counter(
        "partition fate", "What became of outputs: labelled, expired, duplicate, dead. The rest is pending."
    ),
    "tocsin_join_labels_total": _counter(
        "partition fate",
        "What became of labels: joined (the hit rate is their share), corrected, duplicate, late, orphan_expired, dead. "
        "The rest waits.",
    ),
    "tocsin_join_late_outputs_total": _counter("partition", "Outputs that came after their own wait for a label."),
    "tocsin_join_conflicts_total": _counter("partition", "Outputs of a known id with other content; the first counts."),
    "tocsin_join_future_rows_total": _counter("partition", "Rows that were refused for being ahead of their broker."),
    "tocsin_join_label_flips_total": _counter("partition", "Corrections that changed whether an answer was wrong."),
    "tocsin_join_orphans_over_bound_total": _counter("partition", "Labels that were refused for too many waiting."),
    "tocsin_join_pending_outputs": _gauge("partition", "Outputs without an outcome."),
    "tocsin_join_waiting_labels": _gauge("partition", "Labels whose output has not come."),
    "tocsin_join_oldest_pending_seconds": _gauge(
        "partition", "Age of the oldest output without an outcome, to the tick; 0 where there is none."
    ),
    "tocsin_join_lag_seconds": _gauge(
        "topic partition", "How far the newest event time that was read lies behind the clock; 0 at the end of the log."
    ),
    "tocsin_join_lag_rows": _gauge(
        "topic partition", "Rows that are not read yet, estimated by the rows of a message so far."
    ),
    "tocsin_join_open_ticks": _gauge("partition", "Ticks that are not closed yet."),
    "tocsin_join_resident_bytes": _gauge("partition", "Memory that a partition's rows take."),
    "tocsin_join_paused": _gauge("reason", "1 while nothing is read for this reason."),
    "tocsin_join_window_stats_total": _counter("", "Records of closed ticks that were sent to detect."),
    "tocsin_join_repeated_writes_total": _counter(
        "", "Records that were written again for want of an acknowledgement."
    ),
    "tocsin_join_checkpoint_seconds_total": _counter("", "Time spent in making state durable."),
    "tocsin_join_cut_texts_total": _counter("", "Texts of more than 64 KB. The join keeps none; their rows are good."),
    "tocsin_join_baselines_refused_total": _counter("", "Baselines that cannot be read."),
    "tocsin_join_broker_errors_total": _counter("error", "Errors of the join's clients, by librdkafka's name."),
    # detect, triage, escalate, notify
    "tocsin_stage_lag_seconds": _gauge(
        "stage topic partition",
        "About how old the oldest record is that is not read, by the times that the brokers hold; 0 at the end of the log.",
    ),
    "tocsin_stage_records_total": _counter("stage", "Records that were handled."),
    "tocsin_stage_outputs_total": _counter("stage", "Records that were written and acknowledged, state left out."),
    "tocsin_stage_repeats_total": _counter("stage", "Records below the cursor, which changed nothing."),
    "tocsin_stage_read_backs_total": _counter("stage", "Times that records which Faust skipped were read back."),
    "tocsin_stage_read_back_records_total": _counter("stage", "Records that Faust skipped and the cursor read back."),
    "tocsin_stage_empty_offsets_total": _counter("stage", "Offsets that held nothing when they were read back."),
    "tocsin_stage_foreign_rows_total": _counter("stage", "Rows of a worker that had lost the partition, overwritten."),
    "tocsin_stage_clocks_ahead_total": _counter(
        "stage", "Clock values of a worker whose clock is far ahead: not taken."
    ),
    "tocsin_stage_topics_made_anew_total": _counter(
        "stage", "Times that an input was another topic than the one that was read, and was read from its beginning."
    ),
    "tocsin_stage_state_rows": _gauge("stage", "Rows of state of the partitions that are worked on."),
    # what they decide
    "tocsin_detect_ticks_total": _counter("partition", "Ticks that were judged."),
    "tocsin_detect_repeats_total": _counter("partition", "Window statistics and marks that changed nothing."),
    "tocsin_detect_blind_ticks_total": _counter("partition", "Ticks of a model for which no baseline holds."),
    "tocsin_detect_unknown_model_ticks_total": _counter(
        "partition", "Ticks with rows of a model that is not configured."
    ),
    "tocsin_detect_shadow_alarms_total": _counter("partition", "Alarms of lanes that are not armed: nobody is told."),
    "tocsin_budget_spent_total": _counter("ledger partition", "Expected false pages, or tickets, that were spent."),
    "tocsin_budget_per_week": _gauge("ledger", "Expected false pages, or tickets, that a week may spend in all."),
    "tocsin_findings_total": _counter("model detector ledger state", "Findings, firing or cleared."),
    "tocsin_incidents_open": _gauge("severity partition", "Incidents that still need somebody."),
    "tocsin_incident_records_total": _counter("severity reason", "Records of incidents, by why they were written."),
    "tocsin_notifications_total": _counter("channel mode reason", "Messages that somebody is to be sent, by why."),
    "tocsin_notifications_waiting": _gauge("partition", "Messages that are not delivered, cancelled or given up yet."),
    "tocsin_notify_forgotten_total": _counter(
        "partition", "Ends of messages and incidents forgotten before their time: too many."
    ),
    "tocsin_attempts_total": _counter(
        "channel status", "What became of messages, attempt by attempt; also of those that were cancelled or given up."
    ),
    "tocsin_attempts_in_hand": _gauge("", "Attempts that wait for their turn or are on their way."),
}
"""Name to what is measured under it."""

_UNKNOWN = "(other)"


def named(name: str, known: Iterable[str]) -> str:
    """Return a name that came from outside as a label: one that is not known could be anything, and without end.

    >>> named("fraud", {"fraud"}), named("fraud' OR 1=1", {"fraud"})
    ('fraud', '(other)')
    """
    return name if name in known else _UNKNOWN


class Exporter(Collector):
    """Gives all families, each time anew, with what the sources say; what two say under the same labels is added.

    >>> one = Exporter([lambda: [Measure("tocsin_partitions_owned", ("join",), 2)]] * 2)
    >>> [sample.value for family in one.collect() for sample in family.samples if family.name == "tocsin_partitions_owned"]
    [4.0]
    """

    def __init__(self, sources: Sequence[Callable[[], Iterable[Measure]]]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Read what there is."""
        families = {name: measured.family(name) for name, measured in METRICS.items()}
        values: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        for source in self._sources:
            for name, labels, value in source():
                values[name, labels] += value
        for (name, labels), value in values.items():
            families[name].add_metric(labels, value)
        yield from families.values()


def registry_of(sources: Sequence[Callable[[], Iterable[Measure]]]) -> CollectorRegistry:
    """Return a registry of this process: ours, and how much of the machine it takes where the system says so."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Exporter([_build, *sources]))
    return registry


def _build() -> list[Measure]:
    return [Measure("tocsin_build_info", (version("tocsin"), platform.python_version()), 1)]
