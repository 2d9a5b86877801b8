"""Status from a terminal: how far each stage has come, seen from the topics alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.clock import Clock
from schemas.closed import Closed
from schemas.through import Through
from streams.runtime.cli import run
from streams.runtime.terminal import Exit

Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]
FAULTS = Path(__file__).parents[3] / "config" / "faults"
NOW_MS = 1_764_064_800_000


def test_a_deployment_without_a_clock_is_not_so(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("status")
    assert (status, "nobody writes it" in out) == (Exit.NOT_SO, True)


def test_the_newest_mark_of_each_partition_and_how_far_it_is_behind(tocsin: Tocsin, put: Put) -> None:
    put("clock", None, Clock(now_ms=NOW_MS).encode(), 0)
    for through_ms in (NOW_MS - 20_000, NOW_MS - 10_000):
        for source in range(2):
            mark = Closed(source_partition=source, source_partitions=4, through_ms=through_ms, cause="records")
            put("window-stats", None, mark.encode(), 0)
        put("window-stats", None, b'{"record":"window-stats"}\n\x00', 0)
        put("findings", None, Through(partition=3, through_ms=through_ms).encode(), 3)
    status, out, _ = tocsin("status", "--json")
    found = json.loads(out)
    assert status == Exit.DONE
    assert found["joined_through_ms"] == {"0": NOW_MS - 10_000, "1": NOW_MS - 10_000}
    assert found["detected_through_ms"] == {"3": NOW_MS - 10_000}
    assert "10 s" in tocsin("status")[1]


def test_a_prefix_under_which_nothing_lies_is_not_so(tocsin: Tocsin) -> None:
    status, out, err = tocsin("status", "--topic-prefix", "elsewhere.")  # the embedded broker makes what is asked for
    assert status == Exit.NOT_SO, (out, err)


def test_a_broker_that_does_not_answer_has_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOCSIN__KAFKA__REQUEST_WAIT_MS", "1000")
    assert run(["status", "--broker", "127.0.0.1:1"]) == Exit.BROKER
    assert "--broker" in capsys.readouterr().err


def test_a_faulty_file_is_named_before_any_broker_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--config", str(FAULTS / "many_at_once.toml")]) == Exit.SETTINGS
    assert len(capsys.readouterr().err.splitlines()) == 6
