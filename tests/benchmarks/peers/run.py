"""How many rows a second does the same job take on Faust, and on Quix Streams? `python tests/benchmarks/peers/run.py`.

Prints a table, and writes `build/peers.json`: by peer, the median of its runs beside their least and greatest, by the
wall and by processor time of its process. Counts that are not those of the workload, or of our own join, give no figure,
and status 1.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.deployment import Deployment, a_broker
from tests.benchmarks.figures import UnfitError, shown
from tests.benchmarks.peers import ours, peer
from tests.benchmarks.peers.environment import NoEnvironmentError, versions
from tests.benchmarks.peers.expected import difference, digest, expected
from tests.benchmarks.peers.peer import WINDOW_MS, WORDS
from tests.benchmarks.workload import Workload

WORKLOAD = Workload(outputs=0, label_delay_ms=10_000)
LABEL_WAIT_MS = 9_500
"""One label in ten comes later."""
OUTPUTS_IN_ROWS = 6 / 11
"""Five in six outputs get a label."""
ROWS = {"faust": 300_000, "quix": 1_500_000}
"""About half a minute each."""
CHECKED_ROWS = 50_000
"""Rows that our own join counts too."""
TICK_MS = 500


def of_rows(rows: int) -> Workload:
    """Return a workload of about so many outputs and labels."""
    return replace(WORKLOAD, outputs=int(rows * OUTPUTS_IN_ROWS))


def measure(name: str, broker: str, *, rows: int, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Let a peer do the job some times, and return its figures.

    Raises
    ------
    UnfitError
        It ended, stood still, or counted something else.
    NoEnvironmentError
        Its packages could not be brought.
    """
    job = peer.load(broker, of_rows(rows), window_ms=WINDOW_MS, label_wait_ms=LABEL_WAIT_MS)
    say(f"{name}: {job.rows:,} rows are written")
    found = []
    for number in range(runs):
        commits, _ = peer.run(name, job, say)
        found.append(peer.rates(commits, job.rows))
        wall, cpu = found[-1]
        say(f"{name}: run {number + 1} of {runs}: {wall:,.0f} rows/s, by processor time {cpu:,.0f}")
    walls, cpus = zip(*found, strict=True)
    return {
        "rows": job.rows,
        "rows_per_s": _summary(walls),
        "cpu_rows_per_s": _summary(cpus),
        "results_hash": digest(job.expected),
        "versions": versions(name),
    }


def _summary(runs: tuple[float, ...]) -> dict[str, Any]:
    return {"median": median(runs), "min": min(runs), "max": max(runs), "runs": list(runs)}


def check_ours(broker: str, folder: Path) -> None:
    """Hold what our join counts of such rows against what peers are held against.

    Raises
    ------
    UnfitError
        It counts something else.
    """
    settings = {"tick": f"{TICK_MS} ms", "allowed_disorder": "1 s", "label_wait": f"{LABEL_WAIT_MS} ms"}
    workload = of_rows(CHECKED_ROWS)
    deployment = Deployment(folder, broker, f"ours-{uuid.uuid4().hex[:8]}.", workload, settings)
    wanted = expected(workload, window_ms=TICK_MS, label_wait_ms=LABEL_WAIT_MS)
    if wrong := difference(ours.counts(deployment), wanted):
        raise UnfitError(f"our join: {wrong}")


def table(found: dict[str, Any]) -> str:
    """Return what is printed: a line for each peer."""
    lines = [("peer", "rows/s", "from", "to", "by processor time", "from", "to", "results")]
    for name, figures in found.items():
        columns = [
            shown(figures[by][one]) for by in ("rows_per_s", "cpu_rows_per_s") for one in ("median", "min", "max")
        ]
        lines.append((name, *columns, figures["results_hash"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> int:
    """Measure and print; return the status to end with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=[*WORDS, "all"], default="all")
    parser.add_argument("--rows", type=int, help=f"outputs and labels, about (default: {ROWS})")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--broker", metavar="HOST:PORT", help="a Kafka that is there (default: one of its own)")
    parser.add_argument("--out", type=Path, default=Path("build/peers.json"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no peer outlives us
    began_s, found, failed = time.monotonic(), {}, []

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began_s:5.0f} s] {text}\n")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            broker = options.broker or stack.enter_context(a_broker())
            check_ours(broker, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-peers-"))))
            say("our join counts what is expected")
            for name in WORDS if options.peer == "all" else [options.peer]:
                rows = options.rows or ROWS[name]
                found[name] = measure(name, broker, rows=rows, runs=options.runs, say=say)
                options.out.write_text(json.dumps(found, indent=2) + "\n")
        except (UnfitError, NoEnvironmentError) as error:
            failed.append(str(error))
    sys.stdout.write(table(found) + "\n")
    for why in failed:
        sys.stdout.write(f"no figure: {why}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
