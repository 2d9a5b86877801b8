"""How do messages come from a consumer? As columns, without an object for each, where that could be compiled.

As objects a message costs a third of what its row costs, before anybody has looked into it. So `fetched.c` takes what
librdkafka has fetched straight from it: a plugin of the library that confluent_kafka has loaded, which uses what that
documents, and nothing else. Messages of a partition are led to a queue of ours; all else of a consumer, rebalances and
errors of the client, stays where it was and comes when the consumer is polled. Without the compiled part, messages are
objects: the same, slower.
"""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition, cimpl

from streams.runtime import plain
from streams.runtime.cursor import headers_of
from streams.runtime.decode import Messages
from streams.runtime.plain import Joined
from streams.runtime.stage_spec import Headers

_P, _L = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = (
    "conf_interceptor_add_on_new", "queue_forward", "consume_batch_queue", "message_timestamp", "message_destroy",
)  # fmt: skip
"""As `Client` in `fetched.c` has them."""

MOST_AT_ONCE = 1_000
"""Messages that are taken at once to be given back."""

Numbers = npt.NDArray[np.int64]


class Notice(NamedTuple):
    """What a consumer says instead of a message."""

    partition: int | None
    error: KafkaError


class Fetched(ABC):
    """Messages of one topic, in the order in which they came, until they are freed.

    Parameters
    ----------
    partition, offset, size
        Of each message; its size in bytes.
    notices
        What came between them.
    """

    partition: Numbers
    offset: Numbers
    size: Numbers
    notices: Sequence[Notice]

    def __len__(self) -> int:
        """How many messages and notices."""
        return len(self.offset) + len(self.notices)

    @abstractmethod
    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        """Return some of them, by their indices, all of one partition: they cover offsets from `start` on."""

    @abstractmethod
    def free(self) -> None:
        """Give them back: what `messages` returned is not to be looked at any more."""


class Source(ABC):
    """What reads one topic with a consumer."""

    @abstractmethod
    def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions, from these offsets on, and no others."""

    @abstractmethod
    def leave(self) -> None:
        """Make ready for being assigned nothing."""

    @abstractmethod
    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Wait for a message, serve the group, and return what is there."""

    @abstractmethod
    def close(self) -> None:
        """Let go, before the consumer is closed."""


# -- as objects


class _Objects(Fetched):
    def __init__(self, messages: Sequence[Message]) -> None:
        good = [message for message in messages if message.error() is None]
        count = len(good)
        self._good = good
        self.partition = np.fromiter((message.partition() or 0 for message in good), np.int64, count)
        self.offset = np.fromiter((message.offset() or 0 for message in good), np.int64, count)
        self.size = np.fromiter(map(len, good), np.int64, count)
        self.notices = [
            Notice(message.partition(), error) for message in messages if (error := message.error()) is not None
        ]

    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        mine = [self._good[at] for at in chosen.tolist()]
        offset = self.offset[chosen]
        return Messages(
            partition=partition,
            start=start,
            end=int(offset[-1]) + 1,
            offset=offset,
            broker_ms=np.fromiter((message.timestamp()[1] for message in mine), np.int64, len(mine)),
            key=[message.key() for message in mine],
            value=[message.value() for message in mine],
            headers=lambda at: headers_of(mine[at].headers()),
        )

    def free(self) -> None:
        self._good = []


class Objects(Source):
    """Takes messages as the client gives them."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    def assign(self, positions: Mapping[int, int]) -> None:
        """Assign."""
        self._consumer.assign([TopicPartition(self._topic, *place) for place in positions.items()])

    def leave(self) -> None:
        """Nothing: all comes from the consumer's own queue."""

    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Poll, then take what is there."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return _Objects([])
        return _Objects([first] if most == 1 else [first, *self._consumer.consume(most - 1, 0)])

    def close(self) -> None:
        """Nothing: the consumer has all of it."""


# -- as columns


class _Message(ctypes.Structure):
    """As `Message` in `fetched.c`."""

    _fields_ = (
        ("code", ctypes.c_int),
        ("topic", _P),
        ("partition", ctypes.c_int32),
        ("value", _P),
        ("value_length", ctypes.c_size_t),
        ("key", _P),
        ("key_length", ctypes.c_size_t),
        ("offset", _L),
        ("hidden", _P),
    )


class _Library(NamedTuple):
    """The client's library, and ours."""

    client: ctypes.CDLL
    ours: ctypes.CDLL


@cache
def _library() -> _Library | None:
    """Return both, None where ours is not there, or the client's lacks something, or cannot be told where ours is."""
    ours = plain.library()
    if ours is None or ";" in str(plain.LIBRARY):  # which separates plugins
        return None
    client = ctypes.CDLL(cimpl.__file__)  # a name is looked for in what it was linked with too
    try:
        functions = [getattr(client, f"rd_kafka_{name}") for name in _FUNCTIONS]
        client.rd_kafka_message_errstr.argtypes, client.rd_kafka_message_errstr.restype = [_P], ctypes.c_char_p
        client.rd_kafka_message_headers.argtypes = [_P, _P]
        client.rd_kafka_header_get_all.argtypes = [_P, ctypes.c_size_t, _P, _P, _P]
    except AttributeError:
        return None
    ours.fetch_newest.argtypes, ours.fetch_newest.restype = [], _P
    ours.fetch_lead.argtypes, ours.fetch_lead.restype = [_P, _L, _P], None
    ours.fetch_take.argtypes, ours.fetch_take.restype = [_P, ctypes.c_int, _L, *[_P] * 7], _L
    ours.fetch_copy.argtypes, ours.fetch_copy.restype = [_P, _P, _L, _P, _P], None
    ours.fetch_free.argtypes, ours.fetch_free.restype = [_P, _L], None
    client.rd_kafka_queue_new.argtypes, client.rd_kafka_queue_new.restype = [_P], _P
    client.rd_kafka_queue_get_partition.argtypes = [_P, ctypes.c_char_p, ctypes.c_int32]
    client.rd_kafka_queue_get_partition.restype = _P
    client.rd_kafka_queue_destroy.argtypes, client.rd_kafka_queue_destroy.restype = [_P], None
    addresses = (_P * len(functions))(*(ctypes.cast(function, _P).value for function in functions))
    ours.fetch_from.argtypes, ours.fetch_from.restype = [_P], None
    ours.fetch_from(addresses)
    return _Library(client, ours)


class _Lazy(Sequence[bytes | None]):
    """Bytes that are made when they are asked for: almost nobody asks."""

    def __init__(self, count: int, one: Callable[[int], bytes | None]) -> None:
        self._count = count
        self._one = one

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> bytes | None: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes | None]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes | None] | None:
        if isinstance(at, slice):
            return [self._one(one) for one in range(self._count)[at]]
        return self._one(range(self._count)[at])


class _Columns(Fetched):
    def __init__(self, library: _Library, addresses: npt.NDArray[np.uint64], columns: dict[str, Any]) -> None:
        self._library = library
        self._addresses = addresses
        wrong = columns.pop("code") != 0
        self.notices = [self._notice(at) for at in np.flatnonzero(wrong).tolist()]
        good = ~wrong if self.notices else slice(None)
        self._good = addresses[good]
        self.partition, self.offset, self.size = (columns[name][good] for name in ("partition", "offset", "size"))
        self._broker_ms, self._lacking = columns["broker_ms"][good], columns["lacking"][good]

    def _at(self, address: int) -> _Message:
        if not len(self._addresses):
            raise RuntimeError("the messages were given back")
        return _Message.from_address(address)

    def _notice(self, at: int) -> Notice:
        address = int(self._addresses[at])
        one = self._at(address)
        said = self._library.client.rd_kafka_message_errstr(address) or b""
        return Notice(one.partition, KafkaError(one.code, said.decode("utf-8", "replace")))

    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        offset, size = self.offset[chosen], self.size[chosen]
        addresses = self._good[chosen]

        def key(at: int) -> bytes | None:
            one = self._at(int(addresses[at]))
            return ctypes.string_at(one.key, one.key_length) if one.key else None

        def value(at: int) -> bytes | None:
            one = self._at(int(addresses[at]))
            return ctypes.string_at(one.value, one.value_length) if one.value else None

        joined = None
        if not self._lacking[chosen].any():
            starts = np.zeros(len(chosen) + 1, np.int64)
            np.cumsum(size, out=starts[1:])
            data = np.empty(int(starts[-1]), np.uint8)
            self._library.ours.fetch_copy(
                self._good.ctypes.data, chosen.ctypes.data, len(chosen), starts.ctypes.data, data.ctypes.data
            )
            joined = Joined(data, starts)
        return Messages(
            partition=partition,
            start=start,
            end=int(offset[-1]) + 1,
            offset=offset,
            broker_ms=self._broker_ms[chosen],
            key=_Lazy(len(chosen), key),
            value=_Lazy(len(chosen), value),
            headers=lambda at: self._headers(int(addresses[at])),
            joined=joined,
        )

    def _headers(self, address: int) -> Headers:
        self._at(address)
        client, held = self._library.client, _P()
        if client.rd_kafka_message_headers(address, ctypes.byref(held)):
            return ()
        name, value, size = ctypes.c_char_p(), _P(), ctypes.c_size_t()
        places = [ctypes.byref(one) for one in (name, value, size)]
        found: list[tuple[str, bytes | None]] = []
        while client.rd_kafka_header_get_all(held, len(found), *places) == 0:
            key = (name.value or b"").decode("utf-8", "replace")
            found.append((key, None if value.value is None else ctypes.string_at(value, size.value)))
        return headers_of(found)

    def free(self) -> None:
        self._library.ours.fetch_free(self._addresses.ctypes.data, len(self._addresses))
        self._addresses = self._addresses[:0]


class Columns(Source):
    """Takes messages of its partitions from a queue of its own.

    A partition that is assigned anew no longer leads here, from some moment on. So all are led here before each fetch, and
    what came to the consumer itself before that is taken first: so no message overtakes another of its partition. What
    is not assigned any more is led nowhere: the client may throw away all that lies where a partition that is gone led to.
    """

    def __init__(self, consumer: Consumer, handle: int, topic: str, library: _Library) -> None:
        self._consumer = consumer
        self._handle = handle
        self._topic = topic
        self._library = library
        self._queue = library.client.rd_kafka_queue_new(handle)
        self._led = np.zeros(0, np.uint64)

    def assign(self, positions: Mapping[int, int]) -> None:
        """Find the partitions' queues, which may be others than at the last assignment, lead them here, and assign."""
        self.leave()
        found = (
            self._library.client.rd_kafka_queue_get_partition(self._handle, self._topic.encode(), partition)
            for partition in positions
        )
        self._led = np.array([own for own in found if own is not None], np.uint64)
        self._lead(self._queue)
        self._consumer.assign([TopicPartition(self._topic, *place) for place in positions.items()])

    def leave(self) -> None:
        """Lead nothing here any more."""
        self._lead(None)
        for own in self._led.tolist():
            self._library.client.rd_kafka_queue_destroy(own)
        self._led = self._led[:0]

    def _lead(self, to: int | None) -> None:
        self._library.ours.fetch_lead(self._led.ctypes.data, len(self._led), to)

    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Serve the consumer; take what came to it, or else what is here."""
        self._lead(self._queue)
        first = self._consumer.poll(0)
        if first is None:
            return self._taken(most, round(wait_s * 1000))
        return _Objects([first, *self._consumer.consume(most, 0)])

    def _taken(self, most: int, wait_ms: int) -> _Columns:
        addresses = np.empty(most, np.uint64)
        columns: dict[str, npt.NDArray[Any]] = {
            "code": np.empty(most, np.int32),
            "partition": np.empty(most, np.int32),
            "offset": np.empty(most, np.int64),
            "broker_ms": np.empty(most, np.int64),
            "size": np.empty(most, np.int64),
            "lacking": np.empty(most, np.bool_),
        }
        places = [one.ctypes.data for one in (addresses, *columns.values())]
        count = self._library.ours.fetch_take(self._queue, wait_ms, most, *places)
        return _Columns(self._library, addresses[:count], {name: one[:count] for name, one in columns.items()})

    def close(self) -> None:
        """Lead nothing here any more, and give back what was not taken."""
        self.leave()
        while rest := self._taken(MOST_AT_ONCE, 0):
            rest.free()
        self._library.client.rd_kafka_queue_destroy(self._queue)


def opened(topic: str, make: Callable[..., Consumer]) -> tuple[Consumer, Source]:
    """Return a consumer, which `make` makes of settings that are added, and what reads a topic with it."""
    library = _library()
    if library is None:
        consumer = make()
        return consumer, Objects(consumer, topic)
    library.ours.fetch_newest()
    consumer = make(**{"plugin.library.paths": str(plain.LIBRARY)})
    handle = library.ours.fetch_newest()
    return consumer, Objects(consumer, topic) if handle is None else Columns(consumer, handle, topic, library)
