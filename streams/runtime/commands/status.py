"""Say how far each stage has come, what is open, what was spent of the budget, and what is missing.

  tocsin status --config tocsin.toml           for people
  tocsin status --config tocsin.toml --json    one object, for a probe

It ends with 1 where something is wrong that stops Tocsin or blinds it, and says what to do: a topic is missing, the clock
stands since no worker tells the time, or rows lie in other partitions than the join looks for them.
"""

import argparse
from collections import Counter

import msgspec

from config.settings import Settings
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.incident import Incident
from schemas.receipt import Receipt
from schemas.through import Through
from streams.runtime import topics
from streams.runtime.acts import latest_incidents
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.lines import plain
from streams.runtime.reading import TAIL, Reader, Told, counted_through_ms, told_time, wall_ms
from streams.runtime.sampling import sample
from streams.runtime.spending import Spending, spending
from streams.runtime.terminal import CommandError, Exit, at, columns, lasting, say, say_json

MUST = ("model-outputs", "labels", "window-stats", "findings", "ledger", "clock", "incidents-latest", "dead-letters")
BEHIND_MS = 60_000
"""How far beyond what the waits explain a stage may be behind before it is asked whether it runs."""
MOST_LETTERS = 10_000
"""Records of a partition of the dead letters that are counted."""
MOST_RECEIPTS = 4_000
"""Records of a partition of the receipts that are looked at."""
MOST_NAMED = 5
"""Models without settings, and incidents, that are named one by one."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a deployment from outside.

    Parameters
    ----------
    faults
        What stops Tocsin or blinds it, each with what to do.
    hints
        What may be as it should be, and is worth a look.
    clock_ms, clock_moves
        Newest value that a worker wrote, None where none does; whether one still does.
    joined_through_ms, detected_through_ms
        By source partition, and by partition of the findings: event time before which all is counted, and judged.
    sampled_rows, misplaced_rows
        Of the newest rows by topic: how many were looked at, and how many lie where the join does not look for them.
    unlisted_rows
        Of the same, those of models that the settings do not list, by model.
    open_incidents
        By severity, for instance `SEV-2`.
    spending
        What was spent of the budget of false pages in the last week, by model and ledger.
    dead_letters, dead_letters_all
        How many refusals are kept, without the marks of what was sent again, among the newest `MOST_LETTERS` records of
        each partition; whether that is all of them.
    """

    faults: list[str]
    hints: list[str]
    missing: list[str]
    clock_ms: int | None
    clock_moves: bool
    joined_through_ms: dict[int, int]
    detected_through_ms: dict[int, int]
    sampled_rows: dict[str, int]
    misplaced_rows: dict[str, int]
    unlisted_rows: dict[str, int]
    open_incidents: dict[str, int]
    spending: Spending
    dead_letters: int
    dead_letters_all: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    add_json(parser)
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at the newest of each topic."""
    settings = settings_of(arguments)
    with Reader(settings.kafka) as reader:
        status = look(reader, settings)
    if arguments.json:
        say_json(status)
    else:
        _tell(status, settings)
    return Exit.NOT_SO if status.faults else Exit.DONE


def look(reader: Reader, settings: Settings) -> Status:
    """Read the newest marks of time, the newest rows and the incidents."""
    missing = [reader.topic(name) for name in MUST if reader.partitions(name) == 0]
    if len(missing) == len(MUST):
        message = (
            f"{settings.kafka.broker} has none of the topics: `tocsin topics create` makes them "
            "(is --topic-prefix right?)"
        )
        raise CommandError(Exit.NOT_SO, message)
    there = {name for name in MUST if reader.topic(name) not in missing}
    open_ones = [one for one in latest_incidents(reader) if one.is_open] if "incidents-latest" in there else []
    letters, are_all = _letters(reader) if "dead-letters" in there else (0, True)
    told = told_time(reader, settings.worker) if "clock" in there else Told(None, moves=False)
    joined = counted_through_ms(reader) if "window-stats" in there else {}
    detected = _detected(reader) if "findings" in there else {}
    samples = {name: sample(reader, settings.models, name) for name in (topics.OUTPUTS, topics.LABELS) if name in there}
    unlisted = Counter[str]()
    for one in samples.values():
        unlisted.update(one.unlisted)
    faults = [f"{name} is not there: `tocsin topics create` makes it" for name in missing]
    faults += [] if told.moves else [str(told)]
    faults += [str(fault) for name, one in samples.items() for fault in one.faults(reader.topic(name))]
    return Status(
        faults=faults,
        hints=[*_behind(settings, told, joined, detected), *_unlisted(unlisted), *_unreached(reader, open_ones)],
        missing=missing,
        clock_ms=told.now_ms,
        clock_moves=told.moves,
        joined_through_ms=joined,
        detected_through_ms=detected,
        sampled_rows={name: one.rows for name, one in samples.items()},
        misplaced_rows={name: one.misplaced for name, one in samples.items()},
        unlisted_rows=unlisted,
        open_incidents=dict(sorted(Counter(one.severity.display for one in open_ones).items())),
        spending=spending(reader, settings.budget()),
        dead_letters=letters,
        dead_letters_all=are_all,
    )


def _letters(reader: Reader) -> tuple[int, bool]:
    """Count refusals among the newest records of each partition, and say whether there are no older ones."""
    bounds = [reader.bounds("dead-letters", partition) for partition in range(reader.partitions("dead-letters"))]
    letters = 0
    for read in reader.all("dead-letters", last=MOST_LETTERS):
        try:
            DeadLetter.decode(read.value)
        except MalformedRecordError:  # a mark of what was sent again, or a foreign record
            continue
        letters += 1
    return letters, all(high - low <= MOST_LETTERS for low, high in bounds)


def _detected(reader: Reader) -> dict[int, int]:
    through: dict[int, int] = {}
    for read in reader.all("findings", last=TAIL):
        try:
            mark = Through.decode(read.value)
        except MalformedRecordError:  # a finding
            continue
        through[read.partition] = max(through.get(read.partition, 0), mark.through_ms)
    return dict(sorted(through.items()))


def _behind(settings: Settings, told: Told, joined: dict[int, int], detected: dict[int, int]) -> list[str]:
    """Ask after stages that are further behind than their waits explain."""
    if told.now_ms is None or not told.moves:
        return []
    join = settings.join
    waits_ms = join.allowed_disorder_ms + join.idle_after_ms + join.tick_ms + BEHIND_MS
    through_ms = min(joined.values(), default=None)
    if through_ms is None:
        return ["the join has closed no tick yet: does `tocsin worker join` run, and has anything been sent?"]
    if told.now_ms - through_ms > waits_ms:
        return ["the join is far behind: does `tocsin worker join` run, for each partition, or has it much to read?"]
    if through_ms - min(detected.values(), default=0) > BEHIND_MS:
        return ["detection is far behind the join: does `tocsin worker detect` run, or has it much to read?"]
    return []


def _unlisted(rows: Counter[str]) -> list[str]:
    if not rows:
        return []
    named = ", ".join(plain(name) for name, _ in rows.most_common(MOST_NAMED))
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    return [f"rows come of models that the settings do not list, and nothing rings for them: {named}{more}"]


def _unreached(reader: Reader, open_ones: list[Incident]) -> list[str]:
    """Point out pages of open incidents that reached nobody, by the newest receipts."""
    if not open_ones or not reader.partitions(topics.RECEIPTS):
        return []
    last: dict[str, Receipt] = {}
    for read in reader.all(topics.RECEIPTS, last=MOST_RECEIPTS):
        try:
            receipt = Receipt.decode(read.value)
        except MalformedRecordError:  # `incidents show` names it
            continue
        last[receipt.notification_id] = receipt
    names = {one.incident_id: one.display_id for one in open_ones}
    waiting = [one for one in last.values() if one.mode == "page" and one.status in {"retrying", "dead"}]
    shown = sorted({names[one.incident_id] for one in waiting if one.incident_id in names})
    if not shown:
        return []
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    named = ", ".join(map(plain, shown[:MOST_NAMED]))
    return [f"pages have not been delivered, of {named}{more}: `tocsin incidents show` says to whom and why"]


def _tell(status: Status, settings: Settings) -> None:
    kafka = settings.kafka
    say(f"brokers        {kafka.broker}, topics {kafka.topic_prefix or '(no prefix)'}")
    told_ms = status.clock_ms
    stands = "" if status.clock_moves else ", and stands"
    say(f"clock          {'nobody writes it' if told_ms is None else at(told_ms) + ' UTC' + stands}")
    now_ms = told_ms if told_ms is not None and status.clock_moves else wall_ms()
    for what, through in (("joined", status.joined_through_ms), ("detected", status.detected_through_ms)):
        rows = [(f"  {partition}", at(ms), lasting(max(0, now_ms - ms))) for partition, ms in through.items()]
        if rows:
            say("\n".join(columns((what, "through", "behind now"), rows)))
        else:
            say(f"{what:<13}  nothing yet")
    _tell_spending(status.spending)
    said = ", ".join(f"{count} of {severity}" for severity, count in status.open_incidents.items())
    say(f"open           {said or 'no incident'}")
    say(
        f"dead letters   {'' if status.dead_letters_all else 'at least '}{status.dead_letters:,} kept"
        + (", see `tocsin dead-letters list`" if status.dead_letters else "")
    )
    for fault in status.faults:
        say(f"wrong          {fault}")
    for hint in status.hints:
        say(f"look at        {hint}")


def _tell_spending(spending: Spending) -> None:
    if not spending.rows:
        say("spent          nothing yet")
        return
    least = "" if spending.all else "at least "
    head = ("spent", "ledger", f"in the week to {at(spending.to_ms)}", "budget of a week")
    rows = [
        (
            f"  {plain(one.model)}",
            one.ledger,
            f"{least}{one.spent:.3g}",
            "none: not in the settings" if one.per_week is None else f"{one.per_week:.3g}",
        )
        for one in spending.rows
    ]
    say("\n".join(columns(head, rows)))
