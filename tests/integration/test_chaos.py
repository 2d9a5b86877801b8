"""Some rounds of `make chaos`: two workers of the join and two of all else, killed, frozen and moved with a backlog."""

from pathlib import Path

import pytest

from tests.chaos.deployment import TOGETHER, Nodes
from tests.chaos.run import run

pytestmark = pytest.mark.kafka


def test_whatever_is_harmed_the_logs_are_those_of_a_plain_computation(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    rounds = [(101, "kill triage"), (102, "freeze a small stage"), (103, "move"), (104, "upgrade")]
    report = run(Nodes(kafka, 1, None), tmp_path, rounds, outage_s=0.0, layout=TOGETHER, prefix=topic_prefix)
    assert report.holds, report.figures
    assert report.rounds == len(rounds)
    assert report.figures["kills"] == 2
    assert report.ended["silent beyond its session"] == 1
    assert report.faults.counts["incidents"] > 0
    assert report.faults.counts["delivered"] > 0
    assert report.faults.counts["of_next_version"] > 0
