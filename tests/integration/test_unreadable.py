"""A batch that cannot be read is one dead letter for the join, stepped over; the rows behind it count. On a real Kafka.

A small stage ends there, and says where it is and what to do.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from config.settings import KafkaSettings
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.cli import run
from streams.runtime.faust_host import EXIT_STATUS
from streams.runtime.terminal import Exit
from tests.integration.conftest import a_kafka
from tests.integration.join_process import cluster_of
from tests.integration.test_made_anew import Response
from tests.integration.worker_process import until
from tests.streams.runtime.join_world import World, hot_path_settings
from tests.streams.runtime.test_hot_path import Inputs, Worker, letters, row

WAIT_S = 60
BOMB = b"0" * (110 << 20)
"""A few KB as zstd; more than a client agrees to decompress."""
PARTITION = 2

pytestmark = pytest.mark.kafka


def created(address: str, prefix: str) -> KafkaSettings:
    settings = cluster_of(address, prefix)
    assert topics.create(clients.admin(settings), settings) == []
    return settings


@pytest.fixture
def cluster(kafka: str, topic_prefix: str) -> KafkaSettings:
    return created(kafka, topic_prefix)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[KafkaSettings], Worker]]:
    begun: list[Worker] = []

    def start(cluster: KafkaSettings) -> Worker:
        begun.append(Worker(hot_path_settings(cluster, tmp_path / str(len(begun)), clock="wall")))
        return begun[-1]

    yield start
    for one in begun:
        one._told.set()  # noqa: SLF001
        one.join()


def write_batch(cluster: KafkaSettings, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Write values as one batch, however long it takes to hand them over: `flush` does not wait for the linger."""
    others: dict[str, Any] = {
        "compression.type": codec,
        "message.max.bytes": 1_000_000_000,
        "batch.size": 1_000_000_000,
        "linger.ms": 25_000,
    }
    producer: Producer = clients.producer(cluster, "bomb", None, **others)
    for value in values:
        producer.produce(cluster.topic_prefix + topic, value, b"p", PARTITION)
    assert producer.flush(WAIT_S) == 0


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    now_ms = time.time_ns() // 1_000_000
    return [row(f"{name}-{number}", now_ms) for number in range(count)]


def labels_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prediction_id": one["prediction_id"],
            "model": one["model"],
            "labelled_at_ms": one["made_at_ms"],
            "label": 1,
        }
        for one in rows
    ]


def commands(cluster: KafkaSettings, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = run([*words, "--json", "--broker", cluster.broker, "--topic-prefix", cluster.topic_prefix])
    said = capsys.readouterr()
    return status, said.out, said.err


def see_that_commands_step_over(
    cluster: KafkaSettings, capsys: pytest.CaptureFixture[str], topic: str, batches: Sequence[tuple[int, int]]
) -> None:
    """Replay sends nothing of the batches, and a row from elsewhere; `topics check` and `status` count them."""
    refusal = MalformedRecordError("output", "score", "a number", "a text")
    of: dict[str, Any] = {"topic": topic, "partition": PARTITION}
    elsewhere = json.dumps(row("elsewhere", time.time_ns() // 1_000_000)).encode()
    producer: Producer = clients.producer(cluster, "letter")
    for letter in (
        DeadLetter.of(
            refusal, offset=batches[0][0], row=0, key=None, value=None, **of
        ),  # its bytes are in the log alone
        DeadLetter.of(refusal, offset=1_000, key=b"elsewhere", value=elsewhere, **of),
    ):
        routed = topics.route(letter, cluster.output_partitions)
        producer.produce(cluster.topic_prefix + routed.topic, routed.value, routed.key, routed.partition or 0)
    assert producer.flush(WAIT_S) == 0
    status, out, err = commands(cluster, capsys, "dead-letters", "replay")
    assert status == Exit.DONE, err
    assert json.loads(out) == {"sent": 1, "passed_over": {"could not be read": len(batches) + 1}}
    for words in (["topics", "check"], ["status"]):
        status, out, err = commands(cluster, capsys, *words)
        assert status == Exit.NOT_SO
        assert f"{len(batches)} of the newest batches cannot be read" in out
        for _, last in batches:
            assert f" to {last} cannot be read" in err


@pytest.mark.parametrize("topic", [topics.OUTPUTS, topics.LABELS])
def test_a_batch_that_cannot_be_decompressed_is_one_dead_letter_and_the_rows_behind_it_count(
    cluster: KafkaSettings,
    begin: Callable[[KafkaSettings], Worker],
    topic: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    #  3 rows | 9 records of one batch, one of which is a bomb | another | 20 rows
    inputs = Inputs(cluster)
    before, after = rows_of("before", 3), rows_of("after", 20)
    inputs.write(topics.OUTPUTS, before, PARTITION)
    inputs.write(topics.LABELS, labels_of(before), PARTITION)
    write_batch(cluster, topic, [b"{}"] * 6 + [BOMB] + [b"{}"] * 2, "zstd")
    write_batch(cluster, topic, [BOMB], "zstd")
    inputs.write(topics.OUTPUTS, after, PARTITION)
    inputs.write(topics.LABELS, labels_of(after), PARTITION)
    worker = begin(cluster)
    first, second = letters(World(cluster, seed=0), 2)
    worker.until(lambda: worker.hot_path.status.partitions.get(PARTITION, {}).get("labelled") == 23)
    assert (first.topic, first.partition, first.offset, first.row) == (topic, PARTITION, 3, -1)
    assert (second.offset, second.value, second.is_whole) == (12, None, False)
    assert first.complaint.endswith("expected a batch that can be read, got BAD_COMPRESSION from there to offset 11")
    seen = worker.hot_path.status.partitions[PARTITION]
    assert seen["dead_output" if topic == topics.OUTPUTS else "dead_label"] == 2
    assert seen["conservation_error"] == 0
    worker.stop()
    again = begin(cluster)
    again.until(lambda: PARTITION in again.hot_path.status.partitions)
    again.stop()
    assert again.hot_path.counts["dead_letters"] == 0, "it is read once"
    see_that_commands_step_over(cluster, capsys, topic, [(3, 11), (12, 12)])


def test_a_batch_whose_bytes_changed_on_the_brokers_disk_is_one_dead_letter(
    tmp_path: Path,
    topic_prefix: str,
    begin: Callable[[KafkaSettings], Worker],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with a_kafka("--heap-mb=512", "--data", str(tmp_path / "kafka")) as address:
        cluster = created(address, topic_prefix)
        inputs = Inputs(cluster)
        inputs.write(topics.OUTPUTS, rows_of("before", 3), PARTITION)
        write_batch(cluster, topics.OUTPUTS, [b"to be changed"] * 5, "none")
        inputs.write(topics.OUTPUTS, rows_of("after", 20), PARTITION)
        [log] = (tmp_path / "kafka").glob(f"**/{topic_prefix}{topics.OUTPUTS}-{PARTITION}/*.log")
        with log.open("r+b") as disk:
            at = disk.read().index(b"to be changed")
            disk.seek(at)
            disk.write(b"X")
        worker = begin(cluster)
        [letter] = letters(World(cluster, seed=0), 1)
        worker.until(lambda: worker.hot_path.status.partitions.get(PARTITION, {}).get("output_rows") == 24)
        assert (letter.topic, letter.partition, letter.offset) == (topics.OUTPUTS, PARTITION, 3)
        assert letter.complaint.endswith("expected a batch that can be read, got BAD_MSG from there to offset 7")
        assert worker.hot_path.status.partitions[PARTITION]["dead_output"] == 1
        worker.stop()
        see_that_commands_step_over(cluster, capsys, topics.OUTPUTS, [(3, 7)])


def test_a_small_stage_ends_at_a_batch_whose_bytes_changed_and_says_where_and_goes_on_behind_it(
    tmp_path: Path, topic_prefix: str
) -> None:
    #  3 findings | 5 in a batch that changes | the worker ends | deleted up to there | the worker goes on
    with a_kafka("--heap-mb=512", "--data", str(tmp_path / "kafka")) as address:
        response = Response(cluster_of(address, topic_prefix), tmp_path)
        response.worker.end()
        write_batch(response.cluster, topics.FINDINGS, [b"no finding"] * 3, "none")
        write_batch(response.cluster, topics.FINDINGS, [b"to be changed"] * 5, "none")
        [log] = (tmp_path / "kafka").glob(f"**/{topic_prefix}{topics.FINDINGS}-{PARTITION}/*.log")
        with log.open("r+b") as disk:
            at = disk.read().index(b"to be changed")
            disk.seek(at)
            disk.write(b"X")
        response.begin_again()
        assert response.worker.wait() == EXIT_STATUS
        [ended] = response.worker.lines("host.ended")
        place = (ended["reason"], ended["topic"], ended["partition"], ended["first"], ended["last"])
        assert place == ("unreadable_batch", f"{topic_prefix}{topics.FINDINGS}", str(PARTITION), "3", "7")
        assert "kafka-delete-records with offset 8" in ended["error"]
        before = TopicPartition(f"{topic_prefix}{topics.FINDINGS}", PARTITION, 8)
        admin = clients.admin(response.cluster)
        admin.delete_records([before])[before].result(WAIT_S)
        response.begin_again()
        try:
            write_batch(response.cluster, topics.FINDINGS, [b"no finding"], "none")
            until(lambda: any(one["offset"] == 8 for one in response.worker.lines("record.refused")), WAIT_S)
        finally:
            response.worker.kill()
