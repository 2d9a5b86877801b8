"""The join seen from outside: what it counts is counted since it took a partition, and misplaced rows make it unready."""

from dataclasses import replace

import pytest

from config.settings import ProbeSettings
from streams.runtime.join_status import health_of, measures_of, unseen
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
