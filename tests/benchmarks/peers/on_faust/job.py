"""The join as a user of Faust would write it: one agent over both topics, one table, acknowledged by hand.

What to read and where to write stands in the variable `PEER`, as JSON. The table has one entry an id: an output that
waits for its label, or a label that waits for its output; the first label takes it away. A partition's events are taken
1,000 at a time, fewer when nothing more is there: sums are sent and delivered, then the table is written, then the events
are acknowledged, so that a crash repeats a part and loses none. Of one partition, because a table is written to the
changelog partition of the event in hand.
"""

import asyncio
import json
import os
from typing import Any

import faust

TOLD = json.loads(os.environ["PEER"])
WINDOW_MS, LABEL_WAIT_MS = TOLD["window_ms"], TOLD["label_wait_ms"]
BATCH_EVENTS = 1_000

app = faust.App(
    TOLD["group"],
    broker=f"kafka://{TOLD['broker']}",
    datadir=TOLD["folder"],
    topic_partitions=TOLD["partitions"],
    topic_disable_leader=True,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
    table_standby_replicas=0,
    broker_max_poll_records=5_000,
    producer_linger=0.01,
    stream_buffer_maxsize=131_072,  # as the documentation says for a high rate
)
rows = app.topic(TOLD["outputs"], TOLD["labels"], key_type=bytes, value_serializer="json")
waiting = app.Table("waiting", partitions=TOLD["partitions"], key_type=bytes)
counts = app.topic(TOLD["counts"], key_serializer="raw", value_serializer="json")

Entry = list[Any]
"""An output: its time, prediction and lane. A label: its time and the truth."""


@app.agent(rows, concurrency=1)
async def join(stream: faust.StreamT[Any]) -> None:
    """Join."""
    taken: dict[int, list[Any]] = {}
    async for event in stream.noack().events():  # type: ignore[attr-defined] # not in its interface
        message = event.message
        batch = taken.setdefault(message.partition, [])
        batch.append(event)
        if len(batch) < BATCH_EVENTS and app.consumer.highwater(message.tp) != message.offset + 1:
            continue
        changed, sums = joined(batch)
        parts = [
            await counts.send(key=lane.encode(), value=[window * WINDOW_MS, lane, *numbers])
            for (window, lane), numbers in sums.items()
        ]
        await asyncio.gather(*parts)
        for key, entry in changed.items():
            if entry is not None:
                waiting[key] = entry
            elif key in waiting:
                del waiting[key]
        for one in batch:
            await stream.ack(one)
        batch.clear()


def joined(batch: list[Any]) -> tuple[dict[bytes, Entry | None], dict[tuple[int, str], list[int]]]:
    """Return the entries that are to be set, or taken away, and the sums of windows and lanes."""
    changed: dict[bytes, Entry | None] = {}
    sums: dict[tuple[int, str], list[int]] = {}

    def match(output: Entry, label: Entry) -> None:
        made_at_ms, prediction, lane = output
        labelled_at_ms, truth = label
        if labelled_at_ms - made_at_ms <= LABEL_WAIT_MS:
            numbers = sums.setdefault((labelled_at_ms // WINDOW_MS, lane), [0, 0, 0])
            numbers[1] += 1
            numbers[2] += prediction == truth

    for event in batch:
        key, row = event.key, event.value
        known = changed[key] if key in changed else waiting.get(key)
        if "made_at_ms" in row:
            entry = [row["made_at_ms"], row["prediction"], row["segments"]["region"]]
            sums.setdefault((entry[0] // WINDOW_MS, entry[2]), [0, 0, 0])[0] += 1
            if known is None:
                changed[key] = entry
            elif len(known) == 2:
                match(entry, known)
                changed[key] = None
        else:
            entry = [row["labelled_at_ms"], row["label"]]
            if known is None:
                changed[key] = entry
            elif len(known) == 3:
                match(known, entry)
                changed[key] = None
    return changed, sums


if __name__ == "__main__":
    app.main()
