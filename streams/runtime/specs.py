"""What does a host have to know of each small stage: its topics, how their bytes become records, where outputs go?"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

import msgspec
from msgspec.structs import replace

from config.settings import Settings
from detectors.table import NEEDS
from detectors.usable import refuse_unusable
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.cloudevents import CloudEvent, from_kafka, incident_event, to_kafka
from schemas.dead_letter import DeadLetter
from schemas.deployment import Deployment
from schemas.fields import REFUSALS, MalformedRecordError, Record
from schemas.finding import Finding
from schemas.incident import Incident, Severity
from schemas.incident_action import IncidentAction
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime import topics
from streams.runtime.decisions import decisions_of
from streams.runtime.metrics import Measure
from streams.runtime.sent_again import as_attempt
from streams.runtime.stage_spec import Bytes, Handed, Headers, Routed, Rows, StageSpec
from streams.runtime.topics import partition_of
from streams.stages import policy
from streams.stages.detect import TICKS_AT_ONCE, Detect
from streams.stages.escalate import INCIDENTS_AT_ONCE, Escalate
from streams.stages.notify import Attempt, Notify
from streams.stages.triage import Triage

log = logging.getLogger("tocsin.escalate")

Dead = Callable[[str, int, Bytes, MalformedRecordError], Any]


def wall_ms() -> int:
    """Return the wall clock's time: written into records, never used in a decision."""
    return time.time_ns() // 1_000_000


def detect_spec(settings: Settings, ticks_at_once: int = TICKS_AT_ONCE) -> StageSpec[Any, Any]:
    """Turn window statistics into findings."""
    n, budget, tick_ms = settings.kafka.output_partitions, settings.budget(), settings.join.tick_ms

    def decoded(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Any:  # noqa: ANN401 -- an input
        record = decode(topic, key, value, headers)
        if isinstance(record, Baseline):
            refuse_unusable(record, tick_ms=tick_ms, needs=NEEDS)
        return record

    def make_stage(rows: Rows, partition: int) -> Detect:
        return Detect(
            rows=rows,
            partition=partition,
            partition_of=lambda model: partition_of(model, n),
            tenant=settings.tenant,
            environment=settings.environment,
            models=settings.models,
            budget=budget,
            ticks_at_once=ticks_at_once,
        )

    return StageSpec(
        name="detect",
        inputs=(topics.WINDOW_STATS, topics.BASELINES, topics.DEPLOYMENTS),
        make_stage=make_stage,
        decode=decoded,
        advance_by="records",
        told_at_ms=_untold,
        route=lambda output: route(output, n),
        dead=_dead("detect"),
        tell=decisions_of("detect", settings.models, settings.response.channels),
        measure=_measure_detect,
    )


def triage_spec(settings: Settings) -> StageSpec[Any, Any]:
    """Turn findings and acts into incidents."""
    n = settings.kafka.output_partitions
    with_sla = frozenset(name for name, model in settings.models.items() if model.sla_accuracy is not None)
    rules = settings.response.triage_settings(with_sla)

    def routed(output: Incident | DeadLetter) -> Routed | Handed | Sequence[Routed]:
        return _incident(output, settings) if isinstance(output, Incident) else route(output, n)

    return StageSpec(
        name="triage",
        inputs=(topics.FINDINGS, topics.ACTIONS, topics.DEPLOYMENTS),
        make_stage=lambda rows, _: Triage(rows=rows, settings=rules),
        decode=decode,
        advance_by="records",
        told_at_ms=_untold,
        route=routed,
        dead=_dead("triage"),
        tell=decisions_of("triage", settings.models, settings.response.channels),
        measure=_measure_triage,
    )


def escalate_spec(settings: Settings, incidents_at_once: int = INCIDENTS_AT_ONCE) -> StageSpec[Any, Any]:
    """Turn incidents into notifications."""
    rules = settings.response.escalate_settings()
    return StageSpec(
        name="escalate",
        inputs=(topics.INCIDENTS, topics.RECEIPTS),
        make_stage=lambda rows, _: Escalate(rows=rows, settings=rules, incidents_at_once=incidents_at_once),
        decode=_decode_usable,
        advance_by="clock",
        told_at_ms=_decided_at_ms,
        route=lambda output: route(output, settings.kafka.output_partitions),
        dead=_dead("escalate"),
        tell=decisions_of("escalate", settings.models, settings.response.channels),
        measure=_measure_escalate,
    )


def notify_spec(settings: Settings, submit: Callable[[Attempt], None]) -> StageSpec[Any, Any]:
    """Turn notifications into attempts, which `submit` takes without waiting, and into receipts."""
    n = settings.kafka.output_partitions

    def routed(output: Any) -> Routed | Handed | Sequence[Routed]:  # noqa: ANN401 -- NotifyOut
        return Handed(lambda: submit(output)) if isinstance(output, Attempt) else route(output, n)

    return StageSpec(
        name="notify",
        inputs=(topics.NOTIFICATIONS, topics.INCIDENTS, topics.RECEIPTS),
        make_stage=lambda rows, _: Notify(rows=rows, settings=settings.response.notify),
        decode=decode,
        advance_by="clock",
        told_at_ms=_decided_at_ms,
        route=routed,
        dead=_dead("notify"),
        tell=decisions_of("notify", settings.models, settings.response.channels),
        measure=_measure_notify,
    )


# ---- what there is to measure


def _lag(stage: str, partition: int, through_ms: int | None, now_ms: int) -> Iterator[Measure]:
    """Say how far behind the clock a stage has decided, once both are known."""
    if through_ms is not None and through_ms >= 0 and now_ms >= 0:
        lag_s = max(now_ms - through_ms, 0) / 1000
        yield Measure("tocsin_watermark_lag_seconds", (stage, str(partition)), lag_s)


def _measure_detect(stage: Detect, partition: int, now_ms: int) -> Iterator[Measure]:
    number, counts = str(partition), stage.counts
    yield from _lag("detect", partition, stage.through_ms, now_ms)
    yield Measure("tocsin_detect_ticks_total", (number,), counts.ticks)
    yield Measure("tocsin_detect_repeats_total", (number,), counts.repeats)
    yield Measure("tocsin_detect_blind_ticks_total", (number,), counts.blind_ticks)
    yield Measure("tocsin_detect_unknown_model_ticks_total", (number,), counts.unknown_model_ticks)
    yield Measure("tocsin_detect_shadow_alarms_total", (number,), counts.shadow_alarms)
    for ledger, spent in counts.spent.items():
        yield Measure("tocsin_budget_spent_total", (ledger, number), spent)


def _measure_triage(stage: Triage, partition: int, now_ms: int) -> Iterator[Measure]:
    yield from _lag("triage", partition, stage.through_ms, now_ms)
    opened = Counter(stage.open.values())
    for severity in Severity:
        yield Measure("tocsin_incidents_open", (severity.display, str(partition)), opened[severity])


def _measure_escalate(stage: Escalate, partition: int, now_ms: int) -> Iterator[Measure]:
    yield from _lag("escalate", partition, stage.now_ms, now_ms)


def _measure_notify(stage: Notify, partition: int, now_ms: int) -> Iterator[Measure]:
    yield from _lag("notify", partition, stage.clock_ms, now_ms)
    yield Measure("tocsin_notifications_waiting", (str(partition),), stage.waiting)
    yield Measure("tocsin_notify_forgotten_total", (str(partition),), stage.forgotten)


# ---- bytes to records


class _Tag(msgspec.Struct):
    record: str = ""


def _tag(value: bytes) -> str:
    """Read which record it is, of a topic that holds two kinds; what is no JSON has none."""
    try:
        return msgspec.json.decode(value.partition(b"\n")[0], type=_Tag).record
    except REFUSALS:
        return ""


_KINDS: Mapping[str, type[Record]] = {
    topics.DEPLOYMENTS: Deployment,
    topics.ACTIONS: IncidentAction,
    topics.NOTIFICATIONS: Notification,
    topics.RECEIPTS: Receipt,
}


def decode(topic: str, _key: bytes | None, value: bytes | None, headers: Headers) -> Any:  # noqa: ANN401 -- its stage's input
    """Turn the bytes of any topic past the join into a record; None for a tombstone.

    >>> decode("findings", None, b'{"record":"through","partition":2,"through_ms":7}', ()).through_ms
    7
    >>> decode("baselines", b"m/1/0", None, ()) is None
    True
    """
    match topic:
        case topics.WINDOW_STATS:
            return (Closed if _tag(value or b"") == "closed" else WindowStats).decode(value)
        case topics.FINDINGS:
            return (Through if _tag(value or b"") == "through" else Finding).decode(value)
        case topics.BASELINES:
            return None if value is None else Baseline.decode(value)
        case topics.INCIDENTS:
            event = from_kafka(headers, value)
            return Incident.decode(event.data if isinstance(event, CloudEvent) else event)
        case _:
            return _KINDS[topic].decode(value)


def _decode_usable(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Any:  # noqa: ANN401 -- its stage's input
    """Turn bytes into a record of escalate's, and say which of them are no incident that it can work for."""
    record = decode(topic, key, value, headers)
    if isinstance(record, Incident):
        policy.refuse_unusable(record)
        if policy.business_clock(record.policy.calendar).zone is UTC and record.policy.calendar.zone != "UTC":
            log.error(
                "incident.zone_unknown incident=%s error=this machine does not know the zone of its calendar: business "
                "hours count as those of UTC; mend the zone in the settings, or install a tzdata that has it",
                record.display_id,
            )
    return record


def _untold(_: object) -> None:
    """Tell no time: the stage's own inputs do."""


def _decided_at_ms(record: Incident | Notification | Receipt) -> int:
    return record.decided_at_ms


def _dead(stage: str) -> Dead:
    def dead(topic: str, partition: int, record: Bytes, error: MalformedRecordError) -> DeadLetter:
        letter = DeadLetter.of(
            error,
            topic=topic,
            partition=partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            stage=stage,
        )
        return as_attempt(letter, record.headers)

    return dead


# ---- records to bytes


def route(record: Any, n: int) -> Routed:  # noqa: ANN401 -- each record past the join but incidents
    """Say where an output goes, stamped with the wall time of its writing."""
    if hasattr(record, "recorded_at_ms"):
        record = replace(record, recorded_at_ms=wall_ms())
    return topics.route(record, n)


def _incident(incident: Incident, settings: Settings) -> list[Routed]:
    """Route an incident's record into the log and, the same bytes, over its last."""
    now_ms = wall_ms()
    event = incident_event(
        replace(incident, recorded_at_ms=now_ms),
        deployment=f"{settings.tenant}:{settings.environment}",
        type_prefix=settings.event_type_prefix,
        recorded_at_ms=now_ms,
    )
    headers, value = to_kafka(event)
    partition = partition_of(incident.model, settings.kafka.output_partitions)
    key = incident.incident_id.encode()
    return [
        Routed(topic=topic, key=key, value=value, headers=headers, partition=partition)
        for topic in (topics.INCIDENTS, topics.INCIDENTS_LATEST)
    ]
