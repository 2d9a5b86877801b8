"""How does cost grow: with pending outputs, lanes, features, partitions, and the delay of labels?

    python tests/benchmarks/curves.py [--only lanes …] [--runs 3]

One thing is varied at a time, everything else is as in `throughput.single`. Writes `build/curves.json`, and
`python tests/benchmarks/page.py` draws it. What was measured before under other names stays in the file. A point of which
a row was lost, or a sum is wrong, ends it with status 1.
"""

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.deployment import Deployment, a_broker
from tests.benchmarks.figures import UnfitError, the_one
from tests.benchmarks.run import machine
from tests.benchmarks.throughput import SMALL_DELAY_MS, Rate, check, join, rate_of
from tests.benchmarks.workload import Workload

BASE = Workload(outputs=1_000_000)
SMALL_OUTPUTS = 20_000
SMALL_TICKS = {"tick": "500 ms", "allowed_disorder": "1 s"}
"""So that some close within the two seconds of event time of the small form, and not many of ten thousand lanes."""
PENDING_LABELS_ONE_IN = 1_000
"""Of what is pending beforehand, so many have labels, so that time goes on in both topics."""
MOST_VALUES = 2_499
"""Values of a segment: with the roll-ups, and each by its version too, 5,000 lanes, the most that a model may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One thing that is varied.

    Parameters
    ----------
    axis
        What it is, for people, with its unit.
    points
        Its values: what a deployment then is.
    """

    axis: str
    points: Mapping[int, "Point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A deployment: its workload, in how many partitions, how many outputs were pending before, and settings of the join."""

    workload: Workload
    partitions: int = 4
    before: int = 0
    join: Mapping[str, str | int] = field(default_factory=dict)


CURVES: Mapping[str, Curve] = {
    "pending": Curve(
        axis="outputs that were pending before",
        points={before: Point(workload=BASE, before=before) for before in (100_000, 1_000_000, 10_000_000)},
    ),
    "lanes": Curve(
        axis="lanes",
        points={
            models * (2 + 2 * values): Point(workload=replace(BASE, lanes=values, models=models))
            for models, values in ((1, 4), (1, 49), (1, 499), (1, MOST_VALUES), (2, MOST_VALUES))
        },
    ),
    "features": Curve(
        axis="declared features",
        points={
            features: Point(workload=replace(BASE, features=features, outputs=outputs))
            for features, outputs in ((0, 1_000_000), (10, 500_000), (20, 500_000), (50, 300_000), (100, 200_000))
        },
    ),
    "partitions": Curve(
        axis="partitions of one process", points={n: Point(workload=BASE, partitions=n) for n in (1, 4, 16, 64)}
    ),
    "label_delay": Curve(
        axis="longest delay of a label, ms of event time (ten outputs each)",
        points={ms: Point(workload=replace(BASE, label_delay_ms=ms)) for ms in (1_000, 10_000, 100_000, 1_000_000)},
    ),
}
"""By name, in the order of the page."""


def measure(point: Point, broker: str, folder: Path, *, runs: int) -> tuple[list[Rate], str]:
    """Join the rows of a point some times, each time from the beginning; return a hash of the sums too."""
    prefix = f"curve-{uuid.uuid4().hex[:8]}."
    rates, hashes = [], set()
    if not point.before:
        deployment = Deployment(folder, broker, prefix, point.workload, point.join, point.partitions)
        for _ in range(runs):
            rates.append(join(deployment))
            hashes.add(deployment.results())
        return rates, the_one(hashes, folder.name)
    before = replace(point.workload, outputs=point.before, rows_a_message=100, labels_one_in=PENDING_LABELS_ONE_IN)
    more = replace(point.workload, first=point.before)
    for run in range(runs):  # a worker that goes on reads what is new: so each time all anew
        deployment = Deployment(folder / str(run), broker, f"{run}-{prefix}", before, point.join, point.partitions)
        deployment.run()
        deployment.load(more)
        ran = deployment.run()
        check([before, more], ran)
        rates.append(rate_of(ran))
        hashes.add(deployment.results())
    return rates, the_one(hashes, folder.name)


def in_small(curve: Curve) -> dict[int, Point]:
    """Return the greatest of its points with few rows, whose labels come soon unless it is the delay that is varied."""
    at = max(curve.points)
    point = curve.points[at]
    delay_ms = point.workload.label_delay_ms
    workload = replace(
        point.workload,
        outputs=SMALL_OUTPUTS,
        label_delay_ms=SMALL_DELAY_MS if delay_ms == BASE.label_delay_ms else delay_ms,
    )
    return {at: replace(point, workload=workload, before=min(point.before, SMALL_OUTPUTS), join=SMALL_TICKS)}


def main() -> int:
    """Measure, and write; return the status to end with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CURVES), metavar="NAME", default=list(CURVES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few rows, the last points: that it runs, not how fast")
    parser.add_argument("--broker", metavar="HOST:PORT", help="a Kafka that is there (default: one of its own)")
    parser.add_argument("--out", type=Path, default=Path("build/curves.json"))
    options = parser.parse_args()
    began_s = time.monotonic()
    with ExitStack() as stack:
        broker = options.broker or stack.enter_context(a_broker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-curves-")))
        for name in options.only:
            found = []
            points = in_small(CURVES[name]) if options.small else CURVES[name].points
            for value, point in points.items():
                try:
                    rates, results = measure(point, broker, folder / f"{name}-{value}", runs=options.runs)
                except UnfitError as error:
                    sys.stderr.write(f"no figure of {name} {value}: {error}\n")
                    return 1
                found.append(
                    {
                        "at": value,
                        "rows_per_s": [rate.wall for rate in rates],
                        "by_thread_cpu": [rate.thread for rate in rates],
                        "results": results,
                    }
                )
                sys.stderr.write(
                    f"[{time.monotonic() - began_s:5.0f} s] {name} {value:,}: {median(rate.wall for rate in rates):,.0f} rows/s, "
                    f"by thread CPU {median(rate.thread for rate in rates):,.0f}\n"
                )
            keep(options.out, name, {"axis": CURVES[name].axis, "points": found, "machine": machine()})
    return 0


def keep(file: Path, name: str, curve: dict[str, Any]) -> None:
    """Put a curve into the file."""
    found = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**found, name: curve}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
