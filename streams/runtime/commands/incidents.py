"""See what is wrong, and say what is done about it.

  tocsin incidents list                           what is open, the newest last
  tocsin incidents list --all --model fraud --json
  tocsin incidents show INC-260DE83DF6D6          everything about one, with its timeline
  tocsin incidents ack INC-260DE8                 I am on it; the beginning of an id is enough
  tocsin incidents contain INC-260DE8 --by rollback --snapshot s3://evidence/7 --text "back to version 6"
  tocsin incidents comment INC-260DE8 "the partner changed the unit of age"
  tocsin incidents resolve INC-260DE8 --as fixed --reason "unit mended upstream"

Acts travel as records to triage, which alone changes incidents; the answer is awaited and shown.
"""

import argparse
import getpass
from collections.abc import Iterator, Mapping
from typing import get_args

import msgspec
from msgspec.structs import replace

from config.settings import Settings
from schemas.fields import MalformedRecordError
from schemas.incident import ContainmentKind, Incident, Resolution
from schemas.incident_action import ActKind
from schemas.instant import to_wire
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime.acts import latest_incidents, new_act, send, the_incident
from streams.runtime.commands.common import add_json, add_settings, settings_of
from streams.runtime.reading import Reader
from streams.runtime.terminal import Exit, at, columns, complain, lasting, plain, say
from streams.runtime.topics import INCIDENTS, NOTIFICATIONS, RECEIPTS, partition_of

WAIT_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    inner = parser.add_subparsers(dest="action", required=True, metavar="list|show|ack|contain|resolve|comment")
    listing = inner.add_parser("list", help="what is open")
    listing.add_argument("--all", action="store_true", help="resolved ones too")
    listing.add_argument("--model", help="only of this model")
    listing.add_argument("--severity", type=int, choices=(1, 2, 3, 4), help="only this bad, or worse")
    add_json(listing)
    add_settings(listing)

    showing = inner.add_parser("show", help="everything about one, with its timeline")
    showing.add_argument("incident", metavar="ID", help="id, display id, or the beginning of either")
    add_json(showing)
    add_settings(showing)

    ack = _acting(inner.add_parser("ack", help="say that you are on it"))
    ack.add_argument("--target", default="", help="for which target of the policy, where each owes its own")

    contain = _acting(inner.add_parser("contain", help="say what keeps the harm from spreading"))
    contain.add_argument("--by", required=True, choices=get_args(ContainmentKind), help="what was done")
    evidence = contain.add_mutually_exclusive_group()
    evidence.add_argument("--snapshot", default="", metavar="WHERE", help="where the evidence was saved before")
    evidence.add_argument("--waive", default="", metavar="WHY", help="why there is no evidence")
    contain.add_argument("--text", default="", help="in your words")

    resolve = _acting(inner.add_parser("resolve", help="say that it is over"))
    resolve.add_argument("--as", dest="resolution", required=True, choices=get_args(Resolution), help="how it ended")
    resolve.add_argument("--reason", required=True, help="in your words; it stands in the record")

    comment = inner.add_parser("comment", help="add a note to the timeline")
    _acting(comment).add_argument("text", metavar="TEXT", help="the note")


def _acting(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("incident", metavar="ID", help="id, display id, or the beginning of either")
    parser.add_argument("--actor", default=getpass.getuser(), metavar="NAME", help="who acts (default %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, metavar="S", help="seconds to wait for the answer (default %(default)g)"
    )
    add_json(parser)
    add_settings(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """List, show, or act."""
    settings = settings_of(arguments)
    with Reader(settings.kafka) as reader:
        incidents = latest_incidents(reader)
        if arguments.action == "list":
            return _list(arguments, incidents)
        incident = the_incident(arguments.incident, incidents)
        if arguments.action == "show":
            return _show(arguments, settings, reader, incident)
        return _act(arguments, settings, reader, incident)


def _list(arguments: argparse.Namespace, incidents: list[Incident]) -> int:
    chosen = [
        one
        for one in incidents
        if (arguments.all or one.is_open)
        and arguments.model in {None, one.model}
        and one.severity <= (arguments.severity or one.severity)
    ]
    if arguments.json:
        for one in chosen:
            _say_record(one)
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
        complain("nothing is open" if not arguments.all else "there is no incident")
    return Exit.DONE


def _acked_by(incident: Incident) -> str:
    return ", ".join(dict.fromkeys(plain(ack.actor.id) for ack in incident.acks if ack.responder)) or "nobody"


def _kinds(incident: Incident) -> str:
    return ", ".join(dict.fromkeys(finding.kind for finding in incident.findings)) or "-"


def _say_record(record: msgspec.Struct) -> None:
    say(msgspec.json.encode(record, enc_hook=to_wire).decode())


def _show(arguments: argparse.Namespace, settings: Settings, reader: Reader, incident: Incident) -> int:
    timeline = sorted(_timeline(settings, reader, incident), key=lambda entry: entry[:3])
    if arguments.json:
        _say_record(incident)
        for _, _, _, record in timeline:
            _say_record(record)
        return Exit.DONE
    versions = ", ".join(map(plain, incident.versions)) or "all versions"
    ended_ms = incident.impact_ended_at_ms or incident.resolved_at_ms
    say(f"{incident.display_id}  {incident.severity.display}  {incident.status}  {incident.incident_class}")
    say(f"id            {incident.incident_id}")
    say(f"model         {plain(incident.model)}, {versions}, {plain(incident.tenant)}/{plain(incident.environment)}")
    say(f"affected      from {at(incident.impact_started_at_ms)} to {at(ended_ms) if ended_ms else 'now'}")
    say(f"detected      {at(incident.detected_at_ms)}" + _after(incident.detected_at_ms, incident.impact_started_at_ms))
    say(f"opened        {at(incident.opened_at_ms)}")
    say(
        f"acknowledged  {at(incident.acknowledged_at_ms)} by {_acked_by(incident)}"
        + _after(incident.acknowledged_at_ms, incident.episode_at_ms)
    )
    say(
        f"contained     {at(incident.contained_at_ms)} {incident.containment.kind} {plain(incident.containment.text)}".rstrip()
    )
    say(f"resolved      {at(incident.resolved_at_ms)} {incident.resolution}".rstrip())
    say(f"phase         {incident.phase}, due {at(incident.due_at_ms)}")
    say()
    rows = [
        (
            finding.state,
            finding.kind,
            finding.lane,
            f"{finding.observed:.4g}",
            f"{finding.expected:.4g}",
            finding.unit,
            str(finding.n),
            at(finding.onset_from_at_ms),
        )
        for finding in incident.findings
    ]
    if rows:
        head = ("finding", "kind", "lane", "observed", "expected", "unit", "n", "began")
        say("\n".join(columns(head, [tuple(map(plain, row)) for row in rows])))
        if incident.findings_total > len(rows):
            say(f"the latest {len(rows)} of {incident.findings_total}")
        say()
    say("\n".join(columns(("when", "what"), [(at(ms), _line(record)) for ms, _, _, record in timeline])))
    return Exit.DONE


def _after(ms: int | None, since_ms: int | None) -> str:
    return "" if ms is None or since_ms is None or ms < since_ms else f", {lasting(ms - since_ms)} after"


Entry = tuple[int, str, int, Incident | Notification | Receipt]


def _timeline(settings: Settings, reader: Reader, incident: Incident) -> Iterator[Entry]:
    """Collect an incident's records, notifications and receipts; each once, though a log may hold a repeat."""
    kinds: Mapping[str, type[Incident | Notification | Receipt]] = {
        INCIDENTS: Incident,
        NOTIFICATIONS: Notification,
        RECEIPTS: Receipt,
    }
    seen: set[tuple[str, str]] = set()
    partition = partition_of(incident.model, settings.kafka.output_partitions)
    for topic, kind in kinds.items():
        for read in reader.all(topic, [partition]):
            try:
                record = kind.decode(read.value)
            except MalformedRecordError as error:
                complain(f"{topic}[{partition}]@{read.offset} cannot be read: {error}")
                continue
            if record.incident_id != incident.incident_id:
                continue
            match record:
                case Incident():
                    name, seq = str(record.seq), record.seq
                case Notification():
                    name, seq = record.notification_id, record.seq
                case Receipt():
                    name, seq = f"{record.notification_id}/{record.attempt}/{record.status}", record.attempt
            if (topic, name) not in seen:
                seen.add((topic, name))
                yield record.decided_at_ms, topic, seq, record


def _line(record: Incident | Notification | Receipt) -> str:
    match record:
        case Incident():
            by = f" by {record.actor.id}" if record.actor is not None else ""
            note = f": {record.note}" if record.note else ""
            return plain(f"{record.reason}{by}{note}  [{record.severity.display} {record.status} #{record.seq}]")
        case Notification():
            return plain(f"{record.mode} to {record.target} by {record.channel}: {record.reason}")
        case Receipt():
            return plain(
                f"{record.target} by {record.channel}: {record.status} ({record.reason}), attempt {record.attempt}"
            )


def _act(arguments: argparse.Namespace, settings: Settings, reader: Reader, incident: Incident) -> int:
    kind: ActKind = "note" if arguments.action == "comment" else arguments.action
    action = new_act(reader, incident, arguments.actor, kind)
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
    answer = send(settings.kafka, reader, action, arguments.wait)
    if answer is None:
        complain(f"sent; no answer from triage in {arguments.wait:g} s. Is `tocsin worker triage` running?")
        return Exit.NOT_SO
    if arguments.json:
        _say_record(answer)
    else:
        say(f"{answer.display_id}: {answer.reason} ({answer.status}, {answer.severity.display})")
    return Exit.NOT_SO if answer.reason.refuses else Exit.DONE
