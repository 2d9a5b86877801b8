"""The join seen from outside: what it counts is counted since it took a partition, and misplaced rows make it unready."""

from dataclasses import replace

import pytest

from config.settings import ProbeSettings
from streams.runtime.join_status import Status, health_of, measures_of, unseen
from streams.stages.join import COUNTERS

BOUNDS = ProbeSettings(address="", port=0, silent_after_ms=1, answer_wait_ms=10_000, mismatch_wait_ms=180_000)
GAUGES = dict.fromkeys(
    (
        "pending_rows", "orphan_rows", "open_ticks", "resident_bytes", "conservation_error", "oldest_pending_ms",
        "closed_through_ms",
    ),
    0,
)  # fmt: skip
TOPICS = {f"{what}_{topic}": 0 for what in ("lag_messages", "newest_ms") for topic in ("model-outputs", "labels")}
SERVING = replace(unseen(100.0), assigned=True, restored=True, owned=(2,), clock_ms=1_000_000)


def measured(partition: dict[str, int], taken: dict[str, int], counts: dict[str, int]) -> dict[tuple[str, ...], float]:
    zeros = dict.fromkeys(COUNTERS, 0)
    status = replace(
        SERVING,
        counts={"messages_model-outputs": 0, "rows_model-outputs": 0, "rows_labels": 0, **counts},
        partitions={2: zeros | GAUGES | TOPICS | partition},
        taken={2: zeros | taken},
    )
    return {(name, *labels): value for name, labels, value in measures_of(status, 100.0)}


def test_counters_of_a_partition_count_since_it_was_taken() -> None:
    #  1,000 outputs were read by workers before us, 40 by us
    found = measured(
        {"output_rows": 1_040, "labelled": 700, "expired": 310},
        {"output_rows": 1_000, "labelled": 690, "expired": 300},
        {},
    )
    assert found["tocsin_join_rows_total", "model-outputs", "2"] == 40
    assert (
        found["tocsin_join_outputs_total", "2", "labelled"] == found["tocsin_join_outputs_total", "2", "expired"] == 10
    )


def test_lag_is_told_in_offsets_rows_and_seconds_and_is_nothing_at_the_end_of_the_log() -> None:
    #  10 messages of 100 rows so far, 3 to come; the newest row read was made 40 s before the clock
    lag = {"lag_messages_model-outputs": 3, "newest_ms_model-outputs": 960_000, "newest_ms_labels": 10_000}
    found = measured(lag, {}, {"messages_model-outputs": 10, "rows_model-outputs": 1_000})
    assert found["tocsin_lag_offsets", "join", "model-outputs", "2"] == 3
    assert found["tocsin_join_lag_rows", "model-outputs", "2"] == 300
    assert found["tocsin_join_lag_seconds", "model-outputs", "2"] == 40
    assert found["tocsin_join_lag_seconds", "labels", "2"] == 0, "old rows, but none is waiting"


def test_the_watermark_is_behind_the_clock_once_it_is_known() -> None:
    assert ("tocsin_watermark_lag_seconds", "join", "2") not in measured({}, {}, {})
    found = measured({"closed_through_ms": 970_000, "oldest_pending_ms": 400_000}, {}, {})
    assert found["tocsin_watermark_lag_seconds", "join", "2"] == 30
    assert found["tocsin_join_oldest_pending_seconds", "2"] == 600


def test_texts_that_were_cut_are_told() -> None:
    assert measured({}, {}, {"cut_texts": 3})["tocsin_join_cut_texts_total",] == 3


@pytest.mark.parametrize(("unsaid", "unready"), [({}, False), ({"labels": 95.0}, False), ({"labels": 80.0}, True)])
def test_a_topic_whose_end_nobody_says_is_borne_for_some_seconds(unsaid: dict[str, float], unready: bool) -> None:  # noqa: FBT001
    found = health_of(replace(SERVING, unsaid=unsaid), 100.0, 100.0, BOUNDS)
    said = "join: the brokers do not say where labels ends for 20 s"
    assert [why.startswith(said) for why in found.unready] == [True] * unready
    away = health_of(replace(SERVING, unsaid=unsaid, answered_s=80.0), 100.0, 100.0, BOUNDS)
    assert len(away.unready) == 1, "brokers that are away say nothing of any topic"


@pytest.mark.parametrize(("since_s", "unready"), [(None, False), (95.0, False), (-100.0, True)])
def test_misplaced_rows_are_borne_for_some_minutes(since_s: float | None, unready: bool) -> None:  # noqa: FBT001
    status = replace(SERVING, misplaced={"labels": (0.75, since_s), "model-outputs": (0.0, None)})
    found = health_of(status, 100.0, 100.0, BOUNDS)
    assert bool(found.unready) == unready
    if unready:
        assert found.unready[0].startswith(
            "join: 75% of the rows of labels lie in another partition than their ids' for 200 s"
        )


def test_each_reason_for_not_serving_is_named() -> None:
    status = replace(SERVING, assigned=False, restoring={3: 0.5, 1: 0.0}, paused="disk", answered_s=80.0)
    found = health_of(status, 99.0, 100.0, BOUNDS)
    assert found.unready == (
        "join: no partitions were assigned yet",
        "join: restores partitions 1, 3",
        "join: no answer from the brokers for 20 s",
        "join: reads nothing: disk",
    )
    assert found.beats == {"join": 1.0}


def test_each_entry_of_a_status_is_measured_as_it_is() -> None:
    #  the clock stands at 1,000 s; partition 2 was taken when each of its counters stood at 1,000
    taken = dict.fromkeys(COUNTERS, 1_000)
    since = {
        "output_rows": 11, "label_rows": 12, "labelled": 13, "expired": 14, "duplicate_output": 15, "dead_output": 16,
        "joined": 17, "corrected": 18, "duplicate_label": 19, "late_label": 20, "orphan_expired": 21, "dead_label": 22,
        "late_output": 23, "conflicting_output": 24, "future_rows": 25, "label_flips": 26, "orphans_over_bound": 27,
    }  # fmt: skip
    seen = {
        "conservation_error": 31, "pending_rows": 32, "orphan_rows": 33, "open_ticks": 34, "resident_bytes": 35,
        "oldest_pending_ms": 964_000, "closed_through_ms": 963_000,
        "lag_messages_model-outputs": 38, "newest_ms_model-outputs": 961_000,
        "lag_messages_labels": 40, "newest_ms_labels": 959_000,
    }  # fmt: skip
    status = Status(
        answered_s=58.0, assigned=True, restored=True, owned=(2, 5), restoring={3: 0.25},
        counts={
            "messages_model-outputs": 10, "rows_model-outputs": 50, "messages_labels": 10, "rows_labels": 70,
            "rebalances": 43, "checkpoints": 44, "dead_letters": 45, "offsets_lost": 46, "window_stats": 47,
            "repeated_writes": 48, "cut_texts": 49, "malformed_baselines": 50, "checkpoint_ms": 51_000,
            "error__TRANSPORT": 52, "error__TIMED_OUT": 53, "sampled_model-outputs": 54, "sampled_labels": 55,
            "partitioner_mismatch_model-outputs": 56, "partitioner_mismatch_labels": 57,
        },
        partitions={2: taken | {name: 1_000 + count for name, count in since.items()} | seen}, taken={2: taken},
        unsaid={"labels": 99.0}, misplaced={"model-outputs": (0.5, 40.0), "labels": (0.75, 41.0)}, paused="disk",
        lasting_s=42.0, waiting=59, clock_ms=1_000_000,
    )  # fmt: skip
    measures = list(measures_of(status, 100.0))
    found = {(name, *labels): value for name, labels, value in measures}
    assert found == {
        ("tocsin_partitions_owned", "join"): 2,
        ("tocsin_broker_silence_seconds", "join"): 42,
        ("tocsin_checkpoint_age_seconds", "join"): 58,
        ("tocsin_producer_queue_records", "join"): 59,
        ("tocsin_restore_progress_ratio", "join", "2"): 1,
        ("tocsin_restore_progress_ratio", "join", "3"): 0.25,
        ("tocsin_restore_progress_ratio", "join", "5"): 1,
        ("tocsin_rebalances_total", "join"): 43,
        ("tocsin_checkpoints_total", "join"): 44,
        ("tocsin_dead_letters_total", "join"): 45,
        ("tocsin_offsets_lost_total", "join"): 46,
        ("tocsin_join_window_stats_total",): 47,
        ("tocsin_join_repeated_writes_total",): 48,
        ("tocsin_join_cut_texts_total",): 49,
        ("tocsin_join_baselines_refused_total",): 50,
        ("tocsin_join_checkpoint_seconds_total",): 51,
        ("tocsin_join_paused", "disk"): 1,
        ("tocsin_join_broker_errors_total", "_TRANSPORT"): 52,
        ("tocsin_join_broker_errors_total", "_TIMED_OUT"): 53,
        ("tocsin_partitioner_mismatch_ratio", "model-outputs"): 0.5,
        ("tocsin_partitioner_mismatch_ratio", "labels"): 0.75,
        ("tocsin_join_sampled_rows_total", "model-outputs"): 54,
        ("tocsin_join_sampled_rows_total", "labels"): 55,
        ("tocsin_join_mismatched_rows_total", "model-outputs"): 56,
        ("tocsin_join_mismatched_rows_total", "labels"): 57,
        ("tocsin_join_rows_total", "model-outputs", "2"): 11,
        ("tocsin_join_rows_total", "labels", "2"): 12,
        ("tocsin_join_outputs_total", "2", "labelled"): 13,
        ("tocsin_join_outputs_total", "2", "expired"): 14,
        ("tocsin_join_outputs_total", "2", "duplicate"): 15,
        ("tocsin_join_outputs_total", "2", "dead"): 16,
        ("tocsin_join_labels_total", "2", "joined"): 17,
        ("tocsin_join_labels_total", "2", "corrected"): 18,
        ("tocsin_join_labels_total", "2", "duplicate"): 19,
        ("tocsin_join_labels_total", "2", "late"): 20,
        ("tocsin_join_labels_total", "2", "orphan_expired"): 21,
        ("tocsin_join_labels_total", "2", "dead"): 22,
        ("tocsin_join_late_outputs_total", "2"): 23,
        ("tocsin_join_conflicts_total", "2"): 24,
        ("tocsin_join_future_rows_total", "2"): 25,
        ("tocsin_join_label_flips_total", "2"): 26,
        ("tocsin_join_orphans_over_bound_total", "2"): 27,
        ("tocsin_conservation_error_rows", "2"): 31,
        ("tocsin_join_pending_outputs", "2"): 32,
        ("tocsin_join_waiting_labels", "2"): 33,
        ("tocsin_join_open_ticks", "2"): 34,
        ("tocsin_join_resident_bytes", "2"): 35,
        ("tocsin_join_oldest_pending_seconds", "2"): 36,
        ("tocsin_watermark_lag_seconds", "join", "2"): 37,
        ("tocsin_lag_offsets", "join", "model-outputs", "2"): 38,
        ("tocsin_join_lag_seconds", "model-outputs", "2"): 39,
        ("tocsin_lag_offsets", "join", "labels", "2"): 40,
        ("tocsin_join_lag_seconds", "labels", "2"): 41,
        ("tocsin_join_lag_rows", "model-outputs", "2"): 190,  # 38 messages of 5 rows
        ("tocsin_join_lag_rows", "labels", "2"): 280,
    }
    assert len(measures) == len(found), "what two say under the same labels would be added"
