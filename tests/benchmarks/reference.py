"""What is healthy in the workload? A baseline of its first outputs, so that the join has all bins to count in."""

import numpy as np

from detectors.binning import NAME, NUMBER, confidence_of
from detectors.fitting import fit_binning
from detectors.history import FeatureHistory, History, Names, counted
from detectors.statistics import needed
from detectors.table import NEEDS
from schemas.baseline import Baseline
from schemas.model import Model
from tests.benchmarks import workload
from tests.benchmarks.workload import Workload

HISTORY_OUTPUTS, OF_EACH_VALUE = 20_000, 20
"""How many outputs, at least: in all, and of each value of the segment."""


def history(of: Workload) -> History:
    """Return outputs with their labels, as `tocsin baseline build` would read them from a file."""
    numbers = np.arange(max(HISTORY_OUTPUTS, OF_EACH_VALUE * of.lanes))
    n, score = len(numbers), (workload.scores(numbers) / 1_000_000).astype(np.float32)
    made_at_ms = workload.made_at_ms(numbers)
    none, nothing = Names(np.full(n, -1, np.int32), ()), np.full(n, np.nan)
    numeric, categorical = of.names
    features = {
        name: FeatureHistory(np.full(n, NUMBER, np.int8), workload.amounts(numbers, at) / 10_000, none)
        for at, name in enumerate(numeric)
    }
    for at, name in enumerate(categorical):
        codes = workload.values(numbers, at).astype(np.int32)
        names = Names(codes, tuple(f"value-{value}" for value in range(workload.VALUES)))
        features[name] = FeatureHistory(np.full(n, NAME, np.int8), nothing, names)
    return History(
        made_at_ms=made_at_ms,
        labelled_at_ms=made_at_ms + of.label_delay_ms * 3 // 4,
        wrong=workload.answers(numbers) != workload.truths(numbers),
        score=score,
        confidence=confidence_of(score),
        version=Names(np.zeros(n, np.int32), (workload.VERSION,)),
        segments={"region": Names(of.region_codes(numbers), of.regions)},
        features=features,
    )


def baseline(of: Workload, model: Model, *, tick_ms: int, max_lanes: int) -> Baseline:
    """Return the baseline, which holds from before the first output on; nothing is armed."""
    known = history(of)
    counts = counted(known, fit_binning(known, model, tick_ms=tick_ms, max_lanes=max_lanes), needed(NEEDS))
    return Baseline(
        model=model.name, version=1, valid_from_ms=0, binning=counts.binning, reference_ms=counts.reference_ms, armed={},
        tolerance={}, decided_at_ms=0, lanes=counts.lanes, arrays=counts.total(),
    )  # fmt: skip
