"""How many times as fast is the join as the same job in Faust, and in Quix Streams? `peers/README.md` says what they do.

Both are taken in turns on one broker; a ratio is of one run. The join gets more rows of the same kind, since a rate is a
rate, and does more with each of them.
"""

import uuid
from dataclasses import replace
from typing import Literal

from tests.benchmarks.deployment import Deployment
from tests.benchmarks.figures import Bench, Figure, Measured, UnfitError
from tests.benchmarks.peers import peer
from tests.benchmarks.peers import run as peers
from tests.benchmarks.peers.environment import NoEnvironmentError, versions
from tests.benchmarks.peers.expected import digest
from tests.benchmarks.peers.peer import WINDOW_MS
from tests.benchmarks.throughput import Rate, rate_of

OUTPUTS = 1_500_000


def faust(bench: Bench) -> Measured:
    """Measure against Faust."""
    return _times("faust", bench, at_least=40.0)


def quix(bench: Bench) -> Measured:
    """Measure against Quix Streams."""
    return _times("quix", bench, at_least=15.0)


def _times(name: Literal["faust", "quix"], bench: Bench, at_least: float) -> Measured:
    workload = replace(peers.WORKLOAD, outputs=OUTPUTS)
    wait = {"label_wait": f"{peers.LABEL_WAIT_MS} ms", "tick": "5 s"}  # a wait is no shorter than a tick
    deployment = Deployment(bench.folder / name, bench.broker(), f"bench-{uuid.uuid4().hex[:8]}.", workload, wait)
    bench.say(f"{name}: rows are written")
    job = peer.load(
        bench.broker(), peers.of_rows(peers.ROWS[name]), window_ms=WINDOW_MS, label_wait_ms=peers.LABEL_WAIT_MS
    )
    walls, cpus, rates = [], [], []
    for run in range(bench.runs):
        ours = _join(deployment)
        try:
            commits, _ = peer.run(name, job, bench.say)
        except NoEnvironmentError as error:
            raise UnfitError(str(error)) from None
        wall, cpu = peer.rates(commits, job.rows)
        rates.append(wall)
        walls.append(ours.wall / wall)
        cpus.append(ours.process / cpu)
        bench.say(
            f"{name}: run {run + 1} of {bench.runs}: {walls[-1]:.1f} times: {ours.wall:,.0f} to {wall:,.0f} rows/s"
        )
    return Measured(
        figures=[
            Figure(
                name=f"join_times_{name}",
                runs=walls,
                unit="",
                target=("≥", at_least),
                beside={"by_process_cpu": cpus, "rows_per_s_there": rates},
                note=", ".join(f"{package} {number}" for package, number in versions(name).items()),
            )
        ],
        results={name: digest(job.expected)},
    )


def _join(deployment: Deployment) -> Rate:
    """Join, with nothing there from before."""
    deployment.renew()
    ran = deployment.run()
    for one in ran:
        counters = one.noted.counters
        read = counters["output_rows"] + counters["label_rows"]
        if read != deployment.rows.sum() or counters["conservation_error"] or counters["dead_output"]:
            raise UnfitError(f"{read} of {deployment.rows.sum()} rows were joined: {counters}")
    return rate_of(ran)
