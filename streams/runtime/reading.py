"""How does a command read a topic that it does not belong to? From one offset to another, outside of any group.

What is read ends where the log ended when reading began, so that a command ends too.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from config.settings import KafkaSettings, WorkerSettings
from schemas.baseline import Baseline
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.fields import MalformedRecordError
from streams.runtime import kafka, topics
from streams.runtime.terminal import CommandError, Exit, at, complain, lasting
from streams.runtime.unreadable import CHECKED, UNREADABLE, reach

POLL_S = 0.2
MOVING = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
"""What brokers answer for a moment when a topic was just made, or a leader just elected."""
LOST = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 -- so it is named in the client
"""What the client says when there is nothing at its position: deleted meanwhile, or made up of a batch's harmed bytes."""
FETCH_WAIT_MS = 10
"""How long a broker holds back an answer. What is read is there already: any wait is the next read's, on the same wire."""
CHUNK = 1_000
"""Messages taken from the client at once."""
FRESH_TURNS = 3
"""Turns of the clock for which a value is young enough to be that of a worker which still tells it."""
CLOCK_LOOKS = 5
"""Turns of the clock that an older one is waited for before it is said to stand."""
LAST_CLOCKS = 10
"""Records of the clock that are looked at, in case the last is none."""
TAIL = 400
"""Records looked at from the end of a partition, to find its newest mark of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    broker_ms: int
    key: bytes | None
    value: bytes | None


class Reader:
    """Reads topics of one deployment, named without its prefix.

    A batch that cannot be read is said once, counted in `unreadable` by topic, and stepped over.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.unreadable: Counter[str] = Counter()
        self._wait_s = settings.request_wait_ms / 1000
        self._consumer: Consumer = kafka.consumer(
            settings,
            "reader",
            f"{settings.topic_prefix}tocsin-reader",  # the client wants one; nothing joins or commits
            None,
            **{"enable.partition.eof": "true", "fetch.wait.max.ms": FETCH_WAIT_MS},
            **CHECKED,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def topic(self, name: str) -> str:
        """Name of a topic on the brokers."""
        return self._settings.topic_prefix + name

    def partitions(self, name: str) -> int:
        """Return how many partitions a topic has; 0 when it is not there."""
        try:
            found = self._consumer.list_topics(self.topic(name), timeout=self._wait_s).topics[self.topic(name)]
        except KafkaException as error:
            raise self._silent(error) from None
        return len(found.partitions) if found.error is None else 0

    def bounds(self, name: str, partition: int) -> tuple[int, int]:
        """Return the first offset of a partition and the next one to be written."""
        place, until_s = TopicPartition(self.topic(name), partition), time.monotonic() + self._wait_s
        while True:
            try:
                found = self._consumer.get_watermark_offsets(place, timeout=self._wait_s, cached=False)
                break
            except KafkaException as error:
                if error.args[0].code() not in MOVING or time.monotonic() > until_s:
                    raise self._silent(error) from None
            time.sleep(POLL_S)
        if found is None:
            raise CommandError(Exit.BROKER, f"{self.topic(name)}[{partition}]: no answer in {self._wait_s:g} s")
        return found

    def all(self, name: str, partitions: Sequence[int] | None = None, last: int | None = None) -> Iterator[Read]:
        """Read what there is now, each partition in order; with `last`, at most so many of each, from the end."""
        count = self.partitions(name)
        if count == 0:
            raise self.missing(name)
        spans = {}
        for partition in range(count) if partitions is None else partitions:
            low, high = self.bounds(name, partition)
            spans[partition] = (low if last is None else max(low, high - last), high)
        yield from self.between(name, spans)

    def between(self, name: str, spans: Mapping[int, tuple[int, int]]) -> Iterator[Read]:
        """Read offsets `[start, end)` of partitions, each in order; compaction may have left gaps."""
        left = {partition: end for partition, (start, end) in spans.items() if start < end}
        if not left:
            return
        topic = self.topic(name)
        reached = {partition: spans[partition][0] for partition in left}
        self._consumer.assign([TopicPartition(topic, partition, reached[partition]) for partition in left])
        silent_s = 0.0
        try:
            while left:
                first = self._consumer.poll(POLL_S)
                if first is None:
                    silent_s += POLL_S
                    if silent_s > self._wait_s:
                        behind = ", ".join(map(str, left))
                        raise CommandError(
                            Exit.BROKER, f"{topic}[{behind}]: nothing from the brokers in {self._wait_s:g} s"
                        )
                    continue
                silent_s = 0.0
                astray: set[int] = set()
                for message in (first, *self._consumer.consume(CHUNK, timeout=0)):
                    error = message.error()
                    if error is not None and error.code() in {*UNREADABLE, LOST}:
                        astray.add(message.partition() or 0)
                    if message.partition() in astray:  # what the client makes of the bytes behind is asked for again
                        continue
                    read = self._taken(name, message, left)
                    if read is not None:
                        reached[read.partition] = read.offset + 1
                        yield read
                if astray:
                    for partition in astray & left.keys():
                        end = left[partition]
                        reached[partition] = self._past_unreadable(name, partition, reached[partition], end)
                        if reached[partition] >= end:
                            del left[partition]
                    self._consumer.assign([TopicPartition(topic, partition, reached[partition]) for partition in left])
        finally:
            with suppress(RuntimeError):  # it may be closed when what was left unread is thrown away
                self._consumer.unassign()

    def _past_unreadable(self, name: str, partition: int, at: int, end: int) -> int:
        """Say that the batch which lies at an offset cannot be read, and return where it ends; `at` where it can be.

        What was deleted meanwhile is passed over.
        """
        at = max(at, self.bounds(name, partition)[0])
        if at >= end:
            return end
        found = reach(lambda offset: self._unreadable_at(name, partition, offset), at, end)
        if found is None:
            return at
        begins, ends = found
        if begins >= end:  # it is behind what is asked for, and nothing lies before it
            return end
        self.unreadable[name] += 1
        complain(
            f"{self.topic(name)}[{partition}]: what lies from offset {begins} to {ends - 1} cannot be read: left out"
        )
        return ends

    def _unreadable_at(self, name: str, partition: int, at: int) -> int | None:
        """Ask anew for what lies at an offset: None when it can be read, else the first offset of its batch."""
        place, until_s = TopicPartition(self.topic(name), partition, at), time.monotonic() + self._wait_s
        self._consumer.assign([place])
        while time.monotonic() < until_s:
            message = self._consumer.poll(POLL_S)
            error = None if message is None else message.error()
            if error is not None and error.code() == LOST:  # of the position before, as it comes late
                self._consumer.assign([place])
                continue
            if message is None or (error is not None and error.retriable()):
                continue
            return message.offset() or 0 if error is not None and error.code() in UNREADABLE else None
        raise CommandError(Exit.BROKER, f"{self.topic(name)}[{partition}]: no answer in {self._wait_s:g} s")

    def _taken(self, name: str, message: Message, left: dict[int, int]) -> Read | None:
        """Take one message, and strike its partition from `left` when it is the last."""
        partition, offset, error = message.partition(), message.offset(), message.error()
        assert partition is not None
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- so it is named in the client
                left.pop(partition, None)
            elif not error.retriable():
                raise CommandError(Exit.BROKER, f"{self.topic(name)}[{partition}]: {error.str()}")
            return None
        assert offset is not None
        end = left.get(partition, 0)
        if offset >= end - 1:
            left.pop(partition, None)
        if offset >= end:
            return None
        return Read(
            topic=name,
            partition=partition,
            offset=offset,
            broker_ms=message.timestamp()[1],
            key=message.key(),
            value=message.value(),
        )

    def missing(self, name: str) -> CommandError:
        """Say that a topic is not there, and what makes it."""
        return CommandError(
            Exit.NOT_SO,
            f"topic {self.topic(name)} is not on {self._settings.broker}: `tocsin topics create` makes it "
            "(are --broker and --topic-prefix right?)",
        )

    def _silent(self, error: KafkaException) -> CommandError:
        return CommandError(Exit.BROKER, kafka.unanswered(self._settings, self._consumer, error))


def wall_ms() -> int:
    """Return the time of this machine."""
    return time.time_ns() // 1_000_000


def newest_clock_ms(reader: Reader, partitions: Sequence[int] | None = None) -> int | None:
    """Return the newest value of the topic `clock`: the decision time of what is done now. None: no worker writes it."""
    last: dict[int, int] = {}
    for read in reader.all("clock", partitions, last=LAST_CLOCKS):
        with suppress(MalformedRecordError):
            last[read.partition] = Clock.decode(read.value).now_ms
    return max(last.values(), default=None)


@dataclass(frozen=True, slots=True)
class Told:
    """The newest time that a worker told; `moves` is whether any still does."""

    now_ms: int | None
    moves: bool

    def __str__(self) -> str:
        """Say since when there is no time, and what to do.

        >>> print(Told(None, moves=False))
        no worker tells the time: start `tocsin worker all`, or one of detect, triage, escalate and notify
        """
        start = "start `tocsin worker all`, or one of detect, triage, escalate and notify"
        if self.now_ms is None:
            return f"no worker tells the time: {start}"
        if self.moves:
            return at(self.now_ms)
        ago = lasting(max(0, wall_ms() - self.now_ms))
        return f"no worker has told the time since {at(self.now_ms)} ({ago} ago): {start}"


def told_time(reader: Reader, worker: WorkerSettings, partitions: Sequence[int] | None = None) -> Told:
    """Read the clock, of all partitions or of these.

    Where it is not as young as a worker keeps it, look whether it moves: either clock may be wrong.
    """
    now_ms = newest_clock_ms(reader, partitions)
    if now_ms is None:
        return Told(None, moves=False)
    if abs(wall_ms() - now_ms) <= FRESH_TURNS * worker.clock_every_ms:
        return Told(now_ms, moves=True)
    until_s = time.monotonic() + CLOCK_LOOKS * worker.clock_every_ms / 1000
    while time.monotonic() < until_s:
        time.sleep(worker.clock_every_ms / 1000)
        later_ms = newest_clock_ms(reader, partitions)
        if later_ms is not None and later_ms > now_ms:
            return Told(later_ms, moves=True)
    return Told(now_ms, moves=False)


def counted_through_ms(reader: Reader) -> dict[int, int]:
    """Return by source partition the newest `Closed`, which stands in every partition of `window-stats`."""
    through: dict[int, int] = {}
    for read in reader.all("window-stats", [0], last=TAIL):
        try:
            closed = Closed.decode(read.value)
        except MalformedRecordError:  # statistics of a tick, which stand between the marks
            continue
        through[closed.source_partition] = max(through.get(closed.source_partition, 0), closed.through_ms)
    return dict(sorted(through.items()))


def published_parts(reader: Reader) -> list[Baseline]:
    """Return the parts of each baseline that is published, by model and version."""
    by_key: dict[bytes | None, Baseline | None] = {}
    for read in reader.all(topics.BASELINES):
        try:
            by_key[read.key] = None if read.value is None else Baseline.decode(read.value)
        except MalformedRecordError as error:
            complain(f"{read.topic}[{read.partition}]@{read.offset} cannot be read: {error}")
    found = [one for one in by_key.values() if one is not None]
    return sorted(found, key=lambda one: (one.model, one.version, one.part))


def published(reader: Reader) -> list[Baseline]:
    """Return each baseline that is published, by model and version: what all of its parts list, without the counts.

    Of one that is not all there, what its first part lists.
    """
    found = []
    for _, of_one in groupby(published_parts(reader), lambda one: (one.model, one.version)):
        parts = [replace(one, arrays={}) for one in of_one]
        if parts[0].part == 0:
            found.append(replace(Baseline.joined(parts) or parts[0], parts=parts[0].parts))
    return found
