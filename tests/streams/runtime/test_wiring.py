"""What a worker is called in its groups follows from its settings, for each stage by itself."""

import socket
from typing import get_args

import pytest

from config.load import load
from config.settings import Settings
from streams.runtime import specs
from streams.runtime.topics import CLOCK, DEAD_LETTERS, INCIDENTS, INCIDENTS_LATEST, ROUTES, STAGES, TOPICS
from streams.runtime.wiring import host_settings, hot_path_settings
from streams.stages import detect, escalate, notify, triage


def told(instance: str) -> Settings:
    return load(None, {"TOCSIN__WORKER__INSTANCE": instance}, {}, lambda _: ())


@pytest.mark.parametrize(("instance", "name"), [("pod-7", "pod-7"), ("a-{host}", f"a-{socket.gethostname()}")])
def test_a_worker_keeps_its_name_over_restarts(instance: str, name: str) -> None:
    settings = told(instance)
    assert hot_path_settings(settings, clock="wall").instance_id == f"{name}-join"
    assert host_settings(settings, "triage", writes_clock=True).instance_id == f"{name}-triage"


def test_a_worker_without_a_name_comes_and_goes() -> None:
    settings = told("")
    assert hot_path_settings(settings, clock="wall").instance_id is None
    assert host_settings(settings, "triage", writes_clock=True).instance_id is None


def test_the_table_of_topics_names_the_stages_that_read_and_nobody_who_is_not_there() -> None:
    settings = told("")
    small = [
        specs.detect_spec(settings),
        specs.triage_spec(settings),
        specs.escalate_spec(settings),
        specs.notify_spec(settings, lambda _: None),
    ]
    reads = {spec.name: {*spec.inputs, CLOCK} for spec in small}
    reads["join"] = {"model-outputs", "labels", "pending-changelog", "baselines", CLOCK}
    for stage in STAGES:
        assert {name for name, topic in TOPICS.items() if stage in topic.read_by} == reads[stage], stage
    others = {reader for topic in TOPICS.values() for reader in topic.read_by} - set(STAGES)
    assert others == {"command line", "consumers"}


def test_the_table_of_topics_names_the_stages_that_write() -> None:
    says = {
        "detect": detect.Out,
        "triage": triage.TriageOut,
        "escalate": escalate.EscalateOut,
        "notify": notify.NotifyOut,
    }
    for stage, records in says.items():
        writes = {ROUTES[record].topic for record in get_args(records) if record in ROUTES} | {CLOCK, DEAD_LETTERS}
        writes |= {INCIDENTS, INCIDENTS_LATEST} if stage == "triage" else set()
        assert {name for name, topic in TOPICS.items() if stage in topic.written_by} == writes, stage
