"""See what was refused: which bytes, where they came from, and why; and send it again when the reason is gone.

tocsin dead-letters list                       how many of each kind, the most frequent first
tocsin dead-letters list --each                one line for each, the newest last
tocsin dead-letters replay --dry-run           what would be sent again
tocsin dead-letters replay --since "2 h" --model fraud
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from config.settings import KafkaSettings
from schemas.dead_letter import DeadLetter, SentAgain
from schemas.fields import REFUSALS, MalformedRecordError, counted
from streams.runtime import topics
from streams.runtime.commands.common import add_command, add_json, add_settings, pace, settings_of, since_ms
from streams.runtime.decode import Apart
from streams.runtime.lines import plain
from streams.runtime.reading import Read, Reader
from streams.runtime.sending import Sending
from streams.runtime.sent_again import MOST_OPEN, REPLAYED, Place, Reason, Survey, headers_of
from streams.runtime.stage_spec import Routed
from streams.runtime.terminal import CommandError, Exit, Progress, columns, complain, say, say_json
from streams.runtime.topics import DEAD_LETTERS, STAGES, TOPICS

READ = {name for name, topic in TOPICS.items() if set(STAGES) & set(topic.read_by)}
"""Topics whose records a stage may refuse."""
MARK_EVERY = 500
"""Records after which is written that they were sent again: so many may be sent twice when this command is killed."""
MARKED_WITHIN_S = 10.0
"""How long records may wait for that, where they are sent slowly."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="list|replay")
    listing = add_command(inner, "list", "count them, or list each", LISTS)
    _choosing(listing)
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

    replaying = add_command(inner, "replay", "send them again", REPLAYS)
    _choosing(replaying)
    replaying.add_argument(
        "--rate", type=pace, metavar="N", help="N records a second (default: as fast as the brokers take them)"
    )
    replaying.add_argument(
        "--dry-run", action="store_true", help="say what would be sent, and send nothing (default: send it)"
    )
    add_json(replaying)
    add_settings(replaying)


def _choosing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        type=since_ms,
        default=0,
        metavar="WHEN",
        help='only those of the last "2 h", or since "2026-11-22T10:00:00Z" (default: all that are kept, 30 days)',
    )
    parser.add_argument(
        "--topic", metavar="NAME", help="only of this topic, named without its prefix (default: of all)"
    )
    parser.add_argument(
        "--field", metavar="NAME", help="only those refused for this field, for instance score (default: for any)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="only those whose bytes name this model; what is no JSON names none (default: of any)",
    )


LISTS = """
Say what was refused and why, the most frequent first: how many of each topic, record, field and what was expected, with what
came in one of them. Foreign text is described and not quoted, unless you ask for the bytes. Nothing that is listed here was
counted; mend its producer and send it again.

  tocsin dead-letters list --config tocsin.toml
  tocsin dead-letters list --topic model-outputs --field score --each
  tocsin dead-letters list --since "2 h" --each --bytes --json
"""

REPLAYS = """
Send refused records again, as they were: same bytes, same key, same partition. Do so when the reason is gone: a setting was
mended, a newer Tocsin reads what the older could not, a time of the future has come. What is wrong in the bytes themselves
stays wrong: mend its producer, and let that send.

It is safe to repeat. What was sent again is marked, and passed over the next time; a record keeps its id, so that even a
second copy changes nothing. What is refused once more is a new dead letter, which says which attempt it was; after the
fourth it is left alone. Rows of outputs and labels, deployments and acts are sent again; what a stage wrote it says again
by itself, and what stands for a batch that could not be read is passed over.

  tocsin dead-letters replay --dry-run --config tocsin.toml
  tocsin dead-letters replay --since "2 h" --topic model-outputs --model price
  tocsin dead-letters replay --rate 500 --json
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """List, or send again."""
    settings = settings_of(arguments)
    if arguments.topic not in {None, *READ}:
        known = ", ".join(sorted(READ))
        raise CommandError(Exit.USAGE, f"--topic {arguments.topic}: no topic of that name is read; there are {known}")
    with Reader(settings.kafka) as reader:
        if arguments.action == "replay":
            return Replay(arguments, settings.kafka, reader).run()
        return _list(arguments, reader)


def _is_wanted(arguments: argparse.Namespace, letter: DeadLetter) -> bool:
    return (
        arguments.topic in {None, letter.topic}
        and arguments.field in {None, letter.field}
        and (arguments.model is None or _model_of(letter) == arguments.model)
    )


class _OfModel(msgspec.Struct):
    model: str = ""


def _model_of(letter: DeadLetter) -> str:
    """Read which model refused bytes speak of; empty where they do not say."""
    try:
        return msgspec.json.decode(letter.value or b"", type=_OfModel).model
    except REFUSALS:
        return ""


def _record_of(read: Read) -> DeadLetter | SentAgain | None:
    """Read one record of the topic; what is none of ours is named and passed over."""
    try:
        return DeadLetter.decode(read.value)
    except MalformedRecordError as error:
        refusal = error
    try:
        return SentAgain.decode(read.value)
    except MalformedRecordError:
        complain(f"{read.topic}[{read.partition}]@{read.offset} is no dead letter: {refusal}")
        return None


# ---- list


def _list(arguments: argparse.Namespace, reader: Reader) -> int:
    records = (
        _record_of(read) for read in reader.all(DEAD_LETTERS, last=arguments.last) if read.broker_ms >= arguments.since
    )
    letters = [one for one in records if isinstance(one, DeadLetter) and _is_wanted(arguments, one)]
    if arguments.each:
        for letter in letters:
            _show(letter, with_bytes=arguments.bytes, as_json=arguments.json)
        return Exit.DONE
    counts = Counter(one.kind for one in letters)
    came = {one.kind: one.got for one in letters}
    names = ("topic", "record", "field", "expected")
    if arguments.json:
        for kind, count in counts.most_common():
            say_json({"count": count, **dict(zip(names, kind, strict=True)), "got": came[kind]})
    elif counts:
        rows = [(str(count), *map(plain, kind), plain(came[kind])) for kind, count in counts.most_common()]
        say("\n".join(columns(("count", *names, "got, for instance"), rows)))
    else:
        everything = arguments.topic is arguments.field is arguments.model is None and not arguments.since
        complain("nothing was refused" if everything else "nothing of that was refused")
    return Exit.DONE


def _show(letter: DeadLetter, *, with_bytes: bool, as_json: bool) -> None:
    if as_json:
        say_json(letter if with_bytes else letter.holding(None, None))
        return
    what = f"{letter.record}.{letter.field}" if letter.field else letter.record
    attempt = f"  (attempt {letter.attempt}, first {letter.first})" if letter.attempt > 1 else ""
    say(plain(f"{_where(letter)}  {what}: expected {letter.expected}, got {letter.got}{attempt}"))
    if with_bytes and letter.value is not None:
        say(f"  {letter.value!r}")


def _where(letter: DeadLetter) -> str:
    row = f" row {letter.row}" if letter.row >= 0 else ""
    return f"{letter.topic}[{letter.partition}]@{letter.offset}{row}"


# ---- replay


class Replay:
    """Sends refused records again: looks at all dead letters, then sends the last one of each refusal that is open."""

    def __init__(self, arguments: argparse.Namespace, settings: KafkaSettings, reader: Reader) -> None:
        self._arguments = arguments
        self._settings = settings
        self._reader = reader
        self._sending = Sending(settings, "replay")
        self._unmarked: list[SentAgain] = []
        self._marked_s = time.monotonic()
        self._passed_over: Counter[Reason] = Counter()
        self.sent = 0

    def run(self) -> int:
        """Look, send, and say what was sent and what was passed over."""
        survey = self._survey()
        places = survey.chosen()
        self._passed_over = survey.passed_over()
        began_s = time.monotonic()
        with Progress("sending again", len(places), "records") as progress, Reader(self._settings) as originals:
            try:
                for number, letter in enumerate(self._letters(places)):
                    record = self._record(letter, originals)
                    progress.add(1)
                    if isinstance(record, Reason):
                        self._passed_over[record] += 1
                    elif self._arguments.dry_run:
                        self._say(letter)
                        self.sent += 1
                    else:
                        self._wait(began_s, number)
                        self._send(letter, record)
            finally:
                self._mark()  # also what was sent before an interruption
        self._sum_up()
        return Exit.DONE

    def _survey(self) -> Survey:
        counts = {name: self._reader.partitions(name) for name in REPLAYED}
        survey = Survey({name: count for name, count in counts.items() if count})
        with Progress("looking", None, "dead letters") as progress:
            for read in self._reader.all(DEAD_LETTERS):
                progress.add(1)
                if read.broker_ms >= self._arguments.since:
                    self._meet(survey, read)
        return survey

    def _meet(self, survey: Survey, read: Read) -> None:
        record = _record_of(read)
        if isinstance(record, DeadLetter):
            survey.meet(record, (read.partition, read.offset), wanted=_is_wanted(self._arguments, record))
        elif record is not None:
            survey.mark(record)
        if len(survey) > MOST_OPEN:
            raise CommandError(Exit.NOT_SO, f"more than {MOST_OPEN:,} refusals: look at a part of them, with --since")

    def _letters(self, places: Sequence[Place]) -> Iterator[DeadLetter]:
        """Read the chosen letters once more, in order of place."""
        spans: dict[int, tuple[int, int]] = {}
        for partition, offset in places:
            start, _ = spans.get(partition, (offset, offset))
            spans[partition] = (start, offset + 1)
        chosen = set(places)
        for read in self._reader.between(DEAD_LETTERS, spans):
            if (read.partition, read.offset) in chosen:
                yield DeadLetter.decode(read.value)

    def _record(self, letter: DeadLetter, originals: Reader) -> Routed | Reason:
        """Make the record that is sent, or say why none is; what a letter does not hold is read where it was refused."""
        unreadable = originals.unreadable.total()
        key, value = letter.key, letter.value
        if not letter.is_whole:
            span = {letter.partition: (letter.offset, letter.offset + 1)}
            low, high = originals.bounds(letter.topic, letter.partition)
            found = list(originals.between(letter.topic, span)) if low <= letter.offset < high else []
            _, key, value = Apart().row(found[0].key, found[0].value, letter.row) if found else (-1, None, None)
        if value is None:
            return Reason.NOTHING if originals.unreadable.total() == unreadable else Reason.UNREADABLE
        return Routed(topic=letter.topic, key=key, value=value, partition=letter.partition, headers=headers_of(letter))

    def _wait(self, began_s: float, number: int) -> None:
        if self._arguments.rate is not None:
            time.sleep(max(0.0, began_s + number / self._arguments.rate - time.monotonic()))

    def _send(self, letter: DeadLetter, record: Routed) -> None:
        self._sending.send(record)
        self._unmarked.append(SentAgain(first=letter.first, attempt=letter.attempt + 1))
        self.sent += 1
        if len(self._unmarked) >= MARK_EVERY or time.monotonic() - self._marked_s >= MARKED_WITHIN_S:
            self._mark()

    def _mark(self) -> None:
        """Write, once they are acknowledged, which records were sent."""
        self._sending.finish()
        marks, self._unmarked = self._unmarked, []
        for mark in marks:
            stamped = msgspec.structs.replace(mark, recorded_at_ms=time.time_ns() // 1_000_000)
            self._sending.send(topics.route(stamped, self._settings.output_partitions))
        self._sending.finish()
        self._marked_s = time.monotonic()

    def _say(self, letter: DeadLetter) -> None:
        if self._arguments.json:
            say_json({"first": letter.first, "attempt": letter.attempt + 1, "field": letter.field, "got": letter.got})
        else:
            what = f"{letter.record}.{letter.field}" if letter.field else letter.record
            say(plain(f"{_where(letter)}  as attempt {letter.attempt + 1}; refused for {what}: {letter.got}"))

    def _sum_up(self) -> None:
        passed_over: Mapping[str, int] = {str(reason): count for reason, count in self._passed_over.most_common()}
        if self._arguments.json:
            say_json({"would_send" if self._arguments.dry_run else "sent": self.sent, "passed_over": passed_over})
            return
        say(f"{'would send' if self._arguments.dry_run else 'sent'} {counted(self.sent, 'record')} again")
        for reason, count in passed_over.items():
            say(f"passed over {count:,}: {reason}")
