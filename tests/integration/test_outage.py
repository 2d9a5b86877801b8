"""Brokers that are away for longer than every wait: no worker ends, nothing is lost, nothing is done twice."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from streams.runtime.metrics import METRICS
from streams.runtime.terminal import Exit
from tests.integration.findings import find
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
session_timeout = "20 s"
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


def counted(address: str) -> dict[str, int]:
    """Sum what the last manifests of the join count."""
    sums: Counter[str] = Counter()
    for manifest in World(cluster_of(address, "outage."), seed=0).manifests().values():
        sums.update(manifest.counters)
    return {name: sums[name] for name in ("output_rows", "label_rows", "labelled", "joined")}


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
            return worker.total("tocsin_join_labels_total", fate="joined") >= ROWS and worker.has_read_all()

        produce("before", model="unlisted")
        find(address, "outage.", "fraud")
        until(lambda: worker.total("tocsin_attempts_total", status="delivered") >= 1, why=worker.log.read_text)

        produce("at the last moment")
        find(address, "outage.", "a model that nobody configured")
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
        assert counted(address) == {"output_rows": sent, "label_rows": sent, "labelled": sent, "joined": sent}
    finally:
        worker.kill()


@pytest.mark.parametrize("stages", [("join",), ("all",)], ids=["join", "all"])
def test_a_worker_that_is_told_to_stop_while_its_brokers_are_away_ends_within_its_bound_and_loses_nothing(
    cluster: tuple[str, Callable[[str], None]], stages: Sequence[str], tmp_path: Path
) -> None:
    #  rows, and at once the broker is gone | SIGTERM: it ends all the same | broker back: a new worker has every row once
    address, broker = cluster
    model = MODEL.format(folder=tmp_path)
    patient = options(address, tmp_path / "patient.toml", model)
    assert run_tocsin(patient, "topics", "create").returncode == Exit.DONE
    seldom = 'checkpoint = "1 min"\n'  # of the join: what was read is not durable yet, however quick it was
    words = options(address, tmp_path / "tocsin.toml", SETTINGS.replace("30 s", "6 s") + model + seldom)
    worker = Worker(words, tmp_path / "worker.log", *stages)
    second = None
    try:
        worker.until_answers("/ready", 200)
        file = write_rows(tmp_path / "rows", "a", ROWS, at_ms=time.time_ns() // 1_000_000 - 1_000)
        assert run_tocsin(patient, "produce", str(file)).returncode == Exit.DONE
        broker("kill")
        until(lambda: worker.lines("join.brokers_away"), why=worker.log.read_text)
        assert worker.end(signal.SIGTERM) == 1, worker.log.read_text()[-3000:]
        assert worker.lines("join.hand_over_unfinished") or worker.lines("worker.stop_unfinished")

        broker("restart")
        second = Worker(words, tmp_path / "second.log", *stages)
        second.until_answers("/ready", 200)
        until(second.has_read_all, why=second.log.read_text)
        assert second.end(signal.SIGTERM) == 0, second.log.read_text()[-3000:]
        assert counted(address) == {"output_rows": ROWS, "label_rows": ROWS, "labelled": ROWS, "joined": ROWS}
    finally:
        worker.kill()
        if second is not None:
            second.kill()
