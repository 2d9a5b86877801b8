"""How far has one source partition come?"""

from typing import Literal

from schemas.fields import Count, Ordinal, Record
from schemas.output import Millis


class Closed(Record, frozen=True, kw_only=True, tag_field="record", tag="closed"):
    """A mark of time: every tick of this source partition that ends at or before `through_ms` is closed for ever.

    Written by the join to *every* partition of `window-stats`, after the WindowStats of the ticks it closes.

    Parameters
    ----------
    source_partition, source_partitions
        Which input partition, of how many.
    through_ms
        End of the last closed tick.
    cause
        What moved the watermark past it: `records`, `idle` (the partition was at its edge) or `clock`.
    """

    source_partition: Count
    source_partitions: Ordinal
    through_ms: Millis
    cause: Literal["records", "idle", "clock"]
