"""What runs? The stages as processes on a real Kafka, two of each, started again when they end by themselves."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, Signals
from typing import Self

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from config.load import load
from config.settings import Settings
from streams.runtime import kafka, topics
from streams.runtime.sending import send_all
from streams.runtime.terminal import Exit
from streams.runtime.topics import STAGES
from streams.runtime.wiring import table_changelogs
from tests.chaos.receiver import SECRET
from tests.simulation import workload
from tests.simulation.workload import baselines

ROOT = Path(__file__).parents[2]
LOCAL_KAFKA = ROOT / "deploy" / "kafka" / "local_kafka.py"
TOCSIN = (str(Path(sys.executable).with_name("tocsin")),)
NEXT_VERSION = (sys.executable, "-P", str(Path(__file__).with_name("next_version.py")))
SESSION_S = 8.0
AGAIN_AFTER_S = 1.0
"""How long a worker that ended by itself stays away."""
TAKE_WAIT_S = 180.0
STOP_WAIT_S = 90.0
COMPACTED_AT_ONCE = (("max.compaction.lag.ms", "15000"), ("delete.retention.ms", "2000"))
"""So that a restart finds state of which the older part is gone, tombstones too."""
TOOK = re.compile(r'"event":"(?:join|host)\.took"')
SHOWN_BYTES = 3_000

Layout = Mapping[str, Sequence[str]]
"""Names of workers, and the stages that each runs."""

EACH_ALONE: Layout = {f"{stage}-{name}": (stage,) for stage in STAGES for name in ("a", "b")}
TOGETHER: Layout = {
    f"{stage}-{name}": stages for stage, stages in (("join", STAGES[:1]), ("small", STAGES[1:])) for name in ("a", "b")
}

SETTINGS = """
[worker]
clock = "topic"
session_timeout = "{session} s"
heartbeat = "1 s"
hand_over_wait = "5 s"
restore_wait = "2 min"

[channels.webhook]
connect_timeout_ms = 2_000
request_timeout_ms = 3_000
{endpoints}
[directory]
{directory}
"""


@dataclass(frozen=True)
class Nodes:
    """The brokers, one or three.

    Parameters
    ----------
    data
        The folder of a cluster of our own, which can be harmed; None for brokers that others use too.
    """

    address: str
    count: int
    data: Path | None

    @classmethod
    def start(cls, data: Path, count: int) -> Self:
        """Start a cluster of our own."""
        words = ("--nodes", str(count), "--heap-mb", "512", "--set", "broker.session.timeout.ms=6000")
        return cls(_local_kafka("start", "--data", str(data), *words), count, data)

    def harm(self, act: str, *words: str) -> None:
        """Stop, start, kill or restart."""
        assert self.data is not None, "brokers that others use too"
        _local_kafka(act, "--data", str(self.data), *words)

    def kill(self, node: int) -> None:
        self.harm("kill", str(node))

    def restart(self, node: int) -> None:
        self.harm("restart", str(node))

    def stop(self) -> None:
        self.harm("stop")

    def start_again(self) -> None:
        self.harm("start", "--nodes", str(self.count))


def _local_kafka(*words: str) -> str:
    done = subprocess.run([sys.executable, str(LOCAL_KAFKA), *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@dataclass
class Worker:
    """One process; what all processes of this name log is in one file."""

    name: str
    stages: Sequence[str]
    process: subprocess.Popen[bytes]
    static: bool
    log: Path
    began_at: int
    """Size of the log when it began."""
    ended_s: float | None = None

    def said(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self.began_at)
            return log.read().decode(errors="replace")

    @property
    def took(self) -> bool:
        """Whether each of its stages has been given partitions, if perhaps none."""
        return len(TOOK.findall(self.said())) >= len(self.stages)


@dataclass
class Deployment:
    """Topics of one prefix, and the processes that work on them."""

    folder: Path
    broker: str
    replication: int
    url: str
    layout: Layout
    prefix: str
    workers: dict[str, Worker] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    """Why processes ended by themselves, how often."""
    upgraded: set[str] = field(default_factory=set)
    """Names of workers that are of the version to come."""
    started: int = 0

    def __post_init__(self) -> None:
        self._write_settings()
        self.settings: Settings = load(self._file, self._environment("", ""), self._options, lambda _: ())
        self._folders: Counter[str] = Counter()

    # ---- settings and topics

    @property
    def _file(self) -> Path:
        return self.folder / "tocsin.toml"

    @property
    def _options(self) -> dict[str, tuple[str, str]]:
        return {"kafka.broker": ("--broker", self.broker), "kafka.topic_prefix": ("--topic-prefix", self.prefix)}

    def _write_settings(self) -> None:
        """Write the simulator's settings, and beside them the ways to the receiver, one for each target."""
        targets = load(None, {}, {}, lambda _: ()).response.directory
        ways = {target: target.replace(":", "-") for target in targets}
        endpoints = "".join(
            f'[channels.webhook.endpoints.{way}]\nurl = "{self.url}/{way}"\nsecret_from = "CHAOS_SECRET"\nallow_private = true\n'
            for way in ways.values()
        )
        directory = "\n".join(
            f'"{target}" = [{{ channel = "webhook", address = "{way}", modes = ["page", "message", "ticket"] }}]'
            for target, way in ways.items()
        )
        simulated = Path(workload.__file__).with_name("sim.toml").read_text()
        own = SETTINGS.format(session=int(SESSION_S), endpoints=endpoints, directory=directory)
        self._file.write_text(simulated + own)

    def _environment(self, instance: str, state: str) -> dict[str, str]:
        return {
            "TOCSIN__WORKER__INSTANCE": instance,
            "TOCSIN__JOIN__FOLDER": str(self.folder / "state" / (state or "none")),
            "TOCSIN__JOIN__CHECKPOINT_MS": "300",
            "TOCSIN__KAFKA__REPLICATION": str(self.replication),
            "CHAOS_SECRET": SECRET,
        }

    def make_topics(self) -> None:
        """Make the topics, compact them soon, and publish the baselines."""
        cluster = self.settings.kafka
        changelogs = table_changelogs(self.settings)
        faults = topics.create(kafka.admin(cluster), cluster, changelogs)
        assert faults == [], "\n".join(map(str, faults))
        states = [self.prefix + topics.CHANGELOG, self.prefix + topics.INCIDENTS_LATEST, *changelogs]
        soon = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in COMPACTED_AT_ONCE
        ]
        asked = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=soon) for name in states]
        admin = kafka.admin(cluster)
        for answer in admin.incremental_alter_configs(asked).values():
            answer.result(cluster.request_wait_ms / 1000)
        send_all(cluster, [topics.route(one, cluster.output_partitions) for one in baselines()])

    # ---- processes

    def start(self, name: str, stages: Sequence[str] | None = None, *, static: bool = True) -> None:
        """Start a worker of the layout, or one of the given stages."""
        stages = self.layout[name] if stages is None else stages
        log = self.folder / f"{name}.log"
        state = f"{name}-{self._folders[name]}"
        with log.open("ab") as out:
            began_at = out.tell()
            version = NEXT_VERSION if name in self.upgraded else TOCSIN
            process = subprocess.Popen(
                [*version, "worker", *stages, "--config", str(self._file), "--broker", self.broker, "--topic-prefix", self.prefix],
                stdout=out,
                stderr=out,
                env={**os.environ, **self._environment(name if static else "", state)},
            )  # fmt: skip
        self.workers[name] = Worker(name, stages, process, static, log, began_at)
        self.started += 1

    def start_all(self) -> None:
        for name in self.layout:
            self.start(name)
        self.until_taken(*self.layout)

    def of(self, stage: str) -> list[str]:
        """Return the names of the workers that run a stage."""
        return [name for name, stages in self.layout.items() if stage in stages]

    def empty(self, name: str) -> None:
        """Let a worker begin next time in a folder with nothing in it."""
        self._folders[name] += 1

    def signal(self, name: str, number: Signals) -> None:
        self.workers[name].process.send_signal(number)

    def end(self, name: str, number: Signals) -> int:
        """Send a signal that ends it, wait for that, and return the status; it stays away until it is started."""
        process = self.workers.pop(name).process
        process.send_signal(number)
        return process.wait(STOP_WAIT_S)

    def look(self) -> None:
        """Start again who ended by himself, as a supervisor would."""
        for worker in list(self.workers.values()):
            status = worker.process.poll()
            if status is None:
                continue
            if worker.ended_s is None:
                worker.ended_s = time.monotonic()
                self.ended[_why(worker, status)] += 1
            elif time.monotonic() - worker.ended_s >= AGAIN_AFTER_S:
                self.start(worker.name, worker.stages, static=worker.static)

    def until(self, said: Callable[[], bool], what: str, wait_s: float) -> None:
        """Wait for something, while the supervisor looks on."""
        until_s = time.monotonic() + wait_s
        while not said():
            self.look()
            if time.monotonic() > until_s:
                raise TimeoutError("\n".join([f"{what}: not in {wait_s:.0f} s", *map(self.tail, self.workers)]))
            time.sleep(0.1)

    def until_taken(self, *names: str) -> None:
        """Wait until workers have been given their partitions."""
        self.until(lambda: all(self.workers[name].took for name in names), f"{names} serve", TAKE_WAIT_S)

    def stop(self) -> None:
        """End all processes that are left."""
        for worker in self.workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(SIGCONT)
                worker.process.terminate()
        for worker in self.workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(STOP_WAIT_S)
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()

    def tail(self, name: str) -> str:
        """Return the end of a worker's log."""
        log = self.folder / f"{name}.log"
        return f"--- {name}\n{log.read_text(errors='replace')[-SHOWN_BYTES:]}"

    def logs(self) -> list[str]:
        return [log.read_text(errors="replace") for log in self.folder.glob("*.log")]


EXPECTED = {
    "silent_beyond_session": "silent beyond its session",
    "_FATAL": "lost its name in the group",
    "FencedError": "met its successor's claim",
    "superseded": "met its successor's claim",
    "not_delivered": "writes not acknowledged in time",
    "UndeliveredError": "writes not acknowledged in time",
}
"""Why a process may end by itself under faults, as its log says it and in words."""
BROKEN = "AssertionError"
LAST_LINES = 8
NO_BROKER = "no broker at its start"


def _why(worker: Worker, status: int) -> str:
    """Say in some words why a process ended that nobody ended; what is not expected in its own words."""
    if status == Exit.BROKER:
        return NO_BROKER
    said = "\n".join(worker.said().splitlines()[-LAST_LINES:])
    own = f"status {status}: {said[-SHOWN_BYTES:]}"
    return own if BROKEN in said else next((words for mark, words in EXPECTED.items() if mark in said), own)
