"""What can be done from a terminal? `tocsin COMMAND`, each command in a file of its own, loaded when it is called.

So `tocsin --help` costs no broker's library, and a command only what it needs.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from config.fault import SettingsError
from streams.runtime.terminal import MEANINGS, CommandError, Exit, Parser, Teaching, complain, flush

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("demo", "see it ring: a model goes wrong, an incident opens, somebody is told; nothing to install"),
    "worker": ("worker", "run stages: join, detect, triage, escalate, notify, or all"),
    "topics": ("topics", "create the topics, or check that they are as they must be"),
    "baseline": ("baseline", "learn what healthy looks like, try it, and publish it"),
    "produce": ("produce", "send outputs or labels from files, at a rate or as fast as they once came"),
    "incidents": ("incidents", "list and show incidents; acknowledge, contain, resolve, comment"),
    "dead-letters": ("dead_letters", "what was refused, where it came from, and why"),
    "status": ("status", "how far each stage has come, and what is open"),
    "config": ("config", "check a file of settings, or show the defaults"),
    "schema": ("schema", "the JSON Schema of each record"),
}
"""Name as typed, to module below `streams.runtime.commands`, and what it is for."""

EXAMPLES = """\
a first incident on your own topics (docs/first-incident.md has the rows for it, and takes six minutes):

  tocsin config check tocsin.toml
  tocsin topics create --config tocsin.toml
  tocsin baseline build healthy.ndjson --model fraud --config tocsin.toml
  tocsin worker all --config tocsin.toml
  tocsin produce broken.ndjson --start-now --speed 1 --config tocsin.toml
  tocsin incidents list --config tocsin.toml

`tocsin COMMAND --help` has examples for each.
"""


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and end with the status that says how it went."""
    if sys.stderr is None:  # it was closed before the start: nobody wants to hear complaints
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- for as long as the process lives
    sys.exit(run(sys.argv[1:] if words is None else words))


def run(words: Sequence[str]) -> int:
    """Run a command and return its status."""
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    chosen = COMMANDS.get(words[0])
    if chosen is None:
        try:
            parser.parse_args(words)  # --help, --version, or what it has to say of anything else; it does not return
        except CommandError as error:
            complain(f"tocsin: {error}")
            return error.status
        except BrokenPipeError:
            return Exit.DONE
        return Exit.USAGE
    # what a command has to say it says itself; workers begin logs
    logging.getLogger().addHandler(logging.NullHandler())
    before = signal.signal(signal.SIGTERM, _end)
    status: int = Exit.DONE
    try:
        command = import_module(f"streams.runtime.commands.{chosen[0]}")
        own = Parser(
            prog=f"tocsin {words[0]}", description=command.__doc__, formatter_class=Teaching, allow_abbrev=False
        )
        command.configure(own)
        status = command.run(own.parse_args(words[1:]))
        flush()
    except CommandError as error:
        complain(f"tocsin {words[0]}: {error}")
        return error.status
    except SettingsError as error:
        complain(f"tocsin {words[0]}: {len(error.faults)} fault(s) in the settings\n{error}")
        return Exit.SETTINGS
    except KeyboardInterrupt:
        complain(f"tocsin {words[0]}: interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # somebody reads only the head of it
        return status
    except Exception as error:
        said = _of_the_client(error)
        if said is None:
            raise
        complain(f"tocsin {words[0]}: {said}; look at [kafka.security] of the settings")
        return Exit.SETTINGS
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


def _of_the_client(error: Exception) -> str | None:
    """Return what the brokers' library does not take of its settings, None where it is not that which went wrong."""
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 -- `tocsin --help` needs none of it

    if isinstance(error, KafkaException) and error.args[0].code() == KafkaError._INVALID_ARG:  # noqa: SLF001 -- its name
        return str(error.args[0].str())
    return None


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    lines = ["commands:", *(f"  {name.ljust(width)}  {what}" for name, (_, what) in COMMANDS.items()), ""]
    statuses = ["exit status:", *(f"  {status.value:>3}  {meaning}" for status, meaning in MEANINGS.items())]
    parser = Parser(
        prog="tocsin",
        usage="tocsin COMMAND ...",
        description="A warning bell for deployed models that are operationally healthy but wrong.",
        epilog="\n".join([*lines, EXAMPLES, *statuses]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tocsin {version('tocsin')}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser
