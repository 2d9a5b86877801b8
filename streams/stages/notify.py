"""Is it delivered?

A notification waits here until it may leave: the delivery gate looks at the age of its cause on the newest clock, the
re-check at the incident as it is now, then order, limits and the destination's own pace. What may leave becomes an
`Attempt`, which the host hands to a sender task; the result comes back as a receipt, and decides what is next. The stage
never waits for the world.

Only the newest clock value counts, never the time of a record: before the first one nothing is sent, and a replay of old
topics pages nobody.
"""

import hashlib
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.incident import Incident, Severity
from schemas.notification import Notification
from schemas.receipt import AnswerClass, Receipt, ReceiptStatus
from schemas.response import NotifySettings
from streams.stages.rows import Rows
from streams.stages.timers import MAX_TIMERS, Timers

Age = tuple[int, int, str]
NotifyIn = Notification | Incident | Receipt

_STATES = frozenset({"update", "reminder", "resolve", "at_risk"})
"""Purposes that say how things are: a newer one takes the place of an older one that still waits."""
_ASKS = frozenset({"page", "accountable", "fallback"})
"""Purposes that ask somebody to come, and are pointless once it is over."""
NEVER_MS = 2**63 - 1
"""Later than any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a message, for a sender task; no record.

    Parameters
    ----------
    number
        From 1.
    details
        False: leave the details out, the other side has said that it is too much.
    decided_at_ms
        The clock value at which it was decided.
    late_by_ms
        How long after its cause it leaves.
    """

    notification: Notification
    number: int
    details: bool
    decided_at_ms: int
    late_by_ms: int


NotifyOut = Receipt | DeadLetter | Attempt


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag="waiting"):
    """A message that has not come to its end.

    `attempts`: those that were made. `flying_until_ms`: until when one is on its way; None when none is.
    """

    notification: Notification
    attempts: int = 0
    first_ms: int | None = None
    next_ms: int = 0
    flying_until_ms: int | None = None
    details: bool = True


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """How a message ended, and until when that is remembered."""

    status: ReceiptStatus
    until_ms: int


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag="seen"):
    """An incident as notify has to know it.

    `acked_seq`: the record by which a responder took it on, 0 while nobody has. `acked`: targets that acknowledged,
    with the record by which they did. `changed_ms`: decision time of its newest record.
    """

    seq: int
    episode: int
    severity: Severity
    is_open: bool
    acked_seq: int
    acked: dict[str, int] = {}
    lowered_seq: int = 0
    changed_ms: int


class Pace(msgspec.Struct, frozen=True, kw_only=True, tag="pace"):
    """A destination's token bucket, and until when it is left alone."""

    tokens: float
    at_ms: int
    closed_until_ms: int = 0


class Pages(msgspec.Struct, frozen=True, kw_only=True, tag="pages"):
    """When pages about one incident reached one target, and by their causes which: by several channels it is one page."""

    at_ms: tuple[int, ...] = ()
    causes: tuple[str, ...] = ()

    def since(self, at_ms: int) -> list[tuple[int, str]]:
        """Return those after an instant; rows of before the causes were kept have only times."""
        causes = ("",) * (len(self.at_ms) - len(self.causes)) + self.causes
        return [(at, cause) for at, cause in zip(self.at_ms, causes, strict=True) if at > at_ms]


class _Queue:
    """Messages of one incident for one destination that wait, by age; pages among them, and by target what says how things are."""

    def __init__(self) -> None:
        self.ages: list[Age] = []
        self.pages: list[Age] = []
        self.states: dict[str, list[Age]] = {}
        self.flying: set[str] = set()

    def _lists(self, message: Notification) -> Iterator[list[Age]]:
        yield self.ages
        if message.mode == "page":
            yield self.pages
        if message.purpose in _STATES:
            yield self.states.setdefault(message.target, [])

    def add(self, message: Notification) -> None:
        """Put a message where its age says."""
        for ages in self._lists(message):
            insort(ages, _age(message))

    def remove(self, message: Notification) -> None:
        """Take a message out."""
        age = _age(message)
        for ages in self._lists(message):
            del ages[bisect_left(ages, age)]
        if not self.states.get(message.target, True):
            del self.states[message.target]
        self.flying.discard(message.notification_id)

    def is_next(self, message: Notification) -> bool:
        """Whether a message, which is not on its way, may leave before all others: a page overtakes what is none."""
        ages = self.pages if message.mode == "page" else self.ages
        return not self.flying and ages[0] == _age(message)


class Notify:
    """One partition of notify.

    Parameters
    ----------
    rows
        The state: written only by assignment and deletion. The clock is not in it: after a restart nothing is sent
        before the first clock value has come.
    settings
        The gate, retries and limits.
    """

    def __init__(self, *, rows: MutableMapping[str, bytes], settings: NotifySettings) -> None:
        self._settings = settings
        self._waiting_rows = Rows(rows, "waiting/", Waiting)
        self._ended = Rows(rows, "ended/", Ended)
        self._seen = Rows(rows, "seen/", Seen)
        self._paces = Rows(rows, "pace/", Pace)
        self._pages = Rows(rows, "pages/", Pages)
        self._clock_ms: int | None = None
        self._current = False
        self._behind_since_ms: int | None = None
        # an index of the rows, never more than they say
        self._waiting: dict[str, Waiting] = {}
        self._flying: set[str] = set()
        self._of_incident: dict[str, set[str]] = {}
        self._queues: defaultdict[tuple[str, str], _Queue] = defaultdict(_Queue)
        self._begun: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for name, waiting in self._waiting_rows.items():
            self._index(name, waiting)
        self._timers = Timers()
        for name, ended in self._ended.items():
            self._timers.put(f"ended/{name}", {"forget": ended.until_ms})
        for name, seen in self._seen.items():
            self._timers.put(f"seen/{name}", self._seen_timers(seen))
        for name, pages in self._pages.items():
            self._timers.put(f"pages/{name}", {"forget": pages.at_ms[-1] + settings.pages_within_ms})
        self.counts: Counter[str] = Counter()
        """Decisions by reason, since this object began."""
        self.forgotten = 0
        """Rows that went before their time, since this object began."""

    @property
    def settled(self) -> bool:
        """Always: each record is written with its consequences."""
        return True

    @property
    def clock_ms(self) -> int | None:
        """The newest clock value, None before the first since this object began."""
        return self._clock_ms

    @property
    def _is_live(self) -> bool:
        """Whether all that there was has been read: a message comes no more whose end is known already."""
        return self._current and self._behind_since_ms is None

    @property
    def waiting(self) -> int:
        """Messages that have not ended."""
        return len(self._waiting)

    def receive(self, records: Sequence[NotifyIn]) -> list[NotifyOut]:
        """Take notifications, incidents and receipts; the same again changes nothing."""
        out: list[NotifyOut] = []
        for record in records:
            match record:
                case Notification():
                    self._wanted(record)
                    touched = record.incident_id
                case Incident():
                    touched = record.incident_id if self._heard(record) else ""
                case Receipt():
                    out += self._answered(record)
                    touched = record.incident_id
            if touched:
                out += self._send(self._of_incident.get(touched, ()))
        return out

    def clock(self, now_ms: int, live: bool) -> list[NotifyOut]:  # noqa: FBT001 -- the host's protocol
        """Learn the newest clock value, and whether all that there was has been read."""
        if self._clock_ms is None or now_ms > self._clock_ms:
            self._clock_ms = now_ms
        if live:
            self._current, self._behind_since_ms = True, None
        else:
            if self._behind_since_ms is None:
                self._behind_since_ms = self._clock_ms
            self._current = self._clock_ms - self._behind_since_ms >= self._settings.behind_wait_ms
        while timer := self._timers.pop_due(self._clock_ms):
            self._forget(timer.subject)
        return self._send(list(self._waiting))

    def advance(self, decided_at_ms: int) -> list[NotifyOut]:
        """Learn that all is read that there was at `decided_at_ms`; what counts as now is the clock alone."""
        if self._clock_ms is None or self._current or decided_at_ms < self._clock_ms:
            return []
        self._current, self._behind_since_ms = True, None
        return self._send(list(self._waiting))

    # ---- records

    def _wanted(self, notification: Notification) -> None:
        name = notification.notification_id
        if name in self._waiting or name in self._ended:
            return
        self._keep(Waiting(notification=notification))

    def _heard(self, incident: Incident) -> bool:
        """Take note of a newer record of an incident."""
        name = incident.incident_id
        known = self._seen.get(name)
        if known is not None and incident.seq <= known.seq:
            return False
        same_episode = known is not None and known.episode == incident.episode
        before = known.acked if known is not None and same_episode else {}
        acked = {ack.target: before.get(ack.target, incident.seq) for ack in incident.acks}
        acked_seq = 0
        if incident.acknowledged:
            acked_seq = known.acked_seq if known is not None and same_episode and known.acked_seq else incident.seq
        lowered_seq = known.lowered_seq if known is not None else 0
        if known is not None and incident.severity > known.severity:
            lowered_seq = incident.seq
        seen = Seen(
            seq=incident.seq,
            episode=incident.episode,
            severity=incident.severity,
            is_open=incident.is_open,
            acked_seq=acked_seq,
            acked=acked,
            lowered_seq=lowered_seq,
            changed_ms=incident.decided_at_ms,
        )
        self._seen[name] = seen
        self._remember(f"seen/{name}", self._seen_timers(seen))
        return True

    def _seen_timers(self, seen: Seen) -> dict[str, int]:
        return {} if seen.is_open else {"forget": seen.changed_ms + self._settings.receipts_known_ms}

    def _answered(self, receipt: Receipt) -> list[NotifyOut]:
        """Learn the end of an attempt, and decide what is next."""
        name = receipt.notification_id
        waiting = self._waiting.get(name)
        if waiting is None:
            if receipt.final and name not in self._ended and (not self._is_live or receipt.incident_id in self._seen):
                self._end_row(name, receipt.status, receipt.decided_at_ms)
            return []
        if receipt.final:
            return self._finish(waiting, receipt)
        if waiting.flying_until_ms is None or receipt.attempt != waiting.attempts:
            return []  # of an attempt that was given up as lost
        settings = self._settings
        wait_ms = max(min(receipt.retry_after_ms or 0, settings.retry_after_cap_ms), self._backoff_ms(waiting))
        details = waiting.details
        match receipt.answer_class:
            case "shrink":
                if not waiting.details:
                    end = self._receipt(waiting, "dead", "too_large", "shrink", receipt.decided_at_ms)
                    return [end, *self._finish(waiting, end)]
                details, wait_ms = False, 0
            case "disable":
                wait_ms = settings.circuit_wait_ms
                pace = self._pace(waiting.notification, receipt.decided_at_ms)
                place = waiting.notification.destination
                self._paces[place] = replace(pace, closed_until_ms=receipt.decided_at_ms + wait_ms)
            case _:
                pass
        self._keep(replace(waiting, flying_until_ms=None, next_ms=receipt.decided_at_ms + wait_ms, details=details))
        return []

    def _finish(self, waiting: Waiting, receipt: Receipt) -> list[NotifyOut]:
        """Write the end of a message; one that cannot be delivered is laid aside with its bytes."""
        name = waiting.notification.notification_id
        out: list[NotifyOut] = []
        place = waiting.notification.destination
        pace = self._paces.get(place)
        if receipt.reached and pace is not None and pace.closed_until_ms:
            self._paces[place] = replace(pace, closed_until_ms=0)
        if receipt.reached and waiting.notification.mode == "page":
            self._count_page(waiting.notification, receipt.decided_at_ms)
        if receipt.status == "dead":
            out.append(_laid_aside(waiting.notification, receipt))
        self._end_row(name, receipt.status, receipt.decided_at_ms)
        self._drop(waiting)
        self.counts[f"{receipt.status}:{receipt.reason}"] += 1
        return out

    def _end_row(self, name: str, status: ReceiptStatus, at_ms: int) -> None:
        until_ms = at_ms + self._settings.receipts_known_ms
        self._ended[name] = Ended(status=status, until_ms=until_ms)
        self._remember(f"ended/{name}", {"forget": until_ms})

    # ---- rows and their index

    def _keep(self, waiting: Waiting) -> None:
        name = waiting.notification.notification_id
        self._waiting_rows[name] = waiting
        self._index(name, waiting)

    def _index(self, name: str, waiting: Waiting) -> None:
        message, before = waiting.notification, self._waiting.get(name)
        queue = self._queues[_queue(message)]
        if before is None:
            queue.add(message)
        if _is_begun(waiting) and not (before is not None and _is_begun(before)):
            self._begun[_share(message)][message.cause] += 1
        self._waiting[name] = waiting
        for flying in (self._flying, queue.flying):
            if waiting.flying_until_ms is None:
                flying.discard(name)
            else:
                flying.add(name)
        self._of_incident.setdefault(message.incident_id, set()).add(name)

    def _drop(self, waiting: Waiting) -> None:
        message = waiting.notification
        name, incident, share = message.notification_id, message.incident_id, _share(message)
        self._waiting_rows.discard(name)
        if _is_begun(self._waiting.pop(name)):
            self._begun[share] -= Counter([message.cause])
            if not self._begun[share]:
                del self._begun[share]
        self._flying.discard(name)
        queue = self._queues[_queue(message)]
        queue.remove(message)
        if not queue.ages:
            del self._queues[_queue(message)]
        self._of_incident[incident].discard(name)
        if not self._of_incident[incident]:
            del self._of_incident[incident]

    def _remember(self, subject: str, timers: Mapping[str, int]) -> None:
        """Say until when a row is there only to be remembered; of too many, those go that would go first."""
        self._timers.put(subject, {})
        while timers and len(self._timers) >= MAX_TIMERS and (first := self._timers.pop_due(NEVER_MS)) is not None:
            self._forget(first.subject)
            self.forgotten += 1
        self._timers.put(subject, timers)

    def _forget(self, subject: str) -> None:
        place, _, name = subject.partition("/")
        {"ended": self._ended, "seen": self._seen, "pages": self._pages}[place].discard(name)  # type: ignore[attr-defined]

    # ---- may it leave?

    def _send(self, names: Iterable[str]) -> list[NotifyOut]:
        """Judge messages in the order of their urgency, and let go what may leave."""
        now_ms = self._clock_ms
        if now_ms is None or not self._current:
            return []
        out: list[NotifyOut] = []
        for name in sorted(names, key=lambda name: _order(self._waiting[name].notification)):
            waiting = self._waiting.get(name)
            if waiting is None:
                continue
            if waiting.flying_until_ms is not None:
                if now_ms < waiting.flying_until_ms:
                    continue
                self.counts["lost"] += 1
                waiting = replace(waiting, flying_until_ms=None, next_ms=now_ms)
                self._keep(waiting)
            end = self._end_of(waiting, now_ms)
            if end is not None:
                status, reason = end
                receipt = self._receipt(waiting, status, reason, "none", now_ms)
                out.append(receipt)
                out += self._finish(waiting, receipt)
            elif waiting.next_ms <= now_ms and self._may_leave(waiting, now_ms):
                out.append(self._let_go(waiting, now_ms))
        return out

    def _end_of(self, waiting: Waiting, now_ms: int) -> tuple[ReceiptStatus, str] | None:
        """Decide whether a message is not to be sent, or no more."""
        message, settings = waiting.notification, self._settings
        if waiting.first_ms is None:
            # no message is younger than its decision, whatever date its cause bears
            if now_ms - min(message.cause_at_ms, message.decided_at_ms) > settings.max_cause_age_ms:
                return "cancelled", "stale"
        else:
            wait_ms = settings.give_up_by_channel_ms.get(message.channel, settings.give_up_ms[message.mode])
            if now_ms - waiting.first_ms > wait_ms:
                return "dead", "gave_up"
        seen = self._seen.get(message.incident_id)
        if seen is None or seen.seq < message.seq:
            return None  # the incident's record is still on its way
        reason = self._pointless(message, seen)
        if reason:
            return "cancelled", reason
        if self._superseded(waiting):
            return "cancelled", "superseded"
        if waiting.first_ms is None and self._is_capped(message, now_ms):
            return "cancelled", "capped"
        return None

    @staticmethod
    def _pointless(message: Notification, seen: Seen) -> str:
        """Name why a message says nothing any more, looking at the incident as it is now."""
        if seen.episode > message.episode:
            return "superseded"
        if not seen.is_open:
            return "" if message.purpose == "resolve" else "resolved"
        if message.purpose == "resolve":
            return "superseded"  # reopened by hand within the same breath
        if message.purpose in {"page", "fallback", "at_risk"} and seen.acked_seq > message.seq:
            return "acked"
        if message.purpose == "accountable" and seen.acked.get(message.target, 0) > message.seq:
            return "acked"
        if message.purpose in _ASKS and seen.lowered_seq > message.seq and seen.severity > message.severity:
            return "downgraded"
        return ""

    def _superseded(self, waiting: Waiting) -> bool:
        """Whether a newer message about how things are waits for the same destination."""
        message = waiting.notification
        ages = self._queues[_queue(message)].states.get(message.target)
        return message.purpose in _STATES and ages is not None and ages[-1] > _age(message)

    def _is_capped(self, message: Notification, now_ms: int) -> bool:
        """Whether a target has had its share of pages about an incident: those that arrived, and those on their way."""
        if message.mode != "page" or message.severity is Severity.CRITICAL:
            return False
        pages = self._pages.get(_share(message)) or Pages()
        arrived = pages.since(now_ms - self._settings.pages_within_ms)
        begun = self._begun.get(_share(message), Counter()).keys()
        known = {cause for _, cause in arrived}
        return message.cause not in known | begun and len(arrived) + len(begun - known) >= self._settings.pages_limit

    def _count_page(self, message: Notification, at_ms: int) -> None:
        """Remember that a page has reached its target."""
        settings, share = self._settings, _share(message)
        known = (self._pages.get(share) or Pages()).since(at_ms - settings.pages_within_ms)
        if any(cause == message.cause for _, cause in known):
            return
        last = sorted([*known, (at_ms, message.cause)])[-settings.pages_limit :]
        self._pages[share] = Pages(at_ms=tuple(at for at, _ in last), causes=tuple(cause for _, cause in last))
        self._remember(f"pages/{share}", {"forget": last[-1][0] + settings.pages_within_ms})

    def _may_leave(self, waiting: Waiting, now_ms: int) -> bool:
        """Look at order, the number on their way, and the destination's pace."""
        message = waiting.notification
        seen = self._seen.get(message.incident_id)
        if seen is None or seen.seq < message.seq:
            return False
        if not self._queues[_queue(message)].is_next(message):
            return False
        if len(self._flying) >= self._settings.in_flight_limit:
            return False
        pace = self._pace(message, now_ms)
        return pace.closed_until_ms <= now_ms and pace.tokens >= 1.0

    def _let_go(self, waiting: Waiting, now_ms: int) -> Attempt:
        message, settings = waiting.notification, self._settings
        pace = self._pace(message, now_ms)
        closed_ms = now_ms + settings.circuit_wait_ms if pace.closed_until_ms else 0  # this one probes; the others wait
        self._paces[message.destination] = replace(pace, tokens=pace.tokens - 1.0, closed_until_ms=closed_ms)
        self._keep(
            replace(
                waiting,
                attempts=waiting.attempts + 1,
                first_ms=now_ms if waiting.first_ms is None else waiting.first_ms,
                flying_until_ms=now_ms + settings.attempt_wait_ms,
            )
        )
        return Attempt(
            notification=message,
            number=waiting.attempts + 1,
            details=waiting.details,
            decided_at_ms=now_ms,
            late_by_ms=max(now_ms - message.decided_at_ms + message.late_by_ms, 0),
        )

    def _pace(self, message: Notification, now_ms: int) -> Pace:
        """Return a destination's bucket as it is now: filled by the time that has passed."""
        bucket = self._settings.buckets.get(message.channel, self._settings.default_bucket)
        known = self._paces.get(message.destination)
        if known is None:
            return Pace(tokens=float(bucket.burst), at_ms=now_ms)
        passed_ms = max(now_ms - known.at_ms, 0)
        tokens = min(known.tokens + passed_ms / bucket.refill_ms, float(bucket.burst))
        return replace(known, tokens=tokens, at_ms=max(now_ms, known.at_ms))

    def _backoff_ms(self, waiting: Waiting) -> int:
        """Draw a wait from [0, min(cap, base x 2^attempts)]; chance comes from the message's own id."""
        settings = self._settings
        cap_ms = settings.page_backoff_cap_ms if waiting.notification.mode == "page" else settings.backoff_cap_ms
        most_ms = min(cap_ms, settings.backoff_base_ms << min(waiting.attempts, 30))
        drawn = hashlib.sha256(f"{waiting.notification.notification_id}/{waiting.attempts}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") * most_ms >> 64

    @staticmethod
    def _receipt(waiting: Waiting, status: ReceiptStatus, reason: str, answer: AnswerClass, at_ms: int) -> Receipt:
        message = waiting.notification
        return Receipt(
            notification_id=message.notification_id,
            incident_id=message.incident_id,
            model=message.model,
            target=message.target,
            channel=message.channel,
            episode=message.episode,
            mode=message.mode,
            attempt=waiting.attempts,
            answer_class=answer,
            status=status,
            reason=reason,
            decided_at_ms=at_ms,
        )


def _queue(message: Notification) -> tuple[str, str]:
    """Name where a message waits."""
    return message.incident_id, message.destination


def _is_begun(waiting: Waiting) -> bool:
    """Whether it is a page that was tried."""
    return waiting.notification.mode == "page" and waiting.first_ms is not None


def _share(message: Notification) -> str:
    """Name whose share of pages a page counts against."""
    return f"{message.incident_id}/{message.target}"


def _age(message: Notification) -> Age:
    """Order the messages of one incident for one destination as they were decided."""
    return message.seq, message.decided_at_ms, message.notification_id


def _order(message: Notification) -> tuple[int, int, int, str]:
    """Pages first, the most severe first; then what ends something, then what says more."""
    rank = 0 if message.mode == "page" else {"resolve": 1, "breach": 1}.get(message.purpose, 2)
    return (rank, int(message.severity), *_age(message)[:1], message.notification_id)


def _laid_aside(message: Notification, receipt: Receipt) -> DeadLetter:
    """Keep the bytes of a message that could not be delivered, with the reason."""
    return DeadLetter.of(
        MalformedRecordError("notification", "address", "a delivery", receipt.reason),
        topic="notifications",
        partition=-1,
        offset=-1,
        key=message.incident_id.encode(),
        value=message.encode(),
        stage="notify",
    )
