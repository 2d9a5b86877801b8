"""Which record comes next, and how is one read that was skipped?

Faust by itself loses events at a restart with a backlog, so committed offsets decide nothing here. The next expected
offset of each input partition, its *cursor*, is a row in the stage's own table, written with what the record changed. A
record below the cursor is a repeat, one above it shows that some were skipped: they are read back from the topic itself.
Beside each cursor stands the id of the topic that it counts in, for another may come under the same name.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from enum import Enum
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.runtime.kafka import is_fatal, topic_descriptions
from streams.runtime.stage_spec import Bytes, Headers
from streams.runtime.write_ahead import CURSOR_MARK, ENTRY_MARK, ID_MARK, PART_BYTES, Changes, table_key
from streams.stages.stage import Overlay
from streams.stages.state_rows import TornStateError

POLL_S = 0.2
PART_MARK = "\0"
"""Behind the name of a row: which part of it, where it is larger than a record may be."""
OWN_MARK = f"{PART_MARK}_"
"""How a `PART_MARK` of the name's own is written: names hold texts from outside, of any characters."""

log = logging.getLogger("tocsin.kafka")


class Place(Enum):
    """Where a record stands, seen from the cursor."""

    REPEAT = "repeat"
    NEXT = "next"
    AHEAD = "ahead"


def place(cursor: int, offset: int) -> Place:
    """Compare an offset with the cursor.

    >>> [place(7, offset).value for offset in (6, 7, 9)]
    ['repeat', 'next', 'ahead']
    """
    if offset < cursor:
        return Place.REPEAT
    return Place.NEXT if offset == cursor else Place.AHEAD


class View:
    r"""Rows, cursors and topics' ids of one partition, taken out of a table that holds all partitions.

    >>> view = View(2, {b"2/a": b"1", b"2/@findings": b"7", b"3/a": b"foreign"})
    >>> dict(view.rows), view.cursors
    ({'a': b'1'}, {'findings': 7})
    >>> view.rows["b"] = b"2"; view.cursors["findings"] = 8
    >>> changes = Changes(); view.settle(changes); list(changes.records(2))
    [(b'2/b', b'2'), (b'2/@findings', b'8')]
    >>> view.settle(changes := Changes()); list(changes.records(2)), dict(view.rows)
    ([], {'a': b'1', 'b': b'2'})

    A row that no record could hold travels in parts:

    >>> view.rows["b"] = bytes(PART_BYTES + 1); view.settle(changes := Changes())
    >>> [(key, None if row is None else len(row)) for key, row in changes.records(2)]
    [(b'2/b', None), (b'2/b\x000', 800000), (b'2/b\x001', 1)]

    A name may hold any character, also that which tells parts:

    >>> view.rows["c\0001"] = b"3"; view.settle(changes := Changes()); list(changes.records(2))
    [(b'2/c\x00_1', b'3')]
    >>> dict(View(2, {b"2/c\0_1": b"3"}).rows) == {"c\0001": b"3"}
    True

    Raises
    ------
    TornStateError
        When a row, a cursor or an id is none: something else wrote it.
    """

    def __init__(self, partition: int, table: Mapping[bytes, bytes]) -> None:
        self._held: dict[str, bytes] = {}
        self.cursors: dict[str, int] = {}
        self.ids: dict[str, str] = {}
        self._parts: dict[str, int] = {}
        parts: dict[str, dict[int, bytes]] = {}
        prefix = table_key(partition, "")
        for key, value in table.items():
            if key.startswith(prefix):
                try:
                    self._take(key[len(prefix) :].decode(), value, parts)
                except ValueError:
                    raise TornStateError(
                        f"{key!r}: expected a row, a cursor or an id, got {len(value)} bytes"
                    ) from None
        for name, some in parts.items():
            self._held[name] = b"".join(some[number] for number in sorted(some))
            self._parts[name] = len(some)
        self._settled_cursors, self._settled_ids = dict(self.cursors), dict(self.ids)
        self.rows: Overlay[bytes] = Overlay(self._held)

    def _take(self, name: str, value: bytes, parts: dict[str, dict[int, bytes]]) -> None:
        if name.startswith(CURSOR_MARK):
            self.cursors[name.removeprefix(CURSOR_MARK)] = int(value)
        elif name.startswith(ID_MARK):
            self.ids[name.removeprefix(ID_MARK)] = value.decode()
        else:
            whole, mark, number = name.rpartition(PART_MARK)
            if mark and number.isdecimal():
                parts.setdefault(_own(whole), {})[int(number)] = value
            else:
                self._held[_own(name)] = value

    def settle(self, changes: Changes) -> None:
        """Move what was assigned, and how far was read of which topics, into `changes`."""
        rows = self.rows.changes()
        for key, row in rows.items():
            assert not key.startswith((CURSOR_MARK, ENTRY_MARK, ID_MARK)), f"{key}: such keys are the host's"
            changes.rows |= self._records(key, row)
            if row is None:
                self._held.pop(key, None)
            else:
                assert row, f"{key}: an empty row cannot be told from a deleted one"
                self._held[key] = row
        self.rows.settle()
        moved = {topic: at for topic, at in self.cursors.items() if self._settled_cursors.get(topic) != at}
        if rows or moved:
            changes.cursors.update(moved)
            self._settled_cursors.update(moved)
            changes.ids.update({topic: one for topic, one in self.ids.items() if self._settled_ids.get(topic) != one})
            self._settled_ids.update(self.ids)

    def _records(self, key: str, row: bytes | None) -> dict[str, bytes | None]:
        """Return what is to be written of a row: itself, or parts of it, and what falls away."""
        whole = row is None or len(row) <= PART_BYTES
        parts = [] if row is None or whole else [row[at : at + PART_BYTES] for at in range(0, len(row), PART_BYTES)]
        before = self._parts.pop(key, 0)
        name = key.replace(PART_MARK, OWN_MARK)
        records: dict[str, bytes | None] = {}
        if whole or (key in self._held and not before):
            records[name] = row if whole else None
        for number in range(max(before, len(parts))):
            records[f"{name}{PART_MARK}{number}"] = parts[number] if number < len(parts) else None
        if parts:
            self._parts[key] = len(parts)
        return records


def _own(written: str) -> str:
    """Return a row's name as the stage knows it."""
    return written.replace(OWN_MARK, PART_MARK)


def headers_of(raw: object) -> Headers:
    """Bring either client's headers into one form.

    >>> headers_of(None), headers_of([("a", b"1"), ("b", None)])
    ((), (('a', b'1'), ('b', b'')))
    """
    return tuple((str(name), value or b"") for name, value in raw) if isinstance(raw, list | tuple) else ()


class UnansweredError(RuntimeError):
    """The brokers did not answer in time, or refused: about what, and in whose words."""


class ReadBackError(RuntimeError):
    """The broker did not give what it holds in time; the process ends and starts again."""


class GoneError(ReadBackError):
    """What was asked for is not there any more: retention took it, unless a broker has spoken too soon."""


class ReadBack:
    """A short-lived reader of one partition, outside of any group. It blocks: call it off the loop."""

    def __init__(self, consumer: Consumer, topic: str, partition: int, wait_ms: int) -> None:
        self._consumer = consumer
        self._at = TopicPartition(topic, partition)
        self._wait_ms = wait_ms
        self._assigned_from: int | None = None

    def read(self, start: int, end: int, limit: int) -> tuple[Sequence[Bytes], int]:
        """Read at most `limit` records of `[start, end)`; return them and the offset to go on from.

        What compaction or a transaction's marker left empty is passed over: then the second exceeds the last record's
        offset by more than one.

        Raises
        ------
        GoneError
            There is nothing at `start`, the log begins behind it.
        ReadBackError
            Nothing came in time.
        """
        topic, partition = self._at.topic, self._at.partition
        if self._assigned_from != start:
            self._consumer.assign([TopicPartition(topic, partition, start)])
        records: list[Bytes] = []
        waits = self._wait_ms / 1000 / POLL_S
        while len(records) < limit:
            message = self._consumer.poll(POLL_S)
            error = None if message is None else message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- so it is named in the client
                    at = None if message is None else message.offset()
                    if at is not None and at >= end:
                        return records, end  # what lies between is empty
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
                    raise GoneError(f"{topic}[{partition}]: nothing at {start}")
                elif is_fatal(error):
                    raise KafkaException(error)
            if message is None or error is not None:  # the client itself goes on trying
                waits -= 1
                if waits <= 0:
                    raise ReadBackError(f"{topic}[{partition}]: nothing from {start} on in {self._wait_ms} ms")
                continue
            offset = message.offset()
            assert offset is not None
            if offset >= end:
                return records, end
            kind, at_ms = message.timestamp()
            has_time = kind != TIMESTAMP_NOT_AVAILABLE
            records.append(
                Bytes(
                    offset, message.key(), message.value(), headers_of(message.headers()), at_ms if has_time else None
                )
            )
            if offset == end - 1:
                return records, end
        self._assigned_from = records[-1].offset + 1
        return records, self._assigned_from


class Edges:
    """Where do partitions begin and end, as the broker says now? It blocks: call it off the loop.

    Not asked through Faust's consumer, whose connection serves a fetch before it serves this.

    After a failed answer the next question is asked by a new client: one that was open while a leader changed may ask
    with the old leader epoch for ever, and is refused for ever (`FENCED_LEADER_EPOCH`). Each question raises
    `UnansweredError`.
    """

    def __init__(self, client: Mapping[str, str], wait_ms: int) -> None:
        self._client: dict[str, Any] = {**client, "logger": log}
        self._admin = AdminClient(self._client)
        self._wait_s = wait_ms / 1000

    def partitions(self, topic: str) -> int:
        """Count a topic's partitions, 0 where there is none."""
        with self._asking(f"{topic}: "):
            return len(self._admin.list_topics(topic, timeout=self._wait_s).topics[topic].partitions)

    def starts(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the first offset that is still there, by (topic, partition)."""
        return self._ask(places, OffsetSpec.earliest())

    def ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the offset that the next record will get; all that was acknowledged before is below it."""
        return self._ask(places, OffsetSpec.latest())

    def ids(self, names: Iterable[str]) -> dict[str, str]:
        """Return the id that each topic has had since it was made, where the brokers give ids."""
        with self._asking():
            asked = topic_descriptions(self._admin, names, self._wait_s)
        return {name: str(self._answer(name, answer).topic_id) for name, answer in asked.items()}

    def _ask(self, places: Iterable[tuple[str, int]], which: OffsetSpec) -> dict[tuple[str, int], int]:
        asked = {TopicPartition(topic, partition): which for topic, partition in places}
        if not asked:
            return {}
        answers = self._admin.list_offsets(asked, request_timeout=self._wait_s)
        return {
            (at.topic, at.partition): self._answer(f"{at.topic}[{at.partition}]", answer).offset
            for at, answer in answers.items()
        }

    def _answer(self, about: str, answer: "Future[Any]") -> Any:  # noqa: ANN401 -- as the client has it
        with self._asking(f"{about}: "):
            return answer.result(self._wait_s)

    @contextmanager
    def _asking(self, about: str = "") -> Iterator[None]:
        try:
            yield
        except (KafkaException, TimeoutError) as error:
            self._admin = AdminClient(self._client)
            said = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
            raise UnansweredError(f"{about}{said}") from error


@contextmanager
def read_back(client: Mapping[str, str], topic: str, partition: int, wait_ms: int) -> Iterator[ReadBack]:
    """Open a reader for one partition; `client` holds `bootstrap.servers` and the security settings of librdkafka."""
    consumer = Consumer(
        {
            **client,
            "logger": log,
            "group.id": "tocsin-read-back",  # the client wants one; nothing joins or commits
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_uncommitted",  # as Faust: a record is the same through either door
        }
    )
    try:
        yield ReadBack(consumer, topic, partition, wait_ms)
    finally:
        consumer.close()
