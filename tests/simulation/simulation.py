"""All five stages in one process, over topics that are lists, from a seed: does a crash anywhere change what comes out?

Four source partitions, two workers that divide what lies past the join. Between any two steps of any host another goes
on, a worker ends, one is stopped and comes back when its partitions have new owners, a changelog is compacted. When all
has come to rest, `judge` holds the topics against a plain computation.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from schemas.baseline import Baseline
from schemas.cloudevents import CloudEvent, from_kafka
from schemas.incident import Actor, Incident, Severity, Status
from schemas.incident_action import ActKind, IncidentAction
from schemas.receipt import Receipt
from streams.runtime import specs, topics
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import partition_of
from streams.stages.blocks import MemoryRuns, RunStore
from streams.stages.join import LABELS, OUTPUTS
from streams.stages.notify import Attempt
from tests.simulation.join_host import CHANGELOG, JoinHost, JoinWorld, Journals, Step
from tests.simulation.join_oracle import LabelRow
from tests.simulation.logs import Entry, Topics
from tests.simulation.stage_host import Ledger, StageHost
from tests.simulation.workload import SOURCES, T0_MS, TICK_MS, Workload, baselines, join_settings, settings, workload

SMALL = ("detect", "triage", "escalate", "notify")
SINKS = 4
WORKERS = ("a", "b")
TICKS = 36
DRAIN_TICKS = 30
"""Ticks after the last row, in which what waits for time has its end: labels, hold-downs, repeats."""

STEP_BOUND = 400_000
"""Steps after which a run that has not come to rest counts as hung."""


_ACTS: tuple[ActKind, ...] = ("ack", "ack", "ack", "note", "contain", "resolve", "raise")


class HungError(AssertionError):
    """The stages do not come to rest."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """What a run is put through, from its seed.

    Parameters
    ----------
    crash, stop, compact
        Chances a round.
    lead_ticks
        How far the clock may run ahead of the slowest stage; 0 is lockstep.
    jump, jump_ms
        Chance a tick that the clock jumps, and by how much at most, forward or back.
    """

    crash: float
    stop: float
    compact: float
    lead_ticks: int
    jump: float
    jump_ms: int

    @classmethod
    def of(cls, rng: random.Random) -> "Chaos":
        """Draw how rough it will be."""
        return cls(
            crash=rng.choice((0.0, 0.002, 0.01)),
            stop=rng.choice((0.0, 0.002)),
            compact=rng.choice((0.0, 0.01)),
            lead_ticks=rng.choice((0, 0, 1, 3)),
            jump=rng.choice((0.0, 0.0, 0.02)),
            jump_ms=600_000,
        )


class Simulation:
    """One run.

    Parameters
    ----------
    seed
        All chance comes from it.
    chaos
        None: drawn from the seed.
    """

    def __init__(self, seed: int, chaos: Chaos | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 -- chance that can be repeated is the point
        self.chaos = Chaos.of(self.rng) if chaos is None else chaos
        self.work: Workload = workload(seed, ticks=TICKS, partitions=SOURCES)
        self.topics = Topics()
        self.now_ms = T0_MS
        self.told_ms = {T0_MS}
        """All that the clock has said."""
        self._newest_ms = T0_MS
        self.crashes = 0
        self.stops = 0
        self.fenced = 0
        self.missed_runs = 0
        self.back_ms = 0
        """By how much the clock jumped back at most."""
        self.delivered: Counter[str] = Counter()
        """How often each message reached its target."""
        self.journals = [Journals() for _ in range(SOURCES)]
        self.ledgers = {(name, sink): Ledger() for name in SMALL for sink in range(SINKS)}
        self._owners = 0
        self._flying: list[Attempt] = []
        self._people: list[tuple[int, IncidentAction]] = []
        self._read_by_people = [0] * SINKS
        self._arrived = 0
        self._join_world = JoinWorld(
            topics=self.topics,
            settings=join_settings(),
            models=settings().models,
            baselines=baselines(),
            sources=SOURCES,
            sinks=SINKS,
            partition_of=lambda model: partition_of(model, SINKS),
            clock=lambda: self.now_ms,
            runs_of=self.runs_of,
        )
        self.specs = {
            "detect": specs.detect_spec(settings(), ticks_at_once=1),
            "triage": specs.triage_spec(settings()),
            "escalate": specs.escalate_spec(settings(), incidents_at_once=1),
            "notify": specs.notify_spec(settings(), self._flying.append),
        }
        self._runs: dict[JoinHost | StageHost, Iterator[Step]] = {}
        self._joins: list[JoinHost] = []
        self._smalls: dict[tuple[str, int], StageHost] = {}
        self._stopped: list[JoinHost | StageHost] = []
        self._doomed: Counter[JoinHost | StageHost] = Counter()
        """Steps after which a host ends: what took over from a stopped one may not live to save anything itself."""
        for baseline in baselines():
            self._publish(baseline)
        for source in range(SOURCES):
            self._joins.append(self._new_join(source))
        for name in SMALL:
            for sink in range(SINKS):
                self._smalls[name, sink] = self._new_small(name, sink)

    def runs_of(self, partition: int, epoch: int) -> RunStore:  # noqa: ARG002 -- for those that keep them apart
        """Return where an owner's cold rows lie."""
        return MemoryRuns()

    def _publish(self, baseline: Baseline) -> None:
        routed = topics.route(baseline, SINKS)
        assert routed.partition is not None
        self.topics[routed.topic, routed.partition].append(routed.key, routed.value)

    # ---- hosts

    def _chance(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))  # noqa: S311

    def _new_join(self, source: int) -> JoinHost:
        self._owners += 1
        host = JoinHost(self._join_world, source, self.journals[source], self._owners, self._chance())
        self._runs[host] = host.run()
        return host

    def _new_small(self, name: str, sink: int) -> StageHost:
        ledger = self.ledgers[name, sink]
        host = StageHost(self.specs[name], sink, self.topics, ledger, lambda: self.now_ms, self._chance())
        self._runs[host] = host.run()
        return host

    def _hosts(self) -> list[JoinHost | StageHost]:
        return [*self._joins, *self._smalls.values()]

    def _replace(self, host: JoinHost | StageHost, *, stopped: bool) -> None:
        """Give a host's partition to a new owner; the old one is gone, or stopped with something on its way."""
        run = self._runs.pop(host)
        if isinstance(host, JoinHost):
            if stopped:
                self._runs[host] = run
                self._stopped.append(host)
            self._joins[host.partition] = self._new_join(host.partition)
            return
        if stopped:
            host.stop()
            self._stopped.append(host)
        self._smalls[host.spec.name, host.partition] = self._new_small(host.spec.name, host.partition)

    def _strike(self) -> None:
        """End or stop one process: a join with one partition, or a worker with all that it owns of one stage."""
        chaos = self.chaos
        for chance, stopped in ((chaos.crash, False), (chaos.stop, True)):
            if self.rng.random() >= chance:
                continue
            self.crashes += 1
            self.stops += stopped
            if self.rng.random() < 0.5:
                host = self.rng.choice([join for join in self._joins if join.saving == stopped] or self._joins)
                self._replace(host, stopped=stopped)
                if stopped and self.rng.random() < 0.5:
                    self._doomed[self._joins[host.partition]] = self.rng.randrange(40)
                continue
            name, worker = self.rng.choice(SMALL), self.rng.randrange(len(WORKERS))
            for sink in range(worker, SINKS, len(WORKERS)):
                self._replace(self._smalls[name, sink], stopped=stopped)
        if self.rng.random() < chaos.compact:
            name = self.rng.choice((CHANGELOG, *(f"{name}-changelog" for name in SMALL)))
            self.topics[name, self.rng.randrange(SOURCES)].compact(self.rng)

    def _drag(self) -> None:
        """Let something of a stopped process arrive."""
        if not self._stopped:
            return
        host = self.rng.choice(self._stopped)
        if isinstance(host, StageHost):
            if not host.ended:
                host.drag()
        else:
            next(self._runs[host], None)
        if host.ended:
            self._stopped.remove(host)
            self._runs.pop(host, None)

    # ---- the world

    def _tick(self) -> None:
        """Tell the next clock value, and let arrive what was to arrive by then."""
        self.now_ms += TICK_MS
        if self.rng.random() < self.chaos.jump:
            before_ms = self.now_ms
            self.now_ms += self.rng.randint(-self.chaos.jump_ms, self.chaos.jump_ms)
            self.back_ms = max(self.back_ms, before_ms - self.now_ms)
        self.told_ms.add(self.now_ms)
        self._newest_ms = max(self._newest_ms, self.now_ms)
        self._arrive(self.now_ms)
        while self._people and self._people[0][0] <= self.now_ms:
            _, act = self._people.pop(0)
            self._append(topics.route(act, SINKS))

    def _arrive(self, until_ms: int) -> None:
        arrivals = self.work.arrivals
        while self._arrived < len(arrivals) and arrivals[self._arrived].at_ms <= until_ms:
            arrival = arrivals[self._arrived]
            topic = LABELS if isinstance(arrival.row, LabelRow) else OUTPUTS
            log = self.topics[topic, arrival.partition]
            log.append(None, replace(arrival.row, offset=log.end, broker_ms=arrival.at_ms))
            self._arrived += 1

    def _append(self, routed: Routed) -> None:
        assert routed.partition is not None
        self.topics[routed.topic, routed.partition].append(routed.key, routed.value, routed.headers)

    def _send_messages(self, *, calm: bool = False) -> None:
        """Answer one attempt at a message, or lose it."""
        if not self._flying:
            return
        attempt = self._flying.pop(self.rng.randrange(len(self._flying)))
        chance = 0.0 if calm else self.rng.random()
        message = attempt.notification
        is_ok = chance < 0.8
        attempt_wait_ms = settings().response.notify.attempt_wait_ms
        self.delivered[message.notification_id] += is_ok
        # the sender gives up before the stage counts an attempt as lost, so a later answer never becomes a receipt
        if chance < 0.95 and self._newest_ms < attempt.decided_at_ms + attempt_wait_ms:
            receipt = Receipt(
                notification_id=message.notification_id,
                incident_id=message.incident_id,
                model=message.model,
                target=message.target,
                channel=message.channel,
                episode=message.episode,
                mode=message.mode,
                attempt=attempt.number,
                answer_class="ok" if is_ok else "retry",
                status="delivered" if is_ok else "retrying",
                reason="ok" if is_ok else "server",
                decided_at_ms=attempt.decided_at_ms,
            )
            self._append(topics.route(receipt, SINKS))

    def _let_people_act(self) -> None:
        """Let some acknowledge what is open, some take it further, some do nothing."""
        sink = self.rng.randrange(SINKS)
        log = self.topics[topics.INCIDENTS, sink]
        for entry in log.read(self._read_by_people[sink], log.end):
            incident = incident_of(entry)
            if incident.status is Status.RESOLVED or self.rng.random() < 0.7:
                continue
            at_ms = self.now_ms + self.rng.randrange(10) * TICK_MS
            act = act_of(
                self.rng,
                incident_id=incident.incident_id,
                model=incident.model,
                severity=incident.severity,
                at_ms=at_ms,
            )
            self._people.append((at_ms, act))
            self._people.sort(key=lambda one: one[0])
        self._read_by_people[sink] = log.end

    # ---- the run

    def run(self) -> None:
        """Let it all happen, then let it come to rest."""
        last_ms = T0_MS + (TICKS + 2) * TICK_MS
        steps = 0
        while self.now_ms < last_ms or self._arrived < len(self.work.arrivals):
            steps += 1
            self._round()
            self._strike()
            if self.rng.random() < 0.3:
                self._drag()
            if self._may_tick():
                self._tick()
            if steps > STEP_BOUND:
                raise HungError(f"seed {self.seed}: {self._behind()}")
        for host in self._stopped:
            while not host.ended:
                if isinstance(host, StageHost):
                    host.drag()
                else:
                    next(self._runs[host], None)
        for _ in range(DRAIN_TICKS):
            self._rest()
            self._tick_calmly()
        self._rest()

    def _round(self) -> None:
        host = self.rng.choice(self._hosts())
        for _ in range(self.rng.choice((1, 3, 10, 40))):
            if self._step(host) is Step.IDLE or host not in self._runs:
                break
        if self.rng.random() < 0.1:
            self._send_messages()
            self._let_people_act()

    def _step(self, host: JoinHost | StageHost) -> Step:
        """Let a host do one thing; one that a late claim of a stopped owner has fenced ends, and starts again.

        So does one whose disk does not give back what it was given.
        """
        step = next(self._runs[host], None)
        self._doomed[host] -= 1
        if self._doomed[host] == 0 and isinstance(host, JoinHost) and step is not None:
            self.crashes += 1
            self._replace(host, stopped=False)
            return Step.WORKED
        if step is None:
            assert isinstance(host, JoinHost), "a stage's host ends only from outside"
            self.fenced += not host.missed_a_run
            self.missed_runs += host.missed_a_run
            self._replace(host, stopped=False)
            return Step.WORKED
        return step

    def _may_tick(self) -> bool:
        """Whether every stage has taken a clock value that is new enough."""
        if self.rng.random() > 0.3:
            return False
        return min(host.taken_ms for host in self._hosts()) >= self.now_ms - self.chaos.lead_ticks * TICK_MS or (
            self.now_ms == T0_MS
        )

    def _tick_calmly(self) -> None:
        self.now_ms += TICK_MS
        self.told_ms.add(self.now_ms)
        self._newest_ms = max(self._newest_ms, self.now_ms)
        self._arrive(self.now_ms)
        while self._people and self._people[0][0] <= self.now_ms:
            self._append(topics.route(self._people.pop(0)[1], SINKS))

    def _rest(self) -> None:
        """Step everything until nothing is left to do."""
        steps, busy = 0, True
        while busy:
            busy = bool(self._flying)
            self._send_messages(calm=True)
            for host in self._hosts():
                while not host.ended and host in self._runs and self._step(host) is not Step.IDLE:
                    busy = True
                    steps += 1
                    if steps > STEP_BOUND:
                        raise HungError(f"seed {self.seed}: {self._behind()}")

    def _behind(self) -> str:
        return ", ".join(
            f"{'join' if isinstance(host, JoinHost) else host.spec.name}[{host.partition}] at {host.taken_ms}"
            for host in self._hosts()
            if host.taken_ms < self.now_ms
        )

    def decoded(self, topic: str, entry: Entry) -> Any:  # noqa: ANN401 -- whatever the topic holds
        """Read a record as its stage does."""
        return specs.decode(topic, entry.key, entry.value, entry.headers)

    @property
    def joins(self) -> list[JoinHost]:
        """The last owners of the source partitions."""
        return self._joins


def incident_of(entry: Entry) -> Incident:
    """Read an incident as a consumer does."""
    event = from_kafka(entry.headers, entry.value)
    return Incident.decode(event.data if isinstance(event, CloudEvent) else event)


def act_of(rng: random.Random, *, incident_id: str, model: str, severity: Severity, at_ms: int) -> IncidentAction:
    """Let a person do one of the things that people do about an incident."""
    kind: ActKind = rng.choice(_ACTS)
    number = rng.getrandbits(32)
    return IncidentAction(
        act_id=f"act-{number:08x}",
        incident_id=incident_id,
        model=model,
        kind=kind,
        actor=Actor(id="ann", kind="human"),
        occurred_at_ms=at_ms,
        decided_at_ms=at_ms,
        reason="seen",
        text="looked at it",
        waiver="no snapshot possible" if kind == "contain" else "",
        containment_kind="rollback" if kind == "contain" else "",
        resolution="fixed" if kind == "resolve" else "",
        to=Severity(max(1, severity - 1)) if kind == "raise" else None,
    )
