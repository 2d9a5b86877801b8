"""The join on a broker: whatever happens to its worker, what it sends is what the oracle sends."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import KafkaSettings
from streams.runtime import topics
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.hot_path import HotPath, HotPathSettings
from tests.streams.runtime.join_world import LATER_MS, World, hot_path_settings
from tests.streams.runtime.test_topics import settings as kafka_settings

WAIT_S = 60


@pytest.fixture
def cluster() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        cluster = kafka_settings(broker.address)
        broker.touch(cluster.topic_prefix + name for name in topics.TOPICS)
        yield cluster


class Worker:
    """A worker in a thread of its own."""

    def __init__(self, settings: HotPathSettings) -> None:
        self.hot_path = HotPath(settings)
        self.error: BaseException | None = None
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.hot_path.run(self._told.is_set)
        except BaseException as error:  # noqa: BLE001 - the test says what is expected
            self.error = error

    def stop(self) -> None:
        """Tell it to stop, and see that it leaves as it should."""
        self._told.set()
        self.join()
        if self.error is not None:
            raise self.error

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "it ends within its bounds"

    def until(self, said: Callable[[], bool]) -> None:
        waited = threading.Event()
        for _ in range(WAIT_S * 20):
            if said():
                return
            if self.error is not None:
                raise self.error
            waited.wait(0.05)
        pytest.fail(f"it did not come to pass: {self.hot_path.status}")


@pytest.fixture
def begin(cluster: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(**others: Any) -> Worker:  # noqa: ANN401
        workers.append(Worker(hot_path_settings(cluster, tmp_path / str(len(workers)), **others)))
        return workers[-1]

    yield start
    for worker in workers:
        worker._told.set()  # noqa: SLF001
        worker.join()


def test_what_is_sent_is_what_the_oracle_sends_over_a_restart_into_an_empty_folder(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    world = World(cluster, seed=1)
    world.write(600)
    first = begin()
    first.until(lambda: first.hot_path.counts["rows_labels"] > 300)
    first.stop()
    world.write(600)
    second = begin()
    world.tell(LATER_MS)
    world.check()
    second.stop()
    assert second.hot_path.counts["conservation_errors"] == 0
