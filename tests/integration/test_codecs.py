"""Producers choose how their batches are compressed: the join and the small stages read each kind, on a real Kafka."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer

from config.settings import KafkaSettings
from schemas.dead_letter import DeadLetter
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.terminal import Exit
from tests.streams.runtime.join_world import World, hot_path_settings
from tests.streams.runtime.test_hot_path import Inputs, Worker, row

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ROWS = 300
WAIT_S = 90

pytestmark = pytest.mark.kafka


def test_the_join_reads_every_codec(cluster: KafkaSettings, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    for codec in CODECS:
        inputs = Inputs(cluster, **{"compression.type": codec, "linger.ms": 100})
        outputs = [row(f"{codec}-{number}", now_ms) for number in range(ROWS)]
        inputs.write(topics.OUTPUTS, outputs)
        labels = [
            {"prediction_id": one["prediction_id"], "model": "fraud", "labelled_at_ms": now_ms, "label": 1}
            for one in outputs
        ]
        inputs.write(topics.LABELS, labels)
    worker = Worker(hot_path_settings(cluster, tmp_path, clock="wall"))
    try:
        worker.until(lambda: worker.hot_path.counts["rows_labels"] == ROWS * len(CODECS))
        worker.until(
            lambda: sum(one["labelled"] for one in worker.hot_path.status.partitions.values()) == ROWS * len(CODECS)
        )
    finally:
        worker.stop()
    assert worker.hot_path.counts["dead_letters"] == 0


def test_the_small_stages_read_every_codec(cluster: KafkaSettings, tmp_path: Path) -> None:
    """Records that are none: each is refused, so each was read."""
    for codec in CODECS:
        producer: Producer = clients.producer(cluster, "test", None, **{"compression.type": codec})
        for _ in range(ROWS):
            producer.produce(
                cluster.topic_prefix + topics.DEPLOYMENTS, b'{"by":"%s"}' % codec.encode() * 20, b"fraud", 2
            )
        assert producer.flush(WAIT_S) == 0
    where = ["--broker", cluster.broker, "--topic-prefix", cluster.topic_prefix]
    assert subprocess.run([TOCSIN, "topics", "create", *where], check=False, timeout=WAIT_S).returncode == Exit.DONE
    logged = tmp_path / "worker.log"
    counted: Counter[bytes] = Counter()
    with (
        logged.open("w") as log,
        subprocess.Popen([TOCSIN, "worker", "triage", *where], stdout=log, stderr=log) as worker,
    ):
        try:
            for message in World(cluster, seed=0).read(topics.DEAD_LETTERS):
                letter = DeadLetter.decode(message.value())
                counted[(letter.value or b"").split(b'"')[3]] += 1
                if counted.total() == ROWS * len(CODECS):
                    break
        finally:
            worker.send_signal(signal.SIGTERM)
            status = worker.wait(WAIT_S)
    assert status == Exit.DONE, logged.read_text()[-3000:]
    assert counted == {codec.encode(): ROWS for codec in CODECS}
