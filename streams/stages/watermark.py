"""Up to which event time is one topic of one partition complete? A property of the place in the log, not of the reader."""

import numpy as np

from streams.stages.batch import Ints
from streams.stages.blocks import Cause, Mark

NEVER = -(1 << 62)
"""Before the first row and the first move, in ms."""


class Watermark:
    """Running watermark: the greatest event time so far, less the allowed disorder; it never goes back.

    >>> outputs = Watermark(allowed_disorder_ms=10)
    >>> outputs.pass_rows(np.array([100, 95, 130]))
    array([ 90,  90, 120])
    >>> outputs.move(100), outputs.move(150), outputs.cause  # no row came between the two tries: idle
    (False, True, 'idle')
    >>> outputs.pass_rows(np.array([140]))
    array([150])

    Parameters
    ----------
    allowed_disorder_ms
        How far event times may be out of order.
    ms, cause
        Where it stands, and what moved it last.
    """

    def __init__(self, *, allowed_disorder_ms: int, ms: int = NEVER, cause: Cause = "records") -> None:
        self._allowed_disorder_ms = allowed_disorder_ms
        self._rows_since_move = False
        self.ms = ms
        self.cause: Cause = cause

    def pass_rows(self, times_ms: Ints) -> Ints:
        """Move past rows in order of place; return the watermark at the place of each."""
        if len(times_ms) == 0:
            return times_ms
        self._rows_since_move = True
        at: Ints = np.maximum.accumulate(times_ms) - self._allowed_disorder_ms
        np.maximum(at, self.ms, out=at)
        if at[-1] > self.ms:
            self.ms = int(at[-1])
            self.cause = "records"
        return at

    def move(self, to_ms: int) -> bool:
        """Move with the clock, if that is forward.

        The cause is `idle` when no row came since the last try, `clock` when rows did, but old ones.
        """
        cause: Cause = "clock" if self._rows_since_move else "idle"
        self._rows_since_move = False
        if to_ms <= self.ms:
            return False
        self.ms = to_ms
        self.cause = cause
        return True

    @property
    def mark(self) -> Mark:
        """The watermark as a manifest keeps it."""
        return Mark(None if self.ms == NEVER else self.ms, self.cause)
