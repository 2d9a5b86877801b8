"""Why was an act refused, and what can be done about it?

Triage answers with a reason; here it becomes a sentence for the person who acted from a terminal.
"""

from collections.abc import Callable, Mapping

from schemas.incident import Incident, Reason
from schemas.incident_action import ActKind
from streams.runtime.lines import plain
from streams.runtime.terminal import at
from streams.stages.policy import asked_of

_DONE: Mapping[str, str] = {
    "ack": "acknowledged",
    "contain": "contained",
    "resolve": "resolved",
    "note": "commented on",
}
_CLOSED = "its review is over, and its record changes no more"
_FULL = "its record has no room for this text: write a shorter one"


def _resolved(incident: Incident) -> str:
    return f"it is resolved since {at(incident.resolved_at_ms)}; what is found anew opens it again, or another"


def _targets(incident: Incident) -> str:
    asked = asked_of(incident.policy, incident.incident_class, incident.severity, incident.severity_max)
    return plain(", ".join(asked))


_WHY: Mapping[tuple[ActKind, Reason], Callable[[Incident], str]] = {
    ("ack", Reason.NO_CHANGE): _resolved,
    ("ack", Reason.UNKNOWN_TARGET): lambda one: (
        f"its policy tells no such target; --target is one of {_targets(one)}, or left out by a responder"
    ),
    ("contain", Reason.NO_CHANGE): lambda one: (
        f"it is contained since {at(one.contained_at_ms)}, by {one.containment.kind}; add what came later by "
        f"`tocsin incidents comment {one.display_id} TEXT`"
    ),
    ("contain", Reason.ILLEGAL_TRANSITION): _resolved,
    ("contain", Reason.MISSING_EVIDENCE): lambda one: (
        f"{one.severity.display} asks for evidence to be saved before anything is changed; say where it lies by "
        "--snapshot WHERE, or why there is none by --waive WHY"
    ),
    ("contain", Reason.MISSING_REASON): lambda _: "say by --text WHY no containment is needed",
    ("resolve", Reason.NO_CHANGE): lambda one: f"it is resolved since {at(one.resolved_at_ms)}, as {one.resolution}",
    ("resolve", Reason.MISSING_REASON): lambda _: "say in your words what ended it, by --reason WHY",
    ("note", Reason.MISSING_REASON): lambda _: "the note is empty: write its TEXT after the id",
}


def refusal(answer: Incident, kind: ActKind) -> str:
    """Say in one sentence what was refused, why, and what to do; `answer` is triage's record.

    What a person at a terminal cannot bring about has no sentence of its own, and is named by its reason.
    """
    if answer.reason is Reason.REFUSED_CLOSED:
        why = _CLOSED
    elif answer.reason is Reason.ILLEGAL_TRANSITION and answer.is_open:
        why = _FULL
    else:
        said = _WHY.get((kind, answer.reason))
        why = f"{answer.reason}; `tocsin incidents show {answer.display_id}` shows it" if said is None else said(answer)
    return f"{answer.display_id} was not {_DONE.get(kind, kind)}: {why}"
