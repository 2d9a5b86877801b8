"""A producer by this helper cannot make the mistakes that nobody sees."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    assert rows.acknowledged_rows == 200
    assert (rows.acknowledged_messages == 200) == (rows_a_message == 1)


def test_a_row_does_not_wait_longer_than_it_may(broker: EmbeddedBroker) -> None:
    rows = Rows(settings(broker.address), rows_a_message=1_000, age_ms=0, wait_ms=10_000)
    rows.send(Output(prediction_id="p", model="m", made_at_ms=1, prediction=1))
    assert rows.flush() == []
    assert rows.acknowledged_rows == 1


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_may_share_it(broker: EmbeddedBroker) -> None:
    with Rows(settings(broker.address), rows_a_message=2, age_ms=0, wait_ms=10_000) as rows:

        def send(thread: int) -> None:
            for number in range(3_000):
                rows.send(Label(prediction_id=f"{thread}-{number}", model="m", labelled_at_ms=1, label=1))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, range(4)))
    assert rows.acknowledged_rows == 12_000
    found = [LabelEdge({}, 4).decode(read(settings(broker.address), "labels", one)) for one in range(4)]
    assert sum(len(one.batch.id_hash) for one in found) == 12_000


def test_what_the_join_would_refuse_is_refused_where_it_is_made(broker: EmbeddedBroker) -> None:
    rows = Rows(settings(broker.address), rows_a_message=1, age_ms=0, wait_ms=10_000)
    with pytest.raises(MalformedRecordError, match=r"output\.score"):
        rows.send(Output(prediction_id="p", model="m", made_at_ms=1, prediction=1, score=1.5))


def test_other_counts_of_partitions_are_refused_before_the_first_row(broker: EmbeddedBroker) -> None:
    with pytest.raises(WrongPartitionsError, match=r"t\.model-outputs has 4 partitions, the settings say 6"):
        Rows(replace(settings(broker.address), input_partitions=6), rows_a_message=1, age_ms=0, wait_ms=10_000)


def test_each_row_that_brokers_do_not_take_is_handed_back_once(broker: EmbeddedBroker) -> None:
    """Whatever was sent is acknowledged, or in the rows of one error or of a flush."""
    cluster = replace(settings(broker.address), delivery_wait_ms=500)
    rows = Rows(cluster, rows_a_message=1, age_ms=0, wait_ms=300, **{"queue.buffering.max.messages": 2})
    given = [Output(prediction_id=f"p{number}", model="m", made_at_ms=1, prediction=1) for number in range(8)]
    rows.send(given[0])
    assert rows.flush() == []
    broker.close()
    handed_back: list[Output | Label] = []
    reasons = []
    for row in given[1:]:
        try:
            rows.send(row)
        except NotAcknowledgedError as error:
            reasons.append(str(error))
            handed_back += error.rows
    handed_back += rows.flush()
    assert sorted(row.prediction_id for row in handed_back) == [row.prediction_id for row in given[1:]]
    assert rows.acknowledged_rows == 1
    assert any("no room for a message in 0.3 s" in reason for reason in reasons), reasons
    assert rows.flush() == [], "they were handed back"


def test_a_block_that_ends_with_rows_left_is_an_error(broker: EmbeddedBroker) -> None:
    row = Output(prediction_id="p", model="m", made_at_ms=1, prediction=1)

    def send() -> None:
        with Rows(settings(broker.address), rows_a_message=10, age_ms=60_000, wait_ms=300) as rows:
            rows.send(row)
            broker.close()

    with pytest.raises(NotAcknowledgedError, match=r"1 row not acknowledged: no answer in 0\.3 s") as raised:
        send()
    assert raised.value.rows == (row,)


def test_a_message_that_the_client_refuses_is_handed_back_too(broker: EmbeddedBroker) -> None:
    rows = Rows(settings(broker.address), rows_a_message=1, age_ms=0, wait_ms=300, **{"message.max.bytes": 1_000})
    row = Output(prediction_id="p", model="m", made_at_ms=1, prediction=1, text="x" * 2_000)
    with pytest.raises(NotAcknowledgedError, match=r"Message size too large") as raised:
        rows.send(row)
    assert raised.value.rows == (row,)
