"""Messages that are taken as columns are those that a client gives as objects, whatever they hold, however asked for."""

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

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

Sent = tuple[int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
Row = tuple[int, int, int, bytes | None, bytes | None, object]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        embedded.touch([TOPIC])
        yield embedded


def produce(broker: EmbeddedBroker, messages: Iterable[Sent]) -> None:
    """Write partition, key, value and headers of each, and wait until they are there."""
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 100})
    for at, (partition, key, value, headers) in enumerate(messages):
        producer.produce(TOPIC, value, key, partition, timestamp=1_000 + at, headers=list(headers))
    assert producer.flush(WAIT_S) == 0


def send(broker: EmbeddedBroker, turns: int) -> None:
    produce(broker, [(partition, *one) for _ in range(turns) for partition in range(PARTITIONS) for one in ODD])


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
        assert len(some.offset) + len(some.notices) <= most
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


def opened_columns(broker: EmbeddedBroker) -> tuple[Consumer, Columns]:
    consumer, source = opened(TOPIC, made(broker))
    assert isinstance(source, Columns)
    return consumer, source


def held(source: Columns) -> list[int]:
    """How many messages wait in each queue."""
    length = source._library.client.rd_kafka_queue_length  # noqa: SLF001
    return [length(ctypes.c_void_p(queue)) for queue in source._queues.values()]  # noqa: SLF001


def wait_until_each_holds(source: Columns, count: int) -> None:
    until_s = time.monotonic() + WAIT_S
    while min(held(source)) < count:
        assert time.monotonic() < until_s, held(source)
        time.sleep(0.01)


def test_messages_larger_than_any_before_find_room_and_what_was_taken_stays_as_it_is(broker: EmbeddedBroker) -> None:
    sizes = [1, 5_000, 10, 70_000, 3, 300_000, 2, 70_000, 0, 1]
    sent = [
        (b"k" * (size // 3), bytes([at]) * size, [("h" * (size % 1_000 + 1), b"v" * size)])
        for at, size in enumerate(sizes)
    ]
    produce(broker, [(0, *one) for one in sent])
    consumer, source = opened_columns(broker)
    assign(source, 1)
    batches: list[Messages] = []
    until_s = time.monotonic() + WAIT_S
    while sum(len(batch.offset) for batch in batches) < len(sent) and time.monotonic() < until_s:
        some = source.fetch(4, 0.01)
        if len(some.offset):
            batches.append(some.messages(np.arange(len(some.offset)), 0, 0))
    rows = [row for batch in batches for row in rows_of(batch)]  # after all were taken
    assert [row[3:] for row in rows] == [(key, value, tuple(headers)) for key, value, headers in sent]
    source.close()
    consumer.close()


def test_no_more_bytes_are_taken_at_once_than_said_but_for_one_message(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "MOST_BYTES", 1_000)
    produce(broker, [(at % PARTITIONS, b"k", bytes(300), ()) for at in range(200)])
    consumer, source = opened_columns(broker)
    assign(source)
    until_s = time.monotonic() + WAIT_S
    counts: list[int] = []
    while sum(counts) < 200 and time.monotonic() < until_s:
        counts.append(len(source.fetch(10_000, 0.01).offset))
    assert sum(counts) == 200
    assert max(counts) == 4
    source.close()
    consumer.close()


def test_partitions_take_turns_and_what_is_fetched_comes_as_columns_however_often_it_is_assigned(
    broker: EmbeddedBroker,
) -> None:
    send(broker, 200)
    consumer, source = opened_columns(broker)
    for _ in range(5):
        assign(source)
        served: set[int] = set()
        until_s = time.monotonic() + WAIT_S
        while len(served) < PARTITIONS and time.monotonic() < until_s:
            some = source.fetch(1, 0.01)
            assert not isinstance(some, fetched._Objects) or some is fetched._NOTHING  # noqa: SLF001
            served |= set(some.partition.tolist())
        assert served == set(range(PARTITIONS))
    wait_until_each_holds(source, 2 * PARTITIONS)
    first = [source.fetch(1, 0.01).partition.tolist() for _ in range(2 * PARTITIONS)]
    assert first[:PARTITIONS] == first[PARTITIONS:]
    assert sorted(first[:PARTITIONS]) == [[partition] for partition in range(PARTITIONS)]
    source.close()
    consumer.close()


def test_what_was_fetched_of_a_partition_that_was_taken_away_is_thrown_away(broker: EmbeddedBroker) -> None:
    send(broker, 200)
    consumer, source = opened_columns(broker)
    assign(source)
    taken(source, 30)
    wait_until_each_holds(source, 1)
    source.assign({0: 0})
    rows, _ = taken(source, 1_000)
    assert [row[1] for row in rows] == list(range(1_000))
    assert held(source) == [0] * PARTITIONS
    source.close()
    consumer.close()


def test_keys_and_headers_count_for_what_is_taken_at_once(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "MOST_BYTES", 50_000)
    headers = [(f"h{at}", b"v") for at in range(2_000)]
    produce(broker, [(0, b"k" * 20_000, None, headers)] * 4)
    consumer, source = opened_columns(broker)
    assign(source, 1)
    rows: list[Row] = []
    until_s = time.monotonic() + WAIT_S
    while len(rows) < 4 and time.monotonic() < until_s:
        some = source.fetch(10, 0.01)
        assert len(some.offset) <= 1
        if len(some.offset):
            rows += rows_of(some.messages(np.arange(1), 0, 0))
    assert [row[3:] for row in rows] == [(b"k" * 20_000, None, tuple(headers))] * 4
    source.close()
    consumer.close()


def test_an_error_between_messages_takes_no_value_of_theirs() -> None:
    #  partition 0: "ab" | the end of 1 | partition 0: "cde"
    columns = {
        "code": np.array([0, KafkaError._PARTITION_EOF, 0], np.int32),  # noqa: SLF001
        "partition": np.array([0, 1, 0], np.int32),
        "offset": np.array([7, 3, 8]),
        "broker_ms": np.array([70, 0, 80]),
        "value_at": np.array([0, 2, 2, 5]),
        "key_at": np.array([0, 1, 4, 6]),
        "key_end": np.array([1, 4, 6]),
        "lacking": np.array([0, 1, 0], np.uint8),
    }
    some = fetched._Columns(columns, np.frombuffer(b"abcde", np.uint8), np.frombuffer(b"kendlm", np.uint8))  # noqa: SLF001
    assert rows_of(some.messages(np.arange(2), 0, 7)) == [(0, 7, 70, b"k", b"ab", ()), (0, 8, 80, b"lm", b"cde", ())]
    assert some.size.tolist() == [2, 3]
    assert [(one.partition, one.error.str()) for one in some.notices] == [(1, "end")]


def test_every_queue_that_was_opened_is_closed_and_nothing_is_assigned_afterwards(broker: EmbeddedBroker) -> None:
    consumer, source = opened_columns(broker)
    library, counts = source._library, Counter[str]()  # noqa: SLF001

    class Counting:
        def __getattr__(self, name: str) -> Callable[..., object]:
            counts[name] += 1
            return getattr(library.client, name)  # type: ignore[no-any-return]

    source._library = library._replace(client=Counting())  # type: ignore[arg-type] # noqa: SLF001
    for partitions in (3, 1, 2, 3):
        assign(source, partitions)
    source.close()
    assert counts["rd_kafka_queue_destroy"] == counts["rd_kafka_queue_get_partition"] == 9
    source.assign({})
    with pytest.raises(RuntimeError, match="closed"):
        assign(source, 1)
    consumer.close()


def test_a_client_that_refuses_the_plugin_gives_objects_and_says_so(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetched._library()  # noqa: SLF001 -- what it found stays
    monkeypatch.setattr(plain, "LIBRARY", tmp_path / "gone.so")
    consumer, source = opened(TOPIC, made(broker))
    assert isinstance(source, Objects)
    assert f"join.plugin_refused topic={TOPIC}" in caplog.text
    consumer.close()


def test_a_client_that_lacks_something_gives_objects(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "_FUNCTIONS", (*fetched._FUNCTIONS, "of_another_version"))  # noqa: SLF001
    fetched._library.cache_clear()  # noqa: SLF001
    try:
        consumer, source = opened(TOPIC, made(broker))
        assert isinstance(source, Objects)
        consumer.close()
    finally:
        fetched._library.cache_clear()  # noqa: SLF001
