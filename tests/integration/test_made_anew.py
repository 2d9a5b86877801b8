"""Another topic under the name of the one that was read: never taken for it, on a real Kafka."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from config.settings import KafkaSettings
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.faust_host import EXIT_STATUS
from streams.runtime.hot_path import StartRefusedError
from streams.runtime.terminal import Exit
from tests.integration import worker_process
from tests.integration.findings import find
from tests.integration.worker_process import MODEL, run_tocsin, until
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


class Response:
    """A worker of the small stages, and the incidents that it made of findings."""

    def __init__(self, cluster: KafkaSettings, folder: Path) -> None:
        (folder / "tocsin.toml").write_text(MODEL.format(folder=folder))
        self.cluster = cluster
        self._log = folder / "worker.log"
        self._options = ["--config", str(folder / "tocsin.toml"), "--broker", cluster.broker]
        self._options += ["--topic-prefix", cluster.topic_prefix]
        made = run_tocsin(self._options, "topics", "create")
        assert made.returncode == Exit.DONE, made.stderr
        self.worker = self._begun()

    def _begun(self) -> worker_process.Worker:
        return worker_process.Worker(self._options, self._log, "triage", "escalate", "notify")

    def begin_again(self) -> None:
        """Start it where it has ended."""
        self.worker = self._begun()

    def find(self, model: str) -> None:
        """Write a finding that pages, and the time it takes."""
        find(self.cluster.broker, self.cluster.topic_prefix, model)

    def incidents(self) -> int:
        """Count incidents."""
        return len(run_tocsin(self._options, "incidents", "list", "--all", "--json").stdout.splitlines())

    def until_incidents(self, number: int) -> None:
        """Wait for as many incidents."""
        until(lambda: self.incidents() == number, why=lambda: self._log.read_text()[-3000:])


@pytest.fixture
def response(cluster: KafkaSettings, tmp_path: Path) -> Iterator[Response]:
    one = Response(cluster, tmp_path)
    yield one
    one.worker.end()


def test_an_input_that_is_made_anew_under_a_running_stage_ends_it_and_the_next_reads_it_from_the_beginning(
    response: Response,
) -> None:
    #  a finding, an incident | findings made anew: it ends | the next: a finding, an incident
    response.find("fraud")
    response.until_incidents(1)
    make_anew(response.cluster, [topics.FINDINGS])
    assert response.worker.wait() == EXIT_STATUS
    [ended] = response.worker.lines("host.ended")
    assert ended["reason"] in {"made_anew", "unlike_topics"}, "Faust may see first that the topic is gone"
    assert topics.FINDINGS in ended.get("topics", "") + ended.get("error", "")

    response.find("credit")
    response.begin_again()
    response.until_incidents(2)
    [anew] = [one for one in response.worker.lines("cursor.made_anew") if one["cursor"] != "0"]
    assert anew["topic"] == topics.FINDINGS
    until(lambda: response.worker.total("tocsin_stage_topics_made_anew_total", stage="triage") >= 1)


def test_an_input_that_was_made_anew_and_outgrew_what_was_read_is_read_from_the_beginning(response: Response) -> None:
    #  a finding, an incident | away: findings made anew, two findings, further than was read | the next: both
    response.find("fraud")
    response.until_incidents(1)
    assert response.worker.end() == 0
    make_anew(response.cluster, [topics.FINDINGS])
    for _ in range(2):
        response.find("fraud of cards")
    response.find("fraud")
    response.begin_again()
    response.until_incidents(2)
    anew = response.worker.lines("cursor.made_anew")
    assert {one["topic"] for one in anew} == {topics.FINDINGS}
    assert any(0 < int(one["cursor"]) <= int(one["end"]) for one in anew), anew
