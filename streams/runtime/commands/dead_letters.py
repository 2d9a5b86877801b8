"""List what was refused: which bytes, where they came from, and why.

tocsin dead-letters list                       how many of each kind, the most frequent first
tocsin dead-letters list --each                one line for each, the newest last
tocsin dead-letters list --topic labels --json
tocsin dead-letters list --each --bytes        with the bytes: they may hold personal data
"""

import argparse
from collections import Counter
from collections.abc import Iterator

import msgspec

from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from streams.runtime.commands.common import add_command, add_json, add_settings, settings_of
from streams.runtime.lines import plain
from streams.runtime.reading import Reader
from streams.runtime.terminal import CommandError, Exit, columns, complain, say, say_json
from streams.runtime.topics import TOPICS

READ = {name for name, topic in TOPICS.items() if topic.read_by != ("command line",)}
"""Topics whose records a stage may refuse."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="list")
    listing = add_command(inner, "list", "count them, or list each", LISTS)
    listing.add_argument(
        "--topic", metavar="NAME", help="only of this topic, named without its prefix (default: of all)"
    )
    listing.add_argument(
        "--field", metavar="NAME", help="only those refused for this field, for instance score (default: for any)"
    )
    listing.add_argument("--each", action="store_true", help="one line for each (default: counts of each kind)")
    listing.add_argument(
        "--last",
        type=_count,
        default=10_000,
        metavar="N",
        help="look at the last N dead letters of each partition (default %(default)s)",
    )
    listing.add_argument(
        "--bytes", action="store_true", help="show the refused bytes too, up to 64 KB of each (default: no)"
    )
    add_json(listing)
    add_settings(listing)


LISTS = """
Say what was refused and why, the most frequent first: topic, record, field, what was expected, and what came. Foreign text
is described and not quoted, unless you ask for the bytes. Nothing that is listed here was counted; mend its producer and
send it again.

  tocsin dead-letters list --config tocsin.toml
  tocsin dead-letters list --topic model-outputs --field score --each
  tocsin dead-letters list --each --bytes --last 10 --json
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Read the newest dead letters and show them."""
    settings = settings_of(arguments)
    if arguments.topic not in {None, *READ}:
        known = ", ".join(sorted(READ))
        raise CommandError(Exit.USAGE, f"--topic {arguments.topic}: no topic of that name is read; there are {known}")
    with Reader(settings.kafka) as reader:
        letters = [
            letter
            for letter in _letters(reader, arguments.last)
            if arguments.topic in {None, letter.topic.removeprefix(settings.kafka.topic_prefix)}
            and arguments.field in {None, letter.field}
        ]
    if arguments.each:
        for letter in letters:
            _show(letter, with_bytes=arguments.bytes, as_json=arguments.json)
        return Exit.DONE
    counts = Counter((one.topic, one.record, one.field, one.expected, one.got) for one in letters)
    names = ("topic", "record", "field", "expected", "got")
    if arguments.json:
        for key, count in counts.most_common():
            say_json({"count": count, **dict(zip(names, key, strict=True))})
    elif counts:
        rows = [(str(count), *map(plain, key)) for key, count in counts.most_common()]
        say("\n".join(columns(("count", *names), rows)))
    else:
        complain("nothing was refused" if arguments.topic is arguments.field is None else "nothing of that was refused")
    return Exit.DONE


def _letters(reader: Reader, last: int) -> Iterator[DeadLetter]:
    for read in reader.all("dead-letters", last=last):
        try:
            yield DeadLetter.decode(read.value)
        except MalformedRecordError as error:
            complain(f"{read.topic}[{read.partition}]@{read.offset} is no dead letter: {error}")


def _show(letter: DeadLetter, *, with_bytes: bool, as_json: bool) -> None:
    shown = letter if with_bytes else msgspec.structs.replace(letter, key=None, value=None)
    if as_json:
        say_json(shown)
        return
    row = f" row {letter.row}" if letter.row >= 0 else ""
    what = f"{letter.record}.{letter.field}" if letter.field else letter.record
    say(
        plain(
            f"{letter.topic}[{letter.partition}]@{letter.offset}{row}  {what}: expected {letter.expected}, got {letter.got}"
        )
    )
    if with_bytes and letter.value is not None:
        say(f"  {letter.value!r}")
