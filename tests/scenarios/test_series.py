"""Scenarios as data: series of findings and acts in; incidents and notifications expected between two times.

A series has one sign a minute, from the start: `.` nothing, `x` the finding fires, `o` it clears; `30.` is thirty of them.
"""

import re
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from schemas.finding import Finding
from schemas.incident import Severity

if TYPE_CHECKING:
    from tests.scenarios.conftest import Half

FILES = sorted(Path(__file__).parent.glob("*.toml"))
UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def ms(text: str) -> int:
    """Read `1h30m`."""
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"(\d+)([smhd])", text))


def signs(series: str) -> list[str]:
    """Write a series out, a sign a minute."""
    return [sign for count, sign in re.findall(r"(\d*)([.xo])", series) for _ in range(int(count or 1))]


def events(scenario: dict[str, Any]) -> list[tuple[int, int, dict[str, Any]]]:
    """Put all that happens in order: (when, findings before acts, what)."""
    happenings = []
    for spec in scenario.get("findings", []):
        happenings += [
            (minute * UNITS["m"], 0, {**spec, "sign": sign})
            for minute, sign in enumerate(signs(spec["series"]))
            if sign != "."
        ]
    happenings += [(ms(spec["at"]), 1, spec) for spec in scenario.get("acts", [])]
    happenings += [(ms(spec["at"]), 2, spec) for spec in scenario.get("provider", [])]
    return sorted(happenings, key=lambda one: one[:2])


def happen(half: "Half", spec: dict[str, Any], firing: dict[str, Finding]) -> None:
    """Let one thing happen now."""
    if "sign" in spec:
        name = spec.get("name", spec["kind"])
        if spec["sign"] == "x":
            extra = {key: spec[key] for key in ("lane", "model", "message", "segment") if key in spec}
            onset_ms = half.now_ms - ms(spec.get("onset_before", "1m"))
            firing[name] = half.fire(spec["kind"], onset_ms=onset_ms, **extra)
        else:
            half.clear(firing[name])
    elif "kind" in spec:
        what = {key: value for key, value in spec.items() if key not in {"at", "kind"}}
        if "to" in what:
            what["to"] = Severity(what["to"])
        half.do(spec["kind"], **what)
    else:
        half.answer = lambda _attempt: spec["answers"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scenario(file: Path, make_half: Callable[..., "Half"]) -> None:
    scenario = tomllib.loads(file.read_text())
    half = make_half(start_ms=int(datetime.fromisoformat(scenario["start"]).timestamp() * 1000))
    half.tick()
    firing: dict[str, Finding] = {}
    step_ms = ms(scenario.get("step", "1m"))
    for at_ms, _, spec in events(scenario):
        half.run(half.start_ms + at_ms, step_ms)
        happen(half, spec, firing)
    half.run(half.start_ms + ms(scenario["end"]), step_ms)

    for expected in scenario.get("incidents", []):
        from_ms, to_ms = (half.start_ms + ms(text) for text in expected["between"])
        wanted = {key: value for key, value in expected.items() if key not in {"between", "count"}}
        found = [
            one
            for one in half.log
            if from_ms <= one.decided_at_ms <= to_ms
            and all(getattr(one, key) == value for key, value in wanted.items())
        ]
        assert len(found) == expected.get("count", 1), (expected, half.reasons())
    for expected in scenario.get("notifications", []):
        from_ms, to_ms = (half.start_ms + ms(text) for text in expected["between"])
        wanted = {key: value for key, value in expected.items() if key not in {"between", "count", "text"}}
        sent = [
            one.notification
            for one in half.attempts
            if from_ms <= one.decided_at_ms <= to_ms
            and all(getattr(one.notification, key) == value for key, value in wanted.items())
        ]
        assert len(sent) == expected.get("count", 1), (expected, [(one.target, one.reason) for one in half.sent()])
        assert all(expected.get("text", "") in one.text for one in sent)
