"""The same thing has the same name, and another thing another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import NAMESPACE, canon, finding_id, group_hash, incident_id, notification_id, rfc3339

FINDING = {
    "tenant": "acme",
    "environment": "prod",
    "model": "credit-score",
    "version": "7",
    "segment": "",
    "detector": "accuracy_below_sla",
}


def test_the_namespace_is_ours() -> None:
    assert str(NAMESPACE) == "3c3bf495-7d9f-5d0f-aa64-4399988d5953"


def test_the_canonical_form_is_the_one_that_was_published() -> None:
    assert canon({"alarm_tick": rfc3339(1_795_600_800_000), **FINDING}).decode() == (
        '{"alarm_tick":"2026-11-25T10:00:00.000Z","detector":"accuracy_below_sla","environment":"prod",'
        '"model":"credit-score","tenant":"acme","version":"7"}'
    )


def test_missing_is_empty() -> None:
    assert canon({"a": "1", "b": ""}) == canon({"a": "1"})


def test_composed_and_decomposed_letters_are_one_name() -> None:
    assert canon({"e\u0301": "n\u0303"}) == canon({"\u00e9": "\u00f1"})


@given(labels=st.dictionaries(st.text("abc", max_size=4), st.text(max_size=4), max_size=4))
def test_order_does_not_matter(labels: dict[str, str]) -> None:
    assert canon(labels) == canon(dict(reversed(labels.items())))


@pytest.mark.parametrize("name", sorted(FINDING))
def test_each_part_of_a_finding_tells_it_from_others(name: str) -> None:
    other = {**FINDING, name: FINDING[name] + "x"}
    assert finding_id(**other, alarm_tick_ms=0) != finding_id(**FINDING, alarm_tick_ms=0)


def test_the_alarm_tick_tells_findings_apart() -> None:
    assert finding_id(**FINDING, alarm_tick_ms=10_000) != finding_id(**FINDING, alarm_tick_ms=20_000)


def test_two_findings_of_one_group_open_two_incidents() -> None:
    group = group_hash("default", {"tenant": "acme"})
    assert incident_id(group, "a") != incident_id(group, "b")


def test_a_notification_is_named_by_its_cause_and_target() -> None:
    incident = incident_id(group_hash("default", {"tenant": "acme"}), "a")
    parts = {"cause": "seq:1", "purpose": "page", "channel": "log", "target": "team:a"}
    names = {notification_id(incident, **{**parts, part: "other"}) for part in parts}
    assert len(names | {notification_id(incident, **parts)}) == 5
