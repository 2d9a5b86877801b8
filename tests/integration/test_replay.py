"""Refused records sent again on a real Kafka, by commands alone: what is mended counts once, however often it is sent."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer

from config.settings import KafkaSettings
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.sent_again import ATTEMPT
from streams.runtime.terminal import Exit
from streams.runtime.topics import partition_of, partition_of_id
from tests.integration.join_process import cluster_of
from tests.streams.runtime.join_world import World, message_of

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
WAIT_S = 90
AS_REGRESSION = '[models.price]\nkind = "regression"\nthreshold = 1\n'
AS_CLASSIFICATION = '[models.price]\nkind = "classification"\n'
ROWS = 6

pytestmark = pytest.mark.kafka


class Deployment:
    """Commands and workers on topics of their own."""

    def __init__(self, broker: str, prefix: str, folder: Path) -> None:
        self.cluster: KafkaSettings = cluster_of(broker, prefix)
        self.producer: Producer = clients.producer(self.cluster, "test")
        self._where = ["--broker", broker, "--topic-prefix", prefix]
        self._folder = folder
        self._file = folder / "tocsin.toml"
        self.set("")

    def set(self, models: str) -> None:
        self._file.write_text(f'[join]\nfolder = "{self._folder}/rows"\n{models}')

    def __call__(self, *words: str) -> str:
        command = [TOCSIN, *words, "--config", str(self._file), *self._where]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == Exit.DONE, done.stderr
        return done.stdout

    @contextmanager
    def worker(self, stage: str) -> Iterator[None]:
        logged = self._folder / f"{stage}.log"
        command = [TOCSIN, "worker", stage, "--config", str(self._file), *self._where]
        with logged.open("a") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                status = process.wait(WAIT_S)
        assert status == Exit.DONE, logged.read_text()[-3000:]

    def write(self, topic: str, rows: Sequence[Mapping[str, Any]], partition: int, **headers: bytes) -> None:
        value, key = message_of([dict(row) for row in rows]), str(rows[0]["prediction_id"]).encode()
        self.producer.produce(self.cluster.topic_prefix + topic, value, key, partition, headers=dict(headers))
        assert self.producer.flush(WAIT_S) == 0

    def replay(self) -> tuple[int, dict[str, int]]:
        said = json.loads(self("dead-letters", "replay", "--json").splitlines()[-1])
        return said["sent"], said["passed_over"]

    def letters(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("dead-letters", "list", "--each", "--bytes", "--json").splitlines()]

    def counters(self) -> Counter[str]:
        """Add up what the last manifests of all partitions count."""
        manifests = World(self.cluster, seed=0).manifests()
        return sum((Counter(one.counters) for one in manifests.values()), Counter())


def until(said: Callable[[], bool]) -> None:
    for _ in range(WAIT_S * 2):
        if said():
            return
        time.sleep(0.5)
    pytest.fail("it did not come to pass")


@pytest.fixture
def deployment(kafka: str, topic_prefix: str, tmp_path: Path) -> Deployment:
    made = Deployment(kafka, topic_prefix, tmp_path)
    assert topics.create(clients.admin(made.cluster), made.cluster) == []
    made("topics", "create")
    return made


def read(world: World, topic: str, count: int) -> list[Message]:
    found: list[Message] = []
    for message in world.read(topic):
        found.append(message)
        if len(found) == count:
            return found
    raise AssertionError


def test_what_a_mended_setting_makes_good_counts_once_however_often_it_is_sent(deployment: Deployment) -> None:
    #  price is a regression         price is a classification
    #  dear, cheap, score 1.5: dead  |replay: good, score 1.5 is dead again|replay|a copy of each|
    now_ms = time.time_ns() // 1_000_000
    ids = [name for name in map(str, range(60)) if partition_of_id(name, 4) == 1][:ROWS]
    outputs = [
        {"prediction_id": name, "model": "price", "made_at_ms": now_ms, "prediction": "dear", "score": 0.5}
        for name in ids
    ]
    labels = [{"prediction_id": name, "model": "price", "labelled_at_ms": now_ms, "label": "cheap"} for name in ids]
    deployment.set(AS_REGRESSION)
    with deployment.worker("join"):
        deployment.write(topics.OUTPUTS, outputs[:4], 1)
        deployment.write(topics.OUTPUTS, outputs[4:5], 1)
        deployment.write(topics.OUTPUTS, outputs[5:], 1)
        deployment.write(topics.LABELS, labels, 1)
        deployment.write(topics.OUTPUTS, [outputs[0] | {"score": 1.5}], 1)
        until(lambda: len(deployment.letters()) == 2 * ROWS + 1)
    deployment.set(AS_CLASSIFICATION)
    with deployment.worker("join"):
        assert deployment("dead-letters", "replay", "--dry-run").splitlines()[-1] == "would send 13 records again"
        assert deployment.replay() == (2 * ROWS + 1, {})
        until(lambda: deployment.counters()["labelled"] == ROWS)
        until(lambda: len(deployment.letters()) == 2 * ROWS + 2)
        again = deployment.letters()[-1]
        assert (again["field"], again["attempt"], again["origin"]) == ("score", 2, "model-outputs/1/3/-1")
        before = "sent again before, and not refused since"
        assert deployment.replay() == (1, {before: 2 * ROWS})
        until(lambda: len(deployment.letters()) == 2 * ROWS + 3)
        assert deployment.replay() == (1, {before: 2 * ROWS})
        until(lambda: len(deployment.letters()) == 2 * ROWS + 4)
        assert deployment.replay() == (0, {before: 2 * ROWS, "refused 4 times": 1})

        # as when the command is killed between sending and writing that it has sent
        world = World(deployment.cluster, seed=0)
        sent = [*read(world, topics.OUTPUTS, 4 + ROWS + 3), *read(world, topics.LABELS, 1 + ROWS)]
        copies = [one for one in sent if dict(one.headers() or ()).get(ATTEMPT) == b"2"]
        assert {one.partition() for one in copies} == {1}
        assert len(copies) == 2 * ROWS + 1
        for one in copies:
            deployment.producer.produce(one.topic() or "", one.value(), one.key(), 1, headers=one.headers())
        assert deployment.producer.flush(WAIT_S) == 0
        until(lambda: deployment.counters()["duplicate_output"] == ROWS)
        until(lambda: deployment.counters()["duplicate_label"] == ROWS)
    counted = deployment.counters()
    assert (counted["labelled"], counted["joined"], counted["conflicting_output"]) == (ROWS, ROWS, 0)
    assert counted["dead_label"] == ROWS
    assert counted["dead_output"] == ROWS + 5


def test_a_deployment_that_two_stages_refuse_is_sent_once_and_knows_its_attempt(deployment: Deployment) -> None:
    partition = partition_of("fraud", 4)
    place = deployment.cluster.topic_prefix + topics.DEPLOYMENTS
    deployment.producer.produce(place, b'{"model":"fraud"}', b"fraud", partition)
    assert deployment.producer.flush(WAIT_S) == 0
    error = MalformedRecordError("deployment", "deployment_id", "a value", "nothing")
    of_detect = DeadLetter.of(
        error, topic=topics.DEPLOYMENTS, partition=partition, offset=0, key=b"fraud", value=b'{"model":"fraud"}',
        stage="detect",
    )  # fmt: skip
    routed = topics.route(of_detect, 4)
    assert routed.partition is not None
    deployment.producer.produce(
        deployment.cluster.topic_prefix + routed.topic, routed.value, routed.key, routed.partition
    )
    assert deployment.producer.flush(WAIT_S) == 0
    with deployment.worker("triage"):
        until(lambda: len(deployment.letters()) == 2)
        assert deployment.replay() == (1, {})
        until(lambda: len(deployment.letters()) == 3)
    again = deployment.letters()[-1]
    assert (again["stage"], again["attempt"], again["origin"]) == ("triage", 2, f"deployments/{partition}/0/-1")
