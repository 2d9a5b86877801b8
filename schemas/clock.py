"""What time is it, told as a record?"""

from schemas.fields import Record
from schemas.output import Millis


class Clock(Record, frozen=True, kw_only=True):
    """The wall clock, or the replay's, as the stages see it: `now_ms`, in ms since 1970."""

    now_ms: Millis
