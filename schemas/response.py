"""By which rules does the response decide? The settings of triage, escalate and notify, each handed in whole.

They are built from TOML (`config/response.toml` states each once) by `Response.of`; names there are the names here, a
name that is not known is refused, and no wait has a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from schemas.fields import MalformedRecordError
from schemas.policy import ClassName, Mode, Policy, SeverityNumber, Word

Span = Annotated[int, Meta(ge=0, le=34_560_000_000)]
"""Milliseconds, up to 400 days."""
SeverityKey = Literal["1", "2", "3", "4"]


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; what it does not know is a misspelling."""


class KindRule(Setting, frozen=True, kw_only=True):
    """What a kind of finding means.

    Parameters
    ----------
    says
        One sentence for people, without the words of statistics.
    without_sla
        Severity where the model has no agreed accuracy; None: as `severity`.
    on_several_lanes
        Severity once `several_lanes` lanes of the incident fire with this kind; None: as `severity`.
    open_after_ms
        Continuously firing before an incident opens; None: as its severity.
    rollback_now
        The message asks for the last known good version at once.
    """

    incident_class: ClassName = msgspec.field(name="class")
    severity: SeverityNumber
    says: Annotated[str, Meta(min_length=1, max_length=200)]
    without_sla: SeverityNumber | None = None
    on_several_lanes: SeverityNumber | None = None
    open_after_ms: Span | None = None
    rollback_now: bool = False


class HoldDowns(Setting, frozen=True, kw_only=True):
    """How long a severity must fire before it opens, and be clear before it ends by itself.

    Parameters
    ----------
    open_after_ms
        Continuously firing before an incident opens.
    resolve_after_ms
        Continuously clear before it resolves by itself; None: never.
    reopen_within_ms
        After resolving, a new onset belongs to the same incident.
    expire_after_ms
        Without a firing finding and without an act, resolved as expired; None: never.
    """

    open_after_ms: Span
    resolve_after_ms: Span | None = None
    reopen_within_ms: Span
    expire_after_ms: Span | None = None


class Flapping(Setting, frozen=True, kw_only=True):
    """When changing to and fro counts as flapping: `changes` within `within_ms`, until `calm_ms` without one."""

    changes: Annotated[int, Meta(ge=2, le=20)]
    within_ms: Span
    calm_ms: Span


class TriageRules(Setting, frozen=True, kw_only=True):
    """Hold-downs and windows.

    Parameters
    ----------
    several_lanes
        How many lanes are several.
    uncontain_after_ms
        A finding with an onset this long after containment says that it did not hold.
    deployments_before_ms
        Deployments this long before the beginning stand in the incident.
    acts_known_ms, findings_known_ms, incidents_known_ms
        How long the ids of acts and findings, and closed incidents, are remembered.
    """

    several_lanes: Annotated[int, Meta(ge=2, le=500)]
    hold_downs: dict[SeverityKey, HoldDowns]
    flapping: Flapping
    uncontain_after_ms: Span
    deployments_before_ms: Span
    acts_known_ms: Span
    findings_known_ms: Span
    incidents_known_ms: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageSettings:
    """What triage is told.

    Parameters
    ----------
    kinds, unknown_kind
        What each kind of finding means; the rule for a kind that is not listed.
    models_with_sla
        Models with an agreed accuracy.
    policy
        What is frozen into each incident that opens.
    """

    kinds: Mapping[str, KindRule]
    unknown_kind: KindRule
    models_with_sla: frozenset[str]
    rules: TriageRules
    policy: Policy


class Contact(Setting, frozen=True, kw_only=True):
    """One way to a target: a channel of the table of channels, where it leads, and what it is used for."""

    channel: Word
    address: Annotated[str, Meta(min_length=1, max_length=2_000)]
    modes: Annotated[tuple[Mode, ...], Meta(min_length=1, max_length=3)]


class EscalateRules(Setting, frozen=True, kw_only=True):
    """Bounds of a ladder.

    Parameters
    ----------
    acknowledged_repeat_cap
        How often an acknowledgement without progress may run out in one episode; then it holds.
    pages_continue_ms
        A step of the ladder is news of its own while the last page that arrived is not older than this; after a longer
        silence only a finding or an act is, so that a replay of old topics asks nobody.
    incidents_known_ms
        How long the ladder of a resolved incident is remembered.
    """

    acknowledged_repeat_cap: Annotated[int, Meta(ge=0, le=9)]
    pages_continue_ms: Span
    incidents_known_ms: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalateSettings:
    """What escalate is told.

    Parameters
    ----------
    directory
        Contacts by target; a target without contacts has nobody on call.
    kinds, unknown_kind
        For the words of a message: what each kind of finding means.
    """

    directory: Mapping[str, tuple[Contact, ...]]
    kinds: Mapping[str, KindRule]
    unknown_kind: KindRule
    rules: EscalateRules


class Bucket(Setting, frozen=True, kw_only=True):
    """How fast a destination may be written to: `burst` at once, and one more each `refill_ms`."""

    burst: Annotated[int, Meta(ge=1, le=1_000)]
    refill_ms: Annotated[int, Meta(ge=1, le=3_600_000)]


class NotifySettings(Setting, frozen=True, kw_only=True):
    """The delivery gate, retries and limits.

    Parameters
    ----------
    max_cause_age_ms
        A message whose cause is older is not sent.
    give_up_ms
        By mode: how long after the first attempt the last one may begin; `give_up_by_channel_ms` overrides it.
    in_flight_limit
        Attempts on their way at a time, from one partition.
    attempt_wait_ms
        How long an attempt may be on its way; then it counts as lost, and the next is made.
    behind_wait_ms
        How long sending waits for the backlog to be read, so that what is already over is not sent.
    backoff_base_ms, page_backoff_cap_ms, backoff_cap_ms
        Full-jitter backoff: a wait drawn from [0, min(cap, base x 2^attempt)].
    retry_after_cap_ms
        More than this is not waited for, whoever asks.
    circuit_wait_ms
        How long a destination that refuses us altogether is left alone; then one message probes it.
    pages_limit, pages_within_ms
        At most so many pages to one target about one incident; SEV-1 is exempt. Those that arrived count, and those on
        their way; by several channels it is one page.
    buckets, default_bucket
        By channel.
    receipts_known_ms
        How long the end of a message is remembered.
    """

    max_cause_age_ms: Span
    give_up_ms: dict[Mode, Span]
    give_up_by_channel_ms: dict[str, Span]
    in_flight_limit: Annotated[int, Meta(ge=1, le=1_000)]
    attempt_wait_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)]
    behind_wait_ms: Annotated[int, Meta(ge=0, le=3_600_000)]
    backoff_base_ms: Annotated[int, Meta(ge=1, le=60_000)]
    page_backoff_cap_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    backoff_cap_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    retry_after_cap_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    circuit_wait_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    pages_limit: Annotated[int, Meta(ge=1, le=1_000)]
    pages_within_ms: Annotated[int, Meta(ge=1, le=86_400_000)]
    buckets: dict[str, Bucket]
    default_bucket: Bucket
    receipts_known_ms: Span


class SenderSettings(Setting, frozen=True, kw_only=True):
    """Bounds of the tasks that make attempts.

    Parameters
    ----------
    in_flight_limit
        Attempts on their way at a time, in one worker.
    waiting_limit
        Attempts that may wait for their turn; what comes beyond is answered `sender_full` at once.
    attempt_timeout_ms
        How long a channel may take; longer than any of its own timeouts.
    turn_wait_ms
        How long an attempt may wait for its turn. With `attempt_timeout_ms` it stays below notify's `attempt_wait_ms`.
    close_wait_ms
        How long closing waits for what is on its way.
    """

    in_flight_limit: Annotated[int, Meta(ge=1, le=1_000)]
    waiting_limit: Annotated[int, Meta(ge=0, le=100_000)]
    attempt_timeout_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    turn_wait_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    close_wait_ms: Annotated[int, Meta(ge=0, le=60_000)]


class Response(Setting, frozen=True, kw_only=True):
    """One file of settings: the playbook as data.

    `channels`: settings by the name of a channel; what stands in one is that channel's own affair.
    """

    kinds: dict[str, KindRule]
    unknown_kind: KindRule
    triage: TriageRules
    escalate: EscalateRules
    notify: NotifySettings
    sender: SenderSettings
    channels: dict[Word, dict[str, object]]
    directory: dict[Word, tuple[Contact, ...]]
    policy: Policy

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Self:
        """Read what a TOML file says; `MalformedRecordError` names the fault that msgspec met first.

        >>> Response.of({"kinds": {}})
        Traceback (most recent call last):
        schemas.fields.MalformedRecordError: response: expected Object missing required field `unknown_kind`, got ...
        """
        try:
            return msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            text, _, path = str(error).partition(" - at `")
            where = path.rstrip("`").removeprefix("$").removeprefix(".")
            expected, _, got = text.removeprefix("Expected ").partition(", got ")
            raise MalformedRecordError("response", where, expected, got.replace("`", "") or "something else") from None

    def triage_settings(self, models_with_sla: frozenset[str]) -> TriageSettings:
        """Put together what triage is told."""
        return TriageSettings(
            kinds=self.kinds,
            unknown_kind=self.unknown_kind,
            models_with_sla=models_with_sla,
            rules=self.triage,
            policy=self.policy,
        )

    def escalate_settings(self) -> EscalateSettings:
        """Put together what escalate is told."""
        return EscalateSettings(
            directory=self.directory, kinds=self.kinds, unknown_kind=self.unknown_kind, rules=self.escalate
        )
