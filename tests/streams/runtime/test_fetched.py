"""Messages that are taken as columns are those that a client gives as objects, whatever they hold and however they are asked for."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from streams.runtime import fetched, kafka, plain
from streams.runtime.decode import Messages
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.fetched import Columns, Objects, Source, opened
from tests.streams.runtime.test_topics import settings as kafka_settings

TOPIC = "outputs"
PARTITIONS = 3
WAIT_S = 30
HEADERS = [("tocsin-letter", b"7"), ("empty", b""), ("none", None), ("tocsin-letter", b"8")]
ODD = [(b"key", b"value", []), (None, b"no key", HEADERS), (b"no value", None, []), (b"", b"", HEADERS[:1]), (b"\0", b"\xff" * 9, [])]  # fmt: skip

pytestmark = pytest.mark.program("gcc")

Row = tuple[int, int, int, bytes | None, bytes | None, object]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        embedded.touch([TOPIC])
        yield embedded


def send(broker: EmbeddedBroker, turns: int) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for turn in range(turns):
        for partition in range(PARTITIONS):
            for key, value, headers in ODD:
                producer.produce(TOPIC, value, key, partition, timestamp=1_000 + turn, headers=list(headers))
    assert producer.flush(WAIT_S) == 0


def made(broker: EmbeddedBroker) -> Callable[..., Consumer]:
    return partial(kafka.consumer, kafka_settings(broker.address), "test", "test", None)


def assign(source: Source, partitions: int = PARTITIONS, at: int = 0) -> None:
    source.assign(dict.fromkeys(range(partitions), at))


def taken(source: Source, count: int, most: int = 7) -> tuple[list[Row], list[fetched.Notice]]:
    """Take so many messages; of each all that is to be known."""
    rows: list[Row] = []
    notices: list[fetched.Notice] = []
    until_s = time.monotonic() + WAIT_S
    while len(rows) < count and time.monotonic() < until_s:
        some = source.fetch(most, 0.01)
        for partition in np.unique(some.partition).tolist():
            chosen = np.flatnonzero(some.partition == partition)
            messages = some.messages(chosen, partition, start=0)
            assert len(messages.value) == len(messages.key) == len(messages.offset) == len(chosen)
            assert messages.end == messages.offset[-1] + 1
            assert some.size[chosen].tolist() == [len(value or b"") for value in messages.value]
            rows += rows_of(messages)
        notices += some.notices
    return rows, notices


def rows_of(messages: Messages) -> list[Row]:
    if messages.joined is not None:
        joined = plain.Joined.of([value or b"" for value in messages.value])
        assert None not in messages.key
        starts = messages.joined.starts
        assert messages.joined.data[starts[0] : starts[-1]].tobytes() == joined.data.tobytes()
        assert (starts - starts[0]).tolist() == joined.starts.tolist()
    return [
        (
            messages.partition,
            int(messages.offset[at]),
            int(messages.broker_ms[at]),
            messages.key[at],
            messages.value[at],
            messages.headers(at),
        )
        for at in range(len(messages.value))
    ]


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_messages_of_all_kinds_are_the_same_in_both_forms(broker: EmbeddedBroker, most: int) -> None:
    turns = 40
    send(broker, turns)
    count = turns * PARTITIONS * len(ODD)
    consumer, columns = opened(TOPIC, made(broker))
    assert isinstance(columns, Columns)
    plain_consumer = made(broker)()
    objects = Objects(plain_consumer, TOPIC)
    found = []
    for reader, source in ((consumer, columns), (plain_consumer, objects)):
        assign(source)
        found.append(taken(source, count, most)[0])
        source.close()
        reader.close()
    for rows in found:
        for partition in range(PARTITIONS):
            assert [row[1] for row in rows if row[0] == partition] == list(range(turns * len(ODD))), (
                "each once, in order"
            )
    assert sorted(found[0], key=lambda row: row[:2]) == sorted(found[1], key=lambda row: row[:2])
    assert {row[5] for row in found[0]} == {(), (HEADERS[0],), (*HEADERS[:2], ("none", b""), HEADERS[3])}


def test_what_is_assigned_anew_is_read_from_there_and_nothing_that_was_fetched_before(broker: EmbeddedBroker) -> None:
    send(broker, turns := 200)
    consumer, source = opened(TOPIC, made(broker))
    for at in (0, 700, 3, 960, 0, 500):
        assign(source, at=at)
        rows, _ = taken(source, 100, most=50)
        assert len(rows) >= 100
        for partition in range(PARTITIONS):
            mine = [row[1] for row in rows if row[0] == partition]
            assert mine == list(range(at, at + len(mine)))
    assert turns * len(ODD) == 1_000
    source.close()
    consumer.close()


def test_a_partition_that_nobody_followed_comes_all_the_same_and_in_order(broker: EmbeddedBroker) -> None:
    send(broker, 300)
    consumer, source = opened(TOPIC, made(broker))
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    rows, _ = taken(source, 40)
    source.assign({0: len(rows)})
    more, _ = taken(source, 1_500 - len(rows))
    assert [row[1] for row in rows + more] == list(range(1_500))
    source.close()
    consumer.close()


def test_the_end_of_a_partition_and_a_position_that_is_not_there_are_said(broker: EmbeddedBroker) -> None:
    send(broker, 1)
    consumer, source = opened(TOPIC, partial(made(broker), **{"enable.partition.eof": "true"}))
    assign(source, 1)
    rows, notices = taken(source, len(ODD))
    assert len(rows) == len(ODD)
    notices = notices or noticed(source)
    assert [(one.partition, one.error.code()) for one in notices] == [(0, KafkaError._PARTITION_EOF)]  # noqa: SLF001
    assign(source, 1, at=10_000)
    [lost] = noticed(source)
    assert (lost.partition, lost.error.code()) == (0, KafkaError._AUTO_OFFSET_RESET)  # noqa: SLF001
    assert "offset not available" in lost.error.str()
    source.close()
    consumer.close()


def noticed(source: Source) -> list[fetched.Notice]:
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        some = source.fetch(10, 0.01)
        if some.notices:
            return list(some.notices)
    pytest.fail("nothing was said")


def test_a_client_that_lacks_something_gives_objects(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "_FUNCTIONS", (*fetched._FUNCTIONS, "of_another_version"))  # noqa: SLF001
    fetched._library.cache_clear()  # noqa: SLF001
    try:
        consumer, source = opened(TOPIC, made(broker))
        assert isinstance(source, Objects)
        consumer.close()
    finally:
        fetched._library.cache_clear()  # noqa: SLF001
