"""Topics on a real Kafka, from a terminal: what is there, how it is kept, and who puts rows where."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.label import Label
from schemas.output import Output
from streams.runtime.terminal import Exit

TOCSIN = Path(sys.executable).with_name("tocsin")
ROWS = 40
WAIT_S = 60


def write(address: str, prefix: str, partitioner: str, labels_by: str) -> None:
    """Send outputs by one partitioner, and their labels by another."""
    for topic, placed_by in (("model-outputs", partitioner), ("labels", labels_by)):
        producer = Producer({"bootstrap.servers": address, "partitioner": placed_by})
        for number in range(ROWS):
            record: Output | Label = Label(prediction_id=f"p{number}", model="m", labelled_at_ms=1, label="1")
            if topic == "model-outputs":
                record = Output(prediction_id=f"p{number}", model="m", made_at_ms=1, prediction="1")
            producer.produce(prefix + topic, record.encode(), f"p{number}".encode())
        assert producer.flush(WAIT_S) == 0


@pytest.mark.kafka
def test_a_producer_with_another_partitioner_is_refused_by_topics_check(kafka: str, topic_prefix: str) -> None:
    def tocsin(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(TOCSIN), "topics", *words, "--broker", kafka, "--topic-prefix", topic_prefix]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)

    assert tocsin("create").returncode == Exit.DONE
    write(kafka, topic_prefix, "murmur2_random", "murmur2_random")
    right = tocsin("check")
    assert (right.returncode, right.stdout) == (Exit.DONE, "")

    write(kafka, topic_prefix, "murmur2_random", "consistent_random")  # librdkafka's default
    for words in (["check"], ["create"]):
        refused = tocsin(*words, "--json")
        assert refused.returncode == Exit.NOT_SO, refused.stderr
        (fault,) = map(json.loads, refused.stdout.splitlines())
        assert fault["topic"] == f"{topic_prefix}labels"
        assert "rows lie in another partition than their prediction id says" in fault["problem"]
        assert "partitioner=murmur2_random" in fault["remedy"]
