"""Many rows in a message are the same rows as each by itself, seen from the edge that decodes them."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from streams.runtime import topics
from streams.runtime.decode import LabelEdge, Messages, OutputEdge
from streams.runtime.many_rows import ManyRows
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
    criticality="normal",
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
    many = ManyRows(partitions=4, most_rows=most_rows)
    full = [message for record in records if (message := many.add(record)) is not None]
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
