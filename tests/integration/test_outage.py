"""Brokers that are away for longer than every wait: no worker ends, nothing is lost, nothing is done twice."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.through import Through
from streams.runtime.metrics import METRICS
from streams.runtime.terminal import Exit
from streams.runtime.topics import partition_of
from tests.integration.join_process import cluster_of
from tests.integration.worker_process import MODEL, Worker, run_tocsin, until, write_rows
from tests.streams.runtime.join_world import World

AWAY_S = 25
"""Longer than each wait below."""
SETTINGS = """
[kafka]
delivery_wait = "2 s"
request_wait = "2 s"

[worker]
session_timeout = "8 s"
heartbeat = "1 s"
clock_wait = "10 s"
restore_wait = "20 s"
stall_wait = "1 s"
read_back_wait = "2 s"
hand_over_wait = "2 s"
stop_wait = "30 s"

[probes]
answer_wait = "4 s"
silent_after = "20 s"
"""
ROWS = 300

pytestmark = pytest.mark.kafka


@pytest.fixture
def cluster(local_kafka: Callable[..., str], tmp_path: Path) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Return the address of a broker of our own, and what kills and restarts it."""
    data = str(tmp_path / "kafka")
    address = local_kafka("start", "--data", data, "--heap-mb", "512")

    def do(act: str) -> None:
        local_kafka(act, "--data", data, "1")

    yield address, do
    local_kafka("stop", "--data", data)


def options(address: str, file: Path, settings: str) -> Sequence[str]:
    file.write_text(settings)
    return ["--config", str(file), "--broker", address, "--topic-prefix", "outage."]


def find(address: str, name: str, alarm_ms: int, until_ms: int) -> None:
    """Write a finding of a model, and let time pass up to `until_ms` for its partition."""
    finding = Finding(
        finding_id=finding_id(
            tenant="default", environment="production", model=name, version="", segment="",
            detector="accuracy_below_sla", alarm_tick_ms=alarm_ms,
        ),
        state="firing", tenant="default", environment="production", model=name, lane="*",
        detector="accuracy_below_sla", kind="accuracy_below_sla", ledger="page", guarantee="budget",
        alarm_tick_ms=alarm_ms, decided_at_ms=alarm_ms, onset_from_ms=alarm_ms - 600_000,
        onset_to_ms=alarm_ms - 300_000, effect=Effect(observed=0.8, expected=0.9, unit="accuracy"), n=400,
        log_evidence=21.0, baseline_version=1,
    )  # fmt: skip
    partition = partition_of(name, 4)
    producer = Producer({"bootstrap.servers": address})
    producer.produce("outage.findings", finding.encode(), name, partition)
    for through_ms in range(alarm_ms, until_ms, 10_000):
        mark = Through(partition=partition, through_ms=through_ms)
        producer.produce("outage.findings", mark.encode(), None, partition)
    assert producer.flush(30) == 0


def not_measured(worker: Worker) -> set[str]:
    """Name what stands in the table and was never measured."""
    return METRICS.keys() - {sample.partition("{")[0] for sample in worker.measures()}


def test_a_worker_outlives_its_brokers_and_does_everything_once(
    cluster: tuple[str, Callable[[str], None]], tmp_path: Path
) -> None:
    #  rows, finding | rows, finding, and at once the broker is gone ---longer than any wait---| back: rows
    #  ready         |                 alive, not ready                                        | ready
    address, broker = cluster
    model = MODEL.format(folder=tmp_path)
    patient = options(address, tmp_path / "patient.toml", model)
    assert run_tocsin(patient, "topics", "create").returncode == Exit.DONE
    worker = Worker(options(address, tmp_path / "tocsin.toml", SETTINGS + model), tmp_path / "worker.log", "all")
    try:
        worker.until_answers("/startup", 200)
        worker.until_answers("/ready", 200)
        sent = 0

        def produce(name: str, model: str = "fraud") -> None:
            nonlocal sent
            file = write_rows(tmp_path / name, name, ROWS, at_ms=time.time_ns() // 1_000_000 - 1_000, model=model)
            done = run_tocsin(patient, "produce", str(file))
            assert done.returncode == Exit.DONE, done.stderr
            sent += ROWS

        def is_joined() -> bool:
            joined = worker.total("tocsin_join_labels_total", fate="joined")
            left = worker.total("tocsin_lag_offsets", stage="join") + worker.total("tocsin_join_pending_outputs")
            return joined >= ROWS and not left

        produce("before", model="unlisted")
        now_ms = time.time_ns() // 10_000_000_000 * 10_000
        find(address, "fraud", now_ms - 300_000, now_ms - 60_000)
        until(lambda: worker.total("tocsin_attempts_total", status="delivered") >= 1, why=worker.log.read_text)

        produce("at the last moment")
        find(address, "a model that nobody configured", now_ms - 300_000, now_ms - 60_000)
        broker("kill")
        worker.until_answers("/ready", 503)
        ends_s = time.monotonic() + AWAY_S
        while time.monotonic() < ends_s:
            assert worker.ask("/live")[0] == 200
            assert worker.process.poll() is None
            time.sleep(0.5)
        status, why = worker.ask("/ready")
        assert status == 503
        reasons = json.loads(why)["why"]
        for stage in ("join", "detect", "triage", "escalate", "notify"):
            assert any(reason.startswith(f"{stage}: no answer from the brokers") for reason in reasons), reasons
        assert worker.lines("join.brokers_away")
        assert {line["stage"] for line in worker.lines("broker.away")} == {"detect", "triage", "escalate", "notify"}

        broker("restart")
        worker.until_answers("/ready", 200)
        produce("after")
        until(is_joined, why=lambda: worker.log.read_text()[-3000:])
        until(lambda: worker.total("tocsin_notifications_waiting") == 0)
        until(lambda: not not_measured(worker), why=lambda: not_measured(worker))
        assert worker.total("tocsin_conservation_error_rows") == 0
        assert worker.total("tocsin_dead_letters_total") == 0
        opened = [
            json.loads(line) for line in run_tocsin(patient, "incidents", "list", "--all", "--json").stdout.splitlines()
        ]
        assert len({one["incident_id"] for one in opened}) == len(opened) == 2, opened
        told = Counter(
            json.loads(line)["notification_id"]
            for line in (tmp_path / "sent" / "oncall.ndjson").read_text().splitlines()
        )
        assert set(told.values()) == {1}, told
        assert worker.end(signal.SIGTERM) == 0, worker.log.read_text()[-3000:]
        counted: Counter[str] = Counter()
        for manifest in World(cluster_of(address, "outage."), seed=0).manifests().values():
            counted.update(manifest.counters)
        rows = {name: counted[name] for name in ("output_rows", "label_rows", "labelled", "joined")}
        assert rows == dict.fromkeys(rows, sent), counted
    finally:
        worker.kill()
