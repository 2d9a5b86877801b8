"""How fast, how large? Measure what there is to measure: `python tests/benchmarks/run.py [--only NAME …] [--runs 3]`.

Prints a table, and writes `build/bench.json`: each figure is the median of its runs beside its spread. What was measured
before under other names stays in the file, so that it can be filled in parts. A run in which a row was lost or a sum is
wrong gives no figure, and status 1.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streams.runtime import plain
from tests.benchmarks import detect_tick, memory, notification, throughput, times
from tests.benchmarks.deployment import a_broker
from tests.benchmarks.figures import Bench, Measured, UnfitError, beside, shown, spread
from tests.checkout import commit


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures that are measured together; `is_small` if there is a small form, else a test of its own stands for it."""

    name: str
    figures: tuple[str, ...]
    measure: Callable[[Bench], Measured]
    is_small: bool = True


MEASUREMENTS = (
    Measurement(
        "single",
        (
            "limit_single_rows_per_s",
            "join_single_rows_per_s",
            "join_single_share",
            "join_two_processes_ratio",
            "changelog_bytes_per_row",
        ),
        throughput.single,
    ),
    Measurement("wide", ("limit_wide_rows_per_s", "join_wide_rows_per_s", "join_wide_share"), throughput.wide),
    Measurement("batched", ("join_batched_rows_per_s", "limit_batched_rows_per_s"), throughput.batched),
    Measurement("pending", ("pending_bytes_per_output", "disk_bytes_per_output", "restore_10m_s"), memory.pending),
    Measurement("flat", ("rss_flat_ratio",), memory.flat),
    Measurement(
        "detect_tick", ("detect_tick_10k_lanes_ms", "detect_tick_10k_lanes_with_decode_ms"), detect_tick.detect_tick
    ),
    Measurement("notification", ("event_to_notification_p99_s",), notification.notification),
    Measurement("faust", ("join_times_faust",), times.faust, is_small=False),
    Measurement("quix", ("join_times_quix",), times.quix, is_small=False),
)
"""What there is to measure, in the order of the table."""


def chosen(names: Sequence[str]) -> list[Measurement]:
    """Return the measurements of which one figure, or which themselves, are named; all where no name is given.

    >>> [one.name for one in chosen(["join_wide_share", "batched"])]
    ['wide', 'batched']
    """
    known = {name for one in MEASUREMENTS for name in (one.name, *one.figures)}
    if unknown := set(names) - known:
        raise argparse.ArgumentTypeError(
            f"there is no {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return [one for one in MEASUREMENTS if not names or {one.name, *one.figures} & set(names)]


def measure(measurements: Sequence[Measurement], options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure; return what is in the file afterwards, and what failed. The file is written after each measurement."""
    began_s = time.monotonic()
    failed = []

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began_s:5.0f} s] {text}\n")

    with ExitStack() as stack:

        @cache
        def broker() -> str:
            return str(options.broker or stack.enter_context(a_broker()))

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-bench-")))
        bench = Bench(folder=folder, broker=broker, runs=options.runs, small=options.small, say=say)
        for one in measurements:
            load, started_s = os.getloadavg()[0], time.monotonic()
            try:
                measured = one.measure(bench)
            except UnfitError as error:
                failed.append(f"{one.name}: {error}")
                say(failed[-1])
                continue
            assert {figure.name for figure in measured.figures} == set(one.figures)
            took_s = round(time.monotonic() - started_s)
            where = {"machine": machine(), "load_before": load, "took_s": took_s, "small": options.small}
            keep(options.out, measured, where)
    return read(options.out), failed


def read(file: Path) -> dict[str, Any]:
    """Return what was measured so far."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"figures": {}, "results": {}}
    return found


def keep(file: Path, measured: Measured, where: dict[str, Any]) -> None:
    """Put figures into the file, each with where and when it was measured."""
    found = read(file)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for figure in measured.figures:
        found["figures"][figure.name] = {**figure.record(), **where, "at": at}
    found["results"].update(measured.results)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    aside.replace(file)


@cache
def machine() -> dict[str, Any]:
    """Say what it is measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "processor": models[0] if models else platform.processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "confluent_kafka": version("confluent-kafka"),
        "numpy": version("numpy"),
        "compiled": plain.library() is not None,
        "commit": commit(),
    }


def table(found: dict[str, Any]) -> str:
    """Return what is printed: a line for each figure, in the order of `MEASUREMENTS`."""
    lines = [("figure", "median", "spread", "target", "", "beside it")]
    for name in (name for one in MEASUREMENTS for name in one.figures if name in found["figures"]):
        figure = found["figures"][name]
        unit = f" {figure['unit']}" if figure["unit"] else ""
        lines.append(
            (
                name,
                shown(figure["median"]) + unit,
                spread(figure["runs"]),
                figure["target"] or "reported",
                {True: "met", False: "missed", None: ""}[figure["met"]],
                beside(figure["beside"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, *(f"results of {name}: {digest}" for name, digest in found["results"].items())])


def main() -> int:
    """Measure and print; return the status to end with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="figures, or: single, wide, batched …")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a few thousand rows: that it runs, not how fast")
    parser.add_argument("--broker", metavar="HOST:PORT", help="a Kafka that is there (default: one of its own)")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    try:
        measurements = chosen(options.only)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    measurements = [one for one in measurements if one.is_small or not options.small]
    found, failed = measure(measurements, options)
    sys.stdout.write(table(found) + "\n")
    for why in failed:
        sys.stdout.write(f"no figure of {why}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
