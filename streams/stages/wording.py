r"""What does a message say? Numbers and configured names, and nothing that a model, a label or a user wrote.

Names that come with the data (model, version, detector, unit, lane) are passed through `plain`, which leaves nothing in
them that could act: no control or bidirectional characters, no line breaks, no markup that mentions somebody, no links.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping

from schemas.ids import rfc3339
from schemas.incident import Evidence, Incident, Reason, Severity
from schemas.notification import MessageReason
from schemas.response import KindRule
from streams.stages.policy import kind_rule

MAX_NAME = 80
MAX_DETAIL = 160
"""What a finding says of itself: which feature, in which way, how often, how often usually."""
MAX_TITLE = 200
MAX_BODY = 2_000
MAX_LINES = 5
"""Findings that a message names."""
LATE_SHOWN_MS = 60_000
"""A message that is later than this says so."""

UNKNOWN = "not yet known"

_NEW_KIND, _NEW, _OLD = range(3)
"""How old a finding is for whom a message is: of a kind that he was not told of, not told of itself, told of."""

_OF_DEEDS = frozenset(
    {
        MessageReason.STATUS_CHANGED,
        MessageReason.OPENED_AND_RESOLVED,
        MessageReason.REOPENED,
        MessageReason.SEVERITY_RAISED,
        MessageReason.SEVERITY_LOWERED,
    }
)
"""Why a message is sent that a person's act may have called for."""

_ACTIVE = {"<": "(", ">": ")", "@": "(at)", "`": "'", "[": "(", "]": ")", "|": "/", "*": "", "#": ""}


def cut(text: str, limit: int) -> str:
    """Cut a text to `limit` runes, with an ellipsis where something is missing.

    >>> cut("abcdef", 6), cut("abcdef", 4), cut("abc", 0)
    ('abcdef', 'abc…', '')
    """
    if len(text) <= limit:
        return text
    return text[: max(limit - 1, 0)] + "…" if limit > 0 else ""


def plain(text: str, limit: int = MAX_NAME) -> str:
    r"""Take from a foreign name whatever could act, and cut it.

    >>> plain("fraud\r\nBcc: x"), plain("<!channel> [a](http://x.y)"), plain("a\u202eb"), plain("  ")
    ('fraud Bcc: x', '(!channel) (a)(http: //x.y)', 'ab', '(unnamed)')
    """
    kept = []
    for rune in text:
        if rune.isspace():
            kept.append(" ")
        elif unicodedata.category(rune)[0] != "C":
            kept.append(_ACTIVE.get(rune, rune))
    joined = " ".join("".join(kept).split()).replace("://", ": //")
    return cut(joined, limit) or "(unnamed)"


def detail(message: str) -> str:
    r"""Make plain what a finding says of itself; nothing where it says nothing.

    >>> detail("feature a\u202eb is null in 17.1% of outputs, 0.00% usually"), detail("")
    ('feature ab is null in 17.1% of outputs, 0.00% usually', '')
    """
    return plain(message, MAX_DETAIL) if message.strip() else ""


def number(value: float) -> str:
    """Write a number so that a person can read it.

    >>> number(0.07), number(1234567.0), number(0.1234567), number(float("nan"))
    ('0.07', '1,234,567', '0.1235', 'nan')
    """
    if abs(value) < 1e15 and value == int(value):  # noqa: PLR2004 -- beyond it floats have no units; nan is below nothing
        return f"{int(value):,}"
    return f"{value:.4g}"


def duration(ms: int) -> str:
    """Write a duration in its largest whole units.

    >>> duration(59_000), duration(300_000), duration(5_400_000), duration(180_000_000)
    ('59 s', '5 min', '1 h 30 min', '2 d 2 h')
    """
    minutes, hours, days = ms // 60_000, ms // 3_600_000, ms // 86_400_000
    if minutes == 0:
        return f"{ms // 1_000} s"
    if hours == 0:
        return f"{minutes} min"
    if days == 0:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def minute(at_ms: int) -> str:
    """Write an instant to the minute, with its date and zone.

    >>> minute(1_795_600_800_000)
    '2026-11-25 10:00 UTC'
    """
    text = rfc3339(at_ms)
    return f"{text[:10]} {text[11:16]} UTC"


def between(from_ms: int, to_ms: int) -> str:
    """Write an interval to the minute; one instant where that shows no difference.

    >>> between(1_795_600_800_000, 1_795_600_830_000), between(1_795_600_800_000, 1_795_601_020_000)
    ('2026-11-25 10:00 UTC', 'between 2026-11-25 10:00 and 10:03 UTC')
    >>> between(1_795_600_800_000, 1_795_687_200_000)
    'between 2026-11-25 10:00 and 2026-11-26 10:00 UTC'
    """
    first, last = minute(from_ms), minute(to_ms)
    if first == last:
        return first
    day = len("2026-11-25 ")
    return f"between {first.removesuffix(' UTC')} and {last[day:] if first[:day] == last[:day] else last}"


def worst(incident: Incident) -> Evidence | None:
    """Return the finding that says most of the incident: the most severe that fires, the first of those."""
    if not incident.findings:
        return None
    return min(
        incident.findings, key=lambda one: (one.state != "firing", one.severity, one.decided_at_ms, one.finding_id)
    )


def newest_first(incident: Incident, told: Collection[str]) -> list[Evidence]:
    """Order what fires for whom was told of these findings: what is new to him, a new kind before all else.

    Of what is equally new each kind speaks once before one speaks twice, the most severe first; what is old comes last,
    the oldest at the end.
    """
    firing = [finding for finding in incident.findings if finding.state == "firing"]
    told_kinds = {finding.kind for finding in firing if finding.finding_id in told}

    def age(finding: Evidence) -> int:
        return _OLD if finding.finding_id in told else _NEW if finding.kind in told_kinds else _NEW_KIND

    def rank(finding: Evidence) -> tuple[int, int, str]:
        at_ms = int(finding.decided_at_ms)
        return finding.severity, -at_ms if age(finding) == _OLD else at_ms, finding.finding_id

    spoken: Counter[tuple[int, str]] = Counter()
    turns: dict[str, tuple[int, int]] = {}
    for finding in sorted(firing, key=rank):
        kind = age(finding), finding.kind
        turns[finding.finding_id] = age(finding), spoken[kind]
        spoken[kind] += 1
    return sorted(firing, key=lambda one: (turns[one.finding_id], rank(one)))


def says(
    incident: Incident,
    reason: MessageReason,
    kinds: Mapping[str, KindRule],
    unknown: KindRule,
    told: Collection[str] = (),
) -> str:
    """Return the configured sentence of what is wrong; of what is new, where that is why the message is sent."""
    finding = worst(incident)
    if reason is MessageReason.NEW_FINDINGS:
        finding = next(iter(newest_first(incident, told)), finding)
    return "Opened by a person." if finding is None else kind_rule(kinds, unknown, finding.kind).says


def title(incident: Incident, reason: MessageReason, sentence: str) -> str:
    """Return one line for a pager."""
    model = plain(incident.model)
    return cut(
        f"[{incident.severity.display}] {model}: {sentence} ({incident.status}, {reason}) {incident.display_id}",
        MAX_TITLE,
    )


def body(
    incident: Incident,
    reason: MessageReason,
    kinds: Mapping[str, KindRule],
    unknown: KindRule,
    *,
    late_by_ms: int,
    told: Collection[str] = (),
) -> str:
    """Return the message: what, how bad, since when, how much, and what to do; what is not among `told` comes first."""
    said = says(incident, reason, kinds, unknown, told)
    before = says(incident, MessageReason.FIRST, kinds, unknown)
    version = f" (version {', '.join(plain(one) for one in incident.versions[-3:])})" if incident.versions else ""
    lines = [
        f"{incident.severity.display}, {incident.status}: {said}",
        *([] if said == before else [f"As before: {before}"]),
        f"Model: {plain(incident.model)}{version}, environment {plain(incident.environment or 'default')}",
        f"Why this message: {reason}",
        *_deed(incident, reason),
        f"Affected since: {_began(incident)}",
        f"Opened: {minute(incident.opened_at_ms)}",
        f"Users affected: {_impact(incident, 'users')}",
        f"Decisions affected: {_impact(incident, 'decisions')}",
    ]
    if incident.severity is Severity.CRITICAL and _asks_for_rollback(incident, kinds, unknown):
        good = plain(incident.last_known_good) if incident.last_known_good else UNKNOWN
        lines.append(f"Roll back now, or switch to the fallback model. Last known good version: {good}")
    firing = newest_first(incident, told)
    lines += [_evidence(finding) for finding in firing[:MAX_LINES]]
    more = max(incident.firing_total, len(firing)) - len(firing[:MAX_LINES])
    if more > 0:
        lines.append(f"and {more} more" if firing else f"Still firing: {more}")
    lines += [
        f"Deployed shortly before: {plain(change.kind)} {plain(change.version or change.deployment_id)}, {minute(change.at_ms)}"
        for change in incident.deployments[-3:]
    ]
    if late_by_ms > LATE_SHOWN_MS:
        lines.append(f"Late by {duration(late_by_ms)}")
    return cut("\n".join(lines), MAX_BODY)


def _deed(incident: Incident, reason: MessageReason) -> list[str]:
    """Say what a person did, and why in his words, where that is what the message is about."""
    if reason not in _OF_DEEDS or incident.actor is None or incident.actor.kind != "human":
        return []
    how = f" as {incident.resolution.replace('_', ' ')}" if incident.reason is Reason.RESOLVED else ""
    why = f": {plain(incident.note, MAX_TITLE)}" if incident.note else ""
    return [f"{plain(incident.reason.replace('_', ' ').capitalize())} by {plain(incident.actor.id)}{how}{why}"]


def _began(incident: Incident) -> str:
    """Say when the impact began, as well as it is known."""
    from_ms, by_ms = incident.impact_started_at_ms, incident.began_by_ms
    return UNKNOWN if from_ms is None or by_ms is None else between(from_ms, by_ms)


def _impact(incident: Incident, part: str) -> str:
    """Return what a person has said of the impact; that a value is unknown is said."""
    text = incident.impact.get(part, "")
    return plain(text, MAX_TITLE) if text else UNKNOWN


def _evidence(finding: Evidence) -> str:
    """Return one finding as a line: its own words, or else what was seen and expected; and of how many."""
    where = "the whole model" if finding.lane in {"", "*"} else plain(finding.lane)
    return f"- {plain(finding.kind.replace('_', ' '))}, {where}: {in_words(finding)}, from {finding.n:,} events"


def in_words(finding: Evidence) -> str:
    """Say what a finding found: its own words, or else what was seen and what was expected."""
    numbers = f"{number(finding.observed)} {plain(finding.unit)}, expected {number(finding.expected)}"
    return detail(finding.message) or numbers


def _asks_for_rollback(incident: Incident, kinds: Mapping[str, KindRule], unknown: KindRule) -> bool:
    return any(
        finding.state == "firing" and kind_rule(kinds, unknown, finding.kind).rollback_now
        for finding in incident.findings
    )
