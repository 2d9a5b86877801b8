"""Many rows in a message are the same rows as each by itself, seen from the edge that decodes them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from schemas.fields import MalformedRecordError
from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from streams.runtime import topics
from streams.runtime.decode import LabelEdge, Messages, OutputEdge
from streams.runtime.many_rows import MOST_BYTES, WAITING_BYTES, Bundled, ManyRows, checked
from streams.runtime.stage_spec import Routed

MODEL = Model(
    name="m",
    kind="classification",
    threshold=0.5,
    sla_accuracy=None,
    segments=("region",),
    features={"age": "numeric", "kind": "categorical"},
    required=(),
    label_wait_ms=1_000,
    tier="standard",
)
SHARES = st.floats(0, 1)
OUTPUTS = st.builds(
    Output,
    prediction_id=st.text("pé1", min_size=1, max_size=6),
    model=st.just("m"),
    made_at_ms=st.integers(0, 10**12),
    prediction=st.one_of(st.integers(0, 3), st.sampled_from(["a", "1"])),
    version=st.sampled_from(["", "7"]),
    score=st.one_of(st.just(UNSET), SHARES),
    probabilities=st.one_of(st.just(UNSET), st.dictionaries(st.sampled_from(["a", "b"]), SHARES, min_size=1)),
    segments=st.dictionaries(st.sampled_from(["region", "other"]), st.text(max_size=2)),
    features=st.dictionaries(
        st.sampled_from(["age", "kind", "else"]), st.one_of(st.none(), st.text(max_size=2), st.floats(-9, 9))
    ),
)
LABELS = st.builds(
    Label,
    prediction_id=st.text("pé1", min_size=1, max_size=6),
    model=st.just("m"),
    labelled_at_ms=st.integers(0, 10**12),
    label=st.one_of(st.integers(0, 3), st.sampled_from(["a", "1"])),
    version=st.one_of(st.just(UNSET), st.integers(0, 9)),
    made_at_ms=st.one_of(st.just(UNSET), st.integers(0, 10**12)),
    source=st.sampled_from(["system", "review", "user"]),
    retracted=st.booleans(),
)


def messages(sent: Sequence[Routed], partition: int) -> Messages:
    mine = [one for one in sent if one.partition == partition]
    count = len(mine)
    return Messages(
        partition=partition,
        start=0,
        end=count,
        offset=list(range(count)),
        broker_ms=[10**12] * count,
        key=[one.key for one in mine],
        value=[one.value for one in mine],
    )


def bundled(records: Sequence[Output | Label], most_rows: int) -> list[Routed]:
    return [one.message for one in gathered(records, most_rows)]


def gathered(records: Sequence[Output | Label], most_rows: int) -> list[Bundled]:
    many = ManyRows(partitions=4, most_rows=most_rows)
    full = [bundled for record in records for bundled in many.add(record)]
    return [*full, *many.rest()]


@settings(max_examples=60, deadline=None)
@given(records=st.lists(OUTPUTS, min_size=1, max_size=8), most_rows=st.integers(1, 4))
def test_outputs(records: list[Output], most_rows: int) -> None:
    alone, together = [topics.route(record, 4) for record in records], bundled(records, most_rows)
    for partition in range(4):
        edge = OutputEdge({"m": MODEL}, 4)
        one, many = (edge.decode(messages(sent, partition)) for sent in (alone, together))
        assert (one.dead, many.dead, many.mismatched) == ([], [], 0)
        ranks = [np.lexsort((batch.content, batch.made_at_ms, batch.id_hash)) for batch in (one.batch, many.batch)]
        for name in ("id_hash", "made_at_ms", "prediction", "content", "score", "confidence"):
            np.testing.assert_array_equal(
                getattr(one.batch, name)[ranks[0]], getattr(many.batch, name)[ranks[1]], err_msg=name
            )
        for feature in MODEL.features:
            left, right = (batch.features[feature] for batch in (one.batch, many.batch))
            assert sorted(left.state.tolist()) == sorted(right.state.tolist())


@settings(max_examples=60, deadline=None)
@given(records=st.lists(LABELS, min_size=1, max_size=8), most_rows=st.integers(1, 4))
def test_labels(records: list[Label], most_rows: int) -> None:
    alone, together = [topics.route(record, 4) for record in records], bundled(records, most_rows)
    for partition in range(4):
        edge = LabelEdge({"m": MODEL}, 4)
        one, many = (edge.decode(messages(sent, partition)) for sent in (alone, together))
        assert (one.dead, many.dead, many.mismatched) == ([], [], 0)
        for name in ("id_hash", "labelled_at_ms", "label", "version", "made_at_ms", "retracted"):
            np.testing.assert_array_equal(getattr(one.batch, name), getattr(many.batch, name), err_msg=name)


def output(number: int, **more: Any) -> Output:  # noqa: ANN401
    return Output(prediction_id=f"p{number}", model="m", made_at_ms=number, prediction=1, **more)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([output(n, text="x" * 30_000) for n in range(100)], id="long rows"),
        pytest.param([output(n, text="x" * (MOST_BYTES - 100)) for n in range(3)], id="as long as may be"),
        # a name costs each row 9 bytes, and a column of two 21
        pytest.param([output(n, features={f"{m:04x}": 0 for m in range(44_000)}) for n in range(6)], id="many names"),
        pytest.param([output(n, segments={f"s{n}": "x"}) for n in range(3_000)], id="each row its own name"),
    ],
)
def test_no_message_is_larger_than_may_be_and_each_row_is_in_one(records: list[Output]) -> None:
    together = gathered(records, 10_000)
    assert sorted(row.prediction_id for one in together for row in one.rows) == sorted(r.prediction_id for r in records)
    for one in together:
        assert len(one.message.value or b"") <= MOST_BYTES
        assert one.message.key == one.rows[0].prediction_id.encode()
        assert {topics.partition_of_id(row.prediction_id, 4) for row in one.rows} == {one.message.partition}
        if len(one.rows) > 1:
            assert msgspec.json.decode(one.message.value or b"")["rows"] == len(one.rows)


def test_what_waits_is_bounded_whatever_the_rows_have_in_common() -> None:
    many, sent = ManyRows(partitions=4, most_rows=10_000), 0
    for n in range(200):
        given = len(many.add(output(n, segments={f"s{n}": "x" * 100_000})))
        assert given in (0, n + 1 - sent), "all that waits, or nothing"
        sent += given
        assert (n + 1 - sent) * 100_000 <= WAITING_BYTES
    assert sent > 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (output(1, score=float("nan")), r"output\.score: expected a number, got null"),
        (output(1, text="x" * MOST_BYTES), rf"output: expected at most {MOST_BYTES} bytes of JSON, got \d+"),
        (output(1, text="\ud800"), r"output: expected text that can be written in UTF-8"),
        (output(1, segments={"s": 7}), r"output\.segments: expected a text"),
        (output(1, user_id=object()), r"output: expected values that JSON has, got an object of type object"),
        (Label(prediction_id="", model="m", labelled_at_ms=1, label=1), r"label\.prediction_id: expected a text of"),
    ],
)
def test_what_the_join_would_refuse_is_not_taken(row: Output | Label, said: str) -> None:
    many = ManyRows(partitions=4, most_rows=10)
    with pytest.raises(MalformedRecordError, match=said):
        many.add(row)
    assert many.rest() == []


def test_numbers_of_numpy_are_numbers() -> None:
    row, _ = checked(output(1, score=np.float32(0.5), features={"age": np.int64(7), "income": np.float64("nan")}))
    assert isinstance(row, Output)
    assert (row.score, row.features) == (0.5, {"age": 7, "income": None})
