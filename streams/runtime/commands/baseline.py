"""Learn from history what healthy looks like, try it on that history, and publish it.

  tocsin baseline build healthy.parquet --model fraud --config tocsin.toml
  tocsin baseline build outputs.ndjson --labels labels.ndjson --model fraud --dry-run
  tocsin baseline list --config tocsin.toml

The file holds outputs as they would be sent (NDJSON or Parquet), each with its label beside it (label, labelled_at_ms),
or the labels stand in a file of their own. NDJSON may come from a pipe (/dev/stdin, a FIFO). The history must be healthy: it is what all that follows is compared with.

A lane that rings in its own healthy past gets more tolerance until it is silent; one that cannot be silenced stays in
shadow, where it is counted and rings for nobody. You are told both.
"""

import argparse
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from config.settings import Settings
from detectors.feature_integrity import RULE_USUAL_SHARE
from detectors.fitting import LEAST_OUTPUTS, HistoryError, Learned, learn
from detectors.history import History
from detectors.suitability import LEAST_SPAN_MS, Doubt, Doubtful, doubts
from detectors.table import DETECTORS
from schemas.arrays import LIMIT_BYTES
from schemas.baseline import Baseline
from schemas.fields import MalformedRecordError, counted
from schemas.instant import instant
from schemas.model import Model
from streams.runtime import topics
from streams.runtime.arming_words import ACCEPT_FAULTY, ACCEPT_SHORT, doubtful, reasons, signals, table
from streams.runtime.commands.common import add_command, add_json, add_settings, settings_of
from streams.runtime.histories import Gathered, gather, history_of
from streams.runtime.lines import plain
from streams.runtime.reading import Reader, published
from streams.runtime.row_files import count_rows, read_rows, refuse_pipes
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
    lasting,
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
    build = add_command(inner, "build", "learn, try and publish", BUILDS)
    build.add_argument("file", type=Path, metavar="FILE", help="healthy outputs, NDJSON or Parquet")
    build.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="their labels, NDJSON or Parquet (default: those that stand beside the outputs)",
    )
    build.add_argument(
        "--model", required=True, metavar="NAME", help="which model of the settings; other rows are left"
    )
    build.add_argument(
        "--valid-from",
        metavar="TIME",
        help="event time from which it holds, RFC 3339 with its zone (default: two minutes from now). An earlier time "
        "is right only where nothing of it has been counted yet, as before a replay",
    )
    build.add_argument(
        "--dry-run", action="store_true", help="learn and try; publish nothing, ask no broker (default: publish)"
    )
    build.add_argument(
        ACCEPT_SHORT,
        action="store_true",
        help=f"take a history that spans less than {lasting(LEAST_SPAN_MS)} (default: refused)",
    )
    build.add_argument(
        ACCEPT_FAULTY,
        action="append",
        default=[],
        metavar="FEATURE",
        help="take a history in which this feature, though required, is missing, or is of the wrong type, in "
        f"{100 * RULE_USUAL_SHARE:.0f} %% of the outputs or more; once for each (default: that is refused)",
    )
    add_json(build)
    add_settings(build)
    listing = add_command(inner, "list", "what is published", LISTS)
    add_json(listing)
    add_settings(listing)


BUILDS = f"""
Learn what healthy looks like from a file of outputs and labels, try it on that same history, arm what stays silent, and
publish it. You are told, for each detector and group of lanes, how many are armed, how much had to be tolerated (in
log-odds; 0 is best), and of the others why not and what helps.

What the history should be: healthy, since it is what all that follows is compared with; some weeks long, since traffic
is judged by the hour of the week; with labels, or no error is ever judged. It is refused with fewer than {LEAST_OUTPUTS}
outputs, where it spans less than {lasting(LEAST_SPAN_MS)}, where a required feature is missing or any is of the wrong
type in {100 * RULE_USUAL_SHARE:.0f} % of the outputs or more, and where nothing could be armed. Its last two weeks are
tried; older ones count. Times are milliseconds since 1970, in UTC.

A new baseline holds from two minutes after it was published; what lanes remember goes on under it. Earlier ones are
forgotten a week later.

What each detector looks at, what it needs, how soon it rings and how it clears: docs/detectors.md.

  tocsin baseline build healthy.parquet --model fraud --config tocsin.toml
  tocsin baseline build outputs.ndjson --labels labels.ndjson --model fraud --dry-run
  tocsin baseline build healthy.ndjson --model fraud --valid-from 2026-11-01T00:00:00Z --json
  tocsin baseline build healthy.ndjson --model fraud {ACCEPT_FAULTY} income

Status: 0 published (or, with --dry-run, publishable); 5 refused, or published without rows that could not be read, which are
named: the last line, or "published" with --json, says which.
"""

LISTS = """
List the baselines that are published: model, version, from when on each holds, what it was learned from, how many lanes
it has and how many detectors have any armed. A version is forgotten a week after the next has taken its place.

  tocsin baseline list --config tocsin.toml
  tocsin baseline list --json
"""


def run(arguments: argparse.Namespace) -> int:
    """Build or list."""
    settings = settings_of(arguments)
    if arguments.action == "list":
        with Reader(settings.kafka) as reader:
            return _list(arguments, published(reader))
    return _build(arguments, settings)


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
                f"{sum(map(bool, one.armed.values()))} of {len(DETECTORS)}",
            )
            for one in found
        ]
        say("\n".join(columns(("model", "version", "valid from", "learned from", "lanes", "detectors armed"), rows)))
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
        raise CommandError(Exit.USAGE, f"no model is called {plain(arguments.model)}; the settings list {known}")
    unknown = [name for name in arguments.accept_faulty if name not in model.features]
    if unknown:
        raise CommandError(Exit.USAGE, f"{ACCEPT_FAULTY} {plain(unknown[0])}: {model.name} declares no such feature")
    refuse_pipes([arguments.file] if arguments.labels is None else [arguments.file, arguments.labels])
    now_ms = time.time_ns() // 1_000_000
    valid_from_ms = now_ms + MARGIN_MS if arguments.valid_from is None else _instant(arguments.valid_from)
    if valid_from_ms < now_ms + MARGIN_MS and not arguments.dry_run:
        complain(f"valid from {at(valid_from_ms)}: right only where no tick of that time has been counted yet")
    earlier: list[Baseline] = []
    if not arguments.dry_run:
        with Reader(settings.kafka) as reader:
            earlier = [one for one in published(reader) if one.model == model.name]
    gathered = _gathered(arguments, model)
    history = history_of(gathered, model)
    found = _doubted(history, model, arguments)
    with Steps() as steps:
        try:
            learned = learn(
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
    baseline = learned.baseline
    if not any(baseline.armed.values()):
        why = "\n".join(reasons(learned, model))
        raise CommandError(Exit.DATA, f"nothing can be armed by this history, so nothing would ever ring\n{why}")
    if not arguments.dry_run:
        send_all(settings.kafka, records_of(baseline, earlier, now_ms, settings.kafka.output_partitions))
    if arguments.json:
        said = [{**asdict(one), "doubt": one.doubt.value} for one in found]
        outputs, labelled = len(history.made_at_ms), int(history.labelled.sum())
        counts = {"outputs": outputs, "labelled": labelled, "published": not arguments.dry_run}
        version = None if arguments.dry_run else baseline.version
        say_json({**_summary(baseline), "version": version, **counts, "signals": signals(learned), "doubts": said})
    else:
        _tell(learned, model, history, is_published=not arguments.dry_run)
    return Exit.DATA if gathered.refused_rows else Exit.DONE


def _doubted(history: History, model: Model, arguments: argparse.Namespace) -> list[Doubtful]:
    """Say what is doubtful in a history; refuse what is grave and not accepted."""
    if not len(history.made_at_ms):
        raise CommandError(Exit.DATA, f"{plain(str(arguments.file))}: no outputs of {plain(model.name)}")
    found, refused = doubts(history, model), []
    for one in found:
        words, remedy = doubtful(one)
        is_accepted = arguments.accept_short if one.doubt is Doubt.SHORT else one.feature in arguments.accept_faulty
        if one.grave and not is_accepted:
            refused.append(f"{words}\n  {remedy}")
        else:
            complain(f"beware: {words}" + ("" if one.grave else f" ({remedy})"))
    if refused:
        raise CommandError(Exit.DATA, "this history is no reference\n" + "\n".join(refused))
    return found


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
    for file, refused in ((arguments.file, found.refused), (arguments.labels, found.refused_labels)):
        for said in refused:
            complain(plain(f"{file.name}:{said}"))
    for count, what in (
        (found.refused_rows, "rows that are no outputs or labels, and were left out"),
        (found.foreign_rows, "rows of other models, left out"),
        (found.repeated_rows, "outputs that stand twice, of which the first counts"),
        (found.orphans, "labels without an output"),
        (found.late, "labels that came after the model's wait, so that their outputs count as unlabelled"),
    ):
        if count:
            complain(f"{what}: {count:,}")
    if arguments.labels is not None and found.outputs and not found.matched_rows:
        raise CommandError(
            Exit.DATA,
            f"{plain(str(arguments.labels))}: no labels of these outputs of {plain(model.name)}; name the file of their labels, "
            "or leave --labels out",
        )
    return found


def records_of(baseline: Baseline, earlier: list[Baseline], now_ms: int, partitions: int) -> list[Routed]:
    """Give the parts of a baseline, and tombstones of those that nobody can need any more.

    All at once: none is sent where one could not be.
    """
    records = [topics.route(part, partitions) for part in baseline.split()]
    if any(len(record.value or b"") > LIMIT_BYTES for record in records):
        raise CommandError(Exit.DATA, f"version {baseline.version} of {baseline.model} is {baseline.too_large()}")
    for old, next_one in pairwise([*earlier, baseline]):
        if max(next_one.valid_from_ms, next_one.decided_at_ms) + FORGET_MS < now_ms:
            for number in range(old.parts):
                key = f"{old.model}/{old.version}/{number}".encode()
                partition = topics.partition_of(old.model, partitions)
                records.append(Routed(topic=topics.BASELINES, key=key, value=None, partition=partition))
    return records


def _tell(learned: Learned, model: Model, history: History, *, is_published: bool) -> None:
    baseline, outputs, labelled = learned.baseline, len(history.made_at_ms), int(history.labelled.sum())
    begins, ends = baseline.reference_ms
    spans_ms = int(history.made_at_ms.max() - history.made_at_ms.min())  # as `doubts` says it; ticks are whole
    span = f"{at(begins)} to {at(ends)} ({lasting(spans_ms)})"
    version = f"version {baseline.version}" if is_published else "a version to be"  # only brokers know the last one
    say(f"{plain(baseline.model)}, {version}, valid from {at(baseline.valid_from_ms)}")
    say(f"learned from {counted(outputs, 'output')}, {labelled:,} of them labelled ({labelled / outputs:.0%}), {span}")
    say(f"{counted(len(baseline.lanes), 'lane')}, {counted(len(baseline.binning.features), 'feature')}")
    say()
    say("\n".join(table(learned)))
    why = reasons(learned, model)
    if why:
        say("\n".join(["", "not armed, and why:", *(f"  {line}" for line in why)]))
    say()
    say("Published." if is_published else "Not published (--dry-run).")
