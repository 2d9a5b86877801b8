"""Dead letters from a terminal: counted by what is wrong, and shown without what may be personal."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from msgspec import structs

from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from streams.runtime import kafka, topics
from streams.runtime.cursor import headers_of
from streams.runtime.terminal import Exit
from tests.streams.runtime.test_topics import settings as settings_of_tests

Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def written(put: Put) -> None:
    for offset in range(3):
        error = MalformedRecordError("output", "score", "float <= 1.0", f"{offset}.5")
        letter = DeadLetter.of(
            error, topic="model-outputs", partition=1, offset=offset, key=b"p", value=b'{"who":"Ann"}'
        )
        put("dead-letters", None, letter.encode(), 1)
    error = MalformedRecordError("label", "", "a JSON object", "no value")
    letter = DeadLetter.of(error, topic="labels", partition=0, offset=9, key=None, value=None, row=4)
    put("dead-letters", None, letter.encode(), 0)


def test_they_are_counted_by_what_is_wrong_whatever_came_the_most_frequent_first(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("dead-letters", "list", "--json")
    assert status == Exit.DONE
    assert [tuple(json.loads(line).values()) for line in out.splitlines()] == [
        (3, "model-outputs", "output", "score", "float <= 1.0", "2.5"),
        (1, "labels", "label", "", "a JSON object", "no value"),
    ]
    assert len(tocsin("dead-letters", "list")[1].splitlines()) == 3


def test_each_is_shown_with_its_place_and_reason(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("dead-letters", "list", "--each", "--topic", "labels")
    assert out == "labels[0]@9 row 4  label: expected a JSON object, got no value\n"


def test_a_topic_that_nobody_reads_is_usage_and_the_others_are_named(tocsin: Tocsin) -> None:
    status, out, err = tocsin("dead-letters", "list", "--topic", "nosuch")
    assert (status, out) == (Exit.USAGE, "")
    assert "nosuch: no topic of that name is read; there are " in err
    assert "model-outputs" in err


def test_nothing_of_that_kind_is_no_fault(tocsin: Tocsin) -> None:
    status, out, err = tocsin("dead-letters", "list", "--topic", "findings")
    assert (status, out, err) == (Exit.DONE, "", "nothing of that was refused\n")


@pytest.mark.parametrize("last", ["0", "-1", "x"])
def test_a_count_that_cannot_be_meant_is_usage_and_says_what_is_expected(
    tocsin: Tocsin, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tocsin("dead-letters", "list", "--last", last)
    assert ended.value.code == Exit.USAGE
    assert "a whole number above 0" in capsys.readouterr().err


def test_bytes_are_shown_only_when_asked_for(tocsin: Tocsin) -> None:
    for more in ((), ("--json",)):
        assert "Ann" not in tocsin("dead-letters", "list", "--each", *more)[1]
    assert "Ann" in tocsin("dead-letters", "list", "--each", "--bytes")[1]


def test_only_the_last_of_each_partition_are_looked_at(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("dead-letters", "list", "--json", "--last", "1")
    assert sorted(json.loads(line)["count"] for line in out.splitlines()) == [1, 1]


def test_what_is_no_dead_letter_is_named_and_passed_over(tocsin: Tocsin, put: Put) -> None:
    put("dead-letters", None, b"{", 3)
    status, _, err = tocsin("dead-letters", "list")
    assert (status, "dead-letters[3]@0" in err) == (Exit.DONE, True)


# ---- replay, each time on topics of its own


@pytest.fixture
def prefix() -> str:
    return f"r{uuid.uuid4().hex[:8]}."


class Refused:
    """Writes dead letters, and reads what was sent again."""

    def __init__(self, broker: str, prefix: str) -> None:
        self._prefix = prefix
        self._cluster = replace(settings_of_tests(broker), topic_prefix=prefix)
        self._producer = Producer({"bootstrap.servers": broker})

    def put(self, *letters: DeadLetter) -> None:
        for letter in letters:
            routed = topics.route(letter, 4)
            assert routed.partition is not None
            self._producer.produce(self._prefix + routed.topic, routed.value, routed.key, routed.partition)
        assert self._producer.flush(10) == 0

    def original(self, topic: str, key: bytes, value: bytes, partition: int) -> None:
        self._producer.produce(self._prefix + topic, value, key, partition)
        assert self._producer.flush(10) == 0

    def sent(self, topic: str) -> list[tuple[int, bytes | None, bytes | None, dict[str, bytes]]]:
        consumer = kafka.consumer(self._cluster, "test", "test", None)
        found = []
        for partition in range(4):
            place = TopicPartition(self._prefix + topic, partition)
            low, high = consumer.get_watermark_offsets(place, timeout=10)
            place.offset = low
            consumer.assign([place])
            while low < high:
                for message in consumer.consume(100, 0.1):
                    low = (message.offset() or 0) + 1
                    found.append((partition, message.key(), message.value(), dict(headers_of(message.headers()))))
        consumer.close()
        return found


@pytest.fixture
def refused(broker: str, prefix: str) -> Refused:
    client = kafka.admin(settings_of_tests(broker))
    for name in ("labels", "model-outputs", "dead-letters"):
        client.list_topics(prefix + name, timeout=10)  # it comes into being when it is asked for
    return Refused(broker, prefix)


@pytest.fixture
def replay(tocsin: Tocsin, prefix: str) -> Callable[..., dict[str, Any]]:
    def call(*words: str) -> dict[str, Any]:
        status, out, _ = tocsin("dead-letters", "replay", "--json", "--topic-prefix", prefix, *words)
        assert status == Exit.DONE
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    return call


def refusal(offset: int, value: bytes | None, **others: Any) -> DeadLetter:  # noqa: ANN401 -- any field
    error = MalformedRecordError("output", others.pop("field", "prediction"), "a number", "a text of 1 character")
    said: dict[str, Any] = {"topic": "model-outputs", "partition": 1, "key": b"p1"}
    letter = DeadLetter.of(error, offset=offset, value=value, **said | others)
    return structs.replace(letter, recorded_at_ms=1)


def row(model: str) -> bytes:
    return json.dumps({"prediction_id": "p1", "model": model}).encode()


def test_a_record_is_sent_again_with_its_bytes_key_and_partition_and_says_which_attempt_it_is(
    refused: Refused, replay: Callable[..., dict[str, Any]]
) -> None:
    refused.put(refusal(7, b"\xff not JSON"), refusal(8, b"{}", topic="labels", partition=3, key=None, row=2))
    assert replay() == {"sent": 2, "passed_over": {}}
    headers = {"tocsin-attempt": b"2", "tocsin-first-refused-at": b"model-outputs/1/7/-1"}
    assert refused.sent("model-outputs") == [(1, b"p1", b"\xff not JSON", headers)]
    assert refused.sent("labels") == [(3, None, b"{}", headers | {"tocsin-first-refused-at": b"labels/3/8/2"})]


def test_it_is_safe_to_repeat(refused: Refused, replay: Callable[..., dict[str, Any]]) -> None:
    refused.put(*[refusal(offset, row("m")) for offset in range(5)])
    assert replay()["sent"] == 5
    for _ in range(2):
        assert replay() == {"sent": 0, "passed_over": {"sent again before, and not refused since": 5}}
    assert len(refused.sent("model-outputs")) == 5


def test_what_is_refused_again_is_sent_again_until_its_attempts_are_used_up(
    refused: Refused, replay: Callable[..., dict[str, Any]]
) -> None:
    for attempt in range(1, 5):
        origin = "model-outputs/1/7/-1" if attempt > 1 else ""
        refused.put(structs.replace(refusal(6 + attempt, row("m")), attempt=attempt, origin=origin))
        assert replay()["sent"] == (attempt < 4)
    assert replay() == {"sent": 0, "passed_over": {"refused 4 times": 1}}
    assert [headers["tocsin-attempt"] for *_, headers in refused.sent("model-outputs")] == [b"2", b"3", b"4"]


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    refused: Refused, tocsin: Tocsin, prefix: str, replay: Callable[..., dict[str, Any]]
) -> None:
    refused.put(refusal(7, row("m"), row=4), refusal(8, None))
    status, out, _ = tocsin("dead-letters", "replay", "--dry-run", "--topic-prefix", prefix)
    assert (status, out.splitlines()) == (
        Exit.DONE,
        [
            "model-outputs[1]@7 row 4  as attempt 2; refused for output.prediction: a text of 1 character",
            "would send 1 record again",
            "passed over 1: without a value, or gone from its topic",
        ],
    )
    assert refused.sent("model-outputs") == []
    assert replay()["sent"] == 1


@pytest.mark.parametrize(
    ("words", "offsets"),
    [
        (["--model", "price"], [1]),
        (["--field", "score"], [2]),
        (["--topic", "labels"], [4]),
        (["--topic", "model-outputs", "--model", "fraud", "--field", "prediction"], [0]),
        (["--since", "1 h"], [0, 1, 2, 3, 4]),
        (["--since", "2100-01-01T00:00:00Z"], []),
    ],
)
def test_only_what_is_asked_for_is_sent(
    refused: Refused, replay: Callable[..., dict[str, Any]], words: list[str], offsets: list[int]
) -> None:
    refused.put(
        refusal(0, row("fraud")),
        refusal(1, row("price")),
        refusal(2, row("fraud"), field="score"),
        refusal(3, b"\xff"),
        refusal(4, b"?", topic="labels"),
    )
    assert replay(*words)["sent"] == len(offsets)
    sent = [*refused.sent("model-outputs"), *refused.sent("labels")]
    assert sorted(headers["tocsin-first-refused-at"].split(b"/")[2] for *_, headers in sent) == [
        str(offset).encode() for offset in offsets
    ]


def test_what_a_letter_could_not_hold_is_read_where_it_was_refused(
    refused: Refused, replay: Callable[..., dict[str, Any]]
) -> None:
    """A row of more than 64 KB, and a label that waited too long, of which only the place was known."""
    rows = [{"prediction_id": f"p{number}", "model": "m", "text": "x" * 70_000} for number in range(2)]
    refused.original("model-outputs", b"p0", json.dumps(rows).encode(), 1)
    large = json.dumps(rows[1]).encode()
    refused.put(
        refusal(0, large, row=1),
        refusal(0, None, topic="labels", partition=2, key=None, row=0),
        refusal(99, None, topic="labels", partition=2, key=None, row=0),
    )
    refused.original("labels", b"p9", b'{"prediction_id": "p9"}', 2)
    assert replay() == {"sent": 2, "passed_over": {"without a value, or gone from its topic": 1}}
    partition, key, value, _ = refused.sent("model-outputs")[-1]
    assert (partition, key, json.loads(value or b"")) == (1, b"p1", rows[1])
    partition, key, value, _ = refused.sent("labels")[-1]
    assert (partition, key, value) == (2, b"p9", b'{"prediction_id": "p9"}')


def test_a_rate_is_kept_and_long_work_is_marked_as_it_goes(
    refused: Refused, replay: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("streams.runtime.commands.dead_letters.time.sleep", waits.append)
    monkeypatch.setattr("streams.runtime.commands.dead_letters.MARK_EVERY", 2)
    refused.put(*[refusal(offset, row("m")) for offset in range(5)])
    assert replay("--rate", "0.001")["sent"] == 5
    assert [round(wait_s, -3) for wait_s in waits] == [0, 1_000, 2_000, 3_000, 4_000]


def test_what_was_sent_before_an_interruption_is_not_sent_again(
    refused: Refused,
    replay: Callable[..., dict[str, Any]],
    tocsin: Tocsin,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: float) -> None:
        if next(turns) == 3:
            raise KeyboardInterrupt

    turns = iter(range(99))
    refused.put(*[refusal(offset, row("m")) for offset in range(5)])
    with monkeypatch.context() as patched:
        patched.setattr("streams.runtime.commands.dead_letters.time.sleep", interrupted)
        status, *_ = tocsin("dead-letters", "replay", "--rate", "1000", "--topic-prefix", prefix)
    assert status == Exit.INTERRUPTED
    assert replay()["sent"] == 2
    assert len(refused.sent("model-outputs")) == 5


def test_an_attempt_is_shown_in_the_list_and_marks_are_no_letters(
    refused: Refused, replay: Callable[..., dict[str, Any]], tocsin: Tocsin, prefix: str
) -> None:
    refused.put(structs.replace(refusal(9, row("m")), attempt=2, origin="model-outputs/1/7/4"))
    assert replay()["sent"] == 1
    _, out, err = tocsin("dead-letters", "list", "--each", "--topic-prefix", prefix)
    assert out == (
        "model-outputs[1]@9  output.prediction: expected a number, got a text of 1 character"
        "  (attempt 2, first model-outputs/1/7/4)\n"
    )
    assert err == ""


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--since", "2026-11-22T10:00:00"], ["--rate", "0"]])
def test_an_option_that_cannot_be_read_is_usage(tocsin: Tocsin, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tocsin("dead-letters", "replay", *words)
    assert ended.value.code == Exit.USAGE
