"""What does the policy say: which targets, which deadline, and can it be meant?

The nouns are in `schemas.policy` and `schemas.response`, since they are frozen into incidents and built from TOML;
here is what stages ask of them.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from schemas.fields import MalformedRecordError, described
from schemas.incident import Incident, Severity
from schemas.policy import (
    Calendar,
    Fallback,
    Notify,
    Pause,
    Policy,
    Repeat,
    Require,
    SeverityPolicy,
    WaitAck,
)
from schemas.response import Contact, EscalateSettings, KindRule, NotifySettings, Response, TriageSettings
from streams.stages.business_clock import BusinessClock, NoBusinessError, UnknownZoneError

__all__ = [
    "MAX_POLICY_BYTES",
    "Deadline",
    "EscalateSettings",
    "Group",
    "NotifySettings",
    "TriageSettings",
    "asked_of",
    "at_risk_ms",
    "business_clock",
    "faults",
    "kind_rule",
    "of_severity",
    "policy_hash",
    "refuse_unusable",
    "response_deadline",
    "targets_of",
    "targets_used",
    "wait_until",
]

MAX_POLICY_BYTES = 16_384
SECOND_RESPONDER_MS = 900_000
"""At SEV-1 somebody else must have been asked before this has passed."""

SHORTEST_AGAIN_MS = 60_000
LATEST_MS = 253_086_681_600_000
"""The end of 9989: waits that begin before it end before dates do."""

Group = Literal["responders", "accountable"]
"""Who answers for an incident, and who only has to know of it."""

CLASS_TARGETS = ("class:oncall", "class:secondary", "class:team")


class Deadline(msgspec.Struct, frozen=True):
    """An instant, and whether the instant itself is still in time.

    >>> Deadline(900_000, strict=True).met(899_999), Deadline(900_000, strict=True).met(900_000)
    (True, False)
    >>> Deadline(3_600_000, strict=False).met(3_600_000), Deadline(3_600_000, strict=False).met(3_600_001)
    (True, False)
    """

    due_at_ms: int
    strict: bool

    def met(self, at_ms: int) -> bool:
        """Whether what happened at this instant was in time."""
        return at_ms < self.due_at_ms if self.strict else at_ms <= self.due_at_ms

    @property
    def breached_at_ms(self) -> int:
        """The first instant that is too late."""
        return self.due_at_ms if self.strict else self.due_at_ms + 1


def policy_hash(policy: Policy) -> str:
    """Name a policy by its content: SHA-256 of its JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest()


def of_severity(policy: Policy, severity: Severity) -> SeverityPolicy:
    """Return what is done at a severity."""
    key: dict[Severity, str] = {
        Severity.CRITICAL: "1",
        Severity.HIGH: "2",
        Severity.MEDIUM: "3",
        Severity.LOW: "4",
    }
    return policy.severities[key[severity]]  # type: ignore[index]


def wait_until(at_ms: int, for_ms: int, clock: str, business: BusinessClock) -> int:
    """Return when a wait that begins at `at_ms` is over."""
    return business.add(at_ms, for_ms) if clock == "business" else at_ms + for_ms


def response_deadline(rule: SeverityPolicy, from_ms: int, business: BusinessClock) -> Deadline:
    """Return by when somebody must have acknowledged an episode that began at `from_ms`."""
    respond = rule.respond
    if respond.clock == "next_business_day":
        return Deadline(business.close_after(from_ms, 1), strict=respond.strict)
    return Deadline(wait_until(from_ms, respond.within_ms, respond.clock, business), strict=respond.strict)


def at_risk_ms(rule: SeverityPolicy, from_ms: int, business: BusinessClock) -> int:
    """Return when the owners are warned: after a share of the allowance, or at that day's opening."""
    respond = rule.respond
    if respond.clock == "next_business_day":
        return business.open_on_next_day(from_ms)
    return wait_until(from_ms, int(respond.within_ms * respond.at_risk_share), respond.clock, business)


def targets_of(policy: Policy, incident_class: str, targets: Iterable[str]) -> list[str]:
    """Put the targets of a class in place of `class:…`; each once, in order.

    An unknown class has the route of model quality, the most likely.
    """
    routes = {str(name): route for name, route in policy.routes.items()}
    route = routes.get(incident_class, routes["model_quality"])
    found: dict[str, None] = {}
    for target in targets:
        if target in CLASS_TARGETS:
            found.update(dict.fromkeys(getattr(route, target.removeprefix("class:"))))
        else:
            found[target] = None
    return list(found)


def asked_of(policy: Policy, incident_class: str, severity: Severity, worst: Severity) -> dict[str, Group]:
    """Return whom an incident's policy can tell, at its severity and at the worse ones that it has had, and as what.

    The severity of now counts first: who is named there is what he is there. Who is named by steps for responders is one.
    """
    asked: dict[str, Group] = {}
    for number in range(severity, min(severity, worst) - 1, -1):
        asked = _asked_at(policy, incident_class, Severity(number)) | asked
    return asked


def _asked_at(policy: Policy, incident_class: str, severity: Severity) -> dict[str, Group]:
    rule = of_severity(policy, severity)
    asked: dict[str, Group] = {}
    for step in rule.steps:
        match step:
            case Notify(group="responders") | Fallback():
                asked |= dict.fromkeys(targets_of(policy, incident_class, step.targets), "responders")
            case Notify():
                for target in targets_of(policy, incident_class, step.targets):
                    asked.setdefault(target, "accountable")
            case _:
                pass
    warned = [target for step in rule.steps if isinstance(step, Require) for target in step.targets]
    for target in targets_of(policy, incident_class, [*rule.respond.owners, *warned]):
        asked.setdefault(target, "responders")
    return asked


def kind_rule(kinds: Mapping[str, KindRule], unknown: KindRule, kind: str) -> KindRule:
    """Return what a kind of finding means."""
    return kinds.get(kind, unknown)


def business_clock(calendar: Calendar) -> BusinessClock:
    """Return the clock of a calendar that was frozen; a zone that this machine does not know any more counts as UTC."""
    try:
        return BusinessClock(calendar)
    except UnknownZoneError:
        return BusinessClock(replace(calendar, zone="UTC"))


def refuse_unusable(incident: Incident) -> None:
    """Refuse an incident that no ladder can be climbed for: its policy may come from anywhere.

    Raises
    ------
    MalformedRecordError
        With the first thing that does not fit.
    """
    try:
        uuid.UUID(incident.incident_id)
    except ValueError:
        raise MalformedRecordError("incident", "incident_id", "a UUID", described(incident.incident_id)) from None
    policy = incident.policy
    found = _severity_faults(policy)
    found += [] if "model_quality" in policy.routes else ["policy.routes: model_quality is missing"]
    for number, rule in policy.severities.items():
        found += _step_faults(number, rule)
    found = found or _calendar_faults(policy, business_clock, min(incident.decided_at_ms, LATEST_MS))
    if found:
        field = found[0].partition(":")[0]
        raise MalformedRecordError("incident", field, "what a ladder can be climbed by", "what cannot be meant")


def _severity_faults(policy: Policy) -> list[str]:
    return [f"policy.severities: {number} is missing" for number in "1234" if number not in policy.severities]


def _calendar_faults(policy: Policy, clock: Callable[[Calendar], BusinessClock], at_ms: int) -> list[str]:
    """Try the longest waits of a policy from an instant on."""
    try:
        business = clock(policy.calendar)
        business.close_after(at_ms, 1)
        business.add(at_ms, max((ms for rule in policy.severities.values() for ms in _business_waits(rule)), default=0))
    except NoBusinessError as error:
        return [f"policy.{error}"]
    except ValueError as error:
        return [f"policy.calendar.holidays: {error}"]
    return []


def _business_waits(rule: SeverityPolicy) -> Iterator[int]:
    if rule.respond.clock == "business":
        yield rule.respond.within_ms
    if rule.ack_timeout is not None and rule.ack_timeout.clock == "business":
        yield rule.ack_timeout.after_ms
    for step in rule.steps:
        match step:
            case Pause(clock="business") | WaitAck(clock="business"):
                yield step.for_ms
            case Require(clock="business"):
                yield step.within_ms
            case _:
                pass


def _step_faults(severity: str, rule: SeverityPolicy) -> list[str]:
    """Name what steps could not be run by."""
    at = f"policy.severities.{severity}"
    faults: list[str] = []
    ids: list[str] = []
    for step in rule.steps:
        if step.id in ids:
            faults.append(f"{at}: two steps are called `{step.id}`")
        if isinstance(step, Repeat) and step.to not in ids:
            faults.append(f"{at}: `{step.id}` repeats from `{step.to}`, which is no earlier step")
        ids.append(step.id)
    if rule.exhausted.again == "interval" and rule.exhausted.every_ms < SHORTEST_AGAIN_MS:
        faults.append(f"{at}.exhausted: an interval is at least {SHORTEST_AGAIN_MS} ms")
    return faults


def _ladder_faults(severity: str, rule: SeverityPolicy) -> list[str]:
    at = f"policy.severities.{severity}"
    faults = _step_faults(severity, rule)
    fallbacks = [step for step in rule.steps if isinstance(step, Fallback)]
    if fallbacks and rule.steps[-1] is not fallbacks[-1]:
        faults.append(f"{at}: the fallback is not the last step")
    if severity in {"1", "2"} and not fallbacks:
        faults.append(f"{at}: no step is a fallback")
    if severity == "1":
        faults.extend(f"{at}: {fault}" for fault in _critical_faults(rule))
    return faults


def _critical_faults(rule: SeverityPolicy) -> list[str]:
    """At SEV-1 somebody is paged at once, and somebody else before the deadline."""
    faults = []
    if rule.first_wait_ms > 0:
        faults.append("the first page waits")
    at_ms, first, asked = 0, None, dict[str, int]()
    for step in rule.steps:
        match step:
            case Notify(group="responders", mode="page"):
                for target in step.targets:
                    asked.setdefault(target, at_ms)
                first = at_ms if first is None else first
            case Pause() | WaitAck():
                at_ms += step.for_ms
            case Repeat() | Fallback():
                break
            case _:
                pass
    if first != 0:
        faults.append("no responder is paged at once")
    if sum(when < SECOND_RESPONDER_MS for when in asked.values()) < 2:  # noqa: PLR2004 -- a second
        faults.append("no second responder target is paged before 15 minutes")
    return faults


def faults(response: Response, channels: Iterable[str]) -> list[str]:
    """Name everything in a file of settings that cannot be meant; `channels` are the names in the table of channels."""
    policy = response.policy
    found: list[str] = []
    found += _severity_faults(policy)
    found += [
        f"triage.hold_downs: {number} is missing" for number in "1234" if number not in response.triage.hold_downs
    ]
    classes = ("infrastructure", "model_quality", "fairness_compliance")
    found += [f"policy.routes: {name} is missing" for name in classes if name not in policy.routes]
    found += [
        f"notify.give_up_ms: {mode} is missing"
        for mode in ("page", "message", "ticket")
        if mode not in response.notify.give_up_ms
    ]
    if (first := response.triage.hold_downs.get("1")) and (
        first.resolve_after_ms is not None or first.expire_after_ms is not None
    ):
        found.append("triage.hold_downs.1: SEV-1 never resolves by itself")
    found += _calendar_faults(policy, BusinessClock, 0)
    if len(policy.encode()) > MAX_POLICY_BYTES:
        found.append(f"policy: larger than {MAX_POLICY_BYTES} bytes")
    for number, rule in policy.severities.items():
        found += _ladder_faults(number, rule)
    found += [
        f"directory: `{target}` is used by the policy and is not there"
        for target in sorted(targets_used(policy) - set(response.directory))
    ]
    known = set(channels)
    found += [f"channels: `{name}` is no channel" for name in sorted(set(response.channels) - known)]
    if response.sender.attempt_timeout_ms + response.sender.turn_wait_ms >= response.notify.attempt_wait_ms:
        found.append("sender: attempt_timeout_ms and turn_wait_ms together reach notify.attempt_wait_ms")
    known &= set(response.channels)
    for target, contacts in response.directory.items():
        found += _contact_faults(target, contacts, known)
    return found


def targets_used(policy: Policy) -> set[str]:
    """Collect all targets that a policy names, classes resolved."""
    used: set[str] = set()
    for route in policy.routes.values():
        used.update(route.oncall, route.secondary, route.team)
    for rule in policy.severities.values():
        used.update(rule.respond.owners)
        for step in rule.steps:
            if isinstance(step, Notify | Fallback | Require):
                used.update(step.targets)
    return used - set(CLASS_TARGETS)


def _contact_faults(target: str, contacts: Iterable[Contact], channels: set[str]) -> list[str]:
    faults, seen = [], set[tuple[str, str]]()
    for contact in contacts:
        if contact.channel not in channels:
            faults.append(f"directory.{target}: `{contact.channel}` is no channel that has settings")
        for mode in contact.modes:
            if (contact.channel, mode) in seen:
                faults.append(f"directory.{target}: two ways by `{contact.channel}` for {mode}; give them two targets")
            seen.add((contact.channel, mode))
    return faults
