"""What a broker has taken away before it was read is counted and said aloud; what is left is read, and nothing hangs."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from config.settings import KafkaSettings
from schemas.fields import MalformedRecordError
from streams.runtime import kafka as clients
from streams.runtime import topics
from streams.runtime.faust_host import FaustHost, HostSettings
from streams.runtime.write_ahead import table_key
from tests.integration.test_faust_host import Bench, toys, until
from tests.streams.runtime.join_world import LATER_MS, World
from tests.streams.runtime.test_hot_path import Worker

WAIT_S = 30
LOST = 3
"""Messages that are taken from each partition."""

pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("default")]  # Faust warns of its own ways


def take_away(cluster: KafkaSettings, before: Mapping[tuple[str, int], int]) -> None:
    """Delete what lies before offsets, as retention does; of compacted topics too, which somebody has set wrongly."""
    admin = clients.admin(cluster)
    policy = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
    wrong = [
        ConfigResource(ResourceType.TOPIC, name, incremental_configs=[policy])
        for name in {name for name, _ in before}
        if name.endswith("changelog")
    ]
    for altered in admin.incremental_alter_configs(wrong).values() if wrong else ():
        altered.result(WAIT_S)
    places = [TopicPartition(name, partition, offset) for (name, partition), offset in before.items()]
    until_s = time.monotonic() + WAIT_S
    for at in places:
        while True:
            try:
                admin.delete_records([at])[at].result(WAIT_S)
                break
            except KafkaException as error:  # the broker has not yet heard of its topic's policy
                if error.args[0].code() != KafkaError.POLICY_VIOLATION or time.monotonic() > until_s:
                    raise
                time.sleep(0.1)


def read_some(world: World, begin: Callable[[], Worker]) -> None:
    """Let a worker read all there is, and make it last."""
    worker = begin()
    rows = sum(len(one) for one in world.labels.values())
    worker.until(lambda: worker.hot_path.counts["rows_labels"] >= rows)
    worker.stop()


def test_the_join_counts_offsets_that_retention_took_and_joins_the_rest(
    cluster: KafkaSettings, begin: Callable[[], Worker], caplog: pytest.LogCaptureFixture
) -> None:
    #  outputs, labels:   read ---| taken away: 3 messages each | read on
    world = World(cluster, seed=11)
    world.write(300)
    read_some(world, begin)
    positions = {partition: manifest.positions for partition, manifest in world.manifests().items()}
    world.write(600)
    lows = {
        (topic, partition): positions[partition][topic] + LOST
        for topic in (topics.OUTPUTS, topics.LABELS)
        for partition in positions
    }
    take_away(cluster, {(cluster.topic_prefix + topic, partition): low for (topic, partition), low in lows.items()})
    for rows, topic in ((world.outputs, topics.OUTPUTS), (world.labels, topics.LABELS)):
        logs: dict[int, list[Any]] = rows
        for partition, log in logs.items():
            low = lows[topic, partition]
            logs[partition] = [row for row in log if not low - LOST <= row.offset < low]
    with caplog.at_level(logging.ERROR, "tocsin.join"):
        second = begin()
        world.tell(LATER_MS)
        sent = world.sent()
    assert sent == world.expected()
    assert second.hot_path.counts["offsets_lost"] == LOST * len(lows)
    assert sum("join.offsets_lost" in record.message for record in caplog.records) == len(lows)
    assert second.hot_path.counts["conservation_errors"] == 0


def test_a_running_join_that_retention_overtakes_counts_what_is_gone_and_joins_the_rest(
    cluster: KafkaSettings, begin: Callable[..., Worker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    #  outputs, labels:   paused by its disk at 0 | taken away: 3 messages each | reads on
    world = World(cluster, seed=13)
    world.write(300)
    in_the_way = tmp_path / "in_the_way"
    in_the_way.write_text("a file where a folder must be")
    with caplog.at_level(logging.ERROR, "tocsin.join"):
        worker = begin(folder=in_the_way)
        worker.until(lambda: worker.hot_path.status.paused == "disk" and len(worker.hot_path.status.owned) == 4)
        places = [(topic, partition) for topic in (topics.OUTPUTS, topics.LABELS) for partition in range(4)]
        take_away(cluster, {(cluster.topic_prefix + topic, partition): LOST for topic, partition in places})
        in_the_way.unlink()
        worker.until(lambda: worker.hot_path.counts["offsets_lost"] == LOST * len(places))
        for rows in (world.outputs, world.labels):
            logs: dict[int, list[Any]] = rows
            for partition, log in logs.items():
                logs[partition] = [row for row in log if row.offset >= LOST]
        world.tell(LATER_MS)
        assert world.sent() == world.expected()
    said = {record.getMessage() for record in caplog.records if "join.offsets_lost" in record.getMessage()}
    assert said == {
        f"join.offsets_lost topic={topic} partition={partition} from=0 to={LOST}" for topic, partition in places
    }
    assert worker.hot_path.counts["conservation_errors"] == 0


def test_the_join_refuses_a_changelog_that_has_lost_what_its_manifest_names(
    cluster: KafkaSettings, begin: Callable[[], Worker]
) -> None:
    world = World(cluster, seed=12)
    world.write(300)
    read_some(world, begin)
    changelog = cluster.topic_prefix + topics.CHANGELOG
    ends = world.ends(topics.CHANGELOG)
    take_away(cluster, {(changelog, partition): end - 1 for partition, end in ends.items()})
    worker = begin()
    worker.join()
    assert isinstance(worker.error, MalformedRecordError)
    assert "missing" in str(worker.error)


@pytest.fixture
def toy_settings(kafka: str, topic_prefix: str, tmp_path: Path) -> HostSettings:
    world = toys.World(kafka, tmp_path, rate=0, read_back=True, prefix=topic_prefix)
    world.make_topics()
    settings: HostSettings = toys.settings(kafka, topic_prefix, None)
    return replace(settings, writes_clock=False)


def test_a_stage_counts_records_that_retention_took_and_handles_the_rest(
    toy_settings: HostSettings, cluster: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    #  1 … 10 handled | 11 … 25 taken away | 26 … 30
    bench = Bench(toy_settings)

    async def trial() -> None:
        bench.events(1, range(1, 11))
        async with bench.worker(toys.specs()):
            await until(lambda: len(bench.ids("done")) == 10)
        bench.events(1, range(11, 31))
        take_away(cluster, {(bench.topic("events"), 1): 25})
        async with bench.worker(toys.specs()) as host:
            await until(lambda: len(set(bench.ids("done"))) == 15)
            assert host.counts()["tally"]["retention_gaps"] == 1
            assert host.counts()["remind"]["retention_gaps"] == 0

    with caplog.at_level(logging.ERROR, "tocsin.host"):
        asyncio.run(trial())
    assert [record.message for record in caplog.records if "retention_gap" in record.message] == [
        "cursor.retention_gap stage=tally topic=events partition=1 lost=15"
    ]
    assert {body["n"] for body in bench.bodies("done")} == {*range(1, 11), *range(26, 31)}


def test_a_stage_that_retention_overtakes_while_it_runs_steps_over_what_is_gone(
    toy_settings: HostSettings, cluster: KafkaSettings
) -> None:
    #  1 … 30 | 1 … 25 taken away, as from a stage that has come to 10 only
    bench = Bench(toy_settings)

    async def trial() -> None:
        async with bench.worker(toys.specs()[:1]) as host:
            bench.events(1, range(1, 31))
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"30")
            take_away(cluster, {(bench.topic("events"), 1): 25})
            stage = host.stages["tally"]
            stage.owned[1].view.cursors["events"] = 10
            await until(lambda: stage.owned[1].view.cursors["events"] == 30)
            counts = host.counts()["tally"]
            assert (counts["retention_gaps"], counts["offsets_lost"]) == (1, 15)
            assert (counts["read_back_records"], counts["empty_offsets"]) == (5, 0)

    asyncio.run(trial())
    assert {body["id"]: body["count"] for body in bench.bodies("tallied")} == {f"k1-{n}": n for n in range(1, 31)}


def test_a_stage_whose_changelog_is_empty_begins_at_the_first_record_and_says_the_same_again(
    toy_settings: HostSettings, cluster: KafkaSettings
) -> None:
    bench = Bench(toy_settings)

    async def trial() -> FaustHost:
        bench.events(1, range(1, 11))
        async with bench.worker(toys.specs()[:1]):
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"10")
        changelog = bench.settings.changelog("tally")
        last = max(message.offset() for message in toys.read_all(bench.broker, changelog) if message.partition() == 1)
        take_away(cluster, {(changelog, 1): last + 1})
        bench.events(1, range(11, 13))
        async with bench.worker(toys.specs()[:1]) as host:
            await until(lambda: bench.rows("tally").get(table_key(1, "@events")) == b"12")
        return host  # type: ignore[no-any-return]

    host = asyncio.run(trial())
    assert host.counts()["tally"]["handled"] == 12
    assert orjson.loads(bench.rows("tally")[table_key(1, "k1")] or b"") == {"n": 12, "count": 12}
    said = {(body["id"], body["count"]) for body in bench.bodies("tallied")}
    assert said == {(f"k1-{n}", n) for n in range(1, 13)}
