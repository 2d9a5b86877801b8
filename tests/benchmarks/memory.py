"""What does a pending output cost, how soon is all of it there again, and does memory stay flat?"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from statistics import median

from tests.benchmarks.deployment import Deployment, Ran
from tests.benchmarks.figures import Bench, Figure, Measured, UnfitError, the_one
from tests.benchmarks.throughput import SMALL_OUTPUTS, SMALL_TICKS, check
from tests.benchmarks.watched_worker import Sample
from tests.benchmarks.workload import Workload

PENDING = Workload(outputs=10_200_000, rows_a_message=100, labels_one_in=40)
"""Of which 10 million stay pending; the others have labels, and so marks."""
FLAT = Workload(outputs=5_000_000, label_delay_ms=12_500)
FLAT_WAITS = {"label_wait": "15 s", "correction_wait": "15 s", "orphan_wait": "15 s"}
"""So that as many outputs are pending at a tenth of the rows as at the end."""
FLAT_ROWS_PER_S = 300_000
"""Slower than rows come: where one topic's have not come yet the other is read ahead, and another number is pending."""
SMALL_WAITS = {"label_wait": "2 s", "correction_wait": "2 s", "orphan_wait": "2 s"}
SMALL_DELAY_MS = 1_000
SMALL_BLOCKS = {"block_rows": 1_024}
"""So that some rows of few are cold too."""
REST_S = 12.0
"""How long nothing is read before memory is looked at: what was prefetched is free, and was given back."""
FIRST, LAST = (0.1, 0.2), (0.9, 1.0)
"""Shares of the rows between which memory is compared."""
SAME_PENDING = 0.1


def pending(bench: Bench) -> Measured:
    """Measure what the process holds beyond what it held with nothing; then start another in an empty folder."""
    workload = replace(PENDING, outputs=SMALL_OUTPUTS) if bench.small else PENDING
    bench.say(f"pending: {workload.outputs:,} outputs are written, one in {48} with its label")
    deployment = _deployment(bench, "pending", workload, {**SMALL_TICKS, **SMALL_BLOCKS} if bench.small else {})
    held: list[Ran] = []
    restored: list[Ran] = []
    hashes = set()
    for run in range(bench.runs):
        deployment.renew()
        held += deployment.run(rest_s=0.0 if bench.small else REST_S)
        check([workload], held[-1:])
        hashes.add(deployment.results())
        restored += deployment.run(may_restore=True)
        check([workload], restored[-1:])
        _compare(held[-1], restored[-1])
        bench.say(
            f"pending: run {run + 1} of {bench.runs}: {_a_row(held[-1], _own(held[-1])):.1f} bytes a row, "
            f"restored in {_restore_s(restored[-1]):.1f} s"
        )
    return Measured(
        figures=[
            Figure(
                name="pending_bytes_per_output",
                runs=[_a_row(one, _own(one)) for one in held],
                unit="B",
                target=("≤", 30.0),
                beside={
                    "of_which_rows": [_a_row(one, one.noted.counters["resident_bytes"]) for one in held],
                    "mapped_files": [_a_row(one, one.noted.memory.files - one.noted.empty.files) for one in held],
                    "restored": [_a_row(one, _own(one)) for one in restored],
                },
                note="anonymous memory beyond what the process held with nothing; mapped files are not in it",
            ),
            Figure(
                name="disk_bytes_per_output",
                runs=[_a_row(one, one.noted.disk) for one in held],
                unit="B",
                note="files of the rows that are cold; they are mapped",
            ),
            Figure(
                name="restore_10m_s",
                runs=[_restore_s(one) for one in restored],
                unit="s",
                target=("≤", 5.0),
                beside={
                    "by_thread_cpu": [one.noted.ready.thread_s - one.noted.assigned.thread_s for one in restored],
                    "from_process_start": [one.noted.ready.wall_s - one.launched_s for one in restored],
                },
                note="from the moment at which partitions are assigned; the folder is empty",
            ),
        ],
        results={"pending": the_one(hashes, "pending")},
    )


def flat(bench: Bench) -> Measured:
    """Measure anonymous memory at a tenth of the rows, and at the end."""
    workload, settings = FLAT, FLAT_WAITS
    if bench.small:
        workload = replace(FLAT, outputs=SMALL_OUTPUTS, label_delay_ms=SMALL_DELAY_MS)
        settings = SMALL_WAITS | SMALL_TICKS
    bench.say(f"flat: {workload.outputs:,} outputs and their labels are written")
    deployment = _deployment(bench, "flat", workload, settings)
    ratios, own, hashes = [], [], set()
    for run in range(bench.runs):
        deployment.renew()
        [ran] = deployment.run(rows_per_s=inf if bench.small else FLAT_ROWS_PER_S)
        check([workload], [ran])
        hashes.add(deployment.results())
        first, last = (_between(ran, *part) for part in (FIRST, LAST))
        before, after = (median(one.pending for one in part) for part in (first, last))
        if not bench.small and abs(after / before - 1) > SAME_PENDING:
            raise UnfitError(f"flat: {before:,.0f} outputs were pending, and in the end {after:,.0f}")
        small, large = (median(one.memory.own for one in part) for part in (first, last))
        ratios.append(large / small)
        own.append(large / (1 << 20))
        bench.say(f"flat: run {run + 1} of {bench.runs}: {ratios[-1]:.2f}, {after:,.0f} pending, {own[-1]:.0f} MiB")
    return Measured(
        figures=[
            Figure(
                name="rss_flat_ratio",
                runs=ratios,
                unit="",
                target=("≤", 1.1),
                beside={"MiB_in_the_end": own},
                note="anonymous memory: medians over 10 to 20 % of the rows and over the last 10 %",
            )
        ],
        results={"flat": the_one(hashes, "flat")},
    )


def _deployment(bench: Bench, name: str, workload: Workload, settings: Mapping[str, str | int]) -> Deployment:
    return Deployment(bench.folder / name, bench.broker(), f"bench-{uuid.uuid4().hex[:8]}.", workload, settings)


def _compare(held: Ran, restored: Ran) -> None:
    """Refuse a restore after which not the same is pending."""
    was, now = held.noted.counters["pending_rows"], restored.noted.restored
    if was != now:
        raise UnfitError(f"{was} outputs were pending, {now} were restored")


def _own(ran: Ran) -> int:
    return ran.noted.memory.own - ran.noted.empty.own


def _a_row(ran: Ran, size: int) -> float:
    return size / ran.noted.counters["pending_rows"]


def _restore_s(ran: Ran) -> float:
    return ran.noted.ready.wall_s - ran.noted.assigned.wall_s


def _between(ran: Ran, low: float, high: float) -> Sequence[Sample]:
    found = [one for one in ran.noted.samples if low <= one.rows / ran.noted.rows <= high]
    if not found:
        raise UnfitError(f"nobody looked at memory between {low:.0%} and {high:.0%} of the rows")
    return found
