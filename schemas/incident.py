"""What is wrong, how bad is it, and what has been done about it?

One record for each transition, each with the full state: the topic is the audit log, and nothing in it is edited.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from schemas.fields import Count, Ordinal, Record, Whole
from schemas.instant import Instant, Timed
from schemas.output import Name
from schemas.policy import ClassName, Milestone, Policy

MAX_ENCODED_BYTES = 65_536
"""What a consumer must expect: intermediaries need not forward larger events."""
MAX_FINDINGS = 50
MAX_ENTRIES = 20
"""Of acknowledgements, breaches, preventions, versions and deployments, the latest are kept."""
MAX_TEXT = 2_000
MAX_SHORT = 200

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Short = Annotated[str, Meta(max_length=MAX_SHORT)]


class Severity(IntEnum):
    """Harm, not evidence: 1 is critical, 4 is low; the smaller number is the worse."""

    CRITICAL = 1
    HIGH = 2
    MEDIUM = 3
    LOW = 4

    @property
    def display(self) -> str:
        """As people say it.

        >>> Severity.HIGH.display
        'SEV-2'
        """
        return f"SEV-{self.value}"


class Status(StrEnum):
    """Exactly three; acknowledgement, phase, flapping and closing are fields of their own."""

    INVESTIGATING = "Investigating"
    CONTAINED = "Contained"
    RESOLVED = "Resolved"


class Phase(StrEnum):
    """How far the work has come; phases follow in this order."""

    TRIAGE = "triage"
    CONTAINMENT = "containment"
    INVESTIGATION = "investigation"
    REMEDIATION = "remediation"
    REVIEW = "review"
    DONE = "done"


Resolution = Literal["fixed", "rolled_back", "auto_recovered", "false_positive", "duplicate", "expired"]
ContainmentKind = Literal["rollback", "fallback", "disable", "input_block", "shadow_monitoring", "none_needed"]


class Reason(StrEnum):
    """Why this record was written. The second half are acts that were refused: the state is then unchanged."""

    OPENED = "opened"
    FINDING_ATTACHED = "finding_attached"
    FINDING_UPDATED = "finding_updated"
    FINDING_CLEARED = "finding_cleared"
    SEVERITY_RAISED = "severity_raised"
    SEVERITY_LOWERED = "severity_lowered"
    REDATED = "redated"
    REOPENED = "reopened"
    CONTAINED = "contained"
    CONTAINMENT_RECORDED = "containment_recorded"
    UNCONTAINED = "uncontained"
    RESOLVED = "resolved"
    AUTO_RECOVERED = "auto_recovered"
    EXPIRED = "expired"
    MERGED = "merged"
    CLOSED = "review_closed"
    ACKNOWLEDGED = "acknowledged"
    ACKNOWLEDGED_AGAIN = "acknowledged_again"
    UNACKNOWLEDGED = "unacknowledged"
    CLASSIFIED = "classified"
    CHANGED = "changed"
    NOTED = "noted"
    PHASE_COMPLETED = "phase_completed"
    SNAPSHOT_TAKEN = "snapshot_taken"
    MILESTONE_REACHED = "milestone_reached"
    FLAPPING = "flapping"
    FLAPPING_ENDED = "flapping_ended"
    BREACHED = "breached"
    BREACH_RETRACTED = "breach_retracted"
    MARKED = "marked"

    NO_CHANGE = "no_change"
    ILLEGAL_TRANSITION = "illegal_transition"
    REFUSED_CLOSED = "closed"
    HUMAN_REQUIRED = "human_required"
    MISSING_CONTAINMENT = "missing_containment"
    MISSING_EVIDENCE = "missing_evidence"
    MISSING_REASON = "missing_reason"
    UNKNOWN_INCIDENT = "unknown_incident"
    STALE_SEQ = "stale_seq"
    NOT_AUTHORISED = "not_authorised"
    DUPLICATE_ACT = "duplicate_act"  # nothing says it; it stays for the samples that have it
    UNKNOWN_TARGET = "unknown_target"

    @property
    def refuses(self) -> bool:
        """Whether an act was refused, or found nothing to do.

        >>> Reason.STALE_SEQ.refuses, Reason.CLOSED.refuses
        (True, False)
        """
        return self in _REFUSALS


_REFUSALS = frozenset(list(Reason)[list(Reason).index(Reason.NO_CHANGE) :])


class Actor(Record, frozen=True, kw_only=True):
    """Who acts: a person (also one behind a provider), a provider by itself, or one of our stages (`tocsin:…`)."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_SHORT)]
    kind: Literal["human", "provider", "system"]


class Evidence(Timed, frozen=True, kw_only=True):
    """One finding as its incident knows it; the evidence itself stays where the finding is.

    `message` is what the finding said when it fired, plain and cut; it stays when the finding clears.
    """

    finding_id: str
    revision: Count
    detector: Short
    kind: Short
    lane: Short
    version: Short = ""
    segment: Short = ""
    severity: Severity
    state: Literal["firing", "cleared"]
    onset_from_at_ms: Instant = field(name="onset_from")
    onset_to_at_ms: Instant = field(name="onset_to")
    decided_at_ms: Instant = field(name="decided_at")
    cleared_at_ms: Instant | None = field(default=None, name="cleared_at")
    observed: float
    expected: float
    unit: Short
    n: Whole
    message: Short = ""


class Acknowledgement(Timed, frozen=True, kw_only=True):
    """Who has said that he is on it; `responder` is false for one who only stands by."""

    target: Short = ""
    actor: Actor
    source: Short = ""
    responder: bool
    at_ms: Instant = field(name="at")


class Breach(Timed, frozen=True, kw_only=True):
    """A deadline that passed; `clock` is `response` or the milestone."""

    clock: Short
    episode: Whole
    due_at_ms: Instant = field(name="due_at")
    stamped_at_ms: Instant = field(name="stamped_at")
    late_by_ms: Whole
    retracted: bool = False


class Containment(Timed, frozen=True, kw_only=True):
    """What keeps the harm from spreading, with the evidence that was saved before."""

    kind: ContainmentKind | Literal[""] = ""
    text: Text = ""
    snapshot: Short = ""
    snapshot_at_ms: Instant | None = field(default=None, name="snapshot_at")
    waived: Short = ""
    done_at_ms: Instant | None = field(default=None, name="done_at")


class Redated(Timed, frozen=True, kw_only=True):
    """Labels that came late have moved the beginning."""

    from_at_ms: Instant = field(name="from")
    to_at_ms: Instant = field(name="to")
    cause: str


class Change(Timed, frozen=True, kw_only=True):
    """A deployment near the beginning."""

    deployment_id: Short
    kind: Short
    version: Short = ""
    at_ms: Instant = field(name="at")


class Prevention(Record, frozen=True, kw_only=True):
    """What will keep it from happening again."""

    kind: Literal["monitoring", "testing", "process"]
    text: Short
    done: bool = False


class Incident(Timed, frozen=True, kw_only=True):
    """The life of a problem.

    Parameters
    ----------
    seq
        One more with each record of this incident, from 1.
    episode
        One more with each reopening, from 1; acknowledgements belong to an episode.
    severity, severity_max
        As it is now, and the worst that it has been.
    impact_started_at, impact_ended_at
        Event time of the first and the last affected output; late labels may move them. When it began is known as an
        interval: this is its early edge, `began_by_ms` its late one.
    detected_at
        Decision time of the first finding: when Tocsin could know.
    opened_at
        Decision time of the opening finding plus its hold-down, or of the opening act; every response clock starts
        here, and it never moves.
    acknowledged_at
        First acknowledgement by a responder in this episode; it stays when the acknowledgement is withdrawn.
    progress_at
        Decision time of the newest act of a person that is more than an acknowledgement.
    cause_at
        Decision time of the newest finding or act from outside; a stage's own acts do not move it.
    decided_at
        Decision time of this record.
    findings
        The latest, at most 50, of `findings_total`.
    firing_total
        How many findings fire now, also of those which are not kept; 0 in records older than this field.
    policy, policy_hash
        As they were at the opening; SHA-256 of the policy's canonical JSON.
    silenced_by, inhibited_by, maintenance, kind_of_event, hazard, taxonomy, regulatory
        What mutes messages about it, what it counts as elsewhere, and the clocks of the law that run for it. Nothing sets
        them yet.
    reason, causation_id, actor
        Why this record was written, by which finding or act, and who acted.
    note
        What the actor said with this record.
    """

    incident_id: str
    display_id: str
    seq: Ordinal
    tenant: str
    environment: str
    model: Name
    versions: tuple[Short, ...] = ()
    kind_of_event: Literal["incident", "hazard", "near_miss"] = "incident"
    incident_class: ClassName = field(name="class")
    severity: Severity
    severity_max: Severity
    status: Status
    phase: Phase
    episode: Ordinal
    group_hash: str
    labels: dict[str, str] = {}
    previous_incident_id: str = ""
    merged_into: str = ""
    findings: Annotated[tuple[Evidence, ...], Meta(max_length=MAX_FINDINGS)] = ()
    findings_total: Count = 0
    firing_total: Count = 0
    impact_started_at_ms: Instant | None = field(default=None, name="impact_started_at")
    impact_ended_at_ms: Instant | None = field(default=None, name="impact_ended_at")
    detected_at_ms: Instant = field(name="detected_at")
    opened_at_ms: Instant = field(name="opened_at")
    acknowledged_at_ms: Instant | None = field(default=None, name="acknowledged_at")
    contained_at_ms: Instant | None = field(default=None, name="contained_at")
    resolved_at_ms: Instant | None = field(default=None, name="resolved_at")
    reopened_at_ms: Instant | None = field(default=None, name="reopened_at")
    closed_at_ms: Instant | None = field(default=None, name="closed_at")
    progress_at_ms: Instant | None = field(default=None, name="progress_at")
    cause_at_ms: Instant = field(name="cause_at")
    decided_at_ms: Instant = field(name="decided_at")
    recorded_at_ms: Instant | None = field(default=None, name="recorded_at")
    acks: tuple[Acknowledgement, ...] = ()
    assignee: Short = ""
    due_at_ms: Instant | None = field(default=None, name="due_at")
    flapping: bool = False
    silenced_by: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()
    maintenance: tuple[str, ...] = ()
    impact: dict[str, Text] = {}
    root_cause: dict[str, Text] = {}
    remediation: dict[str, Text] = {}
    prevention: tuple[Prevention, ...] = ()
    containment: Containment = Containment()
    milestones: dict[Milestone, Instant] = {}
    breaches: tuple[Breach, ...] = ()
    deployments: tuple[Change, ...] = ()
    last_known_good: Short = ""
    hazard: Short = ""
    taxonomy: dict[str, str] = {}
    regulatory: tuple[dict[str, str], ...] = ()
    policy: Policy
    policy_hash: str
    report_revision: Count = 0
    resolution: Resolution | Literal[""] = ""
    redated: Redated | None = None
    reason: Reason
    causation_id: str = ""
    actor: Actor | None = None
    note: Text = ""

    @property
    def is_open(self) -> bool:
        """Whether it still needs somebody."""
        return self.status is not Status.RESOLVED

    @property
    def is_firing(self) -> bool:
        """Whether any of its findings fires, kept or not."""
        return self.firing_total > 0 or bool(self.firing)

    @property
    def acknowledged(self) -> bool:
        """Whether a responder is on it."""
        return any(ack.responder for ack in self.acks)

    @property
    def episode_at_ms(self) -> int:
        """When this episode began: the origin of its response clock."""
        return self.opened_at_ms if self.reopened_at_ms is None else self.reopened_at_ms

    @property
    def began_by_ms(self) -> int | None:
        """Event time by which the impact had surely begun: the earliest late edge among the onsets of its findings."""
        if self.impact_started_at_ms is None:
            return None
        edges = (finding.onset_to_at_ms for finding in self.findings)
        return max(self.impact_started_at_ms, min(edges, default=self.impact_started_at_ms))

    @property
    def firing(self) -> frozenset[str]:
        """Findings that fire now, of those which are kept."""
        return frozenset(finding.finding_id for finding in self.findings if finding.state == "firing")

    @property
    def cleared(self) -> frozenset[str]:
        """Findings that have cleared, of those which are kept."""
        return frozenset(finding.finding_id for finding in self.findings if finding.state == "cleared")
