"""What lies in the topics? All of it, read once from the beginning, or followed while it is written.

A compacted topic is followed: what its rows were between two records of a key is gone soon after.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from config.settings import KafkaSettings
from streams.runtime import kafka
from streams.runtime.cursor import headers_of
from tests.chaos.next_version import FIELD
from tests.simulation.logs import Entry

READ_WAIT_S = 120.0
POLL_S = 0.2
AT_ONCE = 10_000


class Reading:
    """Reads some topics from their beginnings on.

    Parameters
    ----------
    names
        Full names of topics by what they are called in `logs`.
    partitions
        How many each has.
    """

    def __init__(
        self, cluster: KafkaSettings, client: str, names: Mapping[str, str], partitions: Callable[[str], int]
    ) -> None:
        further = {"isolation.level": "read_uncommitted", "enable.partition.eof": True}
        self._consumer = kafka.consumer(cluster, client, f"{cluster.topic_prefix}{client}", None, **further)
        self._places = {(full, at): (name, at) for name, full in names.items() for at in range(partitions(name))}
        self._next = dict.fromkeys(self._places, 0)
        self.logs: dict[tuple[str, int], list[Entry]] = {place: [] for place in self._places.values()}
        self._consumer.assign([TopicPartition(full, at, OFFSET_BEGINNING) for full, at in self._places])

    def take(self) -> None:
        """Take what there is now."""
        for message in self._consumer.consume(AT_ONCE, POLL_S):
            there = message.topic() or "", message.partition() or 0
            offset, error = message.offset() or 0, message.error()
            if error is None:
                headers = headers_of(message.headers())
                entry = Entry(offset, message.key(), message.value(), headers, message.timestamp()[1])
                self.logs[self._places[there]].append(entry)
                self._next[there] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- so it is named
                self._next[there] = offset
            else:
                assert not kafka.is_fatal(error), error

    def to_ends(self) -> dict[tuple[str, int], list[Entry]]:
        """Read all that there is, to where it ends now."""
        until_s = time.monotonic() + READ_WAIT_S
        ends = {there: self._end(*there) for there in self._places}
        while left := [there for there, end in ends.items() if self._next[there] < end]:
            assert time.monotonic() < until_s, f"{left} were not read to their ends"
            self.take()
        self._consumer.close()
        return self.logs

    def _end(self, topic: str, partition: int) -> int:
        marks = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_WAIT_S)
        assert marks is not None, f"where {topic}[{partition}] ends was not told"
        return marks[1]


class Following:
    """Reads topics in a thread of its own, for as long as it is entered; then to their ends."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._reading.take()

    def to_ends(self) -> dict[tuple[str, int], list[Entry]]:
        """Follow no more, and read all that there is."""
        self.__exit__()
        return self._reading.to_ends()


def as_read_today(entry: Entry) -> tuple[Entry, bool]:
    """Return a record without the field, and whether it had it."""
    if entry.value is None or FIELD not in entry.value:
        return entry, False
    return entry._replace(value=re.sub(re.escape(FIELD) + b",?", b"", entry.value)), True
