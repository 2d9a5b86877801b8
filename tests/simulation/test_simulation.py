"""Does a crash between any two steps change what comes out? Some seeds in every run; `make sim` runs many."""

import pytest

from tests.simulation.judge import judge
from tests.simulation.simulation import Chaos, Simulation

ROUGH = Chaos(crash=0.01, stop=0.004, compact=0.01, lead_ticks=1, jump=0.02)


@pytest.mark.parametrize("seed", [5, 12])
def test_whatever_crashes_nothing_is_lost_and_the_incidents_are_those_of_a_plain_computation(seed: int) -> None:
    run = Simulation(seed, ROUGH)
    run.run()
    verdict = judge(run)
    assert verdict.conservation == []
    assert verdict.incidents == []
    assert run.crashes > run.stops > 0
    assert verdict.counts["incidents"] > 0
    assert verdict.counts["notifications"] > verdict.counts["incidents"]
