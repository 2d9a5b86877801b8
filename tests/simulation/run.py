"""Run the simulator over many seeds: `python tests/simulation/run.py --seeds 1000 [--seed 0] [--jobs 2]`.

Writes `build/sim.json`; ends with status 1 when anything did not hold. A failing seed comes back by its number.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.judge import Verdict, judge
from tests.simulation.simulation import Simulation
from tests.simulation.workload import baselines

SHOWN = 3
"""Faults of one seed that are printed."""

SHOWN_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed gave; `failed` is the trace of a run that ended before it could be judged."""

    seed: int
    crashes: int
    stops: int
    verdict: Verdict
    failed: str


def one(seed: int) -> Result:
    """Run and judge one seed."""
    run = Simulation(seed)
    try:
        run.run()
        verdict, failed = judge(run), ""
    except Exception:  # noqa: BLE001 -- it is what we look for, and the other seeds go on
        verdict, failed = Verdict(), traceback.format_exc()
    return Result(seed, run.crashes, run.stops, verdict, failed)


def results(first: int, count: int, jobs: int) -> Iterator[Result]:
    """Run `count` seeds from `first` on, in order."""
    baselines()  # fitted once, and inherited
    seeds = range(first, first + count)
    if jobs == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        yield from pool.map(one, seeds)


def main() -> int:
    """Run, tell on stderr how far it has come, and write the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, required=True, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("build/sim.json"))
    asked = parser.parse_args()
    began_s, sums, counts, bad = time.monotonic(), Counter[str](), Counter[str](), []
    for result in results(asked.seed, asked.seeds, asked.jobs):
        verdict = result.verdict
        faults = [
            *verdict.conservation,
            *verdict.incidents,
            *([result.failed[-SHOWN_CHARACTERS:]] if result.failed else []),
        ]
        sums["seeds"] += 1
        sums["crashes"] += result.crashes
        sums["stopped"] += result.stops
        sums["conservation_errors"] += len(verdict.conservation)
        sums["incident_differences"] += len(verdict.incidents) + bool(result.failed)
        counts += verdict.counts
        if faults:
            bad.append(result.seed)
            told = "\n  ".join(fault[:SHOWN_CHARACTERS] for fault in faults[:SHOWN])
            sys.stderr.write(f"\nseed {result.seed}: {len(faults)} faults\n  {told}\n")
        rate = sums["seeds"] / (time.monotonic() - began_s)
        sys.stderr.write(
            f"\rseed {result.seed}: {sums['seeds']}/{asked.seeds}, {sums['crashes']} crashes, {len(bad)} bad, {rate:.1f}/s "
        )
        sys.stderr.flush()
    sys.stderr.write("\n")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    names = ("seeds", "crashes", "stopped", "conservation_errors", "incident_differences")
    report = {name: sums[name] for name in names} | {"first_seed": asked.seed, "bad_seeds": bad, "counts": counts}
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if sums["conservation_errors"] or sums["incident_differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
