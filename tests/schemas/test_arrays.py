"""Counts behind a header: the way there and back, and bytes of somebody else."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from schemas.arrays import MOST_CELLS, MOST_COUNT, Counts, lane_slices, pack, unpack
from schemas.fields import MalformedRecordError

LANES = ["*", "version:7", "version:8"]
SHAPES = st.sampled_from([(3, 1), (3, 4), (3, 2, 5), (3, 0)])
ENTRIES = st.one_of(st.just(0), st.integers(1, MOST_COUNT))
ARRAYS = st.dictionaries(
    st.sampled_from(["outputs", "labelled", "expired"]),
    SHAPES.flatmap(lambda shape: arrays_of.arrays(np.int64, shape, elements=ENTRIES)),
)


def head(**statistic: object) -> bytes:
    layout = {"name": "outputs", "shape": [4], "entries": 1} | statistic
    return msgspec.json.encode({"record": "demo", "lanes": LANES, "statistics": [layout]}) + b"\n"


def entry(index: int, count: int) -> bytes:
    return index.to_bytes(4, "little", signed=True) + count.to_bytes(8, "little", signed=True)


@given(arrays=ARRAYS)
def test_what_is_packed_unpacks_to_the_same(arrays: dict[str, Counts]) -> None:
    _, again = unpack(pack({"record": "demo"}, LANES, arrays), "demo")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


@given(arrays=ARRAYS)
def test_what_is_packed_has_one_form(arrays: dict[str, Counts]) -> None:
    wire = pack({"record": "demo"}, LANES, arrays)
    _, again = unpack(wire, "demo")
    assert pack({"record": "demo"}, LANES, again) == wire


def test_only_what_is_not_zero_travels() -> None:
    empty = pack({}, LANES, {"outputs": np.zeros((3, 1000), np.int64)})
    one = pack({}, LANES, {"outputs": np.eye(3, 1000, dtype=np.int64)})
    assert (len(empty) < 200, len(one) - len(empty)) == (True, 3 * 12)


def test_a_sum_beyond_32_bits_survives() -> None:
    _, again = unpack(pack({}, LANES, {"outputs": np.full((3, 1), 2**40)}), "demo")
    assert again["outputs"].tolist() == [[2**40]] * 3


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"", "a JSON header and a newline"),
        (b"\n", "lanes and statistics"),
        (b'{"lanes":["*"]}\n', "lanes and statistics"),
        (head() + entry(0, 1)[:-1], "entries that fit shape and bytes"),
        (head() + entry(0, 1) + b"\0", "12 bytes of entries"),
        (head() + entry(12, 1), "rising indices from 0 to below 12"),
        (head() + entry(-1, 1), "rising indices from 0 to below 12"),
        (head(entries=2) + b"".join([entry(1, 0)[:4] * 2, bytes(16)]), "rising indices from 0 to below 12"),
        (head() + entry(0, 0), f"counts from 1 to {MOST_COUNT}"),
        (head() + entry(0, -1), f"counts from 1 to {MOST_COUNT}"),
        (head() + entry(0, MOST_COUNT + 1), f"counts from 1 to {MOST_COUNT}"),
        (head(entries=-1), "lanes and statistics"),
        (head(shape=[-4]), "lanes and statistics"),
        (head(shape=[10**30]), "lanes and statistics"),
        (head(shape=[MOST_CELLS, MOST_CELLS]), "entries that fit shape and bytes"),
        (head(shape=[1] * 40), "a statistic once, of at most 8 axes"),
        (b'{"lanes":["*"],"statistics":' + b"[" * 100_000 + b"\n", "lanes and statistics"),
    ],
)
def test_bytes_that_do_not_fit_are_refused_and_said_why(wire: bytes, expected: str) -> None:
    with pytest.raises(MalformedRecordError) as caught:
        unpack(wire, "demo")
    assert caught.value.expected == expected


def test_a_small_record_cannot_ask_for_much_memory() -> None:
    layouts = [{"name": str(n), "shape": [MOST_CELLS // 3], "entries": 0} for n in range(50)]
    with pytest.raises(MalformedRecordError):
        unpack(msgspec.json.encode({"lanes": LANES, "statistics": layouts}) + b"\n", "demo")


@settings(max_examples=100)
@given(cut=st.binary(max_size=6), at=st.integers(0, 400), arrays=ARRAYS)
def test_mutated_bytes_are_counts_or_are_refused_and_never_worse(
    cut: bytes, at: int, arrays: dict[str, Counts]
) -> None:
    wire = bytearray(pack({"record": "demo"}, LANES, arrays))
    at %= len(wire)
    wire[at : at + len(cut) // 2] = cut
    try:
        unpack(bytes(wire), "demo")
    except MalformedRecordError as error:
        assert error.record == "demo"  # noqa: PT017 -- either way is right


@given(
    sizes=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 70), st.integers(1, 9)), min_size=1, max_size=20),
    limit_bytes=st.integers(100, 1500),
    is_listed_once=st.booleans(),
)
def test_parts_hold_whole_lanes_in_order_and_stay_below_the_limit_unless_one_lane_is_larger(
    sizes: list[tuple[int, int, int]], limit_bytes: int, *, is_listed_once: bool
) -> None:
    entries, named = [one[0] for one in sizes], [one[1] for one in sizes]
    lanes = ["x" * length for length in named]
    listed = [1 if is_listed_once else one[2] for one in sizes]
    array = (np.arange(30) < np.array(entries)[:, None]).astype(np.int64)
    slices = lane_slices({"outputs": array}, lanes, limit_bytes, None if is_listed_once else listed)
    assert [lane for cut in slices for lane in range(len(entries))[cut]] == list(range(len(entries)))

    def size(cut: slice) -> int:
        names = sum((length + 3) * times for length, times in zip(named[cut], listed[cut], strict=True))
        return int(np.count_nonzero(array[cut])) * 12 + names

    assert all(cut.stop - cut.start == 1 or size(cut) <= limit_bytes for cut in slices)
    for cut, follows in pairwise(slices):
        assert size(slice(cut.start, follows.start + 1)) > limit_bytes, "no part ends before it must"
