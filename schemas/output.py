"""What did the model say?"""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from schemas.fields import NOT_OURS, Record, Value, Whole

Name = Annotated[str, Meta(min_length=1, max_length=512)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512, pattern=NOT_OURS)]
"""Of a model of somebody's: nobody's row speaks as Tocsin."""
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
"""Milliseconds since 1970 in UTC, up to the year 9999."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Judgement(Record, frozen=True, kw_only=True):
    """What one judge said of one output."""

    score: float | UnsetType = UNSET
    label: str | UnsetType = UNSET
    version: str = ""


class Output(Record, frozen=True, kw_only=True):
    """One output of a monitored model; absent is not null.

    Parameters
    ----------
    prediction_id, model
        Together the identity. The partition is murmur2 of `prediction_id` alone, so that shadow models may share
        the ids of requests.
    made_at_ms
        When the output was made: event time.
    prediction
        The answer: a class (text or number) or, for regression, a number.
    score
        Probability of the positive class, in [0, 1].
    probabilities
        Probability by class.
    segments
        Name to value, what rates are compared by; `features` are what the model was given.

    Examples
    --------
    >>> Output.decode(b'{"prediction_id":"p1","model":"m","made_at_ms":7,"prediction":1,"score":0.9}').score
    0.9
    >>> Output.decode(b'{"prediction_id":"p1","model":"m","made_at_ms":7,"prediction":1,"score":1.5}')
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: output.score: expected a number of at most 1.0, got 1.5
    """

    prediction_id: Name
    model: ModelName
    made_at_ms: Millis
    prediction: str | Whole | float
    version: str = ""
    score: Share | UnsetType = UNSET
    probabilities: dict[str, Share] | UnsetType = UNSET
    latency_ms: Annotated[float, Meta(ge=0.0)] | UnsetType = UNSET
    segments: dict[str, str] = {}
    features: dict[str, Value] = {}
    text: str | UnsetType = UNSET
    judges: dict[str, Judgement] = {}
    safety: dict[str, Share] = {}
    user_id: str | UnsetType = UNSET
