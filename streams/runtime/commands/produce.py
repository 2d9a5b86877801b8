"""Send outputs or labels from a file, as fast as they go, at a rate, or as they once came.

  tocsin produce outputs.ndjson --config tocsin.toml             as fast as the brokers take them
  tocsin produce labels.parquet --rate 500                       500 rows a second
  tocsin produce history.parquet --end-now                       as if its newest row happened now
  tocsin produce history.parquet --start-now --speed 1           as it once came, beginning now
  tocsin produce outputs.parquet --rows 100                      100 rows a message

NDJSON or Parquet. A row with made_at_ms and a prediction is an output, one with labelled_at_ms and a label is a label; a
row with both is sent as both, the label when its time comes. Rows that cannot be read are named and left out.
"""

import argparse
import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UNSET
from msgspec.structs import replace

from config.settings import KafkaSettings
from schemas.fields import MalformedRecordError
from schemas.label import Label
from schemas.output import Output
from streams.runtime import topics
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.many_rows import ManyRows
from streams.runtime.reading import Reader
from streams.runtime.row_files import Row, count_rows, read_rows
from streams.runtime.sending import Sending
from streams.runtime.terminal import CommandError, Exit, Progress, complain, say, say_json

MOST_NAMED = 20
"""Faulty rows that are named one by one; the others are counted."""
MOST_ROWS = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument("file", type=Path, metavar="FILE", help="outputs, labels or both")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_above_0, metavar="N", help="rows a second")
    pace.add_argument("--speed", type=_above_0, metavar="X", help="X times as fast as event time")
    shift = parser.add_mutually_exclusive_group()
    shift.add_argument("--start-now", action="store_true", help="move all times so that the first row happens now")
    shift.add_argument("--end-now", action="store_true", help="move all times so that the newest row happens now")
    parser.add_argument(
        "--rows", type=int, default=1, metavar="N", help=f"rows a message, at most {MOST_ROWS} (default %(default)s)"
    )
    add_json(parser)
    add_settings(parser)


def _above_0(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


@dataclass(slots=True)
class Sent:
    """What became of a file."""

    outputs: int = 0
    labels: int = 0
    messages: int = 0
    refused: int = 0
    named: list[str] = field(default_factory=list)

    def refuse(self, place: int, error: MalformedRecordError) -> None:
        """Take note of a row that cannot be read."""
        self.refused += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(f"row {place}: {error}")


def run(arguments: argparse.Namespace) -> int:
    """Read, send, and say what was sent."""
    if not 1 <= arguments.rows <= MOST_ROWS:
        raise CommandError(Exit.USAGE, f"--rows: expected 1 to {MOST_ROWS}, got {arguments.rows}")
    settings = settings_of(arguments)
    total = count_rows(arguments.file)
    _check_partitions(settings.kafka)
    sent = Sent()
    records = in_time(read_rows(arguments.file), sent)
    by_ms = _shift_ms(arguments)
    if by_ms != 0:
        records = shifted(records, by_ms)
    try:
        with Progress("sending", total, "rows") as progress:
            _send(arguments, settings.kafka, _paced(records, arguments.rate, arguments.speed), sent, progress)
    except MalformedRecordError as error:  # a line that is no JSON: what follows cannot be trusted to be lines
        raise CommandError(Exit.DATA, f"{error}; {sent.outputs + sent.labels:,} rows before it were sent") from None
    for said in sent.named:
        complain(said)
    if arguments.json:
        counts = {"outputs": sent.outputs, "labels": sent.labels, "messages": sent.messages, "refused": sent.refused}
        say_json(counts)
    else:
        say(f"sent {sent.outputs:,} outputs and {sent.labels:,} labels in {sent.messages:,} messages")
    if sent.refused:
        complain(f"{sent.refused:,} rows are no outputs or labels, and were left out")
    return Exit.DATA if sent.refused else Exit.DONE


def _check_partitions(kafka: KafkaSettings) -> None:
    with Reader(kafka) as reader:
        for name in (topics.OUTPUTS, topics.LABELS):
            found = reader.partitions(name)
            if found != kafka.input_partitions:
                message = (
                    f"{reader.topic(name)} has {found} partitions, the settings say {kafka.input_partitions}: "
                    "labels would miss their outputs. `tocsin topics check` says what to do"
                )
                raise CommandError(Exit.NOT_SO, message)


def _send(
    arguments: argparse.Namespace,
    kafka: KafkaSettings,
    records: Iterable[Output | Label],
    sent: Sent,
    progress: Progress,
) -> None:
    sending = Sending(kafka, "produce")
    many = ManyRows(partitions=kafka.input_partitions, most_rows=arguments.rows)
    for record in records:
        message = many.add(record) if arguments.rows > 1 else topics.route(record, kafka.input_partitions)
        if message is not None:
            sending.send(message)
        sent.outputs += isinstance(record, Output)
        sent.labels += isinstance(record, Label)
        progress.add(1)
    for message in many.rest():
        sending.send(message)
    sent.messages = sending.finish()


def in_time(rows: Iterable[Row], sent: Sent) -> Iterator[Output | Label]:
    """Read rows into records; a label that stands beside its output waits for its own time."""
    waiting: list[tuple[int, int, Label]] = []
    for row in rows:
        try:
            record: Output | Label = row.output() if "prediction" in row.fields else row.label()
            beside = row.label_beside() if isinstance(record, Output) else None
        except MalformedRecordError as error:
            sent.refuse(row.place, error)
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
    """Return by what all times are moved; for that the file is read once more."""
    if not (arguments.start_now or arguments.end_now):
        return 0
    if arguments.start_now and (arguments.speed or 1) > 1:
        raise CommandError(Exit.USAGE, "--start-now with --speed above 1 makes rows of the future, which are refused")
    times = (event_ms(record) for record in in_time(read_rows(arguments.file), Sent()))
    at_ms = next(times, None) if arguments.start_now else max(times, default=None)
    return 0 if at_ms is None else time.time_ns() // 1_000_000 - at_ms


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
        wait_s = began_s + due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        yield record
