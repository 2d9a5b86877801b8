"""The join as processes on a real Kafka: what they send in the end is what the oracle sends, byte for byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import KafkaSettings
from tests.streams.runtime.join_world import LATER_MS, World

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("join_process.py")
WAIT_S = 90

pytestmark = pytest.mark.kafka


class Process:
    """A worker as a process; what it logs goes to a file."""

    def __init__(self, cluster: KafkaSettings, folder: Path, name: str, **others: Any) -> None:  # noqa: ANN401
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        told = {
            "address": cluster.broker,
            "prefix": cluster.topic_prefix,
            "folder": str(folder / "state"),
            "batch_messages": 40,
            "others": {"instance_id": name, "checkpoint_ms": 100} | others,
        }
        settings = folder / f"{name}.json"
        settings.write_text(json.dumps(told))
        self._out = self.log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, str(PROCESS), str(settings)],
            stdout=self._out,
            stderr=self._out,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def until_logged(self, text: str, times: int = 1) -> None:
        for _ in range(WAIT_S * 20):
            if self.log.read_text().count(text) >= times:
                return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)
        pytest.fail(f"{text} was not logged: {self.log.read_text()[-3000:]}")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.close()

    def close(self) -> int:
        """Wait for its end, and return its status."""
        status = self.process.wait(WAIT_S)
        self._out.close()
        return status


@pytest.fixture
def begin(cluster: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    begun: list[Process] = []

    def start(name: str = "worker-0", folder: str = "0", **others: Any) -> Process:  # noqa: ANN401
        begun.append(Process(cluster, tmp_path / folder, name, **others))
        return begun[-1]

    yield start
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.close()


def test_kill_9_with_a_backlog_loses_nothing_and_doubles_nothing(
    cluster: KafkaSettings, begin: Callable[..., Process]
) -> None:
    world, rng = World(cluster, seed=2), random.Random(2)  # noqa: S311 - a seed, not a secret
    for kill in range(3):
        world.write(700, span_ms=100_000)
        worker = begin(folder=str(kill % 2))
        worker.until_logged("join.took", 4 * (1 + kill // 2))
        time.sleep(rng.uniform(0.2, 1.2))
        worker.process.send_signal(signal.SIGSTOP)
        world.write(100, span_ms=100_000)  # these at least it has not read
        assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    world.write(300, span_ms=100_000)
    last = begin(folder="empty")
    world.tell(LATER_MS)
    world.check()
    assert last.end(signal.SIGTERM) == 0, last.log.read_text()[-3000:]


def test_a_zombie_that_wakes_up_writes_nothing_that_counts(
    cluster: KafkaSettings, begin: Callable[..., Process]
) -> None:
    #  first  ----stopped---------------------------continued: it ends, or learns that it lost everything
    #  second             session over, takes all
    world = World(cluster, seed=3)
    world.write(500, span_ms=100_000)
    first = begin("first", "first", session_timeout_ms=6_000)
    first.until_logged("join.took", 4)
    first.process.send_signal(signal.SIGSTOP)
    world.write(500, span_ms=100_000)
    second = begin("second", "second", session_timeout_ms=6_000)
    second.until_logged("join.took", 4)
    world.write(500, span_ms=100_000)
    first.process.send_signal(signal.SIGCONT)
    time.sleep(3)
    world.write(300, span_ms=100_000)
    world.tell(LATER_MS)
    world.check()
    for one in (first, second):
        if one.process.poll() is None:
            assert one.end(signal.SIGTERM) == 0, one.log.read_text()[-3000:]


def test_workers_that_come_and_go_share_the_partitions(cluster: KafkaSettings, begin: Callable[..., Process]) -> None:
    world = World(cluster, seed=4)
    world.write(500, span_ms=100_000)
    members = {"instance_id": None, "session_timeout_ms": 6_000}
    first = begin("first", "first", **members)
    first.until_logged("join.took", 4)
    world.write(500, span_ms=100_000)
    second = begin("second", "second", **members)
    second.until_logged("join.took", 2)
    first.until_logged("join.revoked")
    world.write(500, span_ms=100_000)
    assert first.end(signal.SIGTERM) == 0, first.log.read_text()[-3000:]
    world.write(300, span_ms=100_000)
    world.tell(LATER_MS)
    world.check()
    assert second.end(signal.SIGTERM) == 0, second.log.read_text()[-3000:]
