"""See what is wrong, and say what is done about it.

  tocsin incidents list                           what is open, the newest last
  tocsin incidents list --all --model fraud --json
  tocsin incidents show INC-260DE83DF6D6          everything about one, with its timeline
  tocsin incidents ack INC-260DE83DF6D6           I am on it; the beginning of an id is enough
  tocsin incidents contain INC-260DE83DF6D6 --by rollback --snapshot s3://evidence/7 --text "back to version 6"
  tocsin incidents comment INC-260DE83DF6D6 "the partner changed the unit of age"
  tocsin incidents resolve INC-260DE83DF6D6 --as fixed --reason "unit mended upstream"

Acts travel as records to triage, which alone changes incidents; the answer is awaited and shown. What is refused is
said with the reason and the remedy, and ends with status 1. `tocsin incidents ACT --help` has each act's options.
"""

import argparse
import getpass
import os
from collections.abc import Iterator, Mapping
from typing import get_args

from msgspec.structs import replace

from config.settings import Settings
from schemas.fields import MalformedRecordError
from schemas.incident import ContainmentKind, Incident, Resolution, Status
from schemas.incident_action import ActKind
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime.acts import latest_incidents, new_act, send, the_incident
from streams.runtime.commands.common import add_command, add_json, add_settings, at_least_0, settings_of
from streams.runtime.lines import plain
from streams.runtime.reading import Reader, told_time
from streams.runtime.refusals import refusal
from streams.runtime.terminal import CommandError, Exit, at, between, columns, complain, lasting, say, say_json
from streams.runtime.topics import INCIDENTS, NOTIFICATIONS, RECEIPTS, partition_of
from streams.stages.wording import number

WAIT_S = 10.0
MOST_NAMED = 5
"""Findings that are named one by one."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="list|show|ack|contain|resolve|comment")
    listing = add_command(inner, "list", "what is open", LISTS)
    listing.add_argument("--all", action="store_true", help="resolved ones too (default: only what is open)")
    listing.add_argument("--model", metavar="NAME", help="only of this model (default: of all)")
    listing.add_argument(
        "--severity",
        type=_severity,
        metavar="SEV",
        help="only this bad, or worse: 1 to 4 or SEV-1 to SEV-4, 1 is the worst (default: all)",
    )
    add_json(listing)
    add_settings(listing)

    showing = add_command(inner, "show", "everything about one, with its timeline", SHOWS)
    showing.add_argument("incident", metavar="ID", help="id, display id, or the beginning of either")
    add_json(showing)
    add_settings(showing)

    ack = _acting(add_command(inner, "ack", "say that you are on it", ACKS))
    ack.add_argument(
        "--target", default="", help="for which target of the policy, where each owes its own (default: the responders)"
    )

    contain = _acting(add_command(inner, "contain", "say what keeps the harm from spreading", CONTAINS))
    contain.add_argument("--by", required=True, choices=get_args(ContainmentKind), help="what was done")
    evidence = contain.add_mutually_exclusive_group()
    evidence.add_argument(
        "--snapshot",
        default="",
        metavar="WHERE",
        help="where the evidence was saved before; SEV-1 and SEV-2 ask for it",
    )
    evidence.add_argument("--waive", default="", metavar="WHY", help="or why there is no evidence")
    contain.add_argument(
        "--text", default="", metavar="WHY", help="in your words; none_needed asks for it (default: nothing)"
    )

    resolve = _acting(add_command(inner, "resolve", "say that it is over", RESOLVES))
    resolve.add_argument("--as", dest="resolution", required=True, choices=get_args(Resolution), help="how it ended")
    resolve.add_argument("--reason", required=True, metavar="WHY", help="in your words; it stands in the record")
    resolve.add_argument(
        "--still-firing", action="store_true", help="also where findings of it still fire (default: that is refused)"
    )

    comment = _acting(add_command(inner, "comment", "add a note to the timeline", COMMENTS))
    comment.add_argument("text", metavar="TEXT", help="the note")


LISTS = """
List the incidents that are open, the newest last: id, severity, status, model, since when, who has acknowledged, and the
kinds of findings. An empty list is no fault.

  tocsin incidents list --config tocsin.toml
  tocsin incidents list --all --model fraud --severity 2 --json
"""

SHOWS = """
Show everything about one incident: what was found, how bad it is, what was done by whom, and each message that went out
with what became of it.

  tocsin incidents show INC-260DE83DF6D6 --config tocsin.toml
  tocsin incidents show inc-260 --json            its record, then its timeline, one line of JSON each
"""

ACKS = """
Say that you are on it: the ladder ends there, and nobody further is paged unless it gets worse.

  tocsin incidents ack INC-260DE83DF6D6 --config tocsin.toml
  tocsin incidents ack INC-260DE83DF6D6 --actor ann
"""

CONTAINS = """
Say what keeps the harm from spreading, after it was done. rollback, fallback, disable and input_block make the incident
Contained; shadow_monitoring and none_needed are recorded and change no status, and none_needed says why, by --text. At SEV-1 and SEV-2 evidence is to be
saved before anything is changed.

  tocsin incidents contain INC-260DE83DF6D6 --by rollback --snapshot s3://evidence/7 --text "back to version 6"
  tocsin incidents contain INC-260DE83DF6D6 --by disable --waive "the host is gone"
  tocsin incidents contain INC-260DE83DF6D6 --by none_needed --waive "nothing to save" --text "only test traffic"
"""

RESOLVES = """
Say that it is over, and how it ended. Where findings of it still fire this is refused: a lane that fires does not ring
again before it has recovered, so what goes on there would reach nobody. Contain it instead, or insist by --still-firing,
as for a false positive.

  tocsin incidents resolve INC-260DE83DF6D6 --as fixed --reason "unit mended upstream"
  tocsin incidents resolve INC-260DE83DF6D6 --as false_positive --reason "a planned campaign" --still-firing
"""

COMMENTS = """
Add a note to an incident's timeline; it changes nothing else.

  tocsin incidents comment INC-260DE83DF6D6 "the partner changed the unit of age"
"""


def _acting(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("incident", metavar="ID", help="id, display id, or the beginning of either")
    parser.add_argument("--actor", default=_user(), metavar="NAME", help="who acts (default %(default)s)")
    parser.add_argument(
        "--wait",
        type=at_least_0,
        default=WAIT_S,
        metavar="S",
        help="seconds to wait for the answer (default %(default)g)",
    )
    add_json(parser)
    add_settings(parser)
    return parser


def _user() -> str:
    """Return who runs this; a container may run as a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _severity(text: str) -> int:
    """Read a severity as it is shown, or its number.

    >>> _severity("SEV-2"), _severity("sev2"), _severity("2")
    (2, 2, 2)
    """
    said = text.upper().removeprefix("SEV").removeprefix("-")
    if said not in {"1", "2", "3", "4"}:
        raise argparse.ArgumentTypeError(f"expected 1 to 4 or SEV-1 to SEV-4, got {text!r}")
    return int(said)


def run(arguments: argparse.Namespace) -> int:
    """List, show, or act."""
    if arguments.action == "contain" and arguments.by == "none_needed" and not arguments.text:
        raise CommandError(Exit.USAGE, "--by none_needed: say by --text WHY no containment is needed; nothing was sent")
    settings = settings_of(arguments)
    with Reader(settings.kafka) as reader:
        incidents = latest_incidents(reader)
        if arguments.action == "list":
            told = told_time(reader, settings.worker)
            return _list(arguments, incidents, "" if told.moves else str(told))
        incident = the_incident(arguments.incident, incidents)
        if arguments.action == "show":
            return _show(arguments, settings, reader, incident)
        return _act(arguments, settings, reader, incident)


def _list(arguments: argparse.Namespace, incidents: list[Incident], silence: str) -> int:
    chosen = [
        one
        for one in incidents
        if (arguments.all or one.is_open)
        and arguments.model in {None, one.model}
        and one.severity <= (arguments.severity or one.severity)
    ]
    if silence:
        complain(f"{silence}; until then this list stays as it is")
    if arguments.json:
        for one in chosen:
            say_json(one)
    elif chosen:
        rows = [
            (
                one.display_id,
                one.severity.display,
                one.status.value,
                plain(one.model),
                at(one.opened_at_ms),
                _acked_by(one),
                _kinds(one),
            )
            for one in chosen
        ]
        say("\n".join(columns(("incident", "severity", "status", "model", "opened", "acknowledged", "findings"), rows)))
    else:
        what = " of these" if arguments.model or arguments.severity else ""
        complain(f"no incident{what}" if arguments.all else f"no incident{what} is open")
    return Exit.DONE


def _acked_by(incident: Incident) -> str:
    return ", ".join(dict.fromkeys(plain(ack.actor.id) for ack in incident.acks if ack.responder)) or "nobody"


def _kinds(incident: Incident) -> str:
    return ", ".join(dict.fromkeys(finding.kind for finding in incident.findings)) or "-"


def _show(arguments: argparse.Namespace, settings: Settings, reader: Reader, incident: Incident) -> int:
    timeline = sorted(_timeline(settings, reader, incident), key=lambda entry: entry[:3])
    if arguments.json:
        say_json(incident)
        for _, _, _, record in timeline:
            say_json(record)
        return Exit.DONE
    versions = ", ".join(map(plain, incident.versions)) or "all versions"
    ended_ms = incident.impact_ended_at_ms or incident.resolved_at_ms
    say(f"{incident.display_id}  {incident.severity.display}  {incident.status}  {incident.incident_class}")
    say(f"id            {incident.incident_id}")
    say(f"model         {plain(incident.model)}, {versions}, {plain(incident.tenant)}/{plain(incident.environment)}")
    began = between(incident.impact_started_at_ms, incident.began_by_ms)
    say(f"affected      begun {began}, until {at(ended_ms) if ended_ms else 'now'}")
    say(f"detected      {at(incident.detected_at_ms)}" + _detected_after(incident))
    say(f"opened        {at(incident.opened_at_ms)}")
    acked_ms = incident.acknowledged_at_ms
    acked = f"{at(acked_ms)} by {_acked_by(incident)}" + _after(acked_ms, incident.episode_at_ms)
    say(f"acknowledged  {'-' if acked_ms is None else acked}")
    say(
        f"contained     {at(incident.contained_at_ms)} {incident.containment.kind} {plain(incident.containment.text)}".rstrip()
    )
    saved = incident.containment
    if saved.snapshot or saved.waived:
        say(f"evidence      {plain(saved.snapshot) or 'none: ' + plain(saved.waived)}")
    say(f"resolved      {at(incident.resolved_at_ms)} {incident.resolution}".rstrip())
    say(f"phase         {incident.phase}" + (f", due {at(incident.due_at_ms)}" if incident.due_at_ms else ""))
    say()
    rows = [
        (
            finding.state,
            finding.kind,
            finding.detector,
            finding.lane,
            number(finding.observed),
            number(finding.expected),
            finding.unit,
            str(finding.n),
            between(finding.onset_from_at_ms, finding.onset_to_at_ms),
            finding.message or "-",
        )
        for finding in incident.findings
    ]
    if rows:
        head = ("finding", "kind", "detector", "lane", "observed", "expected", "unit", "n", "began", "says")
        say("\n".join(columns(head, [tuple(map(plain, row)) for row in rows])))
        if incident.findings_total > len(rows):
            say(f"the latest {len(rows)} of {incident.findings_total}")
        say()
    say("\n".join(columns(("when", "what"), [(at(ms), _line(record)) for ms, _, _, record in timeline])))
    return Exit.DONE


def _after(ms: int | None, since_ms: int | None) -> str:
    return "" if ms is None or since_ms is None or ms < since_ms else f", {lasting(ms - since_ms)} after"


def _detected_after(incident: Incident) -> str:
    """Say how long after its beginning it was detected: at most so long, where that is known as an interval."""
    after = _after(incident.detected_at_ms, incident.impact_started_at_ms)
    is_exact = incident.impact_started_at_ms == incident.began_by_ms
    return after if is_exact else after.replace(", ", ", at most ", 1)


Entry = tuple[int, str, int, Incident | Notification | Receipt]


def _timeline(settings: Settings, reader: Reader, incident: Incident) -> Iterator[Entry]:
    """Collect an incident's records, notifications and receipts; each once, though a log may hold a repeat.

    Who delivers may have been told an earlier time than who asked: a receipt stands no earlier than what it answers.
    """
    kinds: Mapping[str, type[Incident | Notification | Receipt]] = {
        INCIDENTS: Incident,
        NOTIFICATIONS: Notification,
        RECEIPTS: Receipt,
    }
    own = incident.incident_id.encode()
    seen: set[tuple[str, str]] = set()
    asked_ms: dict[str, int] = {}
    partition = partition_of(incident.model, settings.kafka.output_partitions)
    for topic, kind in kinds.items():
        for read in reader.all(topic, [partition]):
            if topic != RECEIPTS and read.key != own:  # a receipt's key is its message's id
                continue
            try:
                record = kind.decode(read.value)
            except MalformedRecordError as error:
                complain(f"{topic}[{partition}]@{read.offset} cannot be read: {error}")
                continue
            if record.incident_id != incident.incident_id:
                continue
            at_ms = int(record.decided_at_ms)
            match record:
                case Incident():
                    name, seq = str(record.seq), record.seq
                case Notification():
                    name, seq = record.notification_id, record.seq
                    asked_ms[name] = at_ms
                case Receipt():
                    name, seq = f"{record.notification_id}/{record.attempt}/{record.status}", record.attempt
                    at_ms = max(at_ms, asked_ms.get(record.notification_id, at_ms))
            if (topic, name) not in seen:
                seen.add((topic, name))
                yield at_ms, topic, seq, record


def _line(record: Incident | Notification | Receipt) -> str:
    match record:
        case Incident():
            by = f" by {record.actor.id}" if record.actor is not None else ""
            note = f": {record.note}" if record.note else _found(record)
            what = f"refused, {record.reason}" if record.reason.refuses else record.reason
            return plain(f"{what}{by}{note}  [{record.severity.display} {record.status} #{record.seq}]")
        case Notification():
            return plain(f"{record.mode} to {record.target} by {record.channel}: {record.reason}")
        case Receipt():
            return plain(
                f"{record.target} by {record.channel}: {record.status} ({record.reason}), attempt {record.attempt}"
            )


def _found(record: Incident) -> str:
    """Say which finding was the cause of a record, and in its own words what is wrong."""
    for one in record.findings:
        if one.finding_id == record.causation_id:
            return f": {one.kind} on {one.lane}" + (f", {one.message}" if one.message else "")
    return ""


def _act(arguments: argparse.Namespace, settings: Settings, reader: Reader, incident: Incident) -> int:
    kind: ActKind = "note" if arguments.action == "comment" else arguments.action
    action = new_act(reader, settings, incident, arguments.actor, kind)
    match arguments.action:
        case "ack":
            action = replace(action, target=arguments.target)
        case "contain":
            text, evidence, waiver = arguments.text, arguments.snapshot, arguments.waive
            action = replace(
                action, containment_kind=arguments.by, evidence=evidence, waiver=waiver, text=text, reason=text
            )
        case "resolve":
            action = replace(action, resolution=arguments.resolution, reason=arguments.reason)
        case _:
            action = replace(action, text=arguments.text)
    if kind == "resolve" and incident.is_open and incident.is_firing:
        complain(_still_firing(incident))
        if not arguments.still_firing:
            rather = "contain it"
            if incident.status is Status.CONTAINED:
                rather = "it is contained, wait until these have cleared"
            complain(f"{incident.display_id} was not resolved: {rather}, or insist by --still-firing")
            return Exit.NOT_SO
    answer = send(settings.kafka, reader, action, arguments.wait)
    if answer is None:
        complain(
            f"sent, and no answer from triage in {arguments.wait:g} s: is `tocsin worker triage` running? The act lies in "
            "the log and counts as soon as it does; it need not be sent again"
        )
        return Exit.NOT_SO
    if arguments.json:
        say_json(answer)
    else:
        say(f"{answer.display_id}: {answer.reason} ({answer.status}, {answer.severity.display})")
    if not answer.reason.refuses:
        return Exit.DONE
    complain(refusal(answer, kind))
    return Exit.NOT_SO


def _still_firing(incident: Incident) -> str:
    firing = [finding for finding in incident.findings if finding.state == "firing"]
    named = ", ".join(f"{finding.detector} on {plain(finding.lane)}" for finding in firing[:MOST_NAMED])
    left = max(incident.firing_total, len(firing)) - len(firing[:MOST_NAMED])
    more = f" and {left} more" if firing and left else f"{left} findings" if left else ""
    return (
        f"still firing in {incident.display_id}: {named}{more}. Once it is resolved nobody hears of these lanes before they "
        "have recovered; another finding opens the incident anew"
    )
