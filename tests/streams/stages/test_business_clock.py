"""Deadlines in business time; expected instants were computed with zoneinfo and the holidays of the places."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.policy import Calendar
from streams.stages.business_clock import BusinessClock, NoBusinessError

WORKDAYS = tuple((day, 540, 1020) for day in range(5))
NY = Calendar(
    zone="America/New_York",
    weekly=WORKDAYS,
    holidays=("2026-07-03", "2026-11-26", "2026-12-25", "2027-01-01"),
)
LON = Calendar(zone="Europe/London", weekly=WORKDAYS, holidays=())
NIGHTS = Calendar(zone="Europe/London", weekly=tuple((day, 0, 480) for day in range(7)), holidays=())
NIGHTS_0130 = Calendar(zone="Europe/London", weekly=tuple((day, 90, 480) for day in range(7)), holidays=())
BERLIN = Calendar(zone="Europe/Berlin", weekly=WORKDAYS, holidays=("2026-10-03",))


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("name", "calendar", "start", "minutes", "due"),
    [
        ("G1", NY, "2026-11-20T16:00-05:00", 240, "2026-11-23T17:00Z"),
        ("G2", NY, "2026-11-25T16:00-05:00", 240, "2026-11-27T12:00-05:00"),
        ("G3", NY, "2026-11-25T17:00-05:00", 240, "2026-11-27T13:00-05:00"),
        ("G4", NY, "2026-11-25T13:00-05:00", 240, "2026-11-25T17:00-05:00"),
        ("G5", NY, "2026-03-06T16:30-05:00", 240, "2026-03-09T16:30Z"),
        ("G6", LON, "2026-03-27T16:30+00:00", 240, "2026-03-30T11:30Z"),
        ("G13", NIGHTS, "2026-03-29T00:00+00:00", 240, "2026-03-29T04:00Z"),
        ("G14", NIGHTS, "2026-10-25T00:00+01:00", 240, "2026-10-25T03:00Z"),
        ("G15", NIGHTS_0130, "2026-03-29T00:00+00:00", 60, "2026-03-29T02:00Z"),
        ("G16", NIGHTS_0130, "2026-10-25T00:00+01:00", 60, "2026-10-25T01:30Z"),
        ("G17", BERLIN, "2026-10-02T16:00+02:00", 240, "2026-10-05T12:00+02:00"),
    ],
)
def test_d05_business_minutes_are_real_minutes_inside_windows(
    name: str, calendar: Calendar, start: str, minutes: int, due: str
) -> None:
    assert BusinessClock(calendar).add(utc(start), minutes * 60_000) == utc(due), name


@pytest.mark.parametrize(
    ("name", "start", "days", "due"),
    [
        ("G7", "2026-11-25T10:00-05:00", 1, "2026-11-27T17:00-05:00"),
        ("G8", "2026-11-28T10:00-05:00", 1, "2026-11-30T17:00-05:00"),
        ("G9", "2026-07-02T10:00-04:00", 1, "2026-07-06T17:00-04:00"),
        ("Monday 08:00", "2026-11-23T08:00-05:00", 1, "2026-11-24T17:00-05:00"),
        ("G10", "2026-11-25T10:00-05:00", 5, "2026-12-03T17:00-05:00"),
        ("G11", "2026-11-28T10:00-05:00", 5, "2026-12-04T17:00-05:00"),
        ("G12", "2026-12-24T10:00-05:00", 5, "2027-01-04T17:00-05:00"),
    ],
)
def test_d06_business_days_begin_after_the_local_date(name: str, start: str, days: int, due: str) -> None:
    assert BusinessClock(NY).close_after(utc(start), days) == utc(due), name


def test_a_window_that_begins_in_the_gap_of_spring_begins_after_it() -> None:
    windows = BusinessClock(NIGHTS_0130).windows(datetime(2026, 3, 29, tzinfo=UTC).date())
    assert windows[0][0] == utc("2026-03-29T01:00Z")


def test_a_window_that_begins_in_the_doubled_hour_begins_at_its_first_time() -> None:
    windows = BusinessClock(NIGHTS_0130).windows(datetime(2026, 10, 25, tzinfo=UTC).date())
    assert windows[0][0] == utc("2026-10-25T00:30Z")


def test_next_opening_is_strictly_later() -> None:
    clock = BusinessClock(NY)
    monday = utc("2026-11-23T09:00-05:00")
    assert clock.next_open(monday - 1) == monday
    assert clock.next_open(monday) == utc("2026-11-24T09:00-05:00")
    assert clock.open_on_next_day(utc("2026-11-27T12:00-05:00")) == utc("2026-11-30T09:00-05:00")


@pytest.mark.parametrize(
    "calendar",
    [
        Calendar(zone="Middle/Earth", weekly=WORKDAYS, holidays=()),
        Calendar(zone="UTC", weekly=((0, 600, 600),), holidays=()),
        Calendar(zone="UTC", weekly=((0, 540, 700), (0, 600, 800)), holidays=()),
    ],
)
def test_a_calendar_that_cannot_be_meant_is_refused(calendar: Calendar) -> None:
    with pytest.raises(NoBusinessError):
        BusinessClock(calendar)


def test_a_calendar_without_business_is_said_and_not_searched_for_ever() -> None:
    never = Calendar(zone="UTC", weekly=((0, 0, 1),), holidays=())
    with pytest.raises(NoBusinessError, match="no business"):
        BusinessClock(never).add(0, 10 * 3_600_000)


@given(
    start=st.integers(1_760_000_000_000, 1_800_000_000_000),
    first=st.integers(0, 3_000_000),
    second=st.integers(0, 3_000_000),
    calendar=st.sampled_from([NY, LON, NIGHTS, NIGHTS_0130, BERLIN]),
)
def test_waiting_twice_is_waiting_once(start: int, first: int, second: int, calendar: Calendar) -> None:
    clock = BusinessClock(calendar)
    assert clock.add(clock.add(start, first), second) == clock.add(start, first + second)
