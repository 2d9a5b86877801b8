r"""By which name is the same thing known, whoever says it, and however often?

Every id past the join is a function of what the thing is. So a replay, a restart or a second owner says the same name,
and at-least-once is enough between stages.

    canon(map)   = JSON of the map's non-empty texts: NFC, keys sorted, no spaces, UTF-8
    finding_id   = sha256(canon{tenant, environment, model, version, segment, detector, alarm_tick})
    group_hash   = sha256(canon{rule, grouping labels})
    incident_id  = UUIDv5(NS, group_hash "/" opening finding_id),   NS = UUIDv5(URL namespace, "urn:tocsin")
"""

import hashlib
import unicodedata
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:tocsin")
"""Under which all of our UUIDs stand: `3c3bf495-7d9f-5d0f-aa64-4399988d5953`."""

TIMES_KEPT = 4_096
"""Times whose text is remembered: each transition of an incident writes those of all transitions before it again."""


@lru_cache(TIMES_KEPT)
def rfc3339(at_ms: int) -> str:
    """Write a time the one way in which ids know it: UTC, with milliseconds.

    >>> rfc3339(1_795_600_800_000), rfc3339(7)
    ('2026-11-25T10:00:00.000Z', '1970-01-01T00:00:00.007Z')
    """
    seconds, ms = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{ms:03d}Z"


def canon(labels: Mapping[str, str]) -> bytes:
    r"""Write texts the one way: NFC, empty values left out (missing is empty), keys sorted, JSON without spaces, UTF-8.

    >>> canon({"b": "2", "a": "cafe\u0301", "c": ""}).decode()
    '{"a":"café","b":"2"}'
    """
    texts = {unicodedata.normalize("NFC", name): unicodedata.normalize("NFC", text) for name, text in labels.items()}
    return msgspec.json.encode({name: texts[name] for name in sorted(texts) if texts[name]})


def _digest(labels: Mapping[str, str]) -> str:
    return hashlib.sha256(canon(labels)).hexdigest()


def finding_id(
    *, tenant: str, environment: str, model: str, version: str, segment: str, detector: str, alarm_tick_ms: int
) -> str:
    """Name a finding, 64 hex digits; `alarm_tick_ms` is the end of the tick in which the alarm level was crossed.

    It does not change when the onset is dated anew; an update keeps it and raises the revision.

    >>> finding_id(tenant="acme", environment="prod", model="credit-score", version="7", segment="",
    ...            detector="accuracy_below_sla", alarm_tick_ms=1_795_600_800_000)
    'ae5205b74ae4819e36ff4fd5bc48500c4c93a478902a3569dcfbec1016f31a07'
    """
    return _digest(
        {
            "tenant": tenant,
            "environment": environment,
            "model": model,
            "version": version,
            "segment": segment,
            "detector": detector,
            "alarm_tick": rfc3339(alarm_tick_ms),
        }
    )


def group_hash(rule: str, labels: Mapping[str, str]) -> str:
    """Name the group of findings that one incident gathers, 64 hex digits.

    >>> group_hash("default", {"tenant": "acme", "environment": "prod", "model": "credit-score",
    ...                        "class": "model_quality"})
    '1115fde2568c8c05bff66b88d8a3d8d909e9e4db7232e249974fd843aafbdd23'
    """
    assert "rule" not in labels, "the label `rule` is the rule's own name"
    return _digest({**labels, "rule": rule})


def incident_id(group: str, opened_by: str) -> str:
    """Name an incident: its group's hash, and the finding that opened it (or the act, where a person did).

    >>> incident_id("1115fde2568c8c05bff66b88d8a3d8d909e9e4db7232e249974fd843aafbdd23",
    ...             "ae5205b74ae4819e36ff4fd5bc48500c4c93a478902a3569dcfbec1016f31a07")
    '260de83d-f6d6-5738-b2dd-2307938697ba'
    """
    return str(uuid.uuid5(NAMESPACE, f"{group}/{opened_by}"))


def display_id(incident: str) -> str:
    """Shorten an incident's id to what a person can say.

    >>> display_id("260de83d-f6d6-5738-b2dd-2307938697ba")
    'INC-260DE83DF6D6'
    """
    return f"INC-{uuid.UUID(incident).hex[:12].upper()}"


def dedup_key(incident: str) -> str:
    """Name an incident for other systems, 64 hex digits: below every provider's limit.

    It belongs to the incident and not to its group, so that the late end of an old one cannot close a new one.

    >>> dedup_key("260de83d-f6d6-5738-b2dd-2307938697ba")
    'e1d80c89adbe203d2ce91c93e4cbb9cc99295bf72c27092f23d4d4e8409b1c09'
    """
    return hashlib.sha256(f"tocsin/{incident}".encode()).hexdigest()


def notification_id(incident: str, *, cause: str, purpose: str, channel: str, target: str) -> str:
    """Name one message for one target; its attempts share it.

    Parameters
    ----------
    cause
        `seq:<n>`, `step:<cycle>.<step id>` or `timer:<name>:<deadline ms>`.
    target
        The configured target (a schedule, a role), not the person whom it resolves to.

    Examples
    --------
    >>> notification_id("260de83d-f6d6-5738-b2dd-2307938697ba", cause="step:0.page", purpose="page",
    ...                 channel="pagerduty", target="team:ml-engineering")
    'af2cbcf8-1a0f-5007-b165-f69eced7d67b'
    """
    return str(uuid.uuid5(uuid.UUID(incident), f"{cause}/{purpose}/{channel}/{target}"))
