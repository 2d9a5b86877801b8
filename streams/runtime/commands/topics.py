"""Create the topics of a deployment, or check that they are as they must be.

tocsin topics create --config tocsin.toml    makes what is missing, touches nothing that is there
tocsin topics check --config tocsin.toml     partition counts, retention, compaction, broker time
tocsin topics list --json                    the table: key, partitions, retention, writers, readers
"""

import argparse

from confluent_kafka import KafkaException

from config.settings import KafkaSettings
from streams.runtime import kafka, topics
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.terminal import CommandError, Exit, columns, complain, lasting, say, say_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="create|check|list")
    for action, what in (
        ("create", "make what is missing"),
        ("check", "name what is wrong, change nothing"),
        ("list", "show the table of topics; no broker is asked"),
    ):
        own = inner.add_parser(action, help=what)
        add_json(own)
        add_settings(own)


def run(arguments: argparse.Namespace) -> int:
    """Create, check or list."""
    from streams.runtime.wiring import table_changelogs  # noqa: PLC0415 -- it brings every stage along

    settings = settings_of(arguments)
    if arguments.action == "list":
        return _list(arguments, settings.kafka.topic_prefix, settings.kafka)
    client = kafka.admin(settings.kafka)
    look = topics.create if arguments.action == "create" else topics.check
    try:
        faults = look(client, settings.kafka, table_changelogs(settings))
    except (KafkaException, TimeoutError) as error:
        why = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        message = f"{settings.kafka.broker}: {why}; is the address right, and may we ask about topics?"
        raise CommandError(Exit.BROKER, message) from None
    for fault in faults:
        if arguments.json:
            say_json({"topic": fault.topic, "problem": fault.problem, "remedy": fault.remedy})
        else:
            say(str(fault))
    if not faults:
        complain("all topics are there, and as they must be")
    return Exit.NOT_SO if faults else Exit.DONE


def _list(arguments: argparse.Namespace, prefix: str, settings: KafkaSettings) -> int:
    rows = []
    for topic in topics.TOPICS.values():
        kept = "compacted" if topic.retention_ms is None else lasting(topic.retention_ms)
        writers, readers = ", ".join(topic.written_by), ", ".join(topic.read_by)
        rows.append((prefix + topic.name, topic.key, str(topic.partitions(settings)), kept, writers, readers))
    head = ("topic", "key", "partitions", "kept", "written by", "read by")
    if arguments.json:
        for row in rows:
            say_json(dict(zip(head, row, strict=True)))
    else:
        say("\n".join(columns(head, rows)))
    return Exit.DONE
