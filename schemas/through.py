"""How far has detect come on one partition?"""

from schemas.fields import Count, Record
from schemas.output import Millis


class Through(Record, frozen=True, kw_only=True, tag_field="record", tag="through"):
    """A mark of time: no finding of this partition decided at or before `through_ms` is still to come.

    Parameters
    ----------
    partition
        The partition of `findings` (and of `window-stats`) that it speaks of.
    through_ms
        End of the last tick that detect has closed; triage advances by it alone.
    """

    partition: Count
    through_ms: Millis
