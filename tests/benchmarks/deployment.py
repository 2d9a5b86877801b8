"""What is measured? Workers of the join as an operator starts them, on a real Kafka that holds a workload."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from math import inf
from pathlib import Path
from signal import SIGTERM

import msgspec
import numpy as np
import orjson
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from config.load import load
from config.settings import KafkaSettings, Settings
from schemas.window_stats import WindowStats
from streams.runtime import kafka, topics
from streams.runtime.sending import send_all
from streams.runtime.wiring import table_changelogs
from tests.benchmarks import watched_worker, workload
from tests.benchmarks.figures import UnfitError
from tests.benchmarks.reference import baseline
from tests.benchmarks.watched_worker import Noted, Told
from tests.benchmarks.workload import Ints, Workload
from tests.integration.worker_process import Worker

ROOT = Path(__file__).parents[2]
LOCAL_KAFKA = ROOT / "deploy" / "kafka" / "local_kafka.py"
STOP_WAIT_S = 60.0
SCRAPE_EVERY_S = 1.0
"""How often somebody reads the metrics of a worker that is measured."""
RUN_WAIT_S = 300.0
RENEW_WAIT_S = 30.0
WRITTEN = (topics.CHANGELOG, topics.WINDOW_STATS, topics.DEAD_LETTERS)
"""What a join writes, beside the offsets of its group."""

LANES_BY_DEFAULT = 500

SETTINGS = """
[kafka]
input_partitions = {partitions}

[worker]
clock = "topic"  # nobody writes it: time is what the rows say

[detect]
max_lanes_per_model = {lanes}

[join]
{join}
"""
MODEL = """
[models.{model}]
kind = "classification"
threshold = 0.5
sla_accuracy = 0.9
segments = ["region"]
features = {{ {features} }}
"""


@contextmanager
def a_broker() -> Iterator[str]:
    """Run a Kafka, and give its address; it is gone afterwards."""
    command = [sys.executable, str(LOCAL_KAFKA), "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            if address:
                yield address
        finally:
            process.stdin.close()
            status = process.wait(STOP_WAIT_S)
    if not address:
        raise UnfitError(f"no Kafka: {LOCAL_KAFKA.name} ended with status {status}")


@dataclass
class Deployment:
    """Topics of one prefix that hold a workload, and the workers that read them.

    Parameters
    ----------
    folder
        For settings, logs and state; made when it is not there.
    prefix
        What the names of the topics begin with; no other deployment of this broker has it.
    join
        Settings of the join that are not the defaults.
    partitions
        Of each of the two inputs.
    """

    folder: Path
    broker: str
    prefix: str
    workload: Workload
    join: Mapping[str, str | int]
    partitions: int = 4
    started: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self.join)
        faults = topics.create(kafka.admin(self.cluster), self.cluster, table_changelogs(self.settings))
        assert faults == [], "\n".join(map(str, faults))
        lanes = self.settings.detect.max_lanes_per_model
        for name in self.workload.model_names:
            model = self.settings.models[name]
            healthy = baseline(self.workload, model, tick_ms=self.settings.join.tick_ms, max_lanes=lanes)
            send_all(self.cluster, [topics.route(part, self.cluster.output_partitions) for part in healthy.split()])
        self.load(self.workload)

    def load(self, more: Workload) -> None:
        """Write a workload; a worker is then to read its rows, and nothing from before."""
        rows = workload.load(self.cluster, more)
        self.rows: Ints = np.sum(list(rows.values()), axis=0)

    def _write(self, join: Mapping[str, str | int]) -> None:
        numeric, categorical = self.workload.names
        features = dict.fromkeys(numeric, "numeric") | dict.fromkeys(categorical, "categorical")
        declared = ", ".join(f'{name} = "{kind}"' for name, kind in features.items())
        settings = SETTINGS.format(
            partitions=self.partitions,
            lanes=max(LANES_BY_DEFAULT, 2 + 2 * self.workload.lanes),
            join="\n".join(f"{name} = {orjson.dumps(value).decode()}" for name, value in join.items()),
        )
        models = [MODEL.format(model=name, features=declared) for name in self.workload.model_names]
        self._file.write_text(settings + "".join(models))

    @property
    def _file(self) -> Path:
        return self.folder / "tocsin.toml"

    @cached_property
    def settings(self) -> Settings:
        """The settings of its workers."""
        options = {
            "kafka.broker": ("--broker", self.broker),
            "kafka.topic_prefix": ("--topic-prefix", self.prefix),
        }
        return load(self._file, {}, options, lambda _: ())

    @property
    def cluster(self) -> KafkaSettings:
        """Where its topics are."""
        return self.settings.kafka

    def renew(self) -> None:
        """Make anew what a join writes, so that the next one begins with nothing."""
        admin, names = kafka.admin(self.cluster), [self.prefix + name for name in WRITTEN]
        for gone in admin.delete_topics(names, operation_timeout=RENEW_WAIT_S).values():
            gone.result(RENEW_WAIT_S)
        until_s = time.monotonic() + RENEW_WAIT_S
        while set(names) & set(admin.list_topics(timeout=RENEW_WAIT_S).topics):
            assert time.monotonic() < until_s, "topics that were deleted are still there"
            time.sleep(0.1)
        faults = topics.create(kafka.admin(self.cluster), self.cluster, table_changelogs(self.settings))
        assert faults == [], "\n".join(map(str, faults))

    # ---- workers

    def run(
        self, *, processes: int = 1, rest_s: float = 0.0, rows_per_s: float = inf, may_restore: bool = False
    ) -> list["Ran"]:
        """Let workers join all that is there, no faster than that each, and end them; return what each noted.

        Raises
        ------
        UnfitError
            One of them ended, or not all was joined in `RUN_WAIT_S`.
        """
        running = [self._start(processes, rest_s, rows_per_s, may_restore=may_restore) for _ in range(processes)]
        try:
            self._wait(running)
        finally:
            for one in running:
                one.tell()
            for one in running:
                one.worker.wait()
        return [Ran(one.launched_s, msgspec.json.decode(one.answer.read_bytes(), type=Noted)) for one in running]

    def _start(self, processes: int, rest_s: float, rows_per_s: float, *, may_restore: bool) -> "_Running":
        self.started += 1
        name = f"worker-{self.started}"
        answer = self.folder / f"{name}.json"
        told = Told(
            rows=tuple([0] * len(self.rows) if may_restore else self.rows.tolist()),
            partitions=self.cluster.input_partitions // processes,
            rest_s=rest_s,
            s_per_row=1 / rows_per_s,
            answer=str(answer),
        )
        launched_s = time.monotonic()
        worker = Worker(
            ["--config", str(self._file), "--broker", self.broker, "--topic-prefix", self.prefix],
            self.folder / f"{name}.log",
            "join",
            environ={
                "WATCHED": msgspec.json.encode(told).decode(),
                "TOCSIN__JOIN__FOLDER": str(self.folder / "state" / name),
                "PYTHONPATH": str(ROOT),
            },
            program=Path(watched_worker.__file__),
        )
        return _Running(worker, answer, launched_s)

    def _wait(self, running: Sequence["_Running"]) -> None:
        """Wait until all have noted what they were to wait for, and read their metrics meanwhile."""
        until_s = time.monotonic() + RUN_WAIT_S
        scrape_s = time.monotonic() + SCRAPE_EVERY_S
        while not all(one.answer.exists() for one in running):
            for one in running:
                if one.worker.process.poll() is not None or time.monotonic() > until_s:
                    raise UnfitError(f"a worker did not join all that was there:\n{one.worker.log.read_text()[-3000:]}")
                if time.monotonic() > scrape_s and one.worker.lines("probes.open"):
                    one.worker.ask("/metrics")
            if time.monotonic() > scrape_s:
                scrape_s = time.monotonic() + SCRAPE_EVERY_S
            time.sleep(0.05)

    # ---- what they sent

    def results(self) -> str:
        """Return a hash of all closed ticks, whichever messages their rows lay in."""
        found = {}
        for key, value in self._read(topics.WINDOW_STATS):
            if key is not None:
                stats = WindowStats.decode(value)
                place = stats.source_partition, stats.tick_start_ms, stats.model, stats.part
                found[place] = replace(stats, offsets={}).encode()
        hashed = blake2b(digest_size=6)
        for _, value in sorted(found.items()):
            hashed.update(value)
        return hashed.hexdigest()

    def written(self, topic: str) -> int:
        """Return how many bytes lie in a topic, before compression."""
        return sum(len(key or b"") + len(value) for key, value in self._read(topic))

    def _read(self, topic: str) -> Iterator[tuple[bytes | None, bytes]]:
        """Read a topic from its beginning to its end."""
        name = self.prefix + topic
        consumer = kafka.consumer(self.cluster, "bench-results", f"{self.prefix}results")
        try:
            for partition in consumer.list_topics(name, timeout=RENEW_WAIT_S).topics[name].partitions:
                place = TopicPartition(name, partition, OFFSET_BEGINNING)
                low, high = consumer.get_watermark_offsets(place, timeout=RENEW_WAIT_S) or (0, 0)
                consumer.assign([place])
                until_s, offset = time.monotonic() + RUN_WAIT_S, low - 1
                while offset < high - 1:
                    assert time.monotonic() < until_s, f"{name}[{partition}] was not read to its end"
                    for message in consumer.consume(1_000, 0.1):
                        assert message.error() is None, message.error()
                        offset = message.offset() or 0
                        yield message.key(), message.value() or b""
        finally:
            consumer.close()


@dataclass
class _Running:
    worker: Worker
    answer: Path
    launched_s: float

    def tell(self) -> None:
        """Tell it to end."""
        if self.worker.process.poll() is None:
            self.worker.send(SIGTERM)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a worker noted.

    Parameters
    ----------
    launched_s
        When its process was started, on `time.monotonic()`.
    """

    launched_s: float
    noted: Noted
