"""Every decoder says yes or `MalformedRecordError`; and what it says yes to can be written and read again.

Those of what stages keep read what Tocsin itself wrote: what else lies there is a foreign hand, and is called so.
"""

import zlib
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
from streams.runtime.claims import Claim
from streams.runtime.cursor import View
from streams.runtime.write_ahead import Restored, TornEntryError
from streams.stages.blocks import BlockKey, Manifest, decode, encode
from streams.stages.rows import Rows
from streams.stages.state_rows import StateRows, TornStateError
from tests.bad_input.mutations import PERSONAL, mutated, samples, swapped
from tests.streams.runtime.kept_states import GOLDEN, KINDS, STAGES, Kept, Sample

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


# ---- what stages keep


def changelogs(stage: str) -> list[list[Kept]]:
    """Return every form in which a stage ever kept its state."""
    return [Sample.decode(file.read_bytes()).changelog for file in sorted((GOLDEN / stage).glob("*.json"))]


JOINS = changelogs("join")
KEYS = [one.key for changelog in JOINS for one in changelog]
MANIFESTS = [one.value for changelog in JOINS for one in changelog if BlockKey.decode(one.key).kind == "manifest"]
BLOCKS = [
    one.value
    for changelog in JOINS
    for one in changelog
    if BlockKey.decode(one.key).kind not in {"manifest", "claim"}
]  # fmt: skip


def refused(error: Exception, wire: object) -> None:
    """Hold a refusal to what it may say."""
    assert str(error).isprintable(), wire
    assert PERSONAL not in str(error), wire


def manifest_accepted(wire: bytes) -> bool:
    try:
        manifest = Manifest.decode(wire)
    except MalformedRecordError as error:
        refused(error, wire)
        return False
    assert Manifest.decode(manifest.encode()) == manifest, wire
    return True


def block_accepted(wire: bytes) -> bool:
    try:
        header, arrays = decode(wire)
    except MalformedRecordError as error:
        refused(error, wire)
        return False
    again = encode(header, arrays)
    assert encode(*decode(again)) == again, wire
    return True


def with_its_crc(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little") + body


@settings(max_examples=300)
@given(data=st.data())
def test_a_key_of_the_joins_changelog_is_refused_or_kept(data: st.DataObject) -> None:
    wire = data.draw(mutated(KEYS))
    try:
        key = BlockKey.decode(wire)
    except MalformedRecordError as error:
        refused(error, wire)
    else:
        assert key.encode() == wire


def test_a_manifest_with_any_odd_value_is_refused_or_kept() -> None:
    assert {manifest_accepted(wire) for sample in MANIFESTS for wire in swapped(sample)} == {True, False}


@settings(max_examples=150)
@given(data=st.data())
def test_a_manifest_with_broken_bytes_is_refused_or_kept(data: st.DataObject) -> None:
    manifest_accepted(data.draw(mutated(MANIFESTS)))


def test_a_block_whose_header_holds_any_odd_value_is_refused_or_kept_though_its_crc_is_right() -> None:
    short = {encode(header, {}): None for header, _ in map(decode, BLOCKS)}
    few = sorted(sorted(BLOCKS, key=len)[:3] + sorted(short, key=len)[:3])
    assert {block_accepted(with_its_crc(body)) for wire in few for body in swapped(wire[4:])} == {True, False}


@pytest.mark.parametrize(
    "body", [b"", b"abc", b"null\n", b"{}\n", b'{"arrays":[["a","<f9",0]]}\n', b'{"arrays":[["a",[],1]]}\n',
             b'{"arrays":[["a","<f8",2305843009213693952]]}\n', b'{"arrays":[["a","|O8",1]]}\n12345678',
             b'{"arrays":[["a",[["b","|b1"],["b","|b1"]],1]]}\n12', b'{"arrays":[["a","|u1",1]]}\n12'],
)  # fmt: skip
def test_a_block_of_other_content_is_refused_though_its_crc_is_right(body: bytes) -> None:
    assert not block_accepted(with_its_crc(body))


@settings(max_examples=400)
@given(data=st.data())
def test_a_block_with_broken_bytes_is_refused_or_kept_whether_its_crc_is_right_or_not(data: st.DataObject) -> None:
    wire = data.draw(mutated(BLOCKS))
    assert block_accepted(wire) == (wire in BLOCKS), "a CRC-32 sees what is done here"
    block_accepted(with_its_crc(wire[4:]))


def harmed(data: st.DataObject, changelog: list[Kept]) -> list[Kept]:
    """Break the bytes of a record, in its key, its value or the epoch of its writer, and let it follow what it was.

    The first and the last are drawn as often as all others together: claims, manifests and entries lie there.
    """
    last = len(changelog) - 1
    at = data.draw(st.sampled_from([0, last]) | st.integers(0, last))
    one = changelog[at]
    match data.draw(st.sampled_from(["key", "value", "epoch"])):
        case "key":
            one = one._replace(key=data.draw(mutated([one.key])))
        case "value":
            one = one._replace(value=data.draw(mutated([one.value])))
        case _:
            one = one._replace(headers=tuple((name, data.draw(mutated([value]))) for name, value in one.headers))
    return [*changelog[: at + 1], one, *changelog[at + 1 :]]


@settings(max_examples=200)
@given(data=st.data())
def test_a_claim_is_taken_over_any_foreign_record_or_refused(data: st.DataObject) -> None:
    changelog = harmed(data, data.draw(st.sampled_from(JOINS)))
    taking = Claim(partition=1, owner=78)
    for offset, one in enumerate(changelog):
        taking.meet(offset, one.key, one.value)
    taking.end()
    taking.claimed_at(len(changelog))
    taking.meet(len(changelog), taking.key(), b"{}")
    try:
        kept = taking.kept()
    except MalformedRecordError as error:
        refused(error, changelog)
    else:
        assert kept.manifest is None or manifest_accepted(kept.manifest)


@pytest.mark.parametrize("stage", STAGES[1:])
@settings(max_examples=150)
@given(data=st.data())
def test_the_rows_of_a_stage_are_read_or_a_foreign_hand_is_noticed(stage: str, data: st.DataObject) -> None:
    changelog = harmed(data, data.draw(st.sampled_from(changelogs(stage))))
    restored = Restored(0)
    try:
        for one in changelog:
            restored.take(one.key, one.value, one.headers)
        view = View(0, restored.table)
        if stage == "detect":
            StateRows(view.rows).read()
        for prefix, kind in KINDS.get(stage, {}).items():
            list(Rows(view.rows, prefix, kind).items())
    except (TornEntryError, TornStateError) as error:
        refused(error, changelog)
