"""How does the join's host keep what it knows? Steps in the order of its protocol, each a place where it may stop.

`run` is a generator: between any two of its steps other hosts go on, the process may end, or it may be stopped and go
on when another owner has long taken over.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from schemas.baseline import Baseline
from schemas.fields import MalformedRecordError
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.runtime.claims import Claim, FencedError, Kept, Taking
from streams.stages.blocks import Checkpoint, Journal, Manifest, RunStore, Send
from streams.stages.join import LABELS, OUTPUTS, Join, JoinSettings
from tests.simulation.join_oracle import LabelRow, Move, OutputRow, label_batch, moved_to, output_batch
from tests.simulation.logs import Topics

Row = OutputRow | LabelRow | Move
CHANGELOG, WINDOW_STATS = "pending-changelog", "window-stats"

CHECKPOINT_SHARE, READ_SHARE = 0.12, 0.85
"""How often a host with rows to read makes a checkpoint, reads, or else tells the clock."""


class Step(Enum):
    """What a host did last."""

    WORKED = "worked"
    IDLE = "idle"


@dataclass
class Journals:
    """What the oracle must know of one input partition, and what survives of a host in the eyes of a test.

    Parameters
    ----------
    seen
        By (epoch, sequence) of each manifest the rows and moves that it covers, as (list, length) by topic.
    sent
        WindowStats by model, tick and part: the same bytes, however often.
    clashes
        Places of which two different WindowStats were sent.
    crooked
        Checkpoints at which conservation did not hold.
    relied_on
        Offset, and (epoch, sequence), of each manifest after which something was sent; who claims after it and goes on
        from an older one, or from none, has `forgotten` it.
    """

    seen: dict[tuple[int, int], dict[str, tuple[list[Row], int]]] = field(default_factory=dict)
    sent: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    clashes: list[tuple[str, int, int]] = field(default_factory=list)
    crooked: int = 0
    relied_on: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    forgotten: int = 0


@dataclass(frozen=True, kw_only=True)
class JoinWorld:
    """What the hosts of the join share."""

    topics: Topics
    settings: JoinSettings
    models: Mapping[str, Model]
    baselines: Sequence[Baseline]
    sources: int
    sinks: int
    partition_of: Callable[[str], int]
    clock: Callable[[], int]
    runs_of: Callable[[int, int], RunStore]
    """By partition and epoch: where the cold rows of one owner lie."""


class JoinHost:
    """One owner of one input partition, from its claim to its end."""

    def __init__(self, world: JoinWorld, partition: int, journals: Journals, owner: int, rng: random.Random) -> None:
        self.world = world
        self.partition = partition
        self.journals = journals
        self.rng = rng
        self.ended = False
        self.missed_a_run = False
        self.saving = False
        self.taken_ms = -1
        self.logs: dict[str, list[Row]] = {OUTPUTS: [], LABELS: []}
        self._claim = Claim(partition=partition, owner=owner)
        self._join: Join | None = None
        self._tombstones: tuple[bytes, ...] = ()
        self._lasting_ms = -1
        self._read_any = False
        self._changelog = world.topics[CHANGELOG, partition]

    @property
    def join(self) -> Join:
        """The join; there is none before the partition is taken."""
        assert self._join is not None, "taken before it works"
        return self._join

    @property
    def working(self) -> bool:
        """Whether the partition is taken."""
        return self._join is not None

    def run(self) -> Iterator[Step]:
        """Claim, restore, and work until dropped or fenced, or until the disk does not give back a run."""
        try:
            yield from self._take()
            while True:
                yield from self._work()
        except FencedError:
            self.ended = True
        except MalformedRecordError as error:
            if error.record != "run":
                raise
            self.ended = self.missed_a_run = True

    # ---- taking the partition

    def _meet(self, end: int) -> None:
        for entry in self._changelog.read(self._claim.read_to, end):
            self._claim.meet(entry.offset, entry.key, entry.value)

    def _take(self) -> Iterator[Step]:
        claim = self._claim
        while claim.next is not Taking.TAKEN:
            self._meet(self._changelog.end)
            claim.end()
            yield Step.WORKED
            if claim.next is Taking.CLAIM:
                offset = self._changelog.append(claim.key(), b"{}")
                yield Step.WORKED
                claim.claimed_at(offset)
                self._meet(offset + 1)
        kept = claim.kept()
        join = self._begin(kept)
        yield Step.WORKED
        if kept.manifest is not None:
            yield from self._send(join, join.unsent(), Manifest.decode(kept.manifest).closed_through_ms)
        self._tombstones = kept.old_claims
        self._join = join

    def _begin(self, kept: Kept) -> Join:
        world = self.world
        journal = Journal(self._claim.epoch, world.runs_of(self.partition, self._claim.epoch))
        if kept.manifest is None:
            self._remember((0, 0))
            join = Join(
                settings=world.settings,
                models=world.models,
                partition=self.partition,
                partitions=world.sources,
                journal=journal,
            )
        else:
            manifest = Manifest.decode(kept.manifest)
            self._remember((manifest.epoch, manifest.sequence))
            for topic, (rows, size) in self.journals.seen[manifest.epoch, manifest.sequence].items():
                self.logs[topic] = rows[:size]
            join = Join.restore(
                kept.blocks,
                kept.manifest,
                settings=world.settings,
                models=world.models,
                partition=self.partition,
                partitions=world.sources,
                journal=journal,
            )
        for baseline in world.baselines:
            join.take_baseline(baseline)
        return join

    def _remember(self, believed: tuple[int, int]) -> None:
        """Hold what is believed against what others relied on before this claim."""
        before = [place for offset, place in self.journals.relied_on if offset < self._claim.read_to]
        self.journals.forgotten += max(before, default=(0, 0)) > believed

    # ---- work

    def _work(self) -> Iterator[Step]:
        left = [topic for topic in (OUTPUTS, LABELS) if self._left(topic)]
        now_ms = self.world.clock()
        chance = self.rng.random()
        is_new = self._read_any or self._lasting_ms < self.taken_ms
        if is_new and (chance < CHECKPOINT_SHARE or not left):
            yield from self._make_durable()
        elif left and chance < READ_SHARE:
            self._read(self.rng.choice(left))
            yield Step.WORKED
        elif now_ms > self.taken_ms:
            self._tell(now_ms)
            yield Step.WORKED
        elif not left:
            yield Step.IDLE

    def _left(self, topic: str) -> int:
        return self.world.topics[topic, self.partition].end - self.join.positions.get(topic, 0)

    def _read(self, topic: str) -> None:
        log = self.world.topics[topic, self.partition]
        start = self.join.positions.get(topic, 0)
        end = min(log.end, start + self.rng.choice((1, 4, 30, 500)))
        rows = [entry.value for entry in log.read(start, end)]
        self.logs[topic] += rows
        batch: Any = label_batch if topic == LABELS else output_batch
        self.join.receive(batch(rows, partition=self.partition, start=start, end=end))
        self._read_any = True

    def _tell(self, now_ms: int) -> None:
        """Tell the clock, and which topics are read to their end."""
        move = moved_to(self.world.settings, now_ms)
        edges = {topic: not self._left(topic) for topic in (OUTPUTS, LABELS)}
        for topic, at_edge in edges.items():
            if at_edge:
                self.logs[topic].append(move)
        self.join.advance(now_ms, outputs_at_edge=edges[OUTPUTS], labels_at_edge=edges[LABELS])
        if all(edges.values()):
            self.taken_ms = max(self.taken_ms, now_ms)
        self._read_any = True

    # ---- making it last

    def _make_durable(self) -> Iterator[Step]:
        join, taken_ms = self.join, self.taken_ms
        self._read_any, self.saving = False, True
        self.journals.crooked += join.conservation_error() != 0
        made = join.checkpoint()
        yield Step.WORKED
        for key, value in made.blocks:
            self._changelog.append(key, value)
            yield Step.WORKED
        offset = self._manifest(made)
        yield Step.WORKED
        self._meet(offset + 1)
        manifest = Manifest.decode(made.manifest[1])
        self.journals.relied_on.append((offset, (manifest.epoch, manifest.sequence)))
        yield Step.WORKED
        yield from self._send(join, made.to_send, made.through_ms)
        for key in self._tombstones:
            self._changelog.append(key, None)
            yield Step.WORKED
        self._tombstones = ()
        self._lasting_ms = taken_ms
        self.saving = False

    def _manifest(self, made: Checkpoint) -> int:
        key, value = made.manifest
        manifest = Manifest.decode(value)
        place = manifest.epoch, manifest.sequence
        assert place not in self.journals.seen, f"manifest {place} was written twice"
        self.journals.seen[place] = {topic: (rows, len(rows)) for topic, rows in self.logs.items()}
        return self._changelog.append(key, value)

    def _send(self, join: Join, sends: Sequence[Send], through_ms: int | None) -> Iterator[Step]:
        """Send what is closed, then the marks."""
        for model, value in sends:
            if model is None:
                continue
            stats = WindowStats.decode(value)
            place = stats.model, stats.tick_start_ms, stats.part
            if self.journals.sent.setdefault(place, value) != value:
                self.journals.clashes.append(place)
            self.world.topics[WINDOW_STATS, self.world.partition_of(model)].append(model.encode(), value)
            yield Step.WORKED
        for model, value in sends:
            for sink in range(self.world.sinks) if model is None else ():
                self.world.topics[WINDOW_STATS, sink].append(None, value)
                yield Step.WORKED
        if through_ms is not None:
            join.sent(through_ms)
