"""A real broker for the tests that need one."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from config.settings import KafkaSettings
from streams.runtime import kafka as clients
from streams.runtime import topics
from tests.integration.join_process import cluster_of
from tests.streams.runtime.join_world import hot_path_settings
from tests.streams.runtime.test_hot_path import Worker

LOCAL_KAFKA = Path(__file__).parents[2] / "deploy" / "kafka" / "local_kafka.py"
NOT_FETCHED = 3  # its exit status
STOP_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Return the bootstrap address of an empty Kafka, gone when the tests are over, however they end.

    `TOCSIN_TEST_BROKER` names one that runs already. Where Kafka was never fetched the test is skipped;
    with `TOCSIN_REQUIRE_KAFKA=1`, as in continuous integration, it fails.
    """
    if address := os.environ.get("TOCSIN_TEST_BROKER"):
        yield address
        return
    with a_kafka() as address:
        yield address


@pytest.fixture(scope="module")
def whole_kafka() -> Iterator[str]:
    """Return the address of a Kafka of this module alone, for what names topics as people do: without a prefix."""
    with a_kafka("--heap-mb=512") as address:
        yield address


@contextmanager
def a_kafka(*options: str) -> Iterator[str]:
    """Run a Kafka."""
    # the broker lives for as long as we hold the pipe: killing us closes it
    with subprocess.Popen(
        [sys.executable, LOCAL_KAFKA, "run", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as broker:
        assert broker.stdin is not None
        assert broker.stdout is not None
        address = broker.stdout.readline().strip()
        if address:
            yield address
        broker.stdin.close()
        status = broker.wait(STOP_TIMEOUT_S)
    if not address:
        no_kafka(status)


@pytest.fixture
def local_kafka() -> Callable[..., str]:
    """Return the command that starts and faults clusters of a test's own; who starts one stops it."""

    def call(*arguments: str) -> str:
        answer = subprocess.run(
            [sys.executable, LOCAL_KAFKA, *arguments], check=False, stdout=subprocess.PIPE, text=True
        )
        if answer.returncode != 0:
            no_kafka(answer.returncode)
        return answer.stdout.strip()

    return call


def no_kafka(status: int) -> NoReturn:
    """Skip a test where Kafka was never fetched: it comes over the network. Continuous integration requires it, and fails.

    Whatever else went wrong is a failure.
    """
    if status == NOT_FETCHED and os.environ.get("TOCSIN_REQUIRE_KAFKA") != "1":
        pytest.skip("no Kafka: run `make kafka-fetch`, or set TOCSIN_TEST_BROKER")
    pytest.fail(f"{LOCAL_KAFKA.name} ended with status {status}: see what it wrote to standard error")


@pytest.fixture
def topic_prefix() -> str:
    """Return a prefix for the topics and groups of this test alone: one broker serves all tests."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture
def cluster(kafka: str, topic_prefix: str) -> KafkaSettings:
    """Return the settings of a deployment of this test alone, its topics made."""
    settings = cluster_of(kafka, topic_prefix)
    assert topics.create(clients.admin(settings), settings) == []
    return settings


@pytest.fixture
def begin(cluster: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Return what begins a worker of the join in a thread, each in a folder of its own unless told; they end with the test."""
    begun: list[Worker] = []

    def start(folder: Path | None = None) -> Worker:
        begun.append(Worker(hot_path_settings(cluster, folder or tmp_path / str(len(begun)))))
        return begun[-1]

    yield start
    for one in begun:
        one._told.set()  # noqa: SLF001
        one.join()
