"""How many rows a second does the join take, as a share of what bare decoding of the same bytes takes in the same run?

All is on: state and its changelog, sums of closed ticks, commits, metrics that somebody reads. A run lasts from before the
first row until the checkpoint after the last. Shares stand by the wall, and beside it by processor time of the one
thread that decodes.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from streams.runtime import topics
from tests.benchmarks import bare, workload
from tests.benchmarks.bare import Asked, Taken
from tests.benchmarks.deployment import RUN_WAIT_S, Deployment, Ran
from tests.benchmarks.figures import Bench, Figure, Measured, UnfitError, the_one
from tests.benchmarks.watched_worker import Moment
from tests.benchmarks.workload import Workload

SINGLE = Workload(outputs=2_000_000)
WIDE = Workload(outputs=1_000_000, features=20)
BATCHED = Workload(outputs=4_000_000, rows_a_message=100)
SMALL_OUTPUTS, SMALL_DELAY_MS = 40_000, 1_000
SMALL_TICKS = {"tick": "200 ms", "allowed_disorder": "1 s"}
"""So that some ticks close within the few seconds of event time of the small form."""
SHARED = "broker, reader and who watches share {cores} processors"


def single(bench: Bench) -> Measured:
    """Measure one row a message, one process, and two."""
    done = _measure(bench, SINGLE, two=True)
    return Measured(
        figures=[
            *_shares("single", done, at_least=0.55),
            Figure(
                name="join_two_processes_ratio",
                runs=[two.wall / one.wall for two, one in zip(done.two, done.join, strict=True)],
                unit="",
                beside={
                    "by_thread_cpu": [two.thread / one.thread for two, one in zip(done.two, done.join, strict=True)]
                },
                note=SHARED.format(cores=os.cpu_count()),
            ),
            Figure(name="changelog_bytes_per_row", runs=done.changelog, unit="B", note="before compression"),
        ],
        results=done.results,
    )


def wide(bench: Bench) -> Measured:
    """Measure the same with 20 features."""
    done = _measure(bench, WIDE)
    return Measured(figures=_shares("wide", done, at_least=0.5), results=done.results)


def batched(bench: Bench) -> Measured:
    """Measure 100 rows a message."""
    done = _measure(bench, BATCHED)
    figures = [
        _rates("join_batched_rows_per_s", done.join, at_least=1e6),
        _rates("limit_batched_rows_per_s", done.limit),
    ]
    return Measured(figures=figures, results=done.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    limit: Sequence["Rate"]
    join: Sequence["Rate"]
    two: Sequence["Rate"]
    changelog: Sequence[float]
    results: dict[str, str]


def _measure(bench: Bench, workload: Workload, *, two: bool = False) -> _Done:
    """Take limit and join in turns: what else the machine does meets both."""
    name = "batched" if workload.rows_a_message > 1 else "wide" if workload.features else "single"
    if bench.small:
        workload = replace(workload, outputs=SMALL_OUTPUTS, label_delay_ms=SMALL_DELAY_MS)
    ticks = SMALL_TICKS if bench.small else {}
    bench.say(f"{name}: {workload.outputs:,} outputs and their labels are written")
    deployment = Deployment(bench.folder / name, bench.broker(), f"bench-{uuid.uuid4().hex[:8]}.", workload, ticks)
    limits, joins, twos, changelog, hashes = [], [], [], [], set()

    def joined(processes: int) -> Rate:
        rate = join(deployment, processes)
        hashes.add(deployment.results())
        return rate

    for run in range(bench.runs):
        limits.append(limit(deployment))
        joins.append(joined(1))
        changelog.append(deployment.written(topics.CHANGELOG) / int(deployment.rows.sum()))
        if two:
            twos.append(joined(2))
        bench.say(
            f"{name}: run {run + 1} of {bench.runs}: {joins[-1].wall:,.0f} of {limits[-1].wall:,.0f} rows/s, by thread CPU "
            f"{joins[-1].thread:,.0f} of {limits[-1].thread:,.0f}"
        )
    return _Done(limit=limits, join=joins, two=twos, changelog=changelog, results={name: the_one(hashes, name)})


def _rates(name: str, rates: Sequence["Rate"], at_least: float | None = None) -> Figure:
    return Figure(
        name=name,
        runs=[rate.wall for rate in rates],
        unit="rows/s",
        target=None if at_least is None else ("≥", at_least),
        beside={"by_thread_cpu": [rate.thread for rate in rates], "by_process_cpu": [rate.process for rate in rates]},
    )


def _shares(name: str, done: _Done, at_least: float) -> list[Figure]:
    pairs = list(zip(done.join, done.limit, strict=True))
    return [
        _rates(f"limit_{name}_rows_per_s", done.limit),
        _rates(f"join_{name}_rows_per_s", done.join),
        Figure(
            name=f"join_{name}_share",
            runs=[join.wall / limit.wall for join, limit in pairs],
            unit="",
            target=("≥", at_least),
            beside={"by_thread_cpu": [join.thread / limit.thread for join, limit in pairs]},
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Rows a second: by the wall, and by processor time of the thread that decodes, and of its whole process."""

    wall: float
    thread: float
    process: float

    @classmethod
    def between(cls, rows: int, began: Moment, ended: Moment) -> "Rate":
        """Divide."""
        return cls(
            wall=rows / (ended.wall_s - began.wall_s),
            thread=rows / (ended.thread_s - began.thread_s),
            process=rows / (ended.process_s - began.process_s),
        )


def limit(deployment: Deployment) -> Rate:
    """Consume and decode, in a process of its own."""
    asked = Asked(
        broker=deployment.broker,
        topics=tuple(deployment.prefix + topic for topic in workload.TOPICS),
        partitions=deployment.cluster.input_partitions,
        rows=int(deployment.rows.sum()),
        columns=deployment.workload.rows_a_message > 1,
    )
    environment = {**os.environ, "BARE": msgspec.json.encode(asked).decode()}
    done = subprocess.run(
        [sys.executable, bare.__file__], check=True, stdout=subprocess.PIPE, timeout=RUN_WAIT_S, env=environment
    )
    taken = msgspec.json.decode(done.stdout, type=Taken)
    if taken.rows != asked.rows:
        raise UnfitError(f"{taken.rows} rows were decoded, {asked.rows} are there")
    return Rate.between(taken.rows, taken.began, taken.ended)


def join(deployment: Deployment, processes: int = 1) -> Rate:
    """Join, with nothing there from before."""
    deployment.renew()
    ran = deployment.run(processes=processes)
    check([deployment.workload], ran)
    return rate_of(ran)


def rate_of(ran: Sequence[Ran]) -> Rate:
    """Return at what rate some workers joined together."""
    first, last = min(one.noted.began.wall_s for one in ran), max(one.noted.durable.wall_s for one in ran)
    rows = sum(one.noted.rows for one in ran)
    alone = [Rate.between(one.noted.rows, one.noted.began, one.noted.durable) for one in ran]
    return Rate(
        wall=rows / (last - first),
        thread=sum(one.thread for one in alone),
        process=sum(one.process for one in alone),
    )


def check(of: Sequence[Workload], ran: Sequence[Ran]) -> None:
    """Hold what became of rows against what the workloads say, which the workers or those before them joined.

    Raises
    ------
    UnfitError
        A row is missing, or was counted as something else.
    """
    outputs = sum(one.outputs for one in of)
    labels = np.concatenate([one.labels()[0] for one in of])
    labelled = len(np.unique(labels))
    expected = {
        "output_rows": outputs,
        "label_rows": len(labels),
        "labelled": labelled,
        "without": outputs - labelled,
        "corrected": len(labels) - labelled,
    }
    found: dict[str, int] = {}
    for one in ran:
        for name, value in one.noted.counters.items():
            found[name] = found.get(name, 0) + value
    found["without"] = found["pending_rows"] + found["expired"]
    wrong = {name: (found[name], n) for name, n in expected.items() if found[name] != n}
    none = ("late_output", "late_label", "dead_output", "dead_label", "orphan_rows", "conservation_error")
    wrong |= {name: (found[name], 0) for name in none if found[name]}
    if wrong:
        raise UnfitError("; ".join(f"{name}: found {found}, expected {n}" for name, (found, n) in wrong.items()))
