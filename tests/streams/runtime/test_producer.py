"""A producer by this helper cannot make the mistakes that nobody sees."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from config.settings import KafkaSettings
from schemas.fields import MalformedRecordError, Value
from schemas.label import Label
from schemas.output import Output
from streams.runtime import kafka
from streams.runtime.decode import LabelEdge, Messages, OutputEdge
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.producer import NotAcknowledgedError, Rows, WrongPartitionsError
from tests.streams.runtime.test_topics import settings


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        embedded.touch(["t.model-outputs", "t.labels"])
        yield embedded


def read(cluster: KafkaSettings, topic: str, partition: int) -> Messages:
    """Read one partition to its end."""
    consumer: Consumer = kafka.consumer(cluster, "test", "g")
    place = TopicPartition(cluster.topic_prefix + topic, partition, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10) or (0, 0)
    consumer.assign([place])
    found: list[Message] = []
    while len(found) < high:
        found += consumer.consume(high - len(found), 0.2)
    consumer.close()
    return Messages(
        partition=partition, start=0, end=high, offset=list(range(high)), broker_ms=[0] * high,
        key=[one.key() for one in found], value=[one.value() for one in found],
    )  # fmt: skip


@pytest.mark.parametrize("rows_a_message", [1, 7])
def test_every_row_lies_where_the_join_looks_for_it(broker: EmbeddedBroker, rows_a_message: int) -> None:
    cluster = settings(broker.address)
    with Rows(cluster, rows_a_message=rows_a_message, age_ms=60_000, wait_ms=10_000) as rows:
        for number in range(100):
            one = f"p{number}"
            features: dict[str, Value] = {"age": number, "odd": None} if number % 2 else {"age": number}
            rows.send(Output(prediction_id=one, model="m", made_at_ms=number, prediction=1, features=features))
            rows.send(Label(prediction_id=one, model="m", labelled_at_ms=number, label=1, version=number))
    found: set[int] = set()
    for partition in range(4):
        outputs = OutputEdge({}, 4).decode(read(cluster, "model-outputs", partition))
        labels = LabelEdge({}, 4).decode(read(cluster, "labels", partition))
        assert (outputs.mismatched, labels.mismatched, outputs.dead, labels.dead) == (0, 0, [], [])
        assert set(outputs.batch.id_hash.tolist()) == set(labels.batch.id_hash.tolist())
        found |= set(outputs.batch.id_hash.tolist())
    assert len(found) == 100
    assert (rows.acknowledged == 200) == (rows_a_message == 1)


def test_a_row_does_not_wait_longer_than_it_may(broker: EmbeddedBroker) -> None:
    rows = Rows(settings(broker.address), rows_a_message=1_000, age_ms=0, wait_ms=10_000)
    rows.send(Output(prediction_id="p", model="m", made_at_ms=1, prediction=1))
    rows.flush()
    assert rows.acknowledged == 1


def test_what_the_join_would_refuse_is_refused_where_it_is_made(broker: EmbeddedBroker) -> None:
    rows = Rows(settings(broker.address), rows_a_message=1, age_ms=0, wait_ms=10_000)
    with pytest.raises(MalformedRecordError, match=r"output\.score"):
        rows.send(Output(prediction_id="p", model="m", made_at_ms=1, prediction=1, score=1.5))


def test_other_counts_of_partitions_are_refused_before_the_first_row(broker: EmbeddedBroker) -> None:
    with pytest.raises(WrongPartitionsError, match=r"t\.model-outputs has 4 partitions, the settings say 6"):
        Rows(replace(settings(broker.address), input_partitions=6), rows_a_message=1, age_ms=0, wait_ms=10_000)


def send_all(rows: Rows, some: Sequence[Output]) -> None:
    for row in some:
        rows.send(row)


def test_brokers_that_are_gone_are_an_error_within_the_bound(broker: EmbeddedBroker) -> None:
    cluster = replace(settings(broker.address), delivery_wait_ms=500)
    rows = Rows(cluster, rows_a_message=1, age_ms=0, wait_ms=300, **{"queue.buffering.max.messages": 2})
    broker.close()
    row = Output(prediction_id="p", model="m", made_at_ms=1, prediction=1)
    rows.send(row)
    with pytest.raises(NotAcknowledgedError, match="1 messages were not acknowledged"):
        rows.flush()
    with pytest.raises(NotAcknowledgedError, match=r"no room|timed out"):
        send_all(rows, [row] * 4)
