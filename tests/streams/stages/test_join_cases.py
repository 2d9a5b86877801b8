"""The table of cases, under every way of cutting the arrivals and of interleaving the two topics."""

import itertools
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detectors.statistics import STATISTICS
from streams.stages.join import LABELS, OUTPUTS, JoinSettings
from tests.simulation.join_driver import Driver
from tests.simulation.join_oracle import LabelRow, OutputRow

TABLE = tomllib.loads((Path(__file__).parent / "join_cases.toml").read_text())
TOPICS = {"O": OUTPUTS, "L": LABELS, "outputs": OUTPUTS, "labels": LABELS}
IDLE_MS = 30


@dataclass(frozen=True)
class Arrival:
    """One line of a case: a row of a topic, or a move of its watermark."""

    topic: str
    row: dict[str, Any] | None
    to_ms: int = 0


def _arrival(line: str) -> Arrival:
    kind, first, at, *more = line.split()
    if kind == "W":
        return Arrival(TOPICS[first], None, int(at))
    extra = dict(part.partition("=")[::2] for part in more)
    row = {"id_hash": int(first) + 1, "model": "m", "broker_ms": 10_000}
    if kind == "O":
        answer = int(extra.get("answer", 0))
        row |= {"made_at_ms": int(at), "prediction": answer, "content": answer}
    else:
        row |= {
            "labelled_at_ms": int(at),
            "label": int(extra.get("label", 0)),
            "version": int(extra.get("version", -1)),
            "made_at_ms": int(extra.get("made", -1)),
            "retracted": "retracted" in extra,
        }
    return Arrival(TOPICS[kind], row)


def _settings(case: dict[str, Any]) -> JoinSettings:
    waits = TABLE["default"] | case
    return JoinSettings(
        tick_ms=10,
        allowed_disorder_ms=waits["disorder"],
        idle_after_ms=IDLE_MS,
        default_label_wait_ms=waits["label_wait"],
        orphan_wait_ms=waits["orphan_wait"],
        correction_wait_ms=waits["correction_wait"],
        future_skew_ms=0,
        max_lanes_per_model=10,
        block_rows=2,
        orphans_bound_rows=1000,
        needs=tuple(STATISTICS),
    )


def _orders(arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    """Yield the arrivals as they are, each topic before the other, and the two in turns: each topic's own order stays."""
    yield list(arrivals)
    outputs, labels = ([one for one in arrivals if one.topic == topic] for topic in (OUTPUTS, LABELS))
    yield outputs + labels
    yield labels + outputs
    turns = itertools.zip_longest(labels, outputs)
    yield [one for turn in turns for one in turn if one is not None]


def _drive(case: dict[str, Any], order: list[Arrival], rows_a_message: int, messages: int) -> Driver:
    settings = _settings(case)
    rows: dict[str, list[Any]] = {OUTPUTS: [], LABELS: []}
    steps: list[tuple[str, int, int]] = []  # topic, messages to read, or a clock
    for topic, group in itertools.groupby(order, key=lambda one: (one.topic, one.row is None)):
        if topic[1]:
            clock = settings.allowed_disorder_ms + settings.idle_after_ms
            steps += [(topic[0], 0, one.to_ms + clock) for one in group]
            continue
        start = rows[topic[0]][-1].offset + 1 if rows[topic[0]] else 0
        kind = OutputRow if topic[0] == OUTPUTS else LabelRow
        for at, one in enumerate(group):
            assert one.row is not None
            offset, row = divmod(at, rows_a_message)
            rows[topic[0]].append(kind(offset=start + offset, row=row, **one.row))
        steps.append((topic[0], rows[topic[0]][-1].offset + 1 - start, 0))
    driver = Driver(settings=settings, models={}, outputs=rows[OUTPUTS], labels=rows[LABELS])
    for name, n, clock_ms in steps:
        if n == 0:
            driver.advance(clock_ms, outputs_at_edge=name == OUTPUTS, labels_at_edge=name == LABELS)
        for _ in range(0, n, messages):
            driver.read(name, min(messages, n))
            n -= min(messages, n)  # noqa: PLW2901 - what is left of this step
            driver.check()
    return driver


def _outcomes(driver: Driver) -> list[str]:
    return sorted(
        f"{one.id_hash - 1} {one.made_at_ms} "
        + (f"labelled {one.delay_ms}{' wrong' * one.wrong}" if one.labelled else "expired")
        for one in driver.outcomes
    )


@pytest.mark.parametrize("case", TABLE["case"], ids=[case["name"].replace(" ", "_") for case in TABLE["case"]])
def test_what_arrives_becomes(case: dict[str, Any]) -> None:
    arrivals = [_arrival(line) for line in case["arrive"]]
    for order in _orders(arrivals):
        for rows_a_message, messages in itertools.product((1, 3), (1, 2, 100)):
            driver = _drive(case, order, rows_a_message, messages)
            driver.check()
            assert _outcomes(driver) == sorted(case["outcomes"])
            gauges = driver.join.gauges
            counts = driver.join.counters | {
                "pending": gauges["pending_rows"],
                "orphan_pending": gauges["orphan_rows"],
            }
            assert {name: n for name, n in counts.items() if n and name not in _UNSAID} == case["counts"]
            driver.checkpoint()
            left = driver.join.gauges
            assert {name: left[name] for name in case.get("left", {})} == case.get("left", {})
            driver.crash()
            driver.check()


_UNSAID = {"output_rows", "label_rows", "closed_labelled", "closed_expired"}
