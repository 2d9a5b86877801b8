"""How does what a person does get into the log, and what became of it?

An act is a record like any other; triage answers with the incident's next record, which names the act as its cause.
"""

import time
import uuid

from config.settings import KafkaSettings, Settings
from schemas.fields import MalformedRecordError
from schemas.incident import Actor, Incident
from schemas.incident_action import ActKind, IncidentAction
from schemas.instant import Instant
from streams.runtime.reading import Reader, told_time, wall_ms
from streams.runtime.sending import send_all
from streams.runtime.stage_spec import Routed
from streams.runtime.terminal import CommandError, Exit, complain
from streams.runtime.topics import ACTIONS, INCIDENTS, INCIDENTS_LATEST, partition_of

LOOK_AGAIN_S = 0.2
LEAST_OF_A_NAME = 3


def latest_incidents(reader: Reader) -> list[Incident]:
    """Return the newest record of every incident, the newest incident last."""
    by_key: dict[bytes | None, Incident | None] = {}
    unread: dict[bytes | None, str] = {}
    for read in reader.all(INCIDENTS_LATEST):
        unread.pop(read.key, None)
        try:
            by_key[read.key] = None if read.value is None else Incident.decode(read.value)
        except MalformedRecordError as error:
            unread[read.key] = f"{read.topic}[{read.partition}]@{read.offset}: {error}"
    if unread:
        where = next(iter(unread.values()))
        complain(
            f"records that cannot be read, and are left out (is this command older than they?): {len(unread)}, first {where}"
        )
    return sorted(
        (one for one in by_key.values() if one is not None), key=lambda one: (one.opened_at_ms, one.incident_id)
    )


def the_incident(name: str, incidents: list[Incident]) -> Incident:
    """Find one incident by its id, its display id, or at least three characters of the beginning of either."""
    if exact := [one for one in incidents if name in {one.incident_id, one.display_id}]:
        return exact[0]
    begins = name.upper().removeprefix("INC-")
    if len(begins) < LEAST_OF_A_NAME:  # an empty variable of a script would name the only one there is
        raise CommandError(
            Exit.USAGE, f'"{name}" names no incident: write at least {LEAST_OF_A_NAME} characters of its id'
        )
    found = [
        one
        for one in incidents
        if one.incident_id.upper().startswith(begins) or one.display_id.removeprefix("INC-").startswith(begins)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(one.display_id for one in found)
        raise CommandError(Exit.USAGE, f"{name} may be any of {names}: write more of it")
    raise CommandError(
        Exit.NOT_SO, f"no incident is called {name}; `tocsin incidents list --all` shows which there are"
    )


def new_act(reader: Reader, settings: Settings, incident: Incident, by: str, kind: ActKind) -> IncidentAction:
    """Begin a person's act upon an incident, decided at the newest time that was told to who judges it.

    Where none is told, nobody would answer either: that is a `CommandError`, and nothing is sent.
    """
    partition = partition_of(incident.model, settings.kafka.output_partitions)
    told = told_time(reader, settings.worker, [partition])
    now_ms = told.now_ms
    if now_ms is None or not told.moves:
        raise CommandError(Exit.NOT_SO, f"{told}; then act again, for nothing was sent")
    return IncidentAction(
        act_id=str(uuid.uuid4()),
        incident_id=incident.incident_id,
        model=incident.model,
        kind=kind,
        actor=Actor(id=by, kind="human"),
        source="cli",
        occurred_at_ms=Instant(now_ms),
        decided_at_ms=Instant(now_ms),
        recorded_at_ms=Instant(wall_ms()),
    )


def send(settings: KafkaSettings, reader: Reader, action: IncidentAction, wait_s: float) -> Incident | None:
    """Send an act and return triage's answer; None when none came in `wait_s`."""
    try:
        IncidentAction.decode(action.encode())
    except (MalformedRecordError, UnicodeEncodeError) as error:
        raise CommandError(Exit.USAGE, f"the act cannot be sent: {error}") from None
    partition = partition_of(action.model, settings.output_partitions)
    _, start = reader.bounds(INCIDENTS, partition)
    send_all(
        settings,
        [Routed(topic=ACTIONS, key=action.incident_id.encode(), value=action.encode(), partition=partition)],
    )
    return _answer(reader, action, partition, start, wait_s)


def _answer(reader: Reader, action: IncidentAction, partition: int, start: int, wait_s: float) -> Incident | None:
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s:
        _, end = reader.bounds(INCIDENTS, partition)
        for read in reader.between(INCIDENTS, {partition: (start, end)}):
            if read.value is not None and read.key == action.incident_id.encode():
                try:
                    incident = Incident.decode(read.value)
                except MalformedRecordError:
                    continue  # whoever wrote it, it is no answer to us
                if incident.causation_id == action.act_id:
                    return incident
        start = end
        time.sleep(LOOK_AGAIN_S)
    return None
