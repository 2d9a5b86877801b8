"""The join on a broker: whatever happens to its worker, what it sends is what the oracle sends."""

import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from config.settings import KafkaSettings
from detectors.binning import baseline_zero
from detectors.statistics import STATISTICS
from schemas.baseline import Baseline
from schemas.dead_letter import DeadLetter
from schemas.window_stats import WindowStats
from streams.runtime import decode, fetched, hot_path, kafka, plain, topics
from streams.runtime.claims import FencedError
from streams.runtime.delivery import Delivery
from streams.runtime.embedded_broker import EmbeddedBroker
from streams.runtime.hot_path import HotPath, HotPathSettings, StartRefusedError
from streams.runtime.stage_spec import Routed
from streams.stages.blocks import BlockKey
from streams.stages.join import Join
from tests.streams.runtime.broker_faults import FETCH, LIST_OFFSETS, OFFSET_COMMIT, PRODUCE, BrokerFaults
from tests.streams.runtime.join_world import BEGAN_MS, JOIN, LATER_MS, World, hot_path_settings, message_of
from tests.streams.runtime.test_topics import settings as kafka_settings

WAIT_S = 60
BLOCKS_BOUND = 4 * 5
"""Records of a checkpoint beside its dead letters: of each partition one of each step, when all rows are dead."""
CONSUMERS = 8
"""More answers than a worker's consumers ask for at a time: each gets one."""


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        yield embedded


@pytest.fixture
def cluster(broker: EmbeddedBroker) -> KafkaSettings:
    cluster = kafka_settings(broker.address)
    broker.touch(cluster.topic_prefix + name for name in topics.TOPICS)
    return cluster


@pytest.fixture
def faults(broker: EmbeddedBroker) -> BrokerFaults:
    assert broker._cluster is not None  # noqa: SLF001
    return BrokerFaults(broker._cluster)  # noqa: SLF001


class Worker:
    """A worker in a thread of its own."""

    def __init__(self, settings: HotPathSettings) -> None:
        self.hot_path = HotPath(settings)
        self.error: BaseException | None = None
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.hot_path.run(self._told.is_set)
        except BaseException as error:  # noqa: BLE001 - the test says what is expected
            self.error = error

    def tell(self) -> None:
        """Tell it to stop."""
        self._told.set()

    def stop(self) -> None:
        """Tell it to stop, and see that it leaves as it should."""
        self.tell()
        self.join()
        if self.error is not None:
            raise self.error

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "it ends within its bounds"

    def until(self, said: Callable[[], bool]) -> None:
        waited = threading.Event()
        for _ in range(WAIT_S * 20):
            if said():
                return
            if self.error is not None:
                raise self.error
            waited.wait(0.05)
        pytest.fail(f"it did not come to pass: {self.hot_path.status}")


@pytest.fixture
def begin(cluster: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(**others: Any) -> Worker:  # noqa: ANN401
        settings: dict[str, Any] = {"cluster": others.pop("kafka", cluster)}
        settings["folder"] = others.pop("folder", tmp_path / str(len(workers)))
        workers.append(Worker(hot_path_settings(**settings, **others)))
        return workers[-1]

    yield start
    for worker in workers:
        worker.tell()
        worker.join()


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_sent_is_what_the_oracle_sends_over_a_restart_into_an_empty_folder(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, *, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(fetched, "_library", lambda: None)
        monkeypatch.setattr(plain, "library", lambda: None)
    world = World(cluster, seed=1)
    world.write(600)
    first = begin()
    first.until(lambda: first.hot_path.counts["rows_labels"] > 300)
    first.stop()
    world.write(600)
    second = begin()
    world.tell(LATER_MS)
    world.check()
    second.stop()
    assert second.hot_path.counts["conservation_errors"] == 0


def row(prediction_id: str, made_at_ms: int = BEGAN_MS, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    made = {
        "prediction_id": prediction_id,
        "model": "fraud",
        "made_at_ms": made_at_ms,
        "prediction": "1",
        "score": 0.75,
    }
    return made | others


class Inputs:
    """Writes single rows where they belong, or where they do not."""

    def __init__(self, cluster: KafkaSettings, **others: Any) -> None:  # noqa: ANN401
        self.cluster = cluster
        self.producer: Producer = kafka.producer(cluster, "inputs", **others)

    def write(self, topic: str, rows: Sequence[Mapping[str, Any]], partition: int | None = None) -> None:
        for one in rows:
            own = topics.partition_of_id(one["prediction_id"], 4) if partition is None else partition
            key = one["prediction_id"].encode()
            self.producer.produce(self.cluster.topic_prefix + topic, json.dumps(one).encode(), key, own)
        assert self.producer.flush(WAIT_S) == 0


def letters(world: World, count: int) -> list[DeadLetter]:
    """Read the first dead letters."""
    found: list[DeadLetter] = []
    for message in world.read(topics.DEAD_LETTERS):
        found.append(DeadLetter.decode(message.value()))
        if len(found) == count:
            return found
    raise AssertionError


def changelog(world: World) -> list[tuple[int, tuple[bytes, bytes | None]]]:
    """Read the changelog to its end: partition, then key and value."""
    ends = world.ends(topics.CHANGELOG)
    found = []
    for message in world.read(topics.CHANGELOG):
        partition, offset = message.partition() or 0, message.offset() or 0
        found.append((partition, (message.key() or b"", message.value())))
        if offset + 1 >= ends[partition]:
            del ends[partition]
        if not ends:
            break
    return found


def test_a_worker_that_meets_a_higher_claim_ends_and_sends_nothing_more(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    inputs = Inputs(cluster)
    inputs.write(topics.OUTPUTS, [row(f"a{number}") for number in range(20)])
    worker = begin()
    worker.until(lambda: worker.hot_path.counts["checkpoints"] > 0 and len(worker.hot_path.status.owned) == 4)
    key = BlockKey(2, "claim", 99, 1, 0).encode()
    inputs.producer.produce(cluster.topic_prefix + topics.CHANGELOG, b"{}", key, 2)
    assert inputs.producer.flush(WAIT_S) == 0
    sent = worker.hot_path.counts["window_stats"]
    # closes ticks in all partitions, as soon as both topics are there
    inputs.write(topics.OUTPUTS, [row(f"b{number}", BEGAN_MS + 600_000) for number in range(40)])
    inputs.write(
        topics.LABELS,
        [
            {"prediction_id": f"b{number}", "model": "fraud", "labelled_at_ms": BEGAN_MS + 600_000, "label": 1}
            for number in range(40)
        ],
    )
    worker.join()
    assert isinstance(worker.error, FencedError)
    assert worker.hot_path.counts["window_stats"] == sent
    assert not list(worker.hot_path.settings.folder.glob("*/*/*")), "a fenced worker leaves no rows behind"


def test_baselines_are_read_before_the_first_row_and_followed(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    def publish(version: int, valid_from_ms: int, tick_ms: int = JOIN.tick_ms) -> None:
        binning = baseline_zero(tick_ms, 0.5)
        arrays = {name: np.ones((1, *one.shape(binning)), np.int64) for name, one in STATISTICS.items()}
        baseline = Baseline(
            model="fraud", version=version, valid_from_ms=valid_from_ms, binning=binning, reference_ms=(0, 1), armed={},
            tolerance={}, decided_at_ms=0, lanes=("*",), arrays=arrays,
        )  # fmt: skip
        routed = topics.route(baseline, 4)
        assert routed.partition is not None
        inputs.producer.produce(cluster.topic_prefix + routed.topic, routed.value, routed.key, routed.partition)
        assert inputs.producer.flush(WAIT_S) == 0

    inputs, world = Inputs(cluster), World(cluster, seed=3)
    publish(3, 0)
    publish(5, 0, tick_ms=60_000)  # made before the tick was changed: no reason for not starting
    inputs.producer.produce(cluster.topic_prefix + topics.BASELINES, b"no baseline", b"x", 1)
    inputs.write(topics.OUTPUTS, [row("p1")], partition=2)
    worker = begin()
    worker.until(lambda: worker.hot_path.counts["rows_model-outputs"] == 1)
    publish(4, BEGAN_MS + 60_000)
    worker.until(lambda: ("fraud", 4) in worker.hot_path._baselines)  # noqa: SLF001
    inputs.write(topics.OUTPUTS, [row("p2", BEGAN_MS + 60_000)], partition=2)
    world.tell(LATER_MS)
    versions = {}
    for message in world.read(topics.WINDOW_STATS):
        if message.key() is not None:
            stats = WindowStats.decode(message.value())
            versions[stats.tick_start_ms] = stats.baseline_version
        if BEGAN_MS + 60_000 in versions:
            break
    assert (versions[BEGAN_MS], versions[BEGAN_MS + 60_000]) == (3, 4)
    assert worker.hot_path.counts["malformed_baselines"] == 2


def test_a_row_from_the_future_is_a_dead_letter_with_its_own_bytes(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    world, inputs = World(cluster, seed=4), Inputs(cluster)
    ahead = row("p1", 4_000_000_000_000)
    value = message_of([row("p0"), ahead])
    inputs.producer.produce(cluster.topic_prefix + topics.OUTPUTS, value, b"p0", 2)
    inputs.write(topics.OUTPUTS, [ahead], partition=2)
    worker = begin()
    first, second = letters(world, 2)
    assert (first.offset, first.row, first.field, first.record) == (0, 1, "made_at_ms", "output")
    assert first.value is not None
    assert second.value is not None
    assert json.loads(first.value)["prediction_id"] == json.loads(second.value)["prediction_id"] == "p1"
    assert first.recorded_at_ms > 0
    worker.until(lambda: worker.hot_path.status.counts.get("checkpoints", 0) > 0)
    worker.until(lambda: worker.hot_path.status.partitions[2]["dead_output"] == 2)
    assert worker.hot_path.status.partitions[2]["conservation_error"] == 0


def test_what_is_refused_is_told_for_each_topic_and_partition(
    cluster: KafkaSettings, begin: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(cluster)
    inputs.write(topics.OUTPUTS, [row("p1", score=7), row("p2", score=8)], partition=1)
    inputs.write(topics.LABELS, [{"prediction_id": "p1"}], partition=3)
    worker = begin()
    letters(World(cluster, seed=8), 3)
    worker.until(lambda: worker.hot_path.status.counts.get("checkpoints", 0) > 0)
    told = [one.decision for one in caplog.records if one.name == "tocsin.join" and hasattr(one, "decision")]
    rows: Counter[tuple[str, int]] = Counter()
    for event, fields in told:
        assert event == "join.refused"
        rows[fields["topic"], fields["partition"]] += fields["rows"]
    assert rows == {(topics.OUTPUTS, 1): 2, (topics.LABELS, 3): 1}


def test_dead_letters_do_not_fill_the_memory_until_the_next_checkpoint(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_path, "DEAD_LETTERS_BYTES", 10_000)
    inputs = Inputs(cluster)
    worker = begin(checkpoint_ms=600_000)
    worker.until(lambda: len(worker.hot_path.status.owned) == 4)
    inputs.write(topics.OUTPUTS, [row(f"p{number}", score=7, text="x" * 1_000) for number in range(12)])
    assert len(letters(World(cluster, seed=7), 10)) == 10


@pytest.mark.parametrize("compiled", [True, False])
def test_a_message_of_which_each_row_is_refused_is_taken_apart_once(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, *, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(fetched, "_library", lambda: None)
    rows, done = 300, Counter[str]()

    def counted(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def call(*words: Any) -> Any:  # noqa: ANN401 - as what it stands for
            done[name] += 1
            return original(*words)

        monkeypatch.setattr(module, name, call)

    counted(decode, "_rows_of")
    counted(fetched, "headers_of")
    ahead_ms = int(time.time() * 1000) + 86_400_000
    world, inputs = World(cluster, seed=5), Inputs(cluster)
    value = message_of([row(f"p{number}", ahead_ms) for number in range(rows)])
    inputs.producer.produce(cluster.topic_prefix + topics.OUTPUTS, value, b"p0", 1, headers=[("h", b"1")])
    assert inputs.producer.flush(WAIT_S) == 0
    begin()
    assert [letter.row for letter in letters(world, rows)] == list(range(rows))
    assert done == {"_rows_of": 1, "headers_of": 1}


def test_however_few_rows_are_held_at_once_the_oracle_says_the_same(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MOST_ROWS_AT_ONCE", 30)
    world = World(cluster, seed=11)
    world.write(600)
    begin()
    world.tell(LATER_MS)
    world.check()


def test_memory_and_disk_hold_what_is_known_and_not_what_ever_came(
    cluster: KafkaSettings, begin: Callable[..., Worker], tmp_path: Path
) -> None:
    #  rows, and an hour later nothing is known of them | the same again, five times
    folder = tmp_path / "rows"
    world = World(cluster, seed=12)
    worker = begin(folder=folder, join=replace(JOIN, block_rows=4))
    most: list[Counter[str]] = []

    def states() -> list[dict[str, int]]:
        return [dict(one) for one in worker.hot_path.status.partitions.values()]

    def files() -> int:
        return len(list(folder.rglob("*.run")))

    for turn in range(1, 6):
        held = Counter[str]()
        world.write(600)
        worker.until(lambda: sum(one["output_rows"] for one in states()) > 600 * turn)  # noqa: B023
        worker.until(lambda: files() > 0)
        held["files"], held["resident"] = files(), sum(one["resident_bytes"] for one in states())
        world._began_ms = BEGAN_MS + turn * 3_600_000  # noqa: SLF001 - the next begin where the clock stands
        world.tell(world._began_ms)  # noqa: SLF001
        worker.until(lambda: not any(one["known_rows"] for one in states()) and not files())
        held["runs"] = max(len(one.runs) for one in world.manifests().values())
        most.append(held)
    assert min(most[0].values()) > 0, "there was something to hold"
    assert all(held[name] < 3 * first for held in most[1:] for name, first in most[0].items()), most


def test_a_foreign_partitioner_is_counted(cluster: KafkaSettings, begin: Callable[..., Worker]) -> None:
    Inputs(cluster).write(topics.OUTPUTS, [row(f"p{number}") for number in range(200)], partition=1)
    worker = begin()
    worker.until(lambda: worker.hot_path.counts["rows_model-outputs"] == 200)
    counts = worker.hot_path.counts
    assert 0.5 < counts["partitioner_mismatch_model-outputs"] / counts["sampled_model-outputs"] < 0.95
    assert counts["partitioner_mismatch_labels"] == 0


def test_behind_a_transaction_the_end_is_reached_all_the_same(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_path, "QUIET_S", 0.2)
    monkeypatch.setattr(hot_path, "CHECKED", {})  # this cluster writes its marks without a sum
    inputs, world = Inputs(cluster, **{"transactional.id": "t"}), World(cluster, seed=5)
    inputs.producer.init_transactions(WAIT_S)
    inputs.producer.begin_transaction()
    inputs.write(topics.OUTPUTS, [row("p1")])
    inputs.producer.commit_transaction(WAIT_S)
    worker = begin()
    world.tell(LATER_MS)
    own = topics.partition_of_id("p1", 4)
    worker.until(lambda: worker.hot_path.status.partitions.get(own, {}).get("closed_expired") == 1)
    assert worker.hot_path.counts["looked_past"] >= 1


def test_a_gap_of_the_log_is_stepped_over_however_much_lies_behind_it(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    #  p1, mark | position: the mark | p2 p3 p4, each a piece of its own
    monkeypatch.setattr(hot_path, "QUIET_S", 1_000.0)
    monkeypatch.setattr(hot_path, "CHECKED", {})  # this cluster writes its marks without a sum
    monkeypatch.setattr(hot_path, "PIECE_BYTES", 1)
    inputs = Inputs(cluster, **{"transactional.id": "t"})
    inputs.producer.init_transactions(WAIT_S)
    for names in (("p1",), ("p2", "p3", "p4")):
        inputs.producer.begin_transaction()
        inputs.write(topics.OUTPUTS, [row(name) for name in names], 2)
        inputs.producer.commit_transaction(WAIT_S)
        worker = begin()
        worker.until(lambda: worker.hot_path.counts["rows_model-outputs"] == len(names))  # noqa: B023
        worker.stop()
    assert worker.hot_path.counts["gaps_asked_again"] == 1


def test_a_disk_that_takes_nothing_stops_the_reading_and_not_the_worker(
    cluster: KafkaSettings, begin: Callable[..., Worker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "in_the_way"
    in_the_way.write_text("a file where a folder must be")
    world = World(cluster, seed=6)
    world.write(300)
    worker = begin(folder=in_the_way)
    worker.until(lambda: worker.hot_path.status.paused == "disk" and len(worker.hot_path.status.owned) == 4)
    beat_s = worker.hot_path.beat_s
    worker.until(lambda: worker.hot_path.beat_s > beat_s)
    assert worker.hot_path.counts["rows_model-outputs"] == 0
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("join.disk_refuses")]
    assert said[0].startswith(f"join.disk_refuses folder={in_the_way} error=Not a directory")
    in_the_way.unlink()
    world.tell(LATER_MS)
    world.check()
    worker.until(lambda: worker.hot_path.status.paused == "")


def test_a_folder_that_turns_read_only_stops_the_reading_and_not_the_worker(
    cluster: KafkaSettings, begin: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  rows are sealed | read-only: their time is over, and they cannot be removed | writable again
    folder = tmp_path / "rows"
    world = World(cluster, seed=8)
    world.write(600)
    worker = begin(folder=folder, join=replace(JOIN, block_rows=4))
    worker.until(lambda: len({run.parts[-3] for run in folder.glob("*/*/*.run")}) == 4)
    unlink, is_read_only = Path.unlink, threading.Event()

    def refused(path: Path, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - as in `Path`
        if is_read_only.is_set() and path.is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    is_read_only.set()
    world.tell(LATER_MS)
    worker.until(lambda: worker.hot_path.status.paused == "disk")
    is_read_only.clear()
    world.check()
    worker.until(lambda: worker.hot_path.status.paused == "")


def test_texts_that_were_cut_are_counted(cluster: KafkaSettings, begin: Callable[..., Worker]) -> None:
    Inputs(cluster).write(topics.OUTPUTS, [row("p1", text="x" * 70_000), row("p2", text="x")])
    worker = begin()
    worker.until(lambda: worker.hot_path.counts["rows_model-outputs"] == 2)
    assert worker.hot_path.counts["cut_texts"] == 1


def test_errors_in_answers_to_every_kind_of_request_cost_nothing(
    cluster: KafkaSettings, begin: Callable[..., Worker], faults: BrokerFaults
) -> None:
    world = World(cluster, seed=7)
    world.write(600)
    worker = begin()
    counts = worker.hot_path.counts
    worker.until(lambda: counts["checkpoints"] > 0)
    moving = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE]
    for _ in range(3):
        faults.answer(PRODUCE, [*moving, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS])
        faults.answer(FETCH, [*moving, KafkaError.UNKNOWN_TOPIC_OR_PART, *[KafkaError.OFFSET_OUT_OF_RANGE] * CONSUMERS])
        faults.answer(OFFSET_COMMIT, [KafkaError.NOT_COORDINATOR, KafkaError.REBALANCE_IN_PROGRESS])
        faults.answer(LIST_OFFSETS, moving)
        before = counts["checkpoints"]
        world.write(100)
        worker.until(lambda before=before: counts["checkpoints"] > before)  # type: ignore[misc]
    # a consumer that looks for its place may have had the answers that were meant for the probe
    faults.answer(LIST_OFFSETS, moving * 50)
    worker.until(lambda: counts["unanswered_probes"] > 0)
    worker.until(lambda: counts["refused_commits"] > 0)  # a commit may wait for its coordinator, and be refused then
    faults.clear(PRODUCE, FETCH, OFFSET_COMMIT, LIST_OFFSETS)
    world.tell(LATER_MS)
    world.check()
    assert sum(n for name, n in counts.items() if name.startswith("error_")) > 0
    assert counts["offsets_lost"] == counts["conservation_errors"] == 0


def test_who_is_not_told_where_a_log_ends_is_not_at_its_end(
    cluster: KafkaSettings, begin: Callable[..., Worker], faults: BrokerFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  all read, ends known | no answer: not at the edge, whatever was known | an answer: at the edge
    told: list[tuple[bool, bool]] = []
    """Of one topic: whether the probe was answered, and whether the join was told to be at the edge."""
    answered: dict[tuple[str, int], bool] = {}
    tell, advance = HotPath._tell, Join.advance  # noqa: SLF001

    def hear(self: HotPath, probe: Any) -> None:  # noqa: ANN401 -- as the join has it
        answered.update({place: answer.exception() is None for place, answer in probe.answers.items()})
        tell(self, probe)

    def note(self: Join, clock_ms: int, *, outputs_at_edge: bool, labels_at_edge: bool) -> None:
        told.append((answered.get((topics.OUTPUTS, self._partition), False), outputs_at_edge))
        told.append((answered.get((topics.LABELS, self._partition), False), labels_at_edge))
        advance(self, clock_ms, outputs_at_edge=outputs_at_edge, labels_at_edge=labels_at_edge)

    monkeypatch.setattr(HotPath, "_tell", hear)
    monkeypatch.setattr(Join, "advance", note)
    world = World(cluster, seed=14)
    world.write(600)
    worker = begin()
    world.tell(LATER_MS)
    worker.until(lambda: (True, True) in told)
    faults.answer(LIST_OFFSETS, [KafkaError.NOT_LEADER_FOR_PARTITION] * 50)
    worker.until(lambda: any(not answer for answer, _ in told))
    worker.until(lambda: bool(worker.hot_path.status.unsaid))
    faults.clear(LIST_OFFSETS)
    since = len(told)
    worker.until(lambda: (True, True) in told[since:])
    assert (False, True) not in told
    worker.until(lambda: not worker.hot_path.status.unsaid)
    world.check()


STEPS = ("blocks", "manifests", "sends", "tombstones", "offsets")


def step_of(record: Routed) -> str:
    """Say to which step of a checkpoint a record belongs."""
    if record.topic == topics.WINDOW_STATS:
        return "sends"
    if record.topic == topics.DEAD_LETTERS:
        return "blocks"
    assert record.key is not None
    kind = BlockKey.decode(record.key).kind
    claim = "tombstones" if record.value is None else "claims"
    return {"manifest": "manifests", "claim": claim}.get(kind, "blocks")


def test_each_step_of_a_checkpoint_is_acknowledged_before_the_next(
    cluster: KafkaSettings, begin: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    deliver, commit = Delivery.deliver, HotPath._commit  # noqa: SLF001

    def delivered(self: Delivery, records: Sequence[Routed], wait_ms: int | None = None) -> list[int]:
        offsets = deliver(self, records, wait_ms)
        steps = {step_of(one) for one in records}
        assert len(steps) <= 1, "one step at a time"
        done.extend(steps)
        return offsets

    def committed(self: HotPath, prepared: Any) -> None:  # noqa: ANN401 -- as the join has it
        done.append("offsets")
        commit(self, prepared)

    monkeypatch.setattr(Delivery, "deliver", delivered)
    monkeypatch.setattr(HotPath, "_commit", committed)
    world = World(cluster, seed=31)
    world.write(600)
    worker = begin()
    worker.until(lambda: worker.hot_path.counts["checkpoints"] > 0)
    world.tell(LATER_MS)
    world.check()
    worker.stop()
    checkpoints = " ".join(one for one in done if one != "claims").split("offsets")
    assert checkpoints.pop() == "", "offsets come last"
    for one in checkpoints:
        ranks = [STEPS.index(step) for step in one.split()]
        assert ranks == sorted(ranks), one
    assert {"blocks", "manifests", "sends"} <= set(done)


def test_a_write_that_is_refused_for_good_ends_the_worker_and_costs_nothing(
    cluster: KafkaSettings, begin: Callable[..., Worker], faults: BrokerFaults
) -> None:
    world = World(cluster, seed=8)
    world.write(300)
    faults.answer(PRODUCE, [KafkaError.NO_ERROR] * 6 + [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 20)
    first = begin()
    first.join()
    faults.clear(PRODUCE)
    assert isinstance(first.error, KafkaException)
    assert "authorization" in str(first.error)
    begin()
    world.write(300)
    world.tell(LATER_MS)
    world.check()


def test_a_broker_that_answers_slowly_costs_time_alone(
    cluster: KafkaSettings, begin: Callable[..., Worker], faults: BrokerFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_path, "BATCH_MESSAGES", 50)
    world = World(cluster, seed=9)
    world.write(500)
    faults.delay(150)
    worker = begin()
    beats = []
    for _ in range(5):
        beats.append(worker.hot_path.beat_s)
        worker.until(lambda: worker.hot_path.beat_s > beats[-1])
    worker.until(lambda: worker.hot_path.counts["rows_labels"] > 0)
    faults.delay(0)
    world.tell(LATER_MS)
    world.check()


def test_behind_a_sink_that_takes_nothing_a_join_reads_to_its_bound_and_holds_no_more(
    cluster: KafkaSettings, begin: Callable[..., Worker], faults: BrokerFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  in the log: 1,000 rows | read: what fills the bound, and the batch that did | the sink takes it: the rest
    bound, batch, rows = 40, 50, 1_000
    refused, deliver = threading.Event(), Delivery.deliver

    def refuse(self: Delivery, records: Sequence[Routed], wait_ms: int | None = None) -> list[int]:
        if not refused.is_set() and any(one.topic == topics.DEAD_LETTERS for one in records):
            faults.answer(PRODUCE, [KafkaError.NOT_ENOUGH_REPLICAS] * 5_000)
            refused.set()
        return deliver(self, records, wait_ms)

    monkeypatch.setattr(Delivery, "deliver", refuse)
    monkeypatch.setattr(hot_path, "DEAD_LETTERS_BOUND", bound)
    monkeypatch.setattr(hot_path, "BATCH_MESSAGES", batch)
    Inputs(cluster).write(topics.OUTPUTS, [row(f"p{number}", score=7) for number in range(rows)])
    worker = begin(checkpoint_ms=600_000)
    join, counts = worker.hot_path, worker.hot_path.counts
    worker.until(refused.is_set)
    read, held, beats = counts["messages_model-outputs"], [], [join.beat_s]
    for _ in range(10):
        worker.until(lambda: join.beat_s > beats[-1])
        beats.append(join.beat_s)
        held.append(len(join._dead) + join._delivery.waiting)  # noqa: SLF001
    assert counts["messages_model-outputs"] == read < rows, "it reads nothing while what it has written waits"
    assert 0 < max(held) <= bound - 1 + batch + BLOCKS_BOUND
    faults.clear(PRODUCE)
    assert len(letters(World(cluster, seed=15), rows)) == rows


def test_blocks_that_no_manifest_names_are_a_torn_tail_and_count_for_nothing(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    #  rows … marks, manifest | the same blocks under numbers that no manifest names: the end of a process
    world = World(cluster, seed=10)
    world.write(500)
    first = begin()
    first.until(lambda: first.hot_path.counts["rows_labels"] > 300)
    first.stop()
    torn = 0
    inputs = Inputs(cluster)
    for partition, (key, value) in changelog(world):
        name = BlockKey.decode(key)
        if value is not None and name.kind in {"rows", "marks", "orphans", "open-ticks"}:
            later = name._replace(run=name.run + 1_000).encode()
            inputs.producer.produce(cluster.topic_prefix + topics.CHANGELOG, value[: len(value) // 2], later, partition)
            torn += 1
    assert inputs.producer.flush(WAIT_S) == 0
    assert torn > 4
    world.write(300)
    begin()
    world.tell(LATER_MS)
    world.check()


def test_workers_that_come_and_go_all_at_once_lose_nothing_and_double_nothing(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    #  members  2 ---- 5 ---- 1 ---- 2      rows are written before each change
    world = World(cluster, seed=13)
    members: list[Worker] = []

    def come(number: int) -> None:
        world.write(200, span_ms=100_000)
        members.extend(begin(instance_id=None, session_timeout_ms=3_000) for _ in range(number))

    def share(*partitions: int) -> None:
        members[-1].until(lambda: sorted(len(one.hot_path.status.owned) for one in members) == list(partitions))

    come(2)
    share(2, 2)
    come(3)
    share(0, 1, 1, 1, 1)
    world.write(200, span_ms=100_000)
    leaving, members = members[:-1], members[-1:]
    for one in leaving:
        one.tell()
    for one in leaving:
        one.stop()
    share(4)
    come(1)
    share(2, 2)
    world.tell(LATER_MS)
    world.check()
    for one in members:
        one.stop()
        assert one.hot_path.counts["conservation_errors"] == one.hot_path.counts["offsets_lost"] == 0


def test_a_topic_of_another_count_is_refused_with_what_to_do(
    cluster: KafkaSettings, begin: Callable[..., Worker]
) -> None:
    worker = begin(kafka=replace(cluster, input_partitions=6))
    worker.join()
    assert isinstance(worker.error, StartRefusedError)
    assert "t.labels: has 4 partitions, 6 are expected; labels would miss their outputs" in str(worker.error)
