"""Names of lanes: one for each, and readable again."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.lane import Lane

TEXTS = st.one_of(st.text(max_size=6), st.text("%|=:*25BC37D", max_size=8))


def lanes(version: str, segment: str, value: str) -> Lane:
    return Lane(version, segment, value if segment else "")


LANES = st.builds(lanes, TEXTS, TEXTS, TEXTS)


@given(lane=LANES)
def test_a_name_reads_back_as_its_lane_whatever_the_text(lane: Lane) -> None:
    assert Lane.of(lane.name) == lane


@given(one=LANES, other=LANES)
def test_two_lanes_never_share_a_name(one: Lane, other: Lane) -> None:
    assert (one.name == other.name) == (one == other)


def test_a_version_or_a_segment_alone_rolls_up_the_finer_lanes() -> None:
    finest = Lane("7", "SEX", "1")
    assert [lane.is_rollup for lane in (Lane(), Lane("7"), Lane("", "SEX", "1"), finest)] == [True, True, True, False]
