"""Create the topics of a deployment, or check that they are as they must be.

tocsin topics create --config tocsin.toml    makes what is missing, touches nothing that is there
tocsin topics check --config tocsin.toml     partition counts, retention, compaction, broker time, where rows lie
tocsin topics list --json                    the table: key, partitions, retention, writers, readers
"""

import argparse
from collections.abc import Container

from confluent_kafka import KafkaException

from config.settings import KafkaSettings, Settings
from streams.runtime import kafka, topics
from streams.runtime.commands.common import add_command, add_json, add_settings, settings_of
from streams.runtime.reading import Reader
from streams.runtime.sampling import sample
from streams.runtime.terminal import CommandError, Exit, columns, complain, lasting, say, say_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="create|check|list")
    for action, what, teaches in (
        ("create", "make what is missing", CREATES),
        ("check", "name what is wrong, change nothing", CHECKS),
        ("list", "show the table of topics; no broker is asked", LISTS),
    ):
        own = add_command(inner, action, what, teaches)
        add_json(own)
        add_settings(own)


CREATES = """
Make the topics that are missing, name each, and check all of them. None that is there is touched. How many partitions they
get, and how many copies, say kafka.input_partitions, kafka.output_partitions and kafka.replication.

  tocsin topics create --config tocsin.toml
  tocsin topics create --broker kafka:9092 --topic-prefix staging.
"""

CHECKS = """
Compare the topics with what they must be, and change nothing: whether each is there, with as many partitions as the
settings say, kept for as long, compacted where it holds state, and stamped by the broker's clock where it is an input; and
whether the newest rows of both inputs can be read, and lie where the join looks for them, which a producer with another
partitioner does not see to. What is wrong is named with the remedy, and ends with 1.

  tocsin topics check --config tocsin.toml
  tocsin topics check --json
"""

LISTS = """
Show the table of all topics: what the key is, how many partitions, how long records are kept, who writes and who reads.
No broker is asked.

  tocsin topics list --config tocsin.toml
  tocsin topics list --json
"""


def run(arguments: argparse.Namespace) -> int:
    """Create, check or list."""
    from streams.runtime.wiring import table_changelogs  # noqa: PLC0415 -- it brings every stage along

    settings = settings_of(arguments)
    if arguments.action == "list":
        return _list(arguments, settings.kafka.topic_prefix, settings.kafka)
    client, changelogs = kafka.admin(settings.kafka), table_changelogs(settings)
    made: list[str] = []
    try:
        faults = topics.check(client, settings.kafka, changelogs)
        if arguments.action == "create":
            missing = [fault.topic for fault in faults if fault.problem == topics.NOT_THERE]
            faults = topics.create(client, settings.kafka, changelogs)
            made = [name for name in missing if name not in {fault.topic for fault in faults}]
        faults += _astray(settings, {fault.topic for fault in faults if fault.problem == topics.NOT_THERE} | set(made))
    except (KafkaException, TimeoutError) as error:
        raise CommandError(Exit.BROKER, kafka.unanswered(settings.kafka, client, error)) from None
    for name in made:
        if arguments.json:
            say_json({"topic": name, "made": True})
        else:
            say(f"made {name}")
    for fault in faults:
        if arguments.json:
            say_json({"topic": fault.topic, "problem": fault.problem, "remedy": fault.remedy})
        else:
            say(str(fault))
    if not faults:
        new = f", {len(made)} of them new" if made else ""
        complain(f"all topics are there{new}, and as they must be")
    return Exit.NOT_SO if faults else Exit.DONE


def _astray(settings: Settings, without_rows: Container[str]) -> list[topics.TopicFault]:
    """Look at the newest rows of both inputs: a producer with another partitioner shows itself nowhere else."""
    with Reader(settings.kafka) as reader:
        names = {name: reader.topic(name) for name in (topics.OUTPUTS, topics.LABELS)}
        return [
            fault
            for name, topic in names.items()
            if topic not in without_rows
            for fault in sample(reader, settings.models, name).faults(topic)
        ]


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
