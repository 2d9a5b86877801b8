"""How is the join's host, seen from outside? What it publishes, and what probes and metrics make of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from config.settings import ProbeSettings
from streams.runtime.metrics import Measure
from streams.runtime.probes import Health
from streams.runtime.topics import LABELS, OUTPUTS

JOIN = "join"

_ROWS = {OUTPUTS: "output_rows", LABELS: "label_rows"}
_OUTPUTS = {"labelled": "labelled", "expired": "expired", "duplicate_output": "duplicate", "dead_output": "dead"}
_LABELS = {
    "joined": "joined",
    "corrected": "corrected",
    "duplicate_label": "duplicate",
    "late_label": "late",
    "orphan_expired": "orphan_expired",
    "dead_label": "dead",
}
_COUNTERS = {
    "late_output": "tocsin_join_late_outputs_total",
    "conflicting_output": "tocsin_join_conflicts_total",
    "future_rows": "tocsin_join_future_rows_total",
    "label_flips": "tocsin_join_label_flips_total",
    "orphans_over_bound": "tocsin_join_orphans_over_bound_total",
}
_GAUGES = {
    "conservation_error": "tocsin_conservation_error_rows",
    "pending_rows": "tocsin_join_pending_outputs",
    "orphan_rows": "tocsin_join_waiting_labels",
    "open_ticks": "tocsin_join_open_ticks",
    "resident_bytes": "tocsin_join_resident_bytes",
}
_PROCESS = {
    "window_stats": "tocsin_join_window_stats_total",
    "repeated_writes": "tocsin_join_repeated_writes_total",
    "cut_texts": "tocsin_join_cut_texts_total",
    "malformed_baselines": "tocsin_join_baselines_refused_total",
}
_OF_STAGE = {
    "rebalances": "tocsin_rebalances_total",
    "checkpoints": "tocsin_checkpoints_total",
    "dead_letters": "tocsin_dead_letters_total",
    "offsets_lost": "tocsin_offsets_lost_total",
}
_REASONS = ("disk",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What can be seen from outside; made anew about once a second.

    Parameters
    ----------
    answered_s
        When the brokers last answered anything, on `time.monotonic()`.
    assigned
        Whether the group has given this worker its share, be it empty.
    restored
        Whether there was a moment at which all that was assigned was joined.
    owned, restoring
        Partitions that are joined, and of those that are still being taken how much is read, from 0 to 1.
    counts
        Of this process since it began: messages, rows, dead letters, errors by name, checkpoints, offsets lost …
    partitions
        By partition its counters and gauges (`Join.counters`, `Join.gauges`), lag and conservation error.
    taken
        By partition its counters when this worker took it: they outlive workers.
    unsaid
        By topic since when the brokers do not say where a partition of it ends, on `time.monotonic()`.
    misplaced
        By topic the share of rows that lie in another partition than their ids', and since when there are any.
    paused
        Why nothing is read, empty while it is.
    lasting_s
        When all that was joined was last durable, on `time.monotonic()`.
    waiting
        Records that the brokers have not acknowledged.
    clock_ms
        The clock that the joins are told; None before it is known.
    """

    answered_s: float
    assigned: bool
    restored: bool
    owned: tuple[int, ...]
    restoring: Mapping[int, float]
    counts: Mapping[str, int]
    partitions: Mapping[int, Mapping[str, int]]
    taken: Mapping[int, Mapping[str, int]]
    unsaid: Mapping[str, float]
    misplaced: Mapping[str, tuple[float, float | None]]
    paused: str
    lasting_s: float
    waiting: int
    clock_ms: int | None


def unseen(now_s: float) -> Status:
    """Return the status before there is anything to see."""
    return Status(
        answered_s=now_s, assigned=False, restored=False, owned=(), restoring={}, counts={}, partitions={}, taken={},
        unsaid={}, misplaced={}, paused="", lasting_s=now_s, waiting=0, clock_ms=None,
    )  # fmt: skip


def health_of(status: Status, beat_s: float, now_s: float, bounds: ProbeSettings) -> Health:
    """Say how it is; `beat_s` is when the loop last came round, both on `time.monotonic()`.

    >>> bounds = ProbeSettings(address="", port=0, silent_after_ms=1, answer_wait_ms=10_000, mismatch_wait_ms=1)
    >>> health_of(unseen(100.0), 101.0, 112.0, bounds)
    Health(beats={'join': 11.0}, restored=False,
           unready=('join: no partitions were assigned yet', 'join: no answer from the brokers for 12 s'))
    """
    unready = []
    if not status.assigned:
        unready.append("no partitions were assigned yet")
    if status.restoring:
        unready.append(f"restores partitions {', '.join(map(str, sorted(status.restoring)))}")
    if now_s - status.answered_s > bounds.answer_wait_ms / 1000:
        unready.append(f"no answer from the brokers for {now_s - status.answered_s:.0f} s")
    else:
        unready += [
            f"the brokers do not say where {topic} ends for {now_s - since_s:.0f} s: `tocsin topics check` says whether it is there"
            for topic, since_s in status.unsaid.items()
            if now_s - since_s > bounds.answer_wait_ms / 1000
        ]
    if status.paused:
        unready.append(f"reads nothing: {status.paused}")
    for topic, (ratio, since_s) in status.misplaced.items():
        if since_s is not None and now_s - since_s > bounds.mismatch_wait_ms / 1000:
            unready.append(
                f"{ratio:.0%} of the rows of {topic} lie in another partition than their ids' for {now_s - since_s:.0f} s: "
                "their producer must place keys by murmur2"
            )
    return Health(
        beats={JOIN: max(now_s - beat_s, 0.0)},
        restored=status.restored,
        unready=tuple(f"{JOIN}: {why}" for why in unready),
    )


def measures_of(status: Status, now_s: float) -> Iterator[Measure]:
    """Return what there is to measure of the join; `now_s` is `time.monotonic()`."""
    counts = status.counts
    yield Measure("tocsin_partitions_owned", (JOIN,), len(status.owned))
    yield Measure("tocsin_broker_silence_seconds", (JOIN,), max(now_s - status.answered_s, 0.0))
    yield Measure("tocsin_checkpoint_age_seconds", (JOIN,), max(now_s - status.lasting_s, 0.0))
    yield Measure("tocsin_producer_queue_records", (JOIN,), status.waiting)
    for partition, share in (dict.fromkeys(status.owned, 1.0) | dict(status.restoring)).items():
        yield Measure("tocsin_restore_progress_ratio", (JOIN, str(partition)), share)
    for name, metric in _OF_STAGE.items():
        yield Measure(metric, (JOIN,), counts.get(name, 0))
    for name, metric in _PROCESS.items():
        yield Measure(metric, (), counts.get(name, 0))
    yield Measure("tocsin_join_checkpoint_seconds_total", (), counts.get("checkpoint_ms", 0) / 1000)
    for reason in _REASONS:
        yield Measure("tocsin_join_paused", (reason,), status.paused == reason)
    for name, count in counts.items():
        if name.startswith("error_"):
            yield Measure("tocsin_join_broker_errors_total", (name.removeprefix("error_"),), count)
    for topic, (ratio, _) in status.misplaced.items():
        yield Measure("tocsin_partitioner_mismatch_ratio", (topic,), ratio)
        yield Measure("tocsin_join_sampled_rows_total", (topic,), counts.get(f"sampled_{topic}", 0))
        yield Measure("tocsin_join_mismatched_rows_total", (topic,), counts.get(f"partitioner_mismatch_{topic}", 0))
    for number, seen in status.partitions.items():
        yield from _partition(str(number), seen, status.taken[number], status)


def _partition(number: str, seen: Mapping[str, int], taken: Mapping[str, int], status: Status) -> Iterator[Measure]:
    def since(name: str) -> int:
        """Count since this worker took the partition: the counters themselves go with the partition."""
        return seen[name] - taken[name]

    for name, fate in _OUTPUTS.items():
        yield Measure("tocsin_join_outputs_total", (number, fate), since(name))
    for name, fate in _LABELS.items():
        yield Measure("tocsin_join_labels_total", (number, fate), since(name))
    for name, metric in _COUNTERS.items():
        yield Measure(metric, (number,), since(name))
    for name, metric in _GAUGES.items():
        yield Measure(metric, (number,), seen[name])
    for topic, rows in _ROWS.items():
        yield Measure("tocsin_join_rows_total", (topic, number), since(rows))
        lag = seen.get(f"lag_messages_{topic}")
        if lag is None:  # the brokers have not said yet where the log ends
            continue
        messages = status.counts.get(f"messages_{topic}", 0)
        a_message = status.counts[f"rows_{topic}"] / messages if messages else 1.0
        yield Measure("tocsin_lag_offsets", (JOIN, topic, number), lag)
        yield Measure("tocsin_join_lag_rows", (topic, number), lag * a_message)
        newest_ms = seen[f"newest_ms_{topic}"]
        if not lag or newest_ms:
            yield Measure("tocsin_join_lag_seconds", (topic, number), _behind_s(newest_ms, status) if lag else 0.0)
    yield Measure("tocsin_join_oldest_pending_seconds", (number,), _behind_s(seen["oldest_pending_ms"], status))
    if seen["closed_through_ms"]:
        lag_s = _behind_s(seen["closed_through_ms"], status)
        yield Measure("tocsin_watermark_lag_seconds", (JOIN, number), lag_s)


def _behind_s(ms: int, status: Status) -> float:
    """Return how long before the clock a time lies; 0 for none."""
    return max(status.clock_ms - ms, 0) / 1000 if ms and status.clock_ms is not None else 0.0
