"""What is happening? Reads what the stages write, from the first record on, and keeps what a person would want to know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from config.settings import KafkaSettings
from schemas.closed import Closed
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import kafka, specs, topics
from streams.runtime.cursor import headers_of

WATCHED = (topics.WINDOW_STATS, topics.FINDINGS, topics.INCIDENTS, topics.NOTIFICATIONS, topics.RECEIPTS)
CHUNK = 500


@dataclass
class Seen:
    """Everything that was read.

    Parameters
    ----------
    closed_ms
        By source partition the end of its last closed tick.
    reached
        Receipt of each notification that arrived.
    """

    closed_ms: dict[int, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    incidents: dict[str, Incident] = field(default_factory=dict)
    history: list[Incident] = field(default_factory=list)
    notifications: dict[str, Notification] = field(default_factory=dict)
    reached: dict[str, Receipt] = field(default_factory=dict)

    def take(self, record: Any) -> bool:  # noqa: ANN401 -- whatever `WATCHED` holds
        """Take one record, and say whether it is news: not a repeat, not a mark of time."""
        match record:
            case Closed():
                source = record.source_partition
                self.closed_ms[source] = max(record.through_ms, self.closed_ms.get(source, 0))
                return False
            case Finding():
                if any((one.finding_id, one.revision) == (record.finding_id, record.revision) for one in self.findings):
                    return False
                self.findings.append(record)
            case Incident():
                known = self.incidents.get(record.incident_id)
                if known is not None and known.seq >= record.seq:
                    return False
                self.incidents[record.incident_id] = record
                self.history.append(record)
            case Notification():
                if record.notification_id in self.notifications:
                    return False
                self.notifications[record.notification_id] = record
            case Receipt():
                if not record.reached or record.notification_id in self.reached:
                    return False
                self.reached[record.notification_id] = record
            case _:
                return False
        return True


class Watching:
    """A reader of its own, outside of any group."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._prefix = settings.topic_prefix
        self._consumer: Consumer = kafka.consumer(settings, "demo", f"{self._prefix}tocsin-demo")
        self._consumer.assign(
            [
                TopicPartition(self._prefix + name, partition, 0)
                for name in WATCHED
                for partition in range(settings.output_partitions)
            ]
        )
        self.seen = Seen()

    def news(self, wait_s: float) -> list[Any]:
        """Wait for records, at most `wait_s`, and return those that are new."""
        first = self._consumer.poll(wait_s)
        messages = [] if first is None else [first, *self._consumer.consume(CHUNK, 0)]
        return [record for record in self._records(messages) if self.seen.take(record)]

    def _records(self, messages: list[Message]) -> Iterator[Any]:
        for message in messages:
            topic, error = message.topic(), message.error()
            if error is None and topic is not None:
                name = topic.removeprefix(self._prefix)
                yield specs.decode(name, message.key(), message.value(), headers_of(message.headers()))

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
