"""The consumer of `docs/consumers.md`, as it stands there, keeps each record of an incident once."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace as with_settings
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from msgspec.structs import replace

from config.load import load
from schemas.incident import Incident, Reason, Severity, Status
from streams.runtime import kafka, topics
from streams.runtime.specs import triage_spec
from streams.runtime.stage_spec import Routed
from tests.integration.pages import BROKER, examples

WAIT_S = 60
GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "incident" / "1.json"
FIRST = replace(Incident.decode(GOLDEN.read_bytes()), incident_id="i1", display_id="INC-1", seq=1)

pytestmark = pytest.mark.kafka


class Log:
    """The topics of incidents, written as triage's host does; `ends` says where each partition of the log ends."""

    def __init__(self, broker: str) -> None:
        plain = load(None, {}, {}, lambda _: ())
        settings = with_settings(plain, tenant="acme", kafka=with_settings(plain.kafka, broker=broker))
        assert topics.create(kafka.admin(settings.kafka), settings.kafka) == []
        self.broker = broker
        self.ends = dict.fromkeys(range(settings.kafka.output_partitions), 0)
        self._route = triage_spec(settings).route
        self._producer: Producer = kafka.producer(settings.kafka, "test")

    def write(self, incidents: Sequence[Incident]) -> None:
        """Write records, and wait until they are there."""
        for incident in incidents:
            routed = self._route(incident)
            assert isinstance(routed, list)
            for one in routed:
                assert isinstance(one, Routed)
                assert one.partition is not None
                self._producer.produce(
                    one.topic, one.value, one.key, one.partition, on_delivery=self._note, headers=list(one.headers)
                )
        assert self._producer.flush(WAIT_S) == 0

    def _note(self, error: object, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        assert error is None
        assert partition is not None
        assert offset is not None
        if message.topic() == "incidents":
            self.ends[partition] = offset + 1

    def until_all_is_read(self) -> None:
        """Wait until the consumer's group has committed all that there is."""
        looker = Consumer({"bootstrap.servers": self.broker, "group.id": "incident-board"})
        places = [TopicPartition("incidents", partition) for partition in self.ends]
        read: dict[int, int] = {}
        deadline_s = time.monotonic() + WAIT_S
        while read != self.ends and time.monotonic() < deadline_s:
            time.sleep(0.1)
            with suppress(KafkaException):  # a group that begins has no coordinator for a moment
                read = {one.partition: max(one.offset, 0) for one in looker.committed(places, timeout=WAIT_S)}
        looker.close()
        assert read == self.ends


@pytest.fixture
def log(whole_kafka: str) -> Log:
    return Log(whole_kafka)


class Running:
    """The consumer, as a process."""

    def __init__(self, text: str, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", text], cwd=folder)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)


def kept(folder: Path) -> list[tuple[Any, ...]]:
    """Return what is on the board, without its source."""
    with closing(sqlite3.connect(folder / "board.sqlite")) as board:
        rows = board.execute("SELECT * FROM event ORDER BY id").fetchall()
    assert {row[0] for row in rows} <= {"urn:tocsin:acme:production"}
    return [row[1:] for row in rows]


@pytest.fixture
def start(whole_kafka: str, tmp_path: Path) -> Iterator[Callable[[], Running]]:
    (consumer,) = [one for one in examples("consumers.md") if one.language == "python"]
    assert len([line for line in consumer.text.splitlines() if line]) <= 20
    # a killed member's partitions would be given away only after its session
    text = consumer.text.replace(BROKER, whole_kafka).replace('"group.id"', '"group.instance.id": "1", "group.id"')
    running: list[Running] = []

    def call() -> Running:
        running.append(Running(text, tmp_path))
        return running[-1]

    yield call
    for one in running:
        one.kill()


def test_each_record_is_kept_once_though_it_comes_twice_and_the_consumer_is_killed(
    log: Log, start: Callable[[], Running], tmp_path: Path
) -> None:
    opened = replace(FIRST, severity=Severity.HIGH, status=Status.INVESTIGATING, reason=Reason.OPENED)
    raised = replace(opened, seq=2, severity=Severity.CRITICAL, reason=Reason.SEVERITY_RAISED)
    resolved = replace(raised, seq=3, status=Status.RESOLVED, reason=Reason.RESOLVED)
    other = replace(opened, incident_id="i2", display_id="INC-2", severity=Severity.LOW)

    log.write([opened, raised, raised, other])
    first = start()
    log.until_all_is_read()
    first.kill()
    assert [row[0] for row in kept(tmp_path)] == ["i1:1", "i1:2", "i2:1"]
    log.write([raised, resolved, other])
    start()
    log.until_all_is_read()
    assert kept(tmp_path) == [
        ("i1:1", "INC-1", 2, "Investigating", "local.tocsin.incident.opened.v1"),
        ("i1:2", "INC-1", 1, "Investigating", "local.tocsin.incident.severity_raised.v1"),
        ("i1:3", "INC-1", 1, "Resolved", "local.tocsin.incident.resolved.v1"),
        ("i2:1", "INC-2", 4, "Investigating", "local.tocsin.incident.opened.v1"),
    ]
