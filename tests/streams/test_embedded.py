"""Does code written after the playbook run unchanged, and does one fault stay one fault?"""

import logging
import math
import time
from typing import Any

import pytest

from streams.embedded import (
    AIIncidentDetector,
    DetectionResult,
    IncidentSeverity,
    confidence_drop_detector,
)


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


@pytest.mark.parametrize("outputs", [[], [{}], [{"confidence": None}, {"confidence": math.nan}, {"confidence": "0.1"}]])
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
    with pytest.raises(ValueError, match="window_size"):
        confidence_drop_detector(outputs, window_size=0)
