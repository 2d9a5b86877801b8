"""What a worker is called in its groups follows from its settings, for each stage by itself."""

import asyncio
import socket
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace
from pytest_httpserver import HTTPServer

from config.load import load
from config.settings import Settings
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import specs
from streams.runtime.faust_host import FaustHost
from streams.runtime.stage_spec import Routed
from streams.runtime.topics import CLOCK, DEAD_LETTERS, INCIDENTS, INCIDENTS_LATEST, ROUTES, STAGES, TOPICS
from streams.runtime.wiring import SmallStages, host_settings, hot_path_settings
from streams.stages import detect, escalate, notify, triage
from streams.stages.notify import Attempt
from tests.bad_input.mutations import samples


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


CHANNEL = """
[channels.webhook.endpoints]
ops = { url = "%s", secret_from = "OPS", allow_private = true }
"""


def test_what_notify_decides_while_its_host_stops_is_sent_and_waits_for_no_other_try(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  waits for what is on its way | the host stops, and lets one more go | channels are closed
    httpserver.expect_request("/hook").respond_with_data("taken")
    (tmp_path / "tocsin.toml").write_text(CHANNEL % httpserver.url_for("/hook"))
    settings = load(tmp_path / "tocsin.toml", {}, {}, lambda _: ())
    message = replace(Notification.decode(samples("notification")[-1]), channel="webhook", address="ops")
    late = Attempt(notification=message, number=1, details=True, decided_at_ms=0, late_by_ms=0)
    receipts: list[Receipt] = []
    stop = FaustHost.stop

    async def lets_one_go(host: FaustHost) -> None:
        assert small.sender is not None
        small.sender.submit(late)
        await stop(host)

    async def keep(_: FaustHost, record: Routed) -> None:
        assert record.value is not None
        receipts.append(Receipt.decode(record.value))

    monkeypatch.setattr(FaustHost, "stop", lets_one_go)
    monkeypatch.setattr(FaustHost, "deliver", keep)

    async def made() -> SmallStages:
        return SmallStages(settings, ["notify"], {"OPS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, writes_clock=False)

    with asyncio.Runner() as runner:
        small = runner.run(made())
        runner.run(small.stop())
    assert [(receipt.status, receipt.reason) for receipt in receipts] == [("delivered", "sent")]


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
