"""See it ring: a real classifier's answers to real people, a fault put in on purpose, and who is told when.

  tocsin demo                                  both faults, one after the other, on a broker inside this process
  tocsin demo --fault rollback                 only one of them
  tocsin demo --fault none                     a healthy time: nobody is paged
  tocsin demo --broker localhost:9092          the same on a real Kafka, on topics that are deleted afterwards

The answers are real, to the people of a census; labels come 10 to 30 minutes later. Event time runs as fast as the
stages follow: a run takes a minute or more. The same seed gives the same incidents. It ends with 1 where it did not ring,
or rang before the fault.
"""

import argparse
import sys
from typing import Literal

from streams.runtime.terminal import Exit, complain

RUNS: dict[str, tuple[Literal["unit", "rollback", "none"], ...]] = {
    "unit": ("unit",),
    "rollback": ("rollback",),
    "none": ("none",),
    "both": ("unit", "rollback"),
}
MOST_MINUTES = 110
"""The people of 2016 last for 230 minutes, of which the fault may need 120."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument(
        "--fault",
        choices=RUNS,
        default="both",
        help="what goes wrong: age in months, an old version, both one after the other, nothing (default %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=60,
        metavar="N",
        help=f"healthy time first, in minutes of event time, 1 to {MOST_MINUTES} (default %(default)s)",
    )
    parser.add_argument("--broker", metavar="HOST:PORT", help="a Kafka to run on (default: one inside this process)")
    parser.add_argument(
        "--seed", type=_seed, default=1, metavar="N", help="of delays and faults, a whole number (default %(default)s)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="only the figures, one line of JSON for each run (default: what happens, and the figures)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration, and say by the status whether it rang as it should."""
    from streams.runtime.demo.run import play, told  # noqa: PLC0415 -- `tocsin demo --help` needs none of it
    from streams.runtime.demo.screen import Screen  # noqa: PLC0415
    from streams.runtime.terminal import say_json  # noqa: PLC0415

    screen = Screen(sys.stderr if arguments.json else sys.stdout)
    good = True
    for fault in RUNS[arguments.fault]:
        screen.begin(f"tocsin demo, fault: {fault}")
        result = play(fault, arguments.minutes, arguments.broker, arguments.seed, screen)
        told(result, screen)
        if arguments.json:
            say_json(result)
        good &= result.false_pages == 0 and (fault == "none" or result.acknowledged_at_ms is not None)
    if not good:
        complain("it did not ring as it should")
    return Exit.DONE if good else Exit.NOT_SO


def _minutes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_MINUTES} minutes, got {text!r}: the stream is no longer")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)
