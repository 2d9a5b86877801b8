"""How many rows a second does the join by itself, without Kafka and decoding, and what does a pending row cost?

    python tests/benchmarks/bench_join_stage.py                      # small, some seconds
    python tests/benchmarks/bench_join_stage.py --outputs 10_000_000 --lag 9_000_000

One output a millisecond of event time, in batches made beforehand; the label of each comes `lag` outputs later, five in
six do. Prints rows a second of process time, the checkpoints' share in it, bytes a known row, the time of a restore from
the changelog, and a hash of all that was sent, which no change of speed may change.
"""

import argparse
import dataclasses
import gc
import hashlib
import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from detectors.statistics import STATISTICS
from schemas.model import Model
from streams.stages.batch import Coded, FeatureColumn, LabelBatch, OutputBatch
from streams.stages.blocks import Journal, MemoryRuns
from streams.stages.join import Join, JoinSettings

START_MS = 1_700_000_000_000
MODEL = Model(
    name="fraud0",
    kind="classification",
    threshold=0.5,
    sla_accuracy=None,
    segments=("region",),
    features={},
    required=(),
    label_wait_ms=14 * 86_400_000,
    tier="standard",
)
SETTINGS = JoinSettings(
    tick_ms=10_000,
    allowed_disorder_ms=10_000,
    idle_after_ms=30_000,
    default_label_wait_ms=14 * 86_400_000,
    orphan_wait_ms=86_400_000,
    correction_wait_ms=86_400_000,
    future_skew_ms=300_000,
    max_lanes_per_model=500,
    block_rows=32_768,
    orphans_bound_rows=1_000_000,
    needs=tuple(STATISTICS),
)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_REGIONS = ("north", "south", "east", "west")


def _hashes(numbers: np.ndarray) -> np.ndarray:
    mixed = numbers.astype(np.uint64) * _MIX
    mixed ^= mixed >> np.uint64(29)
    return mixed * np.uint64(0xBF58476D1CE4E5B9)


def _names(models: int) -> tuple[str, ...]:
    return tuple(f"fraud{at}" for at in range(models))


def _outputs(start: int, end: int, jitter_ms: int, features: int, models: int) -> OutputBatch:
    numbers = np.arange(start, end)
    rng = np.random.default_rng(start)
    n = end - start
    score = rng.random(n, dtype=np.float32)
    made = START_MS + numbers - rng.integers(0, jitter_ms + 1, n)
    prediction = (score > 0.5).astype(np.uint32)
    one = np.zeros(n, np.int32)
    column = FeatureColumn(np.zeros(n, np.int8), score.astype(np.float64), Coded(one - 1, ()))
    return OutputBatch(
        partition=0,
        start=start,
        end=end,
        offset=numbers,
        row=one,
        broker_ms=START_MS + numbers,
        id_hash=_hashes(numbers),
        misplaced=(numbers % 64 != 0).astype(np.int8) * np.int8(-1),
        made_at_ms=made,
        model=Coded((numbers % models).astype(np.int32), _names(models)),
        version=Coded(one, ("7",)),
        prediction=prediction,
        content=prediction,
        score=score,
        confidence=np.maximum(score, np.float32(1) - score),
        segments={"region": Coded((numbers % 4).astype(np.int32), _REGIONS)},
        features={f"f{at}": column for at in range(features)},
        dead=0,
    )


def _labels(start: int, end: int, lag: int, models: int) -> LabelBatch:
    numbers = np.arange(start, end)
    rng = np.random.default_rng(start + 1)
    of = numbers[rng.random(end - start) < 5 / 6]
    n = len(of)
    output = rng.permutation(of)
    return LabelBatch(
        partition=0,
        start=start,
        end=end,
        offset=of,
        row=np.zeros(n, np.int32),
        broker_ms=START_MS + of + lag,
        id_hash=_hashes(output),
        misplaced=(output % 64 != 0).astype(np.int8) * np.int8(-1),
        labelled_at_ms=START_MS + of + lag,
        model=Coded((output % models).astype(np.int32), _names(models)),
        label=rng.integers(0, 2, n).astype(np.uint32),
        version=np.full(n, -1),
        made_at_ms=np.full(n, -1),
        retracted=np.zeros(n, np.bool_),
        dead=0,
    )


def _batches(wanted: argparse.Namespace, lag: int) -> Iterator[OutputBatch | LabelBatch]:
    for start in range(0, wanted.outputs, wanted.batch):
        end = min(start + wanted.batch, wanted.outputs)
        yield _outputs(start, end, wanted.jitter_ms, wanted.features, wanted.models)
        if start >= lag:
            yield _labels(start - lag, end - lag, lag, wanted.models)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=400_000)
    parser.add_argument("--lag", type=int, default=100_000, help="outputs between an output and its label")
    parser.add_argument("--batch", type=int, default=10_000, help="rows of a batch")
    parser.add_argument("--jitter-ms", type=int, default=50)
    parser.add_argument("--features", type=int, default=0)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--checkpoint", type=int, default=200_000, help="rows between checkpoints")
    wanted = parser.parse_args()
    lag = wanted.lag // wanted.batch * wanted.batch
    models = {name: dataclasses.replace(MODEL, name=name) for name in _names(wanted.models)}
    changelog: dict[bytes, bytes] = {}
    digest = hashlib.sha256()
    join = Join(settings=SETTINGS, models=models, partition=0, partitions=1, journal=Journal(1, MemoryRuns()))
    gc.disable()
    receiving = saving = 0.0
    rows = since = written = 0
    manifest = b""
    for batch in _batches(wanted, lag):
        began = time.process_time()
        join.receive(batch)
        receiving += time.process_time() - began
        rows += len(batch.id_hash)
        since += len(batch.id_hash)
        if since >= wanted.checkpoint:
            since = 0
            began = time.process_time()
            checkpoint = join.checkpoint()
            saving += time.process_time() - began
            for key, value in checkpoint.blocks:
                written += len(value or b"")
                if value is None:
                    changelog.pop(key, None)
                else:
                    changelog[key] = value
            manifest = checkpoint.manifest[1]
            written += len(manifest)
            for send in checkpoint.to_send:
                digest.update(send.value)
            if checkpoint.through_ms is not None:
                join.sent(checkpoint.through_ms)
            gc.collect()
    digest.update(json.dumps(join.counters, sort_keys=True).encode())
    assert join.conservation_error() == 0
    gauges = join.gauges
    began = time.perf_counter()
    Join.restore(
        changelog,
        manifest,
        settings=SETTINGS,
        models=models,
        partition=0,
        partitions=1,
        journal=Journal(2, MemoryRuns()),
    )
    restored = time.perf_counter() - began
    found = {
        "rows": rows,
        "rows_per_second": round(rows / (receiving + saving)),
        "microseconds_a_row": round(1e6 * (receiving + saving) / rows, 3),
        "checkpoint_share": round(saving / (receiving + saving), 3),
        "changelog_bytes_a_row": round(written / rows, 1),
        "known_rows": gauges["known_rows"],
        "pending_rows": gauges["pending_rows"],
        "resident_bytes_a_known_row": round(gauges["resident_bytes"] / max(gauges["known_rows"], 1), 1),
        "restore_seconds": round(restored, 2),
        "results": digest.hexdigest()[:16],
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
