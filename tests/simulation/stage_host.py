"""How does the host of a small stage keep what it knows? Steps in the order of its protocol, each a place to stop.

The same cursor, the same view of a table, the same entries and claims as in the real host, and the same order: the
entry; then outputs, rows and cursors, as they come. What is ready while a group is on its way goes with the next group.
`run` is a generator, as in `join_host`.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.runtime.cursor import View
from streams.runtime.stage_spec import Handed, Routed, StageSpec
from streams.runtime.write_ahead import ENTRY_MARK, Changes, Restored, claim, epoch_headers, epoch_of, table_key
from streams.stages.stage import has_more
from tests.simulation.join_host import Step
from tests.simulation.logs import Topics


class Event(NamedTuple):
    """What a stage was told: a record of an input, the time (then `topic` is `advance` or `clock`), or to go on (`more`)."""

    topic: str
    value: Any
    live: bool = True


@dataclass
class Ledger:
    """What a test knows of one stage and partition.

    Parameters
    ----------
    consumed
        What the stage was told, in the order in which it became durable.
    epoch
        The highest claim.
    """

    consumed: list[Event] = field(default_factory=list)
    epoch: int = 0


@dataclass
class _Group:
    """What waits for one commit."""

    handed: list[Handed] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    events: list[Event] = field(default_factory=list)
    taken_ms: int = -1


class StageHost:
    """One owner of one partition of one stage, from its assignment to its end."""

    def __init__(
        self,
        spec: StageSpec[Any, Any],
        partition: int,
        topics: Topics,
        ledger: Ledger,
        clock: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.spec = spec
        self.partition = partition
        self.ledger = ledger
        self.taken_ms = -1
        self.ended = False
        self._silent = False
        self._topics = topics
        self._clock = clock
        self._rng = rng
        self._changelog = topics[f"{spec.name}-changelog", partition]
        self._group = _Group()
        self._flying = _Group()
        self._committing = self._commit()
        self._due: deque[tuple[int, dict[str, int]]] = deque()
        self._seen_ms = self._told_ms = -1
        self._entries = 0

    def run(self) -> Iterator[Step]:
        """Take the partition, then work until dropped."""
        yield from self._take()
        while True:
            left = [topic for topic in self.spec.inputs if self._end(topic) > self._view.cursors[topic]]
            chance = self._rng.random()
            if self._group.events and (chance < 0.5 or not left):
                yield next(self._committing)
            elif has_more(self.stage):
                self._gather(self.stage.more(), [Event("more", None)])
                self._advance_if_due()
                yield Step.WORKED
            elif self._clock() > self._seen_ms and (chance < 0.6 or not left):
                self._hear(self._clock())
                yield Step.WORKED
            elif left:
                self._receive(self._rng.choice(left))
                yield Step.WORKED
            else:
                yield next(self._committing)

    def stop(self) -> None:
        """Stop the process for so long that another owns its partition; what it has sent is still on its way."""
        self._silent = True
        self.ended = not self._flying.events

    def drag(self) -> None:
        """Let one more record of a stopped process arrive; before it sends anything else, it ends itself."""
        next(self._committing)

    # ---- taking

    def _take(self) -> Iterator[Step]:
        restored = Restored(self.partition)
        end = self._read_changelog(restored, 0)
        yield Step.WORKED
        while True:
            self._epoch = restored.epoch + 1
            headers = epoch_headers(self._epoch)
            at = self._changelog.append(claim(self.partition), b"", headers)
            self.ledger.epoch = max(self.ledger.epoch, self._epoch)
            yield Step.WORKED
            for entry in self._changelog.read(end, at):
                restored.take(entry.key or b"", entry.value, entry.headers)
            end = at + 1
            if restored.epoch < self._epoch:
                restored.take(claim(self.partition), b"", headers)
                break
        self._table = restored.table
        self._next_changelog_offset = end
        again = restored.again()
        for one in again.outputs:
            self._send(one)
            yield Step.WORKED
        for key, value in again.records.items():
            self._changelog.append(key, value, headers)
            yield Step.WORKED
        self._view = View(self.partition, self._table)
        for topic in self.spec.inputs:
            self._view.cursors.setdefault(topic, 0)
        self.stage: Any = self.spec.make_stage(self._view.rows, self.partition)

    def _read_changelog(self, restored: Restored, start: int) -> int:
        end = self._changelog.end
        for entry in self._changelog.read(start, end):
            restored.take(entry.key or b"", entry.value, entry.headers)
        return end

    def _send(self, one: Routed) -> None:
        assert one.partition is not None, f"{one.topic}: each record past the join says where it goes"
        self._topics[one.topic, one.partition].append(one.key, one.value, one.headers)

    # ---- what the stage is told

    def _end(self, topic: str) -> int:
        return self._topics[topic, self.partition].end

    def _ends(self) -> dict[str, int]:
        return {topic: self._end(topic) for topic in self.spec.inputs}

    def _reached(self, ends: dict[str, int]) -> bool:
        return all(self._view.cursors[topic] >= end for topic, end in ends.items())

    def _receive(self, topic: str) -> None:
        start = self._view.cursors[topic]
        entries = self._topics[topic, self.partition].read(start, start + self._rng.choice((1, 1, 3, 20)))
        records = [self.spec.decode(topic, entry.key, entry.value, entry.headers) for entry in entries]
        outputs = self.stage.receive(records)
        self._view.cursors[topic] = start + len(records)
        self._gather(outputs, [Event(topic, record) for record in records])
        self._advance_if_due()

    def _hear(self, now_ms: int) -> None:
        self._seen_ms = now_ms
        ends = self._ends()
        if hasattr(self.stage, "clock"):
            live = self._reached(ends)
            self._gather(self.stage.clock(now_ms, live), [Event("clock", now_ms, live)])
        if len(self._due) > 1:
            self._due.pop()
        self._due.append((now_ms, ends))
        self._advance_if_due()

    def _advance_if_due(self) -> None:
        while self._due and self._reached(self._due[0][1]) and not has_more(self.stage):
            now_ms, _ = self._due[0]
            if self.spec.advance_by == "clock" and now_ms > self._told_ms:
                self._told_ms = now_ms
                self._gather(self.stage.advance(now_ms), [Event("advance", now_ms)])
                if has_more(self.stage):
                    return
            self._due.popleft()
            self._group.taken_ms = now_ms
            self._gather([], [Event("taken", now_ms)])

    def _gather(self, outputs: Sequence[Any], events: list[Event]) -> None:
        for output in outputs:
            routed = self.spec.route(output)
            if isinstance(routed, Handed):
                self._group.handed.append(routed)
            else:
                self._group.changes.outputs += [routed] if isinstance(routed, Routed) else routed
        self._group.events += events
        if self.stage.settled:
            self._view.settle(self._group.changes)

    # ---- making it last

    def _commit(self) -> Iterator[Step]:
        while True:
            if not self._group.events:
                yield Step.IDLE
                continue
            self._flying, self._group = self._group, _Group()
            yield from self._make_durable(self._flying)
            yield from self._end_if_silent()
            self.taken_ms = max(self.taken_ms, self._flying.taken_ms)
            self._flying = _Group()

    def _make_durable(self, group: _Group) -> Iterator[Step]:
        headers = epoch_headers(self._epoch)
        changes = group.changes
        entry = [] if changes.is_one else changes.entry(self.partition, self._entries)
        self._entries += bool(entry)
        written = []
        for key, value in entry:
            written.append((key, self._changelog.append(key, value, headers)))
            if (key, value) == entry[-1]:
                self._note(group)
            yield Step.WORKED
        yield from self._end_if_silent()
        records, outputs = deque(changes.records(self.partition)), deque(changes.outputs)
        if not entry and not records:
            self._note(group)
        while records or outputs:
            if outputs and (not records or self._rng.random() < 0.5):
                self._send(outputs.popleft())
            else:
                row, content = records.popleft()
                self._hold(row, content)
                written.append((row, self._changelog.append(row, content, headers)))
                if not entry and not records:
                    self._note(group)
            yield Step.WORKED
        yield from self._overwrite(written)
        yield from self._end_if_silent()
        for handed in group.handed:
            handed.do()
            yield Step.WORKED

    def _hold(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._table.pop(key, None)
        else:
            self._table[key] = value

    def _overwrite(self, written: list[tuple[bytes, int]]) -> Iterator[Step]:
        """Write again what somebody else wrote between our records, who no longer owns them."""
        while written:
            foreign: set[bytes] = set()
            for _, offset in written:
                between = self._changelog.read(self._next_changelog_offset, offset)
                foreign |= {one.key for one in between if one.key is not None and epoch_of(one.headers) < self._epoch}
                self._next_changelog_offset = offset + 1
            yield from self._end_if_silent()
            written = []
            for key in sorted(foreign):
                if not key.startswith(table_key(self.partition, ENTRY_MARK)):
                    written.append((key, self._changelog.append(key, self._table.get(key), epoch_headers(self._epoch))))
                    yield Step.WORKED

    def _note(self, group: _Group) -> None:
        """Note what is durable now; what comes behind a higher claim counts for nothing."""
        if self._epoch == self.ledger.epoch:
            self.ledger.consumed += group.events

    def _end_if_silent(self) -> Iterator[Step]:
        while self._silent:
            self.ended = True
            yield Step.IDLE
