"""Say how far each stage has come, what is open or about to be, what was spent of the budget, and what is missing.

  tocsin status --config tocsin.toml           for people
  tocsin status --config tocsin.toml --json    one object, for a probe

It ends with 1 where something is wrong that stops Tocsin or blinds it, and says what to do: a topic is missing, the clock
stands since no worker tells the time, or of the newest rows some lie in other partitions than the join looks for them, or
cannot be read.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from config.settings import Settings
from detectors.table import NEEDS
from detectors.usable import refuse_unusable
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError, counted
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.receipt import Receipt
from schemas.response import TriageSettings
from schemas.through import Through
from streams.runtime import topics
from streams.runtime.acts import latest_incidents
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.lines import plain
from streams.runtime.reading import Reader, Told, counted_through_ms, published_parts, told_time, wall_ms
from streams.runtime.sampling import sample
from streams.runtime.spending import Spending, spending
from streams.runtime.terminal import CommandError, Exit, at, columns, lasting, say, say_json
from streams.stages.policy import kind_rule
from streams.stages.triage import hold_down_ms

MUST = ("model-outputs", "labels", "window-stats", "findings", "ledger", "clock", "incidents-latest", "dead-letters")
BEHIND_MS = 60_000
"""How far beyond what the waits explain a stage may be behind before it is asked whether it runs."""
MOST_LETTERS = 10_000
"""Records of a partition of the dead letters that are counted."""
MOST_FINDINGS = 4_000
"""Records of a partition of the findings that are looked at, marks of time too: at a tick of 10 s, those of 11 hours."""
MOST_RECEIPTS = 4_000
"""Records of a partition of the receipts that are looked at."""
MOST_NAMED = 5
"""Models without settings, incidents and findings that are named one by one."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A finding that fires, and when an incident opens with it unless it clears before."""

    finding_id: str
    model: str
    kind: str
    opens_at_ms: int


class Blind(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the settings whose rows come and for which no baseline holds: nothing rings for it.

    `holds_from_ms`: from when on the next one does, None where none will; `refused`: why the newest cannot be used.
    """

    model: str
    holds_from_ms: int | None = None
    refused: str = ""

    def __str__(self) -> str:
        """Say what to do.

        >>> print(Blind(model="fraud"))
        rows of fraud come and no baseline holds, so that nothing rings for it: `tocsin baseline build`
        >>> print(Blind(model="fraud", holds_from_ms=1_795_341_600_000))
        rows of fraud come and its baseline holds from 2026-11-22 10:00:00 on: until then nothing rings for it
        """
        name = plain(self.model)
        if self.holds_from_ms is not None:
            return f"rows of {name} come and its baseline holds from {at(self.holds_from_ms)} on: until then nothing rings for it"
        why = f"its baseline cannot be used ({plain(self.refused)})" if self.refused else "no baseline holds"
        return f"rows of {name} come and {why}, so that nothing rings for it: `tocsin baseline build`"


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
    blind
        Models that the settings list and whose rows come, without a baseline that holds.
    open_incidents
        By severity, for instance `SEV-2`.
    in_hold_down
        Findings, among the newest `MOST_FINDINGS` records of each partition, that fire and have no incident yet.
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
    blind: list[Blind]
    open_incidents: dict[str, int]
    in_hold_down: list[Held]
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
    detected, said = _found(reader) if "findings" in there else ({}, {})
    samples = {name: sample(reader, settings.models, name) for name in (topics.OUTPUTS, topics.LABELS) if name in there}
    with_sla = frozenset(name for name, model in settings.models.items() if model.sla_accuracy is not None)
    unlisted = Counter[str]()
    listed: set[str] = set()
    for one in samples.values():
        unlisted.update(one.unlisted)
        listed.update(one.listed)
    blind = _blind(reader, settings, sorted(listed), told)
    faults = [f"{name} is not there: `tocsin topics create` makes it" for name in missing]
    faults += [] if told.moves else [str(told)]
    faults += [str(fault) for name, one in samples.items() for fault in one.faults(reader.topic(name))]
    return Status(
        faults=faults,
        hints=[
            *_behind(settings, told, joined, detected),
            *_unlisted(unlisted),
            *_unwatched(blind),
            *_unreached(reader, open_ones),
        ],
        missing=missing,
        clock_ms=told.now_ms,
        clock_moves=told.moves,
        joined_through_ms=joined,
        detected_through_ms=detected,
        sampled_rows={name: one.rows for name, one in samples.items()},
        misplaced_rows={name: one.misplaced for name, one in samples.items()},
        unlisted_rows=unlisted,
        blind=blind,
        open_incidents=dict(sorted(Counter(one.severity.display for one in open_ones).items())),
        in_hold_down=_held(
            settings.response.triage_settings(with_sla), min(detected.values(), default=0), said.values(), open_ones
        ),
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


def _found(reader: Reader) -> tuple[dict[int, int], dict[str, list[Finding]]]:
    """Return through when each partition is judged, and what was said of each finding, oldest first."""
    through: dict[int, int] = {}
    said: dict[str, list[Finding]] = {}
    for read in reader.all("findings", last=MOST_FINDINGS):
        with suppress(MalformedRecordError):  # it is the other, or a foreign record
            mark = Through.decode(read.value)
            through[read.partition] = max(through.get(read.partition, 0), mark.through_ms)
            continue
        with suppress(MalformedRecordError):
            finding = Finding.decode(read.value)
            said.setdefault(finding.finding_id, []).append(finding)
    return dict(sorted(through.items())), said


def _held(
    settings: TriageSettings, through_ms: int, said: Iterable[Sequence[Finding]], open_ones: Iterable[Incident]
) -> list[Held]:
    """Name findings whose hold-down is not over; what fires beside an open incident of its group goes into that."""
    groups: defaultdict[tuple[str, str], list[tuple[int, Finding]]] = defaultdict(list)
    for revisions in said:
        last = revisions[-1]
        if last.state == "firing":
            cleared = [at for at, one in enumerate(revisions) if one.state == "cleared"]
            since_ms = revisions[cleared[-1] + 1 if cleared else 0].decided_at_ms
            rule = kind_rule(settings.kinds, settings.unknown_kind, last.kind)
            groups[last.model, rule.incident_class].append((since_ms + hold_down_ms(settings, last), last))
    for one in open_ones:
        groups.pop((one.model, one.incident_class), None)
    held = []
    for waiting in groups.values():
        opens_ms = min(at_ms for at_ms, _ in waiting)
        if opens_ms > through_ms:
            held += [
                Held(finding_id=one.finding_id, model=one.model, kind=one.kind, opens_at_ms=opens_ms)
                for _, one in waiting
            ]
    return sorted(held, key=lambda one: (one.opens_at_ms, one.model, one.finding_id))


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


def _blind(reader: Reader, settings: Settings, models: Sequence[str], told: Told) -> list[Blind]:
    """Name those of the models for which no baseline holds now."""
    if not models:
        return []
    now_ms = told.now_ms if told.now_ms is not None and told.moves else wall_ms()
    holds_from_ms: dict[str, int] = {}
    refused: dict[str, str] = {}
    parts = published_parts(reader) if reader.partitions(topics.BASELINES) else []
    for one in (part for part in parts if part.part == 0):
        try:
            refuse_unusable(one, tick_ms=settings.join.tick_ms, needs=NEEDS)
        except MalformedRecordError as error:
            refused[one.model] = str(error)
        else:
            holds_from_ms[one.model] = min(one.valid_from_ms, holds_from_ms.get(one.model, one.valid_from_ms))
    return [
        Blind(model=name, holds_from_ms=from_ms, refused=refused.get(name, "") if from_ms is None else "")
        for name in models
        if (from_ms := holds_from_ms.get(name)) is None or from_ms > now_ms
    ]


def _unwatched(blind: Sequence[Blind]) -> list[str]:
    more = [f"{len(blind) - MOST_NAMED} more models have no baseline that holds"] if len(blind) > MOST_NAMED else []
    return [*map(str, blind[:MOST_NAMED]), *more]


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
    if held := status.in_hold_down:
        named = ", ".join(dict.fromkeys(f"{plain(one.kind)} of {plain(one.model)}" for one in held[:MOST_NAMED]))
        more = f" and {len(held) - MOST_NAMED} more" if len(held) > MOST_NAMED else ""
        first = f"the first opens an incident at {at(held[0].opens_at_ms)} unless it clears"
        say(f"in hold-down   {counted(len(held), 'finding')}, {first}: {named}{more}")
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
