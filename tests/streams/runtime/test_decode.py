"""Every row becomes a row of the batch or one dead letter, whatever comes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fields import MalformedRecordError
from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from streams.runtime import decode
from streams.runtime.decode import (
    SAMPLED_IDS,
    Apart,
    Decoded,
    LabelEdge,
    Messages,
    OutputEdge,
    TooManyRowsError,
)
from streams.runtime.hashing import class_hash, id_hashes
from streams.runtime.sent_again import ATTEMPT, FIRST
from streams.runtime.topics import partition_of_id
from streams.stages.batch import NOT_LOOKED_AT, Coded, FeatureColumn, LabelBatch, OutputBatch


def model(name: str, kind: Literal["classification", "regression"] = "classification") -> Model:
    values: dict[str, Any] = {
        "threshold": 0.5, "sla_accuracy": None, "segments": ("region",), "required": (), "label_wait_ms": 1,
        "features": {"age": "numeric", "channel": "categorical"}, "tier": "standard",
    }  # fmt: skip
    return Model(name=name, kind=kind, **values)


MODELS = {"fraud": model("fraud"), "price": model("price", "regression")}
GOOD: dict[str, Any] = {"prediction_id": "p1", "model": "fraud", "made_at_ms": 1_000, "prediction": "1", "score": 0.25}
TRUE: dict[str, Any] = {"prediction_id": "p1", "model": "fraud", "labelled_at_ms": 2_000, "label": "1"}
KEY = b"p1"


def messages(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None, start: int = 100) -> Messages:
    return Messages(
        partition=2,
        start=start,
        end=start + len(values),
        offset=list(range(start, start + len(values))),
        broker_ms=[5_000] * len(values),
        key=[KEY] * len(values) if keys is None else list(keys),
        value=list(values),
    )


def outputs(*values: bytes | None, keys: Sequence[bytes | None] | None = None) -> Decoded[OutputBatch]:
    return OutputEdge(MODELS, partitions=4).decode(messages(values, keys))


def labels(*values: bytes | None) -> Decoded[LabelBatch]:
    return LabelEdge(MODELS, partitions=4).decode(messages(values))


def bytes_of(row: object) -> bytes:
    return json.dumps(row).encode()


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Put rows of equal fields into one many-row message."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            inner = {f"{name}.{one}": told for one, told in value.items()} if isinstance(value, dict) else {name: value}
            for column, told in inner.items():
                columns.setdefault(column, []).append(told)
    return bytes_of({"schema": 1, "rows": len(rows), "columns": columns})


def plain(value: object) -> object:
    """Make columns comparable; codes are compared by what they name."""
    if isinstance(value, Coded):
        return [value.at(row) for row in range(len(value.codes))]
    if isinstance(value, FeatureColumn):
        return [value.state.tolist(), repr(value.numbers.tolist()), plain(value.names)]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), repr(value.tolist())]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def contents(batch: OutputBatch | LabelBatch, *, without: Sequence[str] = ()) -> dict[str, object]:
    return {one.name: plain(getattr(batch, one.name)) for one in fields(batch) if one.name not in without}


def said(decoded: Decoded[Any]) -> list[tuple[int, str, str, str]]:
    return [(letter.row, letter.field, letter.expected, letter.got) for letter in decoded.dead]


# ---- what a row becomes


def test_a_row_becomes_columns() -> None:
    row = GOOD | {
        "version": "7", "segments": {"region": "west", "undeclared": "x"}, "user_id": "u",
        "features": {"age": 44, "channel": "web", "undeclared": [1]},
    }  # fmt: skip
    batch = outputs(bytes_of(row)).batch
    assert batch.id_hash.tolist() == id_hashes(["fraud"], np.array([0], np.int32), ["p1"]).tolist()
    assert (batch.model.at(0), batch.version.at(0), batch.segments["region"].at(0)) == ("fraud", "7", "west")
    assert batch.prediction.tolist() == [class_hash("1")]
    assert (batch.score.tolist(), batch.confidence.tolist()) == ([0.25], [0.75])
    age, channel = batch.features["age"], batch.features["channel"]
    assert (age.state.tolist(), age.numbers.tolist(), channel.names.at(0)) == ([0], [44.0], "web")
    assert (batch.start, batch.end, batch.offset.tolist(), batch.row.tolist()) == (100, 101, [100], [0])
    assert set(batch.features) == {"age", "channel"}, "features that nobody declared are no columns"


def test_absent_is_not_null() -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"features": {"age": None, "channel": None}},
        {"features": {"age": "old", "channel": 3}},
    ]
    batch = outputs(*[bytes_of(GOOD | row) for row in rows]).batch
    assert batch.features["age"].state.tolist() == [3, 2, 1]
    assert batch.features["channel"].state.tolist() == [3, 2, 0]
    assert batch.features["channel"].numbers[2] == 3.0
    without = {name: value for name, value in GOOD.items() if name != "score"}
    assert np.isnan(outputs(bytes_of(without)).batch.confidence[0])


def test_confidence_is_that_of_the_likeliest_class() -> None:
    batch = outputs(
        bytes_of(GOOD | {"probabilities": {"a": 0.5, "b": 0.125}}), bytes_of(GOOD | {"probabilities": {}})
    ).batch
    assert batch.confidence.tolist() == [0.5, 0.75]


def test_a_class_is_the_same_as_text_and_as_number_and_a_regression_answers_with_its_bits() -> None:
    batch = outputs(
        bytes_of(GOOD | {"prediction": 1}),
        bytes_of(GOOD | {"model": "price", "prediction": 12.5}),
        bytes_of(GOOD | {"prediction": "1"}),
    ).batch
    assert batch.prediction[0] == batch.prediction[2] == class_hash("1")
    assert batch.prediction[1:2].view(np.float32).tolist() == [12.5]


def test_a_label_becomes_columns() -> None:
    batch = labels(
        bytes_of(TRUE), bytes_of(TRUE | {"version": 3, "made_at_ms": 7, "retracted": True, "source": "user"})
    ).batch
    assert (batch.version.tolist(), batch.made_at_ms.tolist()) == ([-1, 3], [-1, 7])
    assert (batch.retracted.tolist(), batch.label.tolist()) == ([False, True], [class_hash("1")] * 2)


# ---- bad input, each with its one answer

BAD: dict[str, tuple[bytes | None, str, str]] = {
    "malformed JSON": (b'{"prediction_id"', "", "16 bytes that are no JSON"),
    "no JSON at all": (b"\xff\xfe", "", "2 bytes that are no JSON (from byte 0 on)"),
    "empty": (b"", "", "0 bytes that are no JSON"),
    "null value": (None, "", "no value"),
    "a number": (b"7", "", "7"),
    "NaN": (bytes_of(GOOD).replace(b"0.25", b"NaN"), "", "94 bytes that are no JSON (from byte 90 on)"),
    "infinity": (bytes_of(GOOD).replace(b"0.25", b"1e999"), "", "96 bytes that are no JSON"),
    "score out of range": (bytes_of(GOOD | {"score": 1.5}), "score", "1.5"),
    "wrong type": (bytes_of(GOOD | {"made_at_ms": "now"}), "made_at_ms", "a text of 3 characters"),
    "a truth value": (bytes_of(GOOD | {"prediction": True}), "prediction", "true"),
    "no id": (bytes_of({**GOOD, "prediction_id": ""}), "prediction_id", "a text of 0 characters"),
    "no model": (bytes_of({name: value for name, value in GOOD.items() if name != "model"}), "model", "nothing"),
    "no time": (bytes_of({name: value for name, value in GOOD.items() if name != "made_at_ms"}), "made_at_ms", "nothing"),
    "id is null": (bytes_of(GOOD | {"prediction_id": None}), "prediction_id", "null"),
    "a list for a feature": (bytes_of(GOOD | {"features": {"age": [1]}}), "features.age", "a list of 1"),
    "a text where a number must be": (
        bytes_of(GOOD | {"model": "price"}), "prediction", "a text of 1 character",
    ),
    "a number too large": (bytes_of(GOOD | {"model": "price", "prediction": 1e39}), "prediction", "1e+39"),
    "no rows": (bytes_of({"rows": 0, "columns": {}}), "rows", "0"),
    "an empty list": (b"[]", "rows", "none"),
    "rows is no number": (bytes_of({"rows": "2", "columns": {}}), "rows", "a text of 1 character"),
    "no count of rows": (bytes_of({"columns": {}}), "rows", "nothing"),
    "columns are no lists": (bytes_of({"rows": 1, "columns": {"model": 1}}), "columns", "an object of 1"),
    "ragged columns": (
        table([GOOD, GOOD]).replace(b'"p1", ', b""), "columns", "1 in the one prediction_id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_dead_letter_that_says_why_and_the_others_count(case: str) -> None:
    value, field, got = BAD[case]
    decoded = outputs(bytes_of(GOOD), value, bytes_of(GOOD))
    assert (len(decoded.batch.offset), decoded.batch.dead) == (2, 1)
    letter = decoded.dead[0]
    assert (letter.field, letter.got) == (field, got)
    assert (letter.topic, letter.partition, letter.offset, letter.row) == ("model-outputs", 2, 101, -1)
    assert (letter.key, letter.value, letter.decided_at_ms) == (KEY, value, 5_000)


def test_a_row_without_a_key_is_refused_in_either_form() -> None:
    decoded = outputs(bytes_of(GOOD), table([GOOD, GOOD]), bytes_of(GOOD), keys=[None, None, KEY])
    assert [letter.field for letter in decoded.dead] == ["key", "key"]
    assert decoded.batch.offset.tolist() == [102]


@pytest.mark.parametrize("bad", [{"score": 7.5}, {"made_at_ms": None}, {"model": "price", "prediction": "dear"}])
def test_one_bad_row_among_a_thousand_is_dead_under_its_index(bad: dict[str, Any]) -> None:
    rows = [GOOD | {"prediction_id": f"p{number}"} for number in range(1_000)]
    rows[617] |= bad
    decoded = outputs(table(rows))
    assert len(decoded.batch.offset) == 999
    assert decoded.batch.row.tolist() == [row for row in range(1_000) if row != 617]
    letter = decoded.dead[0]
    assert (letter.row, letter.field, letter.key) == (617, next(reversed(bad)), b"p617")
    assert letter.value is not None
    assert msgspec.json.decode(letter.value)["prediction_id"] == "p617", "a row's bytes can be sent again by themselves"


def test_a_column_of_the_wrong_length_refuses_the_message_whatever_its_name() -> None:
    value = bytes_of({"rows": 2, "columns": {"secret name": [1]}})
    assert said(outputs(value)) == [(-1, "columns", "2 values in each column", "1 in the one of that name")]


def test_long_texts_are_counted() -> None:
    long, short = "é" * 32_769, "é" * 32_768
    assert outputs(bytes_of(GOOD | {"text": long}), bytes_of(GOOD | {"text": short})).cut_texts == 1
    assert outputs(table([GOOD | {"text": long}, GOOD | {"text": long}])).cut_texts == 2
    assert len(outputs(bytes_of(GOOD | {"text": long})).batch.offset) == 1


def test_what_is_larger_than_a_dead_letter_holds_is_cut_and_its_size_said() -> None:
    letter = outputs(b"x" * 70_000).dead[0]
    assert (len(letter.value or b""), letter.value_bytes) == (65_536, 70_000)


@pytest.mark.parametrize("age", [b"9" * 300, b"-" + b"9" * 309, b"9" * 5_000, b"1e308"])
def test_a_feature_of_any_length_is_a_number_or_refused(age: bytes) -> None:
    row = bytes_of(GOOD).replace(b"}", b', "features": {"age": ' + age + b', "channel": ' + age + b"}}")
    rows = b'{"rows": 1, "columns": {"features.age": [%b], ' % age + table([GOOD]).partition(b'"columns": {')[2]
    for value in (row, rows):
        decoded = outputs(value)
        assert len(decoded.dead) + len(decoded.batch.offset) == 1
        assert decoded.batch.features["age"].state.tolist() == [0] * len(decoded.batch.offset)


ODD_VALUES: list[Any] = [
    None, True, False, "", "x", "tocsin", "1", "x" * 512, "x" * 513, "system", "rumour", 0, 1, -1, 0.5, -0.5, 1.0, 1.5, 1e308, 2**62,
    2**62 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, -(10**30), 253_402_300_799_999, 253_402_300_800_000, [], [1],
    {}, {"no": 0.5}, {"no": 1.5}, {"no": 1}, {"no": -0.1}, {"no": "x"}, {"no": None}, {"region": "x"}, {"region": 5},
    {"region": ["x"]}, {"age": 5}, {"age": "x"}, {"age": True}, {"age": [1]}, {"age": None}, {"age": 2**63}, {"age": -(10**30)},
    {"channel": 2**63 - 1}, {"channel": 2**63},
]  # fmt: skip


def refuses(record: type[Output | Label], row: Mapping[str, Any]) -> bool:
    try:
        record.decode(bytes_of(row))
    except MalformedRecordError:
        return True
    return False


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("edge", "record", "good", "name"),
    [
        *((OutputEdge, Output, GOOD, name) for name, _, _ in OutputEdge.fields),
        *((OutputEdge, Output, GOOD, name) for name in ("segments", "features")),
        *((LabelEdge, Label, TRUE, name) for name, _, _ in LabelEdge.fields),
    ],
)
def test_in_each_field_that_it_reads_the_edge_refuses_what_the_record_refuses_and_nothing_else(
    edge: type[OutputEdge | LabelEdge], record: type[Output | Label], good: dict[str, Any], name: str, *, compiled: bool
) -> None:
    made = edge(MODELS, partitions=4)
    if not compiled:
        made._scanner = None  # noqa: SLF001
    declared = {"segments": {"region"}, "features": {"age", "channel"}}.get(name)
    odds = [one for one in ODD_VALUES if declared is None or not isinstance(one, dict) or one.keys() <= declared]
    rows = [good | {name: odd} for odd in odds] + [{key: value for key, value in good.items() if key != name}]
    for row in rows:
        forms = [bytes_of(row), bytes_of([row])]
        value = row.get(name)
        if name in {"segments", "features", "probabilities"} and isinstance(value, dict):
            nulls = not value or None in value.values()  # which mean absent in columns
            forms += [] if nulls else [table([row])]
        elif value is not None:
            columns = {key: [one] for key, one in row.items()}
            forms.append(bytes_of({"schema": 1, "rows": 1, "columns": columns}))
        for message in forms:
            decoded = made.decode(messages([message]))
            assert len(decoded.dead) == refuses(record, row), message


def test_what_no_column_needs_is_not_looked_at_and_everything_else_is() -> None:
    """The one exception, for speed: `docs/records.md` says it, decision 7 why."""
    unread = {"latency_ms": "x", "text": 5, "user_id": 5, "schema": "x", "judges": {"j": 1}, "safety": {"s": 2}}
    read = {name for name, _, _ in OutputEdge.fields} | {"segments", "features"}
    assert {field.name for field in msgspec.structs.fields(Output)} == read | unread.keys()
    assert {field.name for field in msgspec.structs.fields(Label)} == {name for name, _, _ in LabelEdge.fields} | {
        "schema"
    }
    for name, value in unread.items():
        assert refuses(Output, GOOD | {name: value})
        assert len(outputs(bytes_of(GOOD | {name: value}), table([GOOD | {name: value}])).batch.offset) == 2
    page = (Path(__file__).parents[3] / "docs" / "records.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"The join looks only at what it reads: (.*?)\. ", page, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", said)) == unread.keys()


# ---- forms and batches


def test_the_forms_mix_and_keep_their_order() -> None:
    rows = [GOOD | {"prediction_id": f"p{number}"} for number in range(7)]
    decoded = outputs(
        bytes_of(rows[0]), table(rows[1:3]), b"?", bytes_of(rows[3:5]), bytes_of(rows[5]), table(rows[6:])
    )
    expected = id_hashes(["fraud"], np.zeros(7, np.int32), [row["prediction_id"] for row in rows])
    assert decoded.batch.id_hash.tolist() == expected.tolist()
    assert decoded.batch.offset.tolist() == [100, 101, 101, 103, 103, 104, 105]
    assert decoded.batch.row.tolist() == [0, 0, 1, 0, 1, 0, 0]
    assert said(decoded)[0][0] == -1


def test_a_message_with_an_id_is_one_row_whatever_came_before() -> None:
    both = bytes_of(GOOD | json.loads(table([GOOD, GOOD])))
    for before in (bytes_of(GOOD), table([GOOD])):
        assert outputs(before, both).batch.offset.tolist() == [100, 101]


def test_probabilities_and_whole_objects_may_be_columns() -> None:
    rows = [GOOD | {"probabilities": {"a": 0.5, "b": 0.25}}, GOOD | {"probabilities": {"a": 0.125, "b": 0.0}}]
    assert outputs(table(rows)).batch.confidence.tolist() == [0.5, 0.125]
    columns = {name: [value, value] for name, value in GOOD.items()}
    whole = {"features": [{"age": 3}, {"age": None}], "segments": [{"region": "west"}, {}]}
    batch = outputs(bytes_of({"rows": 2, "columns": columns | whole})).batch
    assert batch.features["age"].state.tolist() == [0, 2]
    assert plain(batch.segments["region"]) == ["west", None]


def test_what_is_no_number_is_found_in_any_chunk() -> None:
    rows = [GOOD | {"prediction_id": f"p{number}", "model": "price", "prediction": number} for number in range(2_500)]
    rows[2_200]["prediction"] = "dear"
    decoded = outputs(*map(bytes_of, rows))
    assert [letter.offset for letter in decoded.dead] == [2_300]
    assert decoded.batch.prediction.view(np.float32).tolist() == [at for at in range(2_500) if at != 2_200]


VALUES = st.one_of(st.none(), st.integers(-5, 5), st.floats(-3, 3), st.sampled_from(["a", "b", ""]))
ROWS = st.fixed_dictionaries(
    {
        "prediction_id": st.sampled_from(["p1", "p2", "grün"]),
        "model": st.sampled_from(["fraud", "price", "unlisted"]),
        "made_at_ms": st.integers(0, 9_999),
        "prediction": st.one_of(st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["0", "1"])),
        "score": st.sampled_from([0, 0.5, 1.0, 1.25, None, "x"]),
        "version": st.sampled_from(["1", "2", ""]),
        "segments": st.fixed_dictionaries({"region": st.sampled_from(["west", "east"])}),
        "features": st.fixed_dictionaries({"age": VALUES, "channel": VALUES}),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=12), st.data())
def test_form_and_cut_change_nothing(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    def single(row: dict[str, Any]) -> bytes:  # null is how a column says absent
        return bytes_of({name: value for name, value in row.items() if value is not None})

    edge = OutputEdge(MODELS, partitions=4)
    one_by_one = edge.decode(messages([single(row) for row in rows]))
    together = edge.decode(messages([table(rows)]))
    objects = edge.decode(messages([b"[" + b",".join(map(single, rows)) + b"]"]))
    places = ("offset", "row", "start", "end", "broker_ms")
    assert contents(together.batch, without=places) == contents(one_by_one.batch, without=places)
    assert contents(objects.batch, without=places) == contents(one_by_one.batch, without=places)
    assert sorted((one.field, one.got) for one in together.dead) == sorted(
        (one.field, one.got) for one in one_by_one.dead
    )
    cut = data.draw(st.integers(0, len(rows)))
    halves = [edge.decode(messages([single(row) for row in some])) for some in (rows[:cut], rows[cut:])]
    hashes = [one for half in halves for one in half.batch.content.tolist()]
    assert hashes == one_by_one.batch.content.tolist()


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
MUTATIONS = st.dictionaries(
    st.sampled_from([*Output.__struct_fields__, *Label.__struct_fields__, "rows", "columns", "features.age"]),
    ANY_JSON,
    max_size=3,
)


def hostile(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bytes of all kinds: noise, mutated rows, mutated columns, bytes of good ones exchanged."""

    def exchanged(value: bytes, at: int, byte: int) -> bytes:
        at %= len(value)
        return value[:at] + bytes([byte]) + value[at + 1 :]

    good_bytes = st.sampled_from([bytes_of(good), table([good, good]), bytes_of([good])])
    return st.one_of(
        st.binary(max_size=40),
        ANY_JSON.map(bytes_of),
        MUTATIONS.map(lambda changes: bytes_of(good | changes)),
        MUTATIONS.map(lambda changes: bytes_of({"rows": 1, "columns": {n: [v] for n, v in (good | changes).items()}})),
        MUTATIONS.map(lambda changes: bytes_of({"rows": 1, "columns": changes} | changes)),
        st.lists(ANY_JSON, max_size=3).map(bytes_of),
        st.builds(exchanged, good_bytes, st.integers(0, 400), st.integers(0, 255)),
    )


@given(st.lists(st.one_of(st.none(), hostile(GOOD)), max_size=8))
def test_no_output_is_an_error_of_ours(values: list[bytes | None]) -> None:
    conserved(OutputEdge(MODELS, partitions=4).decode(messages(values)), values)


@given(st.lists(st.one_of(st.none(), hostile(TRUE)), max_size=8))
def test_no_label_is_an_error_of_ours(values: list[bytes | None]) -> None:
    conserved(LabelEdge(MODELS, partitions=4).decode(messages(values)), values)


def conserved(decoded: Decoded[Any], values: Sequence[bytes | None]) -> None:
    """Each message is rows or dead, and each of its rows once."""
    batch = decoded.batch
    good = list(zip(batch.offset.tolist(), batch.row.tolist(), strict=True))
    dead = [(letter.offset, letter.row) for letter in decoded.dead]
    assert len(set(good)) == len(good) == len(batch.id_hash)
    assert len(set(dead)) == len(dead) == batch.dead
    assert not set(good) & set(dead)
    assert {offset for offset, _ in [*good, *dead]} == set(range(100, 100 + len(values)))
    for letter in decoded.dead:
        assert letter.encode()


def test_deep_nesting_is_refused_without_harm() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"columns":', b"}"), (b'{"features":{"age":', b"}}")):
        assert len(outputs(opening * 5_000 + closing * 5_000).dead) == 1


def test_a_chunk_holds_as_well_as_a_thousand_and_one() -> None:
    values = [bytes_of(GOOD | {"prediction_id": f"p{number}"}) for number in range(2_503)]
    values[1_700] = b"?"
    decoded = outputs(*values)
    assert len(decoded.batch.id_hash) == 2_502
    assert decoded.batch.offset.tolist() == [at for at in range(100, 2_603) if at != 1_800]


# ---- the partitioner


def test_sampled_row_ids_show_a_foreign_partitioner() -> None:
    ours = [f"p{number}" for number in range(400) if partition_of_id(f"p{number}", 4) == 2]
    decoded = outputs(table([GOOD | {"prediction_id": one} for one in ours]))
    assert (decoded.sampled > 0, decoded.mismatched) == (True, 0)
    every = [bytes_of(GOOD | {"prediction_id": f"p{number}"}) for number in range(400)]
    decoded = outputs(*every)
    assert SAMPLED_IDS <= decoded.sampled <= 2 * SAMPLED_IDS
    assert 0.6 < decoded.mismatched / decoded.sampled < 0.9


def test_which_rows_are_looked_at_for_closed_follows_from_the_row_alone() -> None:
    names = [f"p{number}" for number in range(4_000)]
    rows = [GOOD | {"prediction_id": name} for name in names]
    decoded = outputs(table(rows)).batch
    looked_at = np.flatnonzero(decoded.misplaced != NOT_LOOKED_AT)
    assert looked_at.tolist() == [at for at, name in enumerate(decoded.id_hash.tolist()) if name % 64 == 0]
    assert 30 < len(looked_at) < 100
    here = [partition_of_id(names[at], 4) != 2 for at in looked_at.tolist()]
    assert decoded.misplaced[looked_at].tolist() == here
    assert 0.6 < sum(here) / len(here) < 0.9
    for some in (1, 7, 1_000):
        halves = [outputs(*map(bytes_of, rows[:some])), outputs(table(rows[some:]))]
        assert np.concatenate([half.batch.misplaced for half in halves]).tolist() == decoded.misplaced.tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_more_rows_than_are_held_at_once_are_decoded_some_at_a_time_and_one_message_always(
    monkeypatch: pytest.MonkeyPatch, *, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr("streams.runtime.plain.library", lambda: None)
    monkeypatch.setattr(decode, "MOST_ROWS_AT_ONCE", 10)
    good = table([GOOD | {"prediction_id": f"p{number}"} for number in range(11)])
    assert outputs(good).batch.dead == 0
    assert outputs(table([GOOD] * 6), bytes_of(GOOD)).batch.dead == 0
    with pytest.raises(TooManyRowsError):
        outputs(table([GOOD] * 6), table([GOOD] * 6))
    bad = bytes_of([0] * 6)
    assert outputs(bad).batch.dead == outputs(bad, b"?").batch.dead - 1 == 6
    with pytest.raises(TooManyRowsError):
        outputs(bad, bad)


def test_the_bytes_of_one_row_decode_to_that_row() -> None:
    rows = [GOOD | {"prediction_id": f"p{number}", "features": {"age": number}} for number in range(3)]
    for value in (table(rows), bytes_of(rows)):
        index, key, alone = Apart().row(b"p0", value, 1)
        assert (index, key) == (1, b"p1")
        assert outputs(alone).batch.content.tolist() == outputs(value).batch.content[1:2].tolist()
        assert outputs(alone).batch.features["age"].numbers.tolist() == [1.0]
    ragged = bytes_of({"rows": 2, "columns": {"prediction_id": ["p1"]}})
    for whole in (bytes_of(GOOD), None, b"?", ragged):
        assert Apart().row(KEY, whole, 0) == (-1, KEY, whole)


def test_what_was_sent_again_and_refused_again_says_so_in_each_form() -> None:
    again = ((ATTEMPT, b"3"), (FIRST, b"model-outputs/2/7/4"))
    wrong = bytes_of(GOOD | {"score": 7})
    for value in (wrong, b"?", bytes_of(GOOD | {"model": "price"}), table([GOOD, GOOD | {"score": 7}])):
        asked = replace(messages([bytes_of(GOOD), value, bytes_of(GOOD)]), headers=lambda at: again if at == 1 else ())
        letter = OutputEdge(MODELS, partitions=4).decode(asked).dead[0]
        assert (letter.attempt, letter.first) == (3, "model-outputs/2/7/4")
    letter = outputs(wrong).dead[0]
    assert (letter.attempt, letter.origin) == (1, "")
