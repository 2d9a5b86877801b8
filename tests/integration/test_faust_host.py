"""Does the Faust host keep every record, whatever happens to its workers?

The long form of the fault schedule: `HOST_FAULTS_ROUNDS=n`, or `host_faults.py run` by hand.
"""

import asyncio
import importlib.util
import logging
import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from faust.types import TP

from config.settings import ProbeSettings
from schemas.clock import Clock
from streams.runtime import faust_host
from streams.runtime.cursor import headers_of
from streams.runtime.faust_host import CLOCK, EXIT_STATUS, FaustHost, HostSettings, StageHost, TopicMismatchError
from streams.runtime.stage_spec import Headers, Routed, Rows, StageSpec
from streams.runtime.topics import TOPICS
from streams.runtime.write_ahead import EPOCH, Changes, Restored, claim, epoch_headers, epoch_of, table_key
from tests.streams.runtime.broker_faults import FETCH, HEARTBEAT, OFFSET_COMMIT, PRODUCE, BrokerFaults

WAIT_S = 90

pytestmark = pytest.mark.filterwarnings("default")  # Faust and its driver warn of their own ways


def load(name: str) -> ModuleType:
    """Import a neighbour: the folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


toys: Any = load("host_faults")


@pytest.mark.kafka
def test_workers_killed_frozen_and_stopped_under_load_lose_and_double_nothing(kafka: str) -> None:
    #  kill -9 | SIGSTOP past the session, SIGCONT | SIGTERM | both kill -9, 4,000 records behind; 60 a second all along
    rounds = int(os.environ.get("HOST_FAULTS_ROUNDS", "0"))
    result = toys.run(kafka, toys.ROUND * rounds or toys.SHORT, rate=60, quiet_s=3, read_back=True)
    assert result["in the log"] == result["sent"]
    for topic in ("tallied", "done"):
        assert (result[topic]["lost"], result[topic]["doubled"]) == (0, 0), result
    assert (result["timers"]["lost"], result["timers"]["invented"]) == (0, 0), result
    assert result["rows"] == {"wrong": 0, "timers left": 0}, result
    assert result["ended_by_itself"] >= 1, "a frozen worker must end when it wakes beyond its session"


@pytest.mark.kafka
def test_a_broker_that_is_killed_and_returns_costs_nothing(local_kafka: Callable[..., str], tmp_path: Path) -> None:
    #  60 a second | broker kill -9, 10 s away, back | twice
    data = str(tmp_path / "kafka")
    address = local_kafka("start", "--data", data, "--heap-mb", "512", "--set", "broker.session.timeout.ms=2000")

    def bounce(world: Any) -> None:  # noqa: ANN401 -- of a module that is loaded by hand
        world.note("broker")
        local_kafka("kill", "--data", data, "1")
        toys.settle(world, 10)
        local_kafka("restart", "--data", data, "1")
        toys.settle(world, 15)

    try:
        result = toys.run(address, [bounce, bounce], rate=60, quiet_s=3, read_back=True)
    finally:
        local_kafka("stop", "--data", data)
    for topic in ("tallied", "done"):
        assert (result[topic]["lost"], result[topic]["doubled"]) == (0, 0), result
    assert (result["timers"]["lost"], result["timers"]["invented"]) == (0, 0), result
    assert result["rows"] == {"wrong": 0, "timers left": 0}, result


@pytest.fixture(scope="module")
def mock_owner() -> Producer:
    """Return the client in which a mock cluster lives, for as long as it lives itself."""
    return Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "in-process", "log_level": 2})


@pytest.fixture(scope="module")
def mock_cluster(mock_owner: Producer) -> str:
    """Return the address of librdkafka's in-process cluster; topics come when asked for, with four partitions."""
    broker = next(iter(mock_owner.list_topics().brokers.values()))
    return f"{broker.host}:{broker.port}"


@pytest.fixture
def faults(mock_owner: Producer) -> Iterator[BrokerFaults]:
    faults = BrokerFaults(mock_owner)
    yield faults
    faults.clear(PRODUCE, FETCH, OFFSET_COMMIT, HEARTBEAT)
    faults.delay(0)


@dataclass(frozen=True, slots=True)
class Bench:
    """Topics of one test, what goes into them and what came out."""

    settings: HostSettings

    @property
    def broker(self) -> str:
        return self.settings.broker

    def topic(self, name: str) -> str:
        return f"{self.settings.topic_prefix}{name}"

    def send(
        self,
        topic: str,
        values: Sequence[bytes | None],
        partition: int,
        key: bytes | None = None,
        headers: Headers = (),
        at_ms: int = 0,
    ) -> None:
        producer = Producer({"bootstrap.servers": self.broker, "linger.ms": 1})
        for value in values:
            producer.produce(topic, value, key, partition, timestamp=at_ms, headers=list(headers))
        assert producer.flush(30) == 0

    def events(self, partition: int, numbers: range, made_at_ms: int = 0, at_ms: int = 0) -> None:
        """Send events of one key, which is the partition's alone."""
        key = f"k{partition}"
        bodies = [{"id": f"{key}-{n}", "key": key, "n": n, "made_at_ms": made_at_ms} for n in numbers]
        values = [orjson.dumps(body) for body in bodies]
        self.send(self.topic("events"), values, partition, key.encode(), at_ms=at_ms)

    def clock(self, now_ms: int) -> None:
        for partition in range(self.settings.partitions):
            self.send(self.topic(CLOCK), [Clock(now_ms=now_ms).encode()], partition)

    def bodies(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(message.value()) for message in toys.read_all(self.broker, self.topic(topic))]

    def ids(self, topic: str) -> list[str]:
        return [body["id"] for body in self.bodies(topic)]

    def rows(self, stage: str) -> dict[bytes, bytes | None]:
        """Return the last value of each row and cursor in a changelog."""
        messages = toys.read_all(self.broker, self.settings.changelog(stage))
        return {message.key(): message.value() for message in messages if b"/!" not in message.key()}

    def epoch(self, stage: str) -> int:
        """Return the highest claim in a changelog."""
        messages = toys.read_all(self.broker, self.settings.changelog(stage))
        return max(epoch_of(headers_of(message.headers())) for message in messages)

    def commit_past(self, topic: str, partition: int, offset: int) -> None:
        """Make the group skip records, as Faust does after a restart with a backlog."""
        consumer = Consumer({"bootstrap.servers": self.broker, "group.id": self.settings.group})
        consumer.commit(offsets=[TopicPartition(self.topic(topic), partition, offset)], asynchronous=False)
        consumer.close()

    @asynccontextmanager
    async def worker(self, specs: Sequence[StageSpec[Any, Any]]) -> Any:  # noqa: ANN401
        """Run a host inside this loop."""
        host = FaustHost(self.settings, specs)
        await host.start()
        try:
            yield host
        finally:
            await host.stop()


@pytest.fixture
def bench(mock_cluster: str) -> Bench:
    settings = toys.settings(mock_cluster, f"t{uuid.uuid4().hex[:8]}.", None)
    toucher = Producer({"bootstrap.servers": mock_cluster})
    for name in ("events", "tallied", "done", "fired", "dead", "tens", CLOCK):
        toucher.list_topics(settings.topic_prefix + name)
    for stage in ("tally", "remind", "tens"):
        toucher.list_topics(settings.changelog(stage))
    return Bench(replace(settings, writes_clock=False))


async def until(true: Callable[[], bool]) -> None:
    """Wait, off the loop, until something is so."""
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 -- a topic has no event
            await asyncio.sleep(0.1)


def run(trial: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await trial()

    asyncio.run(whole())


def test_records_that_the_group_skipped_are_read_back_when_the_next_one_comes(bench: Bench) -> None:
    #  0 1 2 3 4 5 6 7 8 9
    #  skipped   | delivered
    async def trial() -> None:
        bench.events(1, range(1, 11))
        bench.commit_past("events", 1, 5)
        async with bench.worker(toys.specs()) as host:
            await until(lambda: len(bench.ids("done")) == 10)
            assert host.counts()["tally"]["read_back_records"] == 5

    run(trial)
    assert [body["count"] for body in bench.bodies("tallied")] == list(range(1, 11))


def test_records_that_the_group_skipped_are_read_back_when_nothing_more_comes(bench: Bench) -> None:
    #  0 1 2 3 4 5 6 7 8 9
    #  skipped             | silence
    async def trial() -> None:
        bench.events(2, range(1, 11))
        bench.commit_past("events", 2, 10)
        async with bench.worker(toys.specs()):
            await until(lambda: len(bench.ids("done")) == 10)

    run(trial)
    assert [body["count"] for body in bench.bodies("tallied")] == list(range(1, 11))


def test_records_below_the_cursor_change_nothing(bench: Bench) -> None:
    #  0 … 9 | 0 … 9 again, 10
    async def trial() -> None:
        bench.events(0, range(1, 11))
        async with bench.worker(toys.specs()) as host:
            await until(lambda: len(bench.ids("done")) == 10)
            await host.app.consumer.seek(TP(bench.topic("events"), 0), 0)
            await until(lambda: host.counts()["tally"]["repeats"] >= 10)
            bench.events(0, range(11, 12))
            await until(lambda: len(bench.ids("done")) == 11)

    run(trial)
    assert bench.ids("tallied") == [f"k0-{n}" for n in range(1, 12)]


def test_bytes_that_are_no_record_become_a_dead_letter_and_the_next_is_read(bench: Bench) -> None:
    async def trial() -> None:
        bench.events(3, range(1, 3))
        bench.send(bench.topic("events"), [b"{", None], 3)
        bench.events(3, range(3, 5))
        async with bench.worker(toys.specs()):
            await until(lambda: len(bench.ids("done")) == 4)

    run(trial)
    assert [(body["partition"], body["offset"]) for body in bench.bodies("dead")] == [(3, 2), (3, 3)]


def test_the_clock_is_passed_on_when_all_that_came_before_it_was_read(bench: Bench) -> None:
    #  500 records made at 0, each fifth due at 3,000 | clock 3,000      the clock is read first: its topic is short
    remind = toys.specs()[1:]

    async def trial() -> None:
        async with bench.worker(remind) as host:
            await until(lambda: host.ready)
            bodies = [{"id": f"k1-{n}", "key": "k1", "n": n, "count": n, "made_at_ms": 0} for n in range(1, 501)]
            bench.send(bench.topic("tallied"), [orjson.dumps(body) for body in bodies], 1, b"k1")
            bench.clock(3_000)
            await until(lambda: set(host.taken_ms("remind").values()) == {3_000})

    run(trial)
    assert sorted(bench.ids("fired")) == sorted(f"k1-{n}" for n in range(5, 501, 5))


def test_a_timer_fires_once_however_the_clock_goes(bench: Bench) -> None:
    #  events made at 0, each fifth due at 3,000:   clock 2,999 | 3,000 | 2,000
    async def trial() -> None:
        async with bench.worker(toys.specs()) as host:
            for partition in range(4):
                bench.events(partition, range(1, 11))
            await until(lambda: len(bench.ids("done")) == 40)
            for now_ms, fired in ((2_999, 0), (3_000, 8), (2_000, 8)):
                bench.clock(now_ms)
                await until(lambda now_ms=now_ms: min(host.taken_ms("remind").values()) >= now_ms)  # type: ignore[misc]
                assert len(bench.ids("fired")) == fired

    run(trial)
    assert set(Counter(bench.ids("fired")).values()) == {1}


@dataclass(slots=True)
class Tens:
    """A stage that keeps what it heard in memory and writes it down at every tenth."""

    rows: Rows
    heard: int = 0
    settled: bool = False

    def __post_init__(self) -> None:
        self.heard = int(self.rows.get("heard", b"0"))
        self.settled = True

    def receive(self, records: Sequence[Any]) -> list[Any]:
        self.heard += len(records)
        self.settled = self.heard % 10 == 0
        if self.settled:
            self.rows["heard"] = str(self.heard).encode()
        return [toys.Out("tens", record.key, {"id": record.id, "heard": self.heard}) for record in records]

    def advance(self, decided_at_ms: int) -> list[Any]:  # noqa: ARG002
        return []


@pytest.mark.kafka
def test_a_worker_whose_clock_jumps_ahead_takes_the_brokers_time(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  its own clock is 9 h ahead: it writes that, hears it back, and has the broker's stamp beside it
    bench = Bench(toys.settings(kafka, topic_prefix, None))
    names = [bench.topic("events"), bench.topic("tens"), bench.settings.changelog("tens")]
    made = [NewTopic(name, bench.settings.partitions, 1) for name in names]
    made.append(NewTopic(bench.topic(CLOCK), bench.settings.partitions, 1, config=dict(TOPICS[CLOCK].made_with)))
    admin = AdminClient({"bootstrap.servers": kafka})
    for one in admin.create_topics(made).values():
        one.result()
    ahead_ms = 9 * 3_600_000
    wrong = SimpleNamespace(
        **{name: getattr(time, name) for name in dir(time) if not name.startswith("_")}
        | {"time": lambda: time.time() + ahead_ms / 1000, "time_ns": lambda: time.time_ns() + ahead_ms * 1_000_000}
    )
    monkeypatch.setattr(faust_host, "time", wrong)

    async def trial() -> None:
        spec = replace(toys.specs()[0], name="tens", make_stage=lambda rows, _: Tens(rows))
        async with bench.worker([spec]) as host:
            await until(lambda: min(host.taken_ms("tens").values(), default=-1) > 0)
            assert max(host.taken_ms("tens").values()) < toys.now_ms() + ahead_ms / 2
            assert host.stages["tens"].counts.clocks_ahead

    run(trial)


def test_a_stage_that_is_not_settled_moves_no_cursor_and_is_read_on_from_where_it_was(bench: Bench) -> None:
    #  1 … 20 | 21 … 25    restart: 21 … 25 again, counted alike
    #  settled| not
    spec = replace(toys.specs()[0], name="tens", make_stage=lambda rows, _: Tens(rows))

    async def trial() -> None:
        bench.events(1, range(1, 26))
        async with bench.worker([spec]):
            await until(lambda: len(bench.ids("tens")) == 25)
        assert bench.rows("tens") == {table_key(1, "heard"): b"20", table_key(1, "@events"): b"20"}
        async with bench.worker([spec]):
            await until(lambda: bench.ids("tens").count("k1-25") > 1)

    run(trial)
    bodies = bench.bodies("tens")
    assert len({(body["id"], body["heard"]) for body in bodies}) == 25


@dataclass
class Slices:
    """A stage that says of each record as many things as its number, one a piece, and notes who said what."""

    rows: Rows
    said: list[tuple["Slices", str]]
    turns: Callable[[], int] = int
    pause_s: Callable[[], float] = float
    at: list[int] = field(default_factory=list)
    told_too_early: list[str] = field(default_factory=list)
    settled: bool = True

    @property
    def has_more(self) -> bool:
        return "left" in self.rows

    def receive(self, records: Sequence[Any]) -> list[Any]:
        self._note("a record")
        [record] = records
        self.rows["left"] = orjson.dumps([record.id, 0, record.n])
        return self.more()

    def clock(self, now_ms: int, live: bool) -> list[Any]:  # noqa: ARG002, FBT001
        self._note("the clock")
        return []

    def advance(self, decided_at_ms: int) -> list[Any]:  # noqa: ARG002
        self._note("the time")
        return []

    def _note(self, what: str) -> None:
        if self.has_more:
            self.told_too_early.append(what)

    def more(self) -> list[Any]:
        name, number, end = orjson.loads(self.rows["left"])
        self.at.append(self.turns())
        self.said.append((self, f"{name}/{number}"))
        time.sleep(self.pause_s())
        if number + 1 == end:
            del self.rows["left"]
        else:
            self.rows["left"] = orjson.dumps([name, number + 1, end])
        return [toys.Out("tens", name.partition("-")[0], {"id": f"{name}/{number}"})]


def sliced(
    said: list[tuple[Slices, str]], turns: Callable[[], int] = int, pause_s: Callable[[], float] = float
) -> StageSpec[Any, Any]:
    def make_stage(rows: Rows, _: int) -> Slices:
        return Slices(rows, said, turns, pause_s)

    return replace(toys.specs()[0], name="tens", make_stage=make_stage, advance_by="clock")


def slices_of(*lengths: int, key: str = "k1") -> list[bytes]:
    """Return events that say so many things each."""
    return [orjson.dumps({"id": f"{key}-{n}", "key": key, "n": n, "made_at_ms": 0}) for n in lengths]


def names_of(*lengths: int, key: str = "k1") -> list[str]:
    return [f"{key}-{n}/{number}" for n in lengths for number in range(n)]


def test_between_two_pieces_others_have_the_loop_and_the_stage_is_told_nothing(bench: Bench) -> None:
    #  1,000 things | 700 things | clock: each at its end alone, and a turn of the loop between any two things
    said: list[tuple[Slices, str]] = []
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def trial() -> None:
        turning = asyncio.create_task(turn())
        async with bench.worker([sliced(said, lambda: turns)]) as host:
            await until(lambda: host.ready)
            bench.clock(1_000)
            bench.send(bench.topic("events"), slices_of(1_000, 700), 1, b"k1")
            bench.clock(2_000)
            await until(lambda: len(said) == 1_700)
            await until(lambda: host.taken_ms("tens")[1] == 2_000)
        turning.cancel()

    run(trial)
    assert bench.ids("tens") == names_of(1_000, 700)
    [stage] = {id(stage): stage for stage, _ in said}.values()
    assert len(set(stage.at)) == 1_700
    assert stage.told_too_early == []


@pytest.mark.parametrize(("skipped", "rest"), [(0, ()), (3, (2, 3, 4))])
def test_what_a_worker_leaves_when_it_is_told_to_stop_between_two_pieces_the_next_does_unasked(
    bench: Bench, skipped: int, rest: tuple[int, ...]
) -> None:
    #  3,000 things: told to stop after some | clock | the next says the others, before it hears the clock
    #  3,000, 2, 3 | 4                        skipped by the group: they are read back when the fourth comes
    first: list[tuple[Slices, str]] = []
    second: list[tuple[Slices, str]] = []

    async def trial() -> None:
        bench.send(bench.topic("events"), slices_of(3_000, *rest), 1, b"k1")
        bench.commit_past("events", 1, skipped)
        async with bench.worker([sliced(first, pause_s=lambda: 0.002)]) as host:
            await until(lambda: len(first) >= 50)
            assert host.counts()["tens"]["handled"] == 1
        assert 50 <= len(first) < 3_000, "it was told in the middle"
        bench.clock(1_000)
        async with bench.worker([sliced(second)]) as host:
            await until(lambda: len(set(bench.ids("tens"))) == 3_000 + sum(rest))
            assert host.counts()["tens"]["handled"] == len(rest)

    run(trial)
    assert [name for _, name in [*first, *second]] == names_of(3_000, *rest)
    assert not any(stage.told_too_early for stage, _ in second)


def test_a_worker_that_has_much_to_do_is_neither_silent_nor_deaf(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    #  things to say for longer than the loop may be silent, and longer than the clock may be unseen
    ended: list[str] = []
    monkeypatch.setattr(faust_host, "end_hard", ended.append)
    busy = Bench(replace(bench.settings, writes_clock=True, clock_wait_ms=8_000))
    said: list[tuple[Slices, str]] = []

    async def trial() -> None:
        async with busy.worker([sliced(said, pause_s=lambda: 0.02)]) as host:
            await until(lambda: min(host.taken_ms("tens").values(), default=-1) > 0)
            bench.send(bench.topic("events"), slices_of(500), 1, b"k1")
            await until(lambda: len(said) == 500)
            heard_ms = host.taken_ms("tens")[1]
            await until(lambda: host.taken_ms("tens")[1] > heard_ms)

    run(trial)
    assert ended == []


@pytest.mark.kafka
def test_partitions_that_move_between_two_pieces_are_handed_over_at_once_and_gone_on_with(
    kafka: str, topic_prefix: str
) -> None:
    #  2,000 things and 3 in each partition, one partition after the other | a second worker comes in the middle of one
    bench = Bench(replace(toys.settings(kafka, topic_prefix, None), writes_clock=False))
    names = [bench.topic("events"), bench.topic("tens"), bench.topic(CLOCK), bench.settings.changelog("tens")]
    admin = AdminClient({"bootstrap.servers": kafka})
    for made in admin.create_topics([NewTopic(name, bench.settings.partitions, 1) for name in names]).values():
        made.result()
    first: list[tuple[Slices, str]] = []
    second: list[tuple[Slices, str]] = []

    async def trial() -> None:
        for partition in range(4):
            bench.send(bench.topic("events"), slices_of(2_000, 3, key=f"k{partition}"), partition, b"k")
        async with bench.worker([sliced(first, pause_s=lambda: 0.0 if second else 0.05)]) as host:
            await until(lambda: len(first) >= 50)
            async with bench.worker([sliced(second)]):
                await until(lambda: host.ready and len(host.stages["tens"].owned) == 2)
                await until(lambda: len(set(bench.ids("tens"))) == 4 * 2_003)

    run(trial)
    said = [*first, *second]
    for partition in range(4):
        wanted = names_of(2_000, 3, key=f"k{partition}")
        assert [name for _, name in said if name.startswith(f"k{partition}-")] == wanted
    pairs = {(id(stage), name.partition("/")[0]) for stage, name in said}
    assert len(pairs) > 4 * 2, "one was broken off"
    assert not any(stage.told_too_early for stage, _ in said)


def test_rows_that_a_frozen_worker_leaves_in_the_changelog_of_another_are_overwritten(bench: Bench) -> None:
    #  ours: k1 = 10, cursor 10 | foreign: k1 = 3, cursor 3 | ours again
    async def trial() -> None:
        async with bench.worker(toys.specs()[:1]) as host:
            bench.events(1, range(1, 11))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"10")
            for key, value in (("k1", b'{"n":3,"count":3}'), ("gone", b"x"), ("@events", b"3")):
                bench.send(bench.settings.changelog("tally"), [value], 1, table_key(1, key))
            bench.send(bench.settings.changelog("tally"), [b"x"], 1, b"no key of ours", ((EPOCH, b"none"),))
            bench.events(1, range(11, 12))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"11")
            await until(lambda: host.counts()["tally"]["foreign_rows"] == 4)
            await until(lambda: bench.rows("tally").get(table_key(1, "gone"), b"x") is None)

    run(trial)
    rows = bench.rows("tally")
    assert orjson.loads(rows[table_key(1, "k1")] or b"") == {"n": 11, "count": 11}
    assert rows[table_key(1, "@events")] == b"11"


def test_a_worker_that_meets_a_later_claim_in_its_changelog_ends_before_it_says_anything(
    bench: Bench, tmp_path: Path
) -> None:
    #  ours: 1 … 10 | another's claim | 11 … 20: our next entry lies behind it
    bench.events(1, range(1, 11))
    command = [sys.executable, str(Path(toys.__file__)), "worker", "--broker", bench.broker]
    command += ["--prefix", bench.settings.topic_prefix, "--told", str(tmp_path / "told")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as worker:
        try:
            asyncio.run(until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"10"))
            later = epoch_headers(bench.epoch("tally") + 1)
            bench.send(bench.settings.changelog("tally"), [b""], 1, claim(1), later)
            bench.events(1, range(11, 21))
            asyncio.run(until(lambda: worker.poll() is not None or len(bench.ids("tallied")) > 10))
        finally:
            worker.kill()
    said = (tmp_path / "log").read_text()
    assert worker.returncode == EXIT_STATUS, said[-2000:]
    assert "superseded stage=tally partition=1" in said
    assert [body["count"] for body in bench.bodies("tallied")] == list(range(1, 11))
    assert bench.rows("tally")[table_key(1, "@events")] == b"10"


def test_what_an_owner_left_half_done_is_made_good(bench: Bench) -> None:
    #  k1 = 10 | entry: k1 = 11, cursor 11, one output; then the worker is gone | k1 = 11, and the output
    spec = toys.specs()[0]
    left = Routed(topic=bench.topic("tallied"), key=b"k1", value=b'{"id":"left","count":11}', partition=1)

    async def trial() -> None:
        async with bench.worker([spec]):
            bench.events(1, range(1, 11))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"10")
        changes = Changes({"k1": b'{"n":11,"count":11}'}, {"events": 11}, outputs=[left])
        for key, value in changes.entry(1, 0):
            bench.send(bench.settings.changelog("tally"), [value], 1, key, epoch_headers(bench.epoch("tally")))
        async with bench.worker([spec]):
            bench.events(1, range(11, 13))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"12")

    run(trial)
    assert orjson.loads(bench.rows("tally")[table_key(1, "k1")] or b"") == {"n": 12, "count": 12}
    assert "left" in bench.ids("tallied")


def test_what_a_stopped_owner_writes_while_its_successor_makes_good_is_written_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  entry of the first: k1 = 11 | claim of the second | rows of the first: k1 = 3, gone | the second makes good k1 = 11
    spec = toys.specs()[0]
    deliver = StageHost._deliver  # noqa: SLF001

    async def trial() -> None:
        async with bench.worker([spec]):
            bench.events(1, range(1, 11))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"10")
        changelog, before = bench.settings.changelog("tally"), epoch_headers(bench.epoch("tally"))
        changes = Changes({"k1": b'{"n":11,"count":11}'}, {"events": 11})
        for key, value in changes.entry(1, 0):
            bench.send(changelog, [value], 1, key, before)
        bench.events(1, range(11, 12))

        async def after_the_first(host: StageHost, outputs: Sequence[Routed]) -> list[int]:
            if any(one.key == table_key(1, "k1") for one in outputs):
                monkeypatch.setattr(StageHost, "_deliver", deliver)
                for key, value in (("k1", b'{"n":3,"count":3}'), ("gone", b"x")):
                    bench.send(changelog, [value], 1, table_key(1, key), before)
            return await deliver(host, outputs)

        monkeypatch.setattr(StageHost, "_deliver", after_the_first)
        async with bench.worker([spec]) as host:
            await until(lambda: StageHost._deliver is deliver)  # noqa: SLF001
            bench.events(1, range(12, 13))
            await until(lambda: host.counts()["tally"]["foreign_rows"] == 2)
            await until(lambda: bench.rows("tally").get(table_key(1, "gone"), b"x") is None)

    run(trial)
    assert orjson.loads(bench.rows("tally")[table_key(1, "k1")] or b"") == {"n": 12, "count": 12}


def test_what_a_worker_wrote_down_before_it_was_gone_is_said_by_the_next_in_the_same_words(
    bench: Bench, tmp_path: Path
) -> None:
    #  1 … 10: entry, gone before its outputs | the next would say it otherwise, and says what the entry says
    bench.events(1, range(1, 11))
    command = [sys.executable, str(Path(toys.__file__)), "worker", "--broker", bench.broker, "--die-at-outputs"]
    command += ["--prefix", bench.settings.topic_prefix, "--told", str(tmp_path / "told")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert ended.returncode == toys.DIED_STATUS, ended.stderr[-2000:]
    assert bench.bodies("tallied") == []
    left = Restored(1)
    for message in toys.read_all(bench.broker, bench.settings.changelog("tally")):
        if message.partition() == 1:
            left.take(message.key(), message.value(), headers_of(message.headers()))
    promised = [orjson.loads(output.value or b"") for output in left.again().outputs]

    def otherwise(output: Any) -> Routed:  # noqa: ANN401
        return toys.route(replace(output, body={**output.body, "made_at_ms": -1}))  # type: ignore[no-any-return]

    async def trial() -> None:
        async with bench.worker([replace(toys.specs()[0], route=otherwise)]) as host:
            await until(lambda: len(bench.ids("tallied")) >= 10)
            assert host.counts()["tally"]["handled"] == 10 - len(promised)

    run(trial)
    assert len(promised) > 0
    bodies = bench.bodies("tallied")
    assert bodies[: len(promised)] == promised
    assert [body["made_at_ms"] for body in bodies[len(promised) :]] == [-1] * (10 - len(promised))
    assert [body["count"] for body in bodies] == list(range(1, 11))


def test_a_worker_told_to_stop_with_records_in_hand_finishes_them_and_the_next_goes_on(
    bench: Bench, faults: BrokerFaults
) -> None:
    #  1 … 400 | told to stop after some 50, with a group on its way | the next does the others
    few = Bench(replace(bench.settings, group_limit=20))

    async def trial() -> None:
        bench.events(1, range(1, 401))
        async with few.worker(toys.specs()) as host:
            await until(lambda: host.ready)
            faults.delay(100)
            await until(lambda: host.counts()["tally"]["handled"] >= 50)
        faults.delay(0)
        done = len(set(bench.ids("tallied")))
        assert 50 <= done < 400, "it was told in the middle"
        async with few.worker(toys.specs()) as host:
            await until(lambda: len(set(bench.ids("done"))) == 400)
            assert host.counts()["tally"]["handled"] == 400 - done

    run(trial)
    assert {body["count"]: body["n"] for body in bench.bodies("done")} == {n: n for n in range(1, 401)}


def test_a_worker_told_to_stop_just_when_a_clock_record_came_stops(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.worker(toys.specs()) as host:
            await until(lambda: host.ready)
            host.stages["remind"]._clock_news.set()  # noqa: SLF001
            await asyncio.sleep(0)  # whoever waits for it has been told, and has not gone on yet
            async with asyncio.timeout(WAIT_S):
                await host.stop()

    run(trial)


def test_errors_in_answers_to_every_kind_of_request_cost_no_record_and_double_none(
    bench: Bench, faults: BrokerFaults
) -> None:
    moving = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE]

    async def trial() -> None:
        async with bench.worker(toys.specs()) as host:
            await until(lambda: host.ready)
            for turn in range(3):
                bench.events(1, range(1 + turn * 100, 101 + turn * 100))
                faults.answer(PRODUCE, [*moving, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS])
                faults.answer(FETCH, [*moving, KafkaError.OFFSET_OUT_OF_RANGE])
                faults.answer(OFFSET_COMMIT, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.REQUEST_TIMED_OUT])
                faults.answer(HEARTBEAT, [KafkaError.COORDINATOR_NOT_AVAILABLE])
                await until(lambda turn=turn: host.counts()["tally"]["handled"] == 100 + turn * 100)  # type: ignore[misc]
            faults.clear(PRODUCE, FETCH, OFFSET_COMMIT, HEARTBEAT)
            await until(lambda: len(set(bench.ids("done"))) == 300)

    run(trial)
    assert {body["count"]: body["n"] for body in bench.bodies("done")} == {n: n for n in range(1, 301)}
    assert bench.rows("tally")[table_key(1, "@events")] == b"300"


@contextmanager
def held_receipts(monkeypatch: pytest.MonkeyPatch, of: str = "") -> Iterator[None]:
    """Let no write of this process be acknowledged, or none to topics that end so; all else is answered."""
    take, come = faust_host.taken, asyncio.Event()

    async def held(producer: Any, record: Routed) -> Awaitable[Any]:  # noqa: ANN401
        receipt = await take(producer, record)
        if not record.topic.endswith(of):
            return receipt

        async def late() -> Any:  # noqa: ANN401
            await come.wait()
            return await receipt

        return late()

    with monkeypatch.context() as patch:
        patch.setattr(faust_host, "taken", held)
        try:
            yield
        finally:
            come.set()


def bounds(answer_wait_ms: int) -> ProbeSettings:
    return ProbeSettings(
        address="", port=0, answer_wait_ms=answer_wait_ms, mismatch_wait_ms=60_000, silent_after_ms=60_000
    )


def test_a_write_that_is_never_acknowledged_while_brokers_answer_is_said_once_and_not_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    #  a commit whose receipts do not come | the bound | they come
    wait = bounds(1_500)

    def said(event: str) -> int:
        return sum(record.getMessage().startswith(f"{event} stage=tally ") for record in caplog.records)

    async def trial() -> None:
        async with bench.worker(toys.specs()[:1]) as host:
            await until(lambda: host.ready)
            with held_receipts(monkeypatch):
                bench.events(1, range(1, 11))
                await until(lambda: any("no write acknowledged" in why for why in host.health(wait).unready))
                await until(lambda: said("commit.held") == 1)
                await asyncio.sleep(2 * faust_host.PUBLISH_EVERY_S)
            await until(lambda: not host.health(wait).unready and "commit.went_on stage=tally" in caplog.messages)

    monkeypatch.setattr(faust_host, "HELD_S", 1.5)
    with caplog.at_level(logging.INFO, "tocsin.host"):
        run(trial)
    assert said("commit.held") == 1
    assert [body["count"] for body in bench.bodies("tallied")] == list(range(1, 11))


def lag_of(host: FaustHost, unit: str) -> float:
    """Return how far the first stage is behind in the events of partition 1."""
    name = {"offsets": "tocsin_lag_offsets", "seconds": "tocsin_stage_lag_seconds"}[unit]
    return sum(one.value for one in host.measures() if one[:2] == (name, ("tally", "events", "1")))


def test_a_backlog_is_as_old_as_the_brokers_say(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    #  1 … 200, an hour ago | the first are read, and what comes of them is not acknowledged | all is read
    few = Bench(replace(bench.settings, group_limit=20))

    async def trial() -> None:
        few.events(1, range(1, 201), at_ms=time.time_ns() // 1_000_000 - 3_600_000)
        host = FaustHost(few.settings, toys.specs()[:1])
        try:
            with held_receipts(monkeypatch, of="tallied"):
                await host.start()
                await until(lambda: lag_of(host, "seconds") >= 3_600)
                assert 0 < lag_of(host, "offsets") < 200
            await until(lambda: len(few.ids("tallied")) == 200 and lag_of(host, "seconds") == 0)
        finally:
            await host.stop()

    run(trial)


def test_with_no_room_left_behind_a_stuck_write_the_brokers_are_asked_on_and_not_said_to_be_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  a commit whose receipts do not come, more records behind it than may wait | twice the bound | they come
    few = Bench(replace(bench.settings, group_limit=20))
    wait = bounds(4_000)

    async def trial() -> None:
        async with few.worker(toys.specs()[:1]) as host:
            await until(lambda: host.ready)
            with held_receipts(monkeypatch):
                few.events(1, range(1, 201))
                said = re.compile("tally: no write acknowledged for [1-9][0-9] s")
                await until(lambda: any(map(said.fullmatch, host.health(wait).unready)))
                handled = host.counts()["tally"]["handled"]
                assert handled < 200, "there is no room"
                few.events(1, range(201, 211))
                await until(lambda: lag_of(host, "offsets") == 210 - handled)
            await until(lambda: not host.health(wait).unready and len(few.ids("tallied")) == 210)
            await until(lambda: lag_of(host, "offsets") == lag_of(host, "seconds") == 0)

    run(trial)


def test_a_claim_that_is_never_acknowledged_is_the_reason_why_a_worker_is_not_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  partitions are given out, the claim's receipt does not come | the bound | it comes
    async def trial() -> None:
        host = FaustHost(bench.settings, toys.specs()[:1])

        def why() -> list[str]:
            return [one.rpartition(" for ")[0] for one in host.health(bounds(1_500)).unready]

        starting = asyncio.create_task(host.start())
        try:
            with held_receipts(monkeypatch):
                await until(lambda: why() == ["tally: no write acknowledged"])
                assert not host.ready
            await until(lambda: host.ready and not why())
        finally:
            await starting
            await host.stop()

    run(trial)


def test_a_broker_that_answers_slowly_bounds_what_waits(bench: Bench, faults: BrokerFaults) -> None:
    few = Bench(replace(bench.settings, group_limit=25))
    waiting: list[int] = []

    async def trial() -> None:
        bench.events(1, range(1, 301))
        async with few.worker(toys.specs()[:1]) as host:
            faults.delay(100)
            stage = host.stages["tally"]
            while stage.counts.handled < 300:
                waiting.append(max(len(stage._group.events), stage._group.outputs))  # noqa: SLF001
                await asyncio.sleep(0.01)
            faults.delay(0)
            await until(lambda: len(bench.ids("tallied")) == 300)

    run(trial)
    assert 20 < max(waiting) <= 50, "one commit's worth, and what was read back at once"
    assert [body["count"] for body in bench.bodies("tallied")] == list(range(1, 301))


def test_a_write_that_is_refused_for_good_ends_the_process_with_nothing_moved(
    bench: Bench, faults: BrokerFaults, tmp_path: Path
) -> None:
    bench.events(1, range(1, 31))
    faults.answer(PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 50)
    command = [sys.executable, str(Path(toys.__file__)), "worker", "--broker", bench.broker]
    command += ["--prefix", bench.settings.topic_prefix, "--told", str(tmp_path / "told")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    faults.clear(PRODUCE)
    assert ended.returncode == EXIT_STATUS, ended.stderr[-2000:]
    assert table_key(1, "@events") not in bench.rows("tally")

    async def trial() -> None:
        async with bench.worker(toys.specs()):
            await until(lambda: len(set(bench.ids("done"))) == 30)

    run(trial)
    assert {body["count"]: body["n"] for body in bench.bodies("tallied")} == {n: n for n in range(1, 31)}


@pytest.mark.kafka
def test_a_worker_refuses_topics_whose_partitions_do_not_match(kafka: str, topic_prefix: str) -> None:
    async def trial() -> None:
        host = FaustHost(toys.settings(kafka, topic_prefix, None), toys.specs())
        with pytest.raises(TopicMismatchError, match="expected 4 partitions, got 0"):
            await host.start()
        await host.stop()

    run(trial)
