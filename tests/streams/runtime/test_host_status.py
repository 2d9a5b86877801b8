"""What a host of small stages publishes becomes answers of its probes."""

from collections import defaultdict
from dataclasses import replace

from config.settings import ProbeSettings
from streams.runtime.host_status import StageStatus, health_of, measures_of
from streams.runtime.metrics import Measure

BOUNDS = ProbeSettings(
    address="127.0.0.1", port=0, answer_wait_ms=4_000, mismatch_wait_ms=60_000, silent_after_ms=60_000
)


def seen(answered_s: float, refusal: str, writing_s: float | None = None, *, moving: bool = False) -> StageStatus:
    return StageStatus(
        stage="triage", moving=moving, restored=True, owned=(0, 1), restoring={}, counts={}, rebalances=1, lags={}, read_from_s={},
        state_rows=0, answered_s=answered_s, refusal=refusal, writing_s=writing_s,
        lasting_s=None, waiting=0, own=(),
    )  # fmt: skip


def test_who_does_not_answer_and_what_was_said_last_is_told() -> None:
    said = "findings[1]: Broker: Unknown topic or partition"
    [why] = health_of([seen(100.0, said)], {}, 131.0, BOUNDS).unready
    assert why == f"triage: no answer from the brokers for 31 s: {said}"
    assert health_of([seen(100.0, "")], {}, 131.0, BOUNDS).unready == ("triage: no answer from the brokers for 31 s",)
    assert not health_of([seen(100.0, said)], {}, 103.0, BOUNDS).unready


def test_a_write_that_brokers_who_answer_never_acknowledge_is_told() -> None:
    answered = health_of([seen(130.0, "", writing_s=100.0)], {}, 131.0, BOUNDS)
    assert answered.unready == ("triage: no write acknowledged for 31 s",)
    assert not health_of([seen(130.0, "", writing_s=128.0)], {}, 131.0, BOUNDS).unready
    [why] = health_of([seen(100.0, "", writing_s=100.0)], {}, 131.0, BOUNDS).unready
    assert "no answer from the brokers" in why


def test_a_stage_that_waits_for_its_claim_to_be_acknowledged_says_so_and_not_that_it_waits_for_partitions() -> None:
    assert health_of([seen(130.0, "", moving=True)], {}, 131.0, BOUNDS).unready == (
        "triage: waits for partitions, or restores them",
    )
    claiming = seen(130.0, "", writing_s=128.0, moving=True)
    assert "waits for partitions" in health_of([claiming], {}, 131.0, BOUNDS).unready[0]
    [why] = health_of([seen(130.0, "", writing_s=100.0, moving=True)], {}, 131.0, BOUNDS).unready
    assert why == "triage: no write acknowledged for 31 s"


def test_lag_in_seconds_is_told_beside_the_records_and_is_0_at_the_end_of_the_log() -> None:
    places = ("findings", 0), ("findings", 1)
    status = replace(
        seen(130.0, ""), lags=dict(zip(places, (3, 0), strict=True)), read_from_s=dict.fromkeys(places, 91.0)
    )
    found = {(name, labels): value for name, labels, value in measures_of(status, 131.0)}
    assert found["tocsin_lag_offsets", ("triage", "findings", "0")] == 3
    assert found["tocsin_stage_lag_seconds", ("triage", "findings", "0")] == 40
    assert found["tocsin_stage_lag_seconds", ("triage", "findings", "1")] == 0


def test_each_entry_of_a_status_is_measured_as_it_is() -> None:
    findings, actions = ("findings", 0), ("incident-actions", 4)
    counts = {
        "offsets_lost": 11, "groups": 12, "handled": 13, "outputs": 14, "repeats": 15, "read_backs": 16,
        "read_back_records": 17, "empty_offsets": 18, "foreign_rows": 19, "rewinds": 20,
        "clocks_ahead": 26,
    }  # fmt: skip
    status = StageStatus(
        stage="triage", moving=True, restored=True, owned=(0, 4), restoring={2: 0.25}, counts=counts, rebalances=3,
        lags={findings: 5, actions: 6}, read_from_s={findings: 93.0, actions: 92.0}, state_rows=21, answered_s=90.0,
        refusal="said", writing_s=88.0, lasting_s=78.0, waiting=23,
        own=(Measure("tocsin_dead_letters_total", ("triage",), 24), Measure("tocsin_incidents_open", ("SEV-1", "0"), 25)),
    )  # fmt: skip
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for name, labels, value in measures_of(status, 100.0):
        found[name, *labels] += value  # as whoever scrapes gets it
    assert found == {
        ("tocsin_partitions_owned", "triage"): 2,
        ("tocsin_rebalances_total", "triage"): 3,
        ("tocsin_broker_silence_seconds", "triage"): 10,
        ("tocsin_checkpoint_age_seconds", "triage"): 22,
        ("tocsin_producer_queue_records", "triage"): 23,
        ("tocsin_stage_state_rows", "triage"): 21,
        ("tocsin_restore_progress_ratio", "triage", "0"): 1,
        ("tocsin_restore_progress_ratio", "triage", "2"): 0.25,
        ("tocsin_restore_progress_ratio", "triage", "4"): 1,
        ("tocsin_lag_offsets", "triage", "findings", "0"): 5,
        ("tocsin_lag_offsets", "triage", "incident-actions", "4"): 6,
        ("tocsin_stage_lag_seconds", "triage", "findings", "0"): 7,
        ("tocsin_stage_lag_seconds", "triage", "incident-actions", "4"): 8,
        ("tocsin_offsets_lost_total", "triage"): 11,
        ("tocsin_checkpoints_total", "triage"): 12,
        ("tocsin_stage_records_total", "triage"): 13,
        ("tocsin_stage_outputs_total", "triage"): 14,
        ("tocsin_stage_repeats_total", "triage"): 15,
        ("tocsin_stage_read_backs_total", "triage"): 16,
        ("tocsin_stage_read_back_records_total", "triage"): 17,
        ("tocsin_stage_empty_offsets_total", "triage"): 18,
        ("tocsin_stage_foreign_rows_total", "triage"): 19,
        ("tocsin_stage_topics_made_anew_total", "triage"): 20,
        ("tocsin_stage_clocks_ahead_total", "triage"): 26,
        ("tocsin_dead_letters_total", "triage"): 24,
        ("tocsin_incidents_open", "SEV-1", "0"): 25,
    }
