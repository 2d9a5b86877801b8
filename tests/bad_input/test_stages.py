"""No record that a decoder accepts ends a stage, and what the stage makes of it can be read by the next one.

A worker that ends over a record meets it again when it is started again, for ever.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest

from config.load import load
from config.settings import Settings
from detectors.table import NEEDS
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.incident import Incident
from schemas.ledger_entry import LedgerEntry
from schemas.window_stats import WindowStats
from streams.runtime import specs, topics
from streams.runtime.cursor import View
from streams.runtime.stage_spec import Handed, Routed, StageSpec
from streams.runtime.write_ahead import Changes
from tests.bad_input.mutations import samples, swapped
from tests.streams.stages.test_detect import baseline, history, sources
from tests.streams.stages.test_triage import finding, through

MODEL = "a model"
SOON_MS, LATER_MS = 1_764_064_900_000, 1_864_064_900_000
"""A little after the samples' time, and long after."""
SETTINGS = f"""
[models."{MODEL}"]
kind = "classification"
sla_accuracy = 0.9
features = {{ "a feature" = "numeric" }}
segments = ["a segment"]

[models.m]
kind = "classification"
features = {{ age = "numeric" }}
segments = ["region"]
label_wait = "1 h"
"""
RECORDS: Mapping[str, tuple[str, str]] = {
    "window-stats": (topics.WINDOW_STATS, "detect"),
    "closed": (topics.WINDOW_STATS, "detect"),
    "baseline": (topics.BASELINES, "detect"),
    "deployment": (topics.DEPLOYMENTS, "detect, triage"),
    "finding": (topics.FINDINGS, "triage"),
    "through": (topics.FINDINGS, "triage"),
    "incident-action": (topics.ACTIONS, "triage"),
    "incident": (topics.INCIDENTS, "escalate, notify"),
    "notification": (topics.NOTIFICATIONS, "notify"),
    "receipt": (topics.RECEIPTS, "escalate, notify"),
}
"""By record the topic that it travels on, and who reads it."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = tmp_path_factory.mktemp("settings") / "tocsin.toml"
    file.write_text(SETTINGS)
    return load(file, {}, {}, lambda _: [])


@pytest.fixture(scope="module")
def stages(settings: Settings) -> Mapping[str, StageSpec[Any, Any]]:
    made = (
        specs.detect_spec(settings),
        specs.triage_spec(settings),
        specs.escalate_spec(settings),
        specs.notify_spec(settings, lambda _: None),
    )
    return {spec.name: spec for spec in made}


class Host:
    """Drives one stage object as its host does."""

    def __init__(self, spec: StageSpec[Any, Any], model: str, partitions: int) -> None:
        self.spec = spec
        self.table: dict[bytes, bytes] = {}
        self._partition = topics.partition_of(model, partitions)
        self.restart()

    def take(self, record: Any) -> None:  # noqa: ANN401 -- any input
        self._read(self._stage.receive([record]))

    def pass_time(self, now_ms: int) -> None:
        if hasattr(self._stage, "clock"):
            self._read(self._stage.clock(now_ms, live=True))
        self._read(self._stage.advance(now_ms))

    def restart(self) -> None:
        self._view = View(self._partition, self.table)
        self._stage: Any = self.spec.make_stage(self._view.rows, self._partition)

    def _read(self, outputs: Sequence[Any]) -> None:
        """Keep the stage's rows, and read what it says as whoever comes next does."""
        if self._stage.settled:
            self._view.settle(changes := Changes())
            for key, row in changes.records(self._partition):
                self.table.pop(key, None) if row is None else self.table.update({key: row})
            assert dict(View(self._partition, self.table).rows) == dict(self._view.rows)
        for output in outputs:
            routed = self.spec.route(output)
            if isinstance(routed, Handed):
                continue
            for one in [routed] if isinstance(routed, Routed) else routed:
                match one.topic:
                    case topics.DEAD_LETTERS:
                        DeadLetter.decode(one.value)
                    case topics.LEDGER:
                        LedgerEntry.decode(one.value)
                    case topics.INCIDENTS_LATEST:
                        specs.decode(topics.INCIDENTS, one.key, one.value, one.headers)
                    case _:
                        specs.decode(one.topic, one.key, one.value, one.headers)


def accepted(spec: StageSpec[Any, Any], topic: str, wires: Iterator[bytes]) -> Iterator[Any]:
    for wire in wires:
        try:
            yield spec.decode(topic, b"k", wire, ())
        except MalformedRecordError:
            continue


def opened(stages: Mapping[str, StageSpec[Any, Any]]) -> list[bytes]:
    """Return incidents as triage opens them; those of the samples are over, and have no whole policy."""
    triage = stages["triage"].make_stage({}, 0)
    found = [finding("unsafe_output"), finding("drift", finding_id="another"), through(90), through(900)]
    return [one.encode() for one in triage.receive(found) if isinstance(one, Incident) and one.seq == 1]


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name, (_, readers) in RECORDS.items() for stage in readers.split(", ")]
)
def test_no_accepted_record_ends_a_stage(
    name: str, stage: str, stages: Mapping[str, StageSpec[Any, Any]], settings: Settings
) -> None:
    spec, topic = stages[stage], RECORDS[name][0]
    taken = 0
    wires = opened(stages) if spec.name == "escalate" and name == "incident" else samples(name)
    for record in accepted(spec, topic, chain.from_iterable(map(swapped, wires))):
        host = Host(spec, MODEL, settings.kafka.output_partitions)
        host.take(record)
        host.pass_time(SOON_MS)
        host.pass_time(LATER_MS)
        host.restart()
        host.take(record)
        taken += 1
    assert taken > 0 or name == "baseline", "the sample of a baseline is one that does not fit"


@cache
def log() -> tuple[Any, ...]:
    """Two minutes of four source partitions under a baseline."""
    return tuple(record for records in zip(*sources(history(5, 2)), strict=True) for record in records)


def judged(spec: StageSpec[Any, Any], settings: Settings, whole: Any, records: Sequence[Any]) -> None:  # noqa: ANN401
    host = Host(spec, "m", settings.kafka.output_partitions)
    host.take(whole)
    for record in records:
        host.take(record)
    host.pass_time(LATER_MS)
    host.restart()
    host.pass_time(LATER_MS)


def test_no_accepted_baseline_ends_detect(stages: Mapping[str, StageSpec[Any, Any]], settings: Settings) -> None:
    good = baseline()
    wires = [*swapped(good.encode())]
    wires += [recut(good, name, array).encode() for name in NEEDS for array in odd_arrays(good.arrays[name])]
    spec = stages["detect"]
    whole = [one for one in accepted(spec, topics.BASELINES, iter(wires)) if one is not None]
    assert len(whole) > 20
    for one in whole:
        judged(spec, settings, one, log()[:8])


def test_no_accepted_statistics_end_detect(stages: Mapping[str, StageSpec[Any, Any]], settings: Settings) -> None:
    at, good = next((at, one) for at, one in enumerate(log()) if isinstance(one, WindowStats))
    wires = [*swapped(good.encode())]
    wires += [recut(good, name, array).encode() for name in NEEDS for array in odd_arrays(good.arrays[name])]
    spec = stages["detect"]
    some = list(accepted(spec, topics.WINDOW_STATS, iter(wires)))
    assert len(some) > 20
    for one in some:
        judged(spec, settings, baseline(), [*log()[:at], one, *log()[at + 1 : 12]])


def odd_arrays(array: Any) -> Iterator[Any]:  # noqa: ANN401 -- integers of any shape
    """Leave one out, cut it short, flatten it, and fill it with more than there can be."""
    yield None
    yield array[..., :0]
    yield array.reshape(len(array), -1)[:, :1]
    yield np.zeros_like(array)
    yield np.full_like(array, 2**48)


def recut(record: Any, name: str, array: Any) -> Any:  # noqa: ANN401 -- a record with arrays
    arrays = {key: one for key, one in record.arrays.items() if key != name or array is not None}
    fields = {field: getattr(record, field) for field in record.__dataclass_fields__}
    return type(record)(**fields | {"arrays": arrays if array is None else arrays | {name: array}})
