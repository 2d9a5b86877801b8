"""Commands on the embedded broker: what they print, and what they leave in the topics."""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from streams.runtime.cli import run
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.topics import TOPICS

Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Return the address of an empty broker."""
    with EmbeddedBroker() as embedded:
        embedded.touch(TOPICS)
        yield embedded.address


@pytest.fixture
def tocsin(broker: str, capsys: pytest.CaptureFixture[str]) -> Tocsin:
    """Return what runs a command on the broker: its exit status, standard output and standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        status = run([*words, "--broker", broker])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture(scope="module")
def put(broker: str) -> Put:
    """Return what writes one record and waits until it is there."""
    producer = Producer({"bootstrap.servers": broker})

    def write(topic: str, key: bytes | None, value: bytes | None, partition: int) -> None:
        producer.produce(topic, value, key, partition)
        assert producer.flush(10) == 0

    return write
