"""The services of `docker-compose.yml` as processes: their own commands, environment and health checks, on the Kafka there."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from config.load import load
from config.settings import Settings
from deploy.kafka.local_kafka import LOOPBACK, NotFetchedError, free_ports, java_command, pinned
from schemas.label import Label
from schemas.output import Output
from streams.runtime.producer import Rows
from streams.runtime.terminal import Exit
from streams.runtime.topics import STAGES
from tests.integration.conftest import NOT_FETCHED, no_kafka

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "deploy" / "docker" / "tocsin.toml"
WORK = "/var/lib/tocsin"
"""Where a container of the image begins."""
PROBES = "9464"
KAFKA_HEAP_MB = 512
WAIT_S = 180

pytestmark = pytest.mark.program("docker-compose")
Service = Mapping[str, Any]


def services(broker: str | None = None) -> Mapping[str, Service]:
    """Return the services as docker-compose reads them, anchors and variables resolved."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN", "COMPOSE"))}
    environment |= {} if broker is None else {"TOCSIN_BROKER": broker}
    read = subprocess.run(
        ["docker-compose", "config"],  # noqa: S607 -- the one of this machine
        check=False, capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    found: Mapping[str, Service] = yaml.safe_load(read.stdout)["services"]
    return found


def seconds(duration: str) -> int:
    """Read a duration of Compose, `60s` or `1m0s`."""
    return sum(
        int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([hms])", duration)
    )


def settings(broker: str) -> Settings:
    return load(SETTINGS, {"TOCSIN__KAFKA__BROKER": broker}, {}, lambda _: ())


def test_each_stage_is_a_service_that_has_the_time_it_needs() -> None:
    found, worker = services(), settings("kafka:9092").worker
    assert found.keys() == {"kafka", "topics", *STAGES}
    for stage in STAGES:
        service = found[stage]
        assert service["command"] == ["worker", stage, "--config", "/etc/tocsin/tocsin.toml"]
        assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
        assert seconds(service["stop_grace_period"]) * 1000 > worker.stop_wait_ms
        assert seconds(service["healthcheck"]["start_period"]) * 1000 >= worker.restore_wait_ms
        assert service["init"] is service["read_only"] is True
        assert service["environment"]["TOCSIN__KAFKA__BROKER"] == "kafka:9092"
    assert found["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"


def test_it_is_the_kafka_that_everything_is_tested_on() -> None:
    (version,) = {one.version for one in pinned("artifacts.txt") if one.name == "kafka-server"}
    assert services()["kafka"]["image"] == f"apache/kafka:{version}"


# ---- what an engine does


@dataclass(frozen=True, kw_only=True)
class Container:
    """One process in the place of a container, with what an engine would give that: a name, ports and volumes of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    check: Sequence[str]
    port: int

    def is_healthy(self) -> bool:
        """Run the service's own health check."""
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-3000:]}"
        return subprocess.run(self.check, check=False, capture_output=True, env=environment()).returncode == 0

    def metrics(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        with urlopen(f"http://{LOOPBACK}:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if re.match(rf"{name}[{{ ]", line) and all(one in line for one in wanted)
        )


def environment(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a process of the image sees: nothing of ours but where programs are."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **(own or {})}


class Engine:
    """Starts services in a folder; every volume is a folder below it, and every container's port another of ours."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self._folder = folder
        self._running = running

    def run(self, service: Service) -> int:
        """Run a service that ends by itself; return its status."""
        words = ["tocsin", *self._here(service, service["command"])]
        done = subprocess.run(
            words, check=False, capture_output=True, cwd=self._work(service), env=environment(service["environment"])
        )
        return done.returncode

    def start(self, name: str, service: Service, number: int) -> Container:
        """Start one container of a service."""
        (port,) = free_ports(1)
        own = {
            key: value.replace("{host}", f"{name}-{number}").replace(PROBES, str(port))
            for key, value in service["environment"].items()
        }
        log = self._folder / f"{name}-{number}.log"
        process = self._spawn(
            ["tocsin", *self._here(service, service["command"])], log, self._work(service), environment(own)
        )
        check = [word.replace(PROBES, str(port)) for word in service["healthcheck"]["test"][1:]]
        return Container(name=f"{name}-{number}", process=process, log=log, check=check, port=port)

    def start_kafka(self, service: Service) -> tuple[Container, str]:
        """Start Kafka as its image does: the environment makes its properties, and its folder is formatted once."""
        ports = dict(zip(("INSIDE", "OUTSIDE", "CONTROLLER"), free_ports(3), strict=True))
        records = self._folder / "records"
        told = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): self._with_ports(value, ports)
            for name, value in service["environment"].items()
            if name.startswith("KAFKA_")
        }
        told["log.dirs"] = told["log.dirs"].replace("/var/lib/kafka/data", str(records))
        file = self._folder / "kafka.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
        java = java_command(KAFKA_HEAP_MB)
        formatted = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            service["environment"]["CLUSTER_ID"],
            "-c",
            str(file),
        ]
        subprocess.run(formatted, check=True, capture_output=True)
        log = self._folder / "kafka.log"
        process = self._spawn([*java, "kafka.Kafka", str(file)], log, self._folder, dict(os.environ))
        check = [word.replace("/9092", f"/{ports['INSIDE']}") for word in service["healthcheck"]["test"][1:]]
        kafka = Container(name="kafka", process=process, log=log, check=check, port=ports["INSIDE"])
        return kafka, f"{LOOPBACK}:{ports['INSIDE']}"

    def _with_ports(self, value: str, ports: Mapping[str, int]) -> str:
        """Put our addresses into listeners: `NAME://host:port`, and the controller's `1@host:port`."""
        value = re.sub(r"(\w+)://[\w.]*:\d+", lambda found: f"{found[1]}://{LOOPBACK}:{ports[found[1]]}", value)
        return re.sub(r"@\w+:\d+", f"@{LOOPBACK}:{ports['CONTROLLER']}", value)

    def _spawn(self, words: Sequence[str], log: Path, work: Path, own: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=work, env=own)
        self._running.callback(process.wait, WAIT_S)
        self._running.callback(process.kill)
        return process

    def _volumes(self, service: Service) -> dict[str, str]:
        """Return what is mounted, by its place in the container."""
        found = {}
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":") if isinstance(volume, str) else (volume["source"], volume["target"])
            if not source.startswith("/"):
                (self._folder / source).mkdir(exist_ok=True)
            found[target] = str(self._folder / source)
        return found

    def _here(self, service: Service, words: Sequence[str]) -> list[str]:
        """Put our paths in the place of a container's."""
        mounted = self._volumes(service)
        return [mounted.get(word, word) for word in words]

    def _work(self, service: Service) -> Path:
        return Path(self._volumes(service)[WORK])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with ExitStack() as running:
        yield Engine(tmp_path, running)


def until(holds: Any, what: str, some: Sequence[Container]) -> None:  # noqa: ANN401 -- a function that says so
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            pytest.fail(what + "".join(f"\n{one.name}: {one.log.read_text()[-1500:]}" for one in some))
        time.sleep(0.5)


@pytest.mark.kafka
@pytest.mark.slow
def test_all_services_become_healthy_share_the_work_and_end_when_told(engine: Engine) -> None:
    try:
        kafka, broker = engine.start_kafka(services()["kafka"])
    except NotFetchedError:
        no_kafka(NOT_FETCHED)
    until(kafka.is_healthy, "Kafka", [kafka])
    found = services(broker)
    assert engine.run(found["topics"]) == Exit.DONE
    assert engine.run(found["topics"]) == Exit.DONE, "what is there is left as it is"

    joins = [engine.start("join", found["join"], number) for number in range(3)]
    workers = joins + [engine.start(stage, found[stage], 0) for stage in STAGES if stage != "join"]
    until(lambda: all(one.is_healthy() for one in workers), "not all are healthy", workers)

    def owned() -> list[float]:
        return [one.metrics("tocsin_partitions_owned", stage="join") for one in joins]

    until(lambda: sorted(owned()) == [1, 1, 2], "three workers share four partitions", joins)
    now_ms = time.time_ns() // 1_000_000
    with Rows(settings(broker).kafka, rows_a_message=1, age_ms=0, wait_ms=30_000) as rows:
        for number in range(100):
            made = Output(prediction_id=f"p{number}", model="fraud", made_at_ms=now_ms, prediction=1, score=0.9)
            rows.send(made)
            rows.send(Label(prediction_id=f"p{number}", model="fraud", labelled_at_ms=now_ms, label=0))

    def labelled() -> float:
        return sum(one.metrics("tocsin_join_outputs_total", fate="labelled") for one in joins)

    until(lambda: labelled() == 100, "each output has met its label", joins)
    for one in workers:
        one.process.terminate()
    assert {one.name: one.process.wait(WAIT_S) for one in workers} == {one.name: Exit.DONE for one in workers}
