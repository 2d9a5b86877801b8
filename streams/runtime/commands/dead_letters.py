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
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.reading import Reader
from streams.runtime.terminal import Exit, columns, complain, plain, say, say_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="list")
    listing = inner.add_parser("list", help="count them, or list each")
    listing.add_argument("--topic", help="only of this topic, named without its prefix")
    listing.add_argument("--field", help="only those refused for this field, for instance score")
    listing.add_argument("--each", action="store_true", help="one line for each instead of counts")
    listing.add_argument(
        "--last",
        type=int,
        default=10_000,
        metavar="N",
        help="look at the last N of each partition (default %(default)s)",
    )
    listing.add_argument("--bytes", action="store_true", help="show the refused bytes too")
    add_json(listing)
    add_settings(listing)


def run(arguments: argparse.Namespace) -> int:
    """Read the newest dead letters and show them."""
    settings = settings_of(arguments)
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
        complain("nothing was refused")
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
