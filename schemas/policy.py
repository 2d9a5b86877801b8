"""Who is told, by when, and what if nobody answers? The policy, which is frozen into an incident when it opens.

Frozen is the structure and every deadline; who stands behind a target is looked up when the step runs. Later edits
touch new incidents only.
"""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.fields import Record

Word = Annotated[str, Meta(min_length=1, max_length=64)]
"""A configured name: of a step, a target, a channel."""
Wait = Annotated[int, Meta(ge=0, le=540_000_000)]
"""Milliseconds, up to 9,000 minutes."""
SeverityNumber = Annotated[int, Meta(ge=1, le=4)]
"""1 is critical, 4 is low."""

Mode = Literal["page", "message", "ticket"]
ClockName = Literal["wall", "business"]
Milestone = Literal["open_war_room", "open_channel"]
ClassName = Literal["infrastructure", "model_quality", "fairness_compliance"]


class Notify(Record, frozen=True, kw_only=True, tag_field="do", tag="notify"):
    """Tell these targets, and go on at once.

    Parameters
    ----------
    ack
        `all`: each target owes its own acknowledgement, and is asked again until it has given it.
    group
        `responders` answer the incident; `accountable` targets are informed, and their acknowledgement stops nothing.
    """

    id: Word
    targets: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=10)]
    mode: Mode
    ack: Literal["any", "all", "none"]
    group: Literal["responders", "accountable"]


class Pause(Record, frozen=True, kw_only=True, tag_field="do", tag="wait"):
    """Wait, whether anybody acknowledges or not."""

    id: Word
    for_ms: Annotated[int, Meta(ge=60_000, le=540_000_000)]
    clock: ClockName


class WaitAck(Record, frozen=True, kw_only=True, tag_field="do", tag="wait_ack"):
    """Wait for a responder's acknowledgement, which ends the ladder; without one the next step follows."""

    id: Word
    for_ms: Annotated[int, Meta(ge=60_000, le=540_000_000)]
    clock: ClockName


class Repeat(Record, frozen=True, kw_only=True, tag_field="do", tag="repeat"):
    """Go back to an earlier step, `times` times in all."""

    id: Word
    times: Annotated[int, Meta(ge=0, le=9)]
    to: Word


class Fallback(Record, frozen=True, kw_only=True, tag_field="do", tag="fallback"):
    """The last step: page these once; with it the ladder is exhausted."""

    id: Word
    targets: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=10)]


class Require(Record, frozen=True, kw_only=True, tag_field="do", tag="require"):
    """An act that is due `within_ms` of the opening; Tocsin reminds `targets`, and does not do it."""

    id: Word
    milestone: Milestone
    within_ms: Wait
    clock: ClockName
    targets: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=10)]


Step = Notify | Pause | WaitAck | Repeat | Fallback | Require


class Respond(Record, frozen=True, kw_only=True):
    """By when somebody must have acknowledged.

    Parameters
    ----------
    clock
        `next_business_day`: close of business of the first business date after the local date of the opening;
        `within_ms` is then 0.
    strict
        The acknowledgement must come before the deadline; otherwise the deadline itself is still in time.
    at_risk_share
        Of the allowance, after which the owners are warned once.
    owners, breach_mode
        Who is told of the warning (by message) and of the breach. `none`: the breach is stamped only.
    """

    within_ms: Wait
    clock: Literal["wall", "business", "next_business_day"]
    strict: bool
    at_risk_share: Annotated[float, Meta(gt=0.0, lt=1.0)]
    owners: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=10)]
    breach_mode: Literal["page", "message", "none"]


class AckTimeout(Record, frozen=True, kw_only=True):
    """How long an acknowledgement holds without progress, and when its giver is reminded before."""

    after_ms: Wait
    clock: ClockName
    remind_before_ms: Wait


class Exhausted(Record, frozen=True, kw_only=True):
    """What follows when the ladder is exhausted: the fallback again, until acknowledged or resolved.

    `interval`: each `every_ms`. `business_open`: at each opening of business. `nothing`: no more.
    """

    again: Literal["interval", "business_open", "nothing"]
    every_ms: Wait


class SeverityPolicy(Record, frozen=True, kw_only=True):
    """All that is done at one severity.

    Parameters
    ----------
    first_wait_ms
        From the opening to the first message, so that findings which belong together come in one.
    update_interval_ms
        At least this long between two messages about changes of findings, to one destination.
    remind_interval_ms
        A reminder while unacknowledged or unresolved, rounded up to a multiple of `update_interval_ms`.
    tells_of_end
        Whether a message says that it is over.
    owed_every_ms, owed_times
        Targets of a step with `ack = "all"` are asked again this often, this many times.
    ack_timeout
        None: an acknowledgement holds for ever.
    """

    first_wait_ms: Wait
    update_interval_ms: Annotated[int, Meta(ge=1, le=540_000_000)]
    remind_interval_ms: Annotated[int, Meta(ge=1, le=540_000_000)]
    tells_of_end: bool
    owed_every_ms: Annotated[int, Meta(ge=60_000, le=540_000_000)]
    owed_times: Annotated[int, Meta(ge=0, le=9)]
    respond: Respond
    ack_timeout: AckTimeout | None = None
    exhausted: Exhausted
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=50)]


class Calendar(Record, frozen=True, kw_only=True):
    """When there is business.

    Parameters
    ----------
    zone
        A name of the IANA time zone database.
    weekly
        `[weekday, start, end]`: 0 is Monday; minutes after local midnight, end after start.
    holidays
        Local dates without business, `YYYY-MM-DD`.
    """

    zone: Annotated[str, Meta(min_length=1, max_length=64)]
    weekly: Annotated[
        tuple[
            tuple[
                Annotated[int, Meta(ge=0, le=6)],
                Annotated[int, Meta(ge=0, le=1440)],
                Annotated[int, Meta(ge=0, le=1440)],
            ],
            ...,
        ],
        Meta(min_length=1, max_length=70),
    ]
    holidays: Annotated[tuple[Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")], ...], Meta(max_length=400)]


class Route(Record, frozen=True, kw_only=True):
    """Which targets stand for `class:oncall`, `class:secondary` and `class:team`."""

    oncall: tuple[Word, ...]
    secondary: tuple[Word, ...]
    team: tuple[Word, ...]


class Policy(Record, frozen=True, kw_only=True):
    """The whole: severities by number, routes by class, and the calendar of the business clock."""

    name: Word
    severities: dict[Literal["1", "2", "3", "4"], SeverityPolicy]
    routes: dict[ClassName, Route]
    calendar: Calendar
