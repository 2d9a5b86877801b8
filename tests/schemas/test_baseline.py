"""Baselines: the way there and back, in parts that come in any order, and refused with a reason."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detectors.binning import baseline_zero
from schemas.arrays import LIMIT_BYTES
from schemas.baseline import Baseline
from schemas.fields import MalformedRecordError

BASELINE = Baseline(
    model="fraud",
    version=1,
    valid_from_ms=120_000,
    binning=baseline_zero(10_000, 0.5),
    reference_ms=(0, 60_000),
    armed={"error_rate": ("*",)},
    tolerance={"error_rate": 0.1},
    decided_at_ms=60_000,
    lanes=("*", "version:7"),
    arrays={"outputs": np.array([[5], [2]])},
)


DETECTORS = tuple(f"detector_{number}" for number in range(9))


def wide(name: str, lanes: int, entries: int, values: int) -> Baseline:
    """Return a baseline whose lanes end in a name, all armed by all detectors but the last, with bins of so many values."""
    listed = tuple(f"version:7|segment:region={number}{name}" for number in range(lanes))
    binning = msgspec.structs.replace(
        BASELINE.binning, segments={"region": [f"{number}{name}" for number in range(values)]}
    )
    return replace(
        BASELINE,
        binning=binning,
        lanes=listed,
        armed={**dict.fromkeys(DETECTORS, listed), "last": (), "some": listed[::3]},
        arrays={"feature_slots": np.ones((lanes, entries), np.int64), "outputs": np.ones((lanes,), np.int64)},
    )


def large() -> Baseline:
    rng = np.random.default_rng(7)
    lanes = tuple(f"version:7|segment:region={number}" for number in range(500))
    armed = {"error_rate": lanes[:2], "silence": lanes[300:]}
    return replace(BASELINE, lanes=lanes, armed=armed, arrays={"feature_slots": rng.integers(1, 9, (500, 40, 17))})


def test_what_is_encoded_decodes_to_the_same() -> None:
    again = Baseline.decode(BASELINE.encode())
    assert again.encode() == BASELINE.encode()
    assert again.binning == BASELINE.binning
    assert (again.armed, again.tolerance, again.reference_ms) == (
        {"error_rate": ("*",)},
        {"error_rate": 0.1},
        (0, 60_000),
    )


def test_parts_are_below_the_limit_and_join_in_any_order_and_twice() -> None:
    whole = large()
    parts = [Baseline.decode(part.encode()) for part in whole.split()]
    assert len(parts) > 1
    assert max(len(part.encode()) for part in parts) <= LIMIT_BYTES
    assert all(set(part.lanes).issuperset(lanes) for part in parts for lanes in part.armed.values())
    joined = Baseline.joined([*reversed(parts), parts[0]])
    assert joined is not None
    assert joined.encode() == whole.encode()


@settings(max_examples=20)
@given(
    name=st.text(st.characters(codec="utf-8"), max_size=64),
    lanes=st.integers(1, 3_000),
    entries=st.integers(0, 60),
    values=st.integers(0, 2_000),
)
@example(name="ü" * 64, lanes=3_000, entries=0, values=2_000)
@example(name='"' * 64, lanes=3_000, entries=60, values=2_000)
def test_parts_are_below_the_limit_however_long_the_names_and_join_to_the_whole(
    name: str, lanes: int, entries: int, values: int
) -> None:
    whole = wide(name, lanes, entries, values)
    parts = [part.encode() for part in whole.split()]
    assert max(map(len, parts)) <= LIMIT_BYTES
    assert whole.too_large() == ""
    joined = Baseline.joined([Baseline.decode(part) for part in parts])
    assert joined is not None
    assert joined.encode() == whole.encode()


def test_parts_are_as_large_as_they_may_be() -> None:
    sizes = [len(part.encode()) for part in wide("n" * 64, 3_000, 60, 500).split()]
    assert min(sizes[:-1]) > LIMIT_BYTES - 2_500  # none has room for one lane more


def test_parts_that_each_list_the_armed_lanes_of_all_join_to_the_same() -> None:
    whole = large()
    joined = Baseline.joined([replace(part, armed=whole.armed) for part in whole.split()])
    assert joined is not None
    assert joined.encode() == whole.encode()


def test_bins_that_are_larger_than_a_record_are_named_with_what_helps() -> None:
    said = wide("n" * 64, 20, 2, 20_000).too_large()
    assert said.startswith("too large to be published: a part has 1,")
    assert "(0 features, 0 versions, 20,000 segment values), and a record has at most 900,000" in said
    assert said.endswith("declare fewer features or segments, or lower detect.max_lanes_per_model")


def test_a_lane_that_is_larger_than_a_record_is_named_too() -> None:
    assert wide("", 2, 80_000, 1).too_large().startswith("too large to be published: a part has 96")


def test_a_baseline_with_a_part_missing_is_none_yet() -> None:
    parts = large().split()
    assert Baseline.joined(parts[1:]) is None
    assert Baseline.joined([*parts[:-1], replace(parts[-1], part=len(parts))]) is None
    assert Baseline.joined([]) is None


def test_version_0_is_in_code_and_never_on_the_wire() -> None:
    with pytest.raises(MalformedRecordError, match=r"baseline.version"):
        Baseline.decode(BASELINE.encode().replace(b'"version":1', b'"version":0'))


@given(at=st.integers(0, 4000), cut=st.integers(0, 3), instead=st.binary(max_size=3))
def test_mutated_bytes_are_refused_or_decode_and_never_worse(at: int, cut: int, instead: bytes) -> None:
    wire = bytearray(BASELINE.encode())
    at %= len(wire)
    wire[at : at + cut] = instead
    try:
        Baseline.decode(bytes(wire))
    except MalformedRecordError as error:
        assert error.record == "baseline"  # noqa: PT017 -- either way is right
