"""Do harm to real processes on a real Kafka, round after round: `python tests/chaos/run.py [--rounds 20] [--seed 0]`.

Writes `build/chaos.json`; ends with status 1 when a figure that must be 0 is not. A round's harm, victims and moments
follow from its seed: `--rounds 1 --seed 7` does the harm of round 7 alone.
"""

import argparse
import json
import logging
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.deployment import EACH_ALONE, EXPECTED, NO_BROKER, Layout, Nodes
from tests.chaos.harms import HARMS, harms_of
from tests.chaos.judge import Faults, judge, read_logs
from tests.chaos.reading import as_read_today
from tests.chaos.world import World
from tests.checkout import commit
from tests.simulation.logs import Entry

ROUND_TICKS = 24
"""Ticks of a round's own workload."""
BEFORE_S = 5.0
"""How long a round goes on before its harm."""
SHOWN = 5
SHOWN_CHARACTERS = 600
ZERO = ("lost", "doubled", "conservation_errors", "incident_differences", "pages_repeated")
"""Figures of the judge that must be 0."""
DONE_ZERO = ("zombies_alive", "unclean_ends")
"""What the world counts, and must be 0; so must be `crashes`, the processes that ended for no reason that faults give."""
UNCONSERVED = '"event":"join.conservation_error"'
READ_BACK = re.compile(r'"event":"cursor.read_back".*?"records":"(\d+)"')


@dataclass
class Report:
    """What a run did and found."""

    rounds: int
    done: Counter[str]
    ended: Counter[str]
    faults: Faults
    outputs: int
    read_back: int
    failed: str
    harms: list[dict[str, Any]] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any]:
        """What goes into the file."""
        counts = self.faults.counts
        expected = {NO_BROKER, *EXPECTED.values()}
        return {
            "commit": commit(),
            "rounds": self.rounds,
            "kills": self.done["kills"],
            "outputs": self.outputs,
            **{name: len(self.faults.all()[name]) for name in ZERO},
            **{name: self.done[name] for name in DONE_ZERO},
            "crashes": sum(n for why, n in self.ended.items() if why not in expected),
            "same_id_repeats": counts["same_id_repeats"],
            "read_back": self.read_back,
            "did": {name: n for name, n in self.done.items() if name not in {"kills", *DONE_ZERO}},
            "ended_by_itself": dict(self.ended),
            "found": {name: n for name, n in counts.items() if name != "same_id_repeats"},
            "harms": self.harms,
            "faults": {name: one[:SHOWN] for name, one in self.faults.all().items() if one},
            "failed": self.failed,
        }

    @property
    def holds(self) -> bool:
        """Whether every figure is 0 that must be."""
        names = (*ZERO, *DONE_ZERO, "crashes")
        return not self.failed and not any(self.figures[name] for name in names)


def run(
    nodes: Nodes, folder: Path, rounds: Sequence[tuple[int, str]], *, outage_s: float, layout: Layout, prefix: str
) -> Report:
    """Do one harm a round, each given with its seed, and judge the whole."""
    report = Report(0, Counter(), Counter(), Faults(), 0, 0, "")
    with World(folder, layout, nodes, rounds[0][0], outage_s, prefix) as world:
        try:
            for seed, name in rounds:
                began_ms = world.load.now_ms
                tell(f"round {report.rounds} seed {seed}: {name}")
                _round(world, seed, name)
                report.rounds += 1
                report.harms.append({"seed": seed, "harm": name, "from": began_ms, "to": world.load.now_ms})
            tell("coming to rest")
            world.finish()
        except (TimeoutError, AssertionError):
            report.failed = traceback.format_exc()
        finally:
            world.deployment.stop()
        report.done, report.ended = world.counts, world.deployment.ended
        report.outputs = world.load.outputs
        logs = world.deployment.logs()
        report.read_back = sum(int(records) for text in logs for records in READ_BACK.findall(text))
        if not report.failed:
            tell("judging")
            settings = world.deployment.settings
            logs_read: dict[tuple[str, int], Sequence[Entry]] = {
                **read_logs(settings.kafka),
                **world.changelogs.to_ends(),
            }
            of_next_version = 0
            for place, log in logs_read.items():
                logs_read[place], longer = zip(*map(as_read_today, log), strict=True) if log else ((), ())
                of_next_version += sum(longer)
            report.faults = judge(logs_read, world.load.now_ms, world.receiver.taken, settings)
            report.faults.counts["of_next_version"] = of_next_version
        said = [line for text in logs for line in text.splitlines() if UNCONSERVED in line]
        report.faults.conservation_errors += said
    return report


def _round(world: World, seed: int, name: str) -> None:
    rng = random.Random(seed)  # noqa: S311 -- chance that can be repeated
    world.load.begin(seed, ROUND_TICKS)
    ends_ms = world.load.now_ms + ROUND_TICKS * 60_000
    world.run_for(BEFORE_S)
    HARMS[name](world, rng)
    world.run_for(1.0)
    while world.load.now_ms < ends_ms:
        world.tick()
    world.settle()


def tell(text: str) -> None:
    """Say how far it has come."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Run, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how many harms; each once if nothing is said")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each next round has the next")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="brokers")
    parser.add_argument("--outage-s", type=float, default=120.0, help="how long the brokers stay away when all go")
    parser.add_argument("--out", type=Path, default=Path("build/chaos.json"))
    asked = parser.parse_args()
    logging.getLogger("tocsin").setLevel(logging.CRITICAL)  # our own clients, when their brokers go
    folder = Path(tempfile.mkdtemp(prefix="tocsin-chaos-"))
    tell(f"logs: {folder}")
    harms = harms_of(asked.nodes)
    seeds = range(asked.seed, asked.seed + (asked.rounds or len(harms)))
    rounds = [(seed, harms[seed % len(harms)]) for seed in seeds]
    nodes = Nodes.start(folder / "kafka", asked.nodes)
    try:
        report = run(nodes, folder, rounds, outage_s=asked.outage_s, layout=EACH_ALONE, prefix="chaos.")
    finally:
        nodes.stop()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report.figures, indent=1) + "\n", encoding="utf-8")
    for name, one in report.faults.all().items():
        for fault in one[:SHOWN]:
            tell(f"{name}: {fault[:SHOWN_CHARACTERS]}")
    if report.failed:
        tell(report.failed)
    if report.holds:
        with suppress(OSError):
            shutil.rmtree(folder)
    tell(", ".join(f"{name} {n}" for name, n in report.figures.items() if isinstance(n, int)))
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
