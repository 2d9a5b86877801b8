"""Another topic under the name of the one that was read: never taken for it, on a real Kafka."""

import time
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException

from config.settings import KafkaSettings
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.hot_path import StartRefusedError
from tests.streams.runtime.join_world import World
from tests.streams.runtime.test_hot_path import Worker

WAIT_S = 60

pytestmark = pytest.mark.kafka


def make_anew(cluster: KafkaSettings, names: Sequence[str]) -> None:
    """Delete topics, and create them again as they were."""
    admin = clients.admin(cluster)
    for deleted in admin.delete_topics([cluster.topic_prefix + name for name in names]).values():
        deleted.result(WAIT_S)
    until_s = time.monotonic() + WAIT_S
    while True:
        try:
            assert topics.create(admin, cluster) == []
            break
        except (KafkaException, AssertionError):  # it is still being deleted
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def read_all(world: World, begin: Callable[[], Worker]) -> Worker:
    """Let a worker read all there is, and make it last."""
    worker = begin()
    rows = sum(len(one) for one in world.labels.values())
    worker.until(lambda: worker.hot_path.counts["rows_labels"] >= rows)
    worker.until(lambda: world.manifests().keys() == world.labels.keys())
    return worker


@pytest.mark.parametrize("names", [[topics.OUTPUTS, topics.LABELS], [topics.LABELS]])
def test_inputs_that_are_made_anew_under_a_running_join_end_it_with_what_to_do(
    cluster: KafkaSettings, begin: Callable[[], Worker], names: list[str]
) -> None:
    world = World(cluster, seed=21)
    world.write(300)
    worker = read_all(world, begin)
    make_anew(cluster, names)
    worker.join()
    assert isinstance(worker.error, StartRefusedError)
    assert "was made anew" in str(worker.error)
    assert f"delete {cluster.topic_prefix}{topics.CHANGELOG} with it" in str(worker.error)
    assert worker.hot_path.counts[f"error_{KafkaError(KafkaError._AUTO_OFFSET_RESET).name()}"] < 1_000  # noqa: SLF001


def test_an_input_that_was_made_anew_and_outgrew_what_was_read_is_refused_at_the_start(
    cluster: KafkaSettings, begin: Callable[[], Worker]
) -> None:
    world = World(cluster, seed=22)
    world.write(200)
    read_all(world, begin).stop()
    make_anew(cluster, [topics.OUTPUTS])
    world.write(1_000)
    worker = begin()
    worker.join()
    assert isinstance(worker.error, StartRefusedError)
    assert f"{cluster.topic_prefix}{topics.OUTPUTS}[" in str(worker.error)
    assert "has the id" in str(worker.error)
