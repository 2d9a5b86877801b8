"""Where did the budget of false pages go?"""

from typing import Literal

from schemas.fields import Count, Record
from schemas.output import Millis


class LedgerEntry(Record, frozen=True, kw_only=True):
    """What one detector spent on one model over a range of ticks, and what it rang for.

    Parameters
    ----------
    model, detector, ledger
        Who spent, and from which budget.
    from_ms, to_ms
        Range of ticks, `[from_ms, to_ms)`, in event time.
    reason
        `base`, `lump` (a deployment), `recovery`, or `ticket`.
    spent
        Expected false pages (or tickets) that the spend allows.
    lanes
        Lanes that spent; `alarms` of them rang.
    """

    model: str
    detector: str
    ledger: Literal["page", "ticket"]
    from_ms: Millis
    to_ms: Millis
    reason: Literal["base", "lump", "recovery", "ticket"]
    spent: float
    lanes: Count
    alarms: Count
    decided_at_ms: Millis
    recorded_at_ms: Millis = 0
