r"""What does a message say? Numbers and configured names, and nothing that a model, a label or a user wrote.

Names that come with the data (model, version, detector, unit, lane) are passed through `plain`, which leaves nothing in
them that could act: no control or bidirectional characters, no line breaks, no markup that mentions somebody, no links.
"""

import unicodedata
from collections.abc import Mapping

from schemas.ids import rfc3339
from schemas.incident import Evidence, Incident, Severity
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


def worst(incident: Incident) -> Evidence | None:
    """Return the finding that says most of the incident: the most severe that fires, the first of those."""
    if not incident.findings:
        return None
    return min(
        incident.findings, key=lambda one: (one.state != "firing", one.severity, one.decided_at_ms, one.finding_id)
    )


def says(incident: Incident, kinds: Mapping[str, KindRule], unknown: KindRule) -> str:
    """Return the configured sentence of what is wrong."""
    finding = worst(incident)
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
) -> str:
    """Return the message: what, how bad, since when, how much, and what to do."""
    version = f" (version {', '.join(plain(one) for one in incident.versions[-3:])})" if incident.versions else ""
    lines = [
        f"{incident.severity.display}, {incident.status}: {says(incident, kinds, unknown)}",
        f"Model: {plain(incident.model)}{version}, environment {plain(incident.environment or 'default')}",
        f"Why this message: {reason}",
        f"Affected since: {UNKNOWN if incident.impact_started_at_ms is None else minute(incident.impact_started_at_ms)}",
        f"Opened: {minute(incident.opened_at_ms)}",
        f"Users affected: {_impact(incident, 'users')}",
        f"Decisions affected: {_impact(incident, 'decisions')}",
    ]
    firing = [finding for finding in incident.findings if finding.state == "firing"]
    lines += [_evidence(finding) for finding in firing[:MAX_LINES]]
    if len(firing) > MAX_LINES:
        lines.append(f"and {len(firing) - MAX_LINES} more")
    if incident.severity is Severity.CRITICAL and _asks_for_rollback(incident, kinds, unknown):
        good = plain(incident.last_known_good) if incident.last_known_good else UNKNOWN
        lines.append(f"Roll back now, or switch to the fallback model. Last known good version: {good}")
    lines += [
        f"Deployed shortly before: {plain(change.kind)} {plain(change.version or change.deployment_id)}, {minute(change.at_ms)}"
        for change in incident.deployments[-3:]
    ]
    if late_by_ms > LATE_SHOWN_MS:
        lines.append(f"Late by {duration(late_by_ms)}")
    return cut("\n".join(lines), MAX_BODY)


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
