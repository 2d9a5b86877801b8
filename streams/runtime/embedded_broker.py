"""Where is a Kafka when nothing is installed? Inside librdkafka, which brings a small in-memory cluster for tests.

It forgets: a partition keeps the last 5 MiB or 100,000 message sets, nothing is compacted, and all is gone with the
process. Topics appear when somebody asks for their metadata, each with 4 partitions. It answers no question about a
topic's settings. Good for a demonstration and for tests; a real broker is for everything else.
"""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

PARTITIONS = 4
START_WAIT_S = 10.0

log = logging.getLogger("tocsin.kafka")


class EmbeddedBroker:
    """A Kafka in this process, for any client on this machine, for as long as this object is open.

    >>> with EmbeddedBroker() as broker:
    ...     broker.touch(["labels"])
    ...     broker.address.startswith("127.0.0.1:")
    {'labels': 4}
    True
    """

    def __init__(self) -> None:
        cluster: dict[str, Any] = {"test.mock.num.brokers": 1, "logger": log}
        self._cluster: Producer | None = Producer(cluster)
        metadata = self._cluster.list_topics(timeout=START_WAIT_S)
        (one,) = metadata.brokers.values()
        self.address = f"{one.host}:{one.port}"
        """`HOST:PORT`."""

    def touch(self, topics: Iterable[str]) -> dict[str, int]:
        """Bring topics into being, and return how many partitions each has."""
        client: dict[str, Any] = {"bootstrap.servers": self.address, "logger": log}
        admin = AdminClient(client)
        return {topic: len(admin.list_topics(topic, timeout=START_WAIT_S).topics[topic].partitions) for topic in topics}

    def close(self) -> None:
        """End the cluster with all that it holds; a second time changes nothing."""
        self._cluster = None  # the cluster lives and dies with this client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
