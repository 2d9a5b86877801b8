"""What must come out of a workload, whoever joins it? Counts of windows of event time and lanes, worked out with NumPy.

An output counts in the window in which it was made, an outcome in that of its label; the first label of an output is its
outcome, if it comes within the wait.
"""

from hashlib import blake2b

import numpy as np
import orjson

from tests.benchmarks import workload
from tests.benchmarks.workload import Ints, Workload

Counts = dict[tuple[int, str], tuple[int, int, int]]
"""By start of the window and lane: outputs, labelled, correct."""
SHOWN = 3


def expected(of: Workload, *, window_ms: int, label_wait_ms: int) -> Counts:
    """Count.

    >>> counts = expected(Workload(outputs=1_000), window_ms=60_000, label_wait_ms=40_000)
    >>> [sum(column) for column in zip(*counts.values())]
    [1000, 509, 482]
    """
    numbers = np.arange(of.outputs)
    made_at_ms, lanes = workload.made_at_ms(numbers), of.region_codes(numbers)
    labels, at_ms = of.labels()
    labelled, first = np.unique(labels, return_index=True)
    in_time = at_ms[first] - made_at_ms[labelled] <= label_wait_ms
    labelled, labelled_at_ms = labelled[in_time], at_ms[first][in_time]
    is_correct = workload.answers(labelled) == workload.truths(labelled)

    def counted(at_ms: Ints, of_outputs: Ints) -> dict[tuple[int, str], int]:
        cells, many = np.unique(at_ms // window_ms * of.lanes + lanes[of_outputs], return_counts=True)
        places = [(cell // of.lanes * window_ms, of.regions[cell % of.lanes]) for cell in cells.tolist()]
        return dict(zip(places, many.tolist(), strict=True))

    columns = (
        counted(made_at_ms, numbers),
        counted(labelled_at_ms, labelled),
        counted(labelled_at_ms[is_correct], labelled[is_correct]),
    )
    places = set().union(*columns)
    return {place: (columns[0].get(place, 0), columns[1].get(place, 0), columns[2].get(place, 0)) for place in places}


def digest(counts: Counts) -> str:
    """Return a hash of counts, whichever order they came in."""
    return blake2b(
        orjson.dumps(sorted([*place, *numbers] for place, numbers in counts.items())), digest_size=6
    ).hexdigest()


def difference(found: Counts, wanted: Counts) -> str:
    """Name the first few places where counts differ; empty where none does."""
    places = sorted(place for place in found.keys() | wanted.keys() if found.get(place) != wanted.get(place))
    some = [f"{place}: found {found.get(place)}, expected {wanted.get(place)}" for place in places[:SHOWN]]
    return f"{len(places)} windows differ: {'; '.join(some)}" if places else ""
