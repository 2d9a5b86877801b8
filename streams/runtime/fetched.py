"""What came from a consumer at once? Messages of one topic, with columns of what is to be known of each."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from streams.runtime.cursor import headers_of
from streams.runtime.decode import Messages

Numbers = npt.NDArray[np.int64]


class Notice(NamedTuple):
    """What a consumer says instead of a message."""

    partition: int | None
    error: KafkaError


class Fetched:
    """Messages of one topic, in the order in which they came.

    Parameters
    ----------
    partition, offset, size
        Of each message; its size in bytes.
    notices
        What came between them.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        notices = [Notice(message.partition(), error) for message in messages if (error := message.error()) is not None]
        if notices:
            messages = [message for message in messages if message.error() is None]
        self._good = messages
        self.partition = _column(Message.partition, messages)
        self.offset = _column(Message.offset, messages)
        self.size = _column(len, messages)
        self.notices = notices

    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        """Return some of them, by their indices, all of one partition: they cover offsets from `start` on."""
        mine = list(map(self._good.__getitem__, chosen.tolist()))
        offset = self.offset[chosen]
        return Messages(
            partition=partition,
            start=start,
            end=int(offset[-1]) + 1,
            offset=offset,
            broker_ms=_column(itemgetter(1), list(map(Message.timestamp, mine))),
            key=list(map(Message.key, mine)),
            value=list(map(Message.value, mine)),
            headers=lambda at: headers_of(mine[at].headers()),
        )


def _column(what: Callable[[Any], int | None], of: Sequence[Any]) -> Numbers:
    """Ask each; what a client's class is asked by `map` costs two thirds of what a loop costs."""
    return np.fromiter(map(what, of), np.int64, len(of))


class Source:
    """Reads one topic with a consumer."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions, from these offsets on, and no others."""
        self._consumer.assign([TopicPartition(self._topic, *place) for place in positions.items()])

    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Wait for a message, serve the group, and return what is there."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return Fetched([])
        return Fetched([first] if most == 1 else [first, *self._consumer.consume(most - 1, 0)])
