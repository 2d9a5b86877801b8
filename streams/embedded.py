"""Is this model's output what it should be? Asked from inside any Python service, without Kafka.

The names and shapes here are those of a published playbook for incidents of AI models, so that code written after it
runs unchanged: a detector is any callable `(outputs, labels) -> DetectionResult`, a handler any callable that takes
the result of a detector that rang. `Tocsin` is such a detector: join, detect and triage in this process's memory.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec
import numpy as np

from config.load import load
from config.settings import Settings
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter
from schemas.fields import counted
from schemas.finding import Finding
from schemas.incident import Incident, Reason
from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime.decode import LabelEdge, Messages, OutputEdge
from streams.runtime.many_rows import plain_number
from streams.runtime.wiring import join_settings
from streams.stages.batch import LabelBatch, OutputBatch
from streams.stages.blocks import Journal, MemoryRuns
from streams.stages.detect import TICKS_AT_ONCE, Detect
from streams.stages.join import LABELS, OUTPUTS, Join
from streams.stages.stage import whole
from streams.stages.triage import Triage

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
    outputs: Sequence[Mapping[str, Any]] | None,
    labels: Sequence[Any] | None = None,  # noqa: ARG001 -- every detector is asked alike
    window_size: int = 100,
    threshold: float = 0.7,
) -> DetectionResult:
    """Tell whether the mean confidence of the last outputs is below a limit set by a person.

    It answers as the playbook's does, but where that would ring for no drop, stay silent over one, or raise: an output that
    has no `confidence`, or none that is a finite number, is left out and counted, for it is no unsure answer; and a mean over
    nothing detects nothing. Its severity is always HIGH, as an absolute limit that somebody chose; for drops against the
    model's own past use `Tocsin`.

    Parameters
    ----------
    outputs
        The latest last; None is none.
    window_size
        Latest outputs that are looked at; 0 is all of them, a negative number all but so many of the first.
    threshold
        Limit of the mean, in the unit of `confidence`; true counts as 1, false as 0.

    Examples
    --------
    >>> confidence_drop_detector([{"confidence": 0.9}, {}]).detected
    False
    >>> confidence_drop_detector([{}, {"confidence": None}]).message
    'No confidence in any of 2 outputs: nothing to compare'
    """
    recent = () if outputs is None else outputs[-window_size:]
    known = [value for output in recent if (value := _finite(output.get("confidence"))) is not None]
    mean = sum(known) / len(known) if known else 0.0
    detected = bool(known) and mean < threshold
    missing = len(recent) - len(known)
    if not len(recent):
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

    >>> _finite(True), _finite("0.9"), _finite(float("nan")), _finite(10**400)
    (1.0, None, None, None)
    """
    if not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):  # an integer that no float holds, an array of several
        return None
    return number if math.isfinite(number) else None


_RINGS = frozenset({Reason.OPENED, Reason.REOPENED, Reason.SEVERITY_RAISED})
_KEY = b"embedded"
"""Messages have keys; here nothing is divided by them."""

Row = Output | Label | Mapping[str, Any] | bytes


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Tocsin:
    """Tocsin's own detectors as one detector of the playbook, with a memory: no Kafka, the same stages.

    Each check takes outputs and labels into the join, closes the ticks of event time that are over, steps every
    detector, and turns findings into incidents. It rings in the check in which an incident opens, opens again or gets
    more severe, and not again for as long as it lasts; its severity is that of the incident, by the table of kinds.
    Windows that overlap from check to check change nothing, since an output is known by its prediction id.

    Threads may not share one: it has no lock.

    Parameters
    ----------
    models
        What is watched, as its owners declared it.
    baselines
        What healthy looks like; a model without one is joined and counted, and nothing rings for it.
    settings
        Waits, budget, severities; None: the defaults. Its own list of models is not looked at.
    clock
        Time in ms since 1970; the wall clock, unless a past is replayed: then the time at which its rows became known.

    Attributes
    ----------
    incidents
        The open ones by id, as they are now.
    findings
        What fires, by id.
    refused
        Rows that could not be read, so far; `last_refusal` says what was wrong with the latest.

    Examples
    --------
    >>> from schemas.model import Model
    >>> fraud = Model(name="fraud", kind="classification", threshold=0.5, sla_accuracy=None, segments=(), features={},
    ...               required=(), label_wait_ms=86_400_000, tier="standard")
    >>> detector = AIIncidentDetector()
    >>> detector.register_detector(Tocsin(models=[fraud], baselines=[], clock=lambda: 60_000))
    >>> output = {"prediction_id": "p1", "model": "fraud", "made_at_ms": 59_000, "prediction": 1, "score": 0.9}
    >>> detector.check([output], [1])[0].message
    'No incident is open; 1 output and 1 label taken, 0 refused'
    """

    def __init__(
        self,
        *,
        models: Iterable[Model],
        baselines: Iterable[Baseline],
        settings: Settings | None = None,
        clock: Callable[[], int] = _wall_ms,
    ) -> None:
        configured = {model.name: model for model in models}
        settings = load(None, {}, {}, lambda _: ()) if settings is None else settings
        settings = replace(settings, models=configured)
        with_sla = frozenset(name for name, model in configured.items() if model.sla_accuracy is not None)
        self._clock = clock
        self._join = Join(
            settings=join_settings(settings),
            models=configured,
            partition=0,
            partitions=1,
            journal=Journal(1, MemoryRuns()),
        )
        self._edges: dict[str, OutputEdge | LabelEdge] = {
            OUTPUTS: OutputEdge(configured, 1),
            LABELS: LabelEdge(configured, 1),
        }
        self._taken = {OUTPUTS: 0, LABELS: 0}
        self._detect = Detect(
            rows={},
            partition=0,
            partition_of=lambda _: 0,
            tenant=settings.tenant,
            environment=settings.environment,
            models=configured,
            budget=settings.budget(),
            ticks_at_once=TICKS_AT_ONCE,
        )
        self._triage = Triage(rows={}, settings=settings.response.triage_settings(with_sla))
        self._says = {kind: rule.says for kind, rule in settings.response.kinds.items()}
        for baseline in baselines:
            self._join.take_baseline(baseline)
            self._detect.receive(baseline.split())
        self.incidents: dict[str, Incident] = {}
        self.findings: dict[str, Finding] = {}
        self.refused = 0
        self.last_refusal: DeadLetter | None = None

    def __call__(self, outputs: Sequence[Row], labels: Sequence[Any] | None = None) -> DetectionResult:
        """Take what is new, and tell whether that opened an incident or made one worse.

        Parameters
        ----------
        outputs
            Records, mappings of their fields, or their JSON. What is no output is counted in `refused`.
        labels
            Likewise; or as many plain values as there are outputs, each the truth about the output at its place, None
            where it is not known yet.
        """
        now_ms = self._clock()
        given = () if labels is None else labels
        self._take(OUTPUTS, outputs, now_ms)
        self._take(LABELS, [_label(label, at, outputs, given, now_ms) for at, label in enumerate(given)], now_ms)
        self._join.advance(now_ms, outputs_at_edge=True, labels_at_edge=True)
        changed = self._decide()
        rang = [one for one in changed if one.reason in _RINGS]
        worst = min(rang, key=lambda one: one.severity, default=None)
        if worst is None:
            return self._result(None, self._calm(), now_ms)
        return self._result(worst, " ".join(self._told(one) for one in rang), now_ms)

    def _take(self, topic: str, rows: Sequence[Any], now_ms: int) -> None:
        """Let the join receive rows as messages that came now."""
        known = [row for row in rows if row is not None]
        if not known:
            return
        start = self._taken[topic]
        end = start + len(known)
        self._taken[topic] = end
        decoded = self._edges[topic].decode(
            Messages(
                partition=0,
                start=start,
                end=end,
                offset=range(start, end),
                broker_ms=[now_ms] * len(known),
                key=[_KEY] * len(known),
                value=[_bytes(row) for row in known],
            )
        )
        batch: OutputBatch | LabelBatch = decoded.batch
        refused = [*decoded.dead, *self._join.receive(batch)]
        self.refused += len(refused)
        self.last_refusal = refused[-1] if refused else self.last_refusal

    def _decide(self) -> list[Incident]:
        """Close what is over, and return the transitions of incidents that follow."""
        made = self._join.checkpoint()
        told: list[Finding | Through] = []
        for model, value in made.to_send:
            record: Closed | WindowStats = Closed.decode(value) if model is None else WindowStats.decode(value)
            answers = whole(self._detect, self._detect.receive([record]))
            told += [one for one in answers if isinstance(one, Finding | Through)]
        if made.through_ms is not None:
            self._join.sent(made.through_ms)
        changed = [one for one in self._triage.receive(told) if isinstance(one, Incident)]
        for finding in told:
            if isinstance(finding, Finding):
                self.findings[finding.finding_id] = finding
                if finding.state == "cleared":
                    del self.findings[finding.finding_id]
        for incident in changed:
            self.incidents[incident.incident_id] = incident
            if not incident.is_open:
                del self.incidents[incident.incident_id]
        return changed

    def _told(self, incident: Incident) -> str:
        said = dict.fromkeys(self._says.get(one.kind, one.kind) for one in incident.findings if one.state == "firing")
        severity = f"SEV-{int(incident.severity)}"
        return f"{severity} {incident.display_id} {incident.reason}, model {incident.model}: {' '.join(said)}"

    def _calm(self) -> str:
        outputs, labels = counted(self._taken[OUTPUTS], "output"), counted(self._taken[LABELS], "label")
        taken = f"{outputs} and {labels} taken, {self.refused} refused"
        many = len(self.incidents)
        return f"{counted(many, 'open incident')}, none new; {taken}" if many else f"No incident is open; {taken}"

    def _result(self, worst: Incident | None, message: str, now_ms: int) -> DetectionResult:
        firing = [] if worst is None else [one for one in worst.findings if one.state == "firing"]
        return DetectionResult(
            detected=worst is not None,
            severity=None if worst is None else IncidentSeverity(int(worst.severity)),
            detector_name="tocsin",
            message=message,
            metric_value=firing[-1].observed if firing else math.nan,
            threshold=firing[-1].expected if firing else math.nan,
            timestamp=now_ms / 1000,
        )


def _bytes(row: object) -> bytes:
    """Bring a row into the form in which it travels; what cannot be, is refused as bytes that are no record."""
    if isinstance(row, bytes):
        return row
    try:
        return msgspec.json.encode(row, enc_hook=plain_number)
    except (TypeError, ValueError):
        return b""


def _label(label: object, at: int, outputs: Sequence[Row], labels: Sequence[Any], now_ms: int) -> object:
    """Return a label as a row; a plain value is the truth about the output at its place, learned now."""
    if label is None or isinstance(label, Label | Mapping | bytes) or len(labels) != len(outputs):
        return label
    try:
        output = msgspec.convert(msgspec.to_builtins(outputs[at], enc_hook=plain_number), _Identity)
    except (msgspec.ValidationError, TypeError):
        return b""  # there is no output to be right or wrong about
    truth = int(label) if isinstance(label, bool | np.bool_) else label
    return {"prediction_id": output.prediction_id, "model": output.model, "labelled_at_ms": now_ms, "label": truth}


class _Identity(msgspec.Struct):
    prediction_id: str
    model: str
