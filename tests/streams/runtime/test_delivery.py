"""Acknowledged is acknowledged: all of it, or an error within the bound."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from config.settings import KafkaSettings
from streams.runtime import kafka
from streams.runtime.delivery import Delivery, UndeliveredError
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.stage_spec import Routed
from tests.streams.runtime.broker_faults import PRODUCE, BrokerFaults
from tests.streams.runtime.test_topics import settings

RECORDS = [Routed(topic="log", key=b"k", value=str(number).encode(), partition=1) for number in range(3)]
Faults = Callable[[Sequence[int]], None]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        embedded.touch(["t.log"])
        yield embedded


@pytest.fixture
def faults(broker: EmbeddedBroker) -> Faults:
    """Return what lets the broker answer the next writes with errors."""
    assert broker._cluster is not None  # noqa: SLF001
    return partial(BrokerFaults(broker._cluster).answer, PRODUCE)  # noqa: SLF001


def delivery(cluster: KafkaSettings, **others: Any) -> tuple[Delivery, list[int]]:  # noqa: ANN401
    beats: list[int] = []
    producer: Producer = kafka.producer(cluster, "test", **others)
    made = Delivery(producer, topic_prefix="t.", alive=lambda: beats.append(1))
    return made, beats


def test_each_record_has_its_place_and_its_order(broker: EmbeddedBroker) -> None:
    one, beats = delivery(settings(broker.address))
    assert one.deliver(RECORDS) == [0, 1, 2]
    assert one.deliver(RECORDS[:1]) == [3]
    assert one.deliver([]) == []
    assert beats


def test_a_passing_fault_is_written_again_and_awaited(broker: EmbeddedBroker, faults: Faults) -> None:
    one, _ = delivery(settings(broker.address))
    faults([KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT])
    assert sorted(one.deliver(RECORDS)) == [0, 1, 2]


def test_what_the_client_has_given_up_is_written_once_more(broker: EmbeddedBroker, faults: Faults) -> None:
    one, _ = delivery(settings(broker.address), **{"delivery.timeout.ms": 400})
    faults([KafkaError.NOT_LEADER_FOR_PARTITION] * 8)
    assert -1 not in one.deliver(RECORDS)
    assert one.repeated >= 3


def test_what_is_acknowledged_without_its_place_is_written_once_more(broker: EmbeddedBroker, faults: Faults) -> None:
    one, _ = delivery(settings(broker.address))
    faults([KafkaError.DUPLICATE_SEQUENCE_NUMBER])
    assert sorted(one.deliver(RECORDS)) == [0, 1, 2]
    assert one.repeated == 3


def test_a_refusal_for_good_is_an_error_at_once(broker: EmbeddedBroker, faults: Faults) -> None:
    one, _ = delivery(settings(broker.address))
    faults([KafkaError.TOPIC_AUTHORIZATION_FAILED] * 5)
    with pytest.raises(KafkaException, match="authorization"):
        one.deliver(RECORDS)
    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        one.deliver([Routed(topic="log", key=b"k", value=b"x" * 2_000_000, partition=0)])


def test_brokers_that_are_gone_are_waited_for_with_signs_of_life(broker: EmbeddedBroker) -> None:
    one, beats = delivery(settings(broker.address))
    one.deliver(RECORDS)
    beats.clear()
    broker.close()
    with pytest.raises(UndeliveredError, match="3 of 3 records are not acknowledged: no answer"):
        one.deliver(RECORDS, wait_ms=1_500)
    assert len(beats) >= 5
    assert one.waiting == 0


def test_a_wait_without_a_bound_ends_when_whoever_waits_has_had_enough(broker: EmbeddedBroker) -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 8:
            raise InterruptedError

    producer: Producer = kafka.producer(settings(broker.address), "test", None, **{"delivery.timeout.ms": 400})
    one = Delivery(producer, topic_prefix="t.", alive=look)
    broker.close()
    with pytest.raises(InterruptedError):
        one.deliver(RECORDS)
    assert one.repeated >= 3, "what the client gave up was written again meanwhile"
    assert one.waiting == 0


def test_a_full_queue_is_waited_for(broker: EmbeddedBroker) -> None:
    one, _ = delivery(settings(broker.address), **{"queue.buffering.max.messages": 5})
    many = [Routed(topic="log", key=b"k", value=b"v", partition=number % 4) for number in range(50)]
    places = [
        TopicPartition("t.log", record.partition or 0, offset)
        for record, offset in zip(many, one.deliver(many), strict=True)
    ]
    assert len({(place.partition, place.offset) for place in places}) == 50
