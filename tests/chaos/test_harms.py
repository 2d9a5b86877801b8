"""Which harm is done when."""

import re
from pathlib import Path

import pytest

from tests.chaos.harms import HARMS, harms_of

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"


@pytest.mark.parametrize("nodes", [1, 3])
def test_each_harm_is_done_once_in_as_many_rounds_and_a_node_is_lost_where_there_are_several(nodes: int) -> None:
    harms = harms_of(nodes)
    assert len(set(harms)) == len(harms)
    assert set(HARMS) - set(harms) == ({"lose a node"} if nodes == 1 else set())


def test_the_seed_that_the_page_names_for_a_long_outage_is_one() -> None:
    named = re.search(r"SEED=(\d+) OUTAGE", PAGE.read_text())
    assert named is not None
    assert harms_of(1)[int(named[1])] == "outage"
