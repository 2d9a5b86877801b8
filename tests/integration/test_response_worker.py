"""A finding on real Kafka becomes an incident, a delivered message and an acknowledged case, by commands alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.through import Through
from streams.runtime.terminal import Exit
from streams.runtime.topics import partition_of

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
WAIT_S = 90
MODEL = "fraud"
SETTINGS = """
[models.fraud]
kind = "classification"
sla_accuracy = 0.9

[channels.file]
folder = "{folder}"

[directory]
"team:ml-oncall" = [{{ channel = "file", address = "oncall.ndjson", modes = ["page", "message", "ticket"] }}]
"""

pytestmark = pytest.mark.kafka
Tocsin = Callable[..., subprocess.CompletedProcess[str]]


def until(said: Callable[[], bool]) -> None:
    for _ in range(WAIT_S * 2):
        if said():
            return
        time.sleep(0.5)
    pytest.fail("it did not come to pass")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "tocsin.toml"
    file.write_text(SETTINGS.format(folder=tmp_path / "sent"))
    return file


@pytest.fixture
def tocsin(kafka: str, topic_prefix: str, settings: Path) -> Tocsin:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [TOCSIN, *words, "--config", str(settings)]
        command += ["--broker", kafka, "--topic-prefix", topic_prefix]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)

    return call


@pytest.fixture
def worker(kafka: str, topic_prefix: str, settings: Path, tocsin: Tocsin, tmp_path: Path) -> Iterator[Path]:
    """Run triage, escalate and notify, and return where they log."""
    assert tocsin("topics", "check").returncode == Exit.NOT_SO
    made = tocsin("topics", "create")
    assert made.returncode == Exit.DONE, made.stdout + made.stderr
    assert f"made {topic_prefix}model-outputs" in made.stdout.splitlines()
    assert f"{len(made.stdout.splitlines())} of them new" in made.stderr
    assert tocsin("topics", "check").returncode == Exit.DONE
    assert tocsin("topics", "create").stdout == ""
    logged = tmp_path / "worker.log"
    command = [TOCSIN, "worker", "triage", "escalate", "notify"]
    command += ["--config", str(settings), "--broker", kafka, "--topic-prefix", topic_prefix]
    with logged.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ}) as process:
        yield logged
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == Exit.DONE, logged.read_text()[-3000:]


def finding(now_ms: int) -> Finding:
    return Finding(
        finding_id=finding_id(
            tenant="default",
            environment="production",
            model=MODEL,
            version="",
            segment="",
            detector="accuracy_below_sla",
            alarm_tick_ms=now_ms,
        ),
        state="firing",
        tenant="default",
        environment="production",
        model=MODEL,
        lane="*",
        detector="accuracy_below_sla",
        kind="accuracy_below_sla",
        ledger="page",
        guarantee="budget",
        alarm_tick_ms=now_ms,
        decided_at_ms=now_ms,
        onset_from_ms=now_ms - 600_000,
        onset_to_ms=now_ms - 300_000,
        effect=Effect(observed=0.8, expected=0.9, unit="accuracy"),
        n=400,
        log_evidence=21.0,
        baseline_version=1,
    )


def test_from_a_finding_to_an_acknowledged_incident(
    kafka: str, topic_prefix: str, tocsin: Tocsin, worker: Path, tmp_path: Path
) -> None:
    #  finding F, then time passes: F--hold-down 2 min--|opened, page at once, ack
    until(lambda: tocsin("status", "--json").returncode == Exit.DONE)
    now_ms = time.time_ns() // 1_000_000 // 10_000 * 10_000 - 300_000
    partition = partition_of(MODEL, 4)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(topic_prefix + "findings", finding(now_ms).encode(), MODEL, partition)
    producer.produce(topic_prefix + "findings", b"{", MODEL, partition)
    for through_ms in range(now_ms, now_ms + 240_000, 10_000):
        mark = Through(partition=partition, through_ms=through_ms)
        producer.produce(topic_prefix + "findings", mark.encode(), None, partition)
    assert producer.flush(30) == 0

    sent = tmp_path / "sent" / "oncall.ndjson"
    until(sent.exists)
    message = json.loads(sent.read_text().splitlines()[0])
    assert (message["model"], message["severity"], message["mode"]) == (MODEL, "SEV-2", "page")

    (listed,) = map(json.loads, tocsin("incidents", "list", "--json").stdout.splitlines())
    assert listed["display_id"] == message["display_id"]
    acknowledged = tocsin("incidents", "ack", message["display_id"], "--actor", "ann", "--json", "--wait", "30")
    assert acknowledged.returncode == Exit.DONE, acknowledged.stderr + worker.read_text()[-3000:]
    assert json.loads(acknowledged.stdout)["reason"] == "acknowledged"
    again = tocsin("incidents", "contain", message["display_id"], "--by", "rollback", "--wait", "30")
    assert (again.returncode, "missing_evidence" in again.stdout) == (Exit.NOT_SO, True), again

    shown = tocsin("incidents", "show", message["display_id"])
    assert "acknowledged by ann" in shown.stdout
    assert "delivered (sent)" in shown.stdout
    letters = tocsin("dead-letters", "list", "--each")
    assert "findings[" in letters.stdout, letters
    headers = {line.split()[0] for line in shown.stdout.splitlines() if line}
    assert {"acknowledged", "detected", "opened"} <= headers
