"""docs/detectors.md says of each detector in the table what it is, in order, with the figures that a replay gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit, logit

from config.load import load
from detectors.binning import confidence_of
from detectors.budget import SIGNALS
from detectors.history import NO_LABEL, History
from detectors.table import DETECTORS
from schemas.incident import Severity

if TYPE_CHECKING:
    from tests.detectors.conftest import Bench, Ways

PAGE = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
BEGINS, ENDS, MINUTES = 60, 90, 300
MINUTE_MS = 60_000
TELLS = {1: "a page", 2: "a page", 3: "a message and a ticket", 4: "a ticket"}
RESPONSE = load(None, {}, {}, lambda _: ()).response
Harm = Mapping[str, Callable[..., History]]


class Told(NamedTuple):
    fault: str
    detector: str
    kind: str
    rings: float
    clears: float


def without(column: Any, rows: np.ndarray) -> Any:  # noqa: ANN401 -- a history and all that it is made of
    """Leave rows out of a history, as if the model had not answered."""
    if isinstance(column, np.ndarray):
        return column[~rows]
    if isinstance(column, Mapping):
        return {name: without(inner, rows) for name, inner in column.items()}
    if is_dataclass(column) and not isinstance(column, type):
        return replace(column, **{one.name: without(getattr(column, one.name), rows) for one in fields(column)})
    return column


def harmed(ways: Ways, harm: Harm) -> Iterator[tuple[str, History]]:
    """Harm a healthy stream for half an hour in each way of the page."""
    history = ways.stream(5, MINUTES)
    rows = ways.between(history, BEGINS, ENDS)
    some = rows & (np.random.default_rng(1).random(len(rows)) < 0.2)
    due = (history.labelled_at_ms >= BEGINS * MINUTE_MS) & (history.labelled_at_ms < ENDS * MINUTE_MS)
    age = history.features["age"].numbers
    twice = history.made_at_ms + 2 * (history.labelled_at_ms - history.made_at_ms)
    unsure = np.where(rows, 0.5 + (history.score - 0.5) * 0.6, history.score).astype(np.float32)
    yield "one answer in four turned round", harm["answers"](history, rows, 0.25)
    yield "age 12 times too large in one row in five", harm["ages"](history, some, age * 12)
    yield "age is null", harm["ages"](history, rows, None)
    yield "no outputs", without(history, rows)
    yield "labels take twice as long", harm["labels"](history, np.where(rows, twice, history.labelled_at_ms))
    yield "labels are lost", harm["labels"](history, np.where(due, NO_LABEL, history.labelled_at_ms))
    yield "scores 40 % nearer to 0.5", replace(history, score=unsure, confidence=confidence_of(unsure))


@pytest.fixture(scope="module")
def told(bench: Bench, ways: Ways, harm: Harm) -> list[Told]:
    """Of each fault the first finding of each detector on the whole model; what is first told later is its consequence."""
    found = []
    for fault, history in harmed(ways, harm):
        run = bench.run(bench.ticks(history))
        kinds = {name: alarm.description.kind for name, alarm, _ in reversed(run.details) if alarm.lane == 0}
        for name in DETECTORS:
            rings = run.first(name, "*")
            clears = min((at for at, of, lane in run.cleared if (of, lane) == (name, "*")), default=np.inf)
            if rings <= ENDS:
                found.append(Told(fault, name, kinds[name], rings - BEGINS, clears - ENDS))
    return found


def row(one: Told) -> str:
    return f"| {one.fault} | `{one.detector}` | {one.rings:.1f} | {one.clears:.1f} |"


def test_the_figures_of_the_page_are_what_a_replay_gives(told: list[Told]) -> None:
    table = re.findall(r"^\| .* \| `\w+` \| .*$", PAGE, re.MULTILINE)
    assert table == [row(one) for one in told]
    assert {one.detector for one in told} == set(DETECTORS)


def test_each_detector_of_the_table_has_its_section_in_order() -> None:
    assert list(SECTIONS) == list(DETECTORS)
    for text in SECTIONS.values():
        assert re.findall(r"^- \*\*(.*?)\*\*", text, re.MULTILINE) == [
            "Looks at",
            "Needs",
            "Rings",
            "Clears",
            "Stopped by",
        ]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_section_says_who_pays_and_what_stops_it(name: str) -> None:
    text, one = " ".join(SECTIONS[name].split()), DETECTORS[name]
    paid = {detector: signal.ledger for signal in SIGNALS for detector in signal.detectors}
    said = f"from the budget of {paid[name]}s" if one.guarantee == "budget" else "by rule: no budget is spent"
    assert said in text
    stops = "**Stopped by** an open `label_pipeline` or `label_silence`, unless errors rang first"
    assert (stops in text) == one.delay_conditioned
    needs = one.least.replace("a promise", "Needs** a promise").replace(
        "declared features", "Needs** declared features"
    )
    assert needs in text


def test_a_section_names_each_kind_with_its_severity(told: list[Told]) -> None:
    for one in told:
        severity = Severity(RESPONSE.kinds[one.kind].severity).display
        assert f"`{one.kind}`, {severity}" in " ".join(SECTIONS[one.detector].split()), one


def test_the_table_of_severities_is_that_of_the_defaults() -> None:
    for number, rules in RESPONSE.triage.hold_downs.items():
        ends = "never by itself" if rules.resolve_after_ms is None else f"{rules.resolve_after_ms // MINUTE_MS} min"
        opens = rules.open_after_ms // MINUTE_MS
        assert f"| SEV-{number} | {opens} min | {TELLS[int(number)]} | {ends} |" in PAGE
        modes = {getattr(step, "mode", "") for step in RESPONSE.policy.severities[number].steps}
        assert {mode for mode in ("page", "ticket") if mode in modes} == set(TELLS[int(number)].split()) & {
            "page",
            "ticket",
        }


def test_the_clean_rows_after_a_fault_are_what_the_shares_ask_for(ways: Ways) -> None:
    # 20 % where 0.1 % are allowed: half-way in log-odds is 1.5 %, and a clean row says 0.015 nats
    half_way = float(expit((logit(0.2) + logit(0.001)) / 2))
    nats = float(np.log1p(-0.001) - np.log1p(-half_way))
    spend = ways.budget.spend("m", "feature_integrity")
    for share, said in ((spend.recovery_rollup, "1,300"), (spend.recovery_fine, "1,500")):
        assert f"some {said} " in PAGE
        assert f"{round(-np.log(share) / nats, -2):,.0f}" == said


def test_signals_that_are_not_built_are_named_as_such() -> None:
    assert [one.name for one in SIGNALS if not one.detectors] == ["drift"]
    assert "Drift of inputs or scores and estimated\naccuracy are not built" in PAGE
