"""Are the rows what a benchmark says of them?"""

import numpy as np
import orjson
import pytest

from schemas.model import Model
from tests.benchmarks.curves import CURVES
from tests.benchmarks.reference import baseline
from tests.benchmarks.workload import TOPICS, Workload

TWO = Workload(outputs=1_000, lanes=7, models=2, label_delay_ms=1_000)


@pytest.mark.parametrize("at", CURVES["lanes"].points)
def test_a_point_has_as_many_lanes_as_it_says(at: int) -> None:
    workload = CURVES["lanes"].points[at].workload
    lanes = [
        len(baseline(workload, model(name), tick_ms=10_000, max_lanes=5_000).lanes) for name in workload.model_names
    ]
    assert sum(lanes) == at


def model(name: str) -> Model:
    return Model(
        name=name, kind="classification", threshold=0.5, sla_accuracy=0.9, segments=("region",), features={},
        required=(), label_wait_ms=1, tier="standard",
    )  # fmt: skip


def test_a_label_is_of_its_output_s_model_whichever_messages_they_lie_in() -> None:
    of: dict[str, str] = {}
    for topic in TOPICS:
        for numbers, at_ms in TWO.places(topic):
            rows = [orjson.loads(text) for text in TWO.texts(topic, numbers, at_ms)]
            for row in rows:
                assert of.setdefault(row["prediction_id"], row["model"]) == row["model"]
            tables = [orjson.loads(value)["columns"] for _, value in TWO.tables(topic, numbers, at_ms)]
            assert [row["model"] for row in rows] == [name for columns in tables for name in columns["model"]]
    names, outputs = np.unique(list(of.values()), return_counts=True)
    assert names.tolist() == ["risk", "risk-2"]
    assert outputs.min() > TWO.outputs * 0.4
