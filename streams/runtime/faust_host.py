"""How do pure stages run as Faust agents without losing what Faust loses?

One app holds one agent for each stage, and each stage one object for each input partition that this worker owns. Its
rows lie in a compacted changelog of ours, which is read anew whenever partitions have moved. For each record: cursor,
stage, then outputs, rows and cursor made durable as one (`write_ahead.py`), ack. What is ready while an earlier group is
still on its way to the broker goes with the next group, so that a backlog costs round trips by the hundred and not by
the record.

No exception leaves an agent, since Faust would commit the record. A fault of ours, or a broker that does not answer
within its bound, ends the process at once, acking nothing; what it left is read again from the cursor.
"""

import asyncio
import logging
import os
import ssl
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn, cast

import faust
from confluent_kafka import KafkaException
from faust.assignor.partition_assignor import PartitionAssignor
from faust.exceptions import ProducerSendError
from faust.types import TP

from schemas.clock import Clock
from schemas.fields import MalformedRecordError
from streams.runtime.cursor import Edges, Place, View, headers_of, place, read_back
from streams.runtime.stage_spec import Bytes, Handed, Routed, StageSpec
from streams.runtime.write_ahead import (
    ENTRY_MARK,
    Changes,
    Restored,
    claim,
    epoch_headers,
    epoch_of,
    partition_of_key,
    table_key,
)

CLOCK = "clock"
BEAT_S = 0.25
RESTORED_AT_ONCE = 10_000
WATCH_S = 1.0
EXIT_STATUS = 70  # EX_SOFTWARE
MAX_POLL_RECORDS = 500
COMMIT_EVERY = 500
COMMIT_INTERVAL_S = 1.0

log = logging.getLogger("tocsin.host")

AnySpec = StageSpec[Any, Any]
TopicPlace = tuple[str, int]  # topic, partition


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
        `ssl.ca.location`, `ssl.certificate.location`, `ssl.key.location`; empty means plain text.
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
        How long the broker may take to acknowledge a group; then the process ends.
    read_back_wait_ms
        How long reading back may find nothing where the broker says there is something.
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
    """What a stage's host did since it began; each is exported."""

    handled: int = 0
    repeats: int = 0
    dead_letters: int = 0
    read_backs: int = 0
    read_back_records: int = 0
    empty_offsets: int = 0
    retention_gaps: int = 0
    rewinds: int = 0
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
    told_ms: dict[str, int] = field(default_factory=dict)
    clock_ms: int = -1
    clock_seen_ms: int = -1
    clock_seen_at_s: float = field(default_factory=now_s)
    due: deque[Due] = field(default_factory=deque)
    taken_ms: int = -1
    entries: int = 0

    def reached(self, ends: Mapping[str, int]) -> bool:
        """Tell whether all inputs are read up to `ends`."""
        return all(self.view.cursors[topic] >= end for topic, end in ends.items())

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
        self._answered = True
        self._answered_since_s = now_s()  # a clock that is not seen says nothing while the broker is away
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
        app.agent(topics, name=spec.name, concurrency=1)(self._agent)

    @property
    def topics(self) -> list[str]:
        """All topics that have to be there, with equal partition counts."""
        return [*self._subscribed, self._changelog]

    @property
    def moving(self) -> bool:
        """Whether a rebalance began after partitions were taken: Faust says so before it revokes anything."""
        return self._app.rebalancing_count != self._taken_in

    # ---- records

    async def _agent(self, stream: Any) -> None:  # noqa: ANN401 -- Faust's stream type is generic over nothing we use
        self._stream = stream
        async for event in stream.noack().events():
            try:
                await self._handle(event)
            except Exception as error:  # noqa: BLE001 -- raising here would commit the record
                end_hard(f"stage={self.spec.name}", error)

    async def _handle(self, event: Any) -> None:  # noqa: ANN401
        """Handle one record that Faust delivered; acked unhandled while partitions move, for the cursor decides."""
        message = event.message
        async with self._lock:
            owned = self.owned.get(message.partition)
            if owned is None or self.moving:
                await self._stream.ack(event)
                return
            if message.topic == self._clock_topic:
                self._hear_clock(owned, message.value)
                await self._stream.ack(event)
                return
            topic = self._inputs[message.topic]
            if place(owned.view.cursors[topic], message.offset) is Place.AHEAD:
                await self._read_back(owned, topic, message.offset)
            match place(owned.view.cursors[topic], message.offset):
                case Place.NEXT:
                    record = Bytes(message.offset, message.key, message.value, headers_of(message.headers))
                    self._receive(owned, topic, record)
                case Place.REPEAT:
                    self.counts.repeats += 1
                case Place.AHEAD:  # reading back was broken off by a rebalance
                    await self._stream.ack(event)
                    return
            self._group.events.append(event)
            self._group_waits.set()
        await self._wait_for_room()

    def _receive(self, owned: Owned, topic: str, record: Bytes) -> None:
        """Give one record to the stage, and move the cursor past it."""
        view, spec = owned.view, self.spec
        try:
            decoded = spec.decode(topic, record.key, record.value, record.headers)
        except MalformedRecordError as error:
            self.counts.dead_letters += 1
            log.warning(
                "record.refused topic=%s partition=%d offset=%d error=%s", topic, owned.partition, record.offset, error
            )
            outputs = [spec.dead(topic, owned.partition, record, error)]
        else:
            outputs = [] if decoded is None else owned.stage.receive([decoded])
            told_ms = None if decoded is None else spec.told_at_ms(decoded)
            if told_ms is not None:
                owned.told_ms[topic] = max(told_ms, owned.told_ms.get(topic, told_ms))
        self.counts.handled += 1
        view.cursors[topic] = record.offset + 1
        owned.moved_at_s[topic] = now_s()
        self._gather(owned, outputs)
        self._advance_if_due(owned)

    async def _read_back(self, owned: Owned, topic: str, end: int) -> None:
        """Read what Faust skipped, up to `end`, unless partitions begin to move."""
        view = owned.view
        start = view.cursors[topic]
        self.counts.read_backs += 1
        settings = self._settings
        opened = read_back(settings.client, settings.topic_prefix + topic, owned.partition, settings.read_back_wait_ms)
        handled = 0
        with opened as reader:
            while view.cursors[topic] < end and not self.moving:
                records, next_offset = await asyncio.to_thread(
                    reader.read, view.cursors[topic], end, settings.group_limit
                )
                for record in records:
                    self._receive(owned, topic, record)
                handled += len(records)
                view.cursors[topic] = next_offset
                self._gather(owned, [])
                await self._wait_for_room()
        read = view.cursors[topic] - start
        self.counts.read_back_records += handled
        self.counts.empty_offsets += read - handled
        log.info(
            "cursor.read_back stage=%s topic=%s partition=%d start=%d end=%d records=%d empty=%d",
            self.spec.name, topic, owned.partition, start, end, handled, read - handled,
        )  # fmt: skip

    def _gather(self, owned: Owned, outputs: Iterable[Any]) -> None:
        """Put outputs, and what is settled, into the group that waits."""
        group = self._group
        changes = group.changes.setdefault(owned.partition, Changes())
        for output in outputs:
            routed = self.spec.route(output)
            if isinstance(routed, Handed):
                group.handed.append(routed)
                continue
            for one in (routed,) if isinstance(routed, Routed) else routed:
                changes.outputs.append(replace(one, topic=self._settings.topic_prefix + one.topic))
                group.outputs += 1
        if owned.stage.settled:
            owned.view.settle(changes)
        self._group_waits.set()

    # ---- time

    def _hear_clock(self, owned: Owned, value: bytes | None) -> None:
        try:
            now_ms = Clock.decode(value).now_ms
        except MalformedRecordError as error:
            log.warning("clock.refused partition=%d error=%s", owned.partition, error)
            return
        owned.clock_ms = max(now_ms, owned.clock_ms)
        owned.clock_seen_at_s = now_s()
        self._clock_news.set()

    async def watch(self) -> None:
        """Compare cursors with the ends of the topics, at each clock record and at least once a second."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._clock_news.wait(), WATCH_S)
            self._clock_news.clear()
            if not self.owned or self.moving:
                continue
            heard = {partition: owned.clock_ms for partition, owned in self.owned.items()}
            try:
                ends = await self._ends(heard)
            except (KafkaException, TimeoutError) as error:
                if self._answered:
                    log.warning("broker.away stage=%s error=%s", self.spec.name, error)
                self._answered, self._answered_since_s = False, now_s()
                continue
            if not self._answered:
                log.info("broker.back stage=%s", self.spec.name)
            self._answered = True
            async with self._lock:
                for partition, now_ms in heard.items():
                    owned = self.owned.get(partition)
                    if owned is not None and not self.moving:
                        await self._look(owned, now_ms, ends[partition])
            await self._wait_for_room()

    async def _ends(self, partitions: Iterable[int]) -> dict[int, dict[str, int]]:
        """Ask the broker for the end of each input; what was acknowledged before the question is counted."""
        return self._by_input(partitions, await asyncio.to_thread(self._edges.ends, self._places(partitions)))

    def _places(self, partitions: Iterable[int]) -> list[tuple[str, int]]:
        return [(topic, partition) for partition in partitions for topic in self._inputs]

    def _by_input(self, partitions: Iterable[int], found: Mapping[tuple[str, int], int]) -> dict[int, dict[str, int]]:
        return {
            partition: {name: found[topic, partition] for topic, name in self._inputs.items()}
            for partition in partitions
        }

    async def _look(self, owned: Owned, now_ms: int, ends: Mapping[str, int]) -> None:
        """Pass on the clock if all is read, read back what does not come, and watch that the clock comes at all."""
        if now_ms > owned.clock_seen_ms:
            owned.clock_seen_ms = now_ms
            if hasattr(owned.stage, "clock"):
                self._gather(owned, owned.stage.clock(now_ms, owned.reached(ends)))
            if len(owned.due) > 1:
                owned.due.pop()  # the oldest and the newest are enough
            owned.due.append(Due(now_ms, ends))
        self._advance_if_due(owned)
        late_s = now_s() - self._settings.stall_wait_ms / 1000
        for topic in owned.behind(ends):
            if owned.moved_at_s[topic] < late_s:
                await self._read_back(owned, topic, ends[topic])
        self._advance_by_records(owned, ends)
        silent_ms = (now_s() - max(owned.clock_seen_at_s, self._answered_since_s)) * 1000
        if self._settings.writes_clock and silent_ms > self._settings.clock_wait_ms:
            end_hard(f"clock_unseen stage={self.spec.name} partition={owned.partition} silent_ms={silent_ms:.0f}")

    def _advance_if_due(self, owned: Owned) -> None:
        """Tell the stage the newest clock before which all is read."""
        while owned.due and owned.reached(owned.due[0].ends):
            now_ms = owned.due.popleft().now_ms
            outputs = owned.stage.advance(now_ms) if self.spec.advance_by == "clock" else []
            self._group.taken_ms[owned.partition] = now_ms
            self._gather(owned, outputs)

    def _advance_by_records(self, owned: Owned, ends: Mapping[str, int]) -> None:
        """Far behind, the time is what the slowest of the inputs with a backlog says."""
        behind = owned.behind(ends)
        if self.spec.advance_by == "clock" and behind and all(topic in owned.told_ms for topic in behind):
            told_ms = min(owned.told_ms[topic] for topic in behind)
            if told_ms <= owned.clock_seen_ms:
                self._gather(owned, owned.stage.advance(told_ms))

    # ---- commit

    async def _wait_for_room(self) -> None:
        limit = self._settings.group_limit
        async with self._committed:
            await self._committed.wait_for(lambda: max(len(self._group.events), self._group.outputs) < limit)

    async def commit(self) -> None:
        """Make groups durable, one after the other, for as long as the worker lives."""
        while True:
            await self._group_waits.wait()
            self._group_waits.clear()
            if not self._group:
                continue
            self._committing = True
            group, self._group = self._group, Group()
            try:
                await self._make_durable(group)
            except Exception as error:  # noqa: BLE001 -- outputs or rows are in doubt
                end_hard(f"not_delivered stage={self.spec.name}", error)
            for event in group.events:
                await self._stream.ack(event)
            for one in group.handed:
                one.do()
            self._committing = False
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
        offsets = await self._deliver(entries)
        offsets += (await self._deliver([*outputs, *changelog]))[len(outputs) :]
        for one in changelog:
            self._hold(one.key or b"", one.value)
        changelog = [*entries, *changelog]
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
        """Send in order, wait until all are acknowledged, and return their offsets."""
        if not outputs:
            return []
        self._heart.check()
        wait_s = self._settings.delivery_wait_ms / 1000
        async with asyncio.timeout(wait_s):
            sent: list[Awaitable[Any]] = [
                await self._app.producer.send(
                    output.topic,
                    output.key,
                    output.value,
                    output.partition,
                    None,
                    list(output.headers),
                )
                for output in outputs
            ]
            return [receipt.offset for receipt in await asyncio.gather(*sent)]

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
        keys: dict[bytes, None] = {}
        for partition, start, end in stretches:
            epoch = self.owned[partition].epoch
            with read_back(
                self._settings.client, self._changelog, partition, self._settings.read_back_wait_ms
            ) as reader:
                at = start
                while at < end:
                    records, at = await asyncio.to_thread(reader.read, at, end, self._settings.group_limit)
                    for record in records:
                        if epoch_of(record.headers) > epoch:
                            end_hard(f"superseded stage={self.spec.name} partition={partition}")
                        if epoch_of(record.headers) < epoch and record.key is not None:
                            keys[record.key] = None
            log.error(
                "changelog.foreign_rows stage=%s partition=%d start=%d end=%d", self.spec.name, partition, start, end
            )
        self.counts.foreign_rows += len(keys)
        return [
            self._row(self.owned[partition_of_key(key)], key, self._table.get(key))
            for key in keys
            if not key.startswith(table_key(partition_of_key(key), ENTRY_MARK))
        ]

    async def settle(self) -> None:
        """Wait until nothing waits for a commit."""
        async with self._committed:
            await self._committed.wait_for(lambda: not self._group and not self._committing)

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
        assert all(partitions == self._assigned for partitions in by_topic.values()), by_topic
        self._assigned_in = self._app.rebalancing_count

    async def take(self) -> None:
        """Make a stage for each partition that is now ours, over the rows of its changelog."""
        rebalance, mine = self._app.rebalancing_count, sorted(self._assigned)
        if rebalance != self._assigned_in:
            return  # the next rebalance has begun
        places = [*self._places(mine), *((self._changelog, partition) for partition in mine)]
        starts = await self._ask(self._edges.starts, places)
        ends = await self._ask(self._edges.ends, places)
        restored = {}
        for partition in mine:
            place = (self._changelog, partition)
            restored[partition] = Restored(partition)
            await self._restore(restored[partition], starts[place], ends[place], rebalance)
        async with self._lock:
            await self.settle()
            self.owned.clear()
            self._table.clear()
            if rebalance != self._app.rebalancing_count:
                return
            owners = {}
            for partition, rows in restored.items():
                owner = await self._claim(rows, partition, ends[self._changelog, partition], rebalance)
                if owner is None:
                    return
                owners[partition] = owner
            for partition, rows in restored.items():
                view = View(partition, rows.table)
                for topic, name in self._inputs.items():
                    bounds = starts[topic, partition], ends[topic, partition]
                    view.cursors[name] = self._first_offset(view, name, partition, bounds)
                self._table.update(rows.table)
                epoch, next_offset = owners[partition]
                self.owned[partition] = Owned(
                    partition=partition,
                    view=view,
                    stage=self.spec.make_stage(view.rows, partition),
                    epoch=epoch,
                    next_changelog_offset=next_offset,
                    moved_at_s=dict.fromkeys(self.spec.inputs, now_s()),
                )
            self._taken_in = rebalance
        log.info("host.took stage=%s partitions=%s rows=%d", self.spec.name, mine, len(self._table))

    async def _claim(self, rows: Restored, partition: int, end: int, rebalance: int) -> tuple[int, int] | None:
        """Say that we own a partition, and make good what the owner before left half done.

        Return our epoch, and the next offset of the changelog; None when partitions begin to move again.
        """
        while True:
            epoch = rows.epoch + 1
            claimed = self._changelog_record(partition, epoch, claim(partition), b"")
            [at] = await self._deliver([claimed])
            await self._restore(rows, end, at, rebalance)
            if rebalance != self._app.rebalancing_count:
                return None
            end = at + 1
            if rows.epoch < epoch:  # nobody else claimed meanwhile
                rows.take(claim(partition), b"", claimed.headers)
                break
        again = rows.again()
        records = [self._changelog_record(partition, epoch, key, value) for key, value in again.records.items()]
        offsets = await self._deliver([*again.outputs, *records])
        if offsets:
            log.info(
                "host.made_good stage=%s partition=%d outputs=%d rows=%d",
                self.spec.name, partition, len(again.outputs), len(records),
            )  # fmt: skip
        return epoch, max([end, *(offset + 1 for offset in offsets[len(again.outputs) :])])

    async def _ask(
        self, question: Callable[[Sequence[TopicPlace]], dict[TopicPlace, int]], places: Sequence[TopicPlace]
    ) -> dict[TopicPlace, int]:
        """Ask again while the broker does not answer: leaders may be changing, as we are."""
        until_s = now_s() + self._settings.delivery_wait_ms / 1000
        while True:
            try:
                return await asyncio.to_thread(question, places)
            except (KafkaException, TimeoutError):
                if now_s() > until_s:
                    raise
            await asyncio.sleep(BEAT_S)

    async def _restore(self, restored: Restored, start: int, end: int, rebalance: int) -> None:
        """Read a stretch of the changelog of one partition, all of it, unless partitions begin to move again.

        Faust's own recovery is not asked: it reads 7,000 records a second, and where one rebalance follows closely on
        another it can wait for ever (`docs/decisions/0003-the-host-of-the-small-stages.md`).
        """
        if start >= end:
            return
        wait_ms = self._settings.read_back_wait_ms
        with read_back(self._settings.client, self._changelog, restored.partition, wait_ms) as reader:
            at = start
            while at < end and rebalance == self._app.rebalancing_count:
                records, at = await asyncio.to_thread(reader.read, at, end, RESTORED_AT_ONCE)
                for record in records:
                    assert record.key is not None, f"{self._changelog}[{restored.partition}]@{record.offset}: no key"
                    restored.take(record.key, record.value, record.headers)

    def _first_offset(self, view: View, topic: str, partition: int, bounds: tuple[int, int]) -> int:
        start, end = bounds
        cursor = view.cursors.get(topic)
        if cursor is None:
            return start
        if cursor < start:
            self.counts.retention_gaps += 1
            log.error(
                "cursor.retention_gap stage=%s topic=%s partition=%d lost=%d",
                self.spec.name, topic, partition, start - cursor,
            )  # fmt: skip
            return start
        if cursor > end:
            self.counts.rewinds += 1
            log.error(
                "cursor.beyond_end stage=%s topic=%s partition=%d cursor=%d end=%d: the topic was made anew",
                self.spec.name, topic, partition, cursor, end,
            )  # fmt: skip
            return start
        return cursor


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
        self._lasting: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self.app.on_partitions_revoked.connect(self._at_each(StageHost.hand_over))
        self.app.on_partitions_assigned.connect(self._at_each(StageHost.note))
        self.app.on_rebalance_complete.connect(self._at_each(StageHost.take))

    def _make_app(self) -> faust.App:
        settings = self.settings
        return faust.App(
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

    async def start(self) -> None:
        """Check the topics and start to consume; return when the app has started, before its first partition."""
        await asyncio.to_thread(self._check_topics)
        stages = self.stages.items()
        lasting = {"beat": self._beat, **{f"{name}.commit": stage.commit for name, stage in stages}}
        watching = {f"{name}.watch": stage.watch for name, stage in stages}
        if self.settings.writes_clock:
            watching["clock"] = self._write_clock
        self._lasting = [asyncio.create_task(self._guarded(name, work)) for name, work in lasting.items()]
        self._watching = [asyncio.create_task(self._guarded(name, work)) for name, work in watching.items()]
        self.app.finalize()
        await self.app.start()
        self._set_fetch_wait()

    def _set_fetch_wait(self) -> None:
        """Put our wait in the place of Faust's 1.5 s, which has no setting: a commit waits behind such a fetch."""
        fetcher = cast("Any", self.app.consumer)._thread._consumer._fetcher  # noqa: SLF001
        assert isinstance(fetcher._fetch_max_wait_ms, int)  # noqa: SLF001
        fetcher._fetch_max_wait_ms = self.settings.fetch_wait_ms  # noqa: SLF001

    async def stop(self) -> None:
        """Finish what is in hand, commit, leave."""
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

    def taken_ms(self, stage: str) -> dict[int, int]:
        """Return for each owned partition the newest clock value whose consequences are durable; -1 for none."""
        return {partition: owned.taken_ms for partition, owned in self.stages[stage].owned.items()}

    @property
    def ready(self) -> bool:
        """Whether what was assigned, if anything, is restored, for the probe of readiness."""
        return not any(stage.moving for stage in self.stages.values())

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

    async def _beat(self) -> None:
        steady_at_s = now_s()
        self.heart.begin()
        while True:
            self.heart.beat()
            if not self.app.rebalancing:
                steady_at_s = now_s()
            elif now_s() - steady_at_s > self.settings.restore_wait_ms / 1000:
                end_hard("not_restored")
            if self.app.crashed:
                end_hard("faust_crashed", self.app.crash_reason)
            await asyncio.sleep(BEAT_S)

    async def _write_clock(self) -> None:
        topic = self.settings.topic_prefix + CLOCK
        while True:
            partitions = {partition for stage in self.stages.values() for partition in stage.owned}
            now = Clock(now_ms=time.time_ns() // 1_000_000).encode()
            try:
                for partition in partitions:
                    receipt = await self.app.producer.send(topic, None, now, partition, None, None)
                    cast("asyncio.Future[object]", receipt).add_done_callback(_say_if_lost)
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
