"""A run in which something is missing gives no figure."""

import pytest

from tests.benchmarks.deployment import Ran
from tests.benchmarks.figures import UnfitError
from tests.benchmarks.throughput import check, rate_of
from tests.benchmarks.watched_worker import Memory, Moment, Noted
from tests.benchmarks.workload import Workload

WORKLOAD = Workload(outputs=1_000)
LABELS, LABELLED = 854, 846
WHOLE = {
    "output_rows": 1_000, "label_rows": LABELS, "labelled": LABELLED, "corrected": LABELS - LABELLED, "expired": 6,
    "pending_rows": 1_000 - LABELLED - 6, "late_output": 0, "late_label": 0, "dead_output": 0, "dead_label": 0,
    "orphan_rows": 0, "conservation_error": 0,
}  # fmt: skip


def at(seconds: float) -> Moment:
    return Moment(wall_s=seconds, thread_s=seconds / 2, process_s=seconds / 2)


def ran(counters: dict[str, int], *, began_s: float = 1, durable_s: float = 3) -> Ran:
    nothing = Memory(own=0, files=0)
    noted = Noted(
        assigned=at(0), ready=at(0), restored=0, began=at(began_s), read=at(durable_s), durable=at(durable_s),
        rows=counters["output_rows"] + counters["label_rows"], empty=nothing, memory=nothing, disk=0, samples=[],
        counters=counters, counts={},
    )  # fmt: skip
    return Ran(0.0, noted)


def test_a_whole_run_is_taken() -> None:
    check([WORKLOAD], [ran(WHOLE)])


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_that_is_not_whole_is_not(name: str) -> None:
    with pytest.raises(UnfitError, match="expected"):
        check([WORKLOAD], [ran(WHOLE | {name: WHOLE[name] + 1})])


def test_two_processes_are_timed_from_the_first_row_of_either_to_the_last_checkpoint() -> None:
    half = WHOLE | {"output_rows": 500, "label_rows": 500}
    #  1----------3
    #     2-----------5
    rate = rate_of([ran(half), ran(half, began_s=2, durable_s=5)])
    assert rate.wall == 2_000 / (5 - 1)
    assert rate.thread == pytest.approx(1_000 / 1 + 1_000 / 1.5)
