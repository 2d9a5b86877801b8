"""Producers of other people send outputs and labels as `docs/producers.md` says, and the join pairs them all."""

import json
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import murmur2

from config.load import load
from schemas.closed import Closed
from schemas.deployment import Deployment
from schemas.finding import Finding
from schemas.through import Through
from streams.runtime import kafka, specs, topics
from streams.runtime.cursor import headers_of
from streams.runtime.hashing import id_hashes
from streams.runtime.hot_path import HotPath
from streams.runtime.logs import parsed
from streams.runtime.reading import Reader
from streams.runtime.terminal import Exit
from streams.runtime.topics import partition_of
from streams.runtime.wiring import hot_path_settings
from tests.integration.conftest import LOCAL_KAFKA
from tests.integration.host_faults import read_all
from tests.integration.pages import DOCS, Example, examples
from tests.integration.worker_process import Worker, run_tocsin, until

WAIT_S = 60
ROWS = 300
MANY_ROWS = 3_000
"""So many that of those which are looked at for `Closed`, one in 64, enough lie wrong."""
SETTINGS = """
[kafka]
broker = "{broker}"

[join]
folder = "{folder}"
checkpoint = "200 ms"
allowed_disorder = "1 s"
idle_after = "2 s"

[policy.severities.4]
first_wait = "1 s"

[models.fraud]
kind = "classification"
"""
PAGE = examples("producers.md")


def of(heading: str, *, containing: str = "") -> list[Example]:
    """Return the examples below a heading."""
    found = [one for one in PAGE if one.heading == heading and containing in one.text]
    assert found, heading
    return found


class Joining:
    """A join in a thread of its own, and what it has counted."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.file = folder / "tocsin.toml"
        self.file.write_text(SETTINGS.format(broker=broker, folder=folder / "state"))
        settings = load(self.file, {}, {}, lambda _: ())
        assert topics.create(kafka.admin(settings.kafka), settings.kafka) == []
        self._path = HotPath(hot_path_settings(settings, clock="wall"))
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._path.run, args=(self._told.is_set,))
        self._thread.start()

    def counted(self, name: str) -> int:
        """Return one count, over all partitions."""
        status = self._path.status
        return status.counts.get(name, 0) + sum(one.get(name, 0) for one in status.partitions.values())

    def measured(self, name: str, *labels: str) -> float:
        """Return what `/metrics` says."""
        (found,) = [one.value for one in self._path.measures() if (one.name, one.labels) == (name, labels)]
        return float(found)

    def until(self, name: str, least: int) -> None:
        """Wait until a count has come so far."""
        for _ in range(WAIT_S * 10):
            if self.counted(name) >= least:
                return
            assert self._thread.is_alive()
            time.sleep(0.1)
        pytest.fail(f"{name}: {self.counted(name)} of {least}; {self._path.status}")

    def stop(self) -> None:
        self._told.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def join(whole_kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    joining = Joining(whole_kafka, tmp_path_factory.mktemp("join"))
    yield joining
    joining.stop()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a folder with Kafka's console producer, by the name under which Kafka ships it."""
    script = tmp_path / "bin" / "kafka-console-producer.sh"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} {LOCAL_KAFKA} java org.apache.kafka.tools.ConsoleProducer "$@"\n'
    )
    script.chmod(0o755)
    return str(script.parent)


def write(folder: Path, name: str, rows: Sequence[dict[str, object]]) -> None:
    lines = (f"{row['prediction_id']}\t{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / name).write_text("".join(lines), encoding="utf-8")


def write_rows(folder: Path, name: str, rows: int = ROWS) -> list[str]:
    """Write outputs and their labels into the files that the page names; return the ids."""
    now_ms = time.time_ns() // 1_000_000
    ids = [f"{name}-ü-{number}" for number in range(rows)]
    write(folder, "outputs.tsv", [
        {"prediction_id": one, "model": "fraud", "made_at_ms": now_ms, "prediction": 1, "score": 0.9} for one in ids
    ])  # fmt: skip
    write(folder, "labels.tsv", [
        {"prediction_id": one, "model": "fraud", "labelled_at_ms": now_ms, "label": 0} for one in ids
    ])  # fmt: skip
    return ids


def lines_of(heading: str, topic: str) -> Example:
    """Return the one command of an example that sends to a topic."""
    (example,) = of(heading, containing="-t model-outputs" if heading == "kcat" else "--topic model-outputs")
    (line,) = [line for line in example.text.splitlines() if f" {topic} " in line]
    return Example(heading, "sh", line)


def elsewhere(topic: str) -> Example:
    """Return the command of kcat that sends to a topic, with the partitioner that kcat has by itself."""
    right = lines_of("kcat", topic)
    wrong = Example("kcat", "sh", right.text.replace("-X partitioner=murmur2_random", ""))
    assert wrong.text != right.text
    return wrong


def said(broker: str, topic: str) -> list[Any]:
    """Return all records of a topic."""
    return [specs.decode(topic, one.key(), one.value(), headers_of(one.headers())) for one in read_all(broker, topic)]


def misplaced(broker: str) -> tuple[int, int]:
    """Return how many rows are said to lie wrong, and through which time every source partition has said so."""
    newest = {one.source_partition: one for one in said(broker, topics.WINDOW_STATS) if isinstance(one, Closed)}
    through_ms = [newest[source].through_ms if source in newest else 0 for source in range(4)]
    return sum(one.misplaced for one in newest.values()), min(through_ms)


def judged(broker: str) -> list[Through]:
    """Return the marks of detect on the partition that holds what it says of Tocsin itself."""
    found = [one for one in said(broker, topics.FINDINGS) if isinstance(one, Through)]
    return [one for one in found if one.partition == partition_of("tocsin", 4)]


def misplaced_by(broker: str, at_ms: int) -> int:
    """Wait until everything up to a time is closed, and return how many rows are said to lie wrong."""
    until(lambda: misplaced(broker)[1] > at_ms, why=lambda: misplaced(broker))
    return misplaced(broker)[0]


@pytest.mark.kafka
@pytest.mark.program("kcat")
@pytest.mark.parametrize(("outputs_by", "labels_by"), [("kcat", "Java"), ("Java", "kcat")])
def test_what_kcat_and_java_send_is_paired_row_by_row(
    join: Joining, whole_kafka: str, tmp_path: Path, path: str, outputs_by: str, labels_by: str
) -> None:
    before = {name: join.counted(name) for name in ("labelled", "dead_letters")}
    write_rows(tmp_path, outputs_by)
    lines_of(outputs_by, "model-outputs").run(whole_kafka, tmp_path, path)
    lines_of(labels_by, "labels").run(whole_kafka, tmp_path, path)
    join.until("labelled", before["labelled"] + ROWS)
    assert join.counted("labelled") == before["labelled"] + ROWS
    assert join.counted("dead_letters") == before["dead_letters"]
    assert join.counted("partitioner_mismatch_model-outputs") == 0
    assert join.counted("partitioner_mismatch_labels") == 0


@pytest.mark.kafka
@pytest.mark.program("kcat")
def test_the_two_rows_of_the_page_are_rows(join: Joining, whole_kafka: str, tmp_path: Path) -> None:
    before = {name: join.counted(name) for name in ("messages_model-outputs", "messages_labels", "dead_letters")}
    for example in of("kcat"):
        example.run(whole_kafka, tmp_path)
    join.until("messages_model-outputs", before["messages_model-outputs"] + 1)
    join.until("messages_labels", before["messages_labels"] + 1)
    assert join.counted("dead_letters") == before["dead_letters"]


@pytest.mark.kafka
@pytest.mark.program("kcat")
@pytest.mark.usefixtures("join")
def test_a_deployment_is_announced_as_the_page_of_records_says(whole_kafka: str, tmp_path: Path) -> None:
    (example,) = [one for one in examples("records.md") if one.language == "sh"]
    model = "churn"
    assert zlib.crc32(model.encode()) % 4 != partition_of(model, 4), (
        "librdkafka's own partitioner would place it elsewhere"
    )
    Example(example.heading, "sh", example.text.replace("fraud", model)).run(whole_kafka, tmp_path)
    with Reader(load(None, {"TOCSIN__KAFKA__BROKER": whole_kafka}, {}, lambda _: ()).kafka) as reader:
        [read] = reader.all(topics.DEPLOYMENTS)
    assert read.key == model.encode()
    assert read.partition == partition_of(model, 4), "detect and triage look for it there"
    assert Deployment.decode(read.value).version == "8"


@pytest.mark.kafka
@pytest.mark.parametrize("heading", ["Python", "Any client on librdkafka"])
def test_the_examples_in_python_send_an_output_and_its_label(join: Joining, whole_kafka: str, heading: str) -> None:
    before = join.counted("labelled")
    (example,) = of(heading)
    assert example.run(whole_kafka, join.file.parent) == "", "it complains of nothing"
    join.until("labelled", before + 1)
    assert join.counted("dead_letters") == 0
    assert join.counted("partitioner_mismatch_labels") == 0


@pytest.mark.kafka
@pytest.mark.program("kcat")
def test_another_partitioner_is_counted_and_loud_and_what_it_sent_is_mended_by_sending_again(
    join: Joining, whole_kafka: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = join.counted("labelled")
    ids = write_rows(tmp_path, "astray")
    lines_of("kcat", "model-outputs").run(whole_kafka, tmp_path)
    right, wrong = lines_of("kcat", "labels"), elsewhere("labels")
    wrong.run(whole_kafka, tmp_path)

    astray = [one for one in ids if zlib.crc32(one.encode()) % 4 != murmur2(one.encode(), 4)]
    join.until("labelled", before + ROWS - len(astray))
    join.until("partitioner_mismatch_labels", len(astray))
    assert join.counted("labelled") == before + ROWS - len(astray), "the others have met their outputs"
    assert join.counted("partitioner_mismatch_labels") == len(astray), "batches are so small that each row is looked at"
    assert join.counted("partitioner_mismatch_model-outputs") == 0
    assert join.counted("dead_letters") == 0, "they are not refused"
    error = parsed(next(record.message for record in caplog.records if record.levelname == "ERROR"))
    (documented,) = of("When a producer places rows elsewhere")
    counted = dict.fromkeys(("partition", "sampled", "mismatched"), "any")
    assert {"level": "error", "from": "tocsin.join"} | error | counted == json.loads(documented.text) | counted
    assert join.measured("tocsin_join_mismatched_rows_total", "labels") == len(astray)
    command = [str(Path(sys.executable).with_name("tocsin")), "status", "--config", str(join.file)]
    status = subprocess.run(command, check=False, capture_output=True, text=True)
    assert status.returncode == Exit.NOT_SO
    assert re.search(r"labels: \d+ of the newest \d+ rows lie in another partition", status.stdout + status.stderr)

    right.run(whole_kafka, tmp_path)
    join.until("labelled", before + ROWS)


@pytest.mark.kafka
@pytest.mark.program("kcat")
def test_rows_of_another_partitioner_become_one_finding_and_one_incident_with_its_ticket_however_many_come(
    join: Joining, whole_kafka: str, tmp_path: Path
) -> None:
    options = ["--config", str(join.file)]

    def incidents() -> list[dict[str, Any]]:
        listed = run_tocsin(options, "incidents", "list", "--all", "--json").stdout
        return [json.loads(line) for line in listed.splitlines()]

    made = run_tocsin(options, "topics", "create")
    assert made.returncode == Exit.DONE, made.stderr
    before = misplaced_by(whole_kafka, time.time_ns() // 1_000_000)
    worker = Worker(options, tmp_path / "worker.log", "detect", "triage", "escalate", "notify")
    try:
        ids = write_rows(tmp_path, "elsewhere", MANY_ROWS)
        elsewhere("labels").run(whole_kafka, tmp_path)
        until(incidents, why=worker.log.read_text)
        ids += write_rows(tmp_path, "still elsewhere", MANY_ROWS)
        elsewhere("labels").run(whole_kafka, tmp_path)
        sent_ms = time.time_ns() // 1_000_000
        hashes = id_hashes(["fraud"], np.zeros(len(ids), np.int32), ids).tolist()
        looked_at = [one for one, hashed in zip(ids, hashes, strict=True) if hashed % 64 == 0]
        astray = [one for one in looked_at if zlib.crc32(one.encode()) % 4 != murmur2(one.encode(), 4)]
        assert misplaced_by(whole_kafka, sent_ms) == before + len(astray) > 50
        until(lambda: any(one.through_ms > sent_ms for one in judged(whole_kafka)), why=worker.log.read_text)
        [incident] = incidents()
        until(
            lambda: (
                "ticket to team:platform by log"
                in run_tocsin(options, "incidents", "show", incident["display_id"]).stdout
            ),
            why=worker.log.read_text,
        )
    finally:
        status = worker.end()
    assert status == 0, worker.log.read_text()[-3000:]
    assert (incident["model"], incident["severity"], incident["status"]) == ("tocsin", 4, "Investigating")
    [finding] = [one for one in said(whole_kafka, topics.FINDINGS) if isinstance(one, Finding)]
    assert (finding.kind, finding.state, finding.ledger) == ("misplaced_rows", "firing", "ticket")


def test_the_table_of_hashes_is_that_of_the_partitioner() -> None:
    rows = re.findall(r"^\| `(.+)` \| (\d+) \| (\d+) \| (\d+) \|$", (DOCS / "producers.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    for key, *told in rows:
        assert [murmur2(key.encode(), n) for n in (2**31 - 1, 4, 12)] == list(map(int, told)), key
