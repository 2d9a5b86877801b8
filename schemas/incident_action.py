"""What has somebody done about an incident? An act, which triage alone turns into the incident's next record."""

from typing import Annotated, Literal

from msgspec import Meta, field

from schemas.fields import Count, Record
from schemas.incident import Actor, ContainmentKind, Phase, Prevention, Resolution, Severity, Short, Text
from schemas.instant import Instant, Timed
from schemas.output import Name
from schemas.policy import ClassName

ActKind = Literal[
    "ack",
    "unack",
    "contain",
    "uncontain",
    "resolve",
    "reopen",
    "raise",
    "lower",
    "classify",
    "assign",
    "note",
    "set_due",
    "set_impact",
    "set_root_cause",
    "set_remediation",
    "add_prevention",
    "complete_phase",
    "snapshot",
    "open_war_room",
    "open_channel",
    "merge",
    "open",
    "pir_complete",
    "pir_waive",
    "breach",
    "mark",
]


class Draft(Record, frozen=True, kw_only=True):
    """An incident as a person opens it."""

    tenant: Annotated[str, Meta(min_length=1, max_length=200)]
    environment: Annotated[str, Meta(min_length=1, max_length=200)]
    incident_class: ClassName = field(name="class")
    severity: Severity
    versions: tuple[Short, ...] = ()


class IncidentAction(Timed, frozen=True, kw_only=True):
    """One act; who sends it twice changes nothing.

    Parameters
    ----------
    act_id
        Given by the caller: a UUID, or the delivery id of a provider.
    incident_id
        Which incident; empty for `open`.
    occurred_at
        When it was done.
    decided_at
        The newest clock value that the entry point had seen; of a stage's act, the time at which it decided.
    expected_seq
        The act is refused unless this is the incident's newest record; 0 means that it does not matter.
    target
        `ack`: for which target of the policy. Empty: for the responders.
    to
        `raise`, `lower`: the severity.
    text
        What the actor says; the value of `set_impact`, `set_root_cause`, `set_remediation` (under `name`), the text of a note.
    evidence
        `snapshot`: where it is. `open_war_room`, `open_channel`: the link.
    waiver
        `contain`: why there is no snapshot.
    clock, due_at, late_by_ms
        `breach`: which deadline passed, and by how much it was noticed late.
    name
        `set_impact`, `set_root_cause`, `set_remediation`: which part. `mark`: what happened.
    """

    act_id: Annotated[str, Meta(min_length=1, max_length=200)]
    incident_id: Annotated[str, Meta(max_length=64)] = ""
    model: Name
    kind: ActKind
    actor: Actor
    source: Short = ""
    occurred_at_ms: Instant = field(name="occurred_at")
    decided_at_ms: Instant = field(name="decided_at")
    recorded_at_ms: Instant | None = field(default=None, name="recorded_at")
    reason: Short = ""
    expected_seq: Count = 0
    target: Short = ""
    to: Severity | None = None
    incident_class: ClassName | None = field(default=None, name="class")
    assignee: Short = ""
    text: Text = ""
    name: Short = ""
    due_at_ms: Instant | None = field(default=None, name="due_at")
    prevention: Prevention | None = None
    phase: Phase | None = None
    evidence: Short = ""
    waiver: Short = ""
    containment_kind: ContainmentKind | Literal[""] = ""
    resolution: Resolution | Literal[""] = ""
    into: Annotated[str, Meta(max_length=64)] = ""
    draft: Draft | None = None
    clock: Short = ""
    late_by_ms: Count = 0
