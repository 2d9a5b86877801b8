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
    sampled, misplaced
        Rows of both input topics that count in a tick which ends at or before `through_ms`, since the partition began: those
        whose partition was compared with that of their id, and of these those that belong to another one. 0 from a join
        that did not say so yet.
    """

    source_partition: Count
    source_partitions: Ordinal
    through_ms: Millis
    cause: Literal["records", "idle", "clock"]
    sampled: Count = 0
    misplaced: Count = 0
