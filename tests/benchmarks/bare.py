"""How fast could it be? The same bytes, consumed and their JSON decoded, and nothing else: `python bare.py` with `BARE` set.

Tuned: the collector is off, what is decoded at once fits the processor's cache and is freed before the next, and fetches
are set as the join's are.
"""

import gc
import os
import sys
import time
from typing import Any

import msgspec
import orjson
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from streams.runtime import kafka
from tests.benchmarks.watched_worker import Moment
from tests.integration.join_process import cluster_of

CHUNK = 1_000
POLL_WAIT_S = 0.02
QUIET_WAIT_S = 60.0
"""How long nothing may come before it gives up."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be read: all partitions of some topics, until so many rows have come; `columns` if many to a message."""

    broker: str
    topics: tuple[str, ...]
    partitions: int
    rows: int
    columns: bool


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """Before the first row, and after the last."""

    began: Moment
    ended: Moment
    rows: int


def main(asked: Asked) -> Taken:
    """Read."""
    consumer = kafka.consumer(cluster_of(asked.broker, ""), "bare", "bare")
    consumer.assign(
        [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for topic in asked.topics
            for number in range(asked.partitions)
        ]
    )
    rows, began, quiet_s = 0, None, time.monotonic()
    while rows < asked.rows:
        now = Moment.now()
        first = consumer.poll(POLL_WAIT_S)
        if first is None:
            assert now.wall_s - quiet_s < QUIET_WAIT_S, f"{rows} of {asked.rows} rows came"
            continue
        quiet_s, began = now.wall_s, began or now
        values: list[Any] = [message.value() for message in [first, *consumer.consume(CHUNK - 1, 0)]]
        decoded = list(map(orjson.loads, values))
        rows += sum(one["rows"] for one in decoded) if asked.columns else len(decoded)
    ended = Moment.now()
    consumer.close()
    assert began is not None
    return Taken(began=began, ended=ended, rows=rows)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(main(msgspec.json.decode(os.environ["BARE"], type=Asked))))
