"""How do messages come from a consumer? As columns, without an object for each, where that could be compiled.

As objects a message costs a third of what its row costs, before anybody has looked into it. So `fetched.c` takes what
librdkafka has fetched straight from it: a plugin of the library that confluent_kafka has loaded, which uses what that
documents, and nothing else. Messages of a partition stay in that partition's queue, and are copied from there; all else
of a consumer, rebalances and errors of the client, stays where it was and comes when the consumer is polled. Without the
compiled part, messages are objects: the same, slower.
"""

import ctypes
import logging
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition, cimpl

from streams.runtime import plain
from streams.runtime.cursor import headers_of
from streams.runtime.decode import Messages
from streams.runtime.plain import Joined
from streams.runtime.stage_spec import Headers

QUEUED_MESSAGES, QUEUED_KBYTES = 80_000, 65_536
"""What may wait in the client: each partition has its share, for without a queue for all there is no bound for all."""
LEAST_QUEUED_MESSAGES, LEAST_QUEUED_KBYTES = 5_000, 2_048
"""A partition's share of it at least, however many there are."""
MOST_BYTES = 16_000_000
"""At how much of values, keys and headers no further message is taken at once."""
FIRST_BYTES = 256
"""Room for a message's value, and for its key and headers, before any was seen."""
FIRST_SLICE_S = 0.001
"""A partition's queue wakes nobody: while it is empty it is looked at again after this, twice this, and so on. The client
waits whole milliseconds."""

_P, _L = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = (
    "conf_interceptor_add_on_new", "consume_callback_queue", "yield", "message_timestamp", "message_headers",
    "header_get_all",
)  # fmt: skip
"""As `Client` in `fetched.c` has them."""
_NO_KEY, _NO_VALUE = 1, 2
_LENGTHS = struct.Struct("=qq")
"""Before each header: of its name, of its value."""

Numbers = npt.NDArray[np.int64]

log = logging.getLogger("tocsin.join")


class Notice(NamedTuple):
    """What a consumer says instead of a message."""

    partition: int | None
    error: KafkaError


class Fetched(ABC):
    """Messages of one topic; those of a partition in the order in which they came.

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

    @abstractmethod
    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        """Return some of them, by their indices, all of one partition: they cover offsets from `start` on."""


class Source(ABC):
    """What reads one topic with a consumer."""

    @abstractmethod
    def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions, from these offsets on, and no others."""

    @abstractmethod
    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Serve the group, and return what is there, up to so many messages; wait for it if there is nothing."""

    @abstractmethod
    def close(self) -> None:
        """Let go, before the consumer is closed."""


# -- as objects


class _Objects(Fetched):
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
            headers=lru_cache(1)(lambda at: headers_of(mine[at].headers())),
        )


def _column(what: Callable[[Any], int | None], of: Sequence[Any]) -> Numbers:
    """Ask each; what a client's class is asked by `map` costs two thirds of what a loop costs."""
    return np.fromiter(map(what, of), np.int64, len(of))


_NOTHING = _Objects([])


class Objects(Source):
    """Takes messages as the client gives them."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    def assign(self, positions: Mapping[int, int]) -> None:
        """Assign."""
        self._consumer.assign([TopicPartition(self._topic, *place) for place in positions.items()])

    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Poll, then take what is there."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return _Objects([])
        return _Objects([first] if most == 1 else [first, *self._consumer.consume(most - 1, 0)])

    def close(self) -> None:
        """Nothing: the consumer has all of it."""


# -- as columns


class _Bytes(ctypes.Structure):
    """As `Bytes` in `fetched.c`."""

    _fields_ = (("data", _P), ("used", _L), ("room", _L), ("own", _L))


_COLUMNS = {
    "code": np.int32, "partition": np.int32, "offset": np.int64, "broker_ms": np.int64, "value_at": np.int64,
    "key_at": np.int64, "key_end": np.int64, "lacking": np.uint8,
}  # fmt: skip


class _Taken(ctypes.Structure):
    """As `Taken` in `fetched.c`."""

    _fields_ = (
        ("client", _P),
        ("most", _L),
        ("most_bytes", _L),
        ("count", _L),
        *((name, _P) for name in _COLUMNS),
        ("values", _Bytes),
        ("asides", _Bytes),
    )


class _Room:
    """Memory for so many messages, and for so many bytes of their values."""

    def __init__(self, client: int, most: int, value_bytes: int) -> None:
        self.values = np.empty(max(value_bytes, FIRST_BYTES * most), np.uint8)
        self.asides = np.empty(FIRST_BYTES * most, np.uint8)
        self.columns = {name: np.empty(most + 1, kind) for name, kind in _COLUMNS.items()}
        self.taken = _Taken(
            client=client,
            most=most,
            most_bytes=MOST_BYTES,
            values=_Bytes(data=self.values.ctypes.data, room=len(self.values)),
            asides=_Bytes(data=self.asides.ctypes.data, room=len(self.asides)),
            **{name: column.ctypes.data for name, column in self.columns.items()},
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
        client.rd_kafka_queue_get_partition.argtypes = [_P, ctypes.c_char_p, ctypes.c_int32]
        client.rd_kafka_queue_get_partition.restype = _P
        client.rd_kafka_queue_forward.argtypes, client.rd_kafka_queue_forward.restype = [_P, _P], None
        client.rd_kafka_queue_destroy.argtypes, client.rd_kafka_queue_destroy.restype = [_P], None
    except AttributeError:
        return None
    ours.fetch_newest.argtypes, ours.fetch_newest.restype = [], _P
    ours.fetch_take.argtypes, ours.fetch_take.restype = [_P, _L, _L, ctypes.POINTER(_Taken)], _L
    ours.fetch_free.argtypes, ours.fetch_free.restype = [_P], None
    ours.fetch_from.argtypes, ours.fetch_from.restype = [_P], None
    ours.fetch_from((_P * len(functions))(*(ctypes.cast(function, _P).value for function in functions)))
    return _Library(client, ours)


class _Lazy(Sequence[bytes | None]):
    """Bytes that are made when they are asked for: almost nobody asks, but who does asks again for each row, so one is kept."""

    def __init__(self, count: int, one: Callable[[int], bytes | None]) -> None:
        self._count = count
        self._one = lru_cache(1)(one)

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
    """Messages that were copied.

    Parameters
    ----------
    columns
        As `Taken` has them, cut to the messages and errors that there are; `value_at` and `key_at` are one longer.
    values, asides
        What these tell the places of.
    """

    def __init__(
        self, columns: Mapping[str, npt.NDArray[Any]], values: npt.NDArray[np.uint8], asides: npt.NDArray[np.uint8]
    ) -> None:
        self._asides = asides
        code = columns["code"]
        wrong = np.flatnonzero(code).tolist()
        self.notices = [self._notice(columns, at) for at in wrong]
        good = np.flatnonzero(code == 0) if wrong else slice(None)
        self.partition, self.offset = columns["partition"][good].astype(np.int64), columns["offset"][good]
        self._broker_ms, self._lacking = columns["broker_ms"][good], columns["lacking"][good]
        self._key_start, self._key_end = columns["key_at"][:-1][good], columns["key_end"][good]
        self._aside_end = columns["key_at"][1:][good]
        starts = columns["value_at"]
        if wrong:  # an error has no value: where the one before it ends, the one behind it begins
            starts = np.append(starts[:-1][good], starts[-1])
        self._values = Joined(values, starts)
        self.size = np.diff(starts)

    def _notice(self, columns: Mapping[str, npt.NDArray[Any]], at: int) -> Notice:
        said = self._asides[columns["key_at"][at] : columns["key_end"][at]].tobytes().decode("utf-8", "replace")
        code = int(columns["code"][at])
        return Notice(int(columns["partition"][at]), KafkaError(code, said) if said else KafkaError(code))

    def messages(self, chosen: Numbers, partition: int, start: int) -> Messages:
        first, last = int(chosen[0]), int(chosen[-1])
        assert last - first == len(chosen) - 1, "what came from a partition's queue lies together"
        mine = slice(first, last + 1)
        data, starts = self._values.data, self._values.starts[first : last + 2]
        lacking, key_start, key_end = self._lacking[mine], self._key_start[mine], self._key_end[mine]

        def key(at: int) -> bytes | None:
            return None if lacking[at] & _NO_KEY else self._asides[key_start[at] : key_end[at]].tobytes()

        def value(at: int) -> bytes | None:
            return None if lacking[at] & _NO_VALUE else data[starts[at] : starts[at + 1]].tobytes()

        return Messages(
            partition=partition,
            start=start,
            end=int(self.offset[last]) + 1,
            offset=self.offset[mine],
            broker_ms=self._broker_ms[mine],
            key=_Lazy(len(chosen), key),
            value=_Lazy(len(chosen), value),
            headers=lru_cache(1)(lambda at: self._headers(first + at)),
            joined=None if lacking.any() else Joined(data, starts),
        )

    def _headers(self, at: int) -> Headers:
        rest = self._asides[self._key_end[at] : self._aside_end[at]].tobytes()
        found: list[tuple[str, bytes | None]] = []
        place = 0
        while place < len(rest):
            of_name, of_value = _LENGTHS.unpack_from(rest, place)
            value_at = place + _LENGTHS.size + of_name
            place = value_at + max(of_value, 0)
            name = rest[value_at - of_name : value_at].decode("utf-8", "replace")
            found.append((name, None if of_value < 0 else rest[value_at:place]))
        return headers_of(found)


class Columns(Source):
    """Takes messages of its partitions from their own queues.

    A partition's queue is told, before the partition is assigned, to lead nowhere: so the client leaves what it fetches
    there. It stays open here when the partition is assigned to nobody here any more, so that what came too late is thrown
    away. What came to the consumer itself all the same is taken first: so no message overtakes another of its partition.
    """

    def __init__(self, consumer: Consumer, handle: int, topic: str, library: _Library) -> None:
        self._consumer = consumer
        self._handle = handle
        self._topic = topic
        self._library = library
        self._queues: dict[int, int] = {}
        self._opened = (_P * 0)()
        self._first = 0
        self._value_bytes = 0
        self._spare: _Room | None = None
        self._closed = False

    def assign(self, positions: Mapping[int, int]) -> None:
        """Open the partitions' queues, which may be others than at the last assignment, and assign."""
        client = self._library.client
        if self._closed and positions:
            raise RuntimeError("the source is closed")
        self._opened = (_P * 0)()
        for partition in positions:
            queue = client.rd_kafka_queue_get_partition(self._handle, self._topic.encode(), partition)
            if queue is None:
                continue
            client.rd_kafka_queue_forward(queue, None)
            if (before := self._queues.get(partition)) is not None:
                client.rd_kafka_queue_destroy(before)
            self._queues[partition] = queue
        self._opened = (_P * len(self._queues))(*self._queues.values())
        self._consumer.assign([TopicPartition(self._topic, *place) for place in positions.items()])

    def fetch(self, most: int, wait_s: float) -> Fetched:
        """Serve the consumer; take what came to it, or else what is in the queues."""
        until_s = time.monotonic() + wait_s
        slice_s = FIRST_SLICE_S
        first = self._consumer.poll(0)
        while first is None:
            taken = self._take(most)
            left_s = until_s - time.monotonic()
            if len(taken.offset) or taken.notices or left_s <= 0:
                return taken
            first = self._consumer.poll(max(FIRST_SLICE_S, min(slice_s, left_s)))
            slice_s *= 2
        return _Objects([first] if most == 1 else [first, *self._consumer.consume(most - 1, 0)])

    def _take(self, most: int) -> Fetched:
        room, self._spare = self._spare, None
        if room is None or room.taken.most != most:
            room = _Room(self._handle, most, self._value_bytes)
        taken = room.taken
        self._first = self._library.ours.fetch_take(self._opened, len(self._opened), self._first, ctypes.byref(taken))
        if not taken.count:
            if not self._value_bytes:
                self._spare = room
            self._value_bytes = 0  # a backlog has ended: no room for another is kept
            return _NOTHING
        self._value_bytes = max(self._value_bytes, taken.values.used)
        return _Columns(
            {name: column[: taken.count + name.endswith("_at")] for name, column in room.columns.items()},
            self._bytes(taken.values, room.values),
            self._bytes(taken.asides, room.asides),
        )

    def _bytes(self, filled: _Bytes, given: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if filled.own:
            given = np.frombuffer(ctypes.string_at(filled.data, filled.used), np.uint8)
            self._library.ours.fetch_free(filled.data)
        return given[: filled.used]

    def close(self) -> None:
        """Close the queues."""
        self._closed = True
        self._opened = (_P * 0)()
        while self._queues:
            self._library.client.rd_kafka_queue_destroy(self._queues.popitem()[1])


def opened(topic: str, make: Callable[..., Consumer], partitions: int = 1) -> tuple[Consumer, Source]:
    """Return a consumer, which `make` makes of settings that are added, and what reads a topic of so many partitions with it."""
    library = _library()
    refused: KafkaException | str | None = None
    if library is not None:
        library.ours.fetch_newest()
        try:
            consumer = make(
                **{
                    "plugin.library.paths": str(plain.LIBRARY),
                    "queued.min.messages": max(QUEUED_MESSAGES // partitions, LEAST_QUEUED_MESSAGES),
                    "queued.max.messages.kbytes": max(QUEUED_KBYTES // partitions, LEAST_QUEUED_KBYTES),
                }
            )
        except KafkaException as error:
            refused = error
        else:
            handle = library.ours.fetch_newest()
            if handle is not None:
                return consumer, Columns(consumer, handle, topic, library)
            consumer.close()
            refused = "the client did not call it"
    consumer = make()
    if refused is not None:  # a client that takes no plugins, or not this one: what else it refuses it refuses twice
        log.warning("join.plugin_refused topic=%s error=%s", topic, refused)
    return consumer, Objects(consumer, topic)
