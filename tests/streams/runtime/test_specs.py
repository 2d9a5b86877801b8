"""What is measured of each small stage is what the stage says of itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from config.load import load
from schemas.closed import Closed
from schemas.fields import MalformedRecordError
from schemas.incident import Incident, Severity
from schemas.instant import Instant
from schemas.notification import Notification
from schemas.policy import Exhausted, Repeat
from streams.runtime import specs, topics
from streams.runtime.stage_spec import StageSpec
from streams.stages.detect import Counts, Detect
from streams.stages.escalate import Escalate
from streams.stages.notify import Notify
from streams.stages.triage import Triage
from tests.streams.stages.test_triage import T0, finding, through

NOW_MS = T0 + 7_000_000
PARTITION = 3
SETTINGS = load(None, {}, {}, lambda _: ())
SPECS = (
    specs.detect_spec(SETTINGS),
    specs.triage_spec(SETTINGS),
    specs.escalate_spec(SETTINGS),
    specs.notify_spec(SETTINGS, lambda _: None),
)
DETECT, TRIAGE, ESCALATE, NOTIFY = SPECS
SAMPLE = Path(__file__).parents[2] / "golden" / "wire" / "notification" / "1.json"


def measured(spec: StageSpec[Any, Any], stage: object, now_ms: int = NOW_MS) -> dict[tuple[str, ...], float]:
    """Return by name and labels what is measured of a stage."""
    measures = list(spec.measure(stage, PARTITION, now_ms))
    found = {(name, *labels): value for name, labels, value in measures}
    assert len(found) == len(measures), "what two say under the same labels would be added"
    return found


def test_what_detect_counts_and_spends_is_measured() -> None:
    stage = DETECT.make_stage({}, PARTITION)
    assert isinstance(stage, Detect)
    stage.receive(
        [Closed(source_partition=0, source_partitions=1, through_ms=T0, cause="records", sampled=0, misplaced=0)]
    )
    stage.counts = Counts(
        ticks=11, repeats=12, blind_ticks=13, unknown_model_ticks=14, shadow_alarms=15,
        spent={"page": 0.25, "ticket": 17.5},
    )  # fmt: skip
    assert measured(DETECT, stage) == {
        ("tocsin_watermark_lag_seconds", "detect", "3"): 7_000,
        ("tocsin_detect_ticks_total", "3"): 11,
        ("tocsin_detect_repeats_total", "3"): 12,
        ("tocsin_detect_blind_ticks_total", "3"): 13,
        ("tocsin_detect_unknown_model_ticks_total", "3"): 14,
        ("tocsin_detect_shadow_alarms_total", "3"): 15,
        ("tocsin_budget_spent_total", "page", "3"): 0.25,
        ("tocsin_budget_spent_total", "ticket", "3"): 17.5,
    }


def test_incidents_that_are_open_are_measured_by_severity() -> None:
    stage = TRIAGE.make_stage({}, PARTITION)
    assert isinstance(stage, Triage)
    wanted = {"pii_leak": 1, "feature_corruption": 2, "latency_up": 3, "drift": 4}
    names = [(kind, f"{kind} {number}") for kind, count in wanted.items() for number in range(count)]
    stage.receive([*(finding(kind, model=name, finding_id=name) for kind, name in names), through(90)])
    assert measured(TRIAGE, stage) == {
        ("tocsin_watermark_lag_seconds", "triage", "3"): 1_600,
        ("tocsin_incidents_open", "SEV-1", "3"): 1,
        ("tocsin_incidents_open", "SEV-2", "3"): 2,
        ("tocsin_incidents_open", "SEV-3", "3"): 3,
        ("tocsin_incidents_open", "SEV-4", "3"): 4,
    }


def test_how_far_escalate_has_come_is_measured() -> None:
    stage = ESCALATE.make_stage({}, PARTITION)
    assert isinstance(stage, Escalate)
    stage.advance(T0)
    assert measured(ESCALATE, stage) == {("tocsin_watermark_lag_seconds", "escalate", "3"): 7_000}


def test_messages_that_wait_are_measured() -> None:
    stage = NOTIFY.make_stage({}, PARTITION)
    assert isinstance(stage, Notify)
    stage.clock(T0, live=False)
    one = Notification.decode(SAMPLE.read_bytes().strip())
    stage.receive([replace(one, notification_id=str(number)) for number in range(5)])
    assert measured(NOTIFY, stage) == {
        ("tocsin_watermark_lag_seconds", "notify", "3"): 7_000,
        ("tocsin_notifications_waiting", "3"): 5,
        ("tocsin_notify_forgotten_total", "3"): 0,
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_stage_that_knows_no_time_yet_is_not_said_to_lag(spec: StageSpec[Any, Any]) -> None:
    stage = spec.make_stage({}, PARTITION)
    assert ("tocsin_watermark_lag_seconds", spec.name, "3") not in measured(spec, stage)


def opened() -> Incident:
    """Return a SEV-1 as triage opens it, under the default policy."""
    stage = TRIAGE.make_stage({}, PARTITION)
    [incident] = stage.receive([finding("unsafe_output"), through(90)])
    assert isinstance(incident, Incident)
    return incident


def heard(incident: Incident) -> Incident:
    """Return what escalate is given of an incident's bytes."""
    record = ESCALATE.decode(topics.INCIDENTS, None, incident.encode(), ())
    assert isinstance(record, Incident)
    return record


def with_calendar(incident: Incident, **changes: object) -> Incident:
    policy = incident.policy
    return replace(incident, policy=replace(policy, calendar=replace(policy.calendar, **changes)))


def with_rule(incident: Incident, **changes: object) -> Incident:
    policy = incident.policy
    return replace(
        incident,
        policy=replace(policy, severities=policy.severities | {"1": replace(policy.severities["1"], **changes)}),
    )


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda one: replace(one, incident_id="no UUID"), "incident_id"),
        (lambda one: replace(one, policy=replace(one.policy, severities={})), "policy.severities"),
        (lambda one: replace(one, policy=replace(one.policy, routes={})), "policy.routes"),
        (lambda one: with_calendar(one, holidays=("2026-02-30",)), "policy.calendar.holidays"),
        (lambda one: with_calendar(one, weekly=((0, 0, 60), (0, 30, 90))), "policy.calendar.weekly"),
        (lambda one: with_calendar(one, weekly=((0, 0, 1),)), "policy.calendar"),
        (
            lambda one: with_rule(
                one, steps=(one.policy.severities["1"].steps[0], Repeat(id="again", times=3, to="nowhere"))
            ),
            "policy.severities.1",
        ),
        (
            lambda one: with_rule(one, exhausted=Exhausted(again="interval", every_ms=0)),
            "policy.severities.1.exhausted",
        ),
    ],
)
def test_an_incident_that_no_ladder_can_be_climbed_for_is_refused(
    spoil: Callable[[Incident], Incident], field: str
) -> None:
    incident = opened()
    assert heard(incident) == incident
    with pytest.raises(MalformedRecordError) as refused:
        heard(spoil(incident))
    assert refused.value.field == field
    assert "nowhere" not in str(refused.value)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe"])
def test_a_zone_that_is_not_known_any_more_counts_as_utc_and_is_said(
    zone: str, caplog: pytest.LogCaptureFixture
) -> None:
    incident = heard(replace(with_calendar(opened(), zone=zone), severity=Severity.LOW))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["incident.zone_unknown"]
    stage, utc = ESCALATE.make_stage({}, PARTITION), ESCALATE.make_stage({}, PARTITION)
    told = [
        [*one.receive([record]), *one.advance(incident.decided_at_ms + 10 * 86_400_000)]
        for one, record in ((stage, incident), (utc, with_calendar(incident, zone="UTC")))
    ]
    assert told[0] == told[1] != []


@pytest.mark.parametrize("severity", Severity)
def test_an_incident_of_the_last_year_that_there_is_ends_no_escalate(severity: Severity) -> None:
    at_ms = Instant(253_402_300_799_999)
    one = replace(opened(), severity=severity, opened_at_ms=at_ms, decided_at_ms=at_ms)
    stage = ESCALATE.make_stage({}, PARTITION)
    stage.receive([heard(one)])
    stage.advance(T0)
