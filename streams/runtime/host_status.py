"""How is a stage in its Faust host, seen from outside? What it publishes, and what probes and metrics make of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from config.settings import ProbeSettings
from streams.runtime.metrics import Measure
from streams.runtime.probes import Health

_COUNTS = {
    "offsets_lost": "tocsin_offsets_lost_total",
    "groups": "tocsin_checkpoints_total",
    "handled": "tocsin_stage_records_total",
    "outputs": "tocsin_stage_outputs_total",
    "repeats": "tocsin_stage_repeats_total",
    "read_backs": "tocsin_stage_read_backs_total",
    "read_back_records": "tocsin_stage_read_back_records_total",
    "empty_offsets": "tocsin_stage_empty_offsets_total",
    "foreign_rows": "tocsin_stage_foreign_rows_total",
    "clocks_ahead": "tocsin_stage_clocks_ahead_total",
    "rewinds": "tocsin_stage_topics_made_anew_total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """What can be seen of one stage; made anew about once a second. Moments are on `faust_host.now_s`.

    Parameters
    ----------
    moving
        Whether partitions are being given out or restored.
    restored
        Whether there was a moment at which all that was assigned was restored.
    owned, restoring
        Partitions that are worked on, and of those that are being restored how much is read, from 0 to 1.
    counts
        Of this process since it began (`faust_host.Counts`).
    lags
        By topic and partition: offsets between the cursor and the end, as it was asked last.
    read_from_s
        By the same, a moment before which all that came to the broker is read.
    answered_s
        When the brokers last answered.
    refusal
        What they, or the client, said when they last did not.
    writing_s
        When the first of what is being committed came, or a claim of partitions was sent; None while nothing is written.
    lasting_s
        When all that was read was last durable; None while it is.
    waiting
        Records that wait for the producer, or for its acknowledgement.
    own
        What the stage says of itself, and how often operators were told what.
    """

    stage: str
    moving: bool
    restored: bool
    owned: tuple[int, ...]
    restoring: Mapping[int, float]
    counts: Mapping[str, int]
    rebalances: int
    lags: Mapping[tuple[str, int], int]
    read_from_s: Mapping[tuple[str, int], float]
    state_rows: int
    answered_s: float
    refusal: str
    writing_s: float | None
    lasting_s: float | None
    waiting: int
    own: tuple[Measure, ...]


def health_of(
    statuses: Iterable[StageStatus], beat_ages: Mapping[str, float], now_s: float, bounds: ProbeSettings
) -> Health:
    """Say how a host is; `beat_ages` of its loops, in seconds, those alone by which it lives."""
    unready = []
    restored = True
    for status in statuses:
        restored &= status.restored
        written_s = 0.0 if status.writing_s is None else now_s - status.writing_s
        is_held = written_s > bounds.answer_wait_ms / 1000
        if status.moving and not is_held:
            share = f" ({min(status.restoring.values()):.0%})" if status.restoring else ""
            unready.append(f"{status.stage}: waits for partitions, or restores them{share}")
        if now_s - status.answered_s > bounds.answer_wait_ms / 1000:
            why = f": {status.refusal}" if status.refusal else ""
            unready.append(f"{status.stage}: no answer from the brokers for {now_s - status.answered_s:.0f} s{why}")
        elif is_held:
            unready.append(f"{status.stage}: no write acknowledged for {written_s:.0f} s")
    return Health(beats=dict(beat_ages), restored=restored, unready=tuple(unready))


def measures_of(status: StageStatus, now_s: float) -> Iterator[Measure]:
    """Return what there is to measure of one stage."""
    stage = status.stage
    yield Measure("tocsin_partitions_owned", (stage,), len(status.owned))
    yield Measure("tocsin_rebalances_total", (stage,), status.rebalances)
    yield Measure("tocsin_broker_silence_seconds", (stage,), max(now_s - status.answered_s, 0.0))
    age_s = 0.0 if status.lasting_s is None else max(now_s - status.lasting_s, 0.0)
    yield Measure("tocsin_checkpoint_age_seconds", (stage,), age_s)
    yield Measure("tocsin_producer_queue_records", (stage,), status.waiting)
    yield Measure("tocsin_stage_state_rows", (stage,), status.state_rows)
    for partition, share in (dict(status.restoring) | dict.fromkeys(status.owned, 1.0)).items():
        yield Measure("tocsin_restore_progress_ratio", (stage, str(partition)), share)
    for (topic, partition), lag in status.lags.items():
        yield Measure("tocsin_lag_offsets", (stage, topic, str(partition)), lag)
        lag_s = max(now_s - status.read_from_s[topic, partition], 0.0) if lag else 0.0
        yield Measure("tocsin_stage_lag_seconds", (stage, topic, str(partition)), lag_s)
    for name, metric in _COUNTS.items():
        yield Measure(metric, (stage,), status.counts.get(name, 0))
    yield Measure("tocsin_dead_letters_total", (stage,), 0)  # there before the first, which `own` counts
    yield from status.own
