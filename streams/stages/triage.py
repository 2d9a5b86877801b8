"""Is this an incident, a new one, and how severe?

Findings of one group gather in one incident. A group that begins to fire waits out its hold-down; then an incident
opens under an id that follows from the group and the finding. What clears for long enough resolves by itself, except
at SEV-1. People's acts come as records, are judged in the order of the log, and each leaves a record, also the refused.

Triage advances by `Through` alone, so no hold-down runs ahead of findings that are still on their way. Everything that
is due follows from the rows, so that a new object over the same rows goes on where the old one stopped.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

import msgspec
from msgspec.structs import replace

from schemas.dead_letter import DeadLetter
from schemas.deployment import Deployment
from schemas.fields import MalformedRecordError
from schemas.finding import Finding
from schemas.ids import display_id, group_hash, incident_id
from schemas.incident import (
    MAX_ENCODED_BYTES,
    MAX_ENTRIES,
    MAX_FINDINGS,
    MAX_SHORT,
    MAX_TEXT,
    Actor,
    Change,
    Evidence,
    Incident,
    Phase,
    Reason,
    Redated,
    Severity,
    Status,
)
from schemas.incident_action import IncidentAction
from schemas.instant import Instant
from schemas.policy import ClassName
from schemas.response import HoldDowns, KindRule, TriageSettings
from schemas.through import Through
from streams.stages.acts import judge, raised, reopened, resolved, retracted_breaches
from streams.stages.policy import kind_rule, policy_hash
from streams.stages.rows import Rows
from streams.stages.timers import Timer, Timers
from streams.stages.wording import detail

TriageIn = Finding | Through | IncidentAction | Deployment
TriageOut = Incident | DeadLetter

MAX_RECENT_ACTS = 50
MAX_CLEARED = 200
"""Cleared findings of an incident that triage keeps beside those that fire: an incident may stay open for weeks while lanes
come and go, and its row is written with each of them."""
MOST_AHEAD_MS = 2_592_000_000
"""How far an act may be dated ahead of the ticks that detect has closed: 30 d, as long as findings are kept, for so far
behind may triage be that reads them again. Escalate, which knows the clock, bears less."""
HEADROOM_BYTES = 4_096
"""Kept free in each record, for what stages write of themselves."""
MOST_BYTES = MAX_ENCODED_BYTES - HEADROOM_BYTES
SMALL_BYTES = 1_024
"""What an act may add to a record that is full: for so little findings make room, so that anything can be resolved."""
RULE = "default"


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """What an incident remembers of every finding it ever had."""

    revision: int
    firing: bool
    severity: int
    kind: str
    lane: str
    onset_from_ms: int
    decided_at_ms: int


class Case(msgspec.Struct, frozen=True, kw_only=True, tag="case"):
    """An incident with what triage needs beside it; written whole, so that it is right after any crash.

    `toggles`: when the group began or ceased to fire, for flapping. `clear_since_ms`: since when nothing fires.
    `not_before_ms`: before this it does not resolve by itself. `acts`: the ids of the latest. `ended_ms`: up to when an act
    that resolved it reaches, None where that is its date.
    """

    incident: Incident
    facts: dict[str, Fact] = {}
    toggles: tuple[int, ...] = ()
    clear_since_ms: int | None = None
    not_before_ms: int = 0
    acts: tuple[str, ...] = ()
    ended_ms: int | None = None

    @property
    def firing(self) -> bool:
        """Whether any of its findings fires."""
        return any(fact.firing for fact in self.facts.values())

    def is_over(self, finding: Finding) -> bool:
        """Whether what a finding found had begun by the end of the incident."""
        ended_ms = self.incident.resolved_at_ms if self.ended_ms is None else self.ended_ms
        return ended_ms is not None and finding.onset_to_ms <= ended_ms


def kept(facts: dict[str, Fact]) -> dict[str, Fact]:
    """Leave out the oldest of more than `MAX_CLEARED` cleared findings, but not the one with which it all began."""
    cleared = sorted((fact.decided_at_ms, name) for name, fact in facts.items() if not fact.firing)
    surplus = {name for _, name in cleared[:-MAX_CLEARED]}
    surplus.discard(min(facts, key=lambda name: facts[name].onset_from_ms, default=""))
    return {name: fact for name, fact in facts.items() if name not in surplus} if surplus else facts


class Group(msgspec.Struct, frozen=True, kw_only=True, tag="group"):
    """The group's last incident; `pending` is what waits in rows of old, of which each finding has one of its own today."""

    incident_id: str = ""
    pending: dict[str, Finding] = {}


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag="seen"):
    """The newest revision of a finding, or an act's id, and where it went."""

    revision: int = 0
    incident_id: str = ""
    until_ms: int = 0


class Time(msgspec.Struct, frozen=True, kw_only=True, tag="time"):
    """How far triage has come."""

    through_ms: int


class Changes(msgspec.Struct, frozen=True, kw_only=True, tag="deployments"):
    """The latest deployments of a model, oldest first."""

    latest: tuple[Change, ...] = ()


def severity_of(settings: TriageSettings, finding: Finding) -> Severity:
    """Severity follows from the kind, never from the size of a statistic."""
    rule = kind_rule(settings.kinds, settings.unknown_kind, finding.kind)
    if rule.without_sla is not None and finding.model not in settings.models_with_sla:
        return Severity(rule.without_sla)
    return Severity(rule.severity)


def hold_down_ms(settings: TriageSettings, finding: Finding) -> int:
    """Return how long a finding has to fire before it opens an incident by itself."""
    own_ms = kind_rule(settings.kinds, settings.unknown_kind, finding.kind).open_after_ms
    return _hold_downs(settings, severity_of(settings, finding)).open_after_ms if own_ms is None else own_ms


def _hold_downs(settings: TriageSettings, severity: int) -> HoldDowns:
    return {str(key): rule for key, rule in settings.rules.hold_downs.items()}[str(int(severity))]


class Triage:
    """One partition of triage.

    Parameters
    ----------
    rows
        The state: written only by assignment and deletion.
    settings
        Severity table, hold-downs, windows, and the policy that is frozen into what opens.
    """

    def __init__(self, *, rows: MutableMapping[str, bytes], settings: TriageSettings) -> None:
        self._settings = settings
        self._rules = settings.rules
        self._policy_hash = policy_hash(settings.policy)
        self._times = Rows(rows, "time", Time)
        self._cases = Rows(rows, "case/", Case)
        self._groups = Rows(rows, "group/", Group)
        self._pending = Rows(rows, "pending/", Finding)
        self._findings = Rows(rows, "finding/", Seen)
        self._acts = Rows(rows, "act/", Seen)
        self._deployments = Rows(rows, "deployments/", Changes)
        self._timers = Timers()
        self.open: dict[str, Severity] = {}
        """Incidents that still need somebody, by id."""
        for name, case in self._cases.items():
            self._timers.put(f"case/{name}", self._case_timers(case))
            self._note_open(case.incident)
        self._waiting: dict[str, dict[str, int]] = {}
        """When each finding that waits would open its group's incident, by group and finding: an index of the rows."""
        for name, group in self._groups.items():
            if group.pending:
                self._waiting[name] = {key: self._opens_ms(finding) for key, finding in group.pending.items()}
        for key, finding in self._pending.items():
            self._waiting.setdefault(key.partition("/")[0], {})[finding.finding_id] = self._opens_ms(finding)
        for name in self._waiting:
            self._timers.put(f"group/{name}", self._group_timers(name))
        for name, seen in self._findings.items():
            self._timers.put(f"finding/{name}", {"forget": seen.until_ms})
        for name, seen in self._acts.items():
            self._timers.put(f"act/{name}", {"forget": seen.until_ms})
        self.counts: Counter[str] = Counter()
        """What was counted and led to nothing else, since this object began."""

    @property
    def settled(self) -> bool:
        """Always: each record is written with its consequences."""
        return True

    @property
    def through_ms(self) -> int:
        """How far triage has come, -1 before the first mark."""
        time = self._times.get("")
        return -1 if time is None else time.through_ms

    def receive(self, records: Sequence[TriageIn]) -> list[TriageOut]:
        """Take findings, marks of time, acts and deployments; the same again changes nothing."""
        out: list[TriageOut] = []
        for record in records:
            match record:
                case Finding():
                    out += self._finding(record)
                case Through():
                    out += self.advance(record.through_ms)
                case IncidentAction():
                    out += self._act(record)
                case Deployment():
                    self._deployed(record)
        return out

    def advance(self, decided_at_ms: int) -> list[TriageOut]:
        """Let everything happen that is due; hosts call it by `Through` alone. Going back changes nothing.

        What is due at a time that is known already happens too: a stop may have kept the time and lost what happened.
        """
        is_later = decided_at_ms > self.through_ms
        decided_at_ms = max(decided_at_ms, self.through_ms)
        out: list[TriageOut] = []
        while timer := self._timers.pop_due(decided_at_ms):
            out += self._due(timer)
        if is_later:
            self._times[""] = Time(through_ms=decided_at_ms)
        return out

    # ---- what is due

    def _due(self, timer: Timer) -> list[TriageOut]:
        place, _, name = timer.subject.partition("/")
        match place, timer.kind:
            case "group", _:
                return self._open_group(name, self._group(name), timer.deadline_ms)
            case "finding", _:
                self._findings.discard(name)
            case "act", _:
                self._acts.discard(name)
            case _, "forget":
                self._forget(name)
            case _, "resolve":
                return self._end(self._cases[name], "auto_recovered", Reason.AUTO_RECOVERED, timer.deadline_ms)
            case _, "expire":
                return self._end(self._cases[name], "expired", Reason.EXPIRED, timer.deadline_ms)
            case _:
                case = replace(self._cases[name], toggles=(), not_before_ms=timer.deadline_ms)
                return self._write(case, {"flapping": False}, Reason.FLAPPING_ENDED, timer.deadline_ms)
        return []

    def _end(self, case: Case, resolution: str, reason: Reason, at_ms: int) -> list[TriageOut]:
        return self._write(replace(case, ended_ms=None), resolved(at_ms, resolution), reason, at_ms)

    def _forget(self, name: str) -> None:
        group = self._groups.get(self._cases[name].incident.group_hash)
        if group is not None and group.incident_id == name:
            self._put_group(self._cases[name].incident.group_hash, replace(group, incident_id=""))
        self._cases.discard(name)

    def _hold_downs(self, severity: int) -> HoldDowns:
        return _hold_downs(self._settings, severity)

    def _case_timers(self, case: Case) -> dict[str, int]:
        """Derive what is due of an incident from its row alone."""
        incident = case.incident
        if not incident.is_open:
            return {"forget": incident.decided_at_ms + self._rules.incidents_known_ms}
        rule = self._hold_downs(incident.severity)
        timers = {}
        if incident.flapping:
            timers["calm"] = case.toggles[-1] + self._rules.flapping.calm_ms
        if not case.firing and not incident.flapping:
            if rule.resolve_after_ms is not None and case.clear_since_ms is not None:
                timers["resolve"] = max(case.clear_since_ms + rule.resolve_after_ms, case.not_before_ms)
            if rule.expire_after_ms is not None:
                timers["expire"] = max(incident.cause_at_ms + rule.expire_after_ms, case.not_before_ms)
        return timers

    def _group(self, name: str) -> Group:
        return self._groups.get(name) or Group()

    def _group_timers(self, name: str) -> dict[str, int]:
        waiting = self._waiting.get(name)
        return {"open": min(waiting.values())} if waiting else {}

    def _put_group(self, name: str, group: Group) -> None:
        if group.pending or group.incident_id:
            self._groups[name] = group
        else:
            self._groups.discard(name)

    # ---- findings

    def _rule(self, kind: str) -> KindRule:
        return kind_rule(self._settings.kinds, self._settings.unknown_kind, kind)

    def _severity(self, finding: Finding) -> Severity:
        return severity_of(self._settings, finding)

    def _opens_ms(self, finding: Finding) -> int:
        return finding.decided_at_ms + hold_down_ms(self._settings, finding)

    def _finding(self, finding: Finding) -> list[TriageOut]:
        seen = self._findings.get(finding.finding_id)
        if seen is not None and finding.revision <= seen.revision:
            return []
        name = group_hash(
            RULE,
            {
                "tenant": finding.tenant,
                "environment": finding.environment,
                "model": finding.model,
                "class": self._rule(finding.kind).incident_class,
            },
        )
        group = self._group(name)
        owner = (seen.incident_id if seen else "") or group.incident_id
        case = self._cases.get(owner) if owner else None
        if finding.state == "cleared":
            out = self._clear(finding, name, group, case)
        else:
            out = self._fire(finding, name, group, case)
        self._remember(finding, name)
        return out

    def _remember(self, finding: Finding, name: str) -> None:
        """Write last which revision was handled, and the incident that has the finding, if one has."""
        group = self._groups.get(name)
        owner = group.incident_id if group else ""
        seen = self._findings.get(finding.finding_id)
        if seen is not None and seen.incident_id:
            owner = seen.incident_id
        case = self._cases.get(owner) if owner else None
        if case is None or finding.finding_id not in case.facts:
            owner = ""
        until_ms = finding.decided_at_ms + self._rules.findings_known_ms
        self._findings[finding.finding_id] = Seen(revision=finding.revision, incident_id=owner, until_ms=until_ms)
        self._timers.put(f"finding/{finding.finding_id}", {"forget": until_ms})

    def _fire(self, finding: Finding, name: str, group: Group, case: Case | None) -> list[TriageOut]:
        if case is None:
            return self._wait(finding, name, group)
        incident = case.incident
        if incident.is_open:
            return self._attach(case, finding)
        is_new = not case.is_over(finding)
        is_worse = self._severity(finding) < incident.severity_max
        if (is_new or is_worse) and self._takes_up(incident, finding.decided_at_ms):
            return self._attach(case, finding)
        if is_new or is_worse:
            return self._wait(finding, name, group)
        known = case.facts.get(finding.finding_id)
        if known is not None and known.firing and finding.finding_id not in self._waiting.get(name, {}):
            return self._attach(case, finding)  # it fired when the incident ended, and whoever ended it knew
        self._hold(finding, name, group)
        return self._attach(case, finding) + self._open_due(finding, name, group)

    def _wait(self, finding: Finding, name: str, group: Group) -> list[TriageOut]:
        """Start the hold-down; at once where there is none."""
        self._hold(finding, name, group)
        return self._open_due(finding, name, group)

    def _open_due(self, finding: Finding, name: str, group: Group) -> list[TriageOut]:
        opens_ms = min(self._waiting[name].values())
        return self._open_group(name, group, opens_ms) if opens_ms <= finding.decided_at_ms else []

    def _hold(self, finding: Finding, name: str, group: Group) -> None:
        """Let a finding wait, from when it first did."""
        key = finding.finding_id
        if key in self._waiting.get(name, {}):
            finding = replace(finding, decided_at_ms=self._held(name, group, key).decided_at_ms)
        self._pending[f"{name}/{key}"] = finding
        self._waiting.setdefault(name, {})[key] = self._opens_ms(finding)
        self._timers.put(f"group/{name}", self._group_timers(name))

    def _held(self, name: str, group: Group, key: str) -> Finding:
        return self._pending.get(f"{name}/{key}") or group.pending[key]

    def _let_go(self, name: str, keys: Iterable[str]) -> None:
        """Let findings wait no longer."""
        for key in keys:
            self._pending.discard(f"{name}/{key}")
            self._waiting[name].pop(key, None)
        if not self._waiting[name]:
            del self._waiting[name]
        self._timers.put(f"group/{name}", self._group_timers(name))

    def _open_group(self, name: str, group: Group, opens_ms: int) -> list[TriageOut]:
        """Open the incident of a group whose hold-down has elapsed, with all that waits in the group."""
        order = sorted((opens_ms, key) for key, opens_ms in self._waiting[name].items())
        waiting = [self._held(name, group, key) for _, key in order]
        first = waiting[0]
        out: list[TriageOut] = []
        last = self._cases.get(group.incident_id) if group.incident_id else None
        if last is not None and last.incident.is_open:  # reopened, or opened by a person, while these were waiting
            for finding in waiting:
                out += self._attach(self._cases[group.incident_id], finding)
            self._settle(name, waiting, group.incident_id)
            return out
        late = [] if last is None else [finding for finding in waiting if finding.finding_id in last.facts]
        if last is not None and late and self._takes_up(last.incident, opens_ms):
            out += self._reopen(last, late, opens_ms)
            for finding in waiting:
                out += self._attach(self._cases[group.incident_id], finding)
            self._settle(name, waiting, group.incident_id)
            return out
        opened = incident_id(name, first.finding_id)
        if opened not in self._cases:  # it is there when a crash came between its row and the group's
            evidence = [self._evidence(finding) for finding in waiting]
            facts = {finding.finding_id: self._fact(finding) for finding in waiting}
            severity = min(Severity(fact.severity) for fact in facts.values())
            kinds = sorted({finding.kind for finding in waiting})
            severity = min([severity, *(self._several(facts, kind) or severity for kind in kinds)])
            started_ms = min(finding.onset_from_ms for finding in waiting)
            detected_ms = min(finding.decided_at_ms for finding in waiting)
            rule = self._rule(first.kind)
            draft = replace(
                self._new(
                    opened, opens_ms, first.tenant, first.environment, first.model, rule.incident_class, severity, name
                ),
                versions=self._versions((), evidence),
                labels={} if first.kind in self._settings.kinds else {"unclassified": "true"},
                previous_incident_id=group.incident_id,
                findings=tuple(evidence[:MAX_FINDINGS]),
                findings_total=len(waiting),
                impact_started_at_ms=started_ms,
                detected_at_ms=detected_ms,
                cause_at_ms=max(finding.decided_at_ms for finding in waiting),
                deployments=self._near(first.model, started_ms, detected_ms),
                causation_id=first.finding_id,
            )
            out = self._put(Case(incident=draft, facts=facts))
        self._settle(name, waiting, opened)
        return out

    def _reopen(self, case: Case, late: Sequence[Finding], at_ms: int) -> list[TriageOut]:
        """Reopen an incident for findings about its past that came after its end, and still fire."""
        incident = case.incident
        worst = min(self._severity(finding) for finding in late)
        changes = reopened(replace(incident, severity=min(worst, incident.severity)), at_ms)
        changes["impact_ended_at_ms"] = None
        if worst < incident.severity:
            changes |= raised(replace(incident, **changes), worst)
        return self._write(case, changes, Reason.REOPENED, at_ms, causation_id=late[0].finding_id)

    def _settle(self, name: str, waiting: Sequence[Finding], owner: str) -> None:
        """Say that nothing waits in a group any more, and which incident has what waited."""
        self._put_group(name, Group(incident_id=owner))
        for finding in waiting:
            if (seen := self._findings.get(finding.finding_id)) is not None:
                self._findings[finding.finding_id] = replace(seen, incident_id=owner)
        self._let_go(name, [finding.finding_id for finding in waiting])

    def _new(
        self,
        name: str,
        opens_ms: int,
        tenant: str,
        environment: str,
        model: str,
        incident_class: ClassName,
        severity: Severity,
        group: str,
    ) -> Incident:
        """Make an incident as it is at its opening, with the policy of this moment frozen into it."""
        return Incident(
            incident_id=name,
            display_id=display_id(name),
            seq=1,
            tenant=tenant,
            environment=environment,
            model=model,
            incident_class=incident_class,
            severity=severity,
            severity_max=severity,
            status=Status.INVESTIGATING,
            phase=Phase.TRIAGE,
            episode=1,
            group_hash=group,
            detected_at_ms=opens_ms,
            opened_at_ms=opens_ms,
            cause_at_ms=opens_ms,
            decided_at_ms=opens_ms,
            policy=self._settings.policy,
            policy_hash=self._policy_hash,
            last_known_good=self._last_known_good(model),
            reason=Reason.OPENED,
        )

    def _fact(self, finding: Finding) -> Fact:
        return Fact(
            revision=finding.revision,
            firing=finding.state == "firing",
            severity=int(self._severity(finding)),
            kind=finding.kind,
            lane=finding.lane,
            onset_from_ms=finding.onset_from_ms,
            decided_at_ms=finding.decided_at_ms,
        )

    def _evidence(self, finding: Finding) -> Evidence:
        return Evidence(
            finding_id=finding.finding_id,
            revision=finding.revision,
            detector=finding.detector[:MAX_SHORT],
            kind=finding.kind[:MAX_SHORT],
            lane=finding.lane[:MAX_SHORT],
            version=finding.version[:MAX_SHORT],
            segment=finding.segment[:MAX_SHORT],
            severity=self._severity(finding),
            state=finding.state,
            onset_from_at_ms=finding.onset_from_ms,
            onset_to_at_ms=finding.onset_to_ms,
            decided_at_ms=finding.decided_at_ms,
            cleared_at_ms=finding.decided_at_ms if finding.state == "cleared" else None,
            observed=finding.effect.observed,
            expected=finding.effect.expected,
            unit=finding.effect.unit[:MAX_SHORT],
            n=finding.n,
            message=detail(finding.message),
        )

    def _several(self, facts: dict[str, Fact], kind: str) -> Severity | None:
        """Return the severity of a kind that fires on several lanes, None where it does not."""
        worse = self._rule(kind).on_several_lanes
        lanes = {fact.lane for fact in facts.values() if fact.firing and fact.kind == kind}
        return Severity(worse) if worse is not None and len(lanes) >= self._rules.several_lanes else None

    def _attach(self, case: Case, finding: Finding) -> list[TriageOut]:
        """Let an incident take a firing finding, new or revised, and decide what that changes."""
        incident = case.incident
        known = case.facts.get(finding.finding_id)
        if known is not None and finding.revision <= known.revision:
            return []
        decided_ms = finding.decided_at_ms
        facts = kept(case.facts | {finding.finding_id: self._fact(finding)})
        evidence = self._evidence(finding)
        changes: dict[str, object] = {
            "findings": self._latest(incident.findings, evidence),
            "findings_total": incident.findings_total + (known is None),
            "versions": self._versions(incident.versions, [evidence]),
            "cause_at_ms": max(incident.cause_at_ms, decided_ms),
        }
        reason = Reason.FINDING_ATTACHED if known is None else Reason.FINDING_UPDATED
        reason = self._redate(incident, facts, finding.finding_id, changes) or reason
        if incident.is_open or self._reopens(case, finding):
            case, flaps = self._toggled(case, facts, decided_ms)
            if flaps:
                changes["flapping"] = True
                reason = Reason.FLAPPING
            changes["impact_ended_at_ms"] = None
            case = replace(case, clear_since_ms=None)
            before = replace(incident, **reopened(incident, decided_ms)) if not incident.is_open else incident
            worst = min([self._severity(finding), self._several(facts, finding.kind) or Severity.LOW])
            if known is None and worst < before.severity:
                changes |= raised(before, worst)
                reason = Reason.SEVERITY_RAISED
            elif known is None and self._did_not_hold(before, finding):
                changes["status"] = Status.INVESTIGATING
                reason = Reason.UNCONTAINED
            if not incident.is_open:
                changes = reopened(replace(incident, severity=min(worst, incident.severity)), decided_ms) | changes
                reason = Reason.REOPENED
        elif incident.closed_at_ms is not None:
            changes["report_revision"] = incident.report_revision + 1
        return self._write(replace(case, facts=facts), changes, reason, decided_ms, causation_id=finding.finding_id)

    def _reopens(self, case: Case, finding: Finding) -> bool:
        """Whether a finding on a resolved incident begins a new episode: something new, or something worse."""
        is_worse = self._severity(finding) < case.incident.severity_max
        return self._takes_up(case.incident, finding.decided_at_ms) and (is_worse or not case.is_over(finding))

    def _takes_up(self, incident: Incident, at_ms: int) -> bool:
        """Whether a resolved incident may still be reopened."""
        if incident.closed_at_ms is not None or incident.resolved_at_ms is None:
            return False
        return at_ms - incident.resolved_at_ms <= self._hold_downs(incident.severity).reopen_within_ms

    def _did_not_hold(self, incident: Incident, finding: Finding) -> bool:
        """Whether a finding of equal or worse severity surely began after containment."""
        done_ms = incident.containment.done_at_ms
        return (
            incident.status is Status.CONTAINED
            and done_ms is not None
            and self._severity(finding) <= incident.severity
            and finding.onset_from_ms > done_ms + self._rules.uncontain_after_ms
        )

    def _redate(
        self, incident: Incident, facts: dict[str, Fact], cause: str, changes: dict[str, object]
    ) -> Reason | None:
        """Move the beginning to the earliest onset of all findings, back or forth; response clocks stay."""
        started_ms = min(fact.onset_from_ms for fact in facts.values())
        known_ms = incident.impact_started_at_ms
        if known_ms == started_ms:
            return None
        changes["impact_started_at_ms"] = started_ms
        if known_ms is None:
            return None
        changes["redated"] = Redated(from_at_ms=known_ms, to_at_ms=started_ms, cause=cause)
        return Reason.REDATED

    def _toggled(self, case: Case, facts: dict[str, Fact], at_ms: int) -> tuple[Case, bool]:
        """Note that the group began or ceased to fire; answer whether with that it flaps from now on."""
        if case.firing == any(fact.firing for fact in facts.values()):
            return case, False
        rule = self._rules.flapping
        toggles = (*(at for at in case.toggles if at > at_ms - rule.within_ms), at_ms)
        flaps = len(toggles) >= rule.changes and not case.incident.flapping
        return replace(case, toggles=toggles[-20:]), flaps

    def _clear(self, finding: Finding, name: str, group: Group, case: Case | None) -> list[TriageOut]:
        """Mark a finding as cleared. A clear never opens an incident."""
        if finding.finding_id in self._waiting.get(name, {}):
            if finding.finding_id in group.pending:
                pending = {key: value for key, value in group.pending.items() if key != finding.finding_id}
                self._put_group(name, replace(group, pending=pending))
            self._let_go(name, [finding.finding_id])
            self.counts["cleared_in_hold_down"] += 1
            if case is None or finding.finding_id not in case.facts:
                return []
        known = case.facts.get(finding.finding_id) if case is not None else None
        if case is None or known is None or case.incident.closed_at_ms is not None:
            self.counts["cleared_without_incident"] += 1
            return []
        if finding.revision <= known.revision:
            return []
        incident = case.incident
        decided_ms = finding.decided_at_ms
        facts = kept(case.facts | {finding.finding_id: self._fact(finding)})
        evidence = self._evidence(finding)
        fired = next((one for one in incident.findings if one.finding_id == finding.finding_id), evidence)
        evidence = replace(evidence, message=fired.message)  # what was wrong, rather than that it no longer is
        changes: dict[str, object] = {
            "findings": self._latest(incident.findings, evidence),
            "cause_at_ms": max(incident.cause_at_ms, decided_ms),
        }
        reason = self._redate(incident, facts, finding.finding_id, changes) or Reason.FINDING_CLEARED
        case, flaps = self._toggled(case, facts, decided_ms)
        case = replace(case, facts=facts)
        if not case.firing:
            case = replace(case, clear_since_ms=decided_ms)
            changes["impact_ended_at_ms"] = decided_ms
        if flaps and incident.is_open:
            changes["flapping"] = True
            reason = Reason.FLAPPING
        return self._write(case, changes, reason, decided_ms, causation_id=finding.finding_id)

    def _latest(self, findings: tuple[Evidence, ...], evidence: Evidence) -> tuple[Evidence, ...]:
        """Put a finding in its place, or at the end; the oldest that have cleared make room first.

        What clears and has no place gets none that belongs to one which fires.
        """
        ids = [finding.finding_id for finding in findings]
        if evidence.finding_id in ids:
            at = ids.index(evidence.finding_id)
            return (*findings[:at], evidence, *findings[at + 1 :])
        kept = list(findings)
        if len(kept) >= MAX_FINDINGS:
            cleared = next((at for at, finding in enumerate(kept) if finding.state == "cleared"), None)
            if cleared is None and evidence.state == "cleared":
                return findings
            del kept[cleared or 0]
        return (*kept, evidence)

    @staticmethod
    def _versions(known: tuple[str, ...], evidence: Iterable[Evidence]) -> tuple[str, ...]:
        versions = dict.fromkeys((*known, *(finding.version for finding in evidence if finding.version)))
        return tuple(versions)[-MAX_ENTRIES:]

    # ---- deployments

    def _deployed(self, deployment: Deployment) -> None:
        known = self._deployments.get(deployment.model) or Changes()
        change = Change(
            deployment_id=deployment.deployment_id[:MAX_SHORT],
            kind=deployment.kind,
            version=deployment.version[:MAX_SHORT],
            at_ms=deployment.at_ms,
        )
        if any(one.deployment_id == change.deployment_id for one in known.latest):
            return
        latest = sorted((*known.latest, change), key=lambda one: (one.at_ms, one.deployment_id))[-MAX_ENTRIES:]
        self._deployments[deployment.model] = Changes(latest=tuple(latest))

    def _near(self, model: str, started_ms: int, detected_ms: int) -> tuple[Change, ...]:
        known = self._deployments.get(model) or Changes()
        from_ms = started_ms - self._rules.deployments_before_ms
        return tuple(change for change in known.latest if from_ms <= change.at_ms <= detected_ms)

    def _last_known_good(self, model: str) -> str:
        """Return the version before the newest, where deployments say which that was."""
        known = self._deployments.get(model) or Changes()
        versions = [change.version for change in known.latest if change.kind == "model" and change.version]
        earlier = [version for version in versions if version != versions[-1]]
        return earlier[-1] if earlier else ""

    # ---- acts

    def _act(self, act: IncidentAction) -> list[TriageOut]:
        if act.act_id in self._acts:
            return []
        out = self._open_by(act) if act.kind == "open" else self._act_on(act)
        until_ms = self._dated(act).decided_at_ms + self._rules.acts_known_ms
        self._acts[act.act_id] = Seen(until_ms=until_ms)
        self._timers.put(f"act/{act.act_id}", {"forget": until_ms})
        return out

    def _dated(self, act: IncidentAction) -> IncidentAction:
        """Bound the date of an act that is far ahead: counted from there, nothing of its incident would ever be due."""
        latest_ms = self.through_ms + MOST_AHEAD_MS
        if self.through_ms < 0 or act.decided_at_ms <= latest_ms:
            return act
        return replace(act, decided_at_ms=Instant(latest_ms))

    def _act_on(self, act: IncidentAction) -> list[TriageOut]:
        case = self._cases.get(act.incident_id)
        if case is None:
            return [_unknown(act, "incident_id", "the id of an incident of this partition", Reason.UNKNOWN_INCIDENT)]
        if act.act_id in case.acts:
            return []
        act = self._dated(act)
        verdict = judge(case.incident, act)
        out: list[TriageOut] = []
        if act.kind == "merge" and not verdict.reason.refuses:
            target = self._cases.get(act.into)
            if target is None or target.incident.tenant != case.incident.tenant:
                return self._write_act(case, act, Reason.UNKNOWN_INCIDENT, {})
            if not target.incident.is_open:
                return self._write_act(case, act, Reason.ILLEGAL_TRANSITION, {})
            if not _has_room(case.incident, act, verdict.changes):
                return self._write_act(case, act, verdict.reason, verdict.changes)  # which refuses it
            out += self._take_over(target, case, act)
        written = self._write_act(case, act, verdict.reason, verdict.changes)
        out += written
        if not verdict.reason.refuses and act.kind in {"ack", "open_war_room", "open_channel"}:
            case = self._cases[act.incident_id]
            breaches = retracted_breaches(case.incident)
            if breaches is not None:
                out += self._write(
                    case, {"breaches": breaches}, Reason.BREACH_RETRACTED, act.decided_at_ms, causation_id=act.act_id
                )
        return out

    def _write_act(
        self, case: Case, act: IncidentAction, reason: Reason, verdict: Mapping[str, object]
    ) -> list[TriageOut]:
        changes = dict(verdict)
        if not reason.refuses:
            if act.actor.kind != "system":
                changes["cause_at_ms"] = max(case.incident.cause_at_ms, act.decided_at_ms)
            if act.actor.kind == "human" and act.kind != "ack":
                changes["progress_at_ms"] = act.decided_at_ms
            if reason is Reason.REOPENED:
                case = replace(case, clear_since_ms=None, not_before_ms=0)
            if reason is Reason.SEVERITY_LOWERED and case.clear_since_ms is not None:  # its hold-down begins now
                case = replace(case, clear_since_ms=max(case.clear_since_ms, act.decided_at_ms))
        said = _said(act)
        if not _has_room(case.incident, act, verdict):
            changes, reason, said = {}, Reason.ILLEGAL_TRANSITION, "the incident has no room for this text"
        ended_ms = changes.get("resolved_at_ms")
        if isinstance(ended_ms, int):
            case = replace(case, ended_ms=self._bounded_ms(case, ended_ms))
            name = case.incident.group_hash
            if known := self._waiting.get(name, {}).keys() & case.facts.keys():
                self._let_go(name, sorted(known))  # whoever ends it knows of these
        case = replace(case, acts=(*case.acts, act.act_id)[-MAX_RECENT_ACTS:])
        return self._write(
            case,
            changes,
            reason,
            act.decided_at_ms,
            causation_id=act.act_id,
            actor=act.actor,
            note=said[:MAX_TEXT],
        )

    def _bounded_ms(self, case: Case, ended_ms: int) -> int:
        """Bound the date of an end by what is known yet: it says nothing of what begins later, however far ahead it is."""
        known_ms = max([self.through_ms, *(fact.decided_at_ms for fact in case.facts.values())])
        return ended_ms if known_ms < 0 else min(ended_ms, known_ms)

    def _take_over(self, target: Case, source: Case, act: IncidentAction) -> list[TriageOut]:
        """Give an incident the findings of the one that is merged into it, and the group's later findings too."""
        both = source.facts.keys() & target.facts.keys()
        facts = kept(source.facts | target.facts)
        findings = target.incident.findings
        for evidence in source.incident.findings:
            if evidence.finding_id not in target.facts:
                findings = self._latest(findings, evidence)
        changes: dict[str, object] = {
            "findings": findings,
            "findings_total": source.incident.findings_total + target.incident.findings_total - len(both),
            "versions": self._versions(target.incident.versions, source.incident.findings),
            "cause_at_ms": max(target.incident.cause_at_ms, act.decided_at_ms),
        }
        if facts:
            self._redate(target.incident, facts, act.act_id, changes)
        if source.incident.severity < target.incident.severity:
            changes |= raised(target.incident, source.incident.severity)
        name = target.incident.incident_id
        merged = replace(target, facts=facts, acts=(*target.acts, act.act_id)[-MAX_RECENT_ACTS:])
        out = self._write(merged, changes, Reason.MERGED, act.decided_at_ms, causation_id=act.act_id, actor=act.actor)
        group = self._groups.get(source.incident.group_hash)
        if group is not None and group.incident_id == source.incident.incident_id:
            self._put_group(source.incident.group_hash, replace(group, incident_id=name))
        for finding_id in source.facts:
            if (seen := self._findings.get(finding_id)) is not None:
                self._findings[finding_id] = replace(seen, incident_id=name)
        return out

    def _open_by(self, act: IncidentAction) -> list[TriageOut]:
        """Open an incident because a person says so."""
        draft = act.draft
        if draft is None:
            return [_unknown(act, "draft", "what the incident is", Reason.MISSING_EVIDENCE)]
        if act.actor.kind != "human":
            return [_unknown(act, "actor.kind", "a person", Reason.HUMAN_REQUIRED)]
        name = group_hash(
            RULE,
            {
                "tenant": draft.tenant,
                "environment": draft.environment,
                "model": act.model,
                "class": draft.incident_class,
            },
        )
        opened = incident_id(name, act.act_id)
        if opened in self._cases:
            return []
        at_ms = self._dated(act).decided_at_ms
        incident = replace(
            self._new(
                opened, at_ms, draft.tenant, draft.environment, act.model, draft.incident_class, draft.severity, name
            ),
            versions=draft.versions[:MAX_ENTRIES],
            progress_at_ms=at_ms,
            deployments=self._near(act.model, at_ms, at_ms),
            causation_id=act.act_id,
            actor=act.actor,
            note=_said(act)[:MAX_TEXT],
        )
        out = self._put(Case(incident=incident, acts=(act.act_id,)))
        group = self._group(name)
        last = self._cases.get(group.incident_id) if group.incident_id else None
        if last is None or not last.incident.is_open:
            self._put_group(name, replace(group, incident_id=opened))
        return out

    # ---- writing

    def _write(
        self,
        case: Case,
        changes: dict[str, object],
        reason: Reason,
        decided_ms: int,
        *,
        causation_id: str = "",
        actor: Actor | None = None,
        note: str = "",
    ) -> list[TriageOut]:
        """Write the incident's next record: the changes, their reason, and nothing left over from the last one."""
        whole: dict[str, object] = {"redated": None, **changes}
        incident = replace(
            case.incident,
            **whole,
            seq=case.incident.seq + 1,
            decided_at_ms=max(case.incident.decided_at_ms, decided_ms),
            reason=reason,
            causation_id=causation_id,
            actor=actor,
            note=note,
        )
        return self._put(replace(case, incident=incident))

    def _put(self, case: Case) -> list[TriageOut]:
        firing_total = sum(fact.firing for fact in case.facts.values())
        incident = _fitting(replace(case.incident, firing_total=firing_total))
        case = replace(case, incident=incident)
        self._cases[incident.incident_id] = case
        self._timers.put(f"case/{incident.incident_id}", self._case_timers(case))
        self._note_open(incident)
        return [incident]

    def _note_open(self, incident: Incident) -> None:
        if incident.is_open:
            self.open[incident.incident_id] = incident.severity
        else:
            self.open.pop(incident.incident_id, None)


def _said(act: IncidentAction) -> str:
    """Return what the actor said: his reason and his text, once where they are the same."""
    if act.kind == "mark":
        return act.name
    return " ".join(dict.fromkeys(filter(None, (act.reason, act.text))))


def _fitting(incident: Incident) -> Incident:
    """Return a record that intermediaries forward: findings make room, then versions and deployments.

    Of the findings those that have cleared go first, and the oldest before the others.
    """
    while len(incident.encode()) > MOST_BYTES and incident.findings:
        findings = incident.findings
        order = sorted(range(len(findings)), key=lambda at: (findings[at].state == "firing", at))
        kept = sorted(order[1 + len(order) // 4 :])
        incident = replace(incident, findings=tuple(findings[at] for at in kept))
    if len(incident.encode()) > MOST_BYTES:
        incident = replace(incident, versions=incident.versions[-1:], deployments=())
    return incident


def _has_room(incident: Incident, act: IncidentAction, changes: Mapping[str, object]) -> bool:
    """Whether what an act adds has room; a long text has none where findings would have to go for it."""
    after = replace(incident, **changes, actor=act.actor, note=_said(act)[:MAX_TEXT])
    size = len(after.encode())
    if size > MOST_BYTES and size - len(replace(incident, actor=None, note="").encode()) > SMALL_BYTES:
        return False
    return len(_fitting(after).encode()) <= MOST_BYTES


def _unknown(act: IncidentAction, field: str, expected: str, reason: Reason) -> DeadLetter:
    """Lay an act aside that belongs to no incident here."""
    return DeadLetter.of(
        MalformedRecordError("incident_action", field, expected, reason.value),
        topic="incident-actions",
        partition=-1,
        offset=-1,
        key=act.incident_id.encode(),
        value=act.encode(),
        stage="triage",
    )
