"""May this be done to an incident in this state, by this actor, and what does it change?

Pure: an incident and an act in, a verdict out. An act that is refused changes nothing and says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from schemas.incident import (
    MAX_ENTRIES,
    Acknowledgement,
    Breach,
    Containment,
    Incident,
    Phase,
    Reason,
    Severity,
    Status,
)
from schemas.incident_action import IncidentAction
from schemas.instant import Instant
from streams.stages.policy import Group, asked_of, of_severity

ActorKind = Literal["human", "provider", "system"]

_PERSON: frozenset[ActorKind] = frozenset({"human"})
_PERSON_OR_US: frozenset[ActorKind] = frozenset({"human", "system"})
_PERSON_OR_PROVIDER: frozenset[ActorKind] = frozenset({"human", "provider"})
_ANYBODY: frozenset[ActorKind] = frozenset({"human", "provider", "system"})
_US: frozenset[ActorKind] = frozenset({"system"})

WHO_MAY: Mapping[str, frozenset[ActorKind]] = {
    "ack": _PERSON,  # a provider's event without a person says only that a machine has taken it
    "unack": _ANYBODY,
    "contain": _PERSON,
    "uncontain": _PERSON,
    "resolve": _ANYBODY,  # at SEV-1 a person, see below
    "reopen": _PERSON_OR_PROVIDER,
    "raise": _PERSON_OR_US,
    "lower": _PERSON,
    "classify": _PERSON,
    "assign": _PERSON,
    "note": _ANYBODY,
    "set_due": _PERSON,
    "set_impact": _PERSON,
    "set_root_cause": _PERSON,
    "set_remediation": _PERSON,
    "add_prevention": _PERSON,
    "complete_phase": _PERSON,
    "snapshot": _PERSON_OR_US,
    "open_war_room": _PERSON_OR_US,
    "open_channel": _PERSON_OR_US,
    "merge": _PERSON,
    "open": _PERSON,
    "pir_complete": _PERSON,
    "pir_waive": _PERSON,
    "breach": _US,
    "mark": _US,
}

CONTAINS = frozenset({"rollback", "fallback", "disable", "input_block"})
"""Kinds of containment that keep harm from spreading; the others only complete the phase."""

TRANSITIONS: Mapping[tuple[str, Status], Status | Reason] = {
    ("contain", Status.INVESTIGATING): Status.CONTAINED,
    ("contain", Status.CONTAINED): Reason.NO_CHANGE,
    ("contain", Status.RESOLVED): Reason.ILLEGAL_TRANSITION,
    ("uncontain", Status.INVESTIGATING): Reason.NO_CHANGE,
    ("uncontain", Status.CONTAINED): Status.INVESTIGATING,
    ("uncontain", Status.RESOLVED): Reason.ILLEGAL_TRANSITION,
    ("resolve", Status.INVESTIGATING): Status.RESOLVED,
    ("resolve", Status.CONTAINED): Status.RESOLVED,
    ("resolve", Status.RESOLVED): Reason.NO_CHANGE,
    ("reopen", Status.INVESTIGATING): Reason.NO_CHANGE,
    ("reopen", Status.CONTAINED): Reason.ILLEGAL_TRANSITION,
    ("reopen", Status.RESOLVED): Status.INVESTIGATING,
}
"""What each act that changes the status leads to; no other act changes it."""

_WHILE_OPEN: Mapping[str, Reason] = {
    "ack": Reason.NO_CHANGE,
    "unack": Reason.NO_CHANGE,
    "raise": Reason.ILLEGAL_TRANSITION,
    "lower": Reason.ILLEGAL_TRANSITION,
    "complete_phase": Reason.ILLEGAL_TRANSITION,
    "snapshot": Reason.ILLEGAL_TRANSITION,
    "open_war_room": Reason.ILLEGAL_TRANSITION,
    "open_channel": Reason.ILLEGAL_TRANSITION,
    "merge": Reason.ILLEGAL_TRANSITION,
}
"""Acts that need an open incident, and what is answered where it is resolved."""

_PHASES = list(Phase)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an act leads to: the reason, and the fields that it changes."""

    reason: Reason
    changes: Mapping[str, object] = field(default_factory=dict)


def clamp(occurred_ms: int, from_ms: int, to_ms: int) -> int:
    """Keep what is said of a time within what can be.

    >>> clamp(5, 10, 20), clamp(15, 10, 20), clamp(99, 10, 20)
    (10, 15, 20)
    """
    return max(from_ms, min(occurred_ms, to_ms))


def judge(incident: Incident, act: IncidentAction) -> Verdict:
    """Decide one act on a known incident; `open` and the far side of `merge` are the stage's."""
    refusal = _refusal(incident, act)
    if refusal is not None:
        return Verdict(refusal)
    return _ACTS[act.kind](incident, act)


def _refusal(incident: Incident, act: IncidentAction) -> Reason | None:
    """Refuse what is stale, closed, not this actor's to do, or impossible in this status."""
    if act.expected_seq and act.expected_seq != incident.seq:
        return Reason.STALE_SEQ
    if incident.closed_at_ms is not None:
        return Reason.REFUSED_CLOSED
    allowed = WHO_MAY[act.kind]
    if act.actor.kind not in allowed:
        return Reason.HUMAN_REQUIRED if "human" in allowed else Reason.NOT_AUTHORISED
    if act.actor.kind == "system" and not act.actor.id.startswith("tocsin:"):
        return Reason.NOT_AUTHORISED
    after = TRANSITIONS.get((act.kind, incident.status))
    if isinstance(after, Reason):
        return after
    if act.kind == "resolve" and incident.severity is Severity.CRITICAL and act.actor.kind != "human":
        return Reason.HUMAN_REQUIRED
    if not incident.is_open and act.kind in _WHILE_OPEN:
        return _WHILE_OPEN[act.kind]
    return None


def _asked(incident: Incident) -> dict[str, Group]:
    return asked_of(incident.policy, incident.incident_class, incident.severity, incident.severity_max)


def _ack(incident: Incident, act: IncidentAction) -> Verdict:
    at_ms = clamp(act.occurred_at_ms, incident.episode_at_ms, max(act.decided_at_ms, incident.episode_at_ms))
    if any(ack.actor.id == act.actor.id and ack.target == act.target for ack in incident.acks):
        return Verdict(Reason.ACKNOWLEDGED_AGAIN)
    group = _asked(incident).get(act.target) if act.target else "responders"
    if group is None:
        return Verdict(Reason.UNKNOWN_TARGET)
    responder = group == "responders"
    given = Acknowledgement(
        target=act.target, actor=act.actor, source=act.source, responder=responder, at_ms=Instant(at_ms)
    )
    same = [ack for ack in incident.acks if ack.responder is responder]
    others = [ack for ack in incident.acks if ack.responder is not responder]
    changes: dict[str, object] = {"acks": (*others, *same[-(MAX_ENTRIES // 2 - 1) :], given)}
    if responder and incident.acknowledged_at_ms is None:
        changes["acknowledged_at_ms"] = at_ms
    return Verdict(Reason.ACKNOWLEDGED, changes)


def _unack(incident: Incident, act: IncidentAction) -> Verdict:
    del act
    return Verdict(Reason.UNACKNOWLEDGED, {"acks": ()}) if incident.acks else Verdict(Reason.NO_CHANGE)


def _contain(incident: Incident, act: IncidentAction) -> Verdict:
    if not act.containment_kind:
        return Verdict(Reason.MISSING_CONTAINMENT)
    if act.containment_kind == "none_needed" and not act.reason:
        return Verdict(Reason.MISSING_REASON)
    at_ms = _at(incident, act)
    done = replace(incident.containment, kind=act.containment_kind, text=act.text or act.reason, done_at_ms=at_ms)
    if act.evidence:
        done = replace(done, snapshot=act.evidence, snapshot_at_ms=at_ms)
    phase = Phase.INVESTIGATION if incident.phase in {Phase.TRIAGE, Phase.CONTAINMENT} else incident.phase
    if act.containment_kind not in CONTAINS:
        return Verdict(Reason.CONTAINMENT_RECORDED, {"containment": done, "phase": phase})
    if incident.severity <= Severity.HIGH and done.snapshot_at_ms is None:
        if not act.waiver:
            return Verdict(Reason.MISSING_EVIDENCE)
        done = replace(done, waived=act.waiver)
    changes: dict[str, object] = {"status": Status.CONTAINED, "containment": done, "phase": phase}
    if incident.contained_at_ms is None:
        changes["contained_at_ms"] = at_ms
    return Verdict(Reason.CONTAINED, changes)


def _uncontain(incident: Incident, act: IncidentAction) -> Verdict:
    del incident, act
    return Verdict(Reason.UNCONTAINED, {"status": Status.INVESTIGATING})


def _resolve(incident: Incident, act: IncidentAction) -> Verdict:
    if not act.reason or not act.resolution:
        return Verdict(Reason.MISSING_REASON)
    return Verdict(Reason.RESOLVED, resolved(_at(incident, act), act.resolution))


def resolved(at_ms: int, resolution: str) -> dict[str, object]:
    """Return what resolving changes; unfinished phases are skipped and the review begins."""
    return {"status": Status.RESOLVED, "resolved_at_ms": at_ms, "resolution": resolution, "phase": Phase.REVIEW}


def reopened(incident: Incident, at_ms: int) -> dict[str, object]:
    """Return what a new episode changes: acknowledgements and the episode's times are gone, the clock starts anew."""
    return {
        "status": Status.INVESTIGATING,
        "episode": incident.episode + 1,
        "reopened_at_ms": at_ms,
        "acks": (),
        "acknowledged_at_ms": None,
        "contained_at_ms": None,
        "resolved_at_ms": None,
        "resolution": "",
        "containment": Containment(),
        "phase": Phase.CONTAINMENT if incident.severity <= Severity.HIGH else Phase.INVESTIGATION,
    }


def _reopen(incident: Incident, act: IncidentAction) -> Verdict:
    assert incident.resolved_at_ms is not None
    if act.target and act.target not in _asked(incident):
        return Verdict(Reason.UNKNOWN_TARGET)
    at_ms = clamp(act.occurred_at_ms, incident.resolved_at_ms, max(act.decided_at_ms, incident.resolved_at_ms))
    changes = reopened(incident, at_ms)
    if act.actor.kind == "human":  # who takes it up again is on it
        ack = Acknowledgement(
            target=act.target, actor=act.actor, source=act.source, responder=True, at_ms=Instant(at_ms)
        )
        changes |= {"acks": (ack,), "acknowledged_at_ms": at_ms}
    return Verdict(Reason.REOPENED, changes)


def raised(incident: Incident, to: Severity) -> dict[str, object]:
    """Return what a worse severity changes; containment then no longer counts."""
    changes: dict[str, object] = {"severity": to, "severity_max": min(to, incident.severity_max)}
    if incident.status is Status.CONTAINED:
        changes["status"] = Status.INVESTIGATING
    return changes


def _raise(incident: Incident, act: IncidentAction) -> Verdict:
    if act.to is None or act.to > incident.severity:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    if act.to == incident.severity:
        return Verdict(Reason.NO_CHANGE)
    return Verdict(Reason.SEVERITY_RAISED, raised(incident, act.to))


def _lower(incident: Incident, act: IncidentAction) -> Verdict:
    if act.to is None or act.to < incident.severity:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    if act.to == incident.severity:
        return Verdict(Reason.NO_CHANGE)
    if not act.reason:
        return Verdict(Reason.MISSING_REASON)
    return Verdict(Reason.SEVERITY_LOWERED, {"severity": act.to})


def _classify(incident: Incident, act: IncidentAction) -> Verdict:
    if act.incident_class is None or act.incident_class == incident.incident_class:
        return Verdict(Reason.NO_CHANGE)
    labels = {name: text for name, text in incident.labels.items() if name != "unclassified"}
    return Verdict(Reason.CLASSIFIED, {"incident_class": act.incident_class, "labels": labels})


def _assign(incident: Incident, act: IncidentAction) -> Verdict:
    return _set(incident, "assignee", act.assignee)


def _set_due(incident: Incident, act: IncidentAction) -> Verdict:
    return _set(incident, "due_at_ms", act.due_at_ms)


def _set(incident: Incident, name: str, value: object) -> Verdict:
    if getattr(incident, name) == value:
        return Verdict(Reason.NO_CHANGE)
    return Verdict(Reason.CHANGED, {name: value})


def _into(name: str) -> Callable[[Incident, IncidentAction], Verdict]:
    """Make the act that sets one named text of a field that holds several."""

    def act_on(incident: Incident, act: IncidentAction) -> Verdict:
        texts: dict[str, str] = getattr(incident, name)
        if not act.name or (act.name not in texts and len(texts) >= MAX_ENTRIES):
            return Verdict(Reason.ILLEGAL_TRANSITION)
        return _set(incident, name, texts | {act.name: act.text})

    return act_on


def _add_prevention(incident: Incident, act: IncidentAction) -> Verdict:
    if act.prevention is None or len(incident.prevention) >= MAX_ENTRIES:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    rest = tuple(entry for entry in incident.prevention if entry.text != act.prevention.text)
    return _set(incident, "prevention", (*rest, act.prevention))


def _note(incident: Incident, act: IncidentAction) -> Verdict:
    del incident
    return Verdict(Reason.NOTED) if act.text or act.reason else Verdict(Reason.MISSING_REASON)


def _complete_phase(incident: Incident, act: IncidentAction) -> Verdict:
    done = incident.phase if act.phase is None else act.phase
    if done in {Phase.REVIEW, Phase.DONE}:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    ahead = _PHASES.index(done) - _PHASES.index(incident.phase)
    if ahead < 0:
        return Verdict(Reason.NO_CHANGE)
    if ahead > 0 and not act.reason:
        return Verdict(Reason.MISSING_REASON)
    if done is Phase.CONTAINMENT and not incident.containment.kind:
        return Verdict(Reason.MISSING_CONTAINMENT)
    # remediation is the last phase of an open incident: what follows it is `resolve`
    after = done if done is Phase.REMEDIATION else _PHASES[_PHASES.index(done) + 1]
    return Verdict(Reason.PHASE_COMPLETED, {"phase": after})


def _snapshot(incident: Incident, act: IncidentAction) -> Verdict:
    if not act.evidence:
        return Verdict(Reason.MISSING_EVIDENCE)
    saved = replace(incident.containment, snapshot=act.evidence, snapshot_at_ms=_at(incident, act))
    return Verdict(Reason.SNAPSHOT_TAKEN, {"containment": saved})


def _milestone(incident: Incident, act: IncidentAction) -> Verdict:
    if act.kind in incident.milestones:
        return Verdict(Reason.NO_CHANGE)
    reached = incident.milestones | {act.kind: Instant(_at(incident, act))}
    return Verdict(Reason.MILESTONE_REACHED, {"milestones": reached})


def _merge(incident: Incident, act: IncidentAction) -> Verdict:
    if not act.into or act.into == incident.incident_id:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    return Verdict(Reason.MERGED, {**resolved(_at(incident, act), "duplicate"), "merged_into": act.into})


def _close(incident: Incident, act: IncidentAction) -> Verdict:
    if incident.resolved_at_ms is None:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    if act.kind == "pir_waive" and not act.reason:
        return Verdict(Reason.MISSING_REASON)
    at_ms = clamp(act.occurred_at_ms, incident.resolved_at_ms, max(act.decided_at_ms, incident.resolved_at_ms))
    return Verdict(Reason.CLOSED, {"closed_at_ms": at_ms, "phase": Phase.DONE})


def _breach(incident: Incident, act: IncidentAction) -> Verdict:
    if act.due_at_ms is None or not act.clock:
        return Verdict(Reason.ILLEGAL_TRANSITION)
    if any(breach.clock == act.clock and breach.due_at_ms == act.due_at_ms for breach in incident.breaches):
        return Verdict(Reason.NO_CHANGE)
    stamp = Breach(
        clock=act.clock,
        episode=incident.episode,
        due_at_ms=act.due_at_ms,
        stamped_at_ms=act.decided_at_ms,
        late_by_ms=act.late_by_ms,
    )
    return Verdict(Reason.BREACHED, {"breaches": (*incident.breaches, stamp)[-MAX_ENTRIES:]})


def _mark(incident: Incident, act: IncidentAction) -> Verdict:
    del incident
    return Verdict(Reason.MARKED) if act.name else Verdict(Reason.ILLEGAL_TRANSITION)


def _at(incident: Incident, act: IncidentAction) -> int:
    """When an act took place: within the episode, and not after it was recorded."""
    from_ms = incident.episode_at_ms
    return clamp(act.occurred_at_ms, from_ms, max(act.decided_at_ms, from_ms))


_ACTS: Mapping[str, Callable[[Incident, IncidentAction], Verdict]] = {
    "ack": _ack,
    "unack": _unack,
    "contain": _contain,
    "uncontain": _uncontain,
    "resolve": _resolve,
    "reopen": _reopen,
    "raise": _raise,
    "lower": _lower,
    "classify": _classify,
    "assign": _assign,
    "note": _note,
    "set_due": _set_due,
    "set_impact": _into("impact"),
    "set_root_cause": _into("root_cause"),
    "set_remediation": _into("remediation"),
    "add_prevention": _add_prevention,
    "complete_phase": _complete_phase,
    "snapshot": _snapshot,
    "open_war_room": _milestone,
    "open_channel": _milestone,
    "merge": _merge,
    "pir_complete": _close,
    "pir_waive": _close,
    "breach": _breach,
    "mark": _mark,
}


def retracted_breaches(incident: Incident) -> tuple[Breach, ...] | None:
    """Return the breaches with those withdrawn that turn out to have been met in time; None where there are none."""
    strict = of_severity(incident.policy, incident.severity).respond.strict
    found = False
    kept = []
    for breach in incident.breaches:
        at_ms = (
            incident.acknowledged_at_ms
            if breach.clock == "response"
            else {str(name): at for name, at in incident.milestones.items()}.get(breach.clock)
        )
        edge_ms = 1 if strict and breach.clock == "response" else 0
        met = at_ms is not None and at_ms <= breach.due_at_ms - edge_ms
        if met and not breach.retracted and breach.episode == incident.episode:
            found = True
            kept.append(replace(breach, retracted=True))
        else:
            kept.append(breach)
    return tuple(kept) if found else None
