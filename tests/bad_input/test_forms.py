"""The join has two decoders, for one row and for many: whatever a row says, both understand the same."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.model import Model
from streams.runtime.decode import Decoded, LabelEdge, Messages, OutputEdge
from tests.bad_input.mutations import mutated, samples, swapped
from tests.streams.runtime.test_decode import contents

GROUPS = ("features", "segments", "probabilities")
PLACES = ("offset", "row", "start", "end", "broker_ms", "dead")
Edge = OutputEdge | LabelEdge


def model(name: str, kind: Any) -> Model:  # noqa: ANN401 -- a kind of model
    return Model(
        name=name, kind=kind, threshold=0.5, sla_accuracy=None, segments=("a segments",), required=(), label_wait_ms=1,
        features={"a features": "numeric", "another": "categorical"}, tier="standard",
    )  # fmt: skip


MODELS = {name: model(name, kind) for name, kind in (("a model", "classification"), ("r", "regression"))}
EDGES: Mapping[str, Callable[[Mapping[str, Model], int], Edge]] = {"output": OutputEdge, "label": LabelEdge}


def edge_of(name: str) -> Edge:
    return EDGES[name](MODELS, 4)


def decoded(edge: Edge, values: Sequence[bytes]) -> Decoded[Any]:
    count = len(values)
    return edge.decode(
        Messages(
            partition=0,
            start=0,
            end=count,
            offset=list(range(count)),
            broker_ms=[10**15] * count,
            key=[b"k"] * count,
            value=list(values),
        )
    )


def in_columns(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Lay rows of equal names out as columns; nested names with a dot where they are objects."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name in GROUPS and isinstance(value, dict):
                for inner, one in value.items():
                    columns.setdefault(f"{name}.{inner}", []).append(one)
            else:
                columns.setdefault(name, []).append(value)
    return json.dumps({"rows": len(rows), "columns": columns}).encode()


def reasons(made: Decoded[Any]) -> list[tuple[str, str, str]]:
    return sorted((letter.field, letter.expected, letter.got) for letter in made.dead)


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """Each sample with each odd value at each place, as far as it still is an object."""
    for sample in samples(name):
        whole = json.loads(sample) | {"made_at_ms": 7, {"output": "prediction"}.get(name, name): 2}
        for wire in swapped(json.dumps(whole).encode()):
            row = json.loads(wire)
            if isinstance(row, dict):
                yield row


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """In columns null means absent, but of a feature; a name that is absent stands in no column."""
    kept = {name: value for name, value in row.items() if value is not None}
    for group in ("segments", "probabilities"):
        if isinstance(kept.get(group), dict):
            kept[group] = {inner: one for inner, one in kept[group].items() if one is not None}
    return kept


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("of", ["a model", "r"])
def test_one_row_a_list_and_columns_say_the_same_of_any_row(name: str, of: str) -> None:
    edge, good, refused = edge_of(name), 0, 0
    for odd in rows_of(name):
        row = without_nulls(odd | ({"model": of} if "model" in odd else {}))
        alone = decoded(edge, [json.dumps(row).encode()])
        listed = decoded(edge, [json.dumps([row]).encode()])
        twice = decoded(edge, [in_columns([row, row])])
        twice_alone = decoded(edge, [json.dumps(row).encode()] * 2)
        assert contents(listed.batch, without=PLACES) == contents(alone.batch, without=PLACES), row
        assert reasons(listed) == reasons(alone), row
        if row:
            assert contents(twice.batch, without=PLACES) == contents(twice_alone.batch, without=PLACES), row
            assert reasons(twice) == reasons(twice_alone), row
        good += len(alone.batch.offset)
        refused += len(alone.dead)
    assert good > 50
    assert refused > 50


@pytest.mark.parametrize("name", EDGES)
@settings(max_examples=200)
@given(data=st.data())
def test_mutated_bytes_are_rows_or_letters_beside_any_others(name: str, data: st.DataObject) -> None:
    """What stands before and after a message does not change what it is."""
    whole = json.loads(samples(name)[-1])
    wires = [json.dumps(whole).encode(), in_columns([whole, whole]), json.dumps([whole, whole]).encode()]
    odd = [data.draw(mutated(wires)) for _ in range(3)]
    together = decoded(edge_of(name), [wires[0], *odd, wires[1]])
    apart = [decoded(edge_of(name), [wire]) for wire in (wires[0], *odd, wires[1])]
    assert len(together.batch.offset) == sum(len(one.batch.offset) for one in apart)
    assert reasons(together) == sorted(reason for one in apart for reason in reasons(one))
