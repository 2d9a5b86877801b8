"""How does the host of a small stage keep what it knows? Steps in the order of its protocol, each a place to stop.

The same cursor and the same view of a table as in the real host, and the same order: outputs delivered, rows written,
cursors written. What is ready while a group is on its way goes with the next group. `run` is a generator, as in
`join_host`.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.runtime.cursor import Changes, View
from streams.runtime.stage_spec import Handed, Routed, StageSpec
from tests.simulation.join_host import Step
from tests.simulation.logs import Topics


class Event(NamedTuple):
    """What a stage was told: a record of an input, or the time (then `topic` is `advance` or `clock`)."""

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
    lost
        Outputs of stages that ended before their rows were durable; some of them were delivered.
    torn
        How often a process ended among the rows of a step of time. A record is told again, but that hour is gone: what
        was due happens at the next, and what waits from then on waits longer.
    """

    consumed: list[Event] = field(default_factory=list)
    lost: list[Routed] = field(default_factory=list)
    torn: int = 0


@dataclass
class _Group:
    """What waits for one commit."""

    outputs: list[Routed] = field(default_factory=list)
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
        self._silent = self._writing = False
        self._topics = topics
        self._clock = clock
        self._rng = rng
        self._changelog = topics[f"{spec.name}-changelog", partition]
        self._next_changelog_offset = self._changelog.end
        self._table = self._changelog.table(self._changelog.end)
        self._view = View(partition, self._table)
        for topic in spec.inputs:
            self._view.cursors.setdefault(topic, 0)
        self.stage = spec.make_stage(self._view.rows, partition)
        self._group = _Group()
        self._flying = _Group()
        self._committing = self._commit()
        self._due: deque[tuple[int, dict[str, int]]] = deque()
        self._seen_ms = -1

    def run(self) -> Iterator[Step]:
        """Work until dropped."""
        while True:
            left = [topic for topic in self.spec.inputs if self._end(topic) > self._view.cursors[topic]]
            chance = self._rng.random()
            if self._group.events and (chance < 0.5 or not left):
                yield next(self._committing)
            elif self._clock() > self._seen_ms and (chance < 0.6 or not left):
                self._hear(self._clock())
                yield Step.WORKED
            elif left:
                self._receive(self._rng.choice(left))
                yield Step.WORKED
            else:
                yield next(self._committing)

    def end(self) -> None:
        """Note what ends with this process, or with its being stopped."""
        self.ledger.lost += [*self._flying.outputs, *self._group.outputs]
        self.ledger.torn += self._writing and any(event.topic == "advance" for event in self._flying.events)

    def stop(self) -> None:
        """Stop the process for so long that another owns its partition; what it has sent is still on its way."""
        self.end()
        self._silent = True
        self.ended = not self._flying.events

    def drag(self) -> None:
        """Let one more record of a stopped process arrive; before it sends anything else, it ends itself."""
        next(self._committing)

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
        while self._due and self._reached(self._due[0][1]):
            now_ms, _ = self._due.popleft()
            if self.spec.advance_by == "clock":
                self._gather(self.stage.advance(now_ms), [Event("advance", now_ms)])
            self._group.taken_ms = now_ms
            self._gather([], [Event("taken", now_ms)])

    def _gather(self, outputs: Sequence[Any], events: list[Event]) -> None:
        for output in outputs:
            routed = self.spec.route(output)
            if isinstance(routed, Handed):
                self._group.handed.append(routed)
            else:
                self._group.outputs += [routed] if isinstance(routed, Routed) else routed
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
        for one in group.outputs:
            assert one.partition is not None, f"{one.topic}: each record past the join says where it goes"
            self._topics[one.topic, one.partition].append(one.key, one.value, one.headers)
            yield Step.WORKED
        yield from self._end_if_silent()
        yield from self._write(group)
        for handed in group.handed:
            handed.do()
            yield Step.WORKED

    def _write(self, group: _Group) -> Iterator[Step]:
        """Write rows, then cursors; and again what somebody else wrote between them, who no longer owns them."""
        records = list(group.changes.records(self.partition))
        self._note(group)
        self._writing = True
        while records:
            yield from self._end_if_silent()
            foreign: set[bytes] = set()
            for key, value in records:
                if value is None:
                    self._table.pop(key, None)
                else:
                    self._table[key] = value
                offset = self._changelog.append(key, value)
                between = self._changelog.read(self._next_changelog_offset, offset)
                foreign |= {entry.key for entry in between if entry.key is not None}
                self._next_changelog_offset = offset + 1
                yield Step.WORKED
            records = [(key, self._table.get(key)) for key in sorted(foreign, key=lambda key: b"/@" in key)]
        self._writing = False

    def _note(self, group: _Group) -> None:
        """Note what begins to be durable; where that is cut short, the stage is told the same again, as a repeat."""
        if not self._silent:
            self.ledger.consumed += group.events

    def _end_if_silent(self) -> Iterator[Step]:
        while self._silent:
            self.ended = True
            yield Step.IDLE
