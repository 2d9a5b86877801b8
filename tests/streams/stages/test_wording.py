"""Messages: numbers and configured names, harmless whatever the data say, short enough for every channel."""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import config
from schemas.incident import Evidence, Incident, Phase, Reason, Severity, Status
from schemas.notification import MessageReason
from schemas.response import Response
from streams.stages.policy import policy_hash
from streams.stages.wording import MAX_BODY, MAX_TITLE, body, cut, plain, says, title

RESPONSE = Response.of(tomllib.loads(Path(config.__file__).with_name("response.toml").read_text()))
JARGON = re.compile(
    r"\b(accuracy|precision|auc|f1|psi|ks|drift|e-value|p-value|logit|embedding|calibration|quantile|unlawful|breach of law)\b",
    re.IGNORECASE,
)
T0 = 1_795_600_800_000


def evidence(**what: object) -> Evidence:
    fields: dict[str, object] = {
        "finding_id": "f",
        "revision": 0,
        "detector": "accuracy_below_sla",
        "kind": "accuracy_below_sla",
        "lane": "*",
        "severity": Severity.HIGH,
        "state": "firing",
        "onset_from_at_ms": T0,
        "onset_to_at_ms": T0,
        "decided_at_ms": T0,
        "observed": 0.15,
        "expected": 0.08,
        "unit": "errors per outcome",
        "n": 1_234,
    }
    return Evidence(**(fields | what))  # type: ignore[arg-type]


def incident(**what: object) -> Incident:
    fields: dict[str, object] = {
        "incident_id": "260de83d-f6d6-5738-b2dd-2307938697ba",
        "display_id": "INC-260DE83DF6D6",
        "seq": 1,
        "tenant": "acme",
        "environment": "prod",
        "model": "credit",
        "versions": ("7",),
        "incident_class": "model_quality",
        "severity": Severity.HIGH,
        "severity_max": Severity.HIGH,
        "status": Status.INVESTIGATING,
        "phase": Phase.TRIAGE,
        "episode": 1,
        "group_hash": "g",
        "findings": (evidence(),),
        "findings_total": 1,
        "impact_started_at_ms": T0 - 3_600_000,
        "detected_at_ms": T0,
        "opened_at_ms": T0,
        "cause_at_ms": T0,
        "decided_at_ms": T0,
        "policy": RESPONSE.policy,
        "policy_hash": policy_hash(RESPONSE.policy),
        "reason": Reason.OPENED,
    }
    return Incident(**(fields | what))  # type: ignore[arg-type]


def sentence(of: Incident, reason: MessageReason, told: Collection[str] = ()) -> str:
    return says(of, reason, RESPONSE.kinds, RESPONSE.unknown_kind, told)


def text(of: Incident, late_by_ms: int = 0) -> str:
    return body(of, MessageReason.FIRST, RESPONSE.kinds, RESPONSE.unknown_kind, late_by_ms=late_by_ms)


def test_a_message_reads_like_this() -> None:
    assert text(incident()) == (
        "SEV-2, Investigating: More of the model's answers are wrong than was agreed.\n"
        "Model: credit (version 7), environment prod\n"
        "Why this message: first notification\n"
        "Affected since: between 2026-11-25 09:00 and 10:00 UTC\n"
        "Opened: 2026-11-25 10:00 UTC\n"
        "Users affected: not yet known\n"
        "Decisions affected: not yet known\n"
        "- accuracy below sla, the whole model: 0.15 errors per outcome, expected 0.08, from 1,234 events"
    )


SAYS = "feature weight_g is outside the reference's range in 17.1% of outputs, 0.00% usually"


def test_a_finding_speaks_in_its_own_words() -> None:
    found = evidence(kind="feature_corruption", message=SAYS, n=35)
    assert text(incident(findings=(found,))).endswith(
        f"\n- feature corruption, the whole model: {SAYS}, from 35 events"
    )


def test_a_title_is_one_line() -> None:
    said = title(incident(), MessageReason.FIRST, sentence(incident(), MessageReason.FIRST))
    assert said == (
        "[SEV-2] credit: More of the model's answers are wrong than was agreed. "
        "(Investigating, first notification) INC-260DE83DF6D6"
    )


@pytest.mark.parametrize("kind", sorted(RESPONSE.kinds))
def test_what_a_kind_says_is_free_of_jargon_and_of_legal_conclusions(kind: str) -> None:
    assert not JARGON.search(RESPONSE.kinds[kind].says)


def test_the_most_severe_finding_speaks() -> None:
    both = (evidence(finding_id="a", kind="latency_up", severity=Severity.MEDIUM), evidence(finding_id="b"))
    assert "than was agreed" in text(incident(findings=both))
    cleared = replace(evidence(finding_id="b"), state="cleared")
    assert "more slowly" in text(incident(findings=(both[0], cleared)))


def test_when_it_began_is_no_more_exact_than_it_is_known() -> None:
    first = evidence(finding_id="a", onset_from_at_ms=T0 - 3_600_000, onset_to_at_ms=T0 - 180_000)
    assert "Affected since: between 2026-11-25 09:00 and 09:57 UTC\n" in text(incident(findings=(evidence(), first)))
    exact = incident(impact_started_at_ms=T0)
    assert "Affected since: 2026-11-25 10:00 UTC\n" in text(exact)
    assert "Affected since: not yet known\n" in text(incident(impact_started_at_ms=None, findings=()))


def test_what_is_late_says_so_above_a_minute() -> None:
    assert "Late by" not in text(incident(), 60_000)
    assert "Late by 36 min" in text(incident(), 36 * 60_000)


def test_what_a_person_has_said_of_the_impact_is_shown() -> None:
    assert "Users affected: about 40" in text(incident(impact={"users": "about 40"}))


def test_what_is_new_is_named_first_and_what_is_old_is_counted_out_first() -> None:
    old = tuple(
        evidence(finding_id=f"o{at:02}", kind="feature_corruption", lane=f"hub={at}", decided_at_ms=T0 + at)
        for at in range(18)
    )
    more = evidence(finding_id="m", kind="feature_corruption", lane="hub=more", decided_at_ms=T0 + 20)
    slow = evidence(finding_id="s", kind="latency_up", lane="hub=s", severity=Severity.MEDIUM, decided_at_ms=T0 + 20)
    wrong = tuple(evidence(finding_id=f"w{at}", lane=f"hub=w{at}", decided_at_ms=T0 + 20) for at in range(2))
    told = tuple(finding.finding_id for finding in old)
    now = incident(findings=(*old, more, slow, *wrong), status=Status.CONTAINED)
    said = body(now, MessageReason.NEW_FINDINGS, RESPONSE.kinds, RESPONSE.unknown_kind, late_by_ms=0, told=told).split(
        "\n"
    )
    assert said[0] == "SEV-2, Contained: More of the model's answers are wrong than was agreed."
    assert said[1] == "As before: The model is given broken input."
    lanes = [line.partition(", ")[2].partition(":")[0] for line in said if line.startswith("- ")]
    assert lanes == ["hub=w0", "hub=s", "hub=w1", "hub=more", "hub=17"]
    assert said[-1] == "and 17 more"
    assert "than was agreed" in sentence(now, MessageReason.NEW_FINDINGS, told)
    assert "broken input" in sentence(now, MessageReason.ESCALATED, told)


def test_what_is_to_be_done_stands_before_what_was_found() -> None:
    asks = next(kind for kind, rule in RESPONSE.kinds.items() if rule.rollback_now)
    found = tuple(
        evidence(finding_id=f"f{at}", kind=asks, lane="l" * 200, message="m" * 200, severity=Severity.CRITICAL)
        for at in range(9)
    )
    worst = incident(findings=found, severity=Severity.CRITICAL, impact={"users": "u" * 200, "decisions": "d" * 200})
    assert "Roll back now" in text(worst)


def test_many_findings_are_counted_and_not_listed() -> None:
    many = tuple(evidence(finding_id=f"f{number}", lane=f"SEX={number}") for number in range(12))
    assert "and 7 more" in text(incident(findings=many))
    assert "and 17 more" in text(incident(findings=many, firing_total=len(many) + 10))
    assert "Still firing: 10" in text(incident(findings=(), firing_total=10))


HOSTILE = (
    "\r\nBcc: x@y <!channel> <@U1> @here [a](http://e.x) ![i](https://e.x/i) `id` \x1b[31m\u202e\u2066\x00*b* |t| # h"
)


@pytest.mark.parametrize("field", ["model", "environment", "lane", "unit", "kind", "message", "version", "impact"])
def test_hostile_names_cannot_act(field: str) -> None:
    if field in {"lane", "unit", "kind", "message"}:
        said = text(incident(findings=(evidence(**{field: HOSTILE}),)))
    elif field == "version":
        said = text(incident(versions=(HOSTILE,)))
    elif field == "impact":
        said = text(incident(impact={"users": HOSTILE}))
    else:
        said = text(incident(**{field: HOSTILE}))
    lines = said.split("\n")
    assert not any(line.startswith("Bcc:") for line in lines)
    for bad in ("<", ">", "@", "](", "`", "\x1b", "\u202e", "\u2066", "\x00", "\r", "://"):
        assert bad not in said


@given(st.text(max_size=300))
def test_no_text_whatever_gets_through_with_power(name: str) -> None:
    said = plain(name)
    assert said
    assert len(said) <= 80
    assert "\n" not in said
    assert not set(said) & set("<>@`[]|*#")
    assert said.isprintable()
    assert "://" not in said


@given(st.text(max_size=40), st.integers(1, 30))
def test_cutting_never_exceeds_and_says_when_it_cut(said: str, limit: int) -> None:
    short = cut(said, limit)
    assert len(short) <= limit
    assert short == said or (short.endswith("…") and said.startswith(short[:-1]))


def test_messages_stay_within_their_limits() -> None:
    wide = incident(
        model="m" * 512,
        versions=tuple("v" * 200 for _ in range(20)),
        findings=tuple(evidence(finding_id=f"f{n}", lane="l" * 200, unit="u" * 200) for n in range(50)),
        impact={"users": "u" * 2_000, "decisions": "d" * 2_000},
    )
    assert len(text(wide)) <= MAX_BODY
    assert len(title(wide, MessageReason.OPENED_AND_RESOLVED, "s" * 500)) <= MAX_TITLE
