"""A finding, and the time that has to pass until triage opens an incident for it."""

import time

from confluent_kafka import Producer

from schemas.finding import Effect, Finding
from schemas.ids import finding_id
from schemas.through import Through
from streams.runtime.topics import partition_of

LONG_AGO_MS = 300_000
"""Before now: longer than a page's hold-down."""


def find(address: str, prefix: str, model: str) -> None:
    """Write a finding of a model as of some minutes ago, and let time pass for its partition until a minute ago."""
    now_ms = time.time_ns() // 10_000_000_000 * 10_000
    alarm_ms = now_ms - LONG_AGO_MS
    finding = Finding(
        finding_id=finding_id(
            tenant="default", environment="production", model=model, version="", segment="",
            detector="accuracy_below_sla", alarm_tick_ms=alarm_ms,
        ),
        state="firing", tenant="default", environment="production", model=model, lane="*",
        detector="accuracy_below_sla", kind="accuracy_below_sla", ledger="page", guarantee="budget",
        alarm_tick_ms=alarm_ms, decided_at_ms=alarm_ms, onset_from_ms=alarm_ms - 600_000,
        onset_to_ms=alarm_ms - 300_000, effect=Effect(observed=0.8, expected=0.9, unit="accuracy"), n=400,
        log_evidence=21.0, baseline_version=1,
    )  # fmt: skip
    partition = partition_of(model, 4)
    producer = Producer({"bootstrap.servers": address})
    producer.produce(f"{prefix}findings", finding.encode(), model, partition)
    for through_ms in range(alarm_ms, now_ms - 60_000, 10_000):
        mark = Through(partition=partition, through_ms=through_ms)
        producer.produce(f"{prefix}findings", mark.encode(), None, partition)
    assert producer.flush(30) == 0
