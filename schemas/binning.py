"""Into which bins are values counted? Frozen with a baseline, the same in every source partition."""

from typing import Literal

import msgspec

from schemas.fields import Count, Ordinal, Whole


class FeatureBins(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one declared feature is counted.

    Parameters
    ----------
    edges
        Numeric: the 9 inner deciles of the reference; `low` and `high` bound what the reference held (or the declared
        domain): outside is a bin of its own.
    categories
        Categorical: up to 12 most frequent values; `known` are all further values that the reference held.
    required
        Whether a row without it is at fault.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    required: bool = False
    edges: list[float] = []
    low: float = 0.0
    high: float = 0.0
    categories: list[str] = []
    known: list[str] = []


class Binning(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The bins of a model.

    Parameters
    ----------
    tick_ms
        Length of a tick.
    score_edges
        19 inner edges of the 20 score bins, one of them the decision threshold.
    confidence_edges
        7 inner edges (octiles of the reference) of max(p, 1 - p).
    delay_edges_ms
        7 inner edges (octiles of the reference's own label delays).
    age_edges_ticks
        Edges of the age bins of the label hazard, in whole ticks, from 0; rows older than the last are not at risk.
    features
        Declared features, in order of their index.
    segments
        Per declared segment the values that are lanes; all else is `(other)`.
    versions
        Model versions that are lanes.
    """

    tick_ms: Ordinal
    score_edges: list[float]
    confidence_edges: list[float]
    delay_edges_ms: list[Whole]
    age_edges_ticks: list[Count]
    features: list[FeatureBins] = []
    segments: dict[str, list[str]] = {}
    versions: list[str] = []
