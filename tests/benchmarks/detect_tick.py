"""How long does detect take for one tick of ten thousand lanes, each with rows?

Every detector runs, on four features: 108 alternatives a lane, a little more than the 12 times 8 that the target means.
The same with twenty features stands beside it. Ticks with a snapshot of the state, one in ten, are left out, and stand
beside it too.
"""

from statistics import median

from tests.benchmarks import bench_detect_tick
from tests.benchmarks.bench_detect_tick import DENSE
from tests.benchmarks.figures import Bench, Figure, Measured, UnfitError, the_one

MODELS, VALUES = 20, 249
"""20 models with 500 lanes each: 249 values of a segment by one version, twice, and two more."""
TICKS = 30
FEATURES = 4
MORE = 20
SMALL = 2, 3, 20
LEAST_ALTERNATIVES = 96


def detect_tick(bench: Bench) -> Measured:
    """Measure."""
    models, values, ticks = SMALL if bench.small else (MODELS, VALUES, TICKS)
    plain: dict[int, list[float]] = {}
    decoded: list[float] = []
    by_cpu: list[float] = []
    saved: list[float] = []
    findings = set()
    for run in range(bench.runs):
        for features in (FEATURES, MORE):
            one = bench_detect_tick.measure(models, values, ticks, features, DENSE)
            plain.setdefault(features, []).append(median(one.wall_ms))
            if one.with_rows != one.lanes:
                raise UnfitError(f"{one.with_rows} of {one.lanes} lanes had rows")
            if features == FEATURES:
                if one.alternatives < LEAST_ALTERNATIVES:
                    raise UnfitError(f"{one.alternatives} alternatives a lane, at least {LEAST_ALTERNATIVES} are meant")
                decoded.append(median(map(sum, zip(one.wall_ms, one.decode_ms, strict=True))))
                by_cpu.append(median(one.plain_ms))
                saved.append(median(one.saved_wall_ms))
                findings.add(one.findings)
        bench.say(f"detect_tick: run {run + 1} of {bench.runs}: {plain[FEATURES][-1]:.0f} ms")
    return Measured(
        figures=[
            Figure(
                name="detect_tick_10k_lanes_ms",
                runs=plain[FEATURES],
                unit="ms",
                target=("≤", 100.0),
                beside={"by_cpu": by_cpu, "with_a_snapshot_ms": saved, "20_features": plain[MORE]},
            ),
            Figure(name="detect_tick_10k_lanes_with_decode_ms", runs=decoded, unit="ms"),
        ],
        results={"detect_tick": the_one(findings, "detect_tick")},
    )
