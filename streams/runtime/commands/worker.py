"""Run stages in this process until it is told to stop.

  tocsin worker all --config tocsin.toml                        everything in one process
  tocsin worker triage escalate notify --config tocsin.toml     some of it; run as many workers as there are partitions

Stages: detect, triage, escalate, notify. Logs are JSON on standard output, one line a decision. SIGTERM and Ctrl-C make
it finish what is in hand and leave. A worker that finds a fault of its own ends at once with status 70: start it again,
nothing is lost.
"""

import argparse
import asyncio
import logging
import os

from streams.runtime import kafka, logs, topics
from streams.runtime.commands.common import add_settings, settings_of
from streams.runtime.terminal import CommandError, Exit, complain
from streams.runtime.wiring import SMALL_STAGES, serve, table_changelogs

log = logging.getLogger("tocsin.worker")


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument(
        "stages", nargs="+", choices=("all", *SMALL_STAGES), metavar="STAGE", help="which stages; all for all"
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings and worse only")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the topics, then run."""
    settings = settings_of(arguments, opens_channels=True)
    stages = SMALL_STAGES if "all" in arguments.stages else tuple(dict.fromkeys(arguments.stages))
    faults = topics.check(kafka.admin(settings.kafka), settings.kafka, table_changelogs(settings))
    if faults:
        said = "\n".join(map(str, faults))
        raise CommandError(Exit.NOT_SO, f"the topics are not as they must be, nothing was started\n{said}")
    logs.begin(logging.WARNING if arguments.quiet else logging.INFO)
    log.info("worker.begins stages=%s", ",".join(stages))
    asyncio.run(serve(settings, stages, os.environ))
    log.info("worker.ended reason=told")
    complain("stopped")
    return Exit.DONE
