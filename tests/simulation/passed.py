"""Has a record that a stage has passed done what it had to? What the changelogs of escalate and notify say of it.

In which order a stage took the records of two topics, no topic says. But with each group its changelog says how far each
input was taken, and every row as it was then; so the order is open within a group alone. Most of what is asked of the rows
is the same in each order:

- an incident's ladder stands at the newest of its transitions that escalate has passed, and holds all of it;
- a message whose end escalate has passed is waited for no more, and one that is waited for was written;
- what notify knows of an incident is what one uninterrupted pass over its transitions makes of them;
- a message that notify has passed waits or has ended, and one whose end it has passed has ended;
- an attempt whose receipt notify has passed is not on its way any more.

And some order of what a group holds of an incident, and of the clock, makes the ladder after it of the ladder before it.
Rows outlive each run: they are kept for months after an incident's end.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from schemas.incident import Incident
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import topics
from streams.runtime.cursor import View
from streams.runtime.stage_spec import Rows, StageSpec
from streams.runtime.write_ahead import ENTRY_MARK, Restored, table_key
from streams.stages.escalate import Ladder, Time
from streams.stages.notify import Ended, Seen, Waiting
from streams.stages.rows import Rows as Kept
from tests.simulation.logs import Entry

MOST_MOVES = 30_000
"""What is tried at most to explain one ladder of one group: seconds. After an outage a group may hold hours."""
TIME = "time"
"""The row in which escalate keeps how far it has come."""


class Places(Protocol):
    """What lies in each partition of each topic."""

    def __getitem__(self, place: tuple[str, int], /) -> Iterable[Entry]:
        """Return the records of one partition."""
        ...


def changelog_of(stage: str) -> str:
    """Name a stage's changelog among the topics.

    >>> changelog_of("notify")
    'notify-changelog'
    """
    return f"{stage}-changelog"


def is_whole(changelog: Sequence[Entry]) -> bool:
    """Whether a changelog holds all that was ever written into it."""
    return all(entry.offset == at for at, entry in enumerate(changelog))


def durable(changelog: Sequence[Entry], partition: int) -> Iterator[View]:
    """Yield what is durable after each group, perhaps more than once; of a compacted changelog what is left in the end."""
    restored = Restored(partition)
    entries, whole = table_key(partition, ENTRY_MARK), is_whole(changelog)
    for entry in changelog:
        key = entry.key or b""
        is_news = key.startswith(entries) or restored.table.get(key) != entry.value
        restored.take(key, entry.value, entry.headers)
        if whole and is_news:
            yield View(partition, restored.table)
    if not whole:
        yield View(partition, restored.table)


def undone(
    logs: Places, spec: StageSpec[Any, Any], partition: int, times_ms: Iterable[int], counts: Counter[str]
) -> list[str]:
    """Name the records that a stage has not read, and those that it has passed without what they had to leave in its rows.

    Parameters
    ----------
    spec
        Of escalate or notify.
    times_ms
        All that the clock has said.
    counts
        Is told of `ladders_unexplained`, of which it stays open what explains them.
    """
    where, changelog = f"{spec.name} {partition}", list(logs[changelog_of(spec.name), partition])
    expected = _Ladders(spec, partition, times_ms) if spec.name == "escalate" else _Messages(spec, partition)
    inputs = {topic: list(logs[topic, partition]) for topic in spec.inputs}
    passed = dict.fromkeys(spec.inputs, 0)
    before: Rows | None = {} if is_whole(changelog) else None
    faults: list[str] = []
    for view in durable(changelog, partition):
        records = []
        for topic, log in inputs.items():
            start, passed[topic] = passed[topic], view.cursors.get(topic, 0)
            new = log[_at(log, start) : _at(log, passed[topic])]
            records += [spec.decode(topic, entry.key, entry.value, entry.headers) for entry in new]
        faults += [f"{where}: {fault}" for fault in expected.missing(records, before, view.rows)]
        before = None if before is None else view.rows
    for topic, log in inputs.items():
        unread = len(log) - _at(log, passed[topic])
        if unread:
            faults.append(f"{where}: the last {unread} of {len(log)} records of {topic} were not read")
    counts["ladders_unexplained"] += expected.unexplained
    written = {Notification.decode(entry.value).notification_id for entry in logs[topics.NOTIFICATIONS, partition]}
    return faults + [f"{where}: message {name} was noted, and never written" for name in expected.noted - written]


def _at(log: Sequence[Entry], offset: int) -> int:
    return bisect_left(log, offset, key=lambda entry: entry.offset)


class _Expected(ABC):
    """What a stage's rows have to say."""

    def __init__(self, spec: StageSpec[Any, Any], partition: int) -> None:
        self.spec = spec
        self.partition = partition
        self.noted: set[str] = set()
        """Messages that the rows say to have been sent."""
        self.unexplained = 0
        """Ladders of which it stays open whether some order explains them: there were too many."""

    @abstractmethod
    def missing(self, records: Sequence[Any], before: Rows | None, rows: Rows) -> Iterator[str]:
        """Learn which records a group has passed, of each topic in its order, and say what the rows lack.

        Parameters
        ----------
        before
            The rows before the group; None where they are not known.
        """


class _Ladders(_Expected):
    """What escalate knows."""

    def __init__(self, spec: StageSpec[Any, Any], partition: int, times_ms: Iterable[int]) -> None:
        super().__init__(spec, partition)
        self._newest: dict[str, Incident] = {}
        self._decided_ms = set(times_ms)

    def missing(self, records: Sequence[Any], before: Rows | None, rows: Rows) -> Iterator[str]:
        ladders = Kept(rows, "ladder/", Ladder)
        for key, row in rows.items():
            if key.startswith("ladder/") and (before is None or before.get(key) != row):
                self.noted.update(ladders[key.removeprefix("ladder/")].sent)
        self._decided_ms.update(one.decided_at_ms for one in records)
        wrong = set()
        for name in dict.fromkeys(
            one.incident_id for one in records if isinstance(one, Incident) and self._is_new(one)
        ):
            ladder, newest = ladders.get(name), self._newest[name]
            if ladder is None or _content(ladder.incident) != _content(newest):
                stands = "missing" if ladder is None else f"at {ladder.incident.seq}"
                yield f"the ladder of {name} is {stands}, and {newest.seq} was passed"
                wrong.add(name)
        for receipt in records:
            if isinstance(receipt, Receipt) and receipt.final:
                ladder = ladders.get(receipt.incident_id)
                if ladder is not None and receipt.notification_id in ladder.sent:
                    yield f"message {receipt.notification_id} is waited for, and its end was passed: {receipt.status}"
                    wrong.add(receipt.incident_id)
        if before is not None:
            for name in dict.fromkeys(one.incident_id for one in records):
                if name not in wrong and not self._is_explained(name, records, before, rows):
                    seqs = [one.seq for one in records if isinstance(one, Incident) and one.incident_id == name]
                    yield f"no order of what was passed makes the ladder of {name}; it was told of {seqs}"

    def _is_new(self, incident: Incident) -> bool:
        known = self._newest.get(incident.incident_id)
        if not incident.is_open if known is None else incident.seq <= known.seq:
            return False
        self._newest[incident.incident_id] = incident
        return True

    def _is_explained(self, name: str, records: Sequence[Any], before: Rows, after: Rows) -> bool:
        """Whether some order of an incident's transitions, its receipts and the clock makes its ladder of what it was.

        What escalate does about one incident no other has a part in; it has the time in common with them.
        """
        transitions = [one for one in records if isinstance(one, Incident) and one.incident_id == name]
        receipts = [one for one in records if isinstance(one, Receipt) and one.incident_id == name and one.final]
        until_ms, made = _time_of(after.get(TIME)), after.get(f"ladder/{name}")
        goes_on = until_ms >= 0 and Kept(after, "time", Time)[""].goes_on  # its turn at that time may be still to come
        from_ms = _time_of(before.get(TIME))
        # far behind, the time is what records say
        times_ms = sorted(at_ms for at_ms in self._decided_ms if from_ms <= at_ms <= until_ms)
        reached = {(0, 0, before.get(TIME), before.get(f"ladder/{name}"))}
        left, moved = list(reached), 0
        while left:
            if moved > MOST_MOVES:
                self.unexplained += 1
                return True
            heard, ended, time, ladder = left.pop()
            is_all = (heard, ended) == (len(transitions), len(receipts))
            if is_all and ladder == made and (goes_on or _time_of(time) == until_ms):
                return True
            moves: list[tuple[int, int, Callable[[Any], Any]]] = [
                (heard, ended, partial(_advance, at_ms=at_ms)) for at_ms in times_ms if at_ms >= _time_of(time)
            ]
            moves += [(heard, ended + 1, partial(_receive, record=one)) for one in receipts[ended : ended + 1]]
            moves += [(heard + 1, ended, partial(_receive, record=one)) for one in transitions[heard : heard + 1]]
            moved += len(moves)
            for to_heard, to_ended, move in moves:
                rows = {key: row for key, row in ((TIME, time), (f"ladder/{name}", ladder)) if row is not None}
                move(self.spec.make_stage(rows, self.partition))
                state = to_heard, to_ended, rows.get(TIME), rows.get(f"ladder/{name}")
                if state not in reached:
                    reached.add(state)
                    left.append(state)
        return False


def _advance(stage: Any, at_ms: int) -> None:  # noqa: ANN401 -- a stage
    stage.advance(at_ms)


def _receive(stage: Any, record: Any) -> None:  # noqa: ANN401 -- a stage
    stage.receive([record])


def _time_of(row: bytes | None) -> int:
    """Return how far escalate has come, -1 before the first."""
    return -1 if row is None else Kept({TIME: row}, "time", Time)[""].now_ms


def _content(incident: Incident) -> Incident:
    return replace(incident, recorded_at_ms=None)


class _Messages(_Expected):
    """What notify knows."""

    def __init__(self, spec: StageSpec[Any, Any], partition: int) -> None:
        super().__init__(spec, partition)
        told: dict[str, bytes] = {}
        self._told_incidents = spec.make_stage(told, partition)
        self._seen = Kept(told, "seen/", Seen)

    def missing(self, records: Sequence[Any], before: Rows | None, rows: Rows) -> Iterator[str]:  # noqa: ARG002
        seen, waiting, ended = Kept(rows, "seen/", Seen), Kept(rows, "waiting/", Waiting), Kept(rows, "ended/", Ended)
        incidents = [one for one in records if isinstance(one, Incident)]
        self._told_incidents.receive(incidents)
        for name in dict.fromkeys(one.incident_id for one in incidents):
            ours, theirs = seen.get(name), self._seen.get(name)
            if ours != theirs:
                yield f"of incident {name} it knows {ours}, expected {theirs}"
        for one in records:
            if isinstance(one, Notification):
                if one.notification_id not in waiting and one.notification_id not in ended:
                    yield f"message {one.notification_id} was passed, and neither waits nor has ended"
            elif isinstance(one, Receipt):
                yield from self._of_receipt(
                    one, waiting.get(one.notification_id), has_ended=one.notification_id in ended
                )

    @staticmethod
    def _of_receipt(receipt: Receipt, waiting: Waiting | None, *, has_ended: bool) -> Iterator[str]:
        name = receipt.notification_id
        if receipt.final and (waiting is not None or not has_ended):
            yield f"message {name} has not ended, and its end was passed: {receipt.status}"
        elif waiting is not None and waiting.flying_until_ms is not None and waiting.attempts == receipt.attempt:
            yield f"attempt {receipt.attempt} of {name} is on its way, and its receipt was passed: {receipt.reason}"
