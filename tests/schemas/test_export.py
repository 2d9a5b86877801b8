"""Every record, by its definition alone: the way there and back, JSON Schema, golden samples, broken bytes."""

import json
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schemas
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.export import HEADERS, RECORDS, json_schema
from schemas.fields import MalformedRecordError, Record
from schemas.window_stats import WindowStats

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
ValuesOf = Callable[[Any], st.SearchStrategy[Any]]
FullOf = Callable[[Any], Any]

every_record = pytest.mark.parametrize("name", RECORDS)
few_examples = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def samples(name: str) -> list[Path]:
    """Return the golden samples of one record, oldest first."""
    return sorted((GOLDEN / name).glob("*.json"), key=lambda file: int(file.stem))


def paths(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    """List every leaf of a JSON value with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, f"{at}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths(inner, f"{at}[{number}]")
    else:
        yield at, value


@every_record
@few_examples
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same(name: str, values_of: ValuesOf, data: st.DataObject) -> None:
    record = data.draw(values_of(RECORDS[name]))
    assert RECORDS[name].decode(record.encode()) == record


@every_record
@few_examples
@given(data=st.data())
def test_what_is_encoded_fits_its_json_schema(name: str, values_of: ValuesOf, data: st.DataObject) -> None:
    record = data.draw(values_of(RECORDS[name]))
    jsonschema.Draft202012Validator(json_schema(name)).validate(json.loads(record.encode()))


@every_record
def test_a_field_that_nobody_knows_is_ignored(name: str, full_of: FullOf) -> None:
    record = full_of(RECORDS[name])
    wire = json.loads(record.encode())
    assert RECORDS[name].decode(json.dumps({**wire, "of_tomorrow": [1]}).encode()) == record


@every_record
@few_examples
@given(data=st.data())
def test_mutated_bytes_are_a_record_or_are_refused_and_never_worse(
    name: str, full_of: FullOf, data: st.DataObject
) -> None:
    wire = bytearray(full_of(RECORDS[name]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(wire) - 1))
        wire[at : at + data.draw(st.integers(0, 4))] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"null", b"1e999", b"-1", b"[", b"{}", b'"', b"9" * 400]))
        )
    with suppress(MalformedRecordError):
        RECORDS[name].decode(bytes(wire))


@every_record
@pytest.mark.parametrize("value", [None, b"", b"null", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(name: str, value: bytes | None) -> None:
    with pytest.raises(MalformedRecordError):
        RECORDS[name].decode(value)


@pytest.mark.parametrize("name", [*RECORDS, *HEADERS])
def test_a_json_schema_is_one(name: str) -> None:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:tocsin:schema:{name}:1"
    assert ">>>" not in schema["description"]


@every_record
def test_every_sample_ever_sent_still_decodes_and_keeps_all_that_it_said(name: str) -> None:
    for file in samples(name):
        sent = file.read_bytes().strip()
        kept = dict(paths(json.loads(RECORDS[name].decode(sent).encode())))
        assert {path: value for path, value in paths(json.loads(sent)) if kept.get(path) != value} == {}, file


@every_record
def test_the_record_as_it_is_sent_today_is_among_the_samples(name: str, full_of: FullOf) -> None:
    wire = full_of(RECORDS[name]).encode()
    if os.environ.get("UPDATE_GOLDEN") == "1" and wire not in [file.read_bytes().strip() for file in samples(name)]:
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
        with (GOLDEN / name / f"{len(samples(name)) + 1}.json").open("xb") as file:  # x: a sample is never rewritten
            file.write(wire + b"\n")
    known = [file.read_bytes().strip() for file in samples(name)]
    assert wire in known, f"{name} has changed: UPDATE_GOLDEN=1 adds a sample beside the old ones"


def whole_window_stats() -> WindowStats:
    return WindowStats(
        model="a model",
        tick_start_ms=1_764_064_800_000,
        tick_end_ms=1_764_064_810_000,
        source_partition=2,
        source_partitions=4,
        part=1,
        parts=3,
        baseline_version=2,
        offsets={"labels": (3, 5), "model-outputs": (7, 11)},
        lanes=("*", "version:7"),
        arrays={
            "outputs": np.array([[5], [3]]),
            "outputs_by_score": np.array([[0, 2, 3], [0, 0, 2**40]]),
            "feature_slots": np.arange(12).reshape(2, 2, 3),
        },
    )


def whole_baseline() -> Baseline:
    feature = FeatureBins(
        name="a feature", kind="numeric", required=True, edges=[0.5], low=-1.0, high=9.0, categories=["a"], known=["b"]
    )
    return Baseline(
        model="a model",
        version=2,
        valid_from_ms=1_764_064_800_000,
        part=1,
        parts=3,
        binning=Binning(
            tick_ms=10_000,
            score_edges=[0.25, 0.5],
            confidence_edges=[0.75],
            delay_edges_ms=[60_000],
            age_edges_ticks=[0, 6],
            features=[feature],
            segments={"a segment": ["a value"]},
            versions=["7"],
        ),
        reference_ms=(1_764_000_000_000, 1_764_060_000_000),
        armed={"a detector": ("*",)},
        tolerance={"a detector": 0.25},
        decided_at_ms=1_764_064_800_000,
        lanes=("*", "version:7"),
        arrays={"outputs": np.array([[5], [3]])},
    )


WHOLE: dict[str, Callable[[], WindowStats | Baseline]] = {
    "window-stats": whole_window_stats,
    "baseline": whole_baseline,
}
every_packed = pytest.mark.parametrize("name", WHOLE)


def packed_samples(name: str) -> list[Path]:
    return sorted((GOLDEN / name).glob("*.bin"), key=lambda file: int(file.stem))


def unpacked(wire: bytes) -> tuple[dict[str, object], bytes]:
    head, _, body = wire.partition(b"\n")
    return dict(paths(json.loads(head))), body


@every_packed
def test_every_packed_sample_ever_sent_still_decodes_and_keeps_all_that_it_said(name: str) -> None:
    for file in packed_samples(name):
        sent, counts = unpacked(file.read_bytes())
        kept, kept_counts = unpacked(type(WHOLE[name]()).decode(file.read_bytes()).encode())
        assert {path: value for path, value in sent.items() if kept.get(path) != value} == {}, file
        assert kept_counts == counts


@every_packed
def test_the_packed_record_as_it_is_sent_today_is_among_the_samples(name: str) -> None:
    wire = WHOLE[name]().encode()
    if os.environ.get("UPDATE_GOLDEN") == "1" and wire not in [file.read_bytes() for file in packed_samples(name)]:
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
        with (GOLDEN / name / f"{len(packed_samples(name)) + 1}.bin").open("xb") as file:
            file.write(wire)
    known = [file.read_bytes() for file in packed_samples(name)]
    assert wire in known, f"{name} has changed: UPDATE_GOLDEN=1 adds a sample beside the old ones"


@every_packed
def test_a_header_fits_its_json_schema(name: str) -> None:
    head, _, _ = WHOLE[name]().encode().partition(b"\n")
    jsonschema.Draft202012Validator(json_schema(name)).validate(json.loads(head))


def test_samples_are_numbered_without_a_gap() -> None:
    for folder in GOLDEN.iterdir():
        assert folder.name in {*RECORDS, *HEADERS}, "a record that was ever sent must decode for ever"
        numbers = sorted(int(file.stem) for file in folder.iterdir())
        assert numbers == list(range(1, len(numbers) + 1)), folder


def test_every_record_that_can_travel_is_listed() -> None:
    """Whatever decodes bytes and is not a part of another record stands in the table."""
    inner = {"Effect", "Judgement", "Record", "Timed"}
    found: set[type[Record]] = set()
    parts: set[type] = set()
    for module in pkgutil.iter_modules(schemas.__path__, "schemas."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Record) and value.__name__ not in inner:
                found.add(value)
    for record in found:
        for field in msgspec.inspect.type_info(record).fields:  # type: ignore[attr-defined]
            parts |= set(structs(field.type))
    assert {record.__name__ for record in found - parts - set(RECORDS.values())} == set()


def structs(shape: Any) -> Iterator[type]:  # noqa: ANN401 -- msgspec's types have no common base
    """List the structs inside a shape."""
    match shape:
        case msgspec.inspect.StructType():
            yield shape.cls
            for field in shape.fields:
                yield from structs(field.type)
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            yield from structs(shape.item_type)
        case msgspec.inspect.DictType():
            yield from structs(shape.value_type)
        case msgspec.inspect.UnionType():
            for one in shape.types:
                yield from structs(one)
