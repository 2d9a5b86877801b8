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

import pytest
from confluent_kafka import murmur2

from config.load import load
from streams.runtime import kafka, topics
from streams.runtime.hot_path import HotPath
from streams.runtime.logs import parsed
from streams.runtime.terminal import Exit
from streams.runtime.wiring import hot_path_settings
from tests.integration.conftest import LOCAL_KAFKA
from tests.integration.pages import DOCS, Example, examples

WAIT_S = 60
ROWS = 300
SETTINGS = """
[kafka]
broker = "{broker}"

[join]
folder = "{folder}"
checkpoint = "200 ms"

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


def write_rows(folder: Path, name: str) -> list[str]:
    """Write outputs and their labels into the files that the page names; return the ids."""
    now_ms = time.time_ns() // 1_000_000
    ids = [f"{name}-ü-{number}" for number in range(ROWS)]
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
    right = lines_of("kcat", "labels")
    wrong = Example("kcat", "sh", right.text.replace("-X partitioner=murmur2_random", ""))
    assert wrong.text != right.text
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


def test_the_table_of_hashes_is_that_of_the_partitioner() -> None:
    rows = re.findall(r"^\| `(.+)` \| (\d+) \| (\d+) \| (\d+) \|$", (DOCS / "producers.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    for key, *told in rows:
        assert [murmur2(key.encode(), n) for n in (2**31 - 1, 4, 12)] == list(map(int, told)), key
