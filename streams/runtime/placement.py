"""Do rows lie in the partitions of their ids? Where they do not, labels never find their outputs."""

from dataclasses import dataclass

WINDOW_S = 30.0
"""A ratio is that of one to two windows: long enough for some hundred samples, short enough to see an end."""


@dataclass(slots=True)
class Placement:
    """What sampled rows of one topic say, lately.

    >>> labels = Placement()
    >>> labels.note(200, 0, now_s=0.0); labels.note(200, 100, now_s=10.0)
    >>> labels.seen(20.0)
    (0.25, 10.0)
    >>> labels.note(200, 0, now_s=45.0); labels.seen(50.0), labels.seen(75.0)
    ((0.166..., 10.0), (0.0, None))
    """

    since_s: float | None = None
    """When the first row of an unbroken time with misplaced ones was seen."""
    _began_s: float = 0.0
    _now: tuple[int, int] = (0, 0)
    _before: tuple[int, int] = (0, 0)

    def note(self, sampled: int, misplaced: int, *, now_s: float) -> None:
        """Take what one batch says."""
        self._pass(now_s)
        self._now = (self._now[0] + sampled, self._now[1] + misplaced)
        if misplaced and self.since_s is None:
            self.since_s = now_s

    def seen(self, now_s: float) -> tuple[float, float | None]:
        """Return the share of misplaced rows lately, and since when there are any; 0 and None where there are none."""
        self._pass(now_s)
        sampled, misplaced = (sum(pair) for pair in zip(self._now, self._before, strict=True))
        return (misplaced / sampled if sampled else 0.0), self.since_s

    def _pass(self, now_s: float) -> None:
        if now_s - self._began_s < WINDOW_S:
            return
        is_next = now_s - self._began_s < 2 * WINDOW_S
        self._before = self._now if is_next else (0, 0)
        self._now = (0, 0)
        self._began_s = now_s
        if not self._before[1]:
            self.since_s = None
