"""Who has to know by when, and did they?

Each open incident climbs the ladder of its severity, as the policy frozen into it says: notify, wait for an
acknowledgement, ask the next. Beside the ladder run the response clock, the deadlines of milestones, the acknowledgements
that are owed, the acknowledgement's own timeout, and messages about what has changed.

Escalate writes notifications, and acts as `tocsin:escalate`; it never writes an incident. It advances by the clock. What
is overdue after downtime runs in order and at once, so many incidents at a time, each target is told once, and the message
says how late it is.
"""

import uuid
from collections.abc import MutableMapping, Sequence

import msgspec
from msgspec.structs import replace

from schemas.ids import dedup_key, notification_id
from schemas.incident import Actor, Incident
from schemas.incident_action import ActKind, IncidentAction
from schemas.notification import MessageReason, Notification, Purpose
from schemas.policy import Fallback, Mode, Notify, Pause, Repeat, Require, SeverityPolicy, Step, WaitAck
from schemas.receipt import Receipt
from schemas.response import EscalateSettings
from streams.stages.business_clock import BusinessClock
from streams.stages.message_reason import Last, message_reason
from streams.stages.policy import (
    LATEST_MS,
    Deadline,
    at_risk_ms,
    business_clock,
    of_severity,
    response_deadline,
    targets_of,
    wait_until,
)
from streams.stages.rows import Rows
from streams.stages.stage import whole
from streams.stages.timers import Timer, Timers
from streams.stages.wording import LATE_SHOWN_MS, body, says, title

EscalateIn = Incident | Receipt
EscalateOut = Notification | IncidentAction

ACTOR = Actor(id="tocsin:escalate", kind="system")
MAX_SENT = 200
"""Messages of one incident whose end is awaited; the oldest is then no longer asked for."""
MOST_AHEAD_MS = 300_000
"""How far a change may be dated ahead of the clock and still be waited from."""
INCIDENTS_AT_ONCE = 50
"""So many are decided in less than a tenth of a second."""

_URGENCY: dict[Mode, int] = {"page": 0, "message": 1, "ticket": 2}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one target was told by one channel: in the last message that was sent, and in the last that arrived."""

    target: str
    channel: str
    group: str
    mode: Mode
    sent_at_ms: int
    arrived: bool = False
    firing: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    arrived_at_ms: int | None = None


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """A message whose end is not known yet."""

    told: str
    episode: int
    mode: Mode
    at_ms: int
    firing: tuple[str, ...]
    cleared: tuple[str, ...]


class Owed(msgspec.Struct, frozen=True, array_like=True):
    """An acknowledgement that a target owes: how often it is asked yet, and when next."""

    times_left: int
    next_ms: int


class Ladder(msgspec.Struct, frozen=True, kw_only=True, tag="ladder"):
    """All that escalate knows of one incident; written whole, and every deadline follows from it.

    `step`, `step_at_ms`: the next step and when it runs; None when the ladder rests. `cycle`: how often a ladder was
    begun, so that each round's messages have ids of their own. `begun_by`: why, until the first wait. `reached`: whether
    a responder could be told in this cycle. `asked`: accountable targets that were told; a repeat does not tell them
    again. `paged_episode`, `paged_at_ms`: the last page that arrived. `began_ms`: from when the episode's deadlines count;
    None in rows of before it was kept.
    """

    incident: Incident
    began_ms: int | None = None
    cycle: int = -1
    step: int = 0
    step_at_ms: int | None = None
    repeated: dict[str, int] = {}
    reached: bool = False
    begun_by: MessageReason | None = None
    asked: tuple[str, ...] = ()
    again_ms: int | None = None
    ack_timeouts: int = 0
    ack_ends_ms: int | None = None
    ack_remind_ms: int | None = None
    due: Deadline | None = None
    at_risk_ms: int | None = None
    required: dict[str, int] = {}
    stamped: tuple[str, ...] = ()
    owed: dict[str, Owed] = {}
    told: dict[str, Told] = {}
    sent: dict[str, Sent] = {}
    look_ms: int | None = None
    changed: bool = False
    paged_episode: int = 0
    paged_at_ms: int = 0


class Time(msgspec.Struct, frozen=True, kw_only=True, tag="time", omit_defaults=True):
    """How far escalate has come; `goes_on` while something that was due then is not done yet."""

    now_ms: int
    goes_on: bool = False


class Escalate:
    """One partition of escalate.

    Parameters
    ----------
    rows
        The state: written only by assignment and deletion.
    settings
        The directory of targets, and the bounds of a ladder.
    incidents_at_once
        Incidents that one call decides at most; `more` goes on with the next.
    """

    def __init__(self, *, rows: MutableMapping[str, bytes], settings: EscalateSettings, incidents_at_once: int) -> None:
        self._settings = settings
        self._incidents_at_once = incidents_at_once
        self._times = Rows(rows, "time", Time)
        self._ladders = Rows(rows, "ladder/", Ladder)
        self._timers = Timers()
        for name, ladder in self._ladders.items():
            self._timers.put(name, self._due_times(ladder))

    @property
    def settled(self) -> bool:
        """Always: each record is written with its consequences."""
        return True

    @property
    def now_ms(self) -> int:
        """The time that it was told last, -1 before the first."""
        time = self._times.get("")
        return -1 if time is None else time.now_ms

    def receive(self, records: Sequence[EscalateIn]) -> list[EscalateOut]:
        """Take incidents and receipts; what is not newer than what is known changes nothing."""
        out = whole(self, [])
        for record in records:
            if isinstance(record, Receipt):
                self._arrived(record)
            else:
                out += self._changed(record)
        return out

    def _time_of(self, incident: Incident) -> int:
        """Return the time of a change: the clock's, or its own where the clock has not come so far.

        One that is far ahead of the clock is an act under a wrong date: waits are not counted from there.
        """
        if 0 < self.now_ms < incident.decided_at_ms - MOST_AHEAD_MS:
            return self.now_ms
        return max(self.now_ms, min(incident.decided_at_ms, LATEST_MS))

    def advance(self, decided_at_ms: int) -> list[EscalateOut]:
        """Do what is due by now, of the first incidents that something is due of; going back changes nothing.

        What is due at a time that is known already is done too: a stop may have kept the time and lost what was done.
        """
        return self._done_by(max(decided_at_ms, self.now_ms), whole(self, []))

    @property
    def has_more(self) -> bool:
        """Whether there are incidents of which something is due by the time that was told last."""
        time = self._times.get("")
        return time is not None and time.goes_on

    def more(self) -> list[EscalateOut]:
        """Do what is due of the next incidents."""
        return self._done_by(self.now_ms, [])

    def _done_by(self, now_ms: int, out: list[EscalateOut]) -> list[EscalateOut]:
        """Do all that is due of one incident after the other; no incident has to do with another."""
        for _ in range(self._incidents_at_once):
            first = self._timers.first_due(now_ms)
            if first is None:
                break
            out += self._do_due(first.subject, now_ms)
        time = Time(now_ms=now_ms, goes_on=self._timers.first_due(now_ms) is not None)
        if time != (self._times.get("") or Time(now_ms=-1)):
            self._times[""] = time
        return out

    def _do_due(self, name: str, now_ms: int) -> list[EscalateOut]:
        """Do all that is due of an incident."""
        turn = self._round(self._ladders[name], now_ms)
        while timer := self._timers.pop_due_of(name, now_ms):
            if timer.kind == "forget":
                self._ladders.discard(name)
                return []
            turn.due(timer)
            self._timers.put(name, self._due_times(turn.ladder))
        return self._put(turn)

    def _changed(self, incident: Incident) -> list[EscalateOut]:
        ladder = self._ladders.get(incident.incident_id)
        if ladder is None:
            if not incident.is_open:
                return []  # it ended before it was seen: nobody was told
            ladder = Ladder(incident=incident)
            before = None
        elif incident.seq <= ladder.incident.seq:
            return []
        else:
            before = ladder.incident
        turn = self._round(replace(ladder, incident=incident), self._time_of(incident))
        turn.changed(before)
        return self._put(turn)

    def _arrived(self, receipt: Receipt) -> None:
        """Learn what became of a message."""
        ladder = self._ladders.get(receipt.incident_id)
        if ladder is None or not receipt.final or receipt.notification_id not in ladder.sent:
            return
        sent = ladder.sent[receipt.notification_id]
        rest = {name: one for name, one in ladder.sent.items() if name != receipt.notification_id}
        ladder = replace(ladder, sent=rest)
        told = ladder.told.get(sent.told)
        if receipt.reached and told is not None:
            # while what fires is not among the findings that are kept, its end is still to be told
            firing = sent.firing or (told.firing if ladder.incident.is_firing else ())
            known = replace(told, arrived=True, firing=firing, cleared=sent.cleared, arrived_at_ms=sent.at_ms)
            ladder = replace(ladder, told=ladder.told | {sent.told: known})
            if sent.mode == "page":
                ladder = replace(
                    ladder,
                    paged_episode=max(ladder.paged_episode, sent.episode),
                    paged_at_ms=max(ladder.paged_at_ms, sent.at_ms),
                )
        self._keep(ladder)

    def _round(self, ladder: Ladder, now_ms: int) -> "_Round":
        return _Round(self._settings, business_clock(ladder.incident.policy.calendar), ladder, now_ms)

    def _put(self, turn: "_Round") -> list[EscalateOut]:
        self._keep(turn.ladder)
        return turn.out()

    def _keep(self, ladder: Ladder) -> None:
        name = ladder.incident.incident_id
        self._ladders[name] = ladder
        self._timers.put(name, self._due_times(ladder))

    def _due_times(self, ladder: Ladder) -> dict[str, int]:
        """Derive what is due of an incident from its row alone."""
        if not ladder.incident.is_open:
            return {"forget": ladder.incident.decided_at_ms + self._settings.rules.incidents_known_ms}
        times: dict[str, int | None] = {
            "step": ladder.step_at_ms,
            "again": ladder.again_ms,
            "ack_ends": ladder.ack_ends_ms,
            "ack_remind": ladder.ack_remind_ms,
            "response": None if ladder.due is None else ladder.due.breached_at_ms,
            "at_risk": ladder.at_risk_ms,
            "look": ladder.look_ms,
        }
        times |= {f"require:{milestone}": due_ms + 1 for milestone, due_ms in ladder.required.items()}
        times |= {f"owed:{target}": owed.next_ms for target, owed in ladder.owed.items()}
        return {kind: at_ms for kind, at_ms in times.items() if at_ms is not None}


class _Round:
    """What is done about one incident at one moment: its messages are gathered, so that each target is told once."""

    def __init__(self, settings: EscalateSettings, business: BusinessClock, ladder: Ladder, now_ms: int) -> None:
        self._settings = settings
        self._business = business
        self.ladder = ladder
        self._now_ms = now_ms
        self._messages: dict[tuple[str, str], Notification] = {}
        self._acts: list[IncidentAction] = []

    @property
    def _incident(self) -> Incident:
        return self.ladder.incident

    @property
    def _rule(self) -> SeverityPolicy:
        return of_severity(self._incident.policy, self._incident.severity)

    @property
    def _began_ms(self) -> int:
        """From when the episode's deadlines count: its beginning, unless that bears a date ahead of the clock."""
        if self.ladder.began_ms is not None:
            return self.ladder.began_ms
        return self._by_now(self._incident.episode_at_ms)

    def _by_now(self, at_ms: int) -> int:
        """Return a date of the incident, or now where it is ahead: no wait is counted from what has not been."""
        return min(at_ms, self._now_ms)

    def _set(self, **changes: object) -> None:
        self.ladder = replace(self.ladder, **changes)

    def out(self) -> list[EscalateOut]:
        """Return messages, the most urgent first, and acts."""
        messages = sorted(self._messages.values(), key=lambda one: (_URGENCY[one.mode], one.target, one.channel))
        return [*messages, *self._acts]

    # ---- an incident has changed

    def changed(self, before: Incident | None) -> None:
        """Answer the difference between two records of an incident."""
        incident = self._incident
        if before is not None and before.is_open and not incident.is_open:
            self._ended()
            return
        if not incident.is_open:
            return
        if before is None or incident.episode > before.episode:
            self._begin(is_first=before is None)
            if before is not None:
                self._tell_all("update", MessageReason.REOPENED)
            return
        if incident.severity != before.severity:
            self._severity_changed(before)
        elif incident.incident_class != before.incident_class:
            self._set(asked=())
            self._climb(self._now_ms)
        if incident.acknowledged and not before.acknowledged:
            self._acknowledged()
        elif before.acknowledged and not incident.acknowledged:
            self._set(ack_ends_ms=None, ack_remind_ms=None)
            self._climb(self._now_ms, reason=MessageReason.ESCALATED)
        elif incident.acknowledged and incident.progress_at_ms != before.progress_at_ms:
            self._hold_ack(self._by_now(incident.decided_at_ms))
        self._drop_owed()
        self._set(required={name: at for name, at in self.ladder.required.items() if not self._reached(name, at)})
        if incident.status is not before.status:
            self._tell_all("update", MessageReason.STATUS_CHANGED)
        elif incident.flapping and not before.flapping:
            self._tell_all("update", MessageReason.FLAPPING)
        elif incident.firing != before.firing or incident.cleared != before.cleared:
            self._set(changed=True)
            self._plan_look()

    def _begin(self, *, is_first: bool) -> None:
        """Begin an episode: its response clock, and its ladder unless somebody is on it already."""
        incident, rule = self._incident, self._rule
        self._set(
            began_ms=self._by_now(incident.episode_at_ms),
            step_at_ms=None,
            again_ms=None,
            ack_timeouts=0,
            ack_ends_ms=None,
            ack_remind_ms=None,
            required={},
            owed={},
            asked=(),
            due=None,
            at_risk_ms=None,
        )
        if incident.acknowledged:
            self._hold_ack(self._by_now(incident.decided_at_ms))
            return
        self._set_response()
        wait_ms = rule.first_wait_ms if is_first else 0
        self._climb(self._began_ms + wait_ms, reason=MessageReason.FIRST if is_first else MessageReason.REOPENED)

    def _set_response(self) -> None:
        from_ms = self._began_ms
        due = response_deadline(self._rule, from_ms, self._business)
        risk_ms = at_risk_ms(self._rule, from_ms, self._business)
        self._set(due=due, at_risk_ms=risk_ms if risk_ms > self._now_ms or self.ladder.due is None else None)
        if due.breached_at_ms <= self._now_ms:
            self._response_is_over()

    def _severity_changed(self, before: Incident) -> None:
        """Climb the new severity's ladder; deadlines are counted from the same opening as before."""
        incident = self._incident
        is_raised = incident.severity < before.severity
        self._set(required={}, owed={}, asked=(), again_ms=None, step_at_ms=None)
        if not incident.acknowledged:
            self._set_response()
        if is_raised:
            self._climb(self._now_ms, reason=MessageReason.SEVERITY_RAISED)
            self._tell_all("update", MessageReason.SEVERITY_RAISED)
        else:
            if not incident.acknowledged:
                self._climb(self._now_ms, from_step=self._first_unsatisfied(), reason=MessageReason.SEVERITY_LOWERED)
            self._tell_all("update", MessageReason.SEVERITY_LOWERED)
        if incident.acknowledged:
            self._hold_ack(self._now_ms)

    def _first_unsatisfied(self) -> int:
        """Return the first step that tells somebody who was not told yet."""
        told = {one.target for one in self.ladder.told.values()}
        for at, step in enumerate(self._rule.steps):
            if isinstance(step, Notify) and not set(self._targets(step.targets)) <= told:
                return at
        return 0

    def _acknowledged(self) -> None:
        """Stop asking: somebody is on it."""
        acknowledged_ms = self._incident.acknowledged_at_ms
        due = self.ladder.due
        if due is not None and acknowledged_ms is not None and not due.met(self._by_now(acknowledged_ms)):
            self._response_is_over()
        self._set(due=None, at_risk_ms=None, again_ms=None)
        if self.ladder.begun_by is None:  # before the first wait it goes on, for those who only have to know
            self._set(step_at_ms=None)
        self._hold_ack(self._by_now(self._incident.decided_at_ms))

    def _next_step(self) -> Step | None:
        steps = self._rule.steps
        return steps[self.ladder.step] if self.ladder.step < len(steps) else None

    def _hold_ack(self, from_ms: int) -> None:
        """Start the acknowledgement's timeout anew: there was progress."""
        timeout = self._rule.ack_timeout
        if timeout is None or self.ladder.ack_timeouts >= self._settings.rules.acknowledged_repeat_cap:
            self._set(ack_ends_ms=None, ack_remind_ms=None)
            return
        ends_ms = wait_until(from_ms, timeout.after_ms, timeout.clock, self._business)
        remind_ms = ends_ms - timeout.remind_before_ms
        self._set(ack_ends_ms=ends_ms, ack_remind_ms=remind_ms if remind_ms > from_ms else None)

    def _drop_owed(self) -> None:
        """Forget what is owed by those who have given it."""
        given = {ack.target for ack in self._incident.acks}
        self._set(owed={target: owed for target, owed in self.ladder.owed.items() if target not in given})

    def _reached(self, milestone: str, due_ms: int) -> bool:
        at_ms = {str(name): at for name, at in self._incident.milestones.items()}.get(milestone)
        return at_ms is not None and at_ms <= due_ms

    def _ended(self) -> None:
        """Tell all who were told that it is over, and rest."""
        rule = self._rule
        self._set(
            step_at_ms=None,
            again_ms=None,
            ack_ends_ms=None,
            ack_remind_ms=None,
            due=None,
            at_risk_ms=None,
            required={},
            owed={},
            look_ms=None,
            changed=False,
        )
        actor = self._incident.actor
        by_hand = actor is not None and actor.kind == "human"
        ended = MessageReason.STATUS_CHANGED if by_hand or self._incident.is_firing else MessageReason.ALL_CLEARED
        for told in self.ladder.told.values():
            if rule.tells_of_end or not told.arrived:
                reason = ended if told.arrived else MessageReason.OPENED_AND_RESOLVED
                self._tell_again(told, "resolve", reason, f"seq:{self._incident.seq}", self._incident.decided_at_ms)

    # ---- something is due

    def due(self, timer: Timer) -> None:
        """Do what a timer calls for."""
        at_ms = timer.deadline_ms
        match timer.kind.partition(":"):
            case "step", _, _:
                self._run()
            case "again", _, _:
                self._again(at_ms)
            case "ack_ends", _, _:
                self._set(ack_ends_ms=None, ack_timeouts=self.ladder.ack_timeouts + 1)
                self._do("unack", f"ack_ends:{at_ms}", reason="no progress since the acknowledgement")
            case "ack_remind", _, _:
                self._set(ack_remind_ms=None)
                self._remind_of_ack(at_ms)
            case "response", _, _:
                self._response_is_over()
            case "at_risk", _, _:
                self._set(at_risk_ms=None)
                cause = f"timer:at_risk:{at_ms}"
                mode: Mode = "ticket" if self._rule.respond.breach_mode == "none" else "message"
                self._tell(self._rule.respond.owners, mode, "at_risk", MessageReason.AT_RISK, cause, at_ms)
            case "look", _, _:
                self._look(at_ms)
            case "require", _, milestone:
                self._milestone_is_missing(milestone)
            case _, _, target:
                self._ask_again(target, at_ms)

    def _climb(self, at_ms: int, *, from_step: int = 0, reason: MessageReason = MessageReason.FIRST) -> None:
        """Begin the ladder, now or later."""
        self._set(
            cycle=self.ladder.cycle + 1,
            step=from_step,
            step_at_ms=at_ms,
            repeated={},
            reached=False,
            begun_by=reason,
            again_ms=None,
        )
        if at_ms <= self._now_ms:
            self._run()

    def _run(self) -> None:
        """Run all steps that are due, in order; when they are late, the wait that follows counts from now."""
        reachable: bool | None = None
        is_late = self.ladder.step_at_ms is not None and self._now_ms - self.ladder.step_at_ms > LATE_SHOWN_MS
        while (at_ms := self.ladder.step_at_ms) is not None and at_ms <= self._now_ms:
            step = self._next_step()
            match step:
                case None:
                    self._set(step_at_ms=None)
                case Notify() if step.group == "responders":
                    reachable = self._ask(step, at_ms) or bool(reachable)
                    self._set(step=self.ladder.step + 1)
                case Notify():
                    self._inform(step, at_ms)
                    self._set(step=self.ladder.step + 1)
                case Require():
                    self._require(step)
                    self._set(step=self.ladder.step + 1)
                case WaitAck() if self._incident.acknowledged:
                    self._set(step_at_ms=None)
                case WaitAck() if reachable is False:  # nobody is on call there: the next step at once
                    self._set(step=self.ladder.step + 1)
                case Pause() | WaitAck():
                    reachable = None
                    self._set(
                        begun_by=None,
                        step=self.ladder.step + 1,
                        step_at_ms=self._wait_from(at_ms, step, is_late=is_late),
                    )
                case Repeat():
                    self._repeat(step)
                case Fallback():
                    self._exhausted(step, at_ms)

    def _wait_from(self, at_ms: int, step: Pause | WaitAck, *, is_late: bool) -> int:
        ends_ms = wait_until(at_ms, step.for_ms, step.clock, self._business)
        if is_late and ends_ms > self._now_ms:
            return wait_until(self._now_ms, step.for_ms, step.clock, self._business)
        return ends_ms

    def _ask(self, step: Notify, at_ms: int) -> bool:
        """Ask the responders of a step, unless somebody is on it; answer whether any of them could be told."""
        reason = self.ladder.begun_by or MessageReason.ESCALATED
        if self._incident.acknowledged and reason is not MessageReason.SEVERITY_RAISED:
            return True
        cause = f"step:{self.ladder.cycle}.{step.id}"
        reached = self._tell(step.targets, step.mode, "page", reason, cause, at_ms)
        if reached:
            self._set(reached=True)
        return reached

    def _inform(self, step: Notify, at_ms: int) -> None:
        """Tell those who have to know, once; who owes an acknowledgement is asked again on a timer of its own."""
        given = {ack.target for ack in self._incident.acks}
        for target in self._targets(step.targets):
            if target in self.ladder.asked:
                continue
            told = self._send(
                target,
                mode=step.mode,
                purpose="accountable",
                reason=self.ladder.begun_by or MessageReason.ESCALATED,
                cause=f"step:{self.ladder.cycle}.{step.id}",
                due_ms=at_ms,
                group="accountable",
            )
            self._set(asked=(*self.ladder.asked, target))
            if told and step.ack == "all" and self._rule.owed_times and target not in given:
                owed = Owed(self._rule.owed_times, self._now_ms + self._rule.owed_every_ms)
                self._set(owed={target: owed} | self.ladder.owed)

    def _require(self, step: Require) -> None:
        due_ms = wait_until(self._began_ms, step.within_ms, step.clock, self._business)
        if step.milestone in self._incident.milestones or f"{step.milestone}:{due_ms}" in self.ladder.stamped:
            return
        self._set(required=self.ladder.required | {step.milestone: due_ms})
        if due_ms < self._now_ms:
            self._milestone_is_missing(step.milestone)

    def _repeat(self, step: Repeat) -> None:
        used = self.ladder.repeated.get(step.id, 0)
        if used >= step.times or not self.ladder.reached:  # nobody could be told: again would change nothing
            self._set(step=self.ladder.step + 1)
            return
        to = next(at for at, one in enumerate(self._rule.steps) if one.id == step.to)
        self._set(
            step=to, cycle=self.ladder.cycle + 1, reached=False, repeated=self.ladder.repeated | {step.id: used + 1}
        )

    def _exhausted(self, step: Fallback, at_ms: int) -> None:
        self._set(step_at_ms=None)
        self._page_fallback(step, f"step:{self.ladder.cycle}.{step.id}", at_ms)
        self._mark("escalation_exhausted", f"step:{self.ladder.cycle}.{step.id}")
        self._plan_again()

    def _page_fallback(self, step: Fallback, cause: str, at_ms: int) -> None:
        self._tell(step.targets, "page", "fallback", MessageReason.EXHAUSTED, cause, at_ms)

    def _plan_again(self) -> None:
        rule = self._rule.exhausted
        match rule.again:
            case "interval":
                self._set(again_ms=self._now_ms + rule.every_ms)
            case "business_open":
                self._set(again_ms=self._business.next_open(self._now_ms))
            case "nothing":
                self._set(again_ms=None)

    def _again(self, at_ms: int) -> None:
        for step in self._rule.steps:
            if isinstance(step, Fallback):
                self._page_fallback(step, f"timer:again:{at_ms}", at_ms)
        self._plan_again()

    def _response_is_over(self) -> None:
        """Stamp the breach of the response clock once, and tell the owners; escalation goes on."""
        due = self.ladder.due
        assert due is not None
        self._set(due=None, at_risk_ms=None)
        key = f"response:{due.due_at_ms}"
        if key in self.ladder.stamped:
            return
        self._stamp("response", due.due_at_ms)
        mode = self._rule.respond.breach_mode
        if mode != "none":
            cause, owners = f"timer:response:{due.due_at_ms}", self._rule.respond.owners
            self._tell(owners, mode, "breach", MessageReason.BREACHED, cause, due.due_at_ms)

    def _milestone_is_missing(self, milestone: str) -> None:
        due_ms = self.ladder.required[milestone]
        self._set(required={name: at for name, at in self.ladder.required.items() if name != milestone})
        if self._reached(milestone, due_ms) or f"{milestone}:{due_ms}" in self.ladder.stamped:
            return
        self._stamp(milestone, due_ms)
        for step in self._rule.steps:
            if isinstance(step, Require) and step.milestone == milestone:
                cause = f"timer:{milestone}:{due_ms}"
                self._tell(step.targets, "message", "breach", MessageReason.BREACHED, cause, due_ms)

    def _stamp(self, clock: str, due_ms: int) -> None:
        self._set(stamped=(*self.ladder.stamped, f"{clock}:{due_ms}")[-20:])
        self._do("breach", f"{clock}:{due_ms}", clock=clock, due_ms=due_ms, late_by_ms=self._now_ms - due_ms)

    def _remind_of_ack(self, at_ms: int) -> None:
        """Remind who has acknowledged, where it is known how to reach him; else those who were asked."""
        acks = [ack for ack in self._incident.acks if ack.responder]
        if not acks:
            return
        own = [name for name in (acks[-1].actor.id, acks[-1].target) if self._settings.directory.get(name)]
        targets, cause = own[:1] or self._rule.respond.owners, f"timer:ack_remind:{at_ms}"
        self._tell(targets, "message", "reminder", MessageReason.ACK_EXPIRES, cause, at_ms)

    def _ask_again(self, target: str, at_ms: int) -> None:
        owed = self.ladder.owed[target]
        rest = {name: one for name, one in self.ladder.owed.items() if name != target}
        if owed.times_left == 0:
            self._set(owed=rest)
            self._mark(f"multi_ack_incomplete {target}", f"owed:{target}:{at_ms}")
            return
        self._set(owed=rest | {target: Owed(owed.times_left - 1, self._now_ms + self._rule.owed_every_ms)})
        self._send(
            target,
            mode="page",
            purpose="accountable",
            reason=MessageReason.ACK_OWED,
            cause=f"timer:owed.{target}:{at_ms}",
            due_ms=at_ms,
            group="accountable",
        )

    # ---- what has changed since the last message

    def _plan_look(self) -> None:
        """Set when to look next whether somebody is to be told of changes, or reminded."""
        rule = self._rule
        every_ms = rule.update_interval_ms
        remind_ms = -(-rule.remind_interval_ms // every_ms) * every_ms
        wait_ms = every_ms if self.ladder.changed else remind_ms + 1
        times = [told.sent_at_ms + wait_ms for told in self.ladder.told.values()]
        self._set(look_ms=max(min(times), self._now_ms + 1) if times else None)

    def _look(self, at_ms: int) -> None:
        rule, incident = self._rule, self._incident
        waits = False
        for key, told in self.ladder.told.items():
            if told.sent_at_ms + rule.update_interval_ms > self._now_ms or incident.flapping:
                waits = waits or not incident.flapping
                continue
            if any(sent.told == key for sent in self.ladder.sent.values()):
                waits = True  # the last message is still on its way
                continue
            last = Last(frozenset(told.firing), frozenset(told.cleared), told.arrived_at_ms) if told.arrived else None
            reason = message_reason(
                last,
                incident.firing,
                incident.cleared,
                is_firing=incident.is_firing,
                now_ms=self._now_ms,
                remind_interval_ms=rule.remind_interval_ms,
                tells_of_end=rule.tells_of_end,
            )
            quiet_ms = self._now_ms - (told.arrived_at_ms or told.sent_at_ms)
            if reason is None and not incident.is_firing and quiet_ms > rule.remind_interval_ms:
                reason = MessageReason.REMINDER  # nothing fires, and yet nobody has said that it is over
            if reason is not None:
                purpose: Purpose = "reminder" if reason is MessageReason.REMINDER else "update"
                self._tell_again(told, purpose, reason, f"timer:look:{at_ms}", at_ms)
        self._set(changed=self.ladder.changed and waits)
        self._plan_look()
        if self.ladder.look_ms is not None and self.ladder.look_ms <= self._now_ms + 1:
            self._set(look_ms=self._now_ms + rule.update_interval_ms)

    # ---- telling

    def _targets(self, targets: Sequence[str]) -> list[str]:
        return targets_of(self._incident.policy, self._incident.incident_class, targets)

    def _tell(
        self, targets: Sequence[str], mode: Mode, purpose: Purpose, reason: MessageReason, cause: str, due_ms: int
    ) -> bool:
        """Tell each of these responders; answer whether any of them could be told."""
        told = [
            self._send(
                target, mode=mode, purpose=purpose, reason=reason, cause=cause, due_ms=due_ms, group="responders"
            )
            for target in self._targets(targets)
        ]
        return any(told)

    def _tell_all(self, purpose: Purpose, reason: MessageReason) -> None:
        """Tell everybody who was told before, unless this round tells him anyway."""
        for told in self.ladder.told.values():
            if (told.target, told.channel) not in self._messages:
                self._tell_again(told, purpose, reason, f"seq:{self._incident.seq}", self._incident.decided_at_ms)
        self._set(changed=False)
        self._plan_look()

    def _tell_again(self, told: Told, purpose: Purpose, reason: MessageReason, cause: str, due_ms: int) -> None:
        """Say more where something was said before, by the same channel."""
        mode: Mode = "ticket" if told.mode == "ticket" else "message"
        for contact in self._settings.directory.get(told.target, ()):
            if contact.channel == told.channel:
                self._gather(
                    told.target,
                    contact.channel,
                    contact.address,
                    mode=mode,
                    purpose=purpose,
                    reason=reason,
                    cause=cause,
                    due_ms=due_ms,
                    group=told.group,
                )
                return

    def _send(
        self, target: str, *, mode: Mode, purpose: Purpose, reason: MessageReason, cause: str, due_ms: int, group: str
    ) -> bool:
        """Tell a target by each of its channels for this mode; where there is none, say that nobody is on call."""
        contacts = [one for one in self._settings.directory.get(target, ()) if mode in one.modes]
        if not contacts:
            self._mark(f"nobody_on_call {target}", f"{cause}:{target}")
            return False
        for contact in contacts:
            self._gather(
                target,
                contact.channel,
                contact.address,
                mode=mode,
                purpose=purpose,
                reason=reason,
                cause=cause,
                due_ms=due_ms,
                group=group,
            )
        return True

    def _gather(
        self,
        target: str,
        channel: str,
        address: str,
        *,
        mode: Mode,
        purpose: Purpose,
        reason: MessageReason,
        cause: str,
        due_ms: int,
        group: str,
    ) -> None:
        """Keep one message for each target and channel: the most urgent, late by the earliest missed deadline."""
        incident, now_ms = self._incident, self._now_ms
        late_by_ms = max(now_ms - due_ms, 0)
        place = (target, channel)
        other = self._messages.get(place)
        if other is not None:
            late_by_ms = max(late_by_ms, other.late_by_ms)
            if _URGENCY[other.mode] <= _URGENCY[mode]:
                self._messages[place] = replace(other, late_by_ms=late_by_ms)
                return
            self._forget(other.notification_id)
        settings = self._settings
        known = self.ladder.told.get(f"{channel}|{target}")
        told = () if known is None else known.firing
        sentence = says(incident, reason, settings.kinds, settings.unknown_kind, told)
        last_ms = self.ladder.paged_at_ms
        goes_on = self.ladder.paged_episode == incident.episode and now_ms - last_ms <= settings.rules.pages_continue_ms
        message = Notification(
            notification_id=notification_id(
                incident.incident_id, cause=cause, purpose=purpose, channel=channel, target=target
            ),
            incident_id=incident.incident_id,
            display_id=incident.display_id,
            dedup_key=dedup_key(incident.incident_id),
            model=incident.model,
            seq=incident.seq,
            episode=incident.episode,
            cause=cause,
            cause_at_ms=max(due_ms, incident.cause_at_ms) if goes_on else incident.cause_at_ms,
            decided_at_ms=now_ms,
            purpose=purpose,
            reason=reason,
            mode=mode,
            group="accountable" if group == "accountable" else "responders",
            target=target,
            channel=channel,
            address=address,
            severity=incident.severity,
            status=incident.status,
            title=title(incident, reason, sentence),
            text=body(incident, reason, settings.kinds, settings.unknown_kind, late_by_ms=late_by_ms, told=told),
            details={
                "class": incident.incident_class,
                "phase": incident.phase,
                "policy": incident.policy_hash,
                "findings": str(incident.findings_total),
            },
            firing=tuple(sorted(incident.firing)),
            cleared=tuple(sorted(incident.cleared)),
            late_by_ms=late_by_ms,
        )
        self._messages[place] = message
        self._told(message)

    def _told(self, message: Notification) -> None:
        """Remember who was told what, and that the end of the message is awaited."""
        key = f"{message.channel}|{message.target}"
        known = self.ladder.told.get(key)
        told = (
            Told(
                target=message.target,
                channel=message.channel,
                group=message.group,
                mode=message.mode,
                sent_at_ms=message.decided_at_ms,
            )
            if known is None
            else replace(known, sent_at_ms=message.decided_at_ms)
        )
        sent = self.ladder.sent | {
            message.notification_id: Sent(
                key, message.episode, message.mode, message.decided_at_ms, message.firing, message.cleared
            )
        }
        latest = dict(list(sent.items())[-MAX_SENT:])
        self._set(told=self.ladder.told | {key: told}, sent=latest)
        if self._incident.is_open:
            self._plan_look()

    def _forget(self, name: str) -> None:
        self._set(sent={key: one for key, one in self.ladder.sent.items() if key != name})

    def _mark(self, name: str, cause: str) -> None:
        self._do("mark", cause, name=name)

    def _do(
        self,
        kind: ActKind,
        cause: str,
        *,
        reason: str = "",
        name: str = "",
        clock: str = "",
        due_ms: int | None = None,
        late_by_ms: int = 0,
    ) -> None:
        """Act as escalate: with an id that follows from the cause, so that a repeat is known as one."""
        incident = self._incident
        self._acts.append(
            IncidentAction(
                act_id=str(
                    uuid.uuid5(uuid.UUID(incident.incident_id), f"act/{kind}/{incident.episode}/{name}/{cause}")
                ),
                incident_id=incident.incident_id,
                model=incident.model,
                kind=kind,
                actor=ACTOR,
                source="tocsin",
                occurred_at_ms=self._now_ms,
                decided_at_ms=self._now_ms,
                reason=reason,
                name=name,
                clock=clock,
                due_at_ms=due_ms,
                late_by_ms=late_by_ms,
            )
        )
