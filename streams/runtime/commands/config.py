"""Check settings, or show the defaults.

tocsin config check tocsin.toml     every fault at once, each with its line and what to do
tocsin config check                 the defaults with the environment
tocsin config defaults              every setting with its default: a start for a file of your own
"""

import argparse
import os
from pathlib import Path

from config.fault import Fault, SettingsError
from config.load import DEFAULT_FILE, RESPONSE_FILE, load
from config.reader import duration_text
from streams.runtime.commands.common import add_command, add_json, unopenable
from streams.runtime.terminal import Exit, complain, say, say_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="check|defaults")
    check = add_command(inner, "check", "name every fault of a file", CHECKS)
    check.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="settings, TOML (default: none, so that the defaults are checked)",
    )
    add_json(check)
    add_command(inner, "defaults", "print the default files", SHOWS)


CHECKS = """
Read a file of settings as every other command does, with the environment above and the defaults below it, and name all
faults at once: where, what was expected, what came, what to do. No broker is asked. It ends with 3 where there are any;
else it says what was understood.

  tocsin config check tocsin.toml
  TOCSIN__KAFKA__BROKER=kafka:9092 tocsin config check tocsin.toml --json
"""

SHOWS = """
Print every setting with its default and a word of explanation, first those of detection, then those of the response. A
file of your own says only what it wants otherwise.

  tocsin config defaults | less
"""


def run(arguments: argparse.Namespace) -> int:
    """Check a file, or print the defaults."""
    if arguments.action == "defaults":
        say(DEFAULT_FILE.read_text(encoding="utf-8") + "\n" + RESPONSE_FILE.read_text(encoding="utf-8"))
        return Exit.DONE
    try:
        settings = load(arguments.file, os.environ, {}, unopenable)
    except SettingsError as error:
        for fault in error.faults:
            _tell(fault, as_json=arguments.json)
        complain(f"{len(error.faults)} fault(s)")
        return Exit.SETTINGS
    if not arguments.json:
        join, models = settings.join, settings.models
        say(f"deployment {settings.tenant}/{settings.environment} on {settings.kafka.broker}")
        say(f"ticks of {duration_text(join.tick_ms)}, labels awaited for {duration_text(join.label_wait_ms)}")
        say(f"at most {settings.detect.pages_per_week:g} false page(s) a week over {len(models)} model(s)")
        if unbuilt := settings.budget().unbuilt():
            say(f"shares of signals that are not built yet are not spent: {', '.join(unbuilt)}")
        for model in models.values():
            sla = "no SLA" if model.sla_accuracy is None else f"accuracy at least {model.sla_accuracy:.2%}"
            wait = duration_text(model.label_wait_ms)
            say(f"  {model.name}: {model.kind}, {sla}, labels within {wait}, {len(model.features)} feature(s)")
    return Exit.DONE


def _tell(fault: Fault, *, as_json: bool) -> None:
    if as_json:
        say_json(fault)
    else:
        say(str(fault))
