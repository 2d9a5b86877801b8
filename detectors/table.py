"""Which detectors are there? One explicit table; the join counts what they need, detect steps them in this order."""

from collections.abc import Mapping
from types import MappingProxyType

from detectors.accuracy_below_sla import AccuracyBelowSla
from detectors.confidence_drop import ConfidenceDrop
from detectors.detector import Detector
from detectors.error_given_score import ErrorGivenScore
from detectors.feature_integrity import FeatureIntegrity, FeatureIntegrityRule
from detectors.label_pipeline import LabelPipeline
from detectors.label_silence import LabelSilence
from detectors.raw_error import RawError
from detectors.silence import Silence

ERROR_TOLERANCES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
RATE_TOLERANCES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
FLOW_TOLERANCES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

DETECTORS: Mapping[str, Detector] = MappingProxyType(
    {
        one.name: one
        for one in (
            ErrorGivenScore(tolerances=ERROR_TOLERANCES),
            RawError(tolerances=ERROR_TOLERANCES),
            AccuracyBelowSla(tolerances=(0.0,)),
            FeatureIntegrity(tolerances=RATE_TOLERANCES),
            FeatureIntegrityRule(tolerances=(0.0,)),
            Silence(tolerances=FLOW_TOLERANCES),
            LabelPipeline(tolerances=ERROR_TOLERANCES),
            LabelSilence(tolerances=FLOW_TOLERANCES),
            ConfidenceDrop(tolerances=RATE_TOLERANCES),
        )
    }
)
"""Every detector by name."""

NEEDS: tuple[str, ...] = tuple(sorted({name for one in DETECTORS.values() for name in one.needs}))
"""What the join counts: the union of what the detectors need."""

READS: tuple[str, ...] = tuple(sorted({name for one in DETECTORS.values() for name in one.reads}))
"""What a tick is judged by: the union of what the detectors read."""
