"""How many rows a second does a peer join, and are its counts right?

Nobody asks the peer: what it has committed to its group is durable by its own rule, so the group's offsets and the
processor time of its process, looked at from outside, say how far it is. A rate is taken between two commits, the first
after a tenth of the rows and the last before all: it holds neither the start nor a wait for more.
"""

import heapq
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka.admin import NewTopic

from config.settings import KafkaSettings
from streams.runtime import kafka
from tests.benchmarks.figures import UnfitError
from tests.benchmarks.peers import environment
from tests.benchmarks.peers.environment import HERE
from tests.benchmarks.peers.expected import Counts, difference, expected
from tests.benchmarks.workload import TOPICS, Topic, Workload, partitions_of
from tests.integration.join_process import cluster_of

WINDOW_MS = 60_000
WARM_SHARE = 0.1
LOOK_EVERY_S = 0.1
SAY_EVERY_S = 10.0
STOP_WAIT_S = 30.0
QUIET_WAIT_S = 120.0
"""How long a peer may commit nothing."""
ASK_WAIT_S = 10.0
LOAD_ROWS = 10_000
"""Rows that are written and acknowledged at a time."""
TIMES: dict[Topic, str] = {"model-outputs": "made_at_ms", "labels": "labelled_at_ms"}
WORDS = {"faust": ("--loop", "uvloop", "worker", "--without-web", "--loglevel", "error"), "quix": ()}
"""Each peer, and how its job is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What peers are given: rows in two topics, and how they are to be counted."""

    cluster: KafkaSettings
    workload: Workload
    window_ms: int
    label_wait_ms: int
    rows: int

    def topic(self, name: str) -> str:
        """Return the full name of a topic."""
        return self.cluster.topic_prefix + name

    @property
    def expected(self) -> Counts:
        """What must come out."""
        return expected(self.workload, window_ms=self.window_ms, label_wait_ms=self.label_wait_ms)


@dataclass(frozen=True, slots=True)
class Commit:
    """How far a peer was: on `time.monotonic()`, in seconds of processor time of its process, and in rows."""

    wall_s: float
    cpu_s: float
    rows: int


def load(broker: str, workload: Workload, *, window_ms: int, label_wait_ms: int) -> Job:
    """Write a workload's rows to topics of their own, each at its time, as they would come.

    The topics stamp rows when they are written, as a deployment's do, and Quix reads two topics in the order of stamps.
    """
    cluster = cluster_of(broker, f"peers-{uuid.uuid4().hex[:8]}.")
    _create(cluster, TOPICS, **{"message.timestamp.type": "LogAppendTime"})
    producer = kafka.producer(cluster, "peers-load")
    rows = 0

    def each(topic: Topic) -> Iterator[tuple[int, Topic, str, bytes, int]]:
        for ids, values in workload.blocks(topic):
            places = partitions_of(ids, cluster.input_partitions).tolist()
            for one, value, partition in zip(ids, values, places, strict=True):
                yield orjson.loads(value)[TIMES[topic]], topic, one, value, partition

    for _, topic, key, value, partition in heapq.merge(*map(each, TOPICS), key=lambda row: row[0]):
        producer.produce(cluster.topic_prefix + topic, value, key, partition)
        rows += 1
        if rows % LOAD_ROWS == 0:
            assert producer.flush(ASK_WAIT_S) == 0, "rows were not acknowledged"
    assert producer.flush(ASK_WAIT_S) == 0, "rows were not acknowledged"
    return Job(cluster=cluster, workload=workload, window_ms=window_ms, label_wait_ms=label_wait_ms, rows=rows)


def _create(cluster: KafkaSettings, names: Sequence[str], **settings: str) -> None:
    wanted = [NewTopic(cluster.topic_prefix + name, cluster.input_partitions, 1, config=settings) for name in names]
    admin = kafka.admin(cluster)  # lives until the answers are here
    for made in admin.create_topics(wanted, operation_timeout=ASK_WAIT_S).values():
        made.result(ASK_WAIT_S)


def run(peer: str, job: Job, say: Callable[[str], None]) -> tuple[list[Commit], Counts]:
    """Let a peer join all rows, from nothing; return its commits, and what it counted.

    Raises
    ------
    UnfitError
        It ended, stood still, or counted something else.
    NoEnvironmentError
        Its packages could not be brought.
    """
    command = environment.python(peer)
    group = f"{peer}-{uuid.uuid4().hex[:8]}"
    _create(job.cluster, [group])
    with tempfile.TemporaryDirectory(prefix=f"tocsin-{peer}-") as folder:
        told = {
            "broker": job.cluster.broker,
            "group": group,
            "outputs": job.topic("model-outputs"),
            "labels": job.topic("labels"),
            "counts": job.topic(group),
            "partitions": job.cluster.input_partitions,
            "window_ms": job.window_ms,
            "label_wait_ms": job.label_wait_ms,
            "folder": folder,
        }
        log = Path(folder, "log")
        words = [str(command), str(HERE / f"on_{peer}" / "job.py"), *WORDS[peer]]
        with _process(words, {"PEER": orjson.dumps(told).decode()}, log) as process:
            commits = list(_commits(peer, job, group, process, log, say))
    counts = _counts(job, group)
    if wrong := difference(counts, job.expected):
        raise UnfitError(f"{peer}: {wrong}")
    return commits, counts


@contextmanager
def _process(words: Sequence[str], told: dict[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment.environ() | told, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _commits(
    peer: str, job: Job, group: str, process: "subprocess.Popen[bytes]", log: Path, say: Callable[[str], None]
) -> Iterator[Commit]:
    """Look at the group until all rows are committed."""
    consumer = kafka.consumer(job.cluster, "peers-watch", group)
    places = [
        TopicPartition(job.topic(name), number) for name in TOPICS for number in range(job.cluster.input_partitions)
    ]
    try:
        last, said_s = Commit(time.monotonic(), 0.0, 0), time.monotonic()
        while last.rows < job.rows:
            time.sleep(LOOK_EVERY_S)
            rows = sum(max(place.offset, 0) for place in consumer.committed(places, ASK_WAIT_S))
            now_s = time.monotonic()
            if process.poll() is not None or now_s - last.wall_s > QUIET_WAIT_S:
                what = "stood still" if process.poll() is None else f"ended with status {process.returncode}"
                tail = log.read_text(errors="replace")[-3000:]
                raise UnfitError(f"{peer} {what} after {last.rows} of {job.rows} rows:\n{tail}")
            if rows > last.rows:
                last = Commit(now_s, _cpu_s(process.pid), rows)
                yield last
            if now_s - said_s > SAY_EVERY_S:
                said_s = now_s
                say(f"{peer}: {last.rows:,} of {job.rows:,} rows")
    finally:
        consumer.close()


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process, in steps of a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # `utime` and `stime` of proc(5)


def _counts(job: Job, group: str) -> Counts:
    """Add up what a peer wrote."""
    counts: Counts = {}
    consumer = kafka.consumer(job.cluster, "peers-counts", f"{group}-counts")
    try:
        for number in range(job.cluster.input_partitions):
            place = TopicPartition(job.topic(group), number, OFFSET_BEGINNING)
            _, end = consumer.get_watermark_offsets(place, timeout=ASK_WAIT_S) or (0, 0)
            consumer.assign([place])
            until_s, offset = time.monotonic() + QUIET_WAIT_S, -1
            while offset < end - 1:
                assert time.monotonic() < until_s, f"{group}[{number}] was not read to its end"
                for message in consumer.consume(1_000, LOOK_EVERY_S):
                    assert message.error() is None, message.error()
                    offset = message.offset() or 0
                    start_ms, lane, *more = orjson.loads(message.value() or b"")
                    known = counts.get((start_ms, lane), (0, 0, 0))
                    counts[start_ms, lane] = known[0] + more[0], known[1] + more[1], known[2] + more[2]
    finally:
        consumer.close()
    return counts


def rates(commits: Sequence[Commit], rows: int) -> tuple[float, float]:
    """Return rows a second, by the wall and by processor time.

    >>> rates([Commit(0, 0, 50), Commit(1, 0.5, 100), Commit(3, 1.5, 300), Commit(9, 2, 1_000)], 1_000)
    (100.0, 200.0)

    Raises
    ------
    UnfitError
        There are too few commits: more rows are needed.
    """
    between = [one for one in commits if WARM_SHARE * rows <= one.rows < rows]
    if len(between) < 2:
        raise UnfitError(f"{len(between)} commits between a tenth of {rows} rows and all: no rate without two")
    first, last = between[0], between[-1]
    done = last.rows - first.rows
    return done / (last.wall_s - first.wall_s), done / (last.cpu_s - first.cpu_s)
