"""Which lane crossed its alarm level, or cleared?"""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.fields import Count, Record, Whole
from schemas.output import Millis, Name

Said = Annotated[str, Meta(max_length=4_096)]
"""Words of a finding: what gathers many of them has a bound by it."""


class Effect(Record, frozen=True, kw_only=True):
    """How large, in plain numbers: what was seen, what was expected, in which unit."""

    observed: float
    expected: float
    unit: Said


class Finding(Record, frozen=True, kw_only=True, tag_field="record", tag="finding"):
    """A lane that crossed its alarm level, or that has recovered.

    Parameters
    ----------
    finding_id
        Deterministic, of (tenant, environment, model, version, segment, detector, end of the alarm tick); the clearing
        of a finding keeps its id and raises `revision`.
    state
        `firing`, or `cleared` when the lane's own recovery test said so.
    version, segment
        What of the model: empty means all of it. `segment` is `name=value`.
    kind
        What it means; severity and class follow from it by configuration.
    ledger
        Whose budget it was spent from: `page` or `ticket`.
    guarantee
        `budget` when the bound on false pages covers it, `none` for findings by rule.
    alarm_tick_ms
        End of the tick in which the level was crossed, in event time.
    decided_at_ms
        End of the tick of this record (of the clearing tick, when it clears).
    onset_from_ms, onset_to_ms
        Interval of when it began.
    n
        Events behind the evidence since the onset; `log_evidence` in nats.
    """

    finding_id: Said
    revision: Count = 0
    state: Literal["firing", "cleared"]
    tenant: Said
    environment: Said
    model: Name
    version: Said = ""
    segment: Said = ""
    lane: Said
    detector: Said
    kind: Said
    ledger: Literal["page", "ticket"]
    guarantee: Literal["budget", "none"]
    alarm_tick_ms: Millis
    decided_at_ms: Millis
    onset_from_ms: Millis
    onset_to_ms: Millis
    effect: Effect
    n: Whole
    log_evidence: float
    baseline_version: Count
    message: Said = ""
    recorded_at_ms: Millis = 0
