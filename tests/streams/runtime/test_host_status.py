"""What a host of small stages publishes becomes answers of its probes."""

from config.settings import ProbeSettings
from streams.runtime.host_status import StageStatus, health_of

BOUNDS = ProbeSettings(
    address="127.0.0.1", port=0, answer_wait_ms=4_000, mismatch_wait_ms=60_000, silent_after_ms=60_000
)


def seen(answered_s: float, refusal: str, writing_s: float | None = None, *, moving: bool = False) -> StageStatus:
    return StageStatus(
        stage="triage", moving=moving, restored=True, owned=(0, 1), restoring={}, counts={}, rebalances=1, lags={},
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
