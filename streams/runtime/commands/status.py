"""Say how far each stage has come, what is open, and what is missing.

tocsin status            for people
tocsin status --json     one object, for a probe; the exit status says whether the time goes on
"""

import argparse
from collections import Counter

import msgspec

from config.settings import KafkaSettings
from schemas.fields import MalformedRecordError
from schemas.through import Through
from streams.runtime.acts import latest_incidents
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.reading import TAIL, Reader, counted_through_ms, newest_clock_ms
from streams.runtime.terminal import CommandError, Exit, at, columns, lasting, say, say_json

MUST = ("model-outputs", "labels", "window-stats", "findings", "clock", "incidents-latest", "dead-letters")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a deployment from outside.

    Parameters
    ----------
    clock_ms
        Newest value that a worker wrote; None: none does.
    joined_through_ms, detected_through_ms
        By source partition, and by partition of the findings: event time before which all is counted, and judged.
    open_incidents
        By severity, for instance `SEV-2`.
    dead_letters
        How many are kept.
    """

    missing: list[str]
    clock_ms: int | None
    joined_through_ms: dict[int, int]
    detected_through_ms: dict[str, int]
    open_incidents: dict[str, int]
    dead_letters: int


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    add_json(parser)
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at the newest of each topic."""
    settings = settings_of(arguments)
    with Reader(settings.kafka) as reader:
        status = look(reader, settings.kafka)
    if arguments.json:
        say_json(status)
    else:
        _tell(status, settings.kafka)
    return Exit.NOT_SO if status.missing or status.clock_ms is None else Exit.DONE


def look(reader: Reader, settings: KafkaSettings) -> Status:
    """Read the newest marks of time and the incidents."""
    missing = [reader.topic(name) for name in MUST if reader.partitions(name) == 0]
    if len(missing) == len(MUST):
        message = (
            f"{settings.broker} has none of the topics: `tocsin topics create` makes them (is --topic-prefix right?)"
        )
        raise CommandError(Exit.NOT_SO, message)
    there = {name for name in MUST if reader.topic(name) not in missing}
    open_ones = [one for one in latest_incidents(reader) if one.is_open] if "incidents-latest" in there else []
    letters = 0
    if "dead-letters" in there:
        bounds = [reader.bounds("dead-letters", partition) for partition in range(reader.partitions("dead-letters"))]
        letters = sum(high - low for low, high in bounds)
    joined = counted_through_ms(reader) if "window-stats" in there else {}
    return Status(
        missing=missing,
        clock_ms=newest_clock_ms(reader) if "clock" in there else None,
        joined_through_ms=joined,
        detected_through_ms=_detected(reader) if "findings" in there else {},
        open_incidents=dict(sorted(Counter(one.severity.display for one in open_ones).items())),
        dead_letters=letters,
    )


def _detected(reader: Reader) -> dict[str, int]:
    through: dict[str, int] = {}
    for read in reader.all("findings", last=TAIL):
        try:
            mark = Through.decode(read.value)
        except MalformedRecordError:  # a finding
            continue
        name = str(read.partition)
        through[name] = max(through.get(name, 0), mark.through_ms)
    return through


def _tell(status: Status, settings: KafkaSettings) -> None:
    say(f"brokers        {settings.broker}, topics {settings.topic_prefix or '(no prefix)'}")
    for name in status.missing:
        say(f"missing        {name}: `tocsin topics create` makes it")
    if status.clock_ms is None:
        say("clock          nobody writes it: no worker of detect, triage, escalate or notify has run for an hour")
    else:
        say(f"clock          {at(status.clock_ms)}")
    for what, through in (("joined", status.joined_through_ms), ("detected", status.detected_through_ms)):
        rows = [(f"  {partition}", at(ms), _behind(ms, status.clock_ms)) for partition, ms in through.items()]
        if rows:
            say("\n".join(columns((what, "through", "behind the clock"), rows)))
        else:
            say(f"{what:<13}  nothing yet")
    said = ", ".join(f"{count} of {severity}" for severity, count in status.open_incidents.items())
    say(f"open           {said or 'no incident'}")
    say(f"dead letters   {status.dead_letters:,} kept")


def _behind(ms: int, clock_ms: int | None) -> str:
    return "-" if clock_ms is None else lasting(max(0, clock_ms - ms))
