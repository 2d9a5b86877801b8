"""A command that reads a topic waits for what passes, and no longer."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.runtime.reading import Reader
from streams.runtime.terminal import CommandError


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
