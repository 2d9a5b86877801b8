"""How do pure stages run as Faust agents without losing what Faust loses?

One app holds one agent for each stage, and each stage one object for each input partition that this worker owns. Its
rows lie in a compacted changelog of ours, which is read anew whenever partitions have moved. For each record: cursor,
stage, then outputs, rows and cursor made durable as one (`write_ahead.py`), ack. What is ready while an earlier group is
still on its way to the broker goes with the next group, so that a backlog costs round trips by the hundred and not by
the record.

No exception leaves an agent, since Faust would commit the record. A fault of ours ends the process at once, acking
nothing; what it left is read again from the cursor. Brokers that are away are waited for: what is in hand goes on when
they are back, in the same order.
"""

import asyncio
import logging
import math
import os
import ssl
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, TypeVar, cast

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from confluent_kafka import KafkaException
from faust.assignor.partition_assignor import PartitionAssignor
from faust.exceptions import ProducerSendError
from faust.transport.drivers.aiokafka import Producer
from faust.types import TP
from mode.threads import WorkerThread

from config.settings import ProbeSettings
from schemas.clock import Clock
from schemas.fields import MalformedRecordError
from streams.runtime import host_status, logs
from streams.runtime.claims import TAKEN_OVER
from streams.runtime.cursor import (
    Edges,
    GoneError,
    Place,
    ReadBackError,
    UnansweredError,
    View,
    headers_of,
    place,
    read_back,
)
from streams.runtime.host_status import StageStatus
from streams.runtime.kafka import is_fatal
from streams.runtime.metrics import Measure
from streams.runtime.probes import Health
from streams.runtime.stage_spec import Bytes, Decision, Handed, Routed, StageSpec
from streams.runtime.write_ahead import (
    ENTRY_MARK,
    Changes,
    Restored,
    claim,
    epoch_headers,
    epoch_of,
    table_key,
)
from streams.stages.stage import has_more

CLOCK = "clock"
LOG_APPEND_TIME = 1
"""How Kafka says that a record bears the broker's time, and not its writer's."""
CLOCK_AHEAD_MS = 300_000
"""How far a worker's clock may be ahead of the broker's, or of this machine's where the broker stamps nothing."""
BEAT_S = 0.25
PUBLISH_EVERY_S = 1.0
AWAY_S = 5.0
"""How long the brokers may answer nothing before they count as away: then nobody is blamed for what does not come."""
HELD_S = 10.0
"""How long one commit may last, while the brokers answer, before that is said."""
RESTORED_AT_ONCE = 10_000
WATCH_S = 1.0
IDS_EVERY_S = 30.0
"""How often the brokers are asked whether the inputs are still the topics that were read."""
TRIES_WHEN_ANSWERED = 3
"""How often reading back may find nothing although the brokers answer; then the process ends, for it may be its client."""
EXIT_STATUS = 70  # EX_SOFTWARE
MAX_POLL_RECORDS = 500
COMMIT_EVERY = 500
COMMIT_INTERVAL_S = 1.0

log = logging.getLogger("tocsin.host")

Asked = TypeVar("Asked")
Told = TypeVar("Told")
AnySpec = StageSpec[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What one worker is told.

    Parameters
    ----------
    app_id
        Consumer group, and first part of the changelogs' names; one for each role.
    broker
        `HOST:PORT`, several with commas.
    security
        Settings of librdkafka: `security.protocol`, `sasl.mechanism`, `sasl.username`, `sasl.password`,
        `ssl.ca.location`, `ssl.certificate.location`, `ssl.key.location`, `ssl.key.password`; empty means plain text.
    topic_prefix
        What keeps deployments apart, for instance `demo.`.
    partitions
        Partitions of every input, of the clock and of the changelogs.
    instance_id
        Static membership: the worker that comes back under this name within the session keeps its partitions. None
        for a member that comes and goes.
    session_timeout_ms, heartbeat_ms
        The group's view of a worker that is silent. A loop that finds itself silent for their difference ends.
    writes_clock, clock_every_ms
        Whether this worker writes the clock to the partitions that it owns, and how often. Off where a replayer does.
    clock_wait_ms
        How long a clock which this worker writes may stay unseen before the worker ends: Faust has stopped fetching.
    restore_wait_ms
        How long a rebalance with its recovery may take; then the process ends, since Faust's may hang.
    stall_wait_ms
        How long a record that the broker holds may stay undelivered before it is read back.
    delivery_wait_ms
        How long the broker may take to answer one request; then it is asked again.
    read_back_wait_ms
        How long reading back may find nothing where the broker says there is something; then a new client tries.
    group_limit
        Records that may wait for one commit.
    fetch_wait_ms
        How long a broker waits before it answers a fetch that there is nothing.
    """

    app_id: str
    broker: str
    security: Mapping[str, str]
    topic_prefix: str
    partitions: int
    instance_id: str | None
    session_timeout_ms: int
    heartbeat_ms: int
    writes_clock: bool
    clock_every_ms: int
    clock_wait_ms: int
    restore_wait_ms: int
    stall_wait_ms: int
    delivery_wait_ms: int
    read_back_wait_ms: int
    group_limit: int
    fetch_wait_ms: int

    @property
    def group(self) -> str:
        """The consumer group."""
        return f"{self.topic_prefix}{self.app_id}"

    @property
    def client(self) -> dict[str, str]:
        """Settings for a librdkafka client."""
        return {"bootstrap.servers": self.broker, "log_level": "3", **self.security}

    def changelog(self, stage: str) -> str:
        """Name of a stage's changelog topic, which is compacted and has `partitions` partitions."""
        return f"{self.group}-{stage}-changelog"


@dataclass(slots=True)
class Counts:
    """What a stage's host did since it began."""

    handled: int = 0
    repeats: int = 0
    dead_letters: int = 0
    read_backs: int = 0
    read_back_records: int = 0
    empty_offsets: int = 0
    retention_gaps: int = 0
    offsets_lost: int = 0
    rewinds: int = 0
    clocks_ahead: int = 0
    foreign_rows: int = 0
    groups: int = 0
    outputs: int = 0


def end_hard(reason: str, error: BaseException | None = None) -> NoReturn:
    """End the process now: nothing is acked, flushed or handed over, and no clean-up can write."""
    log.critical("host.ended reason=%s", reason, exc_info=error)
    for handler in (*log.handlers, *logging.getLogger().handlers):
        with suppress(OSError, ValueError):
            handler.flush()
    os._exit(EXIT_STATUS)


def is_held() -> bool:
    """Whether a thread of Faust's lives: where nobody stops it any more, it holds the process for ever."""
    return any(isinstance(thread, WorkerThread) for thread in threading.enumerate())


def now_s() -> float:
    """Return a time that only grows and, where the system knows it, goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Heart:
    """Has the loop been silent for so long that somebody else may own our partitions?

    A process that was stopped and goes on would write old rows into a changelog with a new owner. Whoever is about to
    write asks `check` first; whichever runs first after the silence ends the process.
    """

    def __init__(self, silence_ms: int) -> None:
        self._silence_s = silence_ms / 1000
        self._last_s = now_s()

    def begin(self) -> None:
        """Count from now on."""
        self._last_s = now_s()

    def beat(self) -> None:
        """Say that the loop is alive."""
        self.check()
        self._last_s = now_s()

    def check(self) -> None:
        """End the process when the last beat is too old."""
        silence_s = now_s() - self._last_s
        if silence_s > self._silence_s:
            end_hard(f"silent_beyond_session silence_ms={silence_s * 1000:.0f}")

    @property
    def age_ms(self) -> int:
        """Return the time since the last beat, for the probe of liveness."""
        return int((now_s() - self._last_s) * 1000)


@dataclass(slots=True)
class Due:
    """A clock value, and how far each input has to be read before it may be passed on."""

    now_ms: int
    ends: Mapping[str, int]


@dataclass(slots=True, kw_only=True)
class Owned:
    """One input partition of one stage, from assignment to revocation."""

    partition: int
    view: View
    stage: Any
    epoch: int
    next_changelog_offset: int
    moved_at_s: dict[str, float]
    read_from_s: dict[str, float]
    """By input, a moment before which all that came to the broker is read."""
    clock_seen_at_s: float
    all_read_s: dict[str, float] = field(default_factory=dict)
    """By input, when it was last asked where it ends and all of that was read."""
    told_ms: dict[str, int] = field(default_factory=dict)
    clock_ms: int = -1
    clock_seen_ms: int = -1
    clock_is_ahead: bool = False
    ends: Mapping[str, int] = field(default_factory=dict)
    unsettled_since_s: float | None = None
    due: deque[Due] = field(default_factory=deque)
    taken_ms: int = -1
    entries: int = 0

    def reached(self, ends: Mapping[str, int]) -> bool:
        """Tell whether all inputs are read up to `ends`."""
        return all(self.view.cursors[topic] >= end for topic, end in ends.items())

    def note_read(self, topic: str, at_ms: int | None) -> None:
        """Learn that a record was read, which came to the broker at a time of the wall."""
        if at_ms is not None:
            age_s = max(time.time() - at_ms / 1000, 0.0)
            self.read_from_s[topic] = max(now_s() - age_s, self.all_read_s.get(topic, -math.inf))

    def note_ends(self, ends: Mapping[str, int], asked_s: float) -> None:
        """Learn where inputs ended when the brokers were asked; what came later came after `asked_s`."""
        self.ends = ends
        for topic, end in ends.items():
            if self.view.cursors[topic] >= end:
                self.all_read_s[topic] = asked_s
                self.read_from_s[topic] = max(self.read_from_s[topic], asked_s)

    def behind(self, ends: Mapping[str, int]) -> list[str]:
        """Return the inputs that are not read up to `ends`."""
        return [topic for topic, end in ends.items() if self.view.cursors[topic] < end]


@dataclass(slots=True)
class Group:
    """What waits for one commit."""

    outputs: int = 0
    changes: dict[int, Changes] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    taken_ms: dict[int, int] = field(default_factory=dict)
    handed: list[Handed] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    since_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.changes or self.events or self.taken_ms or self.handed)


class StageHost:
    """One stage in this worker: all that happens to it happens in order, under one lock.

    The agent hands records in, a watch compares cursors with the ends of the topics and tells the clock, and a
    committer makes durable what the two have left in `_group`.
    """

    def __init__(self, app: faust.App, settings: HostSettings, spec: AnySpec, heart: Heart, edges: Edges) -> None:
        self.spec = spec
        self.counts = Counts()
        self.owned: dict[int, Owned] = {}
        self._assigned: set[int] = set()
        self._assigned_in = self._taken_in = -1  # the number of the rebalance
        self._app = app
        self._settings = settings
        self._heart = heart
        self._edges = edges
        self._lock = asyncio.Lock()
        self._group = Group()
        self._group_waits = asyncio.Event()
        self._committing = False
        self._committed = asyncio.Condition()
        self._clock_news = asyncio.Event()
        self._answered_s = now_s()
        self._away = False
        self._held = False
        self._deaf_since_s: float | None = None
        self._deaf_s = 0.0
        self._away_until_s = now_s()  # a clock that is not seen says nothing while the brokers are away
        self._refusal = ""
        self._committing_since_s: float | None = None
        self._sending = 0
        self._sending_since_s: float | None = None
        self._restored = False
        self._stopping = False
        self._progress: dict[int, float] = {}
        self._told: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._ids_asked_s = -math.inf
        self._others: set[str] = set()
        self._rounds_s = {"watch": now_s(), "commit": now_s()}
        prefix = settings.topic_prefix
        self._clock_topic = prefix + CLOCK
        self._inputs = {prefix + topic: topic for topic in spec.inputs}
        self._changelog = settings.changelog(spec.name)
        self._table: dict[bytes, bytes] = {}
        self._subscribed = [*self._inputs, self._clock_topic]
        topics = app.topic(
            *self._subscribed,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            allow_empty=True,
        )
        self._stream: Any = None
        self._decisions = logging.getLogger(f"tocsin.{spec.name}")
        self.status = self._seen()
        app.agent(topics, name=spec.name, concurrency=1)(self._agent)

    def expect_end(self) -> None:
        """Learn that the agent is to end: before that, one that ends is a fault."""
        self._stopping = True

    def hear_answer(self) -> None:
        """Learn that the brokers have answered."""
        self._answered_s = now_s()

    @property
    def is_answered(self) -> bool:
        """Whether the brokers have answered lately; they are asked about once a second."""
        return now_s() - self._answered_s <= AWAY_S

    @property
    def topics(self) -> list[str]:
        """All topics that have to be there, with equal partition counts."""
        return [*self._subscribed, self._changelog]

    @property
    def moving(self) -> bool:
        """Whether a rebalance began after partitions were taken: Faust says so before it revokes anything."""
        return self._app.rebalancing_count != self._taken_in

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lock; meanwhile no record of the clock is heard, and that is nobody's fault."""
        async with self._lock:
            self._deaf_since_s = now_s()
            try:
                yield
            finally:
                self._deaf_s += now_s() - self._deaf_since_s
                self._deaf_since_s = None

    def _listening_s(self) -> float:
        """Return a time that stands still while the lock is held."""
        return (now_s() if self._deaf_since_s is None else self._deaf_since_s) - self._deaf_s

    # ---- records

    async def _agent(self, stream: Any) -> None:  # noqa: ANN401 -- Faust's stream type is generic over nothing we use
        self._stream = stream
        async for event in stream.noack().events():
            try:
                await self._handle(event)
            except Exception as error:  # noqa: BLE001 -- raising here would commit the record
                end_hard(f"stage={self.spec.name}", error)
        if not self._stopping:
            end_hard(f"agent_ended stage={self.spec.name}")

    async def _handle(self, event: Any) -> None:  # noqa: ANN401
        """Handle one record that Faust delivered; acked unhandled while partitions move, for the cursor decides."""
        message = event.message
        async with self._alone():
            owned = self.owned.get(message.partition)
            if owned is None or self.moving:
                await self._stream.ack(event)
                return
            if message.topic == self._clock_topic:
                self._hear_clock(owned, message)
                await self._stream.ack(event)
                return
            topic = self._inputs[message.topic]
            if place(owned.view.cursors[topic], message.offset) is Place.AHEAD:
                await self._read_back(owned, topic, message.offset)
            match place(owned.view.cursors[topic], message.offset):
                case Place.NEXT:
                    at_ms = None if message.timestamp is None else round(message.timestamp * 1000)
                    record = Bytes(message.offset, message.key, message.value, headers_of(message.headers), at_ms)
                    await self._receive(owned, topic, record)
                case Place.REPEAT:
                    self.counts.repeats += 1
                case Place.AHEAD:  # reading back was broken off
                    await self._stream.ack(event)
                    return
            self._begun().events.append(event)
            self._group_waits.set()
        await self._wait_for_room()

    async def _receive(self, owned: Owned, topic: str, record: Bytes) -> bool:
        """Give one record to the stage, move the cursor past it, and tell whether the stage is ready for the next."""
        if not await self._go_on(owned):
            return False
        view, spec = owned.view, self.spec
        try:
            decoded = spec.decode(topic, record.key, record.value, record.headers)
        except MalformedRecordError as error:
            self.counts.dead_letters += 1
            outputs = [spec.dead(topic, owned.partition, record, error)]
        else:
            outputs = [] if decoded is None else owned.stage.receive([decoded])
            told_ms = None if decoded is None else spec.told_at_ms(decoded)
            if told_ms is not None:
                owned.told_ms[topic] = max(told_ms, owned.told_ms.get(topic, told_ms))
        self.counts.handled += 1
        view.cursors[topic] = record.offset + 1
        owned.moved_at_s[topic] = now_s()
        owned.note_read(topic, record.at_ms)
        self._gather(owned, outputs)
        return await self._go_on(owned) and await self._advance_if_due(owned)

    async def _go_on(self, owned: Owned) -> bool:
        """Let the stage do what it has left, and others have the loop between the pieces; tell whether all is done.

        It is broken off where partitions move, or the worker is told to stop: then nothing more is given to this stage, and
        what is left follows from the rows of whoever owns the partition next.
        """
        while has_more(owned.stage):
            await asyncio.sleep(0)
            await self._wait_for_room()
            if self._is_leaving:
                return False
            self._gather(owned, owned.stage.more())
        return True

    @property
    def _is_leaving(self) -> bool:
        return self.moving or self._stopping

    async def _read_back(self, owned: Owned, topic: str, end: int) -> None:
        """Read what Faust skipped, up to `end`, unless partitions begin to move or the worker is told to stop."""
        view = owned.view
        start, lost, before = view.cursors[topic], self.counts.offsets_lost, self.counts.handled
        self.counts.read_backs += 1
        reading = self._reading(
            self._settings.topic_prefix + topic,
            owned.partition,
            (start, end),
            self._settings.group_limit,
            while_=lambda: not self._is_leaving,
        )
        async for records, next_offset in reading:
            for record in records:
                if not await self._receive(owned, topic, record):
                    break
                await asyncio.sleep(0)
            else:
                view.cursors[topic] = next_offset
                self._gather(owned, [])
            await self._wait_for_room()
        handled = self.counts.handled - before
        read = view.cursors[topic] - start - (self.counts.offsets_lost - lost)
        self.counts.read_back_records += handled
        self.counts.empty_offsets += read - handled
        log.info(
            "cursor.read_back stage=%s topic=%s partition=%d start=%d end=%d records=%d empty=%d",
            self.spec.name, topic, owned.partition, start, end, handled, read - handled,
        )  # fmt: skip

    async def _reading(
        self, topic: str, partition: int, span: tuple[int, int], limit: int, while_: Callable[[], bool]
    ) -> AsyncIterator[tuple[Sequence[Bytes], int]]:
        """Read `[start, end)` of a topic in pieces, each with the offset to go on from, while something holds.

        Brokers that are away are asked again by a new client, however long it takes; where they answer and nothing comes,
        a few times only. What retention took is stepped over, counted and said.
        """
        at, end = span
        tries = TRIES_WHEN_ANSWERED
        while at < end and while_():
            try:
                with read_back(self._settings.client, topic, partition, self._settings.read_back_wait_ms) as reader:
                    while at < end and while_():
                        records, at = await asyncio.to_thread(reader.read, at, end, limit)
                        self._answered_s = now_s()
                        tries = TRIES_WHEN_ANSWERED
                        yield records, at
            except (KafkaException, ReadBackError) as error:
                if isinstance(error, KafkaException) and is_fatal(error.args[0]):
                    raise
                starts = await self._ask(self._edges.starts, [(topic, partition)], while_)
                if isinstance(error, GoneError) and starts is not None and starts[topic, partition] > at:
                    self._note_gap(
                        topic.removeprefix(self._settings.topic_prefix), partition, at, starts[topic, partition]
                    )
                    at = min(starts[topic, partition], end)
                    yield (), at
                    continue
                tries -= 1
                if tries == 0:
                    raise
                log.warning("cursor.reads_again topic=%s partition=%d start=%d error=%s", topic, partition, at, error)

    async def _ask(
        self,
        question: Callable[[Sequence[Asked]], dict[Asked, Told]],
        about: Sequence[Asked],
        while_: Callable[[], bool],
    ) -> dict[Asked, Told] | None:
        """Ask the brokers, again and again while they do not answer and something holds; None when it holds no more."""
        while while_():
            try:
                answer = await asyncio.to_thread(question, about)
            except UnansweredError as error:
                self._refusal = str(error)
                await asyncio.sleep(BEAT_S)
            else:
                self._answered_s = now_s()
                return answer
        return None

    def _begun(self) -> Group:
        """Return the group that waits; its time counts from its first content on."""
        if not self._group:
            self._group.since_s = now_s()
        return self._group

    def _gather(self, owned: Owned, outputs: Iterable[Any]) -> None:
        """Put outputs, and what is settled, into the group that waits."""
        group = self._begun()
        changes = group.changes.setdefault(owned.partition, Changes())
        for output in outputs:
            if (decision := self.spec.tell(output)) is not None:
                group.decisions.append(decision)
            routed = self.spec.route(output)
            if isinstance(routed, Handed):
                group.handed.append(routed)
                continue
            for one in (routed,) if isinstance(routed, Routed) else routed:
                changes.outputs.append(replace(one, topic=self._settings.topic_prefix + one.topic))
                group.outputs += 1
        if owned.stage.settled:
            owned.unsettled_since_s = None
            owned.view.settle(changes)
        elif owned.unsettled_since_s is None:
            owned.unsettled_since_s = now_s()
        self._group_waits.set()

    # ---- time

    def _hear_clock(self, owned: Owned, message: Any) -> None:  # noqa: ANN401 -- Faust's
        """Learn a clock value; one that a worker wrote counts as now where it is far ahead of a clock that is not its own."""
        try:
            now_ms = Clock.decode(message.value).now_ms
        except MalformedRecordError as error:
            log.warning("clock.refused partition=%d error=%s", owned.partition, error)
            return
        # a topic that is as it was made once bears the writer's own time
        is_stamped = message.timestamp_type == LOG_APPEND_TIME and message.timestamp is not None
        other_ms = round((message.timestamp if is_stamped else time.time()) * 1000)
        is_ahead = self._settings.writes_clock and now_ms > other_ms + CLOCK_AHEAD_MS
        if is_ahead:
            self.counts.clocks_ahead += 1
            if not owned.clock_is_ahead:
                log.error(
                    "clock.ahead stage=%s partition=%d ahead_ms=%d error=a worker's clock is wrong: set it right",
                    self.spec.name, owned.partition, now_ms - other_ms,
                )  # fmt: skip
            now_ms = other_ms
        owned.clock_is_ahead = is_ahead
        owned.clock_ms = max(now_ms, owned.clock_ms)
        owned.clock_seen_at_s = self._listening_s()
        self._clock_news.set()

    async def watch(self) -> None:
        """Compare cursors with the ends of the topics, at each clock record and at least once a second."""
        while True:
            await set_or_late(self._clock_news, WATCH_S)
            self._clock_news.clear()
            self._rounds_s["watch"] = now_s()
            was_moving = self.moving
            heard = {} if was_moving else {partition: owned.clock_ms for partition, owned in self.owned.items()}
            read = {partition: dict(self.owned[partition].view.cursors) for partition in heard}
            places = self._places(heard) or [(self._clock_topic, 0)]  # whoever owns nothing asks whether they are there
            asked_s = now_s()
            found = await self._ask(self._edges.ends, places, partial(self._moves_as, was_moving))
            if found is None or not heard:
                continue
            ends = self._by_input(heard, found)
            await self._check_ids(read, ends)
            async with self._alone():
                for partition, now_ms in heard.items():
                    owned = self.owned.get(partition)
                    if owned is not None and not self.moving:
                        await self._look(owned, now_ms, ends[partition], asked_s)
            if not self._is_leaving:
                self._watch_clock()
            await self._wait_for_room()

    async def _check_ids(self, read: Mapping[int, Mapping[str, int]], ends: Mapping[int, Mapping[str, int]]) -> None:
        """End where an input is another topic than the one that was read: who starts reads it from its beginning.

        Asked now and then, and at once where a topic ends before what was read; a broker may answer with what was, so
        that two answers count, one after the other.

        Parameters
        ----------
        read, ends
            By partition and input: how far was read, and where the topics ended when they were asked after that.
        """
        is_short = any(
            ends[partition][topic] < cursor for partition, cursors in read.items() for topic, cursor in cursors.items()
        )
        if not is_short and now_s() - self._ids_asked_s < IDS_EVERY_S:
            return
        was_moving = self.moving
        found = await self._ask(self._edges.ids, list(self._inputs), partial(self._moves_as, was_moving))
        if found is None or was_moving:
            return
        self._ids_asked_s = now_s()
        others = {
            topic
            for owned in self.owned.values()
            for full, topic in self._inputs.items()
            if full in found and found[full] != owned.view.ids.get(topic, found[full])
        }
        if others and others == self._others:
            end_hard(
                f"made_anew stage={self.spec.name} topics={sorted(others)} error=other topics have these names: whoever "
                "starts reads them from their beginning"
            )
        self._others = others
        if others:
            self._ids_asked_s = -math.inf

    def _moves_as(self, before: bool) -> bool:  # noqa: FBT001 -- what `moving` was
        return self.moving == before

    def _places(self, partitions: Iterable[int]) -> list[tuple[str, int]]:
        return [(topic, partition) for partition in partitions for topic in self._inputs]

    def _by_input(self, partitions: Iterable[int], found: Mapping[tuple[str, int], int]) -> dict[int, dict[str, int]]:
        return {
            partition: {name: found[topic, partition] for topic, name in self._inputs.items()}
            for partition in partitions
        }

    async def _look(self, owned: Owned, now_ms: int, ends: Mapping[str, int], asked_s: float) -> None:
        """Pass on the clock if all is read, read back what does not come, and watch that the clock comes at all.

        Parameters
        ----------
        ends
            Of each input, asked after `now_ms` was heard: what was acknowledged before is counted.
        asked_s
            When that was.
        """
        owned.note_ends(ends, asked_s)
        if not await self._go_on(owned):
            return
        if now_ms > owned.clock_seen_ms:
            owned.clock_seen_ms = now_ms
            if hasattr(owned.stage, "clock"):
                self._gather(owned, owned.stage.clock(now_ms, owned.reached(ends)))
            if len(owned.due) > 1:
                owned.due.pop()  # the oldest and the newest are enough
            owned.due.append(Due(now_ms, ends))
        if not (await self._go_on(owned) and await self._advance_if_due(owned)):
            return
        late_s = now_s() - self._settings.stall_wait_ms / 1000
        for topic in owned.behind(ends):
            if owned.moved_at_s[topic] < late_s:
                await self._read_back(owned, topic, ends[topic])
        if await self._go_on(owned):
            await self._advance_by_records(owned, ends)

    def _watch_clock(self) -> None:
        """End the process where the clock that it writes is not seen, although somebody listened."""
        for owned in self.owned.values():
            silent_ms = (self._listening_s() - max(owned.clock_seen_at_s, self._away_until_s)) * 1000
            if self._settings.writes_clock and silent_ms > self._settings.clock_wait_ms:
                end_hard(f"clock_unseen stage={self.spec.name} partition={owned.partition} silent_ms={silent_ms:.0f}")

    async def _advance_if_due(self, owned: Owned) -> bool:
        """Tell the stage the newest clock before which all is read, and tell whether it is ready for more."""
        while owned.due and owned.reached(owned.due[0].ends):
            now_ms = owned.due.popleft().now_ms
            if self.spec.advance_by == "clock":
                self._gather(owned, owned.stage.advance(now_ms))
                if not await self._go_on(owned):
                    return False
            self._begun().taken_ms[owned.partition] = now_ms
            self._gather(owned, [])
        return True

    async def _advance_by_records(self, owned: Owned, ends: Mapping[str, int]) -> None:
        """Far behind, the time is what the slowest of the inputs with a backlog says."""
        behind = owned.behind(ends)
        if self.spec.advance_by == "clock" and behind and all(topic in owned.told_ms for topic in behind):
            told_ms = min(owned.told_ms[topic] for topic in behind)
            if told_ms <= owned.clock_seen_ms:
                self._gather(owned, owned.stage.advance(told_ms))
                await self._go_on(owned)

    # ---- commit

    async def _wait_for_room(self) -> None:
        limit = self._settings.group_limit
        await self._wait_for_commits(lambda: max(len(self._group.events), self._group.outputs) < limit)

    async def _wait_for_commits(self, until: Callable[[], bool]) -> None:
        """Wait until commits have made something so."""
        if until():
            return
        asking = asyncio.create_task(self._ask_on())
        try:
            async with self._committed:
                await self._committed.wait_for(until)
        finally:
            asking.cancel()

    async def _ask_on(self) -> None:
        """Ask the brokers where the inputs end, in place of the watch, which may be the one that waits.

        Those that acknowledge no write may answer all the same, and are not away.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            mine, asked_s = list(self.owned), now_s()
            places = self._places(mine) or [(self._clock_topic, 0)]
            found = await self._ask(self._edges.ends, places, lambda: True) or {}
            for partition, ends in self._by_input(mine, found).items():
                if partition in self.owned:
                    self.owned[partition].note_ends(ends, asked_s)

    async def commit(self) -> None:
        """Make groups durable, one after the other, for as long as the worker lives."""
        while True:
            await set_or_late(self._group_waits, WATCH_S)
            self._group_waits.clear()
            self._rounds_s["commit"] = now_s()
            if not self._group:
                continue
            self._committing = True
            group, self._group = self._group, Group()
            self._committing_since_s = group.since_s
            try:
                await self._make_durable(group)
            except Exception as error:  # noqa: BLE001 -- outputs or rows are in doubt
                end_hard(f"not_delivered stage={self.spec.name}", error)
            for event in group.events:
                await self._stream.ack(event)
            for one in group.handed:
                one.do()
            self._tell(group.decisions)
            self._committing = False
            self._committing_since_s = None
            async with self._committed:
                self._committed.notify_all()

    async def _make_durable(self, group: Group) -> None:
        """Write what there is as one entry a partition, then outputs, rows and cursors themselves."""
        entries: list[Routed] = []
        outputs: list[Routed] = []
        changelog: list[Routed] = []
        for partition, changes in group.changes.items():
            owned = self.owned[partition]
            outputs += changes.outputs
            changelog += [self._row(owned, key, value) for key, value in changes.records(partition)]
            if not changes.is_one:
                entries += [self._row(owned, key, value) for key, value in changes.entry(partition, owned.entries)]
                owned.entries += 1
        foreign = self._foreign(entries, await self._deliver(entries))
        # who was superseded ends here, before it says anything
        changelog = [*await self._overwrite(foreign), *changelog]
        offsets = (await self._deliver([*outputs, *changelog]))[len(outputs) :]
        for one in changelog:
            self._hold(one.key or b"", one.value)
        while foreign := self._foreign(changelog, offsets):
            changelog = await self._overwrite(foreign)
            offsets = await self._deliver(changelog)
        self.counts.outputs += len(outputs)
        self.counts.groups += 1
        for partition, now_ms in group.taken_ms.items():
            if partition in self.owned:
                self.owned[partition].taken_ms = now_ms

    def _row(self, owned: Owned, key: bytes, value: bytes | None) -> Routed:
        """Route one record of the changelog, which says whose it is."""
        return self._changelog_record(owned.partition, owned.epoch, key, value)

    def _changelog_record(self, partition: int, epoch: int, key: bytes, value: bytes | None) -> Routed:
        headers = epoch_headers(epoch)
        return Routed(topic=self._changelog, key=key, value=value, partition=partition, headers=headers)

    def _hold(self, key: bytes, value: bytes | None) -> None:
        """Keep the rows as the changelog has them."""
        if value is None:
            self._table.pop(key, None)
        else:
            self._table[key] = value

    async def _deliver(self, outputs: Sequence[Routed]) -> list[int]:
        """Send in order, wait until all are acknowledged, however long the brokers are away, and return their offsets."""
        if not outputs:
            return []
        self._heart.check()
        self._sending, self._sending_since_s = len(outputs), now_s()
        sent = [await taken(self._app.producer, output) for output in outputs]
        receipts = await asyncio.gather(*sent)
        self._sending, self._sending_since_s = 0, None
        self._answered_s = now_s()
        return [receipt.offset for receipt in receipts]

    def _tell(self, decisions: Iterable[Decision]) -> None:
        for one in decisions:
            logs.tell(self._decisions, one.event, one.fields, one.level)
            for name, labels, value in one.counts:
                self._told[name, labels] += int(value)

    def _foreign(self, changelog: Sequence[Routed], offsets: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return the stretches `(partition, start, end)` of the changelog that somebody else wrote between our rows.

        Only a worker that does not know yet that it lost the partition can have been that. Its rows are older.
        """
        stretches = []
        written = sorted((record.partition or 0, offset) for record, offset in zip(changelog, offsets, strict=True))
        for partition, offset in written:
            owned = self.owned[partition]
            if offset != owned.next_changelog_offset:
                stretches.append((partition, owned.next_changelog_offset, offset))
            owned.next_changelog_offset = offset + 1
        return stretches

    async def _overwrite(self, stretches: Sequence[tuple[int, int, int]]) -> list[Routed]:
        """Return our rows for all keys that a foreign writer touched; a foreign owner with a later claim ends us."""
        keys: dict[tuple[int, bytes], None] = {}
        for partition, start, end in stretches:
            epoch, limit = self.owned[partition].epoch, self._settings.group_limit
            async for records, _ in self._reading(self._changelog, partition, (start, end), limit, lambda: True):
                for record in records:
                    if epoch_of(record.headers) > epoch:
                        end_hard(f"superseded stage={self.spec.name} partition={partition} error={TAKEN_OVER}")
                    if epoch_of(record.headers) < epoch and record.key is not None:
                        keys[partition, record.key] = None
            log.error(
                "changelog.foreign_rows stage=%s partition=%d start=%d end=%d", self.spec.name, partition, start, end
            )
        self.counts.foreign_rows += len(keys)
        return [
            self._row(self.owned[partition], key, self._table.get(key))
            for partition, key in keys
            if key.startswith(table_key(partition, "")) and not key.startswith(table_key(partition, ENTRY_MARK))
        ]

    async def settle(self) -> None:
        """Wait until nothing waits for a commit."""
        await self._wait_for_commits(lambda: not self._group and not self._committing)

    # ---- assignment

    async def hand_over(self, _revoked: set[TP]) -> None:
        """Make durable what is in hand and forget all partitions, before another worker may take them."""
        async with self._lock:
            await self.settle()
            self.owned.clear()
            self._table.clear()

    async def note(self, assigned: set[TP]) -> None:
        """Learn which partitions are ours now; they are taken when Faust has done its part."""
        by_topic = {topic: {tp.partition for tp in assigned if tp.topic == topic} for topic in self._subscribed}
        self._assigned = by_topic[self._clock_topic]
        if unlike := {topic: sorted(those) for topic, those in by_topic.items() if those != self._assigned}:
            # one is missing, or has another number of partitions: whoever starts says which
            end_hard(
                f"unlike_topics stage={self.spec.name} clock={sorted(self._assigned)} error=others have {unlike}: "
                "run `tocsin topics check`"
            )
        self._assigned_in = self._app.rebalancing_count

    async def take(self) -> None:
        """Make a stage for each partition that is now ours, over the rows of its changelog."""
        rebalance, mine = self._app.rebalancing_count, sorted(self._assigned)
        if rebalance != self._assigned_in:
            return  # the next rebalance has begun

        def still() -> bool:
            return rebalance == self._app.rebalancing_count

        places = [*self._places(mine), *((self._changelog, partition) for partition in mine)]
        starts = await self._ask(self._edges.starts, places, still)
        ends = await self._ask(self._edges.ends, places, still)
        ids = await self._ask(self._edges.ids, list(self._inputs), still)
        if starts is None or ends is None or ids is None:
            return
        restored = {}
        self._progress = dict.fromkeys(mine, 0.0)
        for partition in mine:
            place = (self._changelog, partition)
            restored[partition] = Restored(partition)
            await self._restore(restored[partition], (starts[place], ends[place]), still)
        async with self._lock:
            await self.settle()
            self.owned.clear()
            self._table.clear()
            if not still():
                return
            owners = {}
            for partition, rows in restored.items():
                owner = await self._claim(rows, partition, ends[self._changelog, partition], still)
                if owner is None:
                    return
                owners[partition] = owner
            for partition, rows in restored.items():
                view = View(partition, rows.table)
                for topic, name in self._inputs.items():
                    bounds = starts[topic, partition], ends[topic, partition]
                    view.cursors[name] = self._first_offset(view, name, partition, bounds, ids.get(topic))
                self._table.update(rows.table)
                epoch, next_offset = owners[partition]
                self.owned[partition] = Owned(
                    partition=partition,
                    view=view,
                    stage=self.spec.make_stage(view.rows, partition),
                    epoch=epoch,
                    next_changelog_offset=next_offset,
                    moved_at_s=dict.fromkeys(self.spec.inputs, now_s()),
                    read_from_s=dict.fromkeys(self.spec.inputs, now_s()),
                    clock_seen_at_s=self._listening_s(),
                )
            self._taken_in = rebalance
            self._restored = True
            self._progress = {}
        log.info("host.took stage=%s partitions=%s rows=%d", self.spec.name, mine, len(self._table))

    async def _claim(
        self, rows: Restored, partition: int, end: int, still: Callable[[], bool]
    ) -> tuple[int, int] | None:
        """Say that we own a partition, and make good what the owner before left half done.

        Return our epoch, and the offset behind our claim, from which on what others write is written over; None when
        partitions begin to move again.
        """
        while True:
            epoch = rows.epoch + 1
            claimed = self._changelog_record(partition, epoch, claim(partition), b"")
            [at] = await self._deliver([claimed])
            await self._restore(rows, (end, at), still)
            if not still():
                return None
            end = at + 1
            if rows.epoch < epoch:  # nobody else claimed meanwhile
                rows.take(claim(partition), b"", claimed.headers)
                break
        again = rows.again()
        records = [self._changelog_record(partition, epoch, key, value) for key, value in again.records.items()]
        if await self._deliver([*again.outputs, *records]):
            log.info(
                "host.made_good stage=%s partition=%d outputs=%d rows=%d",
                self.spec.name, partition, len(again.outputs), len(records),
            )  # fmt: skip
        return epoch, end

    async def _restore(self, restored: Restored, span: tuple[int, int], still: Callable[[], bool]) -> None:
        """Read a stretch of the changelog of one partition, all of it, unless partitions begin to move again.

        Faust's own recovery is not asked: it reads 7,000 records a second, and where one rebalance follows closely on
        another it can wait for ever (`docs/decisions/0003-the-host-of-the-small-stages.md`).
        """
        partition, (start, end) = restored.partition, span
        async for records, at in self._reading(self._changelog, partition, span, RESTORED_AT_ONCE, still):
            self._progress[partition] = (at - start) / (end - start)
            for record in records:
                assert record.key is not None, f"{self._changelog}[{partition}]@{record.offset}: no key"
                restored.take(record.key, record.value, record.headers)
        self._progress[partition] = 1.0

    def _first_offset(
        self, view: View, topic: str, partition: int, bounds: tuple[int, int], topic_id: str | None
    ) -> int:
        """Say where to go on: at the cursor, unless the topic is another one than the cursor counts in."""
        start, end = bounds
        cursor, kept_id = view.cursors.get(topic), view.ids.get(topic, topic_id)
        if topic_id is not None:
            view.ids[topic] = topic_id
        if cursor is None:
            return start
        if (topic_id is not None and kept_id != topic_id) or cursor > end:
            self.counts.rewinds += 1
            log.error(
                "cursor.made_anew stage=%s topic=%s partition=%d cursor=%d end=%d was=%s found=%s error=another topic, read from its beginning",
                self.spec.name, topic, partition, cursor, end, kept_id, topic_id,
            )  # fmt: skip
            return start
        if cursor < start:
            self._note_gap(topic, partition, cursor, start)
            return start
        return cursor

    def _note_gap(self, topic: str, partition: int, cursor: int, start: int) -> None:
        """Count and say what retention took before it was read."""
        self.counts.retention_gaps += 1
        self.counts.offsets_lost += start - cursor
        log.error(
            "cursor.retention_gap stage=%s topic=%s partition=%d lost=%d",
            self.spec.name, topic, partition, start - cursor,
        )  # fmt: skip

    # ---- what can be seen

    def publish(self) -> None:
        """Make the status anew, and say whether the brokers went away or came back."""
        if self._away == self.is_answered:
            self._away = not self._away
            if self._away:
                silent_s = now_s() - self._answered_s
                log.warning("broker.away stage=%s silent_s=%.0f error=%s", self.spec.name, silent_s, self._refusal)
            else:
                log.info("broker.back stage=%s", self.spec.name)
        if self._away:
            self._away_until_s = self._listening_s()
        since_s = self._writing_since_s
        lasting_s = 0.0 if since_s is None else now_s() - since_s
        if not self._away and self._held != (lasting_s > HELD_S):
            self._held = not self._held
            if self._held:
                log.warning(
                    "commit.held stage=%s lasting_s=%.0f records=%d error=the brokers answer, but acknowledge no write: "
                    "look at their replicas and disks, and whether we may write",
                    self.spec.name, lasting_s, self._sending,
                )  # fmt: skip
            else:
                log.info("commit.went_on stage=%s", self.spec.name)
        self.status = self._seen()

    @property
    def _writing_since_s(self) -> float | None:
        """When the first of what is being committed came, or a claim was sent; None while nothing is being written."""
        return self._sending_since_s if self._committing_since_s is None else self._committing_since_s

    def _seen(self) -> StageStatus:
        waits_s = [owned.unsettled_since_s for owned in self.owned.values()]
        waits_s += [self._committing_since_s, self._group.since_s if self._group else None]
        own: list[Measure] = [Measure(name, labels, count) for (name, labels), count in self._told.items()]
        for partition, owned in self.owned.items():
            own += self.spec.measure(owned.stage, partition, owned.clock_ms)
        for loop, at_s in self._rounds_s.items():
            own.append(Measure("tocsin_heartbeat_age_seconds", (f"{self.spec.name}.{loop}",), now_s() - at_s))
        return StageStatus(
            stage=self.spec.name,
            moving=self.moving,
            restored=self._restored,
            owned=tuple(sorted(self.owned)),
            restoring=dict(self._progress),
            counts=asdict(self.counts),
            rebalances=self._app.rebalancing_count,
            lags={
                (topic, partition): max(end - owned.view.cursors[topic], 0)
                for partition, owned in self.owned.items()
                for topic, end in owned.ends.items()
            },
            read_from_s={
                (topic, partition): owned.read_from_s[topic]
                for partition, owned in self.owned.items()
                for topic in owned.ends
            },
            state_rows=len(self._table),
            answered_s=self._answered_s,
            refusal=self._refusal,
            writing_s=self._writing_since_s,
            lasting_s=min((at_s for at_s in waits_s if at_s is not None), default=None),
            waiting=self._sending + self._group.outputs,
            own=tuple(own),
        )


class EnduringProducer(Producer):
    """A producer that gives nothing up: each record once and in order, however long the brokers are away.

    aiokafka's own lets a batch go after its request's timeout, and sends the next: then a cursor could be written whose
    rows were not.
    """

    def _settings_extra(self) -> Mapping[str, Any]:
        return {**super()._settings_extra(), "enable_idempotence": True}

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        producer = super()._new_producer(transactional_id)
        accumulator = producer._message_accumulator  # noqa: SLF001 -- there is no setting for it
        assert isinstance(accumulator._batch_ttl, float), accumulator._batch_ttl  # noqa: SLF001
        accumulator._batch_ttl = math.inf  # noqa: SLF001
        return producer


async def set_or_late(event: asyncio.Event, wait_s: float) -> None:
    """Wait until an event is set, for so long at most.

    Not by `asyncio.wait_for`: that of Python 3.11 swallows a cancellation that comes together with the event, and whoever
    waits for the end of the cancelled task then waits for ever.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()


async def taken(producer: Any, record: Routed) -> Awaitable[Any]:  # noqa: ANN401 -- Faust's protocol has no such class
    """Hand a record to a producer; where it has no room, or does not know the topic yet, it is asked again.

    It has taken nothing then: the order of what is handed over stays.
    """
    while True:
        try:
            receipt: Awaitable[Any] = await producer.send(
                record.topic, record.key, record.value, record.partition, None, list(record.headers)
            )
        except ProducerSendError as error:
            cause = error.__cause__
            if not (isinstance(cause, KafkaTimeoutError) or getattr(cause, "retriable", False)):
                raise
        else:
            return receipt
        await asyncio.sleep(BEAT_S)


class CoPartitioned(PartitionAssignor):
    """Give a worker the same partitions of all topics, as Faust does for apps that have tables."""

    def __init__(self, app: Any, replicas: int = 0) -> None:  # noqa: ANN401, ARG002 -- as Faust calls it
        super().__init__(app, replicas=0)


class FaustHost:
    """A worker: one Faust app with its stages. Make it, `start` it and `stop` it inside one running loop."""

    def __init__(self, settings: HostSettings, specs: Sequence[AnySpec]) -> None:
        self.settings = settings
        self.heart = Heart(settings.session_timeout_ms - settings.heartbeat_ms)
        self._folder = tempfile.TemporaryDirectory(prefix="tocsin-")  # Faust wants one
        self.app = self._make_app()
        self._edges = Edges(settings.client, settings.delivery_wait_ms)
        self.stages = {spec.name: StageHost(self.app, settings, spec, self.heart, self._edges) for spec in specs}
        self._is_running = False
        self._lasting: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self.app.on_partitions_revoked.connect(self._at_each(StageHost.hand_over))
        self.app.on_partitions_assigned.connect(self._at_each(StageHost.note))
        self.app.on_rebalance_complete.connect(self._at_each(StageHost.take))

    def _make_app(self) -> faust.App:
        settings = self.settings
        app = faust.App(
            settings.group,
            broker=[f"kafka://{server}" for server in settings.broker.split(",")],
            broker_credentials=credentials(settings.security),
            datadir=self._folder.name,
            autodiscover=False,
            processing_guarantee="at_least_once",
            stream_wait_empty=True,
            consumer_group_instance_id=settings.instance_id,
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.heartbeat_ms / 1000,
            broker_max_poll_records=MAX_POLL_RECORDS,
            broker_commit_every=COMMIT_EVERY,
            broker_commit_interval=COMMIT_INTERVAL_S,
            producer_acks=-1,
            producer_compression_type="lz4",
            producer_request_timeout=settings.delivery_wait_ms / 1000,
            PartitionAssignor=CoPartitioned,
            table_standby_replicas=1,  # there is no table: it only makes the driver ask this assignor
            topic_disable_leader=True,
            topic_allow_declare=False,
            topic_partitions=settings.partitions,
            web_enabled=False,
        )
        cast("Any", app.transport).Producer = EnduringProducer
        return app

    async def start(self) -> None:
        """Check the topics and start to consume; return when the app has started, before its first partition."""
        await asyncio.to_thread(self._check_topics)
        for stage in self.stages.values():
            stage.hear_answer()
        stages = self.stages.items()
        lasting = {"beat": self._beat, **{f"{name}.commit": stage.commit for name, stage in stages}}
        watching = {f"{name}.watch": stage.watch for name, stage in stages}
        if self.settings.writes_clock:
            watching["clock"] = self._write_clock
        self._lasting = [asyncio.create_task(self._guarded(name, work)) for name, work in lasting.items()]
        self._watching = [asyncio.create_task(self._guarded(name, work)) for name, work in watching.items()]
        self.app.finalize()
        self._is_running = True
        await self.app.start()
        assert isinstance(self.app.producer, EnduringProducer), self.app.producer
        self._set_fetch_wait()

    def _set_fetch_wait(self) -> None:
        """Put our wait in the place of Faust's 1.5 s, which has no setting: a commit waits behind such a fetch."""
        fetcher = cast("Any", self.app.consumer)._thread._consumer._fetcher  # noqa: SLF001
        assert isinstance(fetcher._fetch_max_wait_ms, int)  # noqa: SLF001
        fetcher._fetch_max_wait_ms = self.settings.fetch_wait_ms  # noqa: SLF001

    async def stop(self) -> None:
        """Finish what is in hand, commit, leave."""
        self._is_running = False
        for stage in self.stages.values():
            stage.expect_end()
        await self._cancel(self._watching)
        await self.app.stop()
        await self._cancel(self._lasting)
        self._folder.cleanup()

    async def _cancel(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, stopping: asyncio.Event) -> None:
        """Run until told to stop."""
        await self.start()
        await stopping.wait()
        await self.stop()

    async def deliver(self, record: Routed) -> None:
        """Write a record beside what the stages write, and wait until it is acknowledged, however long that takes."""
        await (await taken(self.app.producer, replace(record, topic=self.settings.topic_prefix + record.topic)))

    def taken_ms(self, stage: str) -> dict[int, int]:
        """Return for each owned partition the newest clock value whose consequences are durable; -1 for none."""
        return {partition: owned.taken_ms for partition, owned in self.stages[stage].owned.items()}

    @property
    def ready(self) -> bool:
        """Whether what was assigned, if anything, is restored, for the probe of readiness."""
        return not any(stage.moving for stage in self.stages.values())

    def health(self, bounds: ProbeSettings) -> Health:
        """Tell how it is; asked from any thread."""
        statuses = [stage.status for stage in self.stages.values()]
        return host_status.health_of(statuses, {"+".join(self.stages): self.heart.age_ms / 1000}, now_s(), bounds)

    def measures(self) -> Iterator[Measure]:
        """Tell what there is to measure; asked from any thread."""
        for stage in self.stages.values():
            yield from host_status.measures_of(stage.status, now_s())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what each stage's host did since it began."""
        return {name: asdict(stage.counts) for name, stage in self.stages.items()}

    def _check_topics(self) -> None:
        """Refuse to start where partitions would not match: rows would land in a foreign partition's changelog."""
        for topic in {topic for stage in self.stages.values() for topic in stage.topics}:
            found = self._edges.partitions(topic)
            if found != self.settings.partitions:
                msg = f"{topic}: expected {self.settings.partitions} partitions, got {found}"
                raise TopicMismatchError(msg)

    async def _guarded(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 -- a thread that ends in silence is the worst of ends
            end_hard(f"task={name}", error)
        end_hard(f"task_ended task={name}")

    async def _beat(self) -> None:
        steady_at_s = now_s()
        published_s = 0.0
        self.heart.begin()
        while True:
            self.heart.beat()
            if now_s() - published_s >= PUBLISH_EVERY_S:
                published_s = now_s()
                for stage in self.stages.values():
                    stage.publish()
            if self.ready or not all(stage.is_answered for stage in self.stages.values()):
                steady_at_s = now_s()  # the bound is for us and Faust, not for brokers that are away
            elif now_s() - steady_at_s > self.settings.restore_wait_ms / 1000:
                end_hard("not_restored")
            if self.app.crashed:
                if said := unreadable(self.app.crash_reason):
                    end_hard(said)
                end_hard("faust_crashed", self.app.crash_reason)
            if self._is_running and self._is_out_of_group():
                end_hard("out_of_group")
            await asyncio.sleep(BEAT_S)

    def _is_out_of_group(self) -> bool:
        """Whether the task that keeps this worker in its group has died: its client only logs that, and waits for ever."""
        consumer = cast("Any", self.app)._consumer  # noqa: SLF001 -- asking for it by its public name would make one
        driver = None if consumer is None else consumer._thread._consumer  # noqa: SLF001
        coordinator = None if driver is None else driver._coordinator  # noqa: SLF001
        return coordinator is not None and bool(coordinator._coordination_task.done())  # noqa: SLF001

    async def _write_clock(self) -> None:
        topic = self.settings.topic_prefix + CLOCK
        waiting: dict[int, asyncio.Future[object]] = {}
        while True:
            partitions = {partition for stage in self.stages.values() for partition in stage.owned}
            now = Clock(now_ms=time.time_ns() // 1_000_000).encode()
            try:
                for partition in partitions:
                    if partition in waiting and not waiting[partition].done():
                        continue  # the brokers are away: one old value is enough
                    receipt = await self.app.producer.send(topic, None, now, partition, None, None)
                    waiting[partition] = cast("asyncio.Future[object]", receipt)
                    waiting[partition].add_done_callback(_say_if_lost)
            except ProducerSendError as error:
                log.debug("clock.not_sent error=%s", error)
            await asyncio.sleep(self.settings.clock_every_ms / 1000)

    def _at_each(self, work: Callable[..., Awaitable[None]]) -> Any:  # noqa: ANN401 -- what a signal of Faust's calls
        """Return a listener that does `work(stage, *arguments of the signal)` for each stage."""

        async def listener(_app: object, *arguments: object, **_: object) -> None:
            try:
                for stage in self.stages.values():
                    await work(stage, *arguments)
            except Exception as error:  # noqa: BLE001 -- Faust would only log it
                end_hard(f"assignment work={work.__name__}", error)

        return listener


def unreadable(error: BaseException | None) -> str:
    """Say which batch a consumer stopped at, and what to do; nothing where it was not a batch.

    Errors of decompressing name no place, and none names the offsets: both are with the driver's frame that failed.
    """
    for frame, _ in traceback.walk_tb(None if error is None else error.__traceback__):
        batch, at = frame.f_locals.get("next_batch"), frame.f_locals.get("tp")
        if frame.f_code.co_name == "_unpack_records" and batch is not None and at is not None:
            return (
                f"unreadable_batch topic={at.topic} partition={at.partition} first={batch.base_offset} "
                f"last={batch.next_offset - 1} error={error}: bring the partition back from a replica that is whole; else "
                f"kafka-delete-records with offset {batch.next_offset} lets the stage go on, without all that lies before "
                "in this partition"
            )
    return ""


def _say_if_lost(receipt: asyncio.Future[object]) -> None:
    """Take a clock record's error: the next record says all that it would have said, the watch that none comes."""
    if not receipt.cancelled() and (error := receipt.exception()) is not None:
        log.debug("clock.not_sent error=%s", error)


class TopicMismatchError(RuntimeError):
    """A topic is missing or has another number of partitions: make it with `tocsin topics`, then start again."""


def credentials(security: Mapping[str, str]) -> Any:  # noqa: ANN401 -- Faust's union of four classes, or None
    """Translate librdkafka's security settings for Faust's driver.

    >>> credentials({}) is None, credentials({"security.protocol": "PLAINTEXT"}) is None
    (True, True)
    >>> credentials({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "u",
    ...              "sasl.password": "p"}).mechanism.value
    'SCRAM-SHA-256'
    """
    protocol = security.get("security.protocol", "PLAINTEXT").upper()
    if protocol == "PLAINTEXT":
        return None
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=security.get("ssl.ca.location"))
        if certificate := security.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, security.get("ssl.key.location"), security.get("ssl.key.password"))
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=security["sasl.username"],
        password=security["sasl.password"],
        mechanism=security.get("sasl.mechanism", "PLAIN"),
        ssl_context=context,
    )
