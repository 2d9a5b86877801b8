"""A worker as its supervisor sees it: it ends in order when told, hard in doubt, and says when rows lie wrong."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from schemas.receipt import Receipt
from streams.runtime.terminal import Exit
from streams.runtime.topics import RECEIPTS
from tests.chaos.reading import Reading
from tests.integration.findings import find
from tests.integration.join_process import cluster_of
from tests.integration.worker_process import MODEL, PARTITIONS, WAIT_S, Worker, run_tocsin, until, write_rows
from tests.streams.runtime.join_world import World

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 -- the published vector's
SETTINGS = """
[sender]
close_wait_ms = 20_000

[worker]
stop_wait = "60 s"

[probes]
mismatch_wait = "1 s"

[channels.webhook.endpoints]
ops = {{ url = "{url}", secret_from = "OPS", allow_private = true }}
"""

pytestmark = pytest.mark.kafka
Begin = Callable[..., Worker]


@pytest.fixture
def options(kafka: str, topic_prefix: str, tmp_path: Path, httpserver: HTTPServer) -> Sequence[str]:
    file = tmp_path / "tocsin.toml"
    model = MODEL.format(folder=tmp_path).replace(
        'channel = "file", address = "oncall.ndjson"', 'channel = "webhook", address = "ops"'
    )
    assert "webhook" in model
    file.write_text(SETTINGS.format(url=httpserver.url_for("/ops")) + model)
    chosen = ["--config", str(file), "--broker", kafka, "--topic-prefix", topic_prefix]
    made = run_tocsin(chosen, "topics", "create", environ={"OPS": SECRET})
    assert made.returncode == Exit.DONE, made.stderr
    return chosen


@pytest.fixture
def begin(options: Sequence[str], tmp_path: Path) -> Iterator[Begin]:
    begun: list[Worker] = []

    def start(*words: str, **others: object) -> Worker:
        environ = {"OPS": SECRET, "TOCSIN__WORKER__INSTANCE": "one", **others.pop("environ", {})}  # type: ignore[dict-item]
        log = tmp_path / f"worker-{len(begun)}.log"
        begun.append(Worker(options, log, *words, environ=environ, **others))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for one in begun:
        one.kill()


class Receiver:
    """Takes messages, and answers when it is let."""

    def __init__(self, server: HTTPServer) -> None:
        self.ids: list[str] = []
        self.may_answer = threading.Event()
        server.expect_request("/ops").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        self.ids.append(request.headers["webhook-id"])
        assert self.may_answer.wait(WAIT_S)
        return Response(status=200)


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Iterator[Receiver]:
    made = Receiver(httpserver)
    yield made
    made.may_answer.set()


def produce(options: Sequence[str], folder: Path, name: str, count: int) -> None:
    file = write_rows(folder / name, name, count, at_ms=time.time_ns() // 1_000_000 - 1_000)
    sent = run_tocsin(options, "produce", str(file))
    assert sent.returncode == Exit.DONE, sent.stderr


def test_sigterm_under_load_with_a_message_on_its_way_loses_nothing_and_doubles_nothing(
    options: Sequence[str], begin: Begin, receiver: Receiver, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    #  rows ----- finding -- page on its way | SIGTERM | answered: status 0 | a new worker: all rows, no second page
    worker = begin("all")
    worker.until_answers("/ready", 200)
    find(kafka, topic_prefix, "fraud")
    until(lambda: receiver.ids, why=worker.log.read_text)
    feeding = threading.Thread(target=produce, args=(options, tmp_path, "rows", 20_000))
    feeding.start()
    until(lambda: worker.total("tocsin_join_rows_total") > 0, why=worker.log.read_text)
    worker.send(signal.SIGTERM)
    until(lambda: worker.lines("worker.told_to_stop"))
    assert worker.process.poll() is None, "the page is still on its way"
    receiver.may_answer.set()
    assert worker.wait() == 0, worker.log.read_text()[-3000:]
    feeding.join(WAIT_S)
    assert worker.lines()[-1]["event"] == "worker.ended"

    second = begin("all")
    second.until_answers("/ready", 200)
    until(second.has_read_all, why=second.log.read_text)
    until(lambda: not second.total("tocsin_notifications_waiting"), why=second.log.read_text)
    assert second.end() == 0
    world = World(cluster_of(kafka, topic_prefix), seed=0)
    counted: Counter[str] = Counter()
    for manifest in world.manifests().values():
        counted.update(manifest.counters)
    rows = {name: counted[name] for name in ("output_rows", "label_rows", "labelled", "joined")}
    assert rows == dict.fromkeys(rows, 20_000), counted
    assert len(receiver.ids) == len(set(receiver.ids)) == 1
    found = Reading(world.cluster, "test", {RECEIPTS: topic_prefix + RECEIPTS}, lambda _: PARTITIONS).to_ends()
    receipts = [Receipt.decode(one.value) for log in found.values() for one in log]
    paged = [(one.status, one.attempt) for one in receipts if one.channel == "webhook"]
    assert paged == [("delivered", 1)], receipts


def test_a_second_sigterm_ends_it_at_once(begin: Begin, receiver: Receiver, kafka: str, topic_prefix: str) -> None:
    worker = begin("triage", "escalate", "notify")
    worker.until_answers("/ready", 200)
    find(kafka, topic_prefix, "fraud")
    until(lambda: receiver.ids, why=worker.log.read_text)
    worker.send(signal.SIGTERM)
    until(lambda: worker.lines("worker.told_to_stop"))
    assert worker.process.poll() is None
    assert worker.end(signal.SIGTERM) == -signal.SIGTERM


def test_sigterm_while_a_stage_waits_for_the_others_of_its_group_ends_the_worker_in_order(begin: Begin) -> None:
    #  one: triage, frozen | two: detect works, triage waits until one's session is over | SIGTERM: status 0
    one = begin("triage")
    one.until_answers("/ready", 200)
    one.send(signal.SIGSTOP)
    two = begin("detect", "triage", environ={"TOCSIN__WORKER__INSTANCE": "two"})
    until(lambda: two.total("tocsin_partitions_owned", stage="detect") == PARTITIONS, why=two.log.read_text)
    assert two.end() == 0, two.log.read_text()[-3000:]
    assert two.lines()[-1]["event"] == "worker.ended"
    assert two.lines()[-1]["had_not_started"] == "triage"


UNANSWERED = """
import asyncio, sys
from streams.runtime import cli, faust_host
from streams.runtime.cursor import UnansweredError

begin, others = faust_host.FaustHost.start, []

async def start(host):
    if "triage" not in host.stages:
        await begin(host)
        return others.append(host)
    while not others:
        await asyncio.sleep(0.1)
    raise UnansweredError("findings: timed out")

faust_host.FaustHost.start = start
cli.main(sys.argv[1:])
"""


def test_brokers_that_go_away_while_one_of_two_stages_has_started_end_the_worker(begin: Begin, tmp_path: Path) -> None:
    program = tmp_path / "unanswered.py"
    program.write_text(UNANSWERED)
    worker = begin("escalate", "triage", program=program)
    assert worker.wait() == Exit.BROKER, worker.log.read_text()[-3000:]
    assert worker.lines("worker.no_answer")
    assert worker.lines()[-1]["event"] == "worker.ended"


HARMS = {
    "a task returns": "faust_host.StageHost.watch = lambda self: asyncio.sleep(1)",
    "a task raises": "faust_host.StageHost.watch = lambda self: 1 / 0",
    "the agent ends": "faust_host.StageHost._agent = ending",
    "the join's thread raises": "hot_path.HotPath._look_for_edges = lambda self: 1 / 0",
    "the join's thread returns": "hot_path.HotPath.run = lambda self, told: None",
    "the thread of the probes raises": "probes._Server.service_actions = lambda self: 1 / 0",
    "the task that keeps it in its group dies": "GroupCoordinator.ensure_coordinator_known = lambda self: 1 / 0",
}
PROGRAM = """
import asyncio, sys
from aiokafka.consumer.group_coordinator import GroupCoordinator
from streams.runtime import cli, faust_host, hot_path, probes

async def ending(self, stream):
    await asyncio.sleep(1)

{harm}
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("harm", HARMS)
def test_what_ends_unexpectedly_ends_the_process_with_a_status_that_says_so(
    begin: Begin, tmp_path: Path, harm: str
) -> None:
    program = tmp_path / "harmed.py"
    program.write_text(PROGRAM.format(harm=HARMS[harm]))
    worker = begin("join", "triage", program=program)
    assert worker.wait() == 70, worker.log.read_text()[-3000:]
    (ended,) = worker.lines("host.ended")
    assert ended["level"] == "critical"


def test_rows_in_partitions_that_are_not_their_ids_are_loud_at_once_and_not_ready_after_a_while(
    begin: Begin, kafka: str, topic_prefix: str
) -> None:
    worker = begin("join")
    worker.until_answers("/ready", 200)
    assert worker.total("tocsin_partitioner_mismatch_ratio") == 0
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(200):
        row = {
            "prediction_id": f"p{number}",
            "model": "fraud",
            "labelled_at_ms": time.time_ns() // 1_000_000,
            "label": 1,
        }
        producer.produce(topic_prefix + "labels", json.dumps(row), f"p{number}", 1)
    assert producer.flush(WAIT_S) == 0
    why = json.loads(worker.until_answers("/ready", 503))["why"]
    assert why[0].startswith("join: 7"), why  # three quarters of the ids belong elsewhere
    assert "rows of labels lie in another partition than their ids'" in why[0]
    assert worker.lines("join.partitioner_mismatch")[0]["level"] == "error"
    assert 0.6 < worker.total("tocsin_partitioner_mismatch_ratio", topic="labels") < 0.9
    assert worker.total("tocsin_partitioner_mismatch_ratio", topic="model-outputs") == 0
    assert worker.ask("/live")[0] == 200
    assert worker.end() == 0, worker.log.read_text()[-3000:]


def test_a_port_that_is_in_use_is_refused_before_anything_is_started(begin: Begin) -> None:
    first = begin("triage")
    second = begin("join", environ={"TOCSIN__PROBES__PORT": str(first.port)})
    assert second.wait() == Exit.SETTINGS
    assert "choose another probes.port, 0 for a free one" in second.log.read_text()
    assert not second.lines("join.assigned")
    third = begin("escalate")
    assert third.port != first.port
    third.until_answers("/live", 200)
