"""Run stages in this process until it is told to stop.

  tocsin worker all --config tocsin.toml                        everything in one process
  tocsin worker join --config tocsin.toml                       the join alone, with a processor to itself
  tocsin worker detect triage escalate notify --config tocsin.toml

Run as many workers of a stage as there are partitions, at most. Logs are JSON on standard output, one line a decision.
SIGTERM and Ctrl-C make it finish what is in hand and leave. A worker that finds a fault of its own ends at once with
status 70: start it again, nothing is lost. Status 4 says that the brokers went away before it had begun. Told to stop
before that, it ends with status 0.
"""

import argparse
import logging
import os

from confluent_kafka import KafkaException

from streams.runtime import kafka, logs, topics, worker
from streams.runtime.commands.common import add_settings, settings_of
from streams.runtime.cursor import UnansweredError
from streams.runtime.ending import end_now
from streams.runtime.faust_host import is_held
from streams.runtime.probes import ListenError
from streams.runtime.segment_files import FolderError
from streams.runtime.terminal import CommandError, Exit
from streams.runtime.topics import STAGES
from streams.runtime.wiring import table_changelogs

log = logging.getLogger("tocsin.worker")


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument(
        "stages",
        nargs="+",
        choices=("all", *STAGES),
        metavar="STAGE",
        help="which to run: " + ", ".join(("all", *STAGES)),
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings and worse only (default: each decision)")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the topics, then run."""
    settings = settings_of(arguments, opens_channels=True)
    stages = STAGES if "all" in arguments.stages else tuple(dict.fromkeys(arguments.stages))
    admin = kafka.admin(settings.kafka)
    try:
        faults = topics.check(admin, settings.kafka, table_changelogs(settings))
    except KeyboardInterrupt:  # told to stop: nothing has begun, and nothing is in hand
        return Exit.DONE
    except (KafkaException, TimeoutError) as error:
        raise CommandError(Exit.BROKER, kafka.unanswered(settings.kafka, admin, error)) from None
    if faults:
        said = "\n".join(map(str, faults))
        raise CommandError(Exit.NOT_SO, f"the topics are not as they must be, nothing was started\n{said}")
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logs.begin(max(level, logging.WARNING) if arguments.quiet else level)
    log.info("worker.begins stages=%s", ",".join(stages))
    try:
        status = worker.serve(settings, stages, os.environ)
    except (FolderError, ListenError) as error:
        raise CommandError(Exit.SETTINGS, str(error)) from None
    except UnansweredError as error:
        log.critical(
            "worker.no_answer broker=%s error=%s: start it again when they are back", settings.kafka.broker, error
        )
        status = Exit.BROKER
    except Exception:  # it ends here, and says so as all else is said
        log.critical("worker.failed", exc_info=True)
        status = Exit.FAULT
    log.info("worker.ended status=%d", status)
    if is_held():  # a start failed beside stages that had started
        end_now(status)
    return status
