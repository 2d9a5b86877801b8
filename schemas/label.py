"""What was true, learned later?"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from schemas.fields import Record, Whole
from schemas.output import Millis, ModelName, Name

Version = Annotated[int, Meta(ge=0, le=2**62)]
"""Of a label: the greater is the later."""


class Label(Record, frozen=True, kw_only=True):
    """The truth about one output; it can be corrected and retracted.

    Parameters
    ----------
    prediction_id, model
        Identity of the output.
    labelled_at_ms
        When the truth became known: event time.
    label
        The true class, or the true number.
    version
        Higher versions correct lower ones. Absent: the later `labelled_at_ms` wins, then the later place.
    made_at_ms
        Time of the output, where the source knows it: spares a search.
    retracted
        The label was withdrawn; `label` repeats what is withdrawn.

    Examples
    --------
    >>> Label.decode(b'{"prediction_id":"p1","model":"m","labelled_at_ms":9,"label":"0","source":"rumour"}')
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: label.source: expected one of its allowed names ..., got a text of 6 characters
    """

    prediction_id: Name
    model: ModelName
    labelled_at_ms: Millis
    label: str | Whole | float
    version: Version | UnsetType = UNSET
    made_at_ms: Millis | UnsetType = UNSET
    source: Literal["system", "review", "user"] = "system"
    retracted: bool = False
