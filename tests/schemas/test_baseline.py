"""Baselines: the way there and back, in parts that come in any order, and refused with a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
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


def large() -> Baseline:
    rng = np.random.default_rng(7)
    lanes = tuple(f"version:7|segment:region={number}" for number in range(500))
    return replace(BASELINE, lanes=lanes, arrays={"feature_slots": rng.integers(1, 9, (500, 40, 17))})


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
    joined = Baseline.joined([*reversed(parts), parts[0]])
    assert joined is not None
    assert joined.encode() == whole.encode()


def test_a_baseline_with_a_part_missing_is_none_yet() -> None:
    parts = large().split()
    assert Baseline.joined(parts[1:]) is None
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
