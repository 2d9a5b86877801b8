"""When is a deadline that counts business time?

Picture the windows of business as beads on the line of real time. A deadline of 240 business minutes is found by
walking along the beads until 240 real minutes of them have passed. A window over the change to winter time is an hour
longer, one over the change to summer time an hour shorter. A clock that runs out exactly at closing time is due then,
not at the next opening.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.policy import Calendar

MAX_DAYS = 800
"""How far a deadline is looked for; a calendar without business in that time is refused when it is loaded."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoBusinessError(ValueError):
    """The calendar has no business within `MAX_DAYS`; mend its windows or its holidays."""


class UnknownZoneError(NoBusinessError):
    """Zone that this machine does not know; it may have gone with a newer database of zones."""


def _ms(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)


def _local(day: date, minute: int, zone: tzinfo, *, is_end: bool) -> int:
    """Return the instant of a local time: after the gap where it does not exist; where it is twice, the second for an end."""
    wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minute)  # noqa: DTZ001 -- local wall time
    first = wall.replace(tzinfo=zone, fold=0)
    second = wall.replace(tzinfo=zone, fold=1)
    first_ms, second_ms = _ms(first), _ms(second)
    # where the time does not exist, fold 0 reads it by the offset before the gap, fold 1 by the one after
    if first_ms > second_ms:
        return _gap_end(second_ms, first_ms, zone)
    return second_ms if is_end else first_ms


def _gap_end(low_ms: int, high_ms: int, zone: tzinfo) -> int:
    """Find the instant between two at which the zone's offset changes."""

    def offset(at_ms: int) -> timedelta | None:
        return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).utcoffset()

    before = offset(low_ms)
    while high_ms - low_ms > 1:
        middle = (low_ms + high_ms) // 2
        low_ms, high_ms = (middle, high_ms) if offset(middle) == before else (low_ms, middle)
    return high_ms


class BusinessClock:
    """Windows, deadlines and openings of one calendar.

    >>> clock = BusinessClock(Calendar(zone="America/New_York", weekly=((4, 540, 1020), (0, 540, 1020)), holidays=()))
    >>> friday_1600 = 1_795_208_400_000
    >>> (clock.add(friday_1600, 240 * 60_000) - friday_1600) / 3_600_000  # an hour on Friday, three on Monday
    68.0
    """

    def __init__(self, calendar: Calendar) -> None:
        try:  # UTC needs no data base, which small machines may lack
            self.zone: tzinfo = UTC if calendar.zone == "UTC" else ZoneInfo(calendar.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder of zones is none
            raise UnknownZoneError(
                f"calendar.zone: expected a name of this machine's time zone database (package tzdata), got {error}"
            ) from None
        self._holidays = frozenset(date.fromisoformat(day) for day in calendar.holidays)
        self._weekly: dict[int, list[tuple[int, int]]] = {}
        for weekday, start, end in sorted(calendar.weekly):
            if end <= start:
                raise NoBusinessError(f"calendar.weekly: expected an end after the start, got {start} to {end}")
            spans = self._weekly.setdefault(weekday, [])
            if spans and start < spans[-1][1]:
                raise NoBusinessError(f"calendar.weekly: windows of weekday {weekday} overlap at {start}")
            spans.append((start, end))

    def local_date(self, at_ms: int) -> date:
        """Return the date on the calendar's own wall."""
        return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self.zone).date()

    def is_business(self, day: date) -> bool:
        """Whether there is business on a date."""
        return day not in self._holidays and day.weekday() in self._weekly

    def windows(self, day: date) -> list[tuple[int, int]]:
        """Return the windows `[start, end)` of a date, in ms since 1970."""
        if not self.is_business(day):
            return []
        spans = [
            (_local(day, start, self.zone, is_end=False), _local(day, end, self.zone, is_end=True))
            for start, end in self._weekly[day.weekday()]
        ]
        return [(start, end) for start, end in spans if end > start]  # a window may fall into a gap altogether

    def _days(self, first: date) -> Iterator[date]:
        for ahead in range(MAX_DAYS):
            yield first + timedelta(days=ahead)
        raise NoBusinessError(f"calendar: no business within {MAX_DAYS} days")

    def add(self, at_ms: int, business_ms: int) -> int:
        """Return when `business_ms` of business have passed since `at_ms`; of nothing, `at_ms` itself."""
        left_ms = business_ms
        if left_ms <= 0:
            return at_ms
        for day in self._days(self.local_date(at_ms)):
            for start, end in self.windows(day):
                begin = max(start, at_ms)
                if end <= begin:
                    continue
                if left_ms <= end - begin:
                    return begin + left_ms
                left_ms -= end - begin
        raise AssertionError  # `_days` ends by raising

    def close_after(self, at_ms: int, business_days: int) -> int:
        """Return the close of the n-th business date strictly after the local date of `at_ms`."""
        found = 0
        for day in self._days(self.local_date(at_ms) + timedelta(days=1)):
            if windows := self.windows(day):
                found += 1
                if found == business_days:
                    return windows[-1][1]
        raise AssertionError  # `_days` ends by raising

    def open_on_next_day(self, at_ms: int) -> int:
        """Return the opening of the first business date strictly after the local date of `at_ms`."""
        for day in self._days(self.local_date(at_ms) + timedelta(days=1)):
            if windows := self.windows(day):
                return windows[0][0]
        raise AssertionError  # `_days` ends by raising

    def next_open(self, at_ms: int) -> int:
        """Return the first opening after `at_ms`."""
        for day in self._days(self.local_date(at_ms)):
            for start, _ in self.windows(day):
                if start > at_ms:
                    return start
        raise AssertionError  # `_days` ends by raising
