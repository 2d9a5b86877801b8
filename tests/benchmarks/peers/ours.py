"""What does our own join count of the same rows? Sums of its closed ticks, put into the form of the peers."""

import time

from schemas.clock import Clock
from schemas.closed import Closed
from schemas.lane import Lane
from schemas.window_stats import WindowStats
from streams.runtime import topics
from streams.runtime.sending import send_all
from tests.benchmarks.deployment import Deployment
from tests.benchmarks.peers.expected import Counts

LATER_MS = 3_600_000
CLOSE_WAIT_S = 60.0
REST_S = 1.0
COUNTED = ("outputs", "labelled_by_delay_confidence", "wrong_by_delay_confidence")


def counts(deployment: Deployment) -> Counts:
    """Join what is there, and return the counts of each tick and lane; a window is a tick.

    The clock is told first that it is an hour later than the last label, so that all ticks close.
    """
    _, at_ms = deployment.workload.labels()
    later = Clock(now_ms=int(at_ms[-1]) + LATER_MS)
    send_all(deployment.cluster, topics.route_each(later, deployment.cluster.output_partitions))
    deployment.run(rest_s=REST_S)
    until_s = time.monotonic() + CLOSE_WAIT_S
    while True:
        found: dict[tuple[int, int, int], WindowStats] = {}
        through_ms: dict[int, int] = {}
        for key, value in deployment._read(topics.WINDOW_STATS):  # noqa: SLF001
            if key is None:
                closed = Closed.decode(value)
                through_ms[closed.source_partition] = max(closed.through_ms, through_ms.get(closed.source_partition, 0))
            else:
                stats = WindowStats.decode(value)
                found[stats.source_partition, stats.tick_start_ms, stats.part] = stats
        if len(through_ms) == deployment.cluster.input_partitions and min(through_ms.values()) > at_ms[-1]:
            return _added(list(found.values()))
        assert time.monotonic() < until_s, f"ticks did not close: {through_ms}"
        deployment.run(rest_s=REST_S, may_restore=True)


def _added(some: list[WindowStats]) -> Counts:
    counts: Counts = {}
    for stats in some:
        outputs, labelled, wrong = (stats.arrays[name].reshape(len(stats.lanes), -1).sum(axis=1) for name in COUNTED)
        for at, lane in enumerate(map(Lane.of, stats.lanes)):
            if lane.is_rollup or not outputs[at] + labelled[at]:
                continue
            place = stats.tick_start_ms, lane.value
            known = counts.get(place, (0, 0, 0))
            more = int(outputs[at]), int(labelled[at]), int(labelled[at] - wrong[at])
            counts[place] = known[0] + more[0], known[1] + more[1], known[2] + more[2]
    return counts
