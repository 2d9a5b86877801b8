"""The response half in one process: real stages over dicts, a list for each topic, a provider that answers as told."""

import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

import config
from schemas.dead_letter import DeadLetter
from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.incident import Actor, Incident
from schemas.incident_action import IncidentAction
from schemas.notification import Notification
from schemas.receipt import AnswerClass, Receipt, ReceiptStatus
from schemas.response import Contact, Response
from schemas.through import Through
from streams.stages.escalate import INCIDENTS_AT_ONCE, Escalate, EscalateOut
from streams.stages.notify import Attempt, Notify
from streams.stages.triage import Triage

MINUTE = 60_000
HOUR = 3_600_000
DAY = 86_400_000
MONDAY = int(datetime(2026, 11, 23, 10, 0, tzinfo=UTC).timestamp() * 1000)
DEFAULTS = Path(config.__file__).with_name("response.toml")
STATUS: dict[AnswerClass, ReceiptStatus] = {"ok": "delivered", "accepted": "accepted", "permanent": "dead"}


def default_response() -> Response:
    """Read the default settings; every target has a destination of its own, so that each can be told apart."""
    response = Response.of(tomllib.loads(DEFAULTS.read_text()))
    directory = {
        target: (Contact(channel="log", address=target, modes=("page", "message", "ticket")),)
        for target in response.directory
    }
    return replace(response, directory=directory)


class Half:
    """Triage, escalate, notify and a provider, driven as the hosts drive them."""

    def __init__(
        self,
        response: Response,
        *,
        start_ms: int = MONDAY,
        repeats: bool = False,
        restarts: bool = False,
        models_with_sla: frozenset[str] = frozenset({"credit"}),
        incidents_at_once: int = INCIDENTS_AT_ONCE,
    ) -> None:
        self.response = response
        self.now_ms = start_ms
        self.start_ms = start_ms
        self.repeats = repeats
        self.restarts = restarts
        self.models_with_sla = models_with_sla
        self.incidents_at_once = incidents_at_once
        self.rows: dict[str, dict[str, bytes]] = {"triage": {}, "escalate": {}, "notify": {}}
        self.known: set[tuple[str, int]] = set()
        self.log: list[Incident] = []
        self.acts: list[IncidentAction] = []
        self.dead: list[DeadLetter] = []
        self.notifications: list[Notification] = []
        self.receipts: list[Receipt] = []
        self.attempts: list[Attempt] = []
        self.answer: Callable[[Attempt], AnswerClass | None] = lambda _attempt: "ok"
        self.escalate_stops = False
        self.clock_runs = True
        self.notify = Notify(rows={}, settings=response.notify)
        self.make()

    def make(self) -> None:
        """Make the stages, over the rows that there are."""
        response = self.response
        self.triage = Triage(rows=self.rows["triage"], settings=response.triage_settings(self.models_with_sla))
        self.escalate = Escalate(
            rows=self.rows["escalate"],
            settings=response.escalate_settings(),
            incidents_at_once=self.incidents_at_once,
        )
        clock_ms = self.notify.clock_ms
        self.notify = Notify(rows=self.rows["notify"], settings=response.notify)
        if clock_ms is not None and self.clock_runs:
            self._take(self.notify.clock(clock_ms, live=True))

    def restart(self) -> None:
        """Lose everything but the rows."""
        self.rows = {name: dict(rows) for name, rows in self.rows.items()}
        self.make()

    # ---- giving

    def give(self, *records: Finding | Through | IncidentAction) -> None:
        """Hand records to triage, and everything that follows to those who read it."""
        for record in records:
            for _ in range(1 + self.repeats):
                self._take(self.triage.receive([record]))
            if self.restarts:
                self.restart()

    def _take(self, outputs: Sequence[object]) -> None:
        for output in outputs:
            match output:
                case Incident():
                    assert Incident.decode(output.encode()) == output
                    if (output.incident_id, output.seq) not in self.known:
                        self.known.add((output.incident_id, output.seq))
                        self.log.append(output)
                    self._hand(output)
                case DeadLetter():
                    self.dead.append(output)
                case Notification():
                    assert Notification.decode(output.encode()) == output
                    if (output.notification_id, 0) not in self.known:
                        self.known.add((output.notification_id, 0))
                        self.notifications.append(output)
                    for _ in range(1 + self.repeats):
                        self._take(self.notify.receive([output]))
                case IncidentAction():
                    self.acts.append(output)
                    self.give(output)
                case Attempt():
                    self.attempts.append(output)
                    self._try(output)
                case Receipt():
                    self._receipt(output)
                case _:
                    raise AssertionError(output)
            if self.restarts:
                self.restart()

    def _hand(self, incident: Incident) -> None:
        for _ in range(1 + self.repeats):
            self._take(self.notify.receive([incident]))
            if not self.escalate_stops:
                self._take(self.escalate.receive([incident]))

    def _try(self, attempt: Attempt) -> None:
        answer = self.answer(attempt)
        if answer is None:
            return  # lost
        message = attempt.notification
        self._receipt(
            Receipt(
                notification_id=message.notification_id,
                incident_id=message.incident_id,
                model=message.model,
                target=message.target,
                channel=message.channel,
                episode=message.episode,
                mode=message.mode,
                attempt=attempt.number,
                answer_class=answer,
                status=STATUS.get(answer, "retrying"),
                reason="sent" if answer == "ok" else "told",
                decided_at_ms=attempt.decided_at_ms,
            )
        )

    def _receipt(self, receipt: Receipt) -> None:
        assert Receipt.decode(receipt.encode()) == receipt
        self.receipts.append(receipt)
        for _ in range(1 + self.repeats):
            self._take(self.notify.receive([receipt]))
            if not self.escalate_stops:
                self._take(self.escalate.receive([receipt]))

    # ---- time

    def run(self, until_ms: int, step_ms: int = MINUTE) -> None:
        """Let time pass, a step at a time: detect closes a tick, then the clock is told."""
        while self.now_ms < until_ms:
            self.now_ms = min(self.now_ms + step_ms, until_ms)
            self.tick()

    def tick(self) -> None:
        """Tell all stages the time that it is now."""
        self.give(Through(partition=0, through_ms=self.now_ms))
        if not self.clock_runs:
            return
        for _ in range(1 + self.repeats):
            self._take(self.notify.clock(self.now_ms, live=True))
            self._take(self.notify.advance(self.now_ms))
            if not self.escalate_stops:
                self._take(self._escalated())

    def _escalated(self) -> list[EscalateOut]:
        """Tell escalate the time, and let it finish before anything else reaches it."""
        out = self.escalate.advance(self.now_ms)
        while self.escalate.has_more:
            if self.restarts:
                self.restart()
            out += self.escalate.more()
        return out

    def jump(self, to_ms: int) -> None:
        """Let time pass in one step, as after an outage."""
        self.now_ms = to_ms
        self.tick()

    # ---- making records

    def finding(
        self,
        kind: str = "pii_leak",
        *,
        at_ms: int | None = None,
        onset_ms: int | None = None,
        onset_to_ms: int | None = None,
        lane: str = "*",
        model: str = "credit",
        revision: int = 0,
        alarm_ms: int | None = None,
        state: str = "firing",
        **changes: object,
    ) -> Finding:
        """Make a finding decided now, unless told otherwise."""
        at_ms = self.now_ms if at_ms is None else at_ms
        alarm_ms = at_ms if alarm_ms is None else alarm_ms
        onset_ms = at_ms - MINUTE if onset_ms is None else onset_ms
        found = Finding(
            finding_id=finding_id(
                tenant="acme",
                environment="prod",
                model=model,
                version="7",
                segment=lane,
                detector=kind,
                alarm_tick_ms=alarm_ms,
            ),
            revision=revision,
            state="firing",
            tenant="acme",
            environment="prod",
            model=model,
            version="7",
            lane=lane,
            detector=kind,
            kind=kind,
            ledger="page",
            guarantee="budget",
            alarm_tick_ms=alarm_ms,
            decided_at_ms=at_ms,
            onset_from_ms=onset_ms,
            onset_to_ms=onset_ms if onset_to_ms is None else onset_to_ms,
            effect=Effect(observed=0.15, expected=0.08, unit="errors per outcome"),
            n=1_000,
            log_evidence=9.0,
            baseline_version=1,
        )
        return replace(found, state=state, **changes)

    def fire(self, kind: str = "pii_leak", **how: object) -> Finding:
        """Let a finding fire now."""
        found = self.finding(kind, **how)  # type: ignore[arg-type]
        self.give(found)
        return found

    def clear(self, found: Finding) -> None:
        """Let a finding clear now."""
        self.give(replace(found, state="cleared", revision=found.revision + 1, decided_at_ms=self.now_ms))

    def do(self, kind: str, *, actor: str = "ann", actor_kind: str = "human", **what: object) -> list[Incident]:
        """Let somebody act on the last incident that opened; answer the records that follow."""
        known = len(self.log)
        fields: dict[str, object] = {
            "act_id": f"act-{kind}-{self.now_ms}-{len(self.log)}-{actor}",
            "incident_id": self.log[-1].incident_id if self.log else "",
            "model": "credit",
            "kind": kind,
            "actor": Actor(id=actor, kind="human"),
            "occurred_at_ms": self.now_ms,
            "decided_at_ms": self.now_ms,
            **what,
        }
        act = IncidentAction(**fields)  # type: ignore[arg-type]
        self.give(replace(act, actor=Actor(id=actor, kind=actor_kind)))  # type: ignore[arg-type]
        return self.log[known:]

    # ---- looking

    @property
    def incident(self) -> Incident:
        """The newest record."""
        return self.log[-1]

    @property
    def latest(self) -> dict[str, Incident]:
        """The newest record of each incident."""
        return {incident.incident_id: incident for incident in self.log}

    def sent(self, **where: object) -> list[Notification]:
        """Return the messages that left, those that match."""
        return [
            attempt.notification
            for attempt in self.attempts
            if all(getattr(attempt.notification, name) == value for name, value in where.items())
        ]

    def reasons(self) -> list[str]:
        """Return why each record was written."""
        return [str(incident.reason) for incident in self.log]

    def cancelled(self) -> list[str]:
        """Return why messages did not leave."""
        return [receipt.reason for receipt in self.receipts if receipt.status == "cancelled"]


@pytest.fixture
def response() -> Response:
    """Give the default settings."""
    return default_response()


@pytest.fixture
def make_half(response: Response) -> Callable[..., Half]:
    """Make a response half; keywords as `Half`."""

    def make(**how: object) -> Half:
        settings = how.pop("settings", response)
        assert isinstance(settings, Response)
        return Half(settings, **how)  # type: ignore[arg-type]

    return make


@pytest.fixture
def half(make_half: Callable[..., Half]) -> Half:
    """Make a response half on Monday 2026-11-23 at 10:00 UTC, its clock known."""
    made = make_half()
    made.tick()
    return made
