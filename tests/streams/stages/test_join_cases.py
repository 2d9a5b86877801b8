"""The table of cases, under ways of cutting the arrivals and of interleaving the two topics, as rows and as messages."""

import itertools
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.statistics import STATISTICS
from streams.runtime.decode import Decoded, LabelEdge, Messages, OutputEdge
from streams.runtime.hashing import class_hash, content_hashes, id_hashes
from streams.stages.batch import LabelBatch, OutputBatch
from streams.stages.join import LABELS, OUTPUTS, JoinSettings
from tests.simulation.join_driver import PARTITION, PARTITIONS, Driver
from tests.simulation.join_oracle import LabelRow, OutputRow, misplaced

TABLE = tomllib.loads((Path(__file__).parent / "join_cases.toml").read_text())
CASES = pytest.mark.parametrize("case", TABLE["case"], ids=[case["name"].replace(" ", "_") for case in TABLE["case"]])
TOPICS = {"O": OUTPUTS, "L": LABELS, "outputs": OUTPUTS, "labels": LABELS}
IDLE_MS, BROKER_MS = 30, 10_000

Cut = Callable[[int], int]
"""Of so many that are left, how many are taken together."""


def at_most(most: int) -> Cut:
    """Take as many as there are, and no more than that."""
    return lambda left: min(left, most)


def drawn(chance: Random) -> Cut:
    """Take any number."""
    return lambda left: chance.randint(1, left)


@dataclass(frozen=True)
class Arrival:
    """One line of a case: a row of a topic, as it is sent and as it is decoded, or a move of its watermark."""

    topic: str
    row: dict[str, Any] | None
    sent: dict[str, Any]
    to_ms: int = 0


def hash_of(name: str) -> int:
    return int(id_hashes(["m"], np.zeros(1, np.int32), [name])[0])


def _arrival(line: str) -> Arrival:
    kind, first, at, *more = line.split()
    if kind == "W":
        return Arrival(TOPICS[first], None, {}, int(at))
    extra = dict(part.partition("=")[::2] for part in more)
    sent: dict[str, Any] = {"prediction_id": first, "model": "m"}
    row = {"id_hash": hash_of(first), "model": "m", "broker_ms": BROKER_MS}
    row |= {"misplaced": misplaced(hash_of(first), first, PARTITION, PARTITIONS)}
    if kind == "O":
        sent |= {"made_at_ms": int(at), "prediction": int(extra.get("answer", 0))}
        answer = class_hash(sent["prediction"])
        nothing, made = np.full(1, np.nan, np.float32), np.full(1, int(at), np.int64)
        content = int(content_hashes(np.full(1, answer, np.uint32), nothing, made)[0])
        row |= {"made_at_ms": int(at), "prediction": answer, "content": content}
    else:
        sent |= {"labelled_at_ms": int(at), "label": int(extra.get("label", 0))}
        sent |= {"version": int(extra["version"])} if "version" in extra else {}
        sent |= {"made_at_ms": int(extra["made"])} if "made" in extra else {}
        sent |= {"retracted": True} if "retracted" in extra else {}
        row |= {"label": class_hash(sent["label"]), "version": sent.get("version", -1), "labelled_at_ms": int(at)}
        row |= {"made_at_ms": sent.get("made_at_ms", -1), "retracted": "retracted" in sent}
    return Arrival(TOPICS[kind], row, sent)


class EdgeDriver(Driver):
    """Drives a join over messages: what is read goes through the edge, which must give the rows that were meant."""

    def __init__(self, messages: dict[str, list[bytes]], **others: Any) -> None:  # noqa: ANN401 -- as of a driver
        super().__init__(**others)
        self._edges: dict[str, OutputEdge | LabelEdge] = {
            OUTPUTS: OutputEdge({}, PARTITIONS),
            LABELS: LabelEdge({}, PARTITIONS),
        }
        self._messages = messages

    def batch(self, topic: str, start: int, end: int) -> OutputBatch | LabelBatch:
        """Decode messages."""
        decoded: Decoded[OutputBatch] | Decoded[LabelBatch] = self._edges[topic].decode(
            Messages(
                partition=PARTITION,
                start=start,
                end=end,
                offset=range(start, end),
                broker_ms=[BROKER_MS] * (end - start),
                key=[b"k"] * (end - start),
                value=self._messages[topic][start:end],
            )
        )
        assert decoded.dead == []
        return decoded.batch


def message_of(rows: Sequence[dict[str, Any]], *, in_columns: bool) -> bytes:
    """Write rows as one message; in columns null stands for what a row does not say."""
    if not in_columns:
        (row,) = rows
        return json.dumps(row).encode()
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return json.dumps({"schema": 1, "rows": len(rows), "columns": columns}).encode()


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


def _shuffled(arrivals: Sequence[Arrival], chance: Random) -> list[Arrival]:
    """Interleave the two topics in any way; each topic's own order stays."""
    topics = [[one for one in arrivals if one.topic == topic] for topic in (OUTPUTS, LABELS)]
    turns = [number for number, topic in enumerate(topics) for _ in topic]
    chance.shuffle(turns)
    left = [iter(topic) for topic in topics]
    return [next(left[number]) for number in turns]


def _drive(
    case: dict[str, Any], order: list[Arrival], rows_a_message: Cut, messages: Cut, *, in_columns: bool | None = None
) -> Driver:
    """Drive a join over arrivals; `in_columns` says as which messages they go through the edge, None past it."""
    settings = _settings(case)
    rows: dict[str, list[Any]] = {OUTPUTS: [], LABELS: []}
    wire: dict[str, list[bytes]] = {OUTPUTS: [], LABELS: []}
    steps: list[tuple[str, int, int]] = []  # topic, messages to read, or a clock
    for (topic, is_move), group in itertools.groupby(order, key=lambda one: (one.topic, one.row is None)):
        if is_move:
            clock = settings.allowed_disorder_ms + settings.idle_after_ms
            steps += [(topic, 0, one.to_ms + clock) for one in group]
            continue
        kind = OutputRow if topic == OUTPUTS else LabelRow
        waiting, start = list(group), len(wire[topic])
        while waiting:
            together = waiting[: rows_a_message(len(waiting))]
            del waiting[: len(together)]
            for number, one in enumerate(together):
                assert one.row is not None
                rows[topic].append(kind(offset=len(wire[topic]), row=number, **one.row))
            wire[topic].append(message_of([one.sent for one in together], in_columns=in_columns is not False))
        steps.append((topic, len(wire[topic]) - start, 0))
    what: dict[str, Any] = {"settings": settings, "models": {}, "outputs": rows[OUTPUTS], "labels": rows[LABELS]}
    driver = Driver(**what) if in_columns is None else EdgeDriver(wire, **what)
    for name, count, clock_ms in steps:
        if count == 0:
            driver.advance(clock_ms, outputs_at_edge=name == OUTPUTS, labels_at_edge=name == LABELS)
        left = count
        while left:
            read = messages(left)
            driver.read(name, read)
            left -= read
            driver.check()
    return driver


def _outcomes(driver: Driver, names: dict[int, str]) -> list[str]:
    return sorted(
        f"{names[one.id_hash]} {one.made_at_ms} "
        + (f"labelled {one.delay_ms}{' wrong' * one.wrong}" if one.labelled else "expired")
        for one in driver.outcomes
    )


def _hold(case: dict[str, Any], driver: Driver, arrivals: Sequence[Arrival]) -> None:
    """Hold what came of the arrivals against the case; and what is left, and a restart."""
    driver.check()
    names = {one.row["id_hash"]: one.sent["prediction_id"] for one in arrivals if one.row is not None}
    assert _outcomes(driver, names) == sorted(case["outcomes"])
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


@CASES
def test_what_arrives_becomes(case: dict[str, Any]) -> None:
    arrivals = [_arrival(line) for line in case["arrive"]]
    for order in _orders(arrivals):
        for rows_a_message, messages in itertools.product((1, 3), (1, 2, 100)):
            _hold(case, _drive(case, order, at_most(rows_a_message), at_most(messages)), arrivals)


@settings(max_examples=15)
@given(chance=st.randoms(use_true_random=False))
@CASES
def test_no_other_way_of_cutting_and_interleaving_changes_anything(case: dict[str, Any], chance: Random) -> None:
    arrivals = [_arrival(line) for line in case["arrive"]]
    order = _shuffled(arrivals, chance)
    _hold(case, _drive(case, order, drawn(chance), drawn(chance)), arrivals)


@CASES
@pytest.mark.parametrize("in_columns", [False, True])
def test_the_same_comes_of_it_through_the_edge_in_both_forms_of_messages(
    case: dict[str, Any], *, in_columns: bool
) -> None:
    arrivals = [_arrival(line) for line in case["arrive"]]
    for rows_a_message in (1, 3) if in_columns else (1,):
        driver = _drive(case, arrivals, at_most(rows_a_message), at_most(2), in_columns=in_columns)
        _hold(case, driver, arrivals)


_UNSAID = {"output_rows", "label_rows", "closed_labelled", "closed_expired", "closed_sampled", "closed_misplaced"}
