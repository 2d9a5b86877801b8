"""Where a record goes is decided in one table."""

from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Producer

from config.settings import KafkaSettings, SecuritySettings
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter
from schemas.label import Label
from schemas.output import Output
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime import kafka, topics
from streams.runtime.embedded_broker import EmbeddedBroker

DESIGN = {
    "model-outputs": ("IN", 7), "labels": ("IN", 7), "pending-changelog": ("IN", None), "window-stats": ("OUT", 7),
    "baselines": ("OUT", None), "clock": ("OUT", 1 / 24), "findings": ("OUT", 30), "ledger": ("OUT", 400),
    "deployments": ("OUT", 400), "incident-actions": ("OUT", 400), "incidents": ("OUT", 400),
    "incidents-latest": ("OUT", None), "notifications": ("OUT", 400), "receipts": ("OUT", 400),
    "dead-letters": ("OUT", 30),
}  # fmt: skip


def settings(address: str, **others: int) -> KafkaSettings:
    counts = {"input_partitions": 4, "output_partitions": 4, "replication": 1, **others}
    return KafkaSettings(
        broker=address,
        topic_prefix="t.",
        security=SecuritySettings(
            protocol="PLAINTEXT", mechanism="PLAIN", username="", password=None, ca_file="", certificate_file="",
            key_file="", key_password=None,
        ),
        delivery_wait_ms=10_000,
        request_wait_ms=10_000,
        fetch_wait_ms=500,
        **counts,
    )  # fmt: skip


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        yield embedded


def test_the_table_is_the_designs() -> None:
    said = {
        name: (topic.count, None if topic.retention_ms is None else topic.retention_ms / topics.DAY_MS)
        for name, topic in topics.TOPICS.items()
    }
    assert said == DESIGN
    stamped = {name for name, topic in topics.TOPICS.items() if "message.timestamp.type" in topic.wanted}
    assert stamped == {"model-outputs", "labels"}
    assert {name: topic.made_with for name, topic in topics.TOPICS.items() if topic.made_with} == {
        "clock": {"message.timestamp.type": "LogAppendTime"}
    }


def test_an_output_and_its_label_meet_under_any_producer_of_murmur2(broker: EmbeddedBroker) -> None:
    broker.touch(["meet"])
    landed: dict[bytes, int] = {}

    def note(_: object, message: object) -> None:
        landed[message.key()] = message.partition()  # type: ignore[attr-defined]

    producer: Producer = kafka.producer(settings(broker.address), "test")
    ids = [f"id-{number}" for number in range(100)]
    for one in ids:
        producer.produce("meet", b"x", one.encode(), on_delivery=note)
    assert producer.flush(10) == 0
    output = [Output(prediction_id=one, model="m", made_at_ms=1, prediction="0") for one in ids]
    label = [Label(prediction_id=one, model="m", labelled_at_ms=1, label="0") for one in ids]
    for records in (output, label):
        routed = [topics.route(record, 4) for record in records]
        assert [landed[one.key or b""] for one in routed] == [one.partition for one in routed]


def test_records_of_a_model_share_its_partition() -> None:
    stats = WindowStats(
        model="fraud", tick_start_ms=0, tick_end_ms=1, source_partition=3, source_partitions=4, part=0, parts=1,
        baseline_version=0, offsets={}, lanes=("*",), arrays={"outputs": np.array([[1]])},
    )  # fmt: skip
    assert topics.route(stats, 4).partition == topics.partition_of("fraud", 4) != 3
    assert topics.route(Through(partition=1, through_ms=5), 4).partition == 1
    letter = DeadLetter(topic="t", partition=6, offset=9, record="output", field="", expected="", got="")
    routed = topics.route(letter, 4)
    assert (routed.partition, routed.key) == (2, b"t/6/9/-1")


def test_marks_of_time_go_to_each_partition() -> None:
    closed = Closed(source_partition=1, source_partitions=4, through_ms=5, cause="idle")
    assert [(one.topic, one.partition) for one in topics.route_each(closed, 2)] == [
        ("window-stats", 0),
        ("window-stats", 1),
    ]
    assert topics.route_each(Clock(now_ms=5), 1)[0].topic == "clock"


def test_a_wrong_count_is_named_with_what_to_do(broker: EmbeddedBroker) -> None:
    embedded = settings(broker.address)
    names = broker.touch(embedded.topic_prefix + name for name in topics.TOPICS if name != "ledger")
    assert set(names.values()) == {4}
    admin = kafka.admin(embedded)
    assert [str(fault) for fault in topics.check(admin, embedded, settings_too=False)] == [
        "t.ledger: is not there; run `tocsin topics create`"
    ]
    faults = topics.check(admin, settings(broker.address, input_partitions=6), settings_too=False)
    wrong = [fault for fault in faults if fault.topic == "t.labels"]
    assert [fault.problem for fault in wrong] == ["has 4 partitions, 6 are expected"]
    assert "kafka.input_partitions to 4" in wrong[0].remedy


def test_topics_that_were_just_made_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    late = topics.TopicFault("t.labels", topics.NOT_THERE, "run `tocsin topics create`")
    answers = [[late], [late], []]

    class Admin:
        def list_topics(self, **_: float) -> object:
            return type("Metadata", (), {"topics": dict.fromkeys(topics._planned(settings("b:1"), []))})  # noqa: SLF001

    monkeypatch.setattr(topics, "check", lambda *_: answers.pop(0))
    assert topics.create(Admin(), settings("b:1")) == []  # type: ignore[arg-type]
    assert answers == []
