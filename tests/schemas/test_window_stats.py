"""Window statistics: the way there and back, in parts, and refused with a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrays import LIMIT_BYTES
from schemas.fields import MalformedRecordError
from schemas.window_stats import WindowStats

STATS = WindowStats(
    model="fraud",
    tick_start_ms=0,
    tick_end_ms=10_000,
    source_partition=3,
    source_partitions=4,
    part=0,
    parts=1,
    baseline_version=1,
    offsets={"labels": (3, 5)},
    lanes=("*", "version:7"),
    arrays={"outputs": np.array([[5], [2]])},
)


def test_what_is_encoded_decodes_to_the_same() -> None:
    again = WindowStats.decode(STATS.encode())
    assert again.encode() == STATS.encode()
    assert (again.model, again.tick_end_ms, again.source_partition, again.parts) == ("fraud", 10_000, 3, 1)
    assert again.offsets == {"labels": (3, 5)}
    np.testing.assert_array_equal(again.arrays["outputs"], STATS.arrays["outputs"])


def test_parts_are_below_the_limit_of_a_record_and_together_the_whole() -> None:
    rng = np.random.default_rng(7)
    lanes = tuple(f"version:7|segment:region={number}" for number in range(500))
    big = replace(STATS, lanes=lanes, arrays={"feature_slots": rng.integers(1, 9, (500, 30, 17))})
    parts = big.split()
    assert len(parts) > 1
    assert [(part.part, part.parts) for part in parts] == [(n, len(parts)) for n in range(len(parts))]
    assert max(len(part.encode()) for part in parts) <= LIMIT_BYTES
    assert tuple(lane for part in parts for lane in part.lanes) == lanes
    np.testing.assert_array_equal(
        np.concatenate([part.arrays["feature_slots"] for part in parts]), big.arrays["feature_slots"]
    )


def test_parts_are_below_the_limit_however_long_the_names_of_lanes() -> None:
    lanes = tuple(f"version:{'v' * 64}|segment:region={number}{'ü' * 64}" for number in range(5_000))
    parts = replace(STATS, lanes=lanes, arrays={"outputs": np.ones((5_000,), np.int64)}).split()
    assert max(len(part.encode()) for part in parts) <= LIMIT_BYTES
    assert tuple(lane for part in parts for lane in part.lanes) == lanes


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"source_partition":3', b'"source_partition":-1', "source_partition"),
        (b'"source_partitions":4', b'"source_partitions":0', "source_partitions"),
        (b'"model":"fraud"', b'"model":""', "model"),
        (b'"labels":[3,5]', b'"labels":[3]', "offsets"),
        (b'"record":"window-stats"', b'"record":"baseline"', "record"),
    ],
)
def test_a_wrong_header_is_refused_by_its_field(old: bytes, new: bytes, field: str) -> None:
    assert old in STATS.encode()
    with pytest.raises(MalformedRecordError) as caught:
        WindowStats.decode(STATS.encode().replace(old, new))
    assert (caught.value.record, caught.value.field.partition("[")[0].partition(".")[0]) == ("windowstats", field)


def test_nothing_is_refused() -> None:
    with pytest.raises(MalformedRecordError):
        WindowStats.decode(None)


@given(at=st.integers(0, 2000), cut=st.integers(0, 3), instead=st.binary(max_size=3))
def test_mutated_bytes_are_refused_or_decode_and_never_worse(at: int, cut: int, instead: bytes) -> None:
    wire = bytearray(STATS.encode())
    at %= len(wire)
    wire[at : at + cut] = instead
    try:
        WindowStats.decode(bytes(wire))
    except MalformedRecordError as error:
        assert error.record == "windowstats"  # noqa: PT017 -- either way is right
