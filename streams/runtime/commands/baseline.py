"""Learn from history what healthy looks like, try it on that history, and publish it.

  tocsin baseline build healthy.parquet --model fraud --config tocsin.toml
  tocsin baseline build outputs.ndjson --labels labels.ndjson --model fraud --dry-run
  tocsin baseline list --config tocsin.toml

The file holds outputs as they would be sent (NDJSON or Parquet), each with its label beside it (label, labelled_at_ms),
or the labels stand in a file of their own. The history must be healthy: it is what all that follows is compared with.

A lane that rings in its own healthy past gets more tolerance until it is silent; one that cannot be silenced stays in
shadow, where it is counted and rings for nobody. You are told both.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from config.settings import Settings
from detectors.fitting import HistoryError, fit_baseline
from schemas.baseline import Baseline
from schemas.fields import MalformedRecordError
from schemas.instant import instant
from schemas.model import Model
from streams.runtime import topics
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.histories import Gathered, gather, history_of
from streams.runtime.lines import plain
from streams.runtime.reading import Reader
from streams.runtime.row_files import count_rows, read_rows
from streams.runtime.sending import send_all
from streams.runtime.stage_spec import Routed
from streams.runtime.terminal import (
    CommandError,
    Exit,
    Progress,
    Steps,
    at,
    columns,
    complain,
    say,
    say_json,
)

MARGIN_MS = 120_000
"""From publication to the first tick that uses it: every reader has it by then."""
FORGET_MS = 7 * 86_400_000
"""How long a baseline is kept after another one has taken its place."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="build|list")
    build = inner.add_parser("build", help="fit, try and publish")
    build.add_argument("file", type=Path, metavar="FILE", help="healthy outputs, NDJSON or Parquet")
    build.add_argument("--labels", type=Path, metavar="FILE", help="their labels, where they do not stand beside them")
    build.add_argument("--model", required=True, help="which model of the settings")
    build.add_argument(
        "--valid-from",
        metavar="TIME",
        help="event time from which it holds, RFC 3339; by default two minutes from now. An earlier time is right only "
        "where nothing of it has been read yet, as before a replay",
    )
    build.add_argument("--dry-run", action="store_true", help="fit and try, publish nothing, ask no broker")
    add_json(build)
    add_settings(build)
    listing = inner.add_parser("list", help="what is published")
    add_json(listing)
    add_settings(listing)


def run(arguments: argparse.Namespace) -> int:
    """Build or list."""
    settings = settings_of(arguments)
    if arguments.action == "list":
        with Reader(settings.kafka) as reader:
            return _list(arguments, published(reader))
    return _build(arguments, settings)


def published(reader: Reader) -> list[Baseline]:
    """Return the first part of each baseline that is published, by model and version."""
    by_key: dict[bytes | None, Baseline | None] = {}
    for read in reader.all(topics.BASELINES):
        try:
            by_key[read.key] = None if read.value is None else Baseline.decode(read.value)
        except MalformedRecordError as error:
            complain(f"{read.topic}[{read.partition}]@{read.offset} cannot be read: {error}")
    found = [one for one in by_key.values() if one is not None and one.part == 0]
    return sorted(found, key=lambda one: (one.model, one.version))


def _list(arguments: argparse.Namespace, found: list[Baseline]) -> int:
    if arguments.json:
        for one in found:
            say_json(_summary(one))
    elif found:
        rows = [
            (
                plain(one.model),
                str(one.version),
                at(one.valid_from_ms),
                f"{at(one.reference_ms[0])} - {at(one.reference_ms[1])}",
                str(len(one.lanes)),
            )
            for one in found
        ]
        say("\n".join(columns(("model", "version", "valid from", "learned from", "lanes"), rows)))
    else:
        complain("no baseline is published: `tocsin baseline build` makes one")
    return Exit.DONE


def _summary(one: Baseline) -> dict[str, object]:
    return {
        "model": one.model,
        "version": one.version,
        "valid_from_ms": one.valid_from_ms,
        "reference_ms": one.reference_ms,
        "lanes": len(one.lanes),
        "armed": {name: len(lanes) for name, lanes in one.armed.items()},
        "tolerance": one.tolerance,
    }


def _build(arguments: argparse.Namespace, settings: Settings) -> int:

    model = settings.models.get(arguments.model)
    if model is None:
        known = ", ".join(settings.models) or "none"
        raise CommandError(Exit.USAGE, f"no model is called {arguments.model}; the settings list {known}")
    now_ms = time.time_ns() // 1_000_000
    valid_from_ms = now_ms + MARGIN_MS if arguments.valid_from is None else _instant(arguments.valid_from)
    if valid_from_ms < now_ms + MARGIN_MS and not arguments.dry_run:
        complain(f"valid from {at(valid_from_ms)}: right only where no tick of that time has been counted yet")
    earlier: list[Baseline] = []
    if not arguments.dry_run:
        with Reader(settings.kafka) as reader:
            earlier = [one for one in published(reader) if one.model == model.name]
    history = history_of(_gathered(arguments, model), model)
    with Steps() as steps:
        try:
            baseline = fit_baseline(
                history,
                model,
                budget=settings.budget(),
                version=1 + max((one.version for one in earlier), default=0),
                valid_from_ms=valid_from_ms,
                decided_at_ms=now_ms,
                told=steps.tell,
            )
        except HistoryError as error:
            raise CommandError(Exit.DATA, str(error)) from None
    if not arguments.dry_run:
        send_all(settings.kafka, records_of(baseline, earlier, now_ms, settings.kafka.output_partitions))
    if arguments.json:
        say_json(_summary(baseline))
    else:
        _tell(baseline, len(history.made_at_ms), int(history.labelled.sum()), is_published=not arguments.dry_run)
    return Exit.DONE


def _instant(text: str) -> int:
    try:
        return int(instant(text))
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"--valid-from {text}: {error}, for instance 2026-01-01T00:00:00Z") from None


def _gathered(arguments: argparse.Namespace, model: Model) -> Gathered:
    label_rows = () if arguments.labels is None else read_rows(arguments.labels)
    with Progress("reading", count_rows(arguments.file), "rows") as progress:
        try:
            found = gather(read_rows(arguments.file), label_rows, model, progress.add)
        except MalformedRecordError as error:
            raise CommandError(Exit.DATA, str(error)) from None
    for said in found.refused:
        complain(said)
    for count, what in (
        (found.refused_rows, "rows are no outputs or labels, and were left out"),
        (found.foreign_rows, "rows are of other models, and were left out"),
        (found.repeated_rows, "outputs stand twice: the first counts"),
        (found.orphans, "labels have no output"),
        (found.late, "labels came after the model's wait: their outputs count as unlabelled"),
    ):
        if count:
            complain(f"{count:,} {what}")
    return found


def records_of(baseline: Baseline, earlier: list[Baseline], now_ms: int, partitions: int) -> Iterator[Routed]:
    """Give the parts of a baseline, and tombstones of those that nobody can need any more."""
    for part in baseline.split():
        yield topics.route(part, partitions)
    for old, next_one in pairwise([*earlier, baseline]):
        if max(next_one.valid_from_ms, next_one.decided_at_ms) + FORGET_MS < now_ms:
            for number in range(old.parts):
                key = f"{old.model}/{old.version}/{number}".encode()
                partition = topics.partition_of(old.model, partitions)
                yield Routed(topic=topics.BASELINES, key=key, value=None, partition=partition)


def _tell(baseline: Baseline, outputs: int, labelled: int, *, is_published: bool) -> None:
    say(f"{plain(baseline.model)}, version {baseline.version}, valid from {at(baseline.valid_from_ms)}")
    begins, ends = baseline.reference_ms
    say(f"learned from {outputs:,} outputs, {labelled:,} of them labelled, {at(begins)} to {at(ends)}")
    say(f"{len(baseline.lanes)} lanes, {len(baseline.binning.features)} features")
    say()
    rows = [
        (name, f"{len(baseline.armed.get(name, ()))} of {len(baseline.lanes)}", f"{width:g}")
        for name, width in baseline.tolerance.items()
    ]
    say("\n".join(columns(("detector", "armed lanes", "tolerance, log-odds"), rows)))
    say()
    say("Published." if is_published else "Not published (--dry-run).")
