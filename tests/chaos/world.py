"""How does time pass under faults? Load, people and a supervisor, tick by tick, while somebody does harm."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from schemas.closed import Closed
from schemas.incident import Severity
from schemas.through import Through
from streams.runtime import kafka, specs, topics
from tests.chaos.deployment import Deployment, Layout, Nodes
from tests.chaos.judge import follow_changelogs
from tests.chaos.load import Load
from tests.chaos.receiver import Receiver
from tests.simulation.simulation import act_of
from tests.simulation.workload import SOURCES, TICK_MS

TICK_S = 0.3
"""Wall time of one tick; a minute of event time passes in it."""
REST_TICK_S = 0.1
"""The same when nothing more is sent."""
BACKLOG_TICKS = 10
"""Ticks that come at once before a worker is harmed, while it is stopped."""
FLOW_S = 1.5
"""How long it then stays stopped, so that what comes at once reaches its stage."""
CATCH_UP_WAIT_S = 180.0
QUIET_S = 6.0
DRAIN_TICKS = 40
"""Ticks without a row in the end: everything that waits for time has its end."""
ANSWERED_SHARE = 0.3


class Progress:
    """How far have the join and detect come? Reads their marks."""

    def __init__(self, deployment: Deployment) -> None:
        cluster = deployment.settings.kafka
        self._prefix = cluster.topic_prefix
        self._sinks = cluster.output_partitions
        self._consumer = kafka.consumer(cluster, "chaos-progress", f"{self._prefix}chaos-progress")
        self._consumer.assign(
            [
                TopicPartition(self._prefix + topic, partition, OFFSET_BEGINNING)
                for topic in (topics.WINDOW_STATS, topics.FINDINGS)
                for partition in range(self._sinks)
            ]
        )
        self.closed_ms: dict[tuple[int, int], int] = {}
        """By source and sink."""
        self.through_ms: dict[int, int] = {}

    def read(self) -> None:
        """Take what is new."""
        while messages := self._consumer.consume(1_000, 0.01):
            for message in messages:
                if message.error() is None and message.key() is None:
                    self._take(message.topic() or "", message.partition() or 0, message.value())

    def _take(self, topic: str, partition: int, value: bytes | None) -> None:
        match specs.decode(topic.removeprefix(self._prefix), None, value, ()):
            case Closed() as closed:
                place = closed.source_partition, partition
                self.closed_ms[place] = max(closed.through_ms, self.closed_ms.get(place, 0))
            case Through(through_ms=through_ms):
                self.through_ms[partition] = max(through_ms, self.through_ms.get(partition, 0))

    def reached(self, ms: int) -> bool:
        """Whether everything is closed, and judged by detect, up to a time."""
        closed = [self.closed_ms.get((source, sink), 0) for source in range(SOURCES) for sink in range(self._sinks)]
        return min(*closed, *(self.through_ms.get(sink, 0) for sink in range(self._sinks))) >= ms

    def close(self) -> None:
        self._consumer.close()


@dataclass
class World:
    """Everything around the stages.

    Parameters
    ----------
    outage_s
        How long the brokers stay away when all of them go.
    prefix
        What the names of the topics begin with.
    """

    folder: Path
    layout: Layout
    nodes: Nodes
    seed: int
    outage_s: float
    prefix: str
    counts: Counter[str] = field(default_factory=Counter)
    """What was done: `kills`, `freezes` …; and what must not be: `zombies_alive`, `unclean_ends`."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._rng = random.Random(self.seed)  # noqa: S311 -- chance that can be repeated
            self._told: list[dict[str, Any]] = []
            self._acts: list[tuple[int, Any]] = []
            self.receiver = stack.enter_context(Receiver(self.seed, self._told.append))
            self.deployment = Deployment(
                folder=self.folder,
                broker=self.nodes.address,
                replication=self.nodes.count,
                url=self.receiver.url,
                layout=self.layout,
                prefix=self.prefix,
            )
            self.deployment.make_topics()
            stack.callback(self.deployment.stop)
            self.load = Load(self.deployment.settings.kafka)
            self.changelogs = stack.enter_context(follow_changelogs(self.deployment.settings))
            self.progress = Progress(self.deployment)
            stack.callback(self.progress.close)
            self.load.tell()
            self.deployment.start_all()
            self._stack = stack.pop_all()
        self._next_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---- time

    def run_for(self, seconds: float) -> None:
        """Let time pass, at least one tick."""
        until_s = time.monotonic() + seconds
        self.tick()
        while time.monotonic() < until_s:
            self.tick()

    def tick(self) -> None:
        """Let one tick pass, in its time."""
        self._pass(self.load.tick, TICK_S)

    def _pass(self, move: Callable[[], None], wall_s: float) -> None:
        move()
        self._let_people_act()
        self.progress.read()
        self.deployment.look()
        now_s = time.monotonic()
        self._next_s = max(self._next_s + wall_s, now_s)
        time.sleep(self._next_s - now_s)

    def backlog(self, *names: str) -> None:
        """Let workers stand while much comes at once, and go on with all of it before them."""
        for name in names:
            self.deployment.signal(name, signal.SIGSTOP)
        for _ in range(BACKLOG_TICKS):
            self.load.tick()
        time.sleep(FLOW_S)
        for name in names:
            self.deployment.signal(name, signal.SIGCONT)

    def settle(self) -> None:
        """Wait until every worker serves, and the join and detect have followed."""
        self.deployment.until_taken(*self.deployment.layout)
        self._until_reached(self.load.now_ms - TICK_MS)

    def _until_reached(self, ms: int) -> None:
        def reached() -> bool:
            self.progress.read()
            return self.progress.reached(ms)

        self.deployment.until(reached, "the stages follow", CATCH_UP_WAIT_S)

    def finish(self) -> None:
        """Send nothing more, let time pass until nothing waits for it, and wait until all is written."""
        while self.load.arriving:
            self.tick()
        self.settle()
        for _ in range(DRAIN_TICKS):
            self._pass(self.load.pass_time, REST_TICK_S)
        join = self.deployment.settings.join
        self._until_reached((self.load.now_ms - join.allowed_disorder_ms - join.idle_after_ms) // TICK_MS * TICK_MS)
        sizes, since_s = self._sizes(), time.monotonic()
        while time.monotonic() - since_s < QUIET_S:
            time.sleep(0.5)
            if (now := self._sizes()) != sizes:
                sizes, since_s = now, time.monotonic()

    def _sizes(self) -> int:
        """Count what was written about incidents."""
        cluster = self.deployment.settings.kafka
        consumer = kafka.consumer(cluster, "chaos-sizes", f"{cluster.topic_prefix}chaos-sizes")
        try:
            places = [
                TopicPartition(cluster.topic_prefix + topic, partition)
                for topic in (topics.INCIDENTS, topics.ACTIONS, topics.NOTIFICATIONS, topics.RECEIPTS)
                for partition in range(cluster.output_partitions)
            ]
            return sum((consumer.get_watermark_offsets(place, timeout=10) or (0, 0))[1] for place in places)
        finally:
            consumer.close()

    # ---- people

    def _let_people_act(self) -> None:
        """Let some of those who were told do something about it, some ticks later."""
        rng, now_ms = self._rng, self.load.now_ms
        while self._told:
            message = self._told.pop()
            if rng.random() < ANSWERED_SHARE and message["type"] != "incident.resolve":
                said = message["data"]
                act = act_of(
                    rng,
                    incident_id=said["incident_id"],
                    model=said["model"],
                    severity=Severity(int(said["severity"][-1])),
                    at_ms=now_ms + rng.randrange(10) * TICK_MS,
                )
                self._acts.append((act.decided_at_ms, act))
        due = [act for at_ms, act in self._acts if at_ms <= now_ms]
        self._acts = [one for one in self._acts if one[0] > now_ms]
        for act in due:
            self.load.write(topics.route(act, self.deployment.settings.kafka.output_partitions))
