"""Topics from a terminal; creating and checking them is tested on a real broker."""

import json
from collections.abc import Callable

from streams.runtime.terminal import Exit
from streams.runtime.topics import TOPICS

Tocsin = Callable[..., tuple[int, str, str]]


def test_the_table_is_shown_with_the_deployments_prefix(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("topics", "list", "--json", "--topic-prefix", "acme.")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == Exit.DONE
    assert [row["topic"] for row in rows] == [f"acme.{name}" for name in TOPICS]
    assert {row["kept"] for row in rows} >= {"compacted", "7 d", "400 d"}
