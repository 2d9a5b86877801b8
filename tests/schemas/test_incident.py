"""docs/consumers.md says of each reason why a record of an incident was written."""

import re
from pathlib import Path

from schemas.incident import Reason

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"


def test_each_reason_has_a_phrase_on_the_page_and_those_that_refuse_stand_apart() -> None:
    _, written, refused = re.split(r"^\| reason \|.*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for part, refuses in ((written, False), (refused, True)):
        named = [name for line in part.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]
        assert sorted(named) == sorted(one.value for one in Reason if one.refuses is refuses)
