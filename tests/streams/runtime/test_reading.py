"""A command that reads a topic waits for what passes, and no longer."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.runtime import kafka
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.reading import Reader
from streams.runtime.terminal import CommandError
from tests.streams.runtime.test_topics import settings


def reader(answers: list[object], wait_s: float) -> Reader:
    """Return a reader whose broker gives these answers in turn, the last one for ever."""

    def answer(*_: object, **__: object) -> object:
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(now, Exception):
            raise now
        return now

    one = object.__new__(Reader)
    one._settings = SimpleNamespace(topic_prefix="", broker="b:1")  # type: ignore[assignment]
    one._wait_s = wait_s
    one._consumer = SimpleNamespace(get_watermark_offsets=answer, poll=lambda _: None)  # type: ignore[assignment]
    return one


def moving() -> KafkaException:
    return KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))


def test_a_topic_that_was_just_made_has_a_leader_a_moment_later() -> None:
    assert reader([moving(), moving(), (3, 7)], 10).bounds("labels", 0) == (3, 7)


def test_a_leader_that_never_comes_is_said() -> None:
    with pytest.raises(CommandError, match=r"b:1 refused \(Broker: Not leader for partition\)$"):
        reader([moving()], 0.3).bounds("labels", 0)


def test_a_refusal_is_said_at_once_and_asks_about_rights() -> None:
    refused = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    words = r"b:1 refused \(Broker: Topic authorization failed\); has our user the rights for it \(ACLs\)\?$"
    with pytest.raises(CommandError, match=words):
        reader([refused, (3, 7)], 10).bounds("labels", 0)


def test_a_broker_that_does_not_answer_is_said_and_asks_about_the_address() -> None:
    away = KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 -- so it is named in the client
    with pytest.raises(CommandError, match=r"no answer from b:1 \(.*\): is the address right, and may we connect"):
        reader([away], 10).bounds("labels", 0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a broker with five records in one partition of `labels`."""
    with EmbeddedBroker() as broker:
        broker.touch(["t.labels"])
        producer = kafka.producer(settings(broker.address), "test")
        for number in range(5):
            producer.produce("t.labels", str(number).encode(), partition=1)
        assert producer.flush(10) == 0
        yield broker.address


def test_what_is_not_there_is_never_read_from_elsewhere(address: str) -> None:
    with Reader(replace(settings(address), request_wait_ms=1_000)) as one:
        with pytest.raises(CommandError, match=r"t\.labels\[1\]: no answer in 1 s"):
            list(one.between("labels", {1: (70, 72)}))
        assert [read.value for read in one.between("labels", {1: (3, 72)})] == [b"3", b"4"]


def test_what_was_deleted_before_it_was_read_is_passed_over(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Reader(settings(address)) as one:
        monkeypatch.setattr(one, "bounds", lambda *_: (75, 80))  # as of a broker that has deleted it
        assert list(one.between("labels", {1: (70, 72)})) == []
