"""A join whose name another has taken ends: it would live on without partitions, and be ready. On a real Kafka."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import KafkaSettings
from tests.integration.test_hot_path import Process

pytestmark = pytest.mark.kafka


@pytest.fixture
def two(cluster: KafkaSettings, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    first = Process(cluster, tmp_path, "first", instance_id="one")
    first.until_logged("join.took", 4)
    second = Process(cluster, tmp_path, "second", instance_id="one")
    yield first, second
    for one in (first, second):
        one.process.kill()
        one.close()


def test_a_join_that_lost_its_name_in_the_group_ends(two: tuple[Process, Process]) -> None:
    first, second = two
    assert first.process.wait(60) != 0
    assert "_FATAL" in first.log.read_text()
    second.until_logged("join.took", 4)
    assert second.end(signal.SIGTERM) == 0, second.log.read_text()[-3000:]
