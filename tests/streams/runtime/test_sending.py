"""Records that a command writes: each acknowledged, or the command says which was not."""

from collections.abc import Iterator

import pytest

from config.settings import KafkaSettings
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.sending import send_all
from streams.runtime.stage_spec import Routed
from streams.runtime.terminal import CommandError, Exit
from tests.streams.runtime.test_topics import settings


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        broker.touch(["t.labels"])
        yield settings(broker.address)


def record(size: int) -> Routed:
    return Routed(topic="labels", key=b"p", value=b"x" * size, partition=0)


def test_all_that_is_acknowledged_is_counted(cluster: KafkaSettings) -> None:
    assert send_all(cluster, [record(1), record(900_000)]) == 2


def test_a_record_that_the_client_refuses_ends_in_one_line_that_says_what_was_taken_before(
    cluster: KafkaSettings,
) -> None:
    with pytest.raises(CommandError) as caught:
        send_all(cluster, [record(1), record(1), record(2_000_000), record(1)])
    assert caught.value.status == Exit.BROKER
    assert str(caught.value) == (
        "a record of 2,000,000 bytes for t.labels was refused "
        "(Unable to produce message: Broker: Message size too large); 2 before it were taken"
    )
