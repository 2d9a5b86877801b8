"""What a person reads of a run: what rang in it, and figures that say what they count from and to."""

import io
from pathlib import Path

from msgspec.structs import replace

from schemas.finding import Finding
from streams.runtime.demo.run import Result, told
from streams.runtime.demo.screen import Screen
from streams.runtime.demo.watching import Seen


def test_a_finding_that_opens_a_ticket_is_not_taken_for_one_that_pages() -> None:
    #  0      +60        +90       +120  +150        +2100
    #  fault  ticket     page      page  delivered   acknowledged
    result = Result(
        fault="rollback",
        fault_at_ms=0,
        found_at_ms=60_000,
        detected_at_ms=90_000,
        notified_at_ms=150_000,
        acknowledged_at_ms=2_100_000,
        false_pages=0,
        lanes=3,
        messages=2,
        incidents=("i",),
    )
    said = io.StringIO()
    told(result, Screen(said))
    lines = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in said.getvalue().splitlines()}
    assert lines["first finding of any kind, after"] == "1 min"
    assert lines["first finding that may page, after"] == "1 min 30 s"
    assert lines["first page delivered, after"] == "2 min 30 s"


def test_what_rings_in_a_second_run_is_told_as_in_the_first_once_for_each_detector() -> None:
    finding = Finding.decode((Path(__file__).parents[3] / "golden" / "wire" / "finding" / "1.json").read_bytes())
    said = io.StringIO()
    screen = Screen(said)
    for run in ("first", "second"):
        screen.begin(run)
        screen.show(finding, Seen())
        screen.show(finding, Seen())
    words = said.getvalue().split()
    assert [word for word in words if word in {"first", "second", "finding"}] == [
        "first",
        "finding",
        "second",
        "finding",
    ]
    assert f"({finding.ledger})" in said.getvalue()


def test_what_rings_says_what_is_wrong_in_its_own_words() -> None:
    finding = Finding.decode((Path(__file__).parents[3] / "golden" / "wire" / "finding" / "1.json").read_bytes())
    said = io.StringIO()
    Screen(said).show(replace(finding, message="feature age is null in 9.0% of outputs, 0.00% usually"), Seen())
    assert said.getvalue().endswith(f"{finding.lane}: feature age is null in 9.0% of outputs, 0.00% usually\n")
