"""How does the join run? One loop over two topics: read, decode, join, and every now and then make it last.

One thread, four consumers. The *outputs* consumer is the member of the group: it subscribes to both topics,
so that it is given the same partition numbers of both, but fetches model-outputs only; the *labels* consumer fetches the
labels of the same numbers. So the topic that is behind in event time can be read first without pausing the other, which
would throw its prefetch away. The *changelog* consumer restores, and afterwards reads on, so that a worker which was
away too long meets its successor's claim before it sends anything. The *follower* reads baselines and the clock.

Positions come from the manifest. The group's offsets are for lag tools, and are committed last. What makes a checkpoint,
each step acknowledged before the next:

1. blocks of state and dead letters, 2. the manifest; then the changelog is read up to it, 3. WindowStats and `Closed`,
4. offsets.
"""

import gc
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from config.settings import KafkaSettings, ProbeSettings
from detectors.usable import refuse_unusable
from schemas.baseline import Baseline
from schemas.clock import Clock
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.model import Model
from streams.runtime import heap, join_status, kafka, plain, topics
from streams.runtime.claims import Claim, Kept, Taking
from streams.runtime.decode import Apart, LabelEdge, Messages, OutputEdge, TooManyRowsError
from streams.runtime.delivery import LOOK_S, Delivery, UndeliveredError
from streams.runtime.ending import UNFINISHED_STATUS, Ending
from streams.runtime.fetched import Fetched, Notice, opened
from streams.runtime.join_status import Status
from streams.runtime.logs import tell
from streams.runtime.metrics import Measure
from streams.runtime.placement import Placement
from streams.runtime.probes import Health
from streams.runtime.refused import refused_lines
from streams.runtime.segment_files import SegmentFiles, segment_files
from streams.runtime.sent_again import as_attempt
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import LABELS, OUTPUTS
from streams.runtime.unreadable import CHECKED, EXPECTED, UNREADABLE, reach
from streams.stages.batch import LabelBatch, OutputBatch
from streams.stages.blocks import Checkpoint, Journal, Manifest, Send
from streams.stages.join import Join, JoinSettings

BATCH_MESSAGES = 10_000
"""Messages of one pass: 20 to 50 ms of work, so that callbacks and signals wait no longer."""
PIECE_BYTES = 8_000_000
"""What is decoded at once of a pass; between two pieces the worker shows that it lives, and has room for dead letters."""
BACKLOG_MESSAGES = 1_000
"""Fewer messages than this in a pass: there is no backlog, and the other topic is read in the same pass."""
POLL_WAIT_S = 0.02
"""How long a pass waits for a first message when there is nothing else to do."""
MEMBER_POLL_S = 1.0
"""How long the member of the group may go unpolled while the other topic is behind."""
PROBE_EVERY_S = 0.1
"""How often, at most, the brokers are asked where the logs end."""
BUSY_PROBE_EVERY_S = 1.0
"""The same, while there is a backlog."""
RESTORE_MESSAGES = 200
"""Blocks read in one slice of a restore."""
CHANGELOG_FETCH_WAIT_MS = 50
"""How long a broker waits for records before it says that the changelog has ended: a restore waits as long."""
DEAD_LETTERS_BOUND = 5_000
"""Dead letters that may wait for a checkpoint; more make one at once."""
DEAD_LETTERS_BYTES = 33_554_432
"""What they may hold; more make one at once too."""
TRY_DISK_EVERY_S = 1.0
DISK_LOG_EVERY_S = 60.0
PUBLISH_EVERY_S = 1.0
COLLECT_EVERY_S = 60.0
"""How often garbage is collected by hand: the loop makes no cycles, and the collector costs a tenth of it."""
GIVE_BACK_EVERY_S = 2.0
"""How often memory that is free is given back: what is given back has to be asked for again. A worker that catches up leaves
50 MB of holes in 10 s."""
MISMATCH_LOG_EVERY_S = 10.0
ERROR_LOG_EVERY_S = 10.0
"""How often one kind of a client's error is written to the log; all are counted."""
AWAY_S = 5.0
"""How long the brokers may answer nothing before the log says that they are away."""
QUIET_S = 2.0
"""How long a log that is said to go on may give no record, before it is looked at what lies there."""
LOOK_EVERY_S = 2.0
ASK_AGAIN_EVERY_S = 0.5
"""How often, at most, it is asked anew for what a lost position or a batch that cannot be read stands in the way of."""
COMMIT_WAIT_S = 5.0
"""How long the last commit of a worker that leaves may take."""
EXIT_STATUS = 70  # EX_SOFTWARE

_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own codes have no other names
_WITH_EOF = {"enable.partition.eof": "true"}
_LOST_POSITION = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
_BY_TOPIC: Mapping[str, Callable[[Mapping[str, Model], int], OutputEdge | LabelEdge]] = {
    OUTPUTS: OutputEdge,
    LABELS: LabelEdge,
}

_Bounds = tuple[int, int]

log = logging.getLogger("tocsin.join")


class _BrokenOffError(Exception):
    """The worker was told to stop while the brokers were away; nothing is lost, the next one reads it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotPathSettings:
    """What a worker of the join is told.

    Parameters
    ----------
    app_id
        Consumer group, behind the topic prefix.
    instance_id
        Static membership: the worker that comes back under this name within its session keeps its partitions. None for
        a member that comes and goes.
    session_timeout_ms, heartbeat_ms
        The group's view of a silent worker.
    folder
        Where cold rows lie; nothing in it is needed after a restart.
    checkpoint_ms
        How often state is made durable, in wall time.
    clock
        `wall`: this machine's clock. `topic`: the newest record of the topic `clock`, where a replayer writes it.
    start
        Where a partition that was never read begins: `earliest` or `latest`.
    restore_wait_ms
        How long taking one partition may last, brokers being there; then the process ends.
    hand_over_wait_ms
        How long a last checkpoint may take when partitions are taken away or the worker is told to stop; below the
        session timeout.
    """

    kafka: KafkaSettings
    join: JoinSettings
    models: Mapping[str, Model]
    app_id: str
    instance_id: str | None
    session_timeout_ms: int
    heartbeat_ms: int
    folder: Path
    checkpoint_ms: int
    clock: Literal["wall", "topic"]
    start: Literal["earliest", "latest"]
    restore_wait_ms: int
    hand_over_wait_ms: int

    @property
    def group(self) -> str:
        """The consumer group."""
        return f"{self.kafka.topic_prefix}{self.app_id}"


class StartRefusedError(Exception):
    """The topics are not as they must be; what to do stands in the message."""


@dataclass(slots=True)
class _Owned:
    """One partition of ours; `join` is None while it is being taken."""

    partition: int
    claim: Claim
    deadline_s: float
    join: Join | None = None
    files: SegmentFiles | None = None
    next: dict[str, int] = field(default_factory=dict)
    newest_ms: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    heard_s: dict[str, float] = field(default_factory=dict)
    """When a record of the topic last came, or the partition was assigned."""
    unsaid_s: dict[str, float] = field(default_factory=dict)
    """Since when the brokers do not say where the topic ends."""
    unsure: set[str] = field(default_factory=lambda: set(_BY_TOPIC))
    """Topics of which nothing came since they were assigned."""
    gaps: dict[str, int] = field(default_factory=dict)
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Of the topics in which `next` counts, as far as the brokers say."""
    tombstones: tuple[bytes, ...] = ()
    taken: Mapping[str, int] = field(default_factory=dict)
    """Its counters when it was taken."""
    lasting: object = None
    """What the last checkpoint held, to tell whether there is anything new."""


@dataclass(slots=True)
class _Probe:
    """A question to the brokers: where do the logs end? The clock, and how far was read, are those when it was asked."""

    asked_ms: int | None
    answers: Mapping[tuple[str, int], Future[Any]]
    positions: Mapping[tuple[str, int], int]


class HotPath:
    """A worker of the join."""

    def __init__(self, settings: HotPathSettings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._kafka = settings.kafka
        self._owned: dict[int, _Owned] = {}
        self._owner = secrets.randbits(31)
        self._edges = {
            topic: edge(settings.models, settings.kafka.input_partitions) for topic, edge in _BY_TOPIC.items()
        }
        self._baselines: dict[tuple[str, int], Baseline] = {}
        self._clock_ms: int | None = None
        self._followed: dict[tuple[str, int], int] = {}
        """Where the baselines and the clock are read on."""
        self._dead: list[DeadLetter] = []
        self._dead_bytes = 0
        self._placement = {topic: Placement() for topic in _BY_TOPIC}
        self._probe: _Probe | None = None
        self._due = dict.fromkeys(
            (
                "probe",
                "answer",
                "checkpoint",
                "member",
                "disk",
                "disk_said",
                "publish",
                "collect",
                "give_back",
                "mismatch",
                "look",
                "astray",
            ),
            0.0,
        )
        self._fatal: KafkaError | None = None
        self._stopping: Callable[[], bool] = lambda: False
        self._told_s: float | None = None
        self.is_unfinished = False
        """Whether it was told to stop, and not all that was read is durable."""
        self._assigned = self._restored = self._away = False
        self._idle = True
        self._commits_waiting = 0
        self._astray: dict[tuple[str, int], int] = {}
        """Inputs that do not go on, by topic and partition, and the code of the error that says why."""
        self._asked_again_s: dict[tuple[str, int], float] = {}
        self._paused = ""
        self._logged_s: dict[str, float] = {}
        self.beat_s = self._answered_s = self._lasting_s = time.monotonic()
        """When the loop last came round, on `time.monotonic()`: a worker whose beat is old is stuck."""
        self.status = join_status.unseen(self.beat_s)

    # -- a life

    def run(self, stopping: Callable[[], bool]) -> None:
        """Join until told to stop, then make all last and leave.

        Brokers that are away are waited for, however long: nothing is read meanwhile that could not be kept.

        Raises
        ------
        StartRefusedError
            The topics are not as they must be.
        FencedError, KafkaException, TimeoutError
            This process is to end at once, with a status that is not 0; what is not in a manifest is read again.
        """
        self._stopping = stopping
        self._open()
        try:
            self._read_baselines()
            self._member.subscribe(
                [self._full(OUTPUTS), self._full(LABELS)],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not stopping():
                self._come_round()
            self._leave()
        except _BrokenOffError as error:
            self._note_unfinished(error)
        finally:
            self._close()

    def _open(self) -> None:
        settings, cluster = self.settings, self._kafka
        self._admin: AdminClient = kafka.admin(cluster, "join-admin")
        faults = topics.check(self._admin, cluster, settings_too=False)
        if faults:
            raise StartRefusedError("\n".join(map(str, faults)))
        log.info("join.decodes compiled=%s", plain.library() is not None)
        member = partial(
            kafka.group_member,
            cluster,
            "join-outputs",
            settings.group,
            self._on_error,
            instance_id=settings.instance_id,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_ms=settings.heartbeat_ms,
            on_commit=self._on_commit,
            **CHECKED,
        )
        reader = partial(self._reader, "labels", **CHECKED)
        self._member, outputs = opened(self._full(OUTPUTS), member, cluster.input_partitions)
        self._labels, labels = opened(self._full(LABELS), reader, cluster.input_partitions)
        self._sources = {OUTPUTS: outputs, LABELS: labels}
        self._changelog: Consumer = self._reader(
            "changelog", **_WITH_EOF, **{"fetch.wait.max.ms": CHANGELOG_FETCH_WAIT_MS}
        )
        self._follower: Consumer = self._reader("baselines", **_WITH_EOF)
        self._delivery = Delivery(
            kafka.producer(cluster, "join", self._on_error),
            topic_prefix=cluster.topic_prefix,
            alive=self._wait_on,
        )

    def _reader(self, name: str, **others: str | int) -> Consumer:
        """Return a consumer outside of the group: nothing joins its group, nothing is committed to it."""
        return kafka.consumer(self._kafka, f"join-{name}", f"{self.settings.group}-aside", self._on_error, **others)

    def _close(self) -> None:
        self._dead = []
        for one in list(self._owned):
            self._let_go(one)
        for source in self._sources.values():
            source.close()
        for consumer in (self._member, self._labels, self._changelog, self._follower):  # the first still calls back
            consumer.close()

    def _leave(self) -> None:
        """Make all last, within a bound."""
        log.info("join.leaves partitions=%s", sorted(self._owned))
        self._hand_over()
        deadline_s = time.monotonic() + COMMIT_WAIT_S
        while self._commits_waiting > 0 and time.monotonic() < deadline_s:
            self._member.poll(POLL_WAIT_S)  # what it still delivers is read again by whoever comes next

    def _beat(self) -> None:
        self.beat_s = time.monotonic()

    def _wait_on(self) -> None:
        """Come round in a wait for the brokers; break it off when told to stop, after the wait for a last checkpoint."""
        self._beat()
        if self._is_due("publish", PUBLISH_EVERY_S):
            self._publish()
        if self._told_s is None and self._stopping():
            self._told_s = self.beat_s
        if self._told_s is not None and self.beat_s - self._told_s > self.settings.hand_over_wait_ms / 1000:
            raise _BrokenOffError(
                f"told to stop, and the brokers did not answer in {self.settings.hand_over_wait_ms} ms"
            )

    def _answered(self) -> None:
        self._answered_s = time.monotonic()

    def _is_away(self) -> bool:
        """Whether the brokers have answered nothing for so long that it is worth a line; says so when that changes."""
        self._answered_s = max(self._answered_s, self._delivery.answered_s)
        silent_s = time.monotonic() - self._answered_s
        if self._away != (silent_s > AWAY_S):
            self._away = not self._away
            if self._away:
                log.warning("join.brokers_away silent_s=%.0f waiting=%d", silent_s, self._delivery.waiting)
            else:
                log.info("join.brokers_back waiting=%d", self._delivery.waiting)
        return self._away

    def _is_due(self, what: str, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due[what]:
            return False
        self._due[what] = now_s + every_s
        return True

    def _come_round(self) -> None:
        """One pass."""
        self._beat()
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        self._follow()
        self._restore()
        self._find_again()
        self._idle = self._read() == 0
        self._look_for_edges()
        if self._is_full() or self._is_due("checkpoint", self.settings.checkpoint_ms / 1000):
            self._checkpoint(self._working())
        if self._is_due("publish", PUBLISH_EVERY_S):
            self._publish()
        if not gc.isenabled() and self._is_due("collect", COLLECT_EVERY_S):
            gc.collect()
        if self._is_due("give_back", GIVE_BACK_EVERY_S):
            heap.give_back()

    # -- what happens in the clients

    def _on_error(self, error: KafkaError) -> None:
        self._count_error(error)
        if kafka.is_fatal(error):
            self._fatal = error

    def _count_error(self, error: KafkaError) -> None:
        """Count an error, and write a line of its kind now and then: an outage makes many."""
        name = f"error_{error.name()}"
        self.counts[name] += 1
        now_s = time.monotonic()
        if kafka.is_fatal(error) or now_s - self._logged_s.get(name, -ERROR_LOG_EVERY_S) >= ERROR_LOG_EVERY_S:
            self._logged_s[name] = now_s
            log.warning(
                "kafka.error code=%s fatal=%s count=%d error=%s",
                error.name(),
                kafka.is_fatal(error),
                self.counts[name],
                error.str(),
            )

    def _on_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._commits_waiting -= 1
        if error is not None:
            self.counts["refused_commits"] += 1
            log.warning("join.commit_refused error=%s", error.str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin to take partitions; the work is done in slices between polls."""
        consumer.assign([])
        numbers = {
            topic: {one.partition for one in partitions if one.topic == self._full(topic)} for topic in _BY_TOPIC
        }
        assert numbers[OUTPUTS] == numbers[LABELS], f"both topics in equal numbers, not {numbers}"
        self.counts["rebalances"] += 1
        self._assigned = True
        log.info("join.assigned partitions=%s", sorted(numbers[OUTPUTS]))
        for partition in sorted(numbers[OUTPUTS] - self._owned.keys()):
            self._owned[partition] = _Owned(
                partition, Claim(partition, self._owner), time.monotonic() + self.settings.restore_wait_ms / 1000
            )
            whole = TopicPartition(self._full(topics.CHANGELOG), partition, OFFSET_BEGINNING)
            self._changelog.incremental_assign([whole])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Finish what is in hand within a bound, then let go."""
        self._assigned = False
        log.info("join.revoked partitions=%s", sorted({one.partition for one in partitions}))
        self._hand_over()
        for partition in {one.partition for one in partitions} & self._owned.keys():
            self._let_go(partition)
        consumer.unassign()
        self._assign_topic(LABELS)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Throw away what is not in a manifest: somebody else may own it already."""
        self._assigned = False
        self.counts["lost"] += 1
        log.warning("join.lost partitions=%s", sorted({one.partition for one in partitions}))
        for partition in {one.partition for one in partitions} & self._owned.keys():
            self._let_go(partition)
        consumer.unassign()
        self._assign_topic(LABELS)

    def _hand_over(self) -> None:
        """Make one last checkpoint; whoever comes next reads again what did not get into it."""
        try:
            self._checkpoint(self._working(), wait_ms=self.settings.hand_over_wait_ms)
        except UndeliveredError as error:
            self._note_unfinished(error)

    def _note_unfinished(self, error: Exception) -> None:
        """Note that what was in hand did not get into a checkpoint: whoever comes next reads it again."""
        self.counts["unfinished_hand_overs"] += 1
        self.is_unfinished = self._stopping()
        log.warning("join.hand_over_unfinished error=%s", error)

    def _let_go(self, partition: int) -> None:
        one = self._owned.pop(partition)
        self._changelog.incremental_unassign([TopicPartition(self._full(topics.CHANGELOG), partition)])
        if one.files is not None:
            one.files.close()

    # -- baselines and the clock

    def _read_baselines(self) -> None:
        """Read all baselines before the first row, and then follow them; begin to follow the clock."""
        deadline_s = time.monotonic() + self.settings.restore_wait_ms / 1000
        wait_s = self._kafka.request_wait_ms / 1000
        counts = {name: topic.partitions for name, topic in self._admin.list_topics(timeout=wait_s).topics.items()}
        baselines, clock = self._full(topics.BASELINES), self._full(topics.CLOCK)
        places = [TopicPartition(baselines, partition, OFFSET_BEGINNING) for partition in counts[baselines]]
        waiting = {(baselines, one.partition) for one in places}
        if self.settings.clock == "topic":
            for partition in counts[clock]:
                while (bounds := self._bounds(topics.CLOCK, partition)) is None:  # a leader that is just being chosen
                    if time.monotonic() > deadline_s:
                        raise TimeoutError(f"the brokers did not say where {clock}[{partition}] ends")
                    self._wait_on()
                    time.sleep(POLL_WAIT_S)
                low, high = bounds
                places.append(TopicPartition(clock, partition, max(low, high - 1)))
        self._followed = {(one.topic, one.partition): one.offset for one in places}
        self._follower.assign(places)
        while waiting:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(waiting)} partitions of {baselines} were not read to their end")
            for message in self._follower.consume(RESTORE_MESSAGES, POLL_WAIT_S):
                if _code(message) == _EOF:
                    waiting.discard((message.topic() or "", message.partition() or 0))
                self._take_followed(message)
            self._beat()

    def _follow(self) -> None:
        for message in self._follower.consume(RESTORE_MESSAGES, 0):
            self._take_followed(message)

    def _take_followed(self, message: Message) -> None:
        place = message.topic() or "", message.partition() or 0
        if message.error() is not None:
            self._note_error(message.error())
            if _code(message) == _LOST_POSITION:
                self._read_again(self._follower, place, self._followed[place])
            return
        self._followed[place] = (message.offset() or 0) + 1
        value = message.value()
        try:
            if message.topic() == self._full(topics.CLOCK):
                self._clock_ms = max(Clock.decode(value).now_ms, self._clock_ms or 0)
            elif value is not None:
                baseline = Baseline.decode(value)
                refuse_unusable(baseline, tick_ms=self.settings.join.tick_ms, needs=self.settings.join.needs)
                self._take_baseline(replace(baseline, lanes=(), arrays={}))
        except MalformedRecordError as error:
            self.counts["malformed_baselines"] += 1
            log.error("baseline.refused partition=%s offset=%s error=%s", message.partition(), message.offset(), error)  # noqa: TRY400

    def _take_baseline(self, baseline: Baseline) -> None:
        for one in self._working():
            assert one.join is not None, "it is working"
            one.join.take_baseline(baseline)
        self._baselines[baseline.model, baseline.version] = baseline

    def _now_ms(self) -> int | None:
        return int(time.time() * 1000) if self.settings.clock == "wall" else self._clock_ms

    # -- taking a partition

    def _working(self) -> list[_Owned]:
        return [one for one in self._owned.values() if one.join is not None]

    def _restore(self) -> None:
        """Take one slice of work on each partition that is being taken."""
        taking = [one for one in self._owned.values() if one.join is None]
        if not taking:
            return
        self._read_changelog(RESTORE_MESSAGES, POLL_WAIT_S)
        topic_ids = self._topic_ids() if any(one.claim.next is Taking.TAKEN for one in taking) else None
        for one in taking:
            if self._is_away():  # the bound is for us, not for them
                one.deadline_s = time.monotonic() + self.settings.restore_wait_ms / 1000
            if time.monotonic() > one.deadline_s:
                raise TimeoutError(f"partition {one.partition} was not taken in {self.settings.restore_wait_ms} ms")
            if one.claim.next is Taking.CLAIM:
                value = msgspec.json.encode({"group": self.settings.group, "instance": self.settings.instance_id})
                claim = Routed(topic=topics.CHANGELOG, key=one.claim.key(), value=value, partition=one.partition)
                one.claim.claimed_at(self._delivery.deliver([claim])[0])
            elif one.claim.next is Taking.TAKEN:
                bounds = {topic: self._bounds(topic, one.partition) for topic in _BY_TOPIC}
                if all(bounds.values()) and topic_ids is not None:
                    self._begin(one, bounds, topic_ids)

    def _read_changelog(self, most: int, wait_s: float) -> None:
        for message in self._changelog.consume(most, wait_s):
            one = self._owned.get(message.partition() or 0)
            if message.error() is None or _code(message) == _EOF:
                self._answered()
            if one is None:
                continue
            if message.error() is None:
                one.claim.meet(message.offset() or 0, message.key(), message.value())
            elif _code(message) == _EOF:
                one.claim.end()
            else:
                self._note_error(message.error())
                if _code(message) == _LOST_POSITION:
                    place = self._full(topics.CHANGELOG), one.partition
                    self._read_again(self._changelog, place, one.claim.read_to)

    def _read_again(self, consumer: Consumer, place: tuple[str, int], at: int) -> None:
        """Let a consumer that has lost its position go on: the broker spoke too soon, or the log begins later now."""
        topic, partition = place
        wait_s = ASK_AGAIN_EVERY_S - (time.monotonic() - self._asked_again_s.get(place, -ASK_AGAIN_EVERY_S))
        time.sleep(max(wait_s, 0.0))  # what is lost once may be lost for long
        self._asked_again_s[place] = time.monotonic()
        bounds = self._bounds(topic.removeprefix(self._kafka.topic_prefix), partition)
        low = OFFSET_BEGINNING if bounds is None else bounds[0]
        consumer.incremental_unassign([TopicPartition(topic, partition)])
        consumer.incremental_assign([TopicPartition(topic, partition, max(at, low))])

    def _begin(self, one: _Owned, bounds: Mapping[str, _Bounds | None], topic_ids: Mapping[str, str]) -> None:
        """Go on from the state that counts; `bounds` says where the logs begin and end, `topic_ids` which they are."""
        settings, began_s = self.settings, time.monotonic()
        kept: Kept = one.claim.kept()
        if kept.manifest is not None:
            one.topic_ids = Manifest.decode(kept.manifest).topic_ids
            self._refuse_others(one, topic_ids)
        one.topic_ids = {**one.topic_ids, **topic_ids}
        one.files = segment_files(settings.folder, one.partition, one.claim.epoch, one.claim.owner)
        partitions = self._kafka.input_partitions
        journal = Journal(one.claim.epoch, one.files)
        if kept.manifest is None:
            join = Join(
                settings=settings.join,
                models=settings.models,
                partition=one.partition,
                partitions=partitions,
                journal=journal,
            )
        else:
            join = Join.restore(
                kept.blocks,
                kept.manifest,
                settings=settings.join,
                models=settings.models,
                partition=one.partition,
                partitions=partitions,
                journal=journal,
            )
        for baseline in self._baselines.values():
            join.take_baseline(baseline)
        one.tombstones = kept.old_claims
        one.next = {topic: self._start(join, topic, one.partition, found) for topic, found in bounds.items() if found}
        if kept.manifest is not None:
            self._send(one, join, join.unsent(), Manifest.decode(kept.manifest).closed_through_ms)
        one.taken = join.counters
        one.join = join
        self._assign()
        log.info(
            "join.took partition=%d epoch=%d pending=%d ms=%d",
            one.partition,
            one.claim.epoch,
            join.gauges["pending_rows"],
            (time.monotonic() - began_s) * 1000,
        )

    def _start(self, join: Join, topic: str, partition: int, bounds: _Bounds) -> int:
        """Say where to read on; what retention took away before that is counted, never skipped in silence."""
        low, high = bounds
        position = join.positions.get(topic)
        if position is None:
            return low if self.settings.start == "earliest" else high
        if position > high:
            raise self._made_anew(topic, partition, f"ends at {high}, the state has read to {position}")
        if position < low:
            self.counts["offsets_lost"] += low - position
            log.error("join.offsets_lost topic=%s partition=%d from=%d to=%d", topic, partition, position, low)
        return max(position, low)

    def _made_anew(self, topic: str, partition: int, why: str) -> StartRefusedError:
        return StartRefusedError(
            f"{self._full(topic)}[{partition}] {why}: the topic was made anew; delete {self._full(topics.CHANGELOG)} with "
            "it, or bring the old one back"
        )

    def _refuse_others(self, one: _Owned, topic_ids: Mapping[str, str]) -> None:
        """Refuse to go on in another topic under the name of the one that was read."""
        for topic, found in topic_ids.items():
            kept = one.topic_ids.get(topic, found)
            if found != kept:
                raise self._made_anew(topic, one.partition, f"has the id {found}, the state was read from {kept}")

    def _topic_ids(self) -> Mapping[str, str] | None:
        """Return the ids of the inputs, as far as there are any; None when the brokers do not say."""
        wait_s = self._kafka.request_wait_ms / 1000
        try:
            asked = kafka.topic_descriptions(self._admin, map(self._full, _BY_TOPIC), wait_s)
            prefix = len(self._kafka.topic_prefix)
            found = {name[prefix:]: str(self._result(answer, wait_s).topic_id) for name, answer in asked.items()}
        except (KafkaException, TimeoutError) as error:
            self.counts["unanswered_questions"] += 1
            log.warning("join.topics_unknown error=%s", error)
            self._admin = kafka.admin(self._kafka, "join-admin")
            return None
        self._answered()
        return found

    def _bounds(self, topic: str, partition: int) -> _Bounds | None:
        """First and next offset of a log, as the brokers say it now; None when they do not.

        Asked on a connection of its own: behind a consumer's fetch that waits for records, the question would wait too.
        """
        wait_s = self._kafka.request_wait_ms / 1000
        place = TopicPartition(self._full(topic), partition)
        asked = [
            self._admin.list_offsets({place: spec}, request_timeout=wait_s)[place]
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        ]
        try:
            low, high = (self._result(answer, wait_s).offset for answer in asked)
        except (KafkaException, TimeoutError) as error:
            self.counts["unanswered_questions"] += 1
            log.warning("join.bounds_unknown topic=%s partition=%d error=%s", topic, partition, error)
            self._admin = kafka.admin(self._kafka, "join-admin")
            return None
        self._answered()
        return low, high

    def _result(self, answer: Future[Any], wait_s: float) -> Any:  # noqa: ANN401 - whatever was asked for
        """Wait for an answer with signs of life."""
        until_s = time.monotonic() + wait_s
        while True:
            try:
                return answer.result(LOOK_S)
            except TimeoutError:
                if answer.done() or time.monotonic() > until_s:
                    raise
            self._wait_on()

    def _assign(self) -> None:
        """Fetch what works from where it stands; for the others the group keeps their numbers for us."""
        for topic in _BY_TOPIC:
            self._assign_topic(topic)

    def _assign_topic(self, topic: str) -> None:
        working = [] if self._paused else self._working()
        for one in working:
            one.unsure.add(topic)
            one.heard_s[topic] = time.monotonic()
        self._sources[topic].assign({one.partition: one.next[topic] for one in working})

    # -- reading

    def _read(self) -> int:
        """Read the topic that is behind in event time, and the other when that has no backlog; return how many."""
        if not self._may_read():
            return self._take(OUTPUTS, 1, POLL_WAIT_S)  # nothing is fetched; the group is served
        first, second = (OUTPUTS, LABELS) if self._reached(OUTPUTS) <= self._reached(LABELS) else (LABELS, OUTPUTS)
        wait_s = POLL_WAIT_S if self._idle and all(one.join for one in self._owned.values()) else 0.0
        count = self._take(first, BATCH_MESSAGES, wait_s)
        if count < BACKLOG_MESSAGES:
            count += self._take(second, BATCH_MESSAGES, 0.0)
        elif first is LABELS and self._is_due("member", MEMBER_POLL_S):
            count += self._take(OUTPUTS, 1, 0.0)
        return count

    def _may_read(self) -> bool:
        """Whether there is room for more: while a disk takes nothing, nothing is read."""
        full = [one.files for one in self._owned.values() if one.files is not None and one.files.refusing]
        if full and self._is_due("disk", TRY_DISK_EVERY_S):
            full = [files for files in full if not files.try_again()]
        if full and self._is_due("disk_said", DISK_LOG_EVERY_S):
            fields = {
                "folder": str(self.settings.folder),
                "error": f"{full[0].why}: nothing is read until a write works",
            }
            tell(log, "join.disk_refuses", fields, logging.ERROR)
        paused = "disk" if full else ""
        if paused != self._paused:
            log.warning("join.reads paused=%s", bool(paused))
            self._paused = paused
            self._assign()
        return not paused

    def _reached(self, topic: str) -> int:
        """Event time up to which a topic was read, in its partition that is furthest behind."""
        return min((one.newest_ms.get(topic, -1) for one in self._working()), default=-1)

    def _take(self, topic: str, most: int, wait_s: float) -> int:
        """Fetch messages of one topic, decode them, and hand them to their joins; return how many there were."""
        fetched = self._sources[topic].fetch(most, wait_s)
        count = len(fetched.offset)
        if count:
            self._hand_on(topic, fetched)
        for notice in fetched.notices:  # after what came before it
            self._take_notice(topic, notice)
        return count

    def _hand_on(self, topic: str, fetched: Fetched) -> None:
        self._answered()
        for number in np.unique(fetched.partition).tolist():
            one = self._owned.get(number)
            if one is None or one.join is None:
                continue
            chosen = np.flatnonzero(fetched.partition == number)
            pieces = [chosen[start:end] for start, end in _pieces(fetched.size[chosen])][::-1]
            while pieces:
                piece = pieces.pop()
                try:
                    goes_on = self._join(one, one.join, topic, fetched, piece)
                except TooManyRowsError:
                    half = len(piece) // 2
                    pieces += [piece[half:], piece[:half]]
                    continue
                if not goes_on:
                    break
                if self._is_full():
                    self._checkpoint(self._working())
                self._beat()

    def _is_full(self) -> bool:
        return len(self._dead) >= DEAD_LETTERS_BOUND or self._dead_bytes >= DEAD_LETTERS_BYTES

    def _join(self, one: _Owned, join: Join, topic: str, fetched: Fetched, chosen: npt.NDArray[np.int64]) -> bool:
        """Join some messages of a partition; False when they are asked for again, and with them all that lies behind."""
        start = one.next[topic]
        chosen = chosen[np.searchsorted(fetched.offset[chosen], start) :]  # some under an assignment before this one
        if not len(chosen):
            return True
        first = int(fetched.offset[chosen[0]])
        if topic in one.unsure and first > start and one.gaps.get(topic) != first:
            # a gap of the log itself, or a record fetched under an assignment before this one: asked for again, a gap
            # of the log is there again
            one.gaps[topic] = first
            self.counts["gaps_asked_again"] += 1
            self._assign_topic(topic)
            return False
        one.unsure.discard(topic)
        one.heard_s[topic] = time.monotonic()
        messages = fetched.messages(chosen, one.partition, start)
        decoded = self._edges[topic].decode(messages)
        batch: OutputBatch | LabelBatch = decoded.batch
        refused = join.receive(batch)
        one.next[topic] = messages.end
        times_ms = batch.made_at_ms if isinstance(batch, OutputBatch) else batch.labelled_at_ms
        if len(times_ms):
            one.newest_ms[topic] = max(one.newest_ms.get(topic, -1), int(times_ms.max()))
        counts = self.counts
        counts[f"messages_{topic}"] += len(chosen)
        counts[f"rows_{topic}"] += len(times_ms) + batch.dead
        counts[f"sampled_{topic}"] += decoded.sampled
        counts[f"partitioner_mismatch_{topic}"] += decoded.mismatched
        counts["cut_texts"] += decoded.cut_texts
        self._placement[topic].note(decoded.sampled, decoded.mismatched, now_s=time.monotonic())
        if decoded.mismatched and self._is_due("mismatch", MISMATCH_LOG_EVERY_S):
            log.error(
                "join.partitioner_mismatch topic=%s partition=%d sampled=%d mismatched=%d error=labels miss their outputs: "
                "producers must place rows by murmur2 of the prediction id (librdkafka: partitioner=murmur2_random)",
                topic,
                one.partition,
                decoded.sampled,
                decoded.mismatched,
            )
        self._refuse(decoded.dead)
        apart = Apart()
        self._refuse(_with_bytes(letter, messages, apart) for letter in refused)
        return True

    def _refuse(self, letters: Iterable[DeadLetter]) -> None:
        now_ms = int(time.time() * 1000)
        for letter in letters:
            self.counts["dead_letters"] += 1
            self._dead.append(msgspec.structs.replace(letter, recorded_at_ms=now_ms))
            self._dead_bytes += len(letter.value or b"")

    def _take_notice(self, topic: str, notice: Notice) -> None:
        """Note an error, and what does not go on because of it."""
        self._note_error(notice.error)
        code = notice.error.code()
        if notice.partition is not None and (code == _LOST_POSITION or code in UNREADABLE):
            self._astray[topic, notice.partition] = code

    def _find_again(self) -> None:
        """Let inputs go on that do not, now and then: what is lost once may be lost for long."""
        if not self._astray or not self._is_due("astray", ASK_AGAIN_EVERY_S):
            return
        topic_ids = self._topic_ids()
        if topic_ids is None:  # then nobody says either where the logs begin
            return
        for working in self._working():
            self._refuse_others(working, topic_ids)
        astray, self._astray = self._astray, {}
        for (topic, partition), code in astray.items():
            one = self._owned.get(partition)
            if one is None or one.join is None:
                continue
            if code in UNREADABLE:
                self._step_over_unreadable(one, one.join, topic, code)
            else:
                self._step_over_lost(one, topic)
        self._assign()

    def _step_over_lost(self, one: _Owned, topic: str) -> None:
        """Go on where the log begins now; where that is no later, a broker has spoken too soon, and is asked again."""
        bounds = self._bounds(topic, one.partition)
        if bounds is not None and bounds[0] > one.next[topic]:
            low, position = bounds[0], one.next[topic]
            self.counts["offsets_lost"] += low - position
            log.error("join.offsets_lost topic=%s partition=%d from=%d to=%d", topic, one.partition, position, low)
            one.next[topic] = low

    def _step_over_unreadable(self, one: _Owned, join: Join, topic: str, code: int) -> None:
        """Put one dead letter in the place of a batch that nobody can decompress, or whose bytes have changed."""
        start = one.next[topic]
        try:
            found = self._unreadable(topic, one.partition, start)
        except TimeoutError as error:  # it is met again
            self.counts["unanswered_questions"] += 1
            log.warning("join.unreadable_unknown topic=%s partition=%d error=%s", topic, one.partition, error)
            return
        if found is None:  # it was so on one connection: what is there can be read
            return
        begins, ends = found
        nothing = Messages(
            partition=one.partition, start=start, end=ends, offset=[begins], broker_ms=[0], key=[None], value=[None]
        )
        decoded = self._edges[topic].decode(nothing)
        [letter] = decoded.dead
        got = f"{KafkaError(code).name().removeprefix('_')} from there to offset {ends - 1}"
        letter = msgspec.structs.replace(letter, field="", expected=EXPECTED, got=got)
        log.error(
            "join.unreadable topic=%s partition=%d from=%d to=%d error=%s",
            topic,
            one.partition,
            begins,
            ends,
            KafkaError(code).name(),
        )
        join.receive(decoded.batch)
        one.next[topic] = ends
        self.counts[f"rows_{topic}"] += decoded.batch.dead
        self._refuse([letter])

    def _unreadable(self, topic: str, partition: int, at: int) -> _Bounds | None:
        """Say from where to where the batch reaches that stands in the way at `at`; None when it can be read."""
        bounds = self._bounds(topic, partition)
        if bounds is None:
            raise TimeoutError("the brokers did not say where the log ends")
        return reach(lambda offset: self._unreadable_at(topic, partition, offset), at, bounds[1])

    def _unreadable_at(self, topic: str, partition: int, at: int) -> int | None:
        """Ask anew for what lies at an offset: None when it can be read, else the first offset of its batch."""
        until_s = time.monotonic() + self._kafka.request_wait_ms / 1000
        reader = self._reader("unreadable", **_WITH_EOF, **CHECKED)
        try:
            reader.assign([TopicPartition(self._full(topic), partition, at)])
            while time.monotonic() < until_s:
                message = reader.poll(LOOK_S)
                self._wait_on()
                if message is None:
                    continue
                if message.error() is None or _code(message) == _EOF:
                    return None
                if _code(message) in UNREADABLE:
                    return message.offset() or 0
        finally:
            reader.close()
        raise TimeoutError(f"the brokers did not say what lies at {at}")

    def _note_error(self, error: KafkaError | None) -> None:
        if error is None or error.code() == _EOF:
            return
        self._count_error(error)
        if kafka.is_fatal(error):
            raise KafkaException(error)

    # -- the edge, and the clock

    def _look_for_edges(self) -> None:
        """Tell the clock to whoever is at the end of its logs, as the brokers themselves say."""
        probe = self._probe
        if probe is not None and all(answer.done() for answer in probe.answers.values()):
            self._probe = None
            self._tell(probe)
        elif self._probe is None and self._is_due("probe", PROBE_EVERY_S if self._idle else BUSY_PROBE_EVERY_S):
            places = [(topic, one.partition) for one in self._working() for topic in _BY_TOPIC]
            if places or self._is_due("answer", BUSY_PROBE_EVERY_S):
                # whoever owns nothing asks all the same whether the brokers are there
                places = places or [(OUTPUTS, 0)]
                asked = self._admin.list_offsets(
                    {TopicPartition(self._full(topic), partition): OffsetSpec.latest() for topic, partition in places},
                    request_timeout=self._kafka.request_wait_ms / 1000,
                )
                prefix = len(self._kafka.topic_prefix)
                answers = {(place.topic[prefix:], place.partition): answer for place, answer in asked.items()}
                positions = {(topic, one.partition): one.next[topic] for one in self._working() for topic in _BY_TOPIC}
                self._probe = _Probe(self._now_ms(), answers, positions)

    def _tell(self, probe: _Probe) -> None:
        if any(answer.exception() is None for answer in probe.answers.values()):
            self._answered()
        if any(answer.exception() is not None for answer in probe.answers.values()):
            # a client that was open while a leader changed may ask with the old leader epoch, and be refused, for ever
            self._admin = kafka.admin(self._kafka, "join-admin")
        for (topic, partition), answer in probe.answers.items():
            one = self._owned.get(partition)
            if one is None:
                continue
            error = answer.exception()
            if error is not None:  # no answer: not at the edge
                self.counts["unanswered_probes"] += 1
                one.ends.pop(topic, None)
                one.unsaid_s.setdefault(topic, time.monotonic())
            else:
                one.unsaid_s.pop(topic, None)
                one.ends[topic] = answer.result().offset
                if one.join is not None and one.ends[topic] > one.next[topic]:
                    self._look_past(one, topic)
                elif one.ends[topic] < probe.positions.get((topic, partition), 0):
                    self._astray[topic, partition] = _LOST_POSITION  # made anew, unless a broker has spoken too soon
        if probe.asked_ms is None:
            return
        for one in self._working():
            if one.join is not None and (OUTPUTS, one.partition) in probe.answers:
                at_edge = {topic: one.next[topic] >= one.ends.get(topic, one.next[topic] + 1) for topic in _BY_TOPIC}
                one.join.advance(probe.asked_ms, outputs_at_edge=at_edge[OUTPUTS], labels_at_edge=at_edge[LABELS])

    def _look_past(self, one: _Owned, topic: str) -> None:
        """Move to the end of a log behind whose last record only marks of transactions lie.

        What a consumer says of an end can stem from an assignment before the last, so that a fresh one is asked.
        """
        quiet = self._idle and not self._paused and time.monotonic() - one.heard_s[topic] >= QUIET_S
        if not quiet or not self._is_due("look", LOOK_EVERY_S):
            return
        reader = self._reader("end", **_WITH_EOF)
        try:
            reader.assign([TopicPartition(self._full(topic), one.partition, one.next[topic])])
            message = reader.poll(self._kafka.request_wait_ms / 1000)
        finally:
            reader.close()
        self.counts["looked_past"] += 1
        if message is not None and _code(message) == _EOF:
            one.next[topic] = max(one.next[topic], message.offset() or 0)

    # -- making it last

    def _checkpoint(self, some: Sequence[_Owned], wait_ms: int | None = None) -> None:
        """Make what is new last, in four steps, each acknowledged before the next.

        Within `wait_ms`, where somebody waits for us; else for as long as the brokers are away.
        """
        deadline_s = None if wait_ms is None else time.monotonic() + wait_ms / 1000
        lasting_s = time.monotonic()
        prepared: list[tuple[_Owned, Join, Checkpoint]] = []
        for one in some:
            join = one.join
            assert join is not None, "it is working"
            holds = (join.positions, join.gauges["watermark_outputs_ms"], join.gauges["watermark_labels_ms"])
            if one.lasting != holds:
                error = join.conservation_error()
                if error:
                    self.counts["conservation_errors"] += 1
                    log.error("join.conservation_error partition=%d rows=%d", one.partition, error)
                prepared.append((one, join, join.checkpoint()))
                one.lasting = holds
        if not prepared and not self._dead:
            self._lasting_s = lasting_s
            return

        def left_ms() -> int | None:
            return None if deadline_s is None else max(int((deadline_s - time.monotonic()) * 1000), 1)

        letters, self._dead, self._dead_bytes = self._dead, [], 0
        for fields in refused_lines(letters):
            tell(log, "join.refused", fields, logging.WARNING)
        blocks = [topics.route(letter, self._kafka.output_partitions) for letter in letters]
        for one, _, made in prepared:
            blocks += [_block(one, key, value) for key, value in made.blocks]
        self._delivery.deliver(blocks, left_ms())
        manifests = [_manifest(one, *made.manifest) for one, _, made in prepared]
        offsets = self._delivery.deliver(manifests, left_ms())
        for (one, _, _), offset in zip(prepared, offsets, strict=True):
            self._read_on(one, offset, deadline_s)
        for one, join, made in prepared:
            self._send(one, join, made.to_send, made.through_ms, left_ms())
        claims = [_block(one, key, None) for one, _, _ in prepared for key in one.tombstones]
        self._delivery.deliver(claims, left_ms())
        for one, _, _ in prepared:
            one.tombstones = ()
        self._commit(prepared)
        self._lasting_s = lasting_s
        self.counts["checkpoints"] += 1
        self.counts["checkpoint_ms"] += int((time.monotonic() - lasting_s) * 1000)

    def _read_on(self, one: _Owned, offset: int, deadline_s: float | None) -> None:
        """Read the changelog up to our own manifest: a higher claim before it ends this process."""
        while one.claim.read_to <= offset:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise UndeliveredError(f"the changelog of partition {one.partition} was not read back in time")
            self._read_changelog(RESTORE_MESSAGES, POLL_WAIT_S)
            self._wait_on()

    def _send(
        self, one: _Owned, join: Join, sends: Sequence[Send], through_ms: int | None, wait_ms: int | None = None
    ) -> None:
        """Send what is closed, then the mark that says so to every partition; each awaited."""
        n = self._kafka.output_partitions
        stats = [
            Routed(topic=topics.WINDOW_STATS, key=model.encode(), value=value, partition=topics.partition_of(model, n))
            for model, value in sends
            if model is not None
        ]
        marks = [
            Routed(topic=topics.WINDOW_STATS, key=None, value=value, partition=partition)
            for model, value in sends
            if model is None
            for partition in range(n)
        ]
        self._delivery.deliver(stats, wait_ms)
        self._delivery.deliver(marks, wait_ms)
        if through_ms is not None:
            join.sent(through_ms)
        self.counts["window_stats"] += len(stats)
        if marks:
            log.debug("join.closed partition=%d through_ms=%s", one.partition, through_ms)

    def _commit(self, prepared: Sequence[tuple[_Owned, Join, Checkpoint]]) -> None:
        """Commit offsets for lag tools; positions come from the manifest, so that a refusal harms nothing."""
        places = [
            TopicPartition(self._full(topic), one.partition, offset)
            for one, _, made in prepared
            for topic, offset in made.positions.items()
        ]
        if not places:
            return
        try:
            self._member.commit(offsets=places, asynchronous=True)
            self._commits_waiting += 1
        except KafkaException as refused:
            self.counts["refused_commits"] += 1
            log.warning("join.commit_refused error=%s", refused)

    # -- what can be seen

    def health(self, bounds: ProbeSettings) -> Health:
        """Tell how it is; asked from any thread."""
        return join_status.health_of(self.status, self.beat_s, time.monotonic(), bounds)

    def measures(self) -> Iterable[Measure]:
        """Tell what there is to measure; asked from any thread."""
        return join_status.measures_of(self.status, time.monotonic())

    def _full(self, topic: str) -> str:
        return self._kafka.topic_prefix + topic

    def _publish(self) -> None:
        self._is_away()
        now_s, working = time.monotonic(), self._working()
        self._restored |= self._assigned and len(working) == len(self._owned)
        self.counts["repeated_writes"] = self._delivery.repeated
        self.status = Status(
            answered_s=self._answered_s,
            assigned=self._assigned,
            restored=self._restored,
            owned=tuple(sorted(one.partition for one in working)),
            restoring={one.partition: self._progress(one) for one in self._owned.values() if one.join is None},
            counts=dict(self.counts),
            partitions={one.partition: self._partition(one) for one in working},
            taken={one.partition: one.taken for one in working},
            unsaid={
                topic: min(since)
                for topic in _BY_TOPIC
                if (since := [one.unsaid_s[topic] for one in self._owned.values() if topic in one.unsaid_s])
            },
            misplaced={topic: placement.seen(now_s) for topic, placement in self._placement.items()},
            paused=self._paused,
            lasting_s=self._lasting_s if working else now_s,
            waiting=self._delivery.waiting,
            clock_ms=self._now_ms(),
        )

    def _partition(self, one: _Owned) -> dict[str, int]:
        join = one.join
        assert join is not None, "it is working"
        seen = {**join.counters, **join.gauges}
        for topic in _BY_TOPIC:
            if topic in one.ends:
                seen[f"lag_messages_{topic}"] = max(one.ends[topic] - one.next[topic], 0)
            seen[f"newest_ms_{topic}"] = one.newest_ms.get(topic, 0)
        return {**seen, "conservation_error": join.conservation_error(), "epoch": one.claim.epoch}

    def _progress(self, one: _Owned) -> float:
        """Tell which share of its changelog is read, as far as its client knows where that ends."""
        place = TopicPartition(self._full(topics.CHANGELOG), one.partition)
        low, high = self._changelog.get_watermark_offsets(place, cached=True) or (0, 0)
        return min(max(one.claim.read_to - low, 0) / (high - low), 1.0) if high > low else 0.0


def _pieces(size: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut messages so that what is decoded at once has a bound in bytes too, but for a single message."""
    cuts = np.flatnonzero(np.diff(np.cumsum(size) // PIECE_BYTES)) + 1
    yield from pairwise([0, *cuts.tolist(), len(size)])


def _code(message: Message) -> int | None:
    error = message.error()
    return None if error is None else error.code()


def _block(one: _Owned, key: bytes, value: bytes | None) -> Routed:
    return Routed(topic=topics.CHANGELOG, key=key, value=value, partition=one.partition)


def _manifest(one: _Owned, key: bytes, value: bytes) -> Routed:
    """Say in a manifest of which topics its positions are."""
    manifest = msgspec.structs.replace(Manifest.decode(value), topic_ids=dict(one.topic_ids))
    return _block(one, key, manifest.encode())


def _with_bytes(letter: DeadLetter, messages: Messages, apart: Apart) -> DeadLetter:
    """Give a dead letter of the join the bytes of its row, where they are in these messages."""
    at = int(np.searchsorted(messages.offset, letter.offset))
    if at == len(messages.offset) or messages.offset[at] != letter.offset:
        return letter  # a label that waited too long: its bytes were read long ago
    row, key, value = apart.row(messages.key[at], messages.value[at], letter.row)
    letter = as_attempt(letter.holding(key, value), messages.headers(at))
    return msgspec.structs.replace(letter, row=row, decided_at_ms=max(int(messages.broker_ms[at]), 0))


def serve(path: HotPath, stop_wait_ms: int) -> int:
    """Run a worker of the join as this process, until it is told to stop (`Ending`); return the status to end with.

    The garbage collector is off in the loop: it makes no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with Ending(stop_wait_ms) as ending:
            path.run(ending.told)
    except StartRefusedError:
        log.exception("join.refused_to_start")
        return EXIT_STATUS
    except Exception:  # whatever it is, this process is not to go on: the next one restores
        log.exception("join.ended")
        return EXIT_STATUS
    finally:
        gc.enable()
    log.info("join.ended reason=told")
    return UNFINISHED_STATUS if path.is_unfinished else 0
