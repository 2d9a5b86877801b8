"""What a worker is called in its groups follows from its settings, for each stage by itself."""

import socket

import pytest

from config.load import load
from config.settings import Settings
from streams.runtime.wiring import host_settings, hot_path_settings


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
