"""How many rows a second become columns? As a share of bare JSON decoding of the same bytes in the same run.

    python tests/benchmarks/bench_decode.py [ROWS]

Prints a hash of the columns, so that nobody makes it faster by changing what comes out.
"""

import gc
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Literal

import numpy as np
import orjson

from schemas.model import Model
from streams.runtime.decode import Messages, OutputEdge
from streams.stages.batch import Coded, FeatureColumn, OutputBatch

SMALL_ROWS = 2_000
BATCH_MESSAGES = 5_000
CHUNK = 1_000
RUNS = 3
GOLDEN = ["3fd149ab1cc7", "f507a5293aa8", "2799d342e3eb", "59842261a14f"]
"""Hashes of what 2,000 rows decode to, in the order of `main`."""

NUMERIC = tuple(f"amount_{number}" for number in range(16))
CATEGORICAL = tuple(f"channel_{number}" for number in range(4))


def model(*, wide: bool) -> Model:
    """Return the model whose outputs are decoded."""
    declared: dict[str, Literal["numeric", "categorical"]] = {}
    declared.update(dict.fromkeys(NUMERIC, "numeric"))
    declared.update(dict.fromkeys(CATEGORICAL, "categorical"))
    return Model(
        name="fraud", kind="classification", threshold=0.5, sla_accuracy=None, segments=("region", "sex"),
        features=declared if wide else {}, required=(), label_wait_ms=1, tier="standard",
    )  # fmt: skip


def rows(count: int, *, wide: bool) -> list[dict[str, object]]:
    """Make outputs of one partition from a seed."""
    rng = np.random.default_rng(7)
    scores = rng.random(count).round(6).tolist()
    ids = [bytes(one).hex() for one in rng.integers(0, 256, (count, 16), np.uint8)]
    made: list[dict[str, object]] = [
        {
            "prediction_id": ids[number],
            "model": "fraud",
            "version": "7",
            "made_at_ms": 1_790_000_000_000 + number,
            "prediction": "01"[score > 0.5],
            "score": score,
            "latency_ms": 12.5,
            "segments": {"region": "west" if number % 3 else "east", "sex": str(number % 2)},
        }
        for number, score in enumerate(scores)
    ]
    if wide:
        numbers, names = rng.normal(50, 20, (count, 16)).round(4), rng.integers(0, 9, (count, 4))
        for number, row in enumerate(made):
            row["features"] = dict(zip(NUMERIC, numbers[number].tolist(), strict=True)) | {
                name: f"value-{code}" for name, code in zip(CATEGORICAL, names[number].tolist(), strict=True)
            }
    return made


def table(some: Sequence[dict[str, object]]) -> bytes:
    """Put rows into one many-row message."""
    columns: dict[str, list[object]] = {}
    for row in some:
        for name, value in row.items():
            inner = (
                {f"{name}.{one}": given for one, given in value.items()} if isinstance(value, dict) else {name: value}
            )
            for column, given in inner.items():
                columns.setdefault(column, []).append(given)
    return orjson.dumps({"schema": 1, "rows": len(some), "columns": columns})


def batches(values: Sequence[bytes]) -> list[Messages]:
    """Cut messages as a consumer would hand them over."""
    cut = []
    for start in range(0, len(values), BATCH_MESSAGES):
        some = list(values[start : start + BATCH_MESSAGES])
        cut.append(
            Messages(
                partition=0,
                start=start,
                end=start + len(some),
                offset=list(range(start, start + len(some))),
                broker_ms=[1_790_000_000_000] * len(some),
                key=[b"k"] * len(some),
                value=some,
            )
        )
    return cut


def digest(batch: OutputBatch, into: "hashlib.blake2b") -> None:
    """Add all columns of a batch to a hash."""

    def add(value: object) -> None:
        if isinstance(value, np.ndarray):
            into.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Coded):
            add(value.codes)
            into.update("|".join(value.values).encode())
        elif isinstance(value, FeatureColumn):
            add(value.state)
            add(value.numbers)
            add(value.names)
        elif isinstance(value, dict):
            for one in value.values():
                add(one)
        else:
            into.update(str(value).encode())

    for one in fields(batch):
        add(getattr(batch, one.name))


def best_s(run: Callable[[], None]) -> float:
    """Return the shortest of some runs, in seconds of this process, with the collector off."""
    times = []
    gc.disable()
    for _ in range(RUNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    gc.enable()
    return min(times)


def bare(values: Sequence[bytes]) -> None:
    """Decode JSON, and nothing else."""
    for start in range(0, len(values), CHUNK):
        list(map(orjson.loads, values[start : start + CHUNK]))


def measure(name: str, count: int, *, wide: bool, rows_a_message: int) -> str:
    """Measure one form; return what is printed."""
    made = rows(count, wide=wide)
    if rows_a_message == 1:
        values = [orjson.dumps(row) for row in made]
    else:
        values = [table(made[at : at + rows_a_message]) for at in range(0, count, rows_a_message)]
    edge, cut = OutputEdge({"fraud": model(wide=wide)}, partitions=4), batches(values)
    hashed = hashlib.blake2b(digest_size=6)
    decoded = 0
    for messages in cut:
        batch = edge.decode(messages).batch
        decoded += len(batch.offset)
        digest(batch, hashed)
    assert decoded == count

    def run() -> None:
        for messages in cut:
            edge.decode(messages)

    taken, limit = best_s(run), best_s(lambda: bare(values))
    size = sum(map(len, values)) / count
    return (
        f"{name:8} {size:5.0f} B a row  {count / taken:12,.0f} rows/s  {taken / count * 1e6:6.3f} us a row  "
        f"{limit / taken:5.2f} of bare JSON  {hashed.hexdigest()}"
    )


def main(count: int) -> list[str]:
    """Measure all forms."""
    return [
        measure("single", count, wide=False, rows_a_message=1),
        measure("wide", count, wide=True, rows_a_message=1),
        measure("many", count, wide=False, rows_a_message=100),
        measure("widemany", count, wide=True, rows_a_message=100),
    ]


def test_decoding_gives_the_columns_it_always_gave() -> None:
    lines = main(SMALL_ROWS)
    assert [line.split()[-1] for line in lines] == GOLDEN


if __name__ == "__main__":
    print("\n".join(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)))  # noqa: T201
