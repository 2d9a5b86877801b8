"""Is this model's output what it should be? Asked from inside any Python service, without Kafka.

The names and shapes here are those of a published playbook for incidents of AI models, so that code written after it
runs unchanged: a detector is any callable `(outputs, labels) -> DetectionResult`, a handler any callable that takes
the result of a detector that rang.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

log = logging.getLogger("tocsin.embedded")


class IncidentSeverity(Enum):
    """How much harm: SEV-1 to SEV-4 under the playbook's names."""

    CRITICAL = 1
    HIGH = 2
    MEDIUM = 3
    LOW = 4


@dataclass
class DetectionResult:
    """What one detector says of one check.

    Parameters
    ----------
    detected
        Whether it rings.
    severity
        How much harm, None where it does not ring.
    metric_value, threshold
        What was measured and what it was held against, in the detector's own unit; NaN where nothing was measured.
    timestamp
        When the check was made, in seconds since 1970.
    """

    detected: bool
    severity: IncidentSeverity | None
    detector_name: str
    message: str
    metric_value: float
    threshold: float
    timestamp: float


Detector = Callable[..., DetectionResult]
AlertHandler = Callable[[DetectionResult], object]


@dataclass(frozen=True, slots=True)
class Failure:
    """A detector or a handler that raised during a check.

    Parameters
    ----------
    role
        `detector` or `handler`.
    name
        What the callable is called.
    where
        `file:line` of the innermost frame.
    error
        What it raised. Its text may quote outputs: it is not logged.
    """

    role: str
    name: str
    where: str
    error: Exception

    @classmethod
    def of(cls, role: str, called: object, error: Exception) -> "Failure":
        """Take note of who raised what, and where."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
        return cls(role, _name(called), where, error)


class AIIncidentDetector:
    """Several detectors over the same outputs, and whom to tell.

    One that raises does not stop the others: it is logged, kept in `failures`, and a detector's place in the results
    is taken by one that did not detect and names the error.

    Attributes
    ----------
    detectors, alert_handlers
        Those registered, in order.
    failures
        Who raised during the last check.

    Examples
    --------
    >>> detector = AIIncidentDetector()
    >>> detector.register_detector(confidence_drop_detector)
    >>> detector.register_alert_handler(lambda result: print(result.severity.name, result.message))
    >>> results = detector.check([{"confidence": 0.4}, {"confidence": 0.6}, {}])
    HIGH Average confidence 0.500 vs threshold 0.7 (1 of 3 outputs without confidence)
    """

    def __init__(self) -> None:
        self.detectors: list[Detector] = []
        self.alert_handlers: list[AlertHandler] = []
        self.failures: list[Failure] = []

    def register_detector(self, fn: Detector) -> None:
        """Ask `fn(outputs, labels)` at each check from now on."""
        self.detectors.append(fn)

    def register_alert_handler(self, fn: AlertHandler) -> None:
        """Tell `fn(result)` of each detection from now on."""
        self.alert_handlers.append(fn)

    # a playbook's caller passes plain lists, of dictionaries or of anything that the detectors understand
    def check(self, outputs: Sequence[Any], labels: Sequence[Any] | None = None) -> list[DetectionResult]:
        """Run all detectors against recent outputs and return their results in order of registration."""
        failures: list[Failure] = []
        results: list[DetectionResult] = []
        for detector in tuple(self.detectors):
            try:
                result = detector(outputs, labels)
                rings = bool(result.detected)
            except Exception as error:  # noqa: BLE001 -- foreign code: one detector must not silence the others
                failure = _reported("detector", detector, error)
                failures.append(failure)
                results.append(_failed(failure))
                continue
            if rings:
                failures += self._tell(result)
            results.append(result)
        self.failures = failures
        return results

    def _tell(self, result: DetectionResult) -> list[Failure]:
        failures = []
        for handler in tuple(self.alert_handlers):
            try:
                handler(result)
            except Exception as error:  # noqa: BLE001 -- foreign code: the next handler may be the one that is heard
                failures.append(_reported("handler", handler, error))
        return failures


def _name(called: object) -> str:
    return str(getattr(called, "__qualname__", type(called).__qualname__))


def _reported(role: str, called: object, error: Exception) -> Failure:
    failure = Failure.of(role, called, error)
    log.error(
        "embedded.raised role=%s name=%s error=%s where=%s", role, failure.name, type(error).__name__, failure.where
    )
    return failure


def _failed(failure: Failure) -> DetectionResult:
    return DetectionResult(
        detected=False,
        severity=None,
        detector_name=failure.name,
        message=f"The detector raised {type(failure.error).__name__} at {failure.where}: nothing was checked",
        metric_value=math.nan,
        threshold=math.nan,
        timestamp=time.time(),
    )


def confidence_drop_detector(
    outputs: Sequence[Mapping[str, Any]],
    labels: Sequence[Any] | None = None,  # noqa: ARG001 -- every detector is asked alike
    window_size: int = 100,
    threshold: float = 0.7,
) -> DetectionResult:
    """Tell whether the mean confidence of the last outputs is below a limit set by a person.

    An output that has no `confidence`, or none that is a finite number, is left out and counted: it is not an
    unsure answer. A mean over nothing detects nothing. Its severity is always HIGH, as an absolute limit that somebody
    chose; for drops against the model's own past use `Tocsin`.

    Parameters
    ----------
    window_size
        Latest outputs that are looked at, at least 1.
    threshold
        Limit of the mean, in the unit of `confidence`.

    Examples
    --------
    >>> confidence_drop_detector([{"confidence": 0.9}, {}]).detected
    False
    >>> confidence_drop_detector([{}, {"confidence": None}]).message
    'No confidence in any of 2 outputs: nothing to compare'
    """
    if window_size < 1:
        raise ValueError(f"window_size: expected at least 1 output, got {window_size}")
    recent = outputs[-window_size:]
    known = [value for output in recent if (value := _finite(output.get("confidence"))) is not None]
    mean = math.fsum(known) / len(known) if known else 0.0
    detected = bool(known) and mean < threshold
    missing = len(recent) - len(known)
    if not recent:
        message = "No outputs to evaluate"
    elif not known:
        message = f"No confidence in any of {missing} outputs: nothing to compare"
    else:
        message = f"Average confidence {mean:.3f} vs threshold {threshold}"
        message += f" ({missing} of {len(recent)} outputs without confidence)" if missing else ""
    return DetectionResult(
        detected=detected,
        severity=IncidentSeverity.HIGH if detected else None,
        detector_name="confidence_drop",
        message=message,
        metric_value=mean,
        threshold=threshold,
        timestamp=time.time(),
    )


def _finite(value: object) -> float | None:
    """Return a number as it was meant, None for what is none.

    >>> _finite(1), _finite("0.9"), _finite(float("nan")), _finite(True)
    (1.0, None, None, None)
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
