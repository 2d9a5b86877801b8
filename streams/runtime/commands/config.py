"""Check settings, or show the defaults.

tocsin config check tocsin.toml     every fault at once, each with its line and what to do
tocsin config check                 the defaults with the environment
tocsin config defaults              every setting with its default: a start for a file of your own
"""

import argparse
import difflib
import os
from pathlib import Path

from config.fault import Fault, SettingsError
from config.load import DEFAULT_FILE, RESPONSE_FILE, load
from config.reader import duration_text
from config.settings import Settings
from streams.runtime.commands.common import add_command, add_json, misled, unworkable
from streams.runtime.lines import plain
from streams.runtime.terminal import Exit, complain, say, say_json
from streams.stages.policy import targets_used


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="check|defaults")
    check = add_command(inner, "check", "name every fault of a file", CHECKS)
    named = check.add_mutually_exclusive_group()
    named.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="settings, TOML (default: none, so that the defaults are checked)",
    )
    named.add_argument(
        "--config", type=Path, dest="named", metavar="FILE", help="the same, as all other commands take it"
    )
    add_json(check)
    add_command(inner, "defaults", "print the default files", SHOWS)


CHECKS = """
Read a file of settings as `tocsin worker` does, with the environment above and the defaults below it, and name all faults
at once: where, what was expected, what came, what to do. The secrets of webhooks must be in the environment, as workers
need them; commands that open no channel, such as `incidents list`, do without. No broker is asked. It ends with 3 where
there are faults; else it says what was understood. A target of the directory that no policy names may be meant: it is
pointed out on standard error, and changes no status.

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
        settings = load(arguments.named or arguments.file, os.environ, {}, unworkable, misled)
    except SettingsError as error:
        for fault in error.faults:
            _tell(fault, as_json=arguments.json)
        complain(f"{len(error.faults)} fault(s)")
        return Exit.SETTINGS
    for hint in _unnamed(settings):
        complain(hint)
    if not arguments.json:
        join, models = settings.join, settings.models
        say(f"deployment {settings.tenant}/{settings.environment} on {settings.kafka.broker}")
        say(f"ticks of {duration_text(join.tick_ms)}, labels awaited for {duration_text(join.label_wait_ms)}")
        pages, tickets = settings.detect.pages_per_week, settings.detect.tickets_per_week
        say(f"at most {pages:g} false page(s) a week and {tickets:g} ticket(s), over {len(models)} model(s)")
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


def _unnamed(settings: Settings) -> list[str]:
    """Point out targets that no policy names and that are none of the defaults.

    They may be meant: who acknowledged under such a name is reminded by it before that runs out.
    """
    named = targets_used(settings.response.policy)
    known = named | set(load(None, {}, {}, lambda _: ()).response.directory)
    hints = []
    for target in sorted(set(settings.response.directory) - known):
        near = difflib.get_close_matches(target, sorted(named), n=1)
        remedy = f"did you mean {near[0]}?" if near else f"targets of the policy: {', '.join(sorted(named))}"
        hints.append(
            f"look at directory.{plain(target)}: no policy names this target, so that it serves only to remind who "
            f"acknowledges under this name; {remedy}"
        )
    return hints
