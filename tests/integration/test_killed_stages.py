"""Each stage is killed once, with a backlog, as a process on a real Kafka; what comes out is what a quiet run gives."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from streams.runtime.demo.census import census
from streams.runtime.demo.generator import MINUTE_MS, Stream, stream
from streams.runtime.terminal import Exit

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
PARTITIONS = 4
WAIT_S = 240
LOOK_S = 0.05
HISTORY_MINUTES, HEALTHY_MINUTES, BROKEN_MINUTES = 120, 30, 60
WRITES = {
    "join": "window-stats",
    "detect": "findings",
    "triage": "incidents",
    "escalate": "notifications",
    "notify": "receipts",
}
"""Stages in the order in which they are started and killed."""
PAGE = ("incident_id", "target", "purpose", "reason", "severity", "title")
"""What a page says whenever it is written."""

SETTINGS = """
[join]
folder = "{folder}/pending"
checkpoint = "200 ms"

[worker]
instance = "one"
hand_over_wait = "5 s"

[models.employment]
kind = "classification"
segments = ["SEX"]
features = {{ AGEP = "numeric", SCHL = "categorical" }}
required = ["AGEP"]
label_wait = "1 d"

[channels.file]
folder = "{folder}/sent"

[directory]
"team:ml-oncall" = [{{ channel = "file", address = "oncall.ndjson", modes = ["page", "message", "ticket"] }}]
"""

pytestmark = pytest.mark.kafka


@dataclass
class Deployment:
    """Topics of one prefix, and the processes that work on them."""

    folder: Path
    broker: str
    prefix: str
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        return ["--config", str(self.folder / "tocsin.toml"), "--broker", self.broker, "--topic-prefix", self.prefix]

    def tocsin(self, *words: str) -> str:
        command = [TOCSIN, *words, *self.options]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == Exit.DONE, f"{words} {done.returncode} {done.stderr}"
        return done.stdout

    def start(self, stage: str) -> None:
        with (self.folder / f"{stage}.log").open("ab") as log:
            self.workers[stage] = subprocess.Popen([TOCSIN, "worker", stage, *self.options], stdout=log, stderr=log)

    def kill(self, stage: str) -> None:
        self.workers[stage].kill()
        assert self.workers[stage].wait() < 0, self.tail(stage)

    def stop(self) -> None:
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers.values():
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def tail(self, stage: str) -> str:
        return f"--- {stage}\n{(self.folder / f'{stage}.log').read_text()[-2000:]}"

    def until(self, said: Callable[[], object], what: str) -> None:
        for _ in range(int(WAIT_S / LOOK_S)):
            if said():
                return
            for stage, worker in self.workers.items():
                assert worker.poll() is None, self.tail(stage)
            time.sleep(LOOK_S)
        pytest.fail("\n".join([f"{what} did not come to pass", *map(self.tail, self.workers)]))

    def written(self, stage: str, watcher: Consumer) -> int:
        topic = self.prefix + WRITES[stage]
        ends = [watcher.get_watermark_offsets(TopicPartition(topic, one), timeout=10) for one in range(PARTITIONS)]
        return sum(end[1] for end in ends)

    def incidents(self) -> set[str]:
        """Return the incidents about the quality of answers: those that the stream holds, whenever it is read."""
        found = [json.loads(line) for line in self.tocsin("incidents", "list", "--all", "--json").splitlines()]
        return {str(one["incident_id"]) for one in found if one["class"] == "model_quality"}

    def sent(self) -> list[dict[str, Any]]:
        file = self.folder / "sent" / "oncall.ndjson"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def pages(self) -> set[tuple[Any, ...]]:
        """Return what each page says of itself, but for its time."""
        return {tuple(one[name] for name in PAGE) for one in self.sent() if one["mode"] == "page"}


@dataclass(frozen=True)
class World:
    """Files that both deployments are given."""

    history: Path
    live: Path
    begins: str


def written(file: Path, run: Stream, until_ms: int) -> Path:
    labels = {one.prediction_id: one for one in run.labels(0, until_ms)}
    with file.open("w") as lines:
        for output in run.outputs(0, until_ms):
            row: dict[str, Any] = json.loads(output.encode())
            if label := labels.get(output.prediction_id):
                row |= {"label": label.label, "labelled_at_ms": label.labelled_at_ms}
            lines.write(json.dumps(row) + "\n")
    return file


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    length_ms = (HEALTHY_MINUTES + BROKEN_MINUTES) * MINUTE_MS
    begins_ms = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS - length_ms
    past = stream(census(2015), name="past", begins_at_ms=begins_ms - 10**9, seed=1)
    live = stream(
        census(2016),
        name="live",
        begins_at_ms=begins_ms,
        seed=2,
        fault="unit",
        fault_at_ms=begins_ms + HEALTHY_MINUTES * MINUTE_MS,
    )
    return World(
        history=written(folder / "past.ndjson", past, past.begins_at_ms + HISTORY_MINUTES * MINUTE_MS),
        live=written(folder / "live.ndjson", live, begins_ms + length_ms),
        begins=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begins_ms // 1000)),
    )


@pytest.fixture
def deploy(kafka: str, topic_prefix: str, world: World, tmp_path: Path) -> Iterator[Callable[[str], Deployment]]:
    made: list[Deployment] = []

    def make(name: str) -> Deployment:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tocsin.toml").write_text(SETTINGS.format(folder=folder))
        one = Deployment(folder=folder, broker=kafka, prefix=f"{topic_prefix}{name}.")
        made.append(one)
        one.tocsin("topics", "create")
        one.tocsin("baseline", "build", str(world.history), "--model", "employment", "--valid-from", world.begins)
        one.tocsin("produce", str(world.live), "--rows", "20")
        return one

    yield make
    for one in made:
        one.stop()


def test_each_stage_killed_with_a_backlog_gives_the_incidents_and_pages_of_a_quiet_run(
    deploy: Callable[[str], Deployment], kafka: str
) -> None:
    quiet, harmed = deploy("quiet"), deploy("harmed")
    for stage in WRITES:
        quiet.start(stage)
    quiet.until(quiet.pages, "a page")
    expected, pages = quiet.incidents(), quiet.pages()
    assert expected
    quiet.stop()
    quiet.workers.clear()

    # each begins with what the one before has written, and is killed as soon as it has written something itself
    with closing(Consumer({"bootstrap.servers": kafka, "group.id": f"{harmed.prefix}watcher"})) as watcher:
        for stage in WRITES:
            harmed.start(stage)
            harmed.until(partial(harmed.written, stage, watcher), f"a record of {stage}")
            harmed.kill(stage)
            harmed.start(stage)
    harmed.until(lambda: expected <= harmed.incidents(), "the same incidents")
    harmed.until(lambda: pages <= harmed.pages(), "the same pages")
    harmed.stop()

    assert harmed.incidents() == expected
    causes = {(one["incident_id"], one["target"], one["purpose"], one["reason"], one["seq"]) for one in harmed.sent()}
    assert len(causes) == len({one["notification_id"] for one in harmed.sent()})
    assert harmed.tocsin("dead-letters", "list") == ""
