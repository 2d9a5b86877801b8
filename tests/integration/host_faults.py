"""What does the Faust host lose when workers are killed, frozen, moved and stopped under load?

`run` starts workers with two toy stages, feeds them, harms them by a schedule, and compares what came out with an
oracle that knows only what went in. `worker` is one such worker; `run` starts them by itself.

    python tests/integration/host_faults.py run --broker HOST:PORT ROUNDS=3
    python tests/integration/host_faults.py catch-up --broker HOST:PORT
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.fields import MalformedRecordError
from streams.runtime.cursor import headers_of
from streams.runtime.faust_host import CLOCK, FaustHost, HostSettings, Owned, StageHost
from streams.runtime.stage_spec import Bytes, Headers, Routed, Rows, StageSpec
from streams.runtime.write_ahead import CURSOR_MARK, ID_MARK, Restored

PARTITIONS = 4
KEYS = 40
TIMER_EVERY = 5
TIMER_WAIT_MS = 3_000
SESSION_MS = 8_000
DIED_STATUS = 9
APP = "toys"


# ---- two toy stages


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event: the n-th of its key, counted by whoever sends."""

    id: str
    key: str
    n: int
    made_at_ms: int


@dataclass(frozen=True, slots=True)
class Out:
    """What a stage says, and where."""

    topic: str
    key: str
    body: dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Count the events of each key; right as long as the count equals the number that the sender gave."""

    rows: Rows
    settled: bool = True

    def receive(self, records: Sequence[Numbered]) -> list[Out]:
        outputs = []
        for record in records:
            last = orjson.loads(self.rows.get(record.key, b'{"n":0,"count":0}'))
            if record.n > last["n"]:
                count = last["count"] + 1
                self.rows[record.key] = orjson.dumps({"n": record.n, "count": count})
                body = {"id": record.id, "key": record.key, "n": record.n, "count": count}
                outputs.append(Out("tallied", record.key, {**body, "made_at_ms": record.made_at_ms}))
        return outputs

    def advance(self, decided_at_ms: int) -> list[Out]:  # noqa: ARG002
        return []


@dataclass(slots=True)
class Remind:
    """Pass each tally on, and remind once of every fifth, some seconds after it was made: one reminder a piece."""

    rows: Rows
    settled: bool = True
    _due: deque[str] = field(init=False)

    def __post_init__(self) -> None:
        self._due = self._found()

    def receive(self, records: Sequence[dict[str, Any]]) -> list[Out]:
        outputs = []
        for record in records:
            if record["count"] > int(self.rows.get(f"k/{record['key']}", b"0")):
                self.rows[f"k/{record['key']}"] = str(record["count"]).encode()
                if record["n"] % TIMER_EVERY == 0:
                    self.rows[f"t/{record['id']}"] = str(record["made_at_ms"] + TIMER_WAIT_MS).encode()
                outputs.append(Out("done", record["key"], record))
        return outputs

    def advance(self, decided_at_ms: int) -> list[Out]:
        self.rows["now"] = str(decided_at_ms).encode()
        self._due = self._found()
        return self.more()

    @property
    def has_more(self) -> bool:
        return bool(self._due)

    def more(self) -> list[Out]:
        if not self._due:
            return []
        key = self._due.popleft()
        late_ms = self._now_ms() - int(self.rows[key])
        del self.rows[key]
        return [Out("fired", key[2:], {"id": key[2:], "late_ms": late_ms})]

    def _now_ms(self) -> int:
        return int(self.rows.get("now", b"-1"))

    def _found(self) -> deque[str]:
        now_ms = self._now_ms()
        return deque(key for key, row in self.rows.items() if key.startswith("t/") and int(row) <= now_ms)


def decode_numbered(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Numbered:  # noqa: ARG001
    try:
        return Numbered(**orjson.loads(value or b""))
    except (ValueError, TypeError):
        raise MalformedRecordError("numbered", "", "an event", f"{len(value or b'')} bytes") from None


def decode_tallied(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> dict[str, Any]:  # noqa: ARG001
    record: dict[str, Any] = orjson.loads(value or b"")
    return record


def route(output: Out) -> Routed:
    return Routed(topic=output.topic, key=output.key.encode(), value=orjson.dumps(output.body))


def dead(topic: str, partition: int, record: Bytes, error: MalformedRecordError) -> Out:
    return Out("dead", "dead", {"topic": topic, "partition": partition, "offset": record.offset, "error": str(error)})


def made_at_ms(record: Numbered | dict[str, Any]) -> int | None:
    return record.made_at_ms if isinstance(record, Numbered) else int(record["made_at_ms"])


def specs() -> list[StageSpec[Any, Any]]:
    return [
        StageSpec(
            name="tally",
            inputs=("events",),
            make_stage=lambda rows, _: Tally(rows),
            decode=decode_numbered,
            advance_by="records",
            told_at_ms=made_at_ms,
            route=route,
            dead=dead,
        ),
        StageSpec(
            name="remind",
            inputs=("tallied",),
            make_stage=lambda rows, _: Remind(rows),
            decode=decode_tallied,
            advance_by="clock",
            told_at_ms=made_at_ms,
            route=route,
            dead=dead,
        ),
    ]


def settings(broker: str, prefix: str, instance_id: str | None) -> HostSettings:
    return HostSettings(
        fetch_wait_ms=500,
        app_id=APP,
        broker=broker,
        security={},
        topic_prefix=prefix,
        partitions=PARTITIONS,
        instance_id=instance_id,
        session_timeout_ms=SESSION_MS,
        heartbeat_ms=1_000,
        writes_clock=True,
        clock_every_ms=1_000,
        clock_wait_ms=30_000,
        restore_wait_ms=60_000,
        stall_wait_ms=2_000,
        delivery_wait_ms=6_000,
        read_back_wait_ms=10_000,
        group_limit=500,
    )


# ---- a worker


def work(arguments: argparse.Namespace) -> None:
    """Be one worker until SIGTERM, and say each half second what was done so far."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")

    async def serve() -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        if arguments.no_read_back:
            StageHost._read_back = skip  # type: ignore[method-assign] # noqa: SLF001 -- the line that this breaks
        if arguments.die_at_outputs:
            StageHost._deliver = die_at_outputs  # type: ignore[method-assign] # noqa: SLF001 -- as a kill at that moment
        host = FaustHost(settings(arguments.broker, arguments.prefix, arguments.instance), specs())
        telling = asyncio.create_task(tell(host, Path(arguments.told)))
        await host.serve(stopping)
        telling.cancel()

    asyncio.run(serve())


deliver = StageHost._deliver  # noqa: SLF001


async def die_at_outputs(self: StageHost, outputs: Sequence[Routed]) -> list[int]:
    """Stand in for delivering: what comes before a stage's first outputs is delivered, then the process is gone."""
    if any(one.topic.endswith("tallied") for one in outputs):
        os._exit(DIED_STATUS)
    return await deliver(self, outputs)


async def skip(self: StageHost, owned: Owned, topic: str, end: int) -> None:
    """Stand in for reading back, to see what Faust alone loses."""
    self.counts.read_backs += 1
    self.counts.read_back_records += end - owned.view.cursors[topic]
    owned.view.cursors[topic] = end


async def tell(host: FaustHost, path: Path) -> None:
    with path.open("ab") as told:
        while True:
            rss_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            told.write(orjson.dumps({"counts": host.counts(), "rss_kb": rss_kb, "ready": host.ready}) + b"\n")
            told.flush()
            await asyncio.sleep(0.5)


# ---- the world around the workers


@dataclass(slots=True)
class Life:
    """One process, from start to end."""

    process: subprocess.Popen[bytes]
    told: Path

    def last(self) -> dict[str, Any]:
        lines = self.told.read_bytes().rsplit(b"\n", 2) if self.told.exists() else [b""]
        return dict(orjson.loads(lines[-2])) if len(lines) > 1 else {}


@dataclass(slots=True)
class Fault:
    """One harm, when it was done, and how long until each partition was served again."""

    kind: str
    at_ms: int


@dataclass(slots=True)
class World:
    """Workers, load and faults of one run."""

    broker: str
    folder: Path
    rate: int
    read_back: bool
    prefix: str = field(default_factory=lambda: f"faults-{uuid.uuid4().hex[:8]}.")
    lives: list[Life] = field(default_factory=list)
    current: dict[str, Life] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    sent: dict[str, Numbered] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _loading: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _producer: Any = None

    def make_topics(self) -> None:
        names = ["events", "tallied", "done", "fired", "dead", CLOCK]
        topics = [NewTopic(self.prefix + name, PARTITIONS, 1) for name in names]
        host = settings(self.broker, self.prefix, None)
        compacted = {
            "cleanup.policy": "compact",
            "segment.ms": "10000",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "10000",
        }
        topics += [NewTopic(host.changelog(spec.name), PARTITIONS, 1, config=compacted) for spec in specs()]
        admin = AdminClient({"bootstrap.servers": self.broker})
        for future in admin.create_topics(topics).values():
            future.result()
        self._producer = Producer(
            {
                "bootstrap.servers": self.broker,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
            }
        )

    def start(self, name: str, *, static: bool = True) -> None:
        number = len(self.lives)
        told = self.folder / f"{number:03d}-{name}.told"
        command = [sys.executable, __file__, "worker", "--broker", self.broker, "--prefix", self.prefix]
        command += ["--told", str(told), *(["--instance", name] if static else [])]
        command += [] if self.read_back else ["--no-read-back"]
        with (self.folder / f"{number:03d}-{name}.log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        self.current[name] = Life(process, told)
        self.lives.append(self.current[name])

    def end(self, name: str, number: signal.Signals) -> int:
        process = self.current.pop(name).process
        process.send_signal(number)
        return process.wait(60)

    def note(self, kind: str) -> None:
        self.faults.append(Fault(kind, now_ms()))

    def send(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                key = f"k{len(self.sent) % KEYS}"
                self._counts[key] += 1
                event = Numbered(f"{key}-{self._counts[key]}", key, self._counts[key], now_ms())
                self.sent[event.id] = event
                body = {"id": event.id, "key": event.key, "n": event.n, "made_at_ms": event.made_at_ms}
                self._producer.produce(self.prefix + "events", orjson.dumps(body), key)
            self._producer.poll(0)

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Send `rate` events a second while the block runs."""
        self._loading.set()

        def feed() -> None:
            while self._loading.is_set():
                self.send(max(1, self.rate // 20))
                time.sleep(0.05)

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._loading.clear()
            thread.join()
            self._producer.flush(30)

    def wait_ready(self, names: Sequence[str], wait_s: float = 60) -> None:
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if all(self.current[name].last().get("ready") for name in names):
                return
            for name in names:
                if self.current[name].process.poll() is not None:
                    raise RuntimeError(f"worker {name} ended: {self.current[name].told}")
            time.sleep(0.2)
        raise RuntimeError("workers did not become ready")

    def stop_all(self) -> None:
        for life in self.current.values():
            life.process.send_signal(signal.SIGTERM)
        for life in self.current.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                life.process.wait(30)
            if life.process.poll() is None:
                life.process.kill()
                life.process.wait()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def read_all(broker: str, topic: str) -> list[Message]:
    """Read a whole topic."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "oracle", "enable.auto.commit": False})
    places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)]
    bounds = {place.partition: consumer.get_watermark_offsets(place, timeout=10) for place in places}
    ends = {partition: end for partition, (start, end) in bounds.items() if end > start}
    consumer.assign([place for place in places if place.partition in ends])
    messages: list[Message] = []
    reached = bounds.keys() - ends.keys()
    until = time.monotonic() + 60
    while len(reached) < PARTITIONS and time.monotonic() < until:
        for message in consumer.consume(5_000, 0.2):
            if message.error() is None:
                messages.append(message)
                if (message.offset() or 0) >= ends[message.partition() or 0] - 1:
                    reached.add(message.partition() or 0)
    consumer.close()
    return messages


# ---- harms


def settle(world: World, seconds: float) -> None:
    time.sleep(seconds)
    for name, life in list(world.current.items()):  # whoever ended by itself is started again, as a supervisor would
        if life.process.poll() is not None:
            world.start(name, static=not name.startswith("guest"))


def kill_one(world: World, name: str) -> None:
    world.send(300)
    world.note("kill")
    world.end(name, signal.SIGKILL)
    world.start(name)
    settle(world, 12)


def kill_both(world: World) -> None:
    world.send(300)
    world.note("kill both")
    for name in ("a", "b"):
        world.end(name, signal.SIGKILL)
    for name in ("a", "b"):
        world.start(name)
    settle(world, 12)


def freeze(world: World, name: str) -> None:
    world.send(300)
    world.note("freeze")
    process = world.current[name].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(SESSION_MS / 1000 + 4)
    process.send_signal(signal.SIGCONT)
    settle(world, 3)
    settle(world, 12)


def guest(world: World) -> None:
    world.send(300)
    world.note("join")
    world.start("guest", static=False)
    settle(world, 8)
    world.send(300)
    world.note("leave")
    world.end("guest", signal.SIGTERM)
    settle(world, 6)


def guest_killed(world: World) -> None:
    world.note("join")
    world.start("guest", static=False)
    settle(world, 7)
    world.send(300)
    world.note("kill guest")
    world.end("guest", signal.SIGKILL)
    settle(world, SESSION_MS / 1000 + 4)


def stop_one(world: World, name: str) -> None:
    world.send(300)
    world.note("term")
    world.end(name, signal.SIGTERM)
    world.start(name)
    settle(world, 9)


def kill_in_recovery(world: World, name: str) -> None:
    world.send(300)
    world.note("kill twice")
    world.end(name, signal.SIGKILL)
    world.start(name)
    time.sleep(2.5)
    world.end(name, signal.SIGKILL)
    world.start(name)
    settle(world, 12)


def deep(world: World) -> None:
    """Let both come back to thousands of records, more than Faust takes in one fetch."""
    world.note("deep backlog")
    for name in ("a", "b"):
        world.end(name, signal.SIGKILL)
    world.send(4_000)
    for name in ("a", "b"):
        world.start(name)
    settle(world, 15)


def staggered(world: World) -> None:
    """Let the second come while the first still takes its partitions."""
    world.note("staggered")
    for name in ("a", "b"):
        world.end(name, signal.SIGKILL)
    world.start("a")
    time.sleep(2.5)
    world.start("b")
    settle(world, 8)


def storm(world: World) -> None:
    """Let a guest come and go faster than partitions can be taken."""
    world.note("storm")
    for _ in range(4):
        world.start("guest", static=False)
        settle(world, 3)
        world.end("guest", signal.SIGTERM)
        settle(world, 1)
    settle(world, 6)


SHORT: list[Callable[[World], None]] = [
    partial(kill_one, name="a"),
    partial(freeze, name="b"),
    partial(stop_one, name="a"),
]
ROUND: list[Callable[[World], None]] = [
    partial(kill_one, name="a"),
    partial(kill_one, name="b"),
    guest,
    partial(kill_in_recovery, name="a"),
    partial(freeze, name="b"),
    kill_both,
    partial(stop_one, name="a"),
    partial(kill_one, name="a"),
    guest_killed,
    deep,
    staggered,
    storm,
    partial(freeze, name="a"),
    partial(stop_one, name="b"),
    partial(kill_one, name="b"),
]


# ---- the oracle


def judge(world: World) -> dict[str, Any]:
    """Compare what came out with what went in."""
    sent = {event.id: event for event in world.sent.values()}
    logged = {orjson.loads(message.value() or b"")["id"] for message in read_all(world.broker, world.prefix + "events")}
    result: dict[str, Any] = {"sent": len(sent), "in the log": len(logged)}
    stamps: dict[str, dict[str, int]] = {}
    for topic in ("tallied", "done"):
        messages = read_all(world.broker, world.prefix + topic)
        counts: defaultdict[str, set[int]] = defaultdict(set)
        first: dict[str, int] = {}
        for message in messages:
            body = orjson.loads(message.value() or b"")
            counts[body["id"]].add(body["count"])
            first.setdefault(body["id"], message.timestamp()[1])
        stamps[topic] = first
        result[topic] = {
            "lost": len(logged - counts.keys()),
            "doubled": sum(counts[name] != {sent[name].n} for name in counts),
            "repeated": len(messages) - len(counts),
        }
    fired = Counter(
        orjson.loads(message.value() or b"")["id"] for message in read_all(world.broker, world.prefix + "fired")
    )
    timers = {event.id for event in sent.values() if event.n % TIMER_EVERY == 0}
    result["timers"] = {
        "due": len(timers),
        "lost": len(timers - fired.keys()),
        "invented": len(fired.keys() - timers),
        "repeated": sum(fired.values()) - len(fired),
    }
    result["rows"] = judge_rows(world)
    result["counts"] = summed(world)
    result["rss_mb"] = max((life.last().get("rss_kb", 0) for life in world.lives), default=0) // 1024
    result["ended_by_itself"] = sum(life.process.returncode == 70 for life in world.lives)
    result["workers"] = len(world.lives)
    result["latency_ms"] = latencies(world, stamps)
    result["recovery_s"] = recoveries(world, stamps["done"])
    return result


def judge_rows(world: World) -> dict[str, int]:
    """Compare the rows in the changelogs, as the next worker would restore them, with the oracle."""
    host = settings(world.broker, world.prefix, None)
    last = Counter(event.key for event in world.sent.values())
    wrong = left = 0
    for spec in specs():
        by_partition: dict[int, Restored] = {}
        for message in sorted(read_all(world.broker, host.changelog(spec.name)), key=lambda m: m.offset() or 0):
            key, partition = message.key(), message.partition()
            assert key is not None
            assert partition is not None
            restored = by_partition.setdefault(partition, Restored(partition))
            restored.take(key, message.value(), headers_of(message.headers()))
        rows = {key: value for restored in by_partition.values() for key, value in restored.table.items()}
        for key, value in rows.items():
            name = key.decode().partition("/")[2]
            if name.startswith("t/"):
                left += 1
            elif name != "now" and not name.startswith((CURSOR_MARK, ID_MARK)):
                count = orjson.loads(value)["count"] if spec.name == "tally" else int(value)
                wrong += count != last[name.removeprefix("k/")]
    return {"wrong": wrong, "timers left": left}


def summed(world: World) -> dict[str, int]:
    total: Counter[str] = Counter()
    for life in world.lives:
        for counts in life.last().get("counts", {}).values():
            total.update(counts)
    return dict(total)


def latencies(world: World, stamps: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of the quiet time before the first fault."""
    until = world.faults[0].at_ms - 1_000 if world.faults else now_ms()
    quiet = [event for event in world.sent.values() if event.made_at_ms < until][KEYS * 4 :]
    first = [stamps["tallied"][event.id] - event.made_at_ms for event in quiet if event.id in stamps["tallied"]]
    second = [stamps["done"][event.id] - stamps["tallied"][event.id] for event in quiet if event.id in stamps["done"]]
    return {name: percentiles(values) for name, values in (("tally", first), ("remind", second))}


def percentiles(values: Sequence[int]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {"n": len(values), "p50": cuts[49], "p99": cuts[98], "max": max(values)}


def recoveries(world: World, done: dict[str, int]) -> dict[str, list[float]]:
    """Return for each fault how long it took until an event made after it was done in every partition's keys."""
    by_key: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in world.sent.values():
        if event.id in done:
            by_key[event.key].append((event.made_at_ms, done[event.id]))
    found: defaultdict[str, list[float]] = defaultdict(list)
    for fault in world.faults:
        firsts = [
            next((done_ms - fault.at_ms for made_ms, done_ms in pairs if made_ms > fault.at_ms), None)
            for pairs in by_key.values()
        ]
        found[fault.kind].append(max((value for value in firsts if value is not None), default=-1) / 1000)
    return dict(found)


def wait_done(world: World, wait_s: float) -> None:
    """Wait until all that was sent is done, or nothing more comes for `wait_s`."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < wait_s:
        settle(world, 2)
        consumer = Consumer({"bootstrap.servers": world.broker, "group.id": "oracle"})
        ends = [
            consumer.get_watermark_offsets(TopicPartition(world.prefix + topic, partition), timeout=10)[1]
            for topic in ("done", "fired")
            for partition in range(PARTITIONS)
        ]
        consumer.close()
        done = sum(ends)
        timers = sum(event.n % TIMER_EVERY == 0 for event in world.sent.values())
        if sum(ends[:PARTITIONS]) >= len(world.sent) and sum(ends[PARTITIONS:]) >= timers:
            time.sleep(3)
            return
        if done != seen:
            seen, since = done, time.monotonic()


def run(
    broker: str, schedule: Sequence[Callable[[World], None]], *, rate: int, quiet_s: float, read_back: bool
) -> dict[str, Any]:
    """Do a schedule of harms under load and judge the end."""
    folder = Path(tempfile.mkdtemp(prefix="host-faults-"))
    world = World(broker, folder, rate, read_back)
    world.make_topics()
    sys.stderr.write(f"logs: {folder}\n")
    try:
        for name in ("a", "b"):
            world.start(name)
        world.wait_ready(("a", "b"))
        with world.load():
            settle(world, quiet_s)
            for harm in schedule:
                sys.stderr.write(f"{len(world.sent)} sent, {harm}\n")
                harm(world)
        wait_done(world, 40)
    finally:
        world.stop_all()
    return judge(world)


def catch_up(arguments: argparse.Namespace) -> None:
    """Let one worker begin with a backlog, and say how fast both stages together work it off."""
    world = World(arguments.broker, Path(tempfile.mkdtemp(prefix="host-faults-")), 0, read_back=True)
    world.make_topics()
    for _ in range(arguments.events // 1_000):
        world.send(1_000)
    world._producer.flush(60)  # noqa: SLF001 -- our own, in this file
    consumer = Consumer({"bootstrap.servers": world.broker, "group.id": "oracle"})
    places = [TopicPartition(f"{world.prefix}done", partition) for partition in range(PARTITIONS)]
    world.start("a")
    try:
        world.wait_ready(["a"])
        began = time.monotonic()
        while sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places) < len(world.sent):
            time.sleep(0.2)
        seconds = time.monotonic() - began
    finally:
        consumer.close()
        world.stop_all()
    result = {
        "events": len(world.sent),
        "seconds": round(seconds, 1),
        "events a second": round(len(world.sent) / seconds),
    }
    sys.stdout.write(json.dumps({**result, **world.lives[0].last()}, indent=2) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    worker = commands.add_parser("worker")
    for name in ("--broker", "--prefix", "--told"):
        worker.add_argument(name, required=True)
    worker.add_argument("--instance")
    worker.add_argument("--no-read-back", action="store_true")
    worker.add_argument("--die-at-outputs", action="store_true")
    worker.set_defaults(call=work)
    runner = commands.add_parser("run")
    runner.add_argument("--broker", required=True)
    runner.add_argument("--rate", type=int, default=60, help="events a second")
    runner.add_argument("--no-read-back", action="store_true", help="let Faust alone, to see what it loses")
    runner.add_argument("--quiet-s", type=float, default=20, help="seconds before the first harm")
    runner.add_argument("rounds", nargs="?", default="ROUNDS=0", help="ROUNDS=n, 0 for the short schedule")
    runner.set_defaults(call=run_from_command_line)
    catching = commands.add_parser("catch-up")
    catching.add_argument("--broker", required=True)
    catching.add_argument("--events", type=int, default=20_000)
    catching.set_defaults(call=catch_up)
    arguments = parser.parse_args()
    arguments.call(arguments)


def run_from_command_line(arguments: argparse.Namespace) -> None:
    rounds = int(arguments.rounds.partition("=")[2])
    result = run(
        arguments.broker,
        ROUND * rounds or SHORT,
        rate=arguments.rate,
        quiet_s=arguments.quiet_s,
        read_back=not arguments.no_read_back,
    )
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    main()
