"""What changed on purpose, and when?"""

from typing import Literal

from schemas.fields import Record
from schemas.output import Millis, Name


class Deployment(Record, frozen=True, kw_only=True):
    """A change known before its outcomes: a new version, a schema change, a feature job."""

    deployment_id: Name
    model: Name
    at_ms: Millis
    decided_at_ms: Millis
    kind: Literal["model", "schema", "features", "upstream"] = "model"
    version: str = ""
    note: str = ""
    recorded_at_ms: Millis = 0
