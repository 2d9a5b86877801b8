"""How long from the event that decides to the message that leaves? SEV-1, by all stages, to a webhook on loopback.

Many models have one misfortune each, at a moment of its own: of a required feature, sixty outputs in a row bring null.
The rule of `feature_integrity_rule` then rings, and the settings here say that this is SEV-1. Time runs from before the first of these
outputs is handed to the producer until the first page about its model is taken. Ticks last 1 s, nothing is held down, no
disorder is allowed, and checkpoints are 200 ms apart. Each model answers in health once a second, and other rows come all
the while, 80 a second to each topic, so that time goes on.
"""

import json
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from signal import SIGTERM
from statistics import median
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Producer

from config.load import load
from config.settings import Settings
from detectors.binning import NUMBER, confidence_of
from detectors.fitting import fit_binning
from detectors.history import FeatureHistory, History, Names, counted
from detectors.statistics import needed
from detectors.table import NEEDS
from schemas.baseline import Baseline
from schemas.model import Model
from streams.runtime import kafka, topics
from streams.runtime.sending import send_all
from streams.runtime.wiring import table_changelogs
from tests.benchmarks.deployment import ROOT
from tests.benchmarks.figures import Bench, Figure, Measured, UnfitError, the_one
from tests.chaos.receiver import Endpoint
from tests.integration.worker_process import Worker

MODELS, SMALL_MODELS = 100, 3
SPACING_S = 0.4
"""From one misfortune to the next on average."""
STEADY = "steady"
STEADY_EVERY_S = 0.05
HEALTHY_EVERY = 20
"""Each model answers once in so many rounds: a lane that was never heard cannot ring."""
NULLS = 60
"""Ten more than the rule asks for."""
HISTORY = 1_000
WARM_UP_S = 5.0
PAGE_WAIT_S = 60.0
SECRET = "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gt"  # noqa: S105 -- nobody else has one

Page = tuple[str, ...]
"""What a page says: model, type, severity, purpose, mode, target, title."""

SETTINGS = """
[join]
tick = "1 s"
allowed_disorder = "0 s"
checkpoint = "200 ms"
folder = "{folder}/pending"

[kinds.feature_corruption]
severity = 1

[notify]
pages_limit = 1000 # all pages go to one receiver here
default_bucket = {{ burst = 1000, refill_ms = 1 }}

[channels.webhook.endpoints]
bench = {{ url = "{url}", secret_from = "BENCH_SECRET", allow_private = true }}

[directory]
"team:ml-oncall" = [{{ channel = "webhook", address = "bench", modes = ["page", "message", "ticket"] }}]

[models.{steady}]
kind = "classification"
"""
MODEL = """
[models.{name}]
kind = "classification"
features = {{ amount = "numeric" }}
required = ["amount"]
"""


def notification(bench: Bench) -> Measured:
    """Measure; each run is a deployment of its own, for an incident that is open pages nobody again."""
    names = [f"m{number:03}" for number in range(SMALL_MODELS if bench.small else MODELS)]
    taken: list[list[float]] = []
    hashes = set()
    for run in range(bench.runs):
        folder = bench.folder / f"notification-{run}"
        folder.mkdir(parents=True)
        seconds, pages = _run(bench, folder, names, seed=run)
        taken.append(seconds)
        hashes.add(blake2b(orjson.dumps(sorted(pages)), digest_size=6).hexdigest())
        bench.say(
            f"notification: run {run + 1} of {bench.runs}: p50 {median(taken[-1]):.2f} s, p99 {_p99(taken[-1]):.2f} s"
        )
    return Measured(
        figures=[
            Figure(
                name="event_to_notification_p99_s",
                runs=[_p99(one) for one in taken],
                unit="s",
                target=("≤", 5.0),
                beside={"p50": [median(one) for one in taken], "longest": [max(one) for one in taken]},
                note=f"{len(names)} incidents a run; all stages in one worker",
            )
        ],
        results={"notification": the_one(hashes, "notification")},
    )


def _p99(seconds: Sequence[float]) -> float:
    return float(np.quantile(seconds, 0.99, method="higher"))


def _run(bench: Bench, folder: Path, names: Sequence[str], seed: int) -> tuple[list[float], list[Page]]:
    """Let misfortunes happen; return how long each took to be told, and the pages that told it."""
    options = ["--config", str(folder / "tocsin.toml"), "--broker", bench.broker()]
    options += ["--topic-prefix", f"bench-{uuid.uuid4().hex[:8]}."]
    with _Receiver() as receiver:
        settings = _deployed(folder, options, names, receiver.url)
        worker = Worker(
            options, folder / "worker.log", "all", environ={"BENCH_SECRET": SECRET, "PYTHONPATH": str(ROOT)}
        )
        try:
            worker.until_answers("/ready", 200)
            with _steady(settings, names):
                time.sleep(WARM_UP_S)
                began_s = _happen(settings, names, seed)
                _until_told(receiver, worker, names)
        finally:
            worker.end(SIGTERM)
    unasked = set(receiver.told_s) - set(names)
    if unasked:
        raise UnfitError(f"somebody was paged about {sorted(unasked)}")
    return [receiver.told_s[name] - began_s[name] for name in names], list(receiver.pages.values())


def _until_told(receiver: "_Receiver", worker: Worker, names: Sequence[str]) -> None:
    until_s = time.monotonic() + PAGE_WAIT_S
    while not receiver.told_s.keys() >= set(names):
        if time.monotonic() > until_s or worker.process.poll() is not None:
            silent = sorted(set(names) - receiver.told_s.keys())
            raise UnfitError(f"nobody was paged about {silent}:\n{worker.log.read_text()[-3000:]}")
        time.sleep(0.1)


# ---- the deployment


def _deployed(folder: Path, options: Sequence[str], names: Sequence[str], url: str) -> Settings:
    """Write settings, make topics, publish baselines."""
    file = folder / "tocsin.toml"
    file.write_text(
        SETTINGS.format(folder=folder, url=url, steady=STEADY) + "".join(MODEL.format(name=name) for name in names)
    )
    given = {"kafka.broker": ("--broker", options[3]), "kafka.topic_prefix": ("--topic-prefix", options[5])}
    settings = load(file, {}, given, lambda _: ())
    cluster = settings.kafka
    faults = topics.create(kafka.admin(cluster), cluster, table_changelogs(settings))
    assert faults == [], "\n".join(map(str, faults))
    records = [
        topics.route(part, cluster.output_partitions)
        for name in names
        for part in _baseline(settings.models[name], settings.join.tick_ms).split()
    ]
    send_all(cluster, records)
    return settings


def _baseline(model: Model, tick_ms: int) -> Baseline:
    """Return a baseline that arms the rule, and nothing else."""
    rng = np.random.default_rng(3)
    score = rng.random(HISTORY).astype(np.float32)
    history = History(
        made_at_ms=np.arange(HISTORY),
        labelled_at_ms=np.arange(HISTORY) + 1_000,
        wrong=np.zeros(HISTORY, np.bool_),
        score=score,
        confidence=confidence_of(score),
        version=Names(np.zeros(HISTORY, np.int32), ("7",)),
        segments={},
        features={
            "amount": FeatureHistory(
                np.full(HISTORY, NUMBER, np.int8), rng.normal(size=HISTORY), Names(np.full(HISTORY, -1, np.int32), ())
            )
        },
    )
    counts = counted(history, fit_binning(history, model, tick_ms=tick_ms, max_lanes=8), needed(NEEDS))
    return Baseline(
        model=model.name, version=1, valid_from_ms=0, binning=counts.binning, reference_ms=counts.reference_ms,
        armed={"feature_integrity_rule": ("*",)}, tolerance={"feature_integrity_rule": 0.0}, decided_at_ms=0,
        lanes=counts.lanes, arrays=counts.total(),
    )  # fmt: skip


# ---- what happens


def _happen(settings: Settings, names: Sequence[str], seed: int) -> dict[str, float]:
    """Let each model have its misfortune, at a moment of chance; return when it began, on `time.monotonic()`."""
    rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
    producer = kafka.producer(settings.kafka, "bench-misfortunes")
    began_s: dict[str, float] = {}
    for name in names:
        time.sleep(rng.uniform(0, 2 * SPACING_S))
        began_s[name] = time.monotonic()
        for _ in range(NULLS):
            _send(producer, settings, topics.OUTPUTS, {**_output(name), "features": {"amount": None}})
        assert producer.flush(PAGE_WAIT_S) == 0, "the brokers do not answer"
    return began_s


@contextmanager
def _steady(settings: Settings, names: Sequence[str]) -> Iterator[None]:
    """Send an output and a label to each partition, again and again, and from time to time a healthy output of each model."""
    producer = kafka.producer(settings.kafka, "bench-steady")
    told = threading.Event()
    partitions = settings.kafka.input_partitions

    def send() -> None:
        sent: dict[int, dict[str, Any]] = {}
        rounds = 0
        while not told.wait(STEADY_EVERY_S):
            rounds += 1
            for name in names[rounds % HEALTHY_EVERY :: HEALTHY_EVERY]:
                _send(producer, settings, topics.OUTPUTS, {**_output(name), "features": {"amount": 0.5}})
            for partition in range(partitions):
                before = sent.get(partition)
                if before is not None:
                    label = {"prediction_id": before["prediction_id"], "model": STEADY, "label": before["prediction"]}
                    _send(producer, settings, topics.LABELS, {**label, "labelled_at_ms": _now_ms()})
                sent[partition] = _output(STEADY, partition, partitions)
                _send(producer, settings, topics.OUTPUTS, sent[partition])
            producer.poll(0)

    thread = threading.Thread(target=send, name="steady")
    thread.start()
    try:
        yield
    finally:
        told.set()
        thread.join()
        producer.flush(PAGE_WAIT_S)


def _output(model: str, partition: int | None = None, partitions: int = 1) -> dict[str, Any]:
    """Make an output, of any partition or of one."""
    name = uuid.uuid4().hex
    while partition is not None and topics.partition_of_id(name, partitions) != partition:
        name = uuid.uuid4().hex
    return {
        "prediction_id": name, "model": model, "version": "7", "made_at_ms": _now_ms(), "prediction": "1", "score": 0.75,
    }  # fmt: skip


def _send(producer: Producer, settings: Settings, topic: str, row: dict[str, Any]) -> None:
    producer.produce(settings.kafka.topic_prefix + topic, orjson.dumps(row), row["prediction_id"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# ---- who is told


class _Receiver(Endpoint):
    """A webhook's other end, which takes everything and notes when it was first paged about each model."""

    def __init__(self) -> None:
        self.told_s: dict[str, float] = {}
        self.pages: dict[str, Page] = {}
        """By their own names: what comes again is the same."""

    def take(self, name: str, body: bytes) -> int:
        """Take a message."""
        now_s = time.monotonic()
        message = json.loads(body)
        if message["type"] == "incident.page":
            self.pages[name] = _page(message)
            if message["data"]["severity"] == "SEV-1":
                self.told_s.setdefault(message["data"]["model"], now_s)
        return 204


def _page(message: dict[str, Any]) -> Page:
    """Leave of a page what does not follow from its moment, as its incident's name does."""
    data = message["data"]
    said = data["model"], message["type"], data["severity"], data["purpose"], data["mode"], data["target"]
    return (*said, data["title"].replace(data["display_id"], ""))
