"""Send outputs or labels from files, as fast as they go, at a rate, or as they once came.

  tocsin produce outputs.ndjson --config tocsin.toml             as fast as the brokers take them
  tocsin produce labels.parquet --rate 500                       500 rows a second
  tocsin produce history.parquet --end-now                       as if its newest row happened now
  tocsin produce history.parquet --start-now --speed 1           as it once came, beginning now
  tocsin produce outputs.parquet --rows 100                      100 rows a message
  tocsin produce outputs.ndjson labels.ndjson --end-now          both together, moved by the same

NDJSON (one JSON object a line) or Parquet; from a pipe (/dev/stdin, a FIFO) NDJSON, without --start-now and --end-now,
which read twice. A row with made_at_ms and a prediction is an output, one with labelled_at_ms and a label is a label; a row
with both is sent as both, the label when its time comes. Of several files the row whose time comes first is sent first, and
--start-now and --end-now move all of them by the same: name outputs and their labels in one command, else each file is moved
by itself, and labels come before or long after their outputs.

A row that cannot be read is named with its line, counted and left out; the others are sent, and the exit status is 5.
Rows that will be taken and yet not do what you expect (of the past, of the future, of a model that the settings do not
list, without a required feature) are sent and counted, with a word of warning.
"""

import argparse
import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UNSET
from msgspec.structs import replace

from config.settings import KafkaSettings, Settings
from schemas.fields import MalformedRecordError, counted
from schemas.label import Label
from schemas.output import Output
from streams.runtime import topics
from streams.runtime.commands.common import add_json, add_settings, pace, settings_of
from streams.runtime.doubts import Doubts
from streams.runtime.lines import plain
from streams.runtime.many_rows import checked
from streams.runtime.producer import NotAcknowledgedError, Rows
from streams.runtime.reading import Reader, counted_through_ms, wall_ms
from streams.runtime.row_files import Row, count_rows, read_rows, refuse_pipes
from streams.runtime.terminal import CommandError, Exit, Progress, complain, say, say_json

MOST_NAMED = 20
"""Faulty rows that are named one by one; the others are counted."""
MOST_ROWS = 10_000
AGE_MS = 1_000
"""How long a row of a paced file may wait for others."""

MOST_SLEEP_S = 86_400
"""Waited in one go; the system takes no number of seconds beyond some centuries."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="outputs, labels or both, NDJSON or Parquet; several: as one",
    )
    paces = parser.add_mutually_exclusive_group()
    paces.add_argument(
        "--rate", type=pace, metavar="N", help="N rows a second (default: as fast as the brokers take them)"
    )
    paces.add_argument("--speed", type=pace, metavar="X", help="X times as fast as their own times say; 1: as it came")
    shift = parser.add_mutually_exclusive_group()
    shift.add_argument(
        "--start-now", action="store_true", help="move all times so that the first row of all files happens now"
    )
    shift.add_argument(
        "--end-now",
        action="store_true",
        help="move all times so that the newest row of all files happens now (default: as they stand)",
    )
    parser.add_argument(
        "--rows", type=_rows, default=1, metavar="N", help=f"rows a message, 1 to {MOST_ROWS} (default %(default)s)"
    )
    add_json(parser)
    add_settings(parser)


def _rows(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_ROWS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_ROWS}, got {text!r}")
    return int(text)


@dataclass(slots=True)
class Sent:
    """What became of the files."""

    outputs: int = 0
    labels: int = 0
    messages: int = 0
    refused: int = 0
    named: list[str] = field(default_factory=list)

    @property
    def rows(self) -> str:
        """What was sent, for people."""
        return f"{counted(self.outputs, 'output')} and {counted(self.labels, 'label')}"

    def refuse(self, file: str, place: int, error: MalformedRecordError) -> None:
        """Take note of a row that cannot be read."""
        self.refused += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(f"{file}:{place}: {error}")


def run(arguments: argparse.Namespace) -> int:
    """Read, send, and say what was sent."""
    settings = settings_of(arguments)
    refuse_pipes(arguments.files, "--start-now and --end-now read what they send twice" if _moves(arguments) else "")
    totals = [count_rows(file) for file in arguments.files]
    total = None if None in totals else sum(filter(None, totals))
    doubts = _doubts(settings)
    sent = Sent()
    records = _merged(arguments.files, sent)
    by_ms = _shift_ms(arguments)
    if by_ms != 0:
        records = shifted(records, by_ms)
    records = _looked_at(_paced(records, arguments.rate, arguments.speed), doubts)
    try:
        with Progress("sending", total, "rows") as progress:
            _send(arguments, settings.kafka, records, sent, progress)
    except KeyboardInterrupt:
        complain(f"sent until then: {sent.rows}")
        raise
    finally:
        for said in sent.named:
            complain(plain(said))
        for said in doubts.said():
            complain(f"beware: {said}")
    if arguments.json:
        say_json(_counts(sent, doubts))
    else:
        say(f"sent {sent.rows} in {counted(sent.messages, 'message')}")
    if sent.refused:
        complain(f"rows that are no outputs or labels, and were left out: {sent.refused:,}")
    return Exit.DATA if sent.refused else Exit.DONE


def _counts(sent: Sent, doubts: Doubts) -> dict[str, object]:
    return {
        "outputs": sent.outputs,
        "labels": sent.labels,
        "messages": sent.messages,
        "refused": sent.refused,
        "late": doubts.late,
        "overdue": doubts.overdue,
        "future": doubts.future,
        "unlisted": doubts.unlisted,
        "lacking": doubts.lacking.total(),
    }


def _doubts(settings: Settings) -> Doubts:
    """Ask the brokers how their topics are cut, which must fit, and how far rows have been counted."""
    kafka = settings.kafka
    with Reader(kafka) as reader:
        for name in (topics.OUTPUTS, topics.LABELS):
            found = reader.partitions(name)
            if found == 0:
                raise reader.missing(name)
            if found != kafka.input_partitions:
                message = (
                    f"{reader.topic(name)} has {found} partitions, the settings say {kafka.input_partitions}: "
                    "labels would miss their outputs. `tocsin topics check` says what to do"
                )
                raise CommandError(Exit.NOT_SO, message)
        through_ms = counted_through_ms(reader) if reader.partitions(topics.WINDOW_STATS) else {}
    return Doubts(
        models=settings.models,
        counted_through_ms=through_ms,
        partitions=kafka.input_partitions,
        label_wait_ms=settings.join.label_wait_ms,
        future_skew_ms=settings.join.future_skew_ms,
    )


def _looked_at(records: Iterable[Output | Label], doubts: Doubts) -> Iterator[Output | Label]:
    """Look at each record when it is due."""
    for record in records:
        doubts.look(record, wall_ms())
        yield record


def _send(
    arguments: argparse.Namespace,
    kafka: KafkaSettings,
    records: Iterable[Output | Label],
    sent: Sent,
    progress: Progress,
) -> None:
    try:
        with Rows(kafka, rows_a_message=arguments.rows, age_ms=AGE_MS, wait_ms=kafka.delivery_wait_ms) as rows:
            for record in records:
                rows.send(record)
                sent.outputs += isinstance(record, Output)
                sent.labels += isinstance(record, Label)
                progress.add(1)
    except NotAcknowledgedError as error:
        raise CommandError(Exit.BROKER, f"{kafka.broker}: {error}; {_going_on(arguments)}") from None
    sent.messages = rows.acknowledged_messages


def _going_on(arguments: argparse.Namespace) -> str:
    """Say what running the command again does."""
    if not _moves(arguments):
        return "it is safe to run the command again"
    return (
        "run again, the command moves all times anew: outputs that were taken keep theirs and count as conflicting_output, "
        "labels as corrected; on new topics (--topic-prefix) it begins afresh"
    )


def _moves(arguments: argparse.Namespace) -> bool:
    return bool(arguments.start_now or arguments.end_now)


def _merged(files: Sequence[Path], sent: Sent) -> Iterator[Output | Label]:
    """Read files side by side, each in its order: of their next records the one whose time comes first."""
    return heapq.merge(*(in_time(read_rows(file), sent, file.name) for file in files), key=event_ms)


def in_time(rows: Iterable[Row], sent: Sent, file: str) -> Iterator[Output | Label]:
    """Read rows of a file into records; a label that stands beside its output waits for its own time."""
    waiting: list[tuple[int, int, Label]] = []
    for row in rows:
        try:
            record, _ = checked(row.record())
            beside = row.label_beside() if isinstance(record, Output) else None
        except MalformedRecordError as error:
            sent.refuse(file, row.place, error)
            continue
        now_ms = event_ms(record)
        while waiting and waiting[0][0] <= now_ms:
            yield heapq.heappop(waiting)[2]
        yield record
        if beside is not None:
            heapq.heappush(waiting, (beside.labelled_at_ms, row.place, beside))
    while waiting:
        yield heapq.heappop(waiting)[2]


def event_ms(record: Output | Label) -> int:
    """Return when it happened."""
    return record.made_at_ms if isinstance(record, Output) else record.labelled_at_ms


def _shift_ms(arguments: argparse.Namespace) -> int:
    """Return by what all times are moved; for that the files are read once more."""
    if not _moves(arguments):
        return 0
    if arguments.start_now and (arguments.speed or 1) > 1:
        raise CommandError(Exit.USAGE, "--start-now with --speed above 1 makes rows of the future, which are refused")
    times = map(event_ms, _merged(arguments.files, Sent()))
    at_ms = next(times, None) if arguments.start_now else max(times, default=None)
    return 0 if at_ms is None else wall_ms() - at_ms


def shifted(records: Iterable[Output | Label], by_ms: int) -> Iterator[Output | Label]:
    """Move all times."""
    for record in records:
        if isinstance(record, Output):
            yield replace(record, made_at_ms=record.made_at_ms + by_ms)
        else:
            made = UNSET if record.made_at_ms is UNSET else record.made_at_ms + by_ms
            yield replace(record, labelled_at_ms=record.labelled_at_ms + by_ms, made_at_ms=made)


def _paced(records: Iterable[Output | Label], rate: float | None, speed: float | None) -> Iterator[Output | Label]:
    """Hold each record back until it is due: the n-th by a rate, or by its own time."""
    began_s, first_ms = time.monotonic(), None
    for number, record in enumerate(records):
        if first_ms is None:
            first_ms = event_ms(record)
        due_s = 0.0
        if rate is not None:
            due_s = number / rate
        elif speed is not None:
            due_s = (event_ms(record) - first_ms) / 1000 / speed
        while (wait_s := began_s + due_s - time.monotonic()) > 0:
            time.sleep(min(wait_s, MOST_SLEEP_S))
        yield record
