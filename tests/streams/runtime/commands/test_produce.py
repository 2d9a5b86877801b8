"""Rows from a file to the topics: each where it belongs, in its time, by itself or with others."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition, murmur2
from confluent_kafka.admin import AdminClient
from msgspec import UNSET

from schemas.closed import Closed
from schemas.label import Label
from schemas.output import Output
from streams.runtime.commands.produce import MOST_SLEEP_S, Sent, event_ms, in_time, shifted
from streams.runtime.producer import NotAcknowledgedError, Rows
from streams.runtime.row_files import Row
from streams.runtime.terminal import Exit

Tocsin = Callable[..., tuple[int, str, str]]
Put = Callable[[str, bytes | None, bytes | None, int], None]
BEGINS_MS = 1_764_064_800_000
ROWS = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("produce") / "rows.ndjson"
    with path.open("w") as lines:
        for n in range(ROWS):
            row = {
                "prediction_id": f"p{n}",
                "model": "m",
                "made_at_ms": BEGINS_MS + n * 1000,
                "prediction": n % 2,
                "features": {"age": n} if n % 3 else {"age": None, "kind": "x"},
                "label": 1,
                "labelled_at_ms": BEGINS_MS + n * 1000 + 2500,
            }
            lines.write(json.dumps(row) + "\n")
    return path


def written(broker: str, topic: str) -> list[tuple[int, bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "looker", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
    found, ends = [], 0
    while ends < 4:
        message = consumer.poll(5)
        assert message is not None
        if message.error() is not None:
            ends += 1
        else:
            found.append((message.partition() or 0, message.key() or b"", message.value() or b""))
    consumer.close()
    return found


def columns(value: bytes) -> dict[str, Any]:
    """Read a message of many rows; one that was left alone travels as itself."""
    message: dict[str, Any] = json.loads(value)
    if "columns" in message:
        return message
    features = {f"features.{name}": [one] for name, one in message.pop("features", {}).items()}
    return {"rows": 1, "columns": {name: [one] for name, one in message.items()} | features}


def test_each_row_goes_where_its_id_says_whether_alone_or_with_others(tocsin: Tocsin, broker: str, file: Path) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    for prefix in ("one.", "many."):
        for topic in ("model-outputs", "labels"):
            admin.list_topics(prefix + topic, timeout=10)  # which brings it into being
    status, out, _ = tocsin("produce", str(file), "--json", "--topic-prefix", "one.")
    assert (status, json.loads(out)["messages"]) == (Exit.DONE, 2 * ROWS)
    for partition, key, value in written(broker, "one.model-outputs") + written(broker, "one.labels"):
        assert json.loads(value)["prediction_id"] == key.decode()
        assert partition == murmur2(key, 4)

    assert tocsin("produce", str(file), "--rows", "7", "--topic-prefix", "many.")[0] == Exit.DONE
    rows = 0
    for partition, key, value in written(broker, "many.model-outputs"):
        message = columns(value)
        ids = message["columns"]["prediction_id"]
        assert key.decode() == ids[0]
        assert {murmur2(one.encode(), 4) for one in ids} == {partition}
        assert {len(column) for column in message["columns"].values()} == {message["rows"]}
        assert message["rows"] <= 7
        rows += message["rows"]
    assert rows == ROWS


def test_rows_of_one_message_have_the_same_features_so_that_null_stays_null(broker: str) -> None:
    shapes = {
        tuple(name for name in columns(value)["columns"] if name.startswith("features."))
        for _, _, value in written(broker, "many.model-outputs")
    }
    assert shapes == {("features.age",), ("features.age", "features.kind")}


def rows(*fields: dict[str, object]) -> list[Row]:
    return [Row(place, one) for place, one in enumerate(fields, start=1)]


def output(name: str, made_at_ms: int, **more: object) -> dict[str, object]:
    return {"prediction_id": name, "model": "m", "made_at_ms": made_at_ms, "prediction": 1, **more}


def test_a_label_beside_its_output_waits_for_its_own_time() -> None:
    #  0   10   20   30
    #  A---B----C
    #  a......a |      a's label at 15: after B, before C;  c's at 99: at the end
    given = rows(
        output("a", 0, label=1, labelled_at_ms=15, version="2015"),
        output("b", 10),
        output("c", 20, label=0, labelled_at_ms=99),
    )
    sent = [(type(record).__name__, record.prediction_id) for record in in_time(given, Sent(), "rows")]
    assert sent == [("Output", "a"), ("Output", "b"), ("Label", "a"), ("Output", "c"), ("Label", "c")]


def test_what_cannot_be_read_is_named_with_its_line_and_the_rest_is_sent(tocsin: Tocsin, tmp_path: Path) -> None:
    lines = [json.dumps(output(f"a{n}", 1)) for n in range(2_000)]
    lines[1] = json.dumps(output("b", 2, score=7))
    lines[2] = '{"label":1}'
    lines[700] = json.dumps(output("c", 3, features={"age": float("nan")}))
    lines[900] = json.dumps({"prediction_id": "d", "model": "m", "made_at_ms": 4, "score": 0.5})
    lines[1000] = "no JSON"
    lines[1100] = json.dumps(output("e", 5, text="x" * 900_000))
    file = tmp_path / "rows.ndjson"
    file.write_text("\n".join(lines) + "\n")
    status, out, err = tocsin("produce", str(file))
    assert status == Exit.DATA
    assert out == "sent 1,994 outputs and 0 labels in 1,994 messages\n"
    for said in (
        "rows.ndjson:2: output.score: expected a number of at most 1.0, got 7",
        "rows.ndjson:3: label.prediction_id",
        "rows.ndjson:701: row.features.age: expected a finite number",
        "rows.ndjson:901: output.prediction: expected a value (the field is required), got nothing",
        "rows.ndjson:1001: row: expected a JSON object on one line",
        "rows.ndjson:1101: output: expected at most 800000 bytes of JSON",
        "rows that are no outputs or labels, and were left out: 6",
    ):
        assert said in err


def test_rows_that_will_disappoint_are_sent_and_said_once_each(
    tocsin: Tocsin, put: Put, broker: str, tmp_path: Path
) -> None:
    now_ms = time.time_ns() // 1_000_000
    for topic in ("model-outputs", "labels", "window-stats"):
        AdminClient({"bootstrap.servers": broker}).list_topics("doubts." + topic, timeout=10)
    for partition in range(4):
        mark = Closed(source_partition=partition, source_partitions=4, through_ms=now_ms - 60_000, cause="idle")
        put("doubts.window-stats", None, mark.encode(), 0)
    settings = tmp_path / "tocsin.toml"
    settings.write_text(
        '[models.m]\nkind = "classification"\nfeatures = { age = "numeric" }\nrequired = ["age"]\nlabel_wait = "1 h"\n'
    )
    fine = {"features": {"age": 7}}
    given = [
        output("a", now_ms, **fine),
        output("b", now_ms - 120_000, **fine),
        output("c", now_ms - 7_200_000, **fine),
        output("d", now_ms, features={"age": None}),
        output("e", now_ms) | {"model": "n"},
        {"prediction_id": "a", "model": "m", "labelled_at_ms": now_ms + 900_000, "label": 1},
    ]
    file = tmp_path / "rows.ndjson"
    file.write_text("\n".join(map(json.dumps, given)))
    status, out, err = tocsin("produce", str(file), "--config", str(settings), "--json", "--topic-prefix", "doubts.")
    assert status == Exit.DONE
    assert json.loads(out) == {
        "outputs": 5,
        "labels": 1,
        "messages": 6,
        "refused": 0,
        "late": 2,
        "overdue": 1,
        "future": 1,
        "unlisted": {"n": 1},
        "lacking": 1,
    }
    assert [line.partition(":")[0] for line in err.splitlines()] == ["beware"] * 5
    for said in (
        "expire without a label",
        "first open tick",
        "dead-letters",
        '[models."n"]',
        "without the feature age",
    ):
        assert said in err


def test_who_interrupts_it_is_told_what_was_sent_until_then(
    tocsin: Tocsin, file: Path, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    for topic in ("model-outputs", "labels"):
        AdminClient({"bootstrap.servers": broker}).list_topics("interrupted." + topic, timeout=10)
    monkeypatch.setattr("streams.runtime.commands.produce.time.sleep", interrupt)
    status, out, err = tocsin("produce", str(file), "--rate", "0.001", "--topic-prefix", "interrupted.")
    assert (status, out) == (Exit.INTERRUPTED, "")
    assert "sent until then: 1 output and 0 labels" in err
    assert len(written(broker, "interrupted.model-outputs")) == 1


def test_a_fifo_is_sent_to_its_last_row_and_refused_where_it_would_be_read_twice(
    tocsin: Tocsin, file: Path, tmp_path: Path
) -> None:
    for moved in ("--start-now", "--end-now"):
        status, out, err = tocsin("produce", "/dev/null", moved)
        assert (status, out) == (Exit.USAGE, "")
        assert "/dev/null can be read only once, and --start-now and --end-now read what they send twice" in err
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(file.read_bytes(),), daemon=True)
    writer.start()
    status, out, _ = tocsin("produce", str(fifo))
    assert (status, out) == (Exit.DONE, f"sent {ROWS} outputs and {ROWS} labels in {2 * ROWS} messages\n")


def test_a_wait_of_centuries_is_waited_in_parts(
    tocsin: Tocsin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("streams.runtime.commands.produce.time.sleep", wait)
    file = tmp_path / "rows.ndjson"
    file.write_text("\n".join(json.dumps(output(f"s{years}", BEGINS_MS + years * 31_536_000_000)) for years in (0, 1)))
    assert tocsin("produce", str(file), "--speed", "0.000001")[0] == Exit.INTERRUPTED
    assert waits == [MOST_SLEEP_S] * 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "it is safe to run the command again"),
        (("--start-now",), "run again, the command moves all times anew"),
        (("--end-now",), "run again, the command moves all times anew"),
    ],
)
def test_it_is_safe_to_send_again_only_where_times_stand(
    tocsin: Tocsin, file: Path, more: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Rows, row: Output | Label) -> None:
        raise NotAcknowledgedError([row], "no answer in 5 s")

    monkeypatch.setattr(Rows, "send", refused)
    status, out, err = tocsin("produce", str(file), *more)
    assert (status, out) == (Exit.BROKER, "")
    assert f"1 row not acknowledged: no answer in 5 s; {said}" in err
    assert ("safe" in err) == (not more)


def test_topics_that_are_not_there_are_to_be_made_first(tocsin: Tocsin, file: Path) -> None:
    status, out, err = tocsin("produce", str(file), "--topic-prefix", "not-there.")
    assert (status, out) == (Exit.NOT_SO, "")
    assert "`tocsin topics create`" in err


def test_all_times_are_moved_by_the_same() -> None:
    given: list[Output | Label] = [
        Output(prediction_id="a", model="m", made_at_ms=100, prediction=1),
        Label(prediction_id="a", model="m", labelled_at_ms=160, label=1, made_at_ms=100),
        Label(prediction_id="b", model="m", labelled_at_ms=170, label=1),
    ]
    moved = list(shifted(given, 4_900))
    assert [event_ms(record) for record in moved] == [5_000, 5_060, 5_070]
    labels = [record for record in moved if isinstance(record, Label)]
    assert [label.made_at_ms for label in labels] == [5_000, UNSET]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rate", "0"), "a number of at least 0.000001"),
        (("--rate", "x"), "a number of at least 0.000001"),
        (("--speed", "inf"), "a number of at least 0.000001"),
        (("--speed", "1e-300"), "a number of at least 0.000001"),
        (("--rows", "0"), "a whole number from 1 to 10000"),
        (("--rate", "1", "--speed", "1"), "not allowed with"),
    ],
)
def test_a_pace_that_cannot_be_meant_is_usage_and_says_what_is_expected(
    tocsin: Tocsin, file: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tocsin("produce", str(file), *more)
    assert ended.value.code == Exit.USAGE
    assert said in capsys.readouterr().err


def test_partition_counts_that_differ_from_the_settings_are_refused_before_anything_is_sent(
    tocsin: Tocsin, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN__KAFKA__INPUT_PARTITIONS", "6")
    status, out, err = tocsin("produce", str(file))
    assert (status, out) == (Exit.NOT_SO, "")
    assert "4 partitions, the settings say 6" in err


def test_the_newest_row_happens_now_and_no_row_of_the_future_is_made(tocsin: Tocsin, file: Path, broker: str) -> None:
    before_ms = time.time_ns() // 1_000_000
    assert tocsin("produce", str(file), "--end-now")[0] == Exit.DONE
    newest_ms = max(json.loads(value).get("labelled_at_ms", 0) for _, _, value in written(broker, "labels"))
    assert before_ms <= newest_ms <= time.time_ns() // 1_000_000
    status, _, err = tocsin("produce", str(file), "--start-now", "--speed", "60")
    assert (status, "future" in err) == (Exit.USAGE, True)


def test_outputs_and_labels_of_two_files_are_moved_by_the_same_and_sent_in_their_order(
    tocsin: Tocsin, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  outputs  a.....b.....c                 labels  .....a.....b.....c
    #           0     10    20                             5      15     25: now
    for topic in ("two.model-outputs", "two.labels", "first.model-outputs", "first.labels"):
        AdminClient({"bootstrap.servers": broker}).list_topics(topic, timeout=10)
    outputs, labels = tmp_path / "outputs.ndjson", tmp_path / "labels.ndjson"
    names = ("a", "b", "c")
    made = [output(name, BEGINS_MS + 10_000 * at) for at, name in enumerate(names)]
    outputs.write_text("\n".join(map(json.dumps, made)))
    learned = [
        {"prediction_id": name, "model": "m", "label": 1, "labelled_at_ms": BEGINS_MS + 10_000 * at + 5_000}
        for at, name in enumerate(names)
    ]
    labels.write_text("\n".join(map(json.dumps, [*learned, {"label": 1}])))
    sent: list[str] = []
    send = Rows.send

    def noted(rows: Rows, record: Output | Label) -> None:
        sent.append(f"{type(record).__name__} {record.prediction_id}")
        send(rows, record)

    monkeypatch.setattr(Rows, "send", noted)
    before_ms = time.time_ns() // 1_000_000
    status, out, err = tocsin("produce", str(labels), str(outputs), "--end-now", "--topic-prefix", "two.")
    assert (status, out) == (Exit.DATA, "sent 3 outputs and 3 labels in 6 messages\n")
    assert "labels.ndjson:4: label.prediction_id" in err
    assert sent == ["Output a", "Label a", "Output b", "Label b", "Output c", "Label c"]
    found = [
        json.loads(value) for topic in ("model-outputs", "labels") for _, _, value in written(broker, "two." + topic)
    ]
    times = {(one["prediction_id"], "label" in one): one.get("labelled_at_ms", one.get("made_at_ms")) for one in found}
    for at, name in enumerate(names):
        assert times[name, False] - times["a", False] == 10_000 * at
        assert times[name, True] - times[name, False] == 5_000
    assert before_ms <= times["c", True] <= time.time_ns() // 1_000_000

    assert tocsin("produce", str(labels), str(outputs), "--start-now", "--topic-prefix", "first.")[0] == Exit.DATA
    first_ms = min(json.loads(value)["made_at_ms"] for _, _, value in written(broker, "first.model-outputs"))
    assert before_ms <= first_ms <= time.time_ns() // 1_000_000
