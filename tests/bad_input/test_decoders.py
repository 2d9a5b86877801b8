"""Every decoder says yes or `MalformedRecordError`; and what it says yes to can be written and read again."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.baseline import Baseline
from schemas.cloudevents import STRUCTURED, CloudEvent, from_kafka, to_kafka
from schemas.export import HEADERS, RECORDS
from schemas.fields import MalformedRecordError
from schemas.window_stats import WindowStats
from tests.bad_input.mutations import PERSONAL, mutated, samples, swapped

Decode = Callable[[bytes], Any]

PACKED: Mapping[str, type[WindowStats | Baseline]] = {"window-stats": WindowStats, "baseline": Baseline}
DECODERS: Mapping[str, Decode] = {name: kind.decode for name, kind in {**RECORDS, **PACKED}.items()}
EVENT = CloudEvent(
    id="i:1",
    source="urn:tocsin:acme",
    type="org.example.incident.opened.v1",
    subject="INC-1",
    time="2026-11-22T10:00:00.000Z",
    datacontenttype="application/json",
    extensions={"partitionkey": "p", "sampled": True, "severitynumber": 17},
    data=b'{"a": [1]}',
)

every_record = pytest.mark.parametrize("name", DECODERS)
every_mode = pytest.mark.parametrize("mode", ["binary", "structured"])


def same(one: Any, other: Any) -> bool:  # noqa: ANN401 -- any record
    """Compare records, also those that hold arrays."""
    if isinstance(one, WindowStats | Baseline):
        return bool(one.encode() == other.encode()) and all(
            np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items()
        )
    return bool(one == other)


def accepted(name: str, wire: bytes) -> bool:
    """Say whether a record is accepted, and hold it to its word."""
    decode = DECODERS[name]
    try:
        record = decode(wire)
    except MalformedRecordError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.isprintable(), wire
        assert PERSONAL not in said, wire
        return False
    again = decode(record.encode())
    assert same(record, again), wire
    assert again.encode() == record.encode(), wire
    return True


@every_record
def test_a_field_of_any_other_type_is_refused_or_kept(name: str) -> None:
    verdicts = [accepted(name, wire) for sample in samples(name) for wire in swapped(sample.rstrip(b"\n"))]
    assert True in verdicts, "an odd text is a text"
    assert False in verdicts, "an odd type is refused"


@every_record
@settings(max_examples=150)
@given(data=st.data())
def test_bytes_that_were_flipped_cut_or_copied_are_refused_or_kept(name: str, data: st.DataObject) -> None:
    accepted(name, data.draw(mutated(samples(name))))


@every_record
def test_no_whole_number_outgrows_what_state_and_arrays_can_hold(name: str) -> None:
    """What a stage keeps in rows of MessagePack or in arrays fits 64 bits, so a record's numbers must."""
    kind = RECORDS[name] if name in RECORDS else HEADERS[name]
    unbounded = [path for path, shape in numbers(msgspec.inspect.type_info(kind), name) if not bounded(shape)]
    assert unbounded == []


def numbers(shape: Any, path: str) -> list[tuple[str, msgspec.inspect.IntType]]:  # noqa: ANN401 -- msgspec's types have no common base
    """List the whole numbers inside a shape."""
    match shape:
        case msgspec.inspect.IntType():
            return [(path, shape)]
        case msgspec.inspect.StructType():
            return [one for field in shape.fields for one in numbers(field.type, f"{path}.{field.name}")]
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return numbers(shape.item_type, f"{path}[]")
        case msgspec.inspect.TupleType():
            return [one for item in shape.item_types for one in numbers(item, f"{path}[]")]
        case msgspec.inspect.DictType():
            return numbers(shape.key_type, path) + numbers(shape.value_type, f"{path}{{}}")
        case msgspec.inspect.UnionType():
            return [one for part in shape.types for one in numbers(part, path)]
        case _:
            return []


def bounded(shape: msgspec.inspect.IntType) -> bool:
    return shape.ge is not None and shape.ge >= -(2**63) and shape.le is not None and shape.le < 2**63


# ---- CloudEvents


def taken(headers: Any, value: bytes | None, mode: Literal["binary", "structured"]) -> None:  # noqa: ANN401 -- drawn ones
    """Read a message; an event that is accepted is written and read to itself."""
    try:
        event = from_kafka(headers, value)
    except MalformedRecordError as error:
        event, said = None, str(error)
    else:
        said = ""
    assert said.isprintable(), (headers, value)
    assert PERSONAL not in said, (headers, value)
    if isinstance(event, CloudEvent):
        assert from_kafka(*to_kafka(event, mode)) == event


@settings(max_examples=300)
@given(data=st.data())
def test_a_structured_event_is_refused_or_kept(data: st.DataObject) -> None:
    headers, value = to_kafka(EVENT, "structured")
    assert value is not None
    taken(headers, data.draw(mutated([value])), "structured")


def test_an_attribute_of_any_other_type_is_refused_or_kept() -> None:
    headers, value = to_kafka(EVENT, "structured")
    assert value is not None
    for wire in swapped(value):
        taken(headers, wire, "structured")


@settings(max_examples=300)
@given(data=st.data())
def test_a_binary_event_is_refused_or_kept(data: st.DataObject) -> None:
    whole, value = to_kafka(EVENT)
    headers: list[tuple[str, bytes | None]] = list(whole)
    for at in data.draw(st.lists(st.integers(0, len(headers) - 1), max_size=3)):
        name = whole[at][0]
        odd_name = st.sampled_from(
            [
                name,
                "",
                "ce_",
                name.upper(),
                "ce_data",
                "ce_extensions",
                "content-type",
                "ce_ü",
                "ce_\x1b[2J",
                f"ce_{PERSONAL}",
            ]
        )
        odd = st.one_of(st.none(), st.binary(max_size=4), mutated([whole[at][1]]), st.just(STRUCTURED.encode()))
        headers[at] = (data.draw(odd_name), data.draw(odd))
    taken(headers, value, "binary")


@every_mode
def test_nesting_without_end_is_refused(mode: str) -> None:
    headers, _ = to_kafka(EVENT, "structured" if mode == "structured" else "binary")
    for value in (b"[" * 100_000, b'{"data":' * 100_000, b'{"id":' + b"[" * 100_000):
        with suppress(MalformedRecordError):
            event = from_kafka(headers, value)
            assert mode == "binary", "whose value is data that nobody looks into"
            assert isinstance(event, CloudEvent)
