"""How do docs/performance.md and README.md come to their figures? `python tests/benchmarks/page.py` writes them, and draws.

It reads what `run.py` and `curves.py` have written, fills what stands between the marks of the pages, and leaves
the words around alone.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.figures import beside, shown, spread
from tests.benchmarks.markdown import markdown
from tests.benchmarks.plan import plan
from tests.benchmarks.run import MEASUREMENTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
IN_SHORT: Mapping[str, tuple[str, ...]] = {
    "the join, one process, one row a message": ("join_single_rows_per_s", "join_single_share"),
    "the same, 20 features a row": ("join_wide_rows_per_s", "join_wide_share"),
    "the same, 100 rows a message": ("join_batched_rows_per_s",),
    "beside the same job written for Faust, for Quix Streams": ("join_times_faust", "join_times_quix"),
    "anonymous memory of an output that waits for its label, of ten million": ("pending_bytes_per_output",),
    "ten million of them restored into an empty folder": ("restore_10m_s",),
    "anonymous memory after ten times as many rows": ("rss_flat_ratio",),
    "one tick of detectors over 10,000 lanes": ("detect_tick_10k_lanes_ms",),
    "from an event to the webhook, 99 of 100, with ticks of 1 s and a SEV-1": ("event_to_notification_p99_s",),
}
"""What the README says of which figures."""
ALSO: Mapping[str, str] = {
    "join_single_share": "of bare reading and decoding",
    "join_wide_share": "of bare reading and decoding",
    "join_times_faust": "times",
    "join_times_quix": "times",
    "rss_flat_ratio": "times",
}
"""What a figure without a unit is."""
BESIDE: Mapping[str, tuple[str, str]] = {
    "pending_bytes_per_output": ("mapped_files", "B of mapped files"),
    "restore_10m_s": ("from_process_start", "s from the start of the process"),
    "detect_tick_10k_lanes_ms": ("with_a_snapshot_ms", "ms with a snapshot"),
}
"""What a figure leaves out, and the README says too, where it was measured."""
NOT_COMMITTED = "-dirty"
"""How git marks a commit that is not quite what was measured."""
SIZE_INCHES = 6.4, 3.0


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Put each part between its marks.

    >>> print(filled("a <!-- x --> old <!-- end --> b", {"x": "new"}))
    a <!-- x -->
    new
    <!-- end --> b

    Raises
    ------
    KeyError
        The page has no such marks.
    """
    for name, text in parts.items():
        marks = re.compile(rf"(<!-- {name} -->).*?(<!-- end -->)", re.DOTALL)
        if not marks.search(page):
            raise KeyError(name)
        page = marks.sub(lambda found, text=text: f"{found[1]}\n{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


def figures(found: Mapping[str, Any]) -> str:
    """Say each figure, in the order in which they are measured."""
    lines = []
    for name in (name for one in MEASUREMENTS for name in one.figures if name in found):
        one = found[name]
        unit = f" {one['unit']}" if one["unit"] else ""
        target = one["target"] or ""
        lines.append(
            [
                f"`{name}`",
                f"**{shown(one['median'])}{unit}**",
                spread(one["runs"]),
                target if one["met"] is not False else f"{target}, **missed**",
                beside(one["beside"]),
            ]
        )
    return markdown(["figure", "median", "spread", "target", "beside it"], lines)


def in_short(found: Mapping[str, Any]) -> str:
    """Say the most of it in the words of somebody who does not know the figures' names."""
    lines = []
    for what, names in IN_SHORT.items():
        some = [(name, found[name]) for name in names if name in found]
        said = ", ".join(
            f"**{shown(one['median'])}** {one['unit'] or ALSO[name]}{_left_out(name, one)}" for name, one in some
        )
        targets = ", ".join(
            one["target"] if one["met"] else f"{one['target']}, **missed**" for _, one in some if one["target"]
        )
        lines.append([what, said, targets])
    return markdown(["", "measured", "aim"], lines)


def _left_out(name: str, one: Mapping[str, Any]) -> str:
    what, words = BESIDE.get(name, ("", ""))
    return f" ({shown(one['beside'][what]['median'])} {words})" if what in one["beside"] else ""


def measured_on(found: Mapping[str, Any]) -> str:
    """Say on what machines, when, and of which code."""
    said: dict[str, list[Mapping[str, Any]]] = {}
    for one in found.values():
        at = one["machine"]
        machine = (
            f"{at['processors']} processors ({at['processor']}), {at['memory_gib']} GiB, Python {at['python']}, "
            f"confluent-kafka {at['confluent_kafka']}, NumPy {at['numpy']}, "
            f"{'with' if at['compiled'] else 'without'} the compiled part"
        )
        said.setdefault(machine, []).append(one)
    return "\n".join(_one_machine(machine, some) for machine, some in said.items())


def _one_machine(machine: str, some: Sequence[Mapping[str, Any]]) -> str:
    days = ", ".join(sorted({one["at"][:10] for one in some}))
    loads = [one["load_before"] for one in some]
    commits = _commits(one["machine"] for one in sorted(some, key=lambda one: str(one["at"])))
    code = f" Code of {', '.join(commits)}." if commits else ""
    return f"Measured on {days}: {machine}.{code} Load when a measurement began: {min(loads):.1f} to {max(loads):.1f}."


def _commits(machines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name each commit that is known, once."""
    known = dict.fromkeys(at["commit"] for at in machines if at.get("commit"))
    return [
        f"`{commit.removesuffix(NOT_COMMITTED)}`{' with changes' if commit.endswith(NOT_COMMITTED) else ''}"
        for commit in known
    ]


def code_of_curves(curves: Mapping[str, Any]) -> str:
    """Say of which code curves are, and of which code which, where that is not the same; nothing where it is not known."""
    by_commit: dict[str, list[str]] = {}
    for name, curve in curves.items():
        for commit in _commits([curve["machine"]]):
            by_commit.setdefault(commit, []).append(name.replace("_", " "))
    said = [
        commit if len(names) == len(curves) else f"{commit} ({', '.join(names)})" for commit, names in by_commit.items()
    ]
    return f"Code of {', '.join(said)}." if said else ""


def curve_table(curve: Mapping[str, Any]) -> str:
    """Say the points of a curve."""
    lines = [
        [
            f"{point['at']:,}",
            shown(median(point["rows_per_s"])),
            spread(point["rows_per_s"]),
            shown(median(point["by_thread_cpu"])),
        ]
        for point in curve["points"]
    ]
    return markdown([curve["axis"], "rows/s", "spread", "rows/s by thread CPU"], lines)


def draw(name: str, curve: Mapping[str, Any], to: Path) -> None:
    """Draw a curve: rows a second by the wall with the spread of what was run more than once, and by the thread's CPU."""
    import matplotlib as mpl  # noqa: PLC0415 -- of the group `bench`, and only drawing needs it
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    points = curve["points"]
    at = [point["at"] for point in points]
    wall = [median(point["rows_per_s"]) for point in points]
    again = [len(point["rows_per_s"]) > 1 for point in points]
    below = [
        middle - min(point["rows_per_s"]) if more else nan
        for middle, point, more in zip(wall, points, again, strict=True)
    ]
    above = [
        max(point["rows_per_s"]) - middle if more else nan
        for middle, point, more in zip(wall, points, again, strict=True)
    ]
    bars = [below, above] if any(again) else None
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
        axes = canvas.add_subplot()
        axes.errorbar(at, wall, yerr=bars, marker="o", capsize=3, label="by the wall")
        axes.plot(at, [median(point["by_thread_cpu"]) for point in points], marker="s", ls="--", label="by thread CPU")
        axes.set_xscale("log" if min(at) > 0 else "linear")
        axes.set_xticks(at, [f"{value:,}" for value in at])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
        axes.set_xlabel(curve["axis"])
        axes.set_ylabel("rows/s")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
        to.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(to, metadata={"Date": None, "Creator": None})
    to.write_text("\n".join(line.rstrip() for line in to.read_text().splitlines()) + "\n")


def main() -> int:
    """Write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--curves", type=Path, default=ROOT / "build" / "curves.json")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--readme", type=Path, default=README)
    options = parser.parse_args()
    page = options.page.read_text()
    parts: dict[str, Callable[[], str]] = {}
    if options.bench.exists():
        found = json.loads(options.bench.read_text())["figures"]
        parts |= {
            "figures": lambda: figures(found),
            "machine": lambda: measured_on(found),
            "plan": lambda: plan({name: one["median"] for name, one in found.items()}),
        }
        options.readme.write_text(filled(options.readme.read_text(), {"speed": in_short(found)}))
    if options.curves.exists():
        curves = json.loads(options.curves.read_text())
        parts["curves"] = lambda: code_of_curves(curves)
        for name, curve in curves.items():
            draw(name, curve, options.page.with_suffix("") / f"{name}.svg")
            parts[name] = lambda curve=curve: curve_table(curve)  # type: ignore[misc]
    options.page.write_text(filled(page, {name: part() for name, part in parts.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
