"""Bad rows, each with its one answer, from the bytes of a message to what the join counts; and the good ones count."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from detectors.binning import baseline_zero
from detectors.statistics import STATISTICS
from schemas.baseline import Baseline
from schemas.dead_letter import DeadLetter
from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from schemas.window_stats import WindowStats
from streams.runtime.decode import LabelEdge, Messages, OutputEdge
from streams.runtime.many_rows import ManyRows
from streams.runtime.topics import partition_of_id
from streams.stages.blocks import Journal, MemoryRuns
from streams.stages.cells import CELLS_PER_MODEL
from streams.stages.join import LABELS, OUTPUTS, Join, JoinSettings

NOW_MS = 1_795_341_600_000
MINUTE, HOUR = 60_000, 3_600_000
PARTITION, PARTITIONS = 2, 4
SETTINGS = JoinSettings(
    tick_ms=10_000,
    allowed_disorder_ms=10_000,
    idle_after_ms=30_000,
    default_label_wait_ms=HOUR,
    orphan_wait_ms=HOUR,
    correction_wait_ms=HOUR,
    future_skew_ms=5 * MINUTE,
    max_lanes_per_model=500,
    block_rows=32_768,
    orphans_bound_rows=1_000,
    needs=tuple(STATISTICS),
)
MODELS = {
    "fraud": Model(
        name="fraud", kind="classification", threshold=0.5, sla_accuracy=None, segments=("region",),
        features={"age": "numeric"}, required=(), label_wait_ms=HOUR, tier="standard",
    )
}  # fmt: skip
NAMES = [name for name in map(str, range(5_000)) if partition_of_id(name, PARTITIONS) == PARTITION]
"""Prediction ids that belong to the partition."""


def output(name: str = NAMES[0], made_at_ms: int = NOW_MS, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    said = {"prediction_id": name, "model": "fraud", "made_at_ms": made_at_ms, "prediction": "1", "score": 0.75}
    return said | others


def label(name: str = NAMES[0], labelled_at_ms: int = NOW_MS + MINUTE, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"prediction_id": name, "model": "fraud", "labelled_at_ms": labelled_at_ms, "label": "1"} | others


class Feed:
    """One partition: messages are decoded at the edge, and joined; whatever comes, the counts balance."""

    def __init__(self, baseline: Baseline | None = None) -> None:
        self.join = Join(
            settings=SETTINGS,
            models=MODELS,
            partition=PARTITION,
            partitions=PARTITIONS,
            journal=Journal(1, MemoryRuns()),
        )
        if baseline is not None:
            self.join.take_baseline(baseline)
        self.edges: dict[str, OutputEdge | LabelEdge] = {
            OUTPUTS: OutputEdge(MODELS, PARTITIONS),
            LABELS: LabelEdge(MODELS, PARTITIONS),
        }
        self.dead: list[DeadLetter] = []
        self.counts: Counter[str] = Counter()

    def give(self, topic: str, *values: object, key: bytes | None = b"k", broker_ms: int = NOW_MS + MINUTE) -> None:
        start = self.join.positions.get(topic, 0)
        wires = [one if isinstance(one, bytes) or one is None else json.dumps(one).encode() for one in values]
        count = len(wires)
        decoded = self.edges[topic].decode(
            Messages(
                partition=PARTITION,
                start=start,
                end=start + count,
                offset=list(range(start, start + count)),
                broker_ms=[broker_ms] * count,
                key=[key] * count,
                value=wires,
            )
        )
        self.dead += [*decoded.dead, *self.join.receive(decoded.batch)]
        self.counts["sampled"] += decoded.sampled
        self.counts["mismatched"] += decoded.mismatched
        self.counts["cut_texts"] += decoded.cut_texts
        assert self.join.conservation_error() == 0

    def outputs(self, *values: object, **how: Any) -> None:  # noqa: ANN401
        self.give(OUTPUTS, *values, **how)

    def labels(self, *values: object, **how: Any) -> None:  # noqa: ANN401
        self.give(LABELS, *values, **how)

    def clock(self, now_ms: int) -> None:
        self.join.advance(now_ms, outputs_at_edge=True, labels_at_edge=True)
        assert self.join.conservation_error() == 0

    def counted(self) -> dict[str, int]:
        return {name: count for name, count in self.join.counters.items() if count}

    def closed(self) -> list[WindowStats]:
        return [WindowStats.decode(send.value) for send in self.join.checkpoint().to_send if send.model is not None]


# ---- what cannot be read

Refusal = tuple[object, int, str, str, str]
"""A message's value, and of its dead letter the row, the field, what was expected and what came."""
WHOLE = -1
"""In place of a row: the message."""
REQUIRED = "a value (the field is required)"
ROWS = "how many rows there are, 1 to 65536"


def refused(row: dict[str, Any], *, time: str, answer: str, number: str) -> dict[str, Refusal]:
    """Return what is refused of a topic whose rows are like this one, and call their time, answer and a number so."""

    def with_number(text: str) -> bytes:
        return json.dumps(row | {number: 0.0625}).replace("0.0625", text).encode()

    def without(name: str) -> dict[str, Any]:
        return {one: value for one, value in row.items() if one != name}

    nan, endless, overflowing = with_number("NaN"), with_number("Infinity"), with_number("1e999")
    return {
        "malformed JSON": (b'{"prediction_id": "p1",', WHOLE, "", "a JSON object", "23 bytes that are no JSON"),
        "a text where a number belongs": (row | {time: "now"}, WHOLE, time, "a whole number", "a text of 3 characters"),
        "NaN": (
            nan, WHOLE, "", "a JSON object", f"{len(nan)} bytes that are no JSON (from byte {nan.index(b'NaN')} on)",
        ),
        "an infinity": (
            endless, WHOLE, "", "a JSON object",
            f"{len(endless)} bytes that are no JSON (from byte {endless.index(b'Infinity')} on)",
        ),
        "a number that overflows to one": (
            overflowing, WHOLE, "", "a JSON object", f"{len(overflowing)} bytes that are no JSON",
        ),
        "a time before 1970": (row | {time: -1}, WHOLE, time, "a whole number of at least 0", "-1"),
        "a time after the year 9999": (
            row | {time: 253_402_300_800_000}, WHOLE, time, "a whole number of at most 253402300799999", "253402300800000",
        ),
        "a time in seconds with a fraction": (
            row | {time: 1_795_341_600.5}, WHOLE, time, "a whole number", "1795341600.5",
        ),
        "no time": (without(time), WHOLE, time, REQUIRED, "nothing"),
        "no id": (without("prediction_id"), WHOLE, "prediction_id", REQUIRED, "nothing"),
        "an empty id": (
            row | {"prediction_id": ""}, WHOLE, "prediction_id", "a text of length at least 1", "a text of 0 characters",
        ),
        "an id that is a number": (row | {"prediction_id": 7}, WHOLE, "prediction_id", "a text", "7"),
        "no model": (without("model"), WHOLE, "model", REQUIRED, "nothing"),
        "a row in the name of Tocsin": (
            row | {"model": "tocsin"}, WHOLE, "model", "a text other than tocsin, Tocsin's own name", "a text of 6 characters",
        ),
        f"no {answer}": (without(answer), WHOLE, answer, REQUIRED, "nothing"),
        f"a {answer} that is null": (
            row | {answer: None}, WHOLE, answer, "a whole number, a number or a text", "null",
        ),
        f"a {answer} that is a list": (
            row | {answer: [1]}, WHOLE, answer, "a whole number, a number or a text", "a list of 1",
        ),
        "a null value": (None, WHOLE, "", "a JSON object", "no value"),
        "an empty batch": ({"rows": 0, "columns": {}}, WHOLE, "rows", ROWS, "0"),
        "rows of no columns": ({"rows": 1_000, "columns": {}}, WHOLE, "columns", "an object of lists", "none"),
        "more rows than a message may have": ({"rows": 1_000_000_000, "columns": {}}, WHOLE, "rows", ROWS, "1000000000"),
        "a list of more": ([0] * 70_000, WHOLE, "rows", "1 to 65536 rows", "70000"),
        "an empty list": ([], WHOLE, "rows", "1 to 65536 rows", "none"),
        "ragged columns": (
            {"rows": 2, "columns": {name: [value] * (1 if name == "model" else 2) for name, value in row.items()}},
            WHOLE, "columns", "2 values in each column", "1 in the one model",
        ),
        "a list in place of a row": ([[1]], 0, "", "an object", "a list of 1"),
    }  # fmt: skip


REFUSED: dict[str, dict[str, Refusal]] = {
    OUTPUTS: refused(output(), time="made_at_ms", answer="prediction", number="score") | {
        "a score out of range": (output(score=1.5), WHOLE, "score", "a number of at most 1.0", "1.5"),
    },
    LABELS: refused(label(), time="labelled_at_ms", answer="label", number="label") | {
        "a version below 0": (label(version=-1), WHOLE, "version", "a whole number of at least 0", "-1"),
        "a version that is a text": (label(version="2"), WHOLE, "version", "a whole number", "a text of 1 character"),
        "an output's time before 1970": (label(made_at_ms=-1), WHOLE, "made_at_ms", "a whole number of at least 0", "-1"),
        "a source that is none": (
            label(source="rumour"), WHOLE, "source", "one of its allowed names (`tocsin schema` lists them)",
            "a text of 6 characters",
        ),
        "a retraction that is a text": (
            label(retracted="yes"), WHOLE, "retracted", "true or false", "a text of 3 characters",
        ),
    },
}  # fmt: skip
"""By topic and case."""
RECORDS = {OUTPUTS: "output", LABELS: "label"}


def told(letter: DeadLetter) -> tuple[object, ...]:
    """Return where a dead letter was refused, and why."""
    place = (letter.topic, letter.partition, letter.offset, letter.row)
    return *place, letter.record, letter.field, letter.expected, letter.got


@pytest.mark.parametrize(("topic", "case"), [(topic, case) for topic, cases in REFUSED.items() for case in cases])
def test_what_cannot_be_read_is_one_dead_letter_that_says_where_and_why(topic: str, case: str) -> None:
    value, row, *why = REFUSED[topic][case]
    good = output if topic == OUTPUTS else label
    feed = Feed()
    feed.give(topic, good(NAMES[1]), value, good(NAMES[2]))
    assert [told(letter) for letter in feed.dead] == [(topic, PARTITION, 1, row, RECORDS[topic], *why)]
    assert feed.counted() == {f"{RECORDS[topic]}_rows": 3, f"dead_{RECORDS[topic]}": 1}
    assert feed.join.gauges["pending_rows" if topic == OUTPUTS else "orphan_rows"] == 2


def test_a_message_without_a_key_is_refused() -> None:
    feed = Feed()
    feed.outputs(output(), key=None)
    feed.labels(label(), key=None)
    assert [told(letter) for letter in feed.dead] == [
        (topic, PARTITION, 0, WHOLE, record, "key", "the prediction id of the (first) row", "no key")
        for topic, record in RECORDS.items()
    ]
    assert feed.counted() == {"output_rows": 1, "dead_output": 1, "label_rows": 1, "dead_label": 1}


@pytest.mark.parametrize("form", ["columns", "list"])
@pytest.mark.parametrize("topic", [OUTPUTS, LABELS])
def test_one_bad_row_among_a_thousand_is_dead_and_the_good_ones_count(topic: str, form: str) -> None:
    good: dict[str, list[dict[str, Any]]] = {
        OUTPUTS: [output(name) for name in NAMES[:1_000]],
        LABELS: [label(name, version=1) for name in NAMES[:1_000]],
    }
    field, bad, expected = {
        OUTPUTS: ("score", 7, "a number of at most 1.0"),
        LABELS: ("version", -1, "a whole number of at least 0"),
    }[topic]
    feed = Feed()
    for one, rows in good.items():
        if one == topic:
            rows[617][field] = bad
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        feed.give(one, {"rows": 1_000, "columns": columns} if form == "columns" else rows)
    [letter] = feed.dead
    assert told(letter) == (topic, PARTITION, 0, 617, RECORDS[topic], field, expected, str(bad))
    assert letter.value is not None
    assert json.loads(letter.value)["prediction_id"] == NAMES[617]
    dead = {"output_rows": 1_000, "label_rows": 1_000, "labelled": 999, f"dead_{RECORDS[topic]}": 1}
    assert {name: feed.counted()[name] for name in dead} == dead


# ---- what can be read, and is odd


def test_a_time_beyond_the_brokers_and_the_skew_is_dead_and_moves_nothing() -> None:
    feed = Feed()
    feed.outputs(output(NAMES[1]), output(NAMES[2], NOW_MS + MINUTE + SETTINGS.future_skew_ms))
    watermark_ms = feed.join.gauges["watermark_outputs_ms"]
    feed.outputs(output(NAMES[3], NOW_MS + 7 * MINUTE + 1), output(NAMES[4], 4_000_000_000_000))
    assert [(letter.field, letter.expected) for letter in feed.dead] == [
        ("made_at_ms", "at most 300000 ms after the broker's time")
    ] * 2
    assert feed.counted() == {"output_rows": 4, "dead_output": 2, "future_rows": 2}
    assert feed.join.gauges["watermark_outputs_ms"] == watermark_ms


def test_a_row_of_1970_is_late_and_expires_at_once() -> None:
    feed = Feed()
    feed.outputs(output(NAMES[1]))
    feed.labels(label("somebody", NOW_MS))
    feed.outputs(output(NAMES[2], 0))
    assert feed.counted() == {"output_rows": 2, "label_rows": 1, "late_output": 1, "expired": 1}
    feed.labels(label(NAMES[2], made_at_ms=0))
    assert feed.counted()["late_label"] == 1


@pytest.mark.parametrize("long_ago_ms", [NOW_MS // 1000, NOW_MS - 365 * 24 * HOUR])
def test_a_first_row_of_long_ago_expires_at_once_and_says_nothing_of_the_time_since(long_ago_ms: int) -> None:
    feed = Feed()
    feed.outputs(output(NAMES[1], long_ago_ms))
    feed.labels(label("somebody", long_ago_ms))
    feed.outputs(output(NAMES[2]))
    feed.labels(label("somebody else", NOW_MS))
    feed.clock(NOW_MS + 2 * MINUTE)
    assert (feed.counted()["output_rows"], feed.counted()["expired"], feed.join.gauges["pending_rows"]) == (2, 1, 1)
    closed_ms = [stats.tick_start_ms // SETTINGS.tick_ms * SETTINGS.tick_ms for stats in feed.closed()]
    counted_ms = [long_ago_ms, long_ago_ms + HOUR, NOW_MS]
    assert closed_ms == [at_ms // SETTINGS.tick_ms * SETTINGS.tick_ms for at_ms in counted_ms]


def test_a_known_id_with_other_content_is_a_duplicate_and_the_first_wins() -> None:
    feed = Feed()
    feed.outputs(output(), output(), output(prediction="0", score=0.125))
    feed.labels(label())
    counted = feed.counted()
    assert (counted["duplicate_output"], counted["conflicting_output"], counted["labelled"]) == (2, 1, 1)
    feed.clock(NOW_MS + 2 * HOUR)
    wrong = sum(int(stats.arrays["wrong_by_delay_hour"].sum()) for stats in feed.closed())
    assert wrong == 0, "the first said 1, and 1 was true"


def test_a_label_of_an_output_that_nobody_saw_waits_and_expires() -> None:
    feed = Feed()
    feed.outputs(output(NAMES[1]))
    feed.labels(label("nobody"))
    assert (feed.join.gauges["orphan_rows"], feed.counted()["label_rows"]) == (1, 1)
    feed.clock(NOW_MS + 3 * HOUR)
    assert feed.join.gauges["orphan_rows"] == 0
    assert feed.counted()["orphan_expired"] == 1


def test_labels_without_outputs_beyond_the_bound_are_dead_the_oldest_first() -> None:
    feed = Feed()
    bound = SETTINGS.orphans_bound_rows
    feed.labels(*[label(f"nobody {number}", NOW_MS + number) for number in range(bound + 5)])
    assert [letter.offset for letter in feed.dead] == [0, 1, 2, 3, 4]
    assert (feed.dead[0].field, feed.dead[0].got) == ("prediction_id", "more")
    assert feed.counted()["orphans_over_bound"] == 5


def test_ids_of_another_partition_are_counted_and_joined_where_they_lie() -> None:
    strangers = [name for name in map(str, range(400)) if partition_of_id(name, PARTITIONS) != PARTITION]
    feed = Feed()
    feed.outputs(*[output(name) for name in strangers])
    feed.labels(*[label(name) for name in strangers])
    assert feed.counts["mismatched"] == feed.counts["sampled"] >= 100
    assert feed.counted()["labelled"] == len(strangers)
    right = Feed()
    right.outputs(*[output(name) for name in NAMES[:400]])
    assert (right.counts["mismatched"], right.counts["sampled"] >= 100) == (0, True)


def test_a_model_that_is_not_listed_is_joined_and_counted() -> None:
    feed = Feed()
    feed.outputs(*[output(name, model="unheard of") for name in NAMES[:50]])
    feed.labels(*[label(name, model="unheard of") for name in NAMES[:50]])
    assert feed.counted() == {"output_rows": 50, "label_rows": 50, "joined": 50, "labelled": 50}
    feed.clock(NOW_MS + 2 * HOUR)
    assert {stats.model for stats in feed.closed()} == {"unheard of"}


def test_a_text_of_more_than_64_kb_is_cut_and_counted_and_its_row_is_good() -> None:
    feed = Feed()
    feed.outputs(output(NAMES[1], text="ü" * 40_000), output(NAMES[2], text="ü" * 32_768))
    assert (feed.counts["cut_texts"], feed.dead) == (1, [])
    feed.outputs(output(NAMES[3], text="x" * 70_000, score=7))
    assert feed.counts["cut_texts"] == 2
    assert (len(feed.dead[0].value or b""), feed.dead[0].value_bytes > 70_000) == (65_536, True)


def test_a_segment_of_a_million_values_counts_in_other() -> None:
    bins = msgspec.structs.replace(baseline_zero(SETTINGS.tick_ms, 0.5), segments={"region": ["west"]})
    baseline = Baseline(
        model="fraud", version=1, valid_from_ms=0, binning=bins, reference_ms=(0, 1), armed={}, tolerance={},
        decided_at_ms=0, lanes=("*",), arrays={},
    )  # fmt: skip
    feed = Feed(baseline)
    rows, batches = 10_000, 100
    for batch in range(batches):
        numbers = range(batch * rows, (batch + 1) * rows)
        regions = ["west", *(f"value {number}" for number in numbers[1:])]
        columns = {
            "prediction_id": [f"p{number}" for number in numbers], "model": ["fraud"] * rows,
            "made_at_ms": [NOW_MS] * rows, "prediction": [1] * rows, "segments.region": regions,
        }  # fmt: skip
        feed.outputs(msgspec.json.encode({"rows": rows, "columns": columns}))
    assert feed.counted()["output_rows"] == rows * batches
    assert feed.join.gauges["cells"] <= CELLS_PER_MODEL + 1
    feed.labels(label("somebody", NOW_MS))
    feed.clock(NOW_MS + 50 * MINUTE)
    counted: Counter[str] = Counter()
    for stats in feed.closed():
        for lane, name in enumerate(stats.lanes):
            counted[name] += int(stats.arrays["outputs"][lane, 0])
    assert counted == {"*": 1_000_000, "segment:region=west": 100, "segment:region=(other)": 999_900}


# ---- the two forms of a message


@pytest.mark.parametrize("kind", ["output", "label"])
def test_rows_that_a_record_accepts_are_taken_by_the_edge_in_either_form(kind: str) -> None:
    """Whoever checks rows with our records before sending them is never refused by the join."""
    topic = OUTPUTS if kind == "output" else LABELS
    edge = Feed().edges[topic]
    record: type[Output | Label] = Output if kind == "output" else Label
    extremes: Sequence[dict[str, Any]] = (
        [
            output("x" * 512), output(made_at_ms=0), output(made_at_ms=253_402_300_799_999), output(score=0), output(score=1),
            output(prediction=2**63 - 1), output(prediction=-1e308), output(prediction=""), output(version=""),
            output(features={"age": None, "": 2**63 - 1}), output(features={"age": -(2**63)}), output(segments={"region": ""}),
            output(probabilities={}), output(probabilities={"": 1.0}), output("\u0000\u202e\U0001f600", text="\u2028"),
        ]
        if kind == "output"
        else [
            label("x" * 512), label(labelled_at_ms=0), label(labelled_at_ms=253_402_300_799_999), label(label=-1e308),
            label(version=0), label(version=2**62), label(made_at_ms=0), label(source="user"), label(retracted=True),
            label(label=2**63 - 1), label(label=""),
        ]
    )  # fmt: skip
    many = ManyRows(partitions=1, most_rows=2)
    for row in extremes:
        made = record.decode(json.dumps(row).encode())
        assert many.add(made) == []
        (together,) = many.add(made)
        for value, count in ((made.encode(), 1), (together.message.value, 2)):
            messages = Messages(
                partition=PARTITION, start=0, end=1, offset=[0], broker_ms=[NOW_MS], key=[b"k"], value=[value]
            )
            decoded = edge.decode(messages)
            assert (len(decoded.batch.offset), decoded.dead) == (count, []), (row, value)


def test_the_sum_of_all_bad_input_leaves_the_counts_balanced() -> None:
    feed = Feed()
    refusals = [value for cases in REFUSED.values() for value, *_ in cases.values()]
    for value in refusals:
        feed.outputs(output(), value)
        feed.labels(value, label())
    feed.clock(NOW_MS + 5 * HOUR)
    counted = feed.counted()
    assert counted["dead_output"] == counted["dead_label"] == len(refusals)
    assert (counted["labelled"], counted["duplicate_output"]) == (1, len(refusals) - 1)
