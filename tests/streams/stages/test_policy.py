"""Settings of the response: what cannot be meant is named, all of it, and the defaults are the playbook's."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

import config
from schemas.fields import MalformedRecordError
from schemas.incident import Severity
from schemas.response import Response
from streams.stages.business_clock import BusinessClock
from streams.stages.detect import UNKNOWN_QUIET_MS
from streams.stages.policy import (
    MAX_POLICY_BYTES,
    asked_of,
    faults,
    of_severity,
    policy_hash,
    response_deadline,
    targets_of,
)

RAW: dict[str, Any] = tomllib.loads(Path(config.__file__).with_name("response.toml").read_text())
CHANNELS = ("log", "file", "webhook")
MINUTE = 60_000


def changed(*path: str | int, to: object) -> Response:
    """Read the defaults with one place changed; `None` takes it out."""
    raw = copy.deepcopy(RAW)
    place: Any = raw
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return Response.of(raw)


def steps(severity: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = copy.deepcopy(RAW["policy"]["severities"][severity]["steps"])
    return found


def test_the_defaults_have_no_fault() -> None:
    assert faults(Response.of(RAW), CHANNELS) == []
    assert len(Response.of(RAW).policy.encode()) < MAX_POLICY_BYTES // 2


def test_the_defaults_are_the_playbooks() -> None:
    policy = Response.of(RAW).policy
    clock = BusinessClock(policy.calendar)
    due = [response_deadline(of_severity(policy, severity), 0, clock) for severity in list(Severity)[:2]]
    assert [(one.due_at_ms, one.strict) for one in due] == [(15 * MINUTE, True), (60 * MINUTE, False)]
    severities = {kind: rule.severity for kind, rule in Response.of(RAW).kinds.items()}
    assert severities["pii_leak"] == severities["model_outage"] == severities["unsafe_output"] == 1
    assert severities["accuracy_below_sla"] == severities["hallucination_up"] == severities["feature_corruption"] == 2
    assert severities["accuracy_trending_down"] == severities["latency_up"] == severities["feature_stale"] == 3
    assert severities["drift"] == severities["monitoring_gap"] == severities["doc_outdated"] == 4


def test_a_row_that_somebody_sent_once_of_an_unknown_model_clears_within_the_hold_down() -> None:
    response = Response.of(RAW)
    rule = response.kinds["monitoring_gap"]
    assert (rule.severity, rule.open_after_ms) == (4, None)
    assert response.triage.hold_downs["4"].open_after_ms > UNKNOWN_QUIET_MS


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (changed("policy", "severities", "3", to=None), "policy.severities: 3 is missing"),
        (changed("triage", "hold_downs", "2", to=None), "triage.hold_downs: 2 is missing"),
        (changed("triage", "hold_downs", "1", "resolve_after_ms", to=5), "SEV-1 never resolves by itself"),
        (changed("policy", "calendar", "zone", to="Middle/Earth"), "calendar.zone"),
        (changed("policy", "calendar", "holidays", to=["2026-02-30"]), "policy.calendar.holidays"),
        (changed("policy", "calendar", "weekly", to=[[0, 0, 1]]), "policy.calendar: no business within"),
        (changed("policy", "severities", "2", "steps", to=steps("2")[:-1]), "no step is a fallback"),
        (changed("policy", "severities", "1", "steps", to=steps("1")[::-1]), "the fallback is not the last step"),
        (changed("policy", "severities", "1", "steps", to=steps("1")[3:]), "no responder is paged at once"),
        (
            changed("policy", "severities", "1", "steps", to=[*steps("1")[:4], *steps("1")[-1:]]),
            "no second responder target",
        ),
        (changed("policy", "severities", "1", "first_wait_ms", to=1), "the first page waits"),
        (changed("policy", "severities", "2", "steps", 8, "to", to="fallback"), "which is no earlier step"),
        (changed("policy", "severities", "2", "steps", 1, "id", to="page"), "two steps are called `page`"),
        (
            changed("policy", "severities", "1", "exhausted", to={"again": "interval", "every_ms": 0}),
            "an interval is at least",
        ),
        (changed("directory", "role:ciso", to=None), "`role:ciso` is used by the policy and is not there"),
        (
            changed("directory", "role:ciso", to=[{"channel": "pigeon", "address": "x", "modes": ["page"]}]),
            "`pigeon` is no channel",
        ),
        (
            changed("directory", "role:ciso", to=[{"channel": "log", "address": x, "modes": ["page"]} for x in "ab"]),
            "two ways by `log` for page",
        ),
        (changed("channels", to={"pigeon": {}, "log": {}}), "channels: `pigeon` is no channel"),
        (changed("sender", "turn_wait_ms", to=120_000), "together reach notify.attempt_wait_ms"),
        (changed("notify", "give_up_ms", "page", to=None), "notify.give_up_ms: page is missing"),
    ],
)
def test_what_cannot_be_meant_is_named(response: Response, fault: str) -> None:
    assert any(fault in one for one in faults(response, CHANNELS)), faults(response, CHANNELS)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("notify", "backof_base_ms"), 5),
        (("policy", "severities", "1", "steps", 0, "do"), "shout"),
        (("policy", "severities", "1", "steps", 8, "times"), -1),
        (("policy", "severities", "1", "steps", 8, "times"), 10),
        (("policy", "severities", "1", "steps", 3, "for_ms"), 1_000),
        (("policy", "severities", "1", "steps", 0, "targets"), []),
        (("policy", "severities", "5"), RAW["policy"]["severities"]["1"]),
        (("kinds", "drift", "severity"), 5),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(path: tuple[str | int, ...], to: object) -> None:
    with pytest.raises(MalformedRecordError):
        changed(*path, to=to)


def test_a_policys_name_follows_from_its_content() -> None:
    one, other = Response.of(RAW).policy, changed("policy", "name", to="another").policy
    assert policy_hash(one) == policy_hash(Response.of(RAW).policy) != policy_hash(other)


def test_class_targets_are_those_of_the_class_each_once() -> None:
    policy = Response.of(RAW).policy
    asked = ["class:oncall", "role:legal", "role:ciso"]
    assert targets_of(policy, "fairness_compliance", asked) == [
        "team:ethics",
        "role:legal",
        "team:ml-oncall",
        "role:ciso",
    ]
    assert targets_of(policy, "no such class", ["class:oncall"]) == ["team:ml-oncall"]


def test_who_is_also_a_responder_responds() -> None:
    policy = Response.of(RAW).policy
    for incident_class, severity, target, group in (
        ("model_quality", Severity.CRITICAL, "role:legal", "accountable"),
        ("fairness_compliance", Severity.CRITICAL, "role:legal", "responders"),
        ("model_quality", Severity.HIGH, "role:ml-lead", "responders"),
    ):
        assert asked_of(policy, incident_class, severity, severity)[target] == group


def test_who_was_told_at_a_worse_severity_stays_what_he_was_there() -> None:
    policy = Response.of(RAW).policy
    now = asked_of(policy, "model_quality", Severity.HIGH, Severity.HIGH)
    assert "role:legal" not in now
    since = asked_of(policy, "model_quality", Severity.HIGH, Severity.CRITICAL)
    assert since["role:legal"] == "accountable"
    assert since["role:ml-lead"] == now["role:ml-lead"] == "responders"
    assert not any(target.startswith("class:") for target in since)
