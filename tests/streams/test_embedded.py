"""Does code written after the playbook run unchanged, and does one fault stay one fault?"""

import logging
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.label import Label
from schemas.output import Output
from streams.embedded import (
    AIIncidentDetector,
    DetectionResult,
    IncidentSeverity,
    Tocsin,
    confidence_drop_detector,
)
from tests.simulation.workload import (
    CHANNELS,
    REGIONS,
    T0_MS,
    TICK_MS,
    Fault,
    baselines,
    draw,
    settings,
)

MINUTES = 80
BROKEN_FROM, BROKEN_TO = 12, 26


def rings(outputs: list[Any], labels: list[Any] | None) -> DetectionResult:
    message = f"{len(outputs)} {labels}"
    return DetectionResult(True, IncidentSeverity.CRITICAL, "rings", message, 1.0, 0.5, time.time())  # noqa: FBT003


def breaks(outputs: list[Any], labels: list[Any] | None) -> DetectionResult:
    raise RuntimeError(f"Ann Example, {outputs}, {labels}")


def test_code_after_the_playbook_runs_unchanged() -> None:
    told: list[DetectionResult] = []
    detector = AIIncidentDetector()
    detector.register_detector(fn=lambda outputs, labels: confidence_drop_detector(outputs, labels, 2, 0.7))
    detector.register_detector(rings)
    detector.register_alert_handler(fn=told.append)
    results = detector.check(outputs=[{"confidence": 0.1}, {"confidence": 0.8}, {"confidence": 0.9}], labels=[1, 0, 1])
    assert [result.detected for result in results] == [False, True]
    assert results[0].metric_value == pytest.approx(0.85)
    assert told == [results[1]]
    assert results[1].message == "3 [1, 0, 1]"
    assert detector.detectors[1] is rings
    assert detector.alert_handlers == [told.append]


def test_labels_may_be_left_out() -> None:
    detector = AIIncidentDetector()
    detector.register_detector(rings)
    assert detector.check([{}])[0].message == "1 None"


def test_a_detector_that_raises_is_reported_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    told: list[DetectionResult] = []
    detector = AIIncidentDetector()
    for one in (breaks, rings):
        detector.register_detector(one)
    detector.register_alert_handler(told.append)
    with caplog.at_level(logging.ERROR):
        results = detector.check([{}])
    assert [result.detected for result in results] == [False, True]
    assert results[0].detector_name == "breaks"
    assert "RuntimeError" in results[0].message
    assert math.isnan(results[0].metric_value)
    assert [(failure.role, failure.name) for failure in detector.failures] == [("detector", "breaks")]
    assert len(told) == 1
    assert "error=RuntimeError" in caplog.text
    assert "Ann Example" not in caplog.text + results[0].message


def test_a_handler_that_raises_does_not_keep_the_next_from_hearing() -> None:
    told: list[DetectionResult] = []

    def deaf(result: DetectionResult) -> None:
        raise ConnectionError(result.message)

    detector = AIIncidentDetector()
    detector.register_detector(rings)
    detector.register_alert_handler(deaf)
    detector.register_alert_handler(told.append)
    assert detector.check([{}]) == told
    assert [failure.role for failure in detector.failures] == ["handler"]
    detector.alert_handlers.remove(deaf)
    detector.check([{}])
    assert detector.failures == []


def test_a_detector_that_answers_nothing_is_a_failure_and_not_health() -> None:
    detector = AIIncidentDetector()
    detector.register_detector(lambda _outputs, _labels: None)  # type: ignore[arg-type, return-value]
    assert detector.check([{}])[0].detected is False
    assert len(detector.failures) == 1


def test_d27_missing_confidence_is_skipped_and_counted() -> None:
    half = [{"confidence": 0.9}, {}] * 50
    result = confidence_drop_detector(half)
    assert not result.detected
    assert result.metric_value == pytest.approx(0.9)
    assert "50 of 100" in result.message


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [{}],
        [{"confidence": None}, {"confidence": math.nan}, {"confidence": "0.1"}],
        [{"confidence": 10**400}, {"confidence": np.array([0.1, 0.2])}],
    ],
)
def test_nothing_known_detects_nothing(outputs: list[dict[str, Any]]) -> None:
    result = confidence_drop_detector(outputs)
    assert not result.detected
    assert result.severity is None
    assert result.message.startswith("No ")


def test_the_limit_itself_is_still_good() -> None:
    assert not confidence_drop_detector([{"confidence": 0.5}], threshold=0.5).detected
    low = confidence_drop_detector([{"confidence": 0.4999}], None, 100, 0.5)
    assert low.detected
    assert low.severity is IncidentSeverity.HIGH


def test_only_the_latest_outputs_count() -> None:
    outputs = [{"confidence": 0.1}] * 10 + [{"confidence": 0.9}] * 2
    assert not confidence_drop_detector(outputs, window_size=2).detected
    assert confidence_drop_detector(outputs, window_size=12).detected


@pytest.mark.parametrize(
    ("outputs", "window_size", "mean", "message"),
    [
        (None, 100, 0.0, "No outputs to evaluate"),
        ([], 100, 0.0, "No outputs to evaluate"),
        ([{"confidence": 0.2}] * 5 + [{"confidence": 0.9}], 0, 1.9 / 6, "Average confidence 0.317 vs threshold 0.7"),
        ([{"confidence": 0.2}] * 5 + [{"confidence": 0.9}], -5, 0.9, "Average confidence 0.900 vs threshold 0.7"),
        ([{"confidence": True}, {"confidence": False}], 100, 0.5, "Average confidence 0.500 vs threshold 0.7"),
    ],
)
def test_odd_calls_are_answered_as_the_playbooks_code_answers_them(
    outputs: list[dict[str, Any]] | None, window_size: int, mean: float, message: str
) -> None:
    result = confidence_drop_detector(outputs, window_size=window_size)
    assert result.message == message
    assert result.metric_value == pytest.approx(mean)
    assert result.detected is (message.startswith("Average") and mean < 0.7)


def test_where_the_playbooks_code_would_divide_by_nothing_nothing_is_detected() -> None:
    assert confidence_drop_detector([{"confidence": 0.1}], window_size=-5).message == "No outputs to evaluate"


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 -- what stands there is ours
    assert capsys.readouterr().out == "IncidentSeverity.HIGH Average confidence 0.400 vs threshold 0.7\n"


class Service:
    """A service that checks itself each minute, as the rows of the simulator's model become known to it."""

    def __init__(self, fault: Fault | None) -> None:
        drawn = draw(np.random.default_rng(3), "alpha", T0_MS, MINUTES, [fault] if fault else [])
        self.outputs, self.labels = [], []
        for row, made_at_ms in enumerate(drawn.made_at_ms.tolist()):
            yes, amount = bool(drawn.yes[row]), float(drawn.amount[row])
            self.outputs.append(
                Output(
                    prediction_id=f"p{row}",
                    model="alpha",
                    version="v1",
                    made_at_ms=made_at_ms,
                    prediction=int(yes),
                    score=float(drawn.score[row]),
                    segments={"region": REGIONS[drawn.region[row]]},
                    features={
                        "amount": None if math.isnan(amount) else amount,
                        "channel": CHANNELS[drawn.channel[row]],
                    },
                )
            )
            truth = yes != bool(drawn.wrong[row])
            at_ms = made_at_ms + int(drawn.delay_ms[row])
            self.labels.append(Label(prediction_id=f"p{row}", model="alpha", labelled_at_ms=at_ms, label=int(truth)))
        self.now_ms = T0_MS
        self.tocsin = Tocsin(
            models=[settings().models["alpha"]],
            baselines=[one for one in baselines() if one.model == "alpha"],
            settings=settings(),
            clock=lambda: self.now_ms,
        )
        self.detector = AIIncidentDetector()
        self.detector.register_detector(self.tocsin)
        self.told: list[DetectionResult] = []
        self.detector.register_alert_handler(self.told.append)

    def minute(self, number: int, *, window: int = 1) -> DetectionResult:
        """Check what became known in the last `window` minutes."""
        self.now_ms = T0_MS + (number + 1) * TICK_MS
        begin_ms = self.now_ms - window * TICK_MS
        outputs = [one for one in self.outputs if begin_ms <= one.made_at_ms < self.now_ms]
        labels = [one for one in self.labels if begin_ms <= one.labelled_at_ms < self.now_ms]
        return self.detector.check(outputs, labels)[0]


def test_tocsin_rings_once_for_a_fault_and_knows_when_it_is_over() -> None:
    service = Service(Fault("alpha", "errors", BROKEN_FROM, BROKEN_TO))
    rang = [minute for minute in range(MINUTES) if service.minute(minute).detected]
    assert BROKEN_FROM <= rang[0] < BROKEN_TO
    assert {one.severity for one in service.told} <= {
        IncidentSeverity.HIGH,  # more errors than was agreed
        IncidentSeverity.MEDIUM,  # more errors than usual
        IncidentSeverity.LOW,  # labels that come sooner, as they do for wrong answers
    }
    assert service.told[0].metric_value > service.told[0].threshold
    assert "alpha" in service.told[0].message
    assert len(rang) <= 3, "it rings when an incident opens or gets worse, not at each check"
    assert len(service.told) == len(rang)
    assert service.tocsin.findings == {}, "each finding has cleared by its own recovery test"
    assert service.detector.failures == []


def test_tocsin_is_silent_while_the_model_is_healthy() -> None:
    service = Service(None)
    for minute in range(BROKEN_TO):
        assert not service.minute(minute).detected
    assert service.tocsin.incidents == {}
    assert service.tocsin.refused == 0


def test_windows_that_overlap_change_nothing() -> None:
    apart, overlapping = (Service(Fault("alpha", "nulls", BROKEN_FROM, BROKEN_TO)) for _ in range(2))
    for minute in range(BROKEN_TO):
        once, again = apart.minute(minute), overlapping.minute(minute, window=4)
        assert (once.detected, once.severity) == (again.detected, again.severity)
        assert apart.tocsin.findings == overlapping.tocsin.findings
    assert apart.told


def test_plain_labels_are_the_truth_about_the_outputs_at_their_places() -> None:
    service = Service(None)
    service.now_ms = T0_MS + TICK_MS
    outputs = [{"prediction_id": str(n), "model": "alpha", "made_at_ms": T0_MS, "prediction": n % 2} for n in range(4)]
    result = service.tocsin(outputs, [True, None, 0, "1"])
    assert "4 outputs and 3 labels taken, 0 refused" in result.message


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array(["0", "1"]), np.array([False, True]), [np.False_, 1]])
def test_numbers_of_numpy_are_taken_for_what_they_are(labels: Sequence[Any]) -> None:
    service = Service(None)
    service.now_ms = T0_MS + TICK_MS
    outputs = [
        {
            "prediction_id": str(n),
            "model": "alpha",
            "made_at_ms": np.int64(T0_MS),
            "prediction": 1,
            "score": np.float32(n),
        }
        for n in range(2)
    ]
    result = service.tocsin(outputs, labels)
    assert "2 outputs and 2 labels taken, 0 refused" in result.message, service.tocsin.last_refusal


def test_what_is_no_output_is_counted_and_does_not_spoil_the_rest() -> None:
    service = Service(None)
    service.now_ms = T0_MS + TICK_MS
    good = {"prediction_id": "1", "model": "alpha", "made_at_ms": T0_MS, "prediction": 1}
    service.tocsin([{"confidence": 0.4}, good, good | {"score": 7}, object(), b"no json"], [1, 1, 1, 1, 1])  # type: ignore[list-item]
    assert service.tocsin.refused == 4 + 3
    assert service.tocsin.last_refusal is not None
