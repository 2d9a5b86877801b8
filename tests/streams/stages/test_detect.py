"""What detect finds is a property of the log: not of reading order, repeats, restarts, or who else is silent."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.binning import NUMBER, confidence_of
from detectors.budget import Budget
from detectors.fitting import fit_baseline
from detectors.history import FeatureHistory, History, Names, counted
from detectors.statistics import needed
from detectors.table import NEEDS
from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.deployment import Deployment
from schemas.finding import Finding
from schemas.ids import finding_id
from schemas.ledger_entry import LedgerEntry
from schemas.model import Model
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.stages.detect import (
    SILENT_WAIT_MS,
    SNAPSHOT_TICKS,
    TICKS_AT_ONCE,
    UNKNOWN_MODELS_TOLD,
    UNKNOWN_QUIET_MS,
    Detect,
    In,
    Out,
)
from streams.stages.stage import Overlay, whole
from streams.stages.state_rows import BLOCK_BYTES, TornStateError

TICK_MS, SOURCES, RATE = 10_000, 4, 60
MODEL = Model(
    name="m",
    kind="classification",
    threshold=0.5,
    sla_accuracy=None,
    segments=("region",),
    features={"age": "numeric"},
    required=(),
    label_wait_ms=3_600_000,
    tier="standard",
)
BUDGET = Budget(
    pages_per_week=1,
    tickets_per_week=20,
    tick_ms=TICK_MS,
    tiers={"m": "standard"},
    max_lanes_per_model=500,
    max_rollups_per_model=16,
)
Rows = dict[str, bytes]


def history(seed: int, minutes: int, *, slower: float = 1.0, turned: float = 0.0, stretched: float = 1.0) -> History:
    """Draw outputs with wrong labels after 1 min and right ones after 3; the second half can be harmed."""
    rng, n = np.random.default_rng(seed), minutes * RATE
    made = np.arange(n, dtype=np.int64) * 60_000 // RATE
    late = np.arange(n) >= n // 2
    score = rng.beta(1.2, 1.2, n)
    wrong = ((rng.random(n) < score) != (score >= 0.5)) ^ (late & (rng.random(n) < turned))
    delay = rng.exponential(np.where(wrong, 60_000, 180_000)) * np.where(late, slower, 1.0)
    age = rng.uniform(18, 90, n) * np.where(late & (rng.random(n) < 0.2), stretched, 1.0)
    return History(
        made_at_ms=made,
        labelled_at_ms=made + delay.astype(np.int64),
        wrong=wrong,
        score=score.astype(np.float32),
        confidence=confidence_of(score.astype(np.float32)),
        version=Names(np.zeros(n, np.int32), ("7",)),
        segments={"region": Names(rng.integers(0, 2, n).astype(np.int32), ("north", "south"))},
        features={"age": FeatureHistory(np.full(n, NUMBER, np.int8), age, Names(np.full(n, -1, np.int32), ()))},
    )


@cache
def baseline() -> Baseline:
    return fit_baseline(history(0, 60), MODEL, budget=BUDGET, version=1, valid_from_ms=0, decided_at_ms=0)


LONG_TICKS = 50_000
"""Ticks that nothing counts in: six days."""


def taken(whole: History, rows: np.ndarray) -> History:
    return History(
        made_at_ms=whole.made_at_ms[rows],
        labelled_at_ms=whole.labelled_at_ms[rows],
        wrong=whole.wrong[rows],
        score=whole.score[rows],
        confidence=whole.confidence[rows],
        version=Names(whole.version.codes[rows], whole.version.values),
        segments={name: Names(one.codes[rows], one.values) for name, one in whole.segments.items()},
        features={
            name: FeatureHistory(one.state[rows], one.numbers[rows], Names(one.names.codes[rows], one.names.values))
            for name, one in whole.features.items()
        },
    )


def source(whole: History, number: int, *, version: int = 1, minutes: float = np.inf) -> list[In]:
    """Return what one source partition writes: statistics of each tick with rows, each followed by its `Closed`."""
    rows = np.flatnonzero(np.arange(len(whole.made_at_ms)) % SOURCES == number)
    counts = counted(taken(whole, rows), baseline().binning, needed(NEEDS))
    records: list[In] = []
    for tick in counts.each_tick():
        if tick.start_ms >= min(whole.made_at_ms.max() // TICK_MS * TICK_MS, minutes * 60_000):
            break
        if len(tick.lanes):
            records.append(
                WindowStats(
                    model="m",
                    tick_start_ms=tick.start_ms,
                    tick_end_ms=tick.end_ms,
                    source_partition=number,
                    source_partitions=SOURCES,
                    part=0,
                    parts=1,
                    baseline_version=version,
                    offsets={},
                    lanes=tuple(baseline().lanes[lane] for lane in tick.lanes),
                    arrays=tick.arrays,
                )
            )
        records.append(closed(number, tick.end_ms))
    return records


def closed(number: int, through_ms: int, sampled: int = 0, misplaced: int = 0) -> Closed:
    return Closed(
        source_partition=number,
        source_partitions=SOURCES,
        through_ms=through_ms,
        cause="records",
        sampled=sampled,
        misplaced=misplaced,
    )


def sources(whole: History) -> list[list[In]]:
    return [source(whole, number) for number in range(SOURCES)]


@cache
def harmed() -> tuple[tuple[In, ...], ...]:
    """Thirty minutes: inputs stretched and answers turned around in the second half."""
    return tuple(tuple(one) for one in sources(history(5, 30, turned=0.5, stretched=12.0)))


def stage(
    rows: Rows | Overlay[bytes] | None = None,
    *,
    models: Sequence[Model] = (MODEL,),
    partition: int = 0,
    ticks_at_once: int = TICKS_AT_ONCE,
) -> Detect:
    return Detect(
        rows={} if rows is None else rows,
        partition=partition,
        partition_of=lambda name: 1 if name == "elsewhere" else 0,
        tenant="acme",
        environment="prod",
        models={one.name: one for one in models},
        budget=BUDGET,
        ticks_at_once=ticks_at_once,
    )


def in_turn(parts: Iterable[Iterable[In]]) -> Iterator[In]:
    """One record of each source partition after the other."""
    waiting = [iter(part) for part in parts]
    while waiting:
        for one in list(waiting):
            record = next(one, None)
            if record is None:
                waiting.remove(one)
            else:
                yield record


def fed(detect: Detect, records: Iterable[In]) -> list[Out]:
    return [answer for record in records for answer in whole(detect, detect.receive([record]))]


def findings(answers: Iterable[Out]) -> list[Finding]:
    return [one for one in answers if isinstance(one, Finding)]


def ledger(answers: Iterable[Out]) -> list[LedgerEntry]:
    return [one for one in answers if isinstance(one, LedgerEntry)]


def marks(answers: Iterable[Out]) -> list[int]:
    return [one.through_ms for one in answers if isinstance(one, Through)]


@cache
def straight() -> tuple[Out, ...]:
    detect = stage()
    return (*fed(detect, baseline().split()), *fed(detect, in_turn(harmed())))


def test_harm_is_found_once_and_named_by_its_tick() -> None:
    found = findings(straight())
    assert {one.kind for one in found} >= {"feature_corruption", "error_above_baseline"}
    assert len({one.finding_id for one in found}) == len(found)
    for one in found:
        assert one.state == "firing"
        assert one.decided_at_ms == one.alarm_tick_ms
        assert one.onset_from_ms < one.onset_to_ms <= one.alarm_tick_ms
        assert one.alarm_tick_ms > 15 * 60_000
        assert one.onset_to_ms > 15 * 60_000
        assert one.baseline_version == 1
        assert one.finding_id == finding_id(
            tenant="acme",
            environment="prod",
            model="m",
            version=one.version,
            segment=one.segment,
            detector=one.detector,
            alarm_tick_ms=one.alarm_tick_ms,
        )


def test_no_finding_comes_after_its_mark_and_every_tick_has_one() -> None:
    through = 0
    for one in straight():
        if isinstance(one, Through):
            assert one.through_ms in {through + TICK_MS, TICK_MS}
            through = one.through_ms
        else:
            assert one.decided_at_ms > through


def test_ticks_before_the_first_row_of_a_model_do_not_show() -> None:
    earlier = replace(baseline(), valid_from_ms=-60 * TICK_MS)
    idle = [closed(number, ticks * TICK_MS) for ticks in range(-49, 1) for number in range(SOURCES)]
    detect = stage()
    after_idle = fed(detect, [*earlier.split(), *idle, *in_turn(harmed())])
    assert findings(after_idle) == findings(straight())


@pytest.mark.parametrize("valid_from_ticks", [-LONG_TICKS - 10, -20, 0])
def test_a_row_of_long_ago_costs_no_tick_each_until_today(valid_from_ticks: int) -> None:
    #  one row ........................ nothing ........................ 0 ---- outputs ----
    earlier = replace(baseline(), valid_from_ms=valid_from_ticks * TICK_MS)
    [spoken, *_] = parts_of_one_tick(harmed())
    start_ms = -LONG_TICKS * TICK_MS
    old = replace(spoken, tick_start_ms=start_ms, tick_end_ms=start_ms + TICK_MS, baseline_version=0)
    detect = stage()
    before = fed(detect, [*earlier.split(), old, *[closed(number, 0) for number in range(SOURCES)]])
    assert marks(before)[0] == start_ms + TICK_MS
    assert marks(before)[-1] == 0
    assert len(before) == len(marks(before)) <= 3
    assert detect.counts.ticks == LONG_TICKS
    assert detect.settled
    assert tuple(fed(detect, in_turn(harmed()))) == straight()


def test_an_empty_tick_is_passed_by_nobody_who_was_heard() -> None:
    detect = stage()
    fed(detect, [*baseline().split(), *in_turn(harmed())])
    through_ms = detect.through_ms or 0
    silent = [closed(number, through_ms + 30 * TICK_MS) for number in range(SOURCES)]
    assert len(marks(fed(detect, silent))) == 30


def test_one_source_partition_after_the_other_is_no_different() -> None:
    detect = stage()
    assert (
        tuple(fed(detect, [*baseline().split(), *(one for part in reversed(harmed()) for one in part)])) == straight()
    )


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_source_partitions_does_not_show(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rest = [list(part) for part in harmed()]
    mixed: list[In] = []
    while any(rest):
        waiting = [one for one in rest if one]
        part, take = waiting[rng.integers(len(waiting))], int(rng.integers(1, 40))
        mixed += part[:take]
        del part[:take]
    detect = stage()
    assert tuple(fed(detect, [*baseline().split(), *mixed])) == straight()


def test_a_repeat_changes_nothing() -> None:
    detect = stage()
    answers = fed(detect, [*baseline().split(), *baseline().split()])
    for record in in_turn(harmed()):
        answers += detect.receive([record, record])
        answers += detect.receive([record])
    assert tuple(answers) == straight()
    assert detect.counts.repeats > 0


@pytest.mark.parametrize("ticks_at_once", [1, TICKS_AT_ONCE])
def test_batches_of_any_size_give_the_same(ticks_at_once: int) -> None:
    detect, records = stage(ticks_at_once=ticks_at_once), [*baseline().split(), *in_turn(harmed())]
    answers = [one for at in range(0, len(records), 37) for one in detect.receive(records[at : at + 37])]
    answers += whole(detect, detect.advance(0))
    assert tuple(answers) == straight()


def returning() -> list[In]:
    """Let one source partition be silent for all thirty minutes, and say at the end how far it has come.

    The deployment that follows is paid for in the tick behind those that it closes; with the second all is in the rows.
    """
    *others, silent = harmed()
    statistics = [one for one in silent if isinstance(one, WindowStats)]
    after = [closed(number, marks(straight())[-1] + TICK_MS) for number in range(SOURCES)]
    return [
        *baseline().split(),
        *in_turn(others),
        *statistics,
        silent[-1],
        deployment("d1"),
        *after,
        deployment("d2"),
    ]


class Driven(NamedTuple):
    """What each call gave, the rows in the end, and how often they were written."""

    answers: list[list[Out]]
    rows: Rows
    snapshots: int

    @property
    def all(self) -> list[Out]:
        return [one for answers in self.answers for one in answers]


def in_pieces(records: Sequence[In], ticks_at_once: int, stops: Container[int] = ()) -> Driven:
    """Feed as a host does, which makes durable what is settled, between pieces too.

    After the calls that `stops` numbers, all that is not durable is gone.
    """
    rows: Rows = {}
    overlay = Overlay(rows)
    detect = stage(overlay, ticks_at_once=ticks_at_once)
    answers: list[list[Out]] = []
    cursor = at = snapshots = 0
    while at < len(records) or detect.has_more:
        if detect.has_more:
            answers.append(detect.more())
        else:
            answers.append(detect.receive([records[at]]))
            at += 1
        if detect.settled:
            for key, row in overlay.changes().items():
                rows.pop(key, None) if row is None else rows.update({key: row})
            snapshots += bool(overlay.changes())
            overlay.settle()
            cursor = at
        if len(answers) in stops:
            overlay = Overlay(rows)
            detect, at = stage(overlay, ticks_at_once=ticks_at_once), cursor
    return Driven(answers, rows, snapshots)


@cache
def at_one_go() -> Driven:
    return in_pieces(returning(), 10**6)


@pytest.mark.parametrize("ticks_at_once", [1, 7, TICKS_AT_ONCE])
def test_a_call_closes_so_many_ticks_and_no_more_whatever_became_due(ticks_at_once: int) -> None:
    found = in_pieces(returning(), ticks_at_once)
    assert max(len(marks(piece)) for piece in found.answers) == ticks_at_once
    assert len(marks(at_one_go().all)) == 180
    assert found.all == at_one_go().all
    assert found.rows == at_one_go().rows
    assert found.snapshots == at_one_go().snapshots, "one of many ticks that wait is large"


def test_who_asks_for_no_more_gets_it_before_the_next_record_is_taken() -> None:
    detect = stage(ticks_at_once=1)
    answers = [one for record in returning() for one in detect.receive([record])]
    assert [one.from_ms for one in ledger(answers) if one.reason == "lump"] == [marks(straight())[-1]]
    assert answers == at_one_go().all


@pytest.mark.parametrize("ticks_at_once", [1, 7, TICKS_AT_ONCE])
def test_a_restart_between_pieces_does_not_show(ticks_at_once: int) -> None:
    first = returning().index(deployment("d1"))
    found = in_pieces(returning(), ticks_at_once, {first, first + 1, first + 3, first + 13})
    assert {one.encode() for one in found.all} == {one.encode() for one in at_one_go().all}
    assert found.rows == at_one_go().rows


def test_what_is_left_between_pieces_follows_from_the_rows() -> None:
    # all ticks wait for the baseline: it is in the rows before the first of them closes
    records = [*in_turn(harmed()), *baseline().split()]
    first = len(records)
    found = in_pieces(records, 7, {first, first + 1, first + 5})
    assert {one.encode() for one in found.all} == {one.encode() for one in straight()}
    assert [marks(piece) for piece in found.answers[first : first + 2]] == [marks(straight())[:7]] * 2


def crashing(records: Sequence[In], stops: dict[int, bool]) -> tuple[list[Out], Rows]:
    """Feed as a host does: all rows with the cursor, when settled; at a stop they were made durable or not."""
    rows: Rows = {}
    overlay = Overlay(rows)
    detect = stage(overlay)
    answers: list[Out] = []
    cursor = at = 0
    while at < len(records):
        answers += detect.receive([records[at]])
        at += 1
        if detect.settled and stops.get(at, True):
            for key, row in overlay.changes().items():
                rows.pop(key, None) if row is None else rows.update({key: row})
            overlay.settle()
            cursor = at
        if stops.pop(at, None) is not None:
            overlay = Overlay(rows)
            detect, at = stage(overlay), cursor
    return answers, rows


def test_a_restart_goes_on_where_it_stopped() -> None:
    records = [*baseline().split(), *in_turn(harmed())]
    answers, _ = crashing(records, {401: False, 1111: True})
    assert {one.encode() for one in answers} == {one.encode() for one in straight()}


@pytest.mark.slow
@settings(max_examples=12)
@given(stops=st.dictionaries(st.integers(1, 1400), st.booleans(), max_size=5))
def test_a_restart_goes_on_bit_for_bit(stops: dict[int, bool]) -> None:
    records = [*baseline().split(), *in_turn(harmed())]
    answers, rows = crashing(records, dict(stops))
    assert {one.encode() for one in answers} == {one.encode() for one in straight()}
    assert rows == crashing(records, {})[1]


def snapshots() -> Iterator[tuple[Rows, dict[str, bytes | None]]]:
    """Give the rows as they were before each snapshot, and what it writes."""
    rows: Rows = {}
    overlay = Overlay(rows)
    detect = stage(overlay)
    for record in [*baseline().split(), *in_turn(harmed())]:
        detect.receive([record])
        if detect.settled:
            yield dict(rows), overlay.changes()
            rows.update({key: row for key, row in overlay.changes().items() if row is not None})
            overlay.settle()


def test_rows_that_were_not_all_written_are_noticed() -> None:
    before, changes = next(islice(snapshots(), 3, None))
    written = list(changes.items())
    assert stage(before).through_ms == 20 * TICK_MS
    assert stage({**before, **{key: row for key, row in written if row}}).through_ms == 30 * TICK_MS
    for some in (written[:1], written[:-1], written[1:]):
        with pytest.raises(TornStateError):
            stage({**before, **{key: row for key, row in some if row}})


def test_rows_are_small_and_of_many_few_are_written() -> None:
    sizes = []
    for before, changes in snapshots():
        rows = {**before, **{key: row for key, row in changes.items() if row is not None}}
        assert max(len(row) for row in rows.values()) <= BLOCK_BYTES
        sizes.append((sum(len(row or b"") for row in changes.values()), sum(map(len, rows.values()))))
        fixed = {key for key in changes if key.startswith("baselines")}
        assert bool(fixed) == (len(sizes) == 1)  # once
    written, held = sizes[-1]
    assert written < held / 3


def test_a_restart_writes_no_more_than_another_snapshot() -> None:
    rows, changes = list(snapshots())[8]
    overlay = Overlay(rows)
    detect = stage(overlay)
    through_ms = detect.through_ms or 0
    after = (
        one
        for one in in_turn(harmed())
        if (one.through_ms if isinstance(one, Closed) else one.tick_end_ms) > through_ms  # type: ignore[union-attr]
    )
    while not overlay.changes():
        detect.receive([next(after)])
    assert overlay.changes() == changes


def test_cells_of_an_earlier_baseline_are_not_read_as_those_of_a_later_one() -> None:
    # the second baseline has nothing to judge by: every watch ends, and begins anew under the third
    rows: Rows = {}
    detect = stage(rows)
    fed(detect, [*baseline().split(), *in_turn(harmed())])
    end = marks(straight())[-1]
    for version, arrays in (
        (2, {name: 0 * array for name, array in baseline().arrays.items()}),
        (3, baseline().arrays),
    ):
        parts = replace(baseline(), version=version, valid_from_ms=end, arrays=arrays).split()
        end += 20 * TICK_MS
        fed(detect, [*parts, *[closed(n, end) for n in range(SOURCES)]])
        assert stage(dict(rows)).models["m"].version == detect.models["m"].version == version
    spoken = [
        replace(one, tick_start_ms=end, tick_end_ms=end + TICK_MS, baseline_version=3)
        for one in parts_of_one_tick(harmed())
    ]
    fed(detect, [*spoken, *[closed(n, end + 20 * TICK_MS) for n in range(SOURCES)]])
    again = stage(dict(rows)).models["m"].states
    for name, state in detect.models["m"].states.items():
        assert state.ticks == 20
        assert np.array_equal(again[name].rings, state.rings)


def test_it_is_settled_only_right_after_a_snapshot() -> None:
    detect = stage()
    assert detect.settled
    settled = []
    for record in [*baseline().split(), *in_turn(harmed())]:
        ticks = len(marks(detect.receive([record])))
        settled.append((detect.settled, ticks))
    assert settled[0] == (True, 0)  # a baseline is pinned at once
    assert sum(done for done, _ in settled[1:]) == len(marks(straight())) // SNAPSHOT_TICKS


def test_a_tick_waits_for_every_source_partition() -> None:
    detect = stage()
    fed(detect, baseline().split())
    assert not marks(fed(detect, in_turn(harmed()[:3])))
    assert marks(fed(detect, harmed()[3])) == marks(straight())


def test_the_first_tick_is_the_earliest_of_any_source_partition() -> None:
    late = [one for one in harmed()[3] if (one.through_ms if isinstance(one, Closed) else one.tick_end_ms) > 60_000]  # type: ignore[union-attr]
    for parts in ([*harmed()[:3], late], [late, *harmed()[:3]]):
        detect = stage()
        assert marks(fed(detect, [*baseline().split(), *in_turn(parts)]))[0] == TICK_MS


def test_a_tick_is_not_closed_between_a_deployment_and_its_snapshot() -> None:
    records = [*baseline().split(), *in_turn(harmed())]
    detect = stage()
    fed(detect, records[:60])
    # in one batch: the tick waits until the batch, with the deployment in it, is in the rows
    assert detect.receive([deployment("d1"), *records[60:90]]) == []
    assert detect.settled
    assert len(marks(detect.advance(0))) > 1


def test_a_model_without_rows_falls_silent() -> None:
    #  0 ---- outputs ---- 5 min ---- nothing but marks ---- 10 min
    parts = [source(history(6, 10), number, minutes=5) for number in range(SOURCES)]
    for number, part in enumerate(parts):
        part += [closed(number, 300_000 + tick * TICK_MS) for tick in range(1, 31)]
    detect = stage()
    found = findings(fed(detect, [*baseline().split(), *in_turn(parts)]))
    outages = [one for one in found if one.detector == "silence"]
    assert {one.kind for one in outages} == {"model_outage"}
    assert min(one.alarm_tick_ms for one in outages) < 350_000
    whole = next(one for one in outages if one.lane == "*")
    assert whole.onset_from_ms == pytest.approx(300_000, abs=2 * TICK_MS)
    spoken = parts_of_one_tick(parts)
    fed(detect, [replace(one, tick_start_ms=600_000, tick_end_ms=610_000) for one in spoken])
    fed(detect, [replace(one, tick_start_ms=610_000, tick_end_ms=620_000) for one in spoken])
    again = fed(detect, [closed(number, 620_000) for number in range(SOURCES)])
    cleared = [one for one in findings(again) if one.state == "cleared"]
    assert whole.finding_id in {one.finding_id for one in cleared}
    assert {one.revision for one in cleared} == {1}
    assert {one.decided_at_ms for one in cleared} <= {610_000, 620_000}


def parts_of_one_tick(parts: Sequence[Sequence[In]]) -> list[WindowStats]:
    return [next(one for one in part if isinstance(one, WindowStats)) for part in parts]


def test_errors_are_not_judged_while_labels_are_late() -> None:
    detect = stage()
    found = findings(fed(detect, [*baseline().split(), *in_turn(sources(history(7, 60, slower=3.0)))]))
    assert "label_pipeline" in {one.detector for one in found}
    assert not {"error_given_score", "raw_error"} & {one.detector for one in found}
    assert detect.models["m"].disturbed


def test_errors_that_rang_first_go_on_being_judged() -> None:
    # half of the answers turn wrong, and wrong ones are learned sooner: labels come sooner because of the errors
    detect = stage()
    found = findings(fed(detect, [*baseline().split(), *in_turn(sources(history(5, 40, turned=1.0)))]))
    order = [one.detector for one in found]
    assert order.index("error_given_score") < order.index("label_pipeline")
    assert any(name == "label_pipeline" for name, _ in detect.models["m"].open_findings)
    assert not detect.models["m"].disturbed


# Our own gaps


def test_a_silent_source_partition_is_a_gap_of_our_own() -> None:
    detect = stage()
    fed(detect, [closed(number, 100_000) for number in range(SOURCES)])
    assert not detect.clock(200_000, live=True)
    assert not detect.clock(230_000, live=True)
    fed(detect, [closed(number, 160_000) for number in range(3)])
    assert not findings(detect.clock(200_000 + SILENT_WAIT_MS - 1, live=True))
    gap = findings(detect.clock(200_000 + SILENT_WAIT_MS, live=True))
    assert [(one.model, one.segment, one.kind, one.alarm_tick_ms, one.guarantee) for one in gap] == [
        ("tocsin", "source_partition=3", "detection_stopped", 100_000, "none")
    ]
    assert not findings(detect.clock(201_000 + SILENT_WAIT_MS, live=True))
    cleared = findings(fed(detect, [closed(3, 160_000)]))
    assert [(one.state, one.finding_id, one.revision) for one in cleared] == [("cleared", gap[0].finding_id, 1)]


def test_a_gap_needs_the_live_edge_and_is_told_by_one_owner() -> None:
    behind = stage()
    fed(behind, [closed(number, 100_000) for number in range(SOURCES)])
    for now_ms in range(0, 600_000, 30_000):
        assert not behind.clock(now_ms, live=False)
    assert not behind.clock(600_000, live=True)
    other = stage(partition=1)
    fed(other, [closed(number, 100_000) for number in range(SOURCES)])
    assert not [one for now_ms in range(0, 600_000, 30_000) for one in other.clock(now_ms, live=True)]


def test_a_source_partition_that_closes_tick_after_tick_is_no_gap_however_long_the_ticks_are() -> None:
    #  closed   100 s     280 s     460 s                   silent
    #  clock         200 s     380 s     560 s … 740 s … 1,280 s
    tick_ms = 180_000
    detect = Detect(
        rows={},
        partition=0,
        partition_of=lambda _: 0,
        tenant="acme",
        environment="prod",
        models={},
        budget=replace(BUDGET, tick_ms=tick_ms),
        ticks_at_once=TICKS_AT_ONCE,
    )
    for at_ms in (100_000, 280_000, 460_000):
        assert not findings(detect.clock(100_000 + at_ms, live=True))
        fed(detect, [closed(number, at_ms) for number in range(SOURCES)])
    assert not findings(detect.clock(740_000, live=True))
    assert not findings(detect.clock(740_000 + 3 * tick_ms - 1, live=True))
    assert len(findings(detect.clock(740_000 + 3 * tick_ms, live=True))) == SOURCES


def test_what_was_read_while_no_time_was_told_is_no_gap() -> None:
    #  clock 200 s | busy | closed 160 s is read, and with it all there is | clock 275 s
    detect = stage()
    fed(detect, [closed(number, 100_000) for number in range(SOURCES)])
    assert not findings(detect.clock(200_000, live=True))
    fed(detect, [closed(number, 160_000) for number in range(SOURCES)])
    assert not findings(detect.clock(275_000, live=True))


def test_a_join_that_reads_history_is_no_gap_while_any_of_its_partitions_goes_on() -> None:
    #  clock   3 h: a partition at a time is read on, one each 50 s, for as long as each is silent for 200 s | silence
    hours = 3 * 3_600_000
    detect = stage()
    fed(detect, [closed(number, 100_000) for number in range(SOURCES)])
    for turn in range(12):
        assert not findings(detect.clock(hours + turn * 50_000, live=True))
        fed(detect, [closed(turn % SOURCES, 200_000 + turn * 1_000)])
    heard_ms = hours + 12 * 50_000
    assert not findings(detect.clock(heard_ms, live=True))
    assert not findings(detect.clock(heard_ms + SILENT_WAIT_MS - 1, live=True))
    gaps = findings(detect.clock(heard_ms + SILENT_WAIT_MS, live=True))
    assert len(gaps) == SOURCES
    assert all(one.message.endswith("and far behind") for one in gaps)


def test_a_partition_that_stays_far_behind_when_the_others_have_read_all_is_a_gap() -> None:
    #  clock   3 h: three come to the edge and follow, one goes on once and is stuck
    hours = 3 * 3_600_000
    detect = stage()
    fed(detect, [closed(number, 100_000) for number in range(SOURCES)])
    assert not findings(detect.clock(hours, live=True))
    fed(detect, [closed(3, 200_000)])
    found: dict[int, list[Finding]] = {}
    for now_ms in range(hours + 30_000, hours + 600_000, 30_000):
        fed(detect, [closed(number, now_ms - 30_000) for number in range(3)])
        found[now_ms] = findings(detect.clock(now_ms, live=True))
    rang = {now_ms: [one.segment for one in gaps] for now_ms, gaps in found.items() if gaps}
    assert rang == {hours + 30_000 + SILENT_WAIT_MS: ["source_partition=3"]}


def test_a_gap_is_never_decided_before_a_mark() -> None:
    detect = stage()
    through = marks(fed(detect, [closed(number, 100_000) for number in range(SOURCES)]))[-1]
    detect.clock(0, live=True)
    gaps = findings(detect.clock(SILENT_WAIT_MS, live=True))
    assert gaps
    assert all(one.decided_at_ms > through for one in gaps)


def placed(*told: tuple[int, int]) -> list[list[In]]:
    """Return what each source partition closes, tick by tick from 100 s on: rows looked at, and misplaced, so far."""
    return [
        [closed(number, 100_000 + at * TICK_MS, *counts) for at, counts in enumerate(told)] for number in range(SOURCES)
    ]


ASTRAY = placed((10, 1), (15, 2), (140, 12), (264, 12), (266, 13), (267, 14), (268, 15))
#  in all     40, 4   60, 8   560, 48    1056, 48   1064, 52   1068, 56    1072, 60
#  since      40, 4   60, 8   500, 40     496, 0     504, 4       4, 4        8, 8
#                     rings   goes on                clears                  rings


def test_rows_in_the_wrong_partition_are_one_finding_until_enough_lie_right() -> None:
    found = findings(fed(stage(), in_turn(ASTRAY)))
    first, clearing, second = found
    assert [(one.state, one.revision, one.alarm_tick_ms, one.decided_at_ms, one.n) for one in found] == [
        ("firing", 0, 110_000, 110_000, 60),
        ("cleared", 1, 110_000, 140_000, 504),
        ("firing", 0, 160_000, 160_000, 8),
    ]
    assert (first.model, first.kind, first.ledger, first.guarantee) == ("tocsin", "misplaced_rows", "ticket", "none")
    assert first.message.startswith("8 of 60 rows that were looked at lie in another partition than their ids'")
    assert (first.effect.observed, clearing.effect.observed) == (8 / 60, 4 / 504)
    assert first.finding_id == clearing.finding_id != second.finding_id


def test_which_source_partition_was_read_first_does_not_show_in_what_is_found_of_places() -> None:
    in_order = findings(fed(stage(), in_turn(ASTRAY)))
    assert findings(fed(stage(), in_turn(ASTRAY[::-1]))) == in_order
    assert findings(fed(stage(), [record for part in ASTRAY for record in part])) == in_order
    detect = stage()
    assert findings(whole(detect, detect.receive([one for part in ASTRAY for one in part]))) == in_order


def test_ticks_that_become_due_at_one_go_are_judged_one_by_one() -> None:
    #  three close tick by tick, the fourth all seven at once: before the others, or when they wait for it
    seldom = [*ASTRAY[:3], ASTRAY[3][-1:]]
    waited_for = findings(fed(stage(), [record for part in seldom for record in part]))
    assert [one.decided_at_ms for one in waited_for] == [110_000]
    assert findings(fed(stage(), [record for part in seldom[::-1] for record in part])) == waited_for


def test_a_mark_that_is_sent_again_counts_no_row_twice() -> None:
    again = [[one for mark in part for one in (mark, mark)] for part in ASTRAY]
    assert findings(fed(stage(), in_turn(again))) == findings(fed(stage(), in_turn(ASTRAY)))


def test_a_restart_forgets_no_row_that_was_looked_at() -> None:
    #  each snapshot is a place to begin again: what came after it is read once more
    records = [one for at in range(7) for part in ASTRAY for one in part[at : at + 1]]
    for stop in range(len(records)):
        rows: Rows = {}
        detect = stage(rows)
        before, kept, begin = [], [], 0
        for at, record in enumerate(records[:stop]):
            before += findings(fed(detect, [record]))
            if at % 3 == 0:
                detect.receive([deployment(f"d{at}")])  # pins a snapshot
            if detect.settled:
                kept, begin = list(before), at + 1
        assert kept + findings(fed(stage(rows), records[begin:])) == findings(fed(stage(), records))


@pytest.mark.parametrize(("sampled", "misplaced"), [(4, 1), (300, 2), (126, 1)])
def test_a_hand_that_tried_something_is_no_finding(sampled: int, misplaced: int) -> None:
    assert not findings(fed(stage(), in_turn(placed((sampled, misplaced), (sampled, misplaced)))))


def test_a_join_that_counts_from_the_beginning_again_is_believed() -> None:
    [one] = findings(fed(stage(), in_turn(placed((90, 0), (2, 2)))))
    assert (one.effect.observed, one.n) == (8 / 368, 368)


def test_no_count_of_a_mark_is_too_great_to_be_kept_and_told() -> None:
    most = 2**63 - 1
    rows: Rows = {}
    detect = stage(rows)
    [one] = findings(fed(detect, in_turn(placed((most, most), (most, most)))))
    assert Finding.decode(one.encode()) == one
    detect.receive([closed(0, 200_000, 3, 3), closed(1, 200_000, most, 0), deployment("d")])
    assert detect.settled


def test_one_owner_tells_of_misplaced_rows_and_a_join_that_does_not_look_says_nothing() -> None:
    assert not findings(fed(stage(partition=1), in_turn(ASTRAY)))
    assert not findings(fed(stage(), in_turn(placed(*[(0, 0)] * 5))))


def test_a_model_that_nobody_configured_gets_one_ticket_until_it_is_configured() -> None:
    rows: Rows = {}
    parts = [source(history(8, 5), number) for number in range(SOURCES)]
    detect = stage(rows, models=())
    found = findings(fed(detect, in_turn(parts)))
    assert [(one.model, one.kind, one.ledger, one.state) for one in found] == [
        ("m", "monitoring_gap", "ticket", "firing")
    ]
    assert detect.counts.unknown_model_ticks == 29
    configured = stage(rows)
    end = max(one.tick_end_ms for one in parts[0] if isinstance(one, WindowStats))
    cleared = findings(fed(configured, [closed(number, end + 60_000) for number in range(SOURCES)]))
    assert [(one.finding_id, one.state) for one in cleared] == [(found[0].finding_id, "cleared")]


def rows_of(model: str, ticks: int) -> WindowStats:
    """One tick with rows of a model that nobody configured, `ticks` after 0."""
    [spoken, *_] = parts_of_one_tick(harmed())
    start_ms = ticks * TICK_MS
    return replace(spoken, model=model, tick_start_ms=start_ms, tick_end_ms=start_ms + TICK_MS)


QUIET_TICKS = UNKNOWN_QUIET_MS // TICK_MS


@pytest.mark.parametrize("step", [1, 7, 500])
def test_a_model_that_nobody_configured_clears_when_its_rows_stay_away_and_rings_when_they_come_again(
    step: int,
) -> None:
    #  rows .... rows ........ half an hour ........ cleared ... rows
    again = 10 + QUIET_TICKS + 40
    rows: Rows = {}
    detect = stage(rows, models=())
    found = []
    heard = {0: "shadow", 10: "shadow", again: "shadow"}
    for ticks in sorted({*range(1, again, step), *(one + 1 for one in heard)}):
        some = [rows_of(model, at) for at, model in heard.items() if at + 1 == ticks]
        detect = stage(rows, models=()) if detect.settled else detect
        found += findings(fed(detect, [*some, *[closed(number, ticks * TICK_MS) for number in range(SOURCES)]]))
    told = [(one.state, one.decided_at_ms // TICK_MS) for one in found]
    assert told == [("firing", 1), ("cleared", 11 + QUIET_TICKS), ("firing", again + 1)]
    assert found[0].finding_id == found[1].finding_id != found[2].finding_id


def test_names_without_end_ring_no_more_than_a_few_times_and_the_last_one_says_so() -> None:
    detect = stage(models=())
    some = [rows_of(f"m{number}", 0) for number in range(300)]
    found = findings(fed(detect, [*some, *[closed(number, TICK_MS) for number in range(SOURCES)]]))
    assert len(found) == UNKNOWN_MODELS_TOLD
    assert ["others" in one.message for one in found] == [False] * (UNKNOWN_MODELS_TOLD - 1) + [True]
    assert detect.counts.unknown_model_ticks == 300


# Baselines


def test_a_tick_waits_for_the_baseline_that_its_statistics_name() -> None:
    detect = stage()
    assert not marks(fed(detect, in_turn(harmed())))
    assert detect.receive(baseline().split()) == []
    assert tuple(whole(detect, detect.advance(0))) == straight()


def test_a_baseline_that_never_comes_is_given_up_in_the_end() -> None:
    detect = stage()
    fed(detect, in_turn(harmed()))
    assert not marks(detect.clock(0, live=True))
    assert not marks(detect.clock(59_999, live=True))
    assert not marks(detect.clock(60_000, live=False))
    detect.clock(70_000, live=True)
    answers = whole(detect, detect.clock(130_000, live=True))
    assert marks(answers) == marks(straight())
    assert not [one for one in findings(answers) if one.model == "m"]


def test_a_new_baseline_goes_on_with_open_lanes() -> None:
    detect = stage()
    fed(detect, [*baseline().split(), *in_turn(harmed())])
    before = set(detect.models["m"].open_findings)
    assert before
    second = replace(baseline(), version=2, valid_from_ms=30 * 60_000)
    end = marks(straight())[-1]
    answers = fed(detect, [*second.split(), *[closed(n, end + 600_000) for n in range(SOURCES)]])
    assert detect.models["m"].version == 2
    assert before <= set(detect.models["m"].open_findings)
    assert not [one for one in findings(answers) if one.state == "cleared"]


def test_a_lane_that_a_new_baseline_does_not_know_is_cleared() -> None:
    detect = stage()
    fed(detect, [*baseline().split(), *in_turn(harmed())])
    north = [key for key in detect.models["m"].open_findings if key[1] == "segment:region=north"]
    assert north
    kept = [at for at, name in enumerate(baseline().lanes) if "north" not in name]
    second = replace(
        baseline(),
        version=2,
        valid_from_ms=30 * 60_000,
        lanes=tuple(baseline().lanes[at] for at in kept),
        arrays={name: array[kept] for name, array in baseline().arrays.items()},
    )
    end = marks(straight())[-1]
    answers = findings(fed(detect, [*second.split(), *[closed(n, end + 600_000) for n in range(SOURCES)]]))
    assert {one.lane for one in answers if one.state == "cleared"} == {
        "segment:region=north",
        "version:7|segment:region=north",
    }


def test_statistics_under_another_baseline_say_nothing() -> None:
    detect = stage()
    other = [source(history(5, 30, stretched=12.0), number, version=0) for number in range(SOURCES)]
    fed(detect, [*baseline().split(), *in_turn([part[:40] for part in harmed()])])
    answers = fed(detect, in_turn([part[40:] for part in other]))
    assert not findings(answers)
    assert detect.counts.blind_ticks > 100


def test_ticks_with_rows_of_a_model_without_a_baseline_are_counted_as_blind() -> None:
    detect = stage(models=(MODEL, replace(MODEL, name="without rows")))
    fed(detect, in_turn(source(history(5, 30), number, version=0, minutes=10) for number in range(SOURCES)))
    assert detect.counts.blind_ticks == detect.counts.ticks > 50


def test_no_more_lanes_ring_than_the_budget_was_divided_by() -> None:
    detect = Detect(
        rows={},
        partition=0,
        partition_of=lambda _: 0,
        tenant="",
        environment="",
        models={"m": MODEL},
        budget=replace(BUDGET, max_rollups_per_model=2, max_lanes_per_model=1),
        ticks_at_once=TICKS_AT_ONCE,
    )
    fed(detect, [*baseline().split(), *in_turn([part[:9] for part in harmed()])])
    armed = detect.models["m"].watches["feature_integrity"].armed
    assert armed.sum() == 3


# What was spent


def test_the_ledger_says_what_was_spent_and_how_often_it_rang() -> None:
    end = marks(straight())[-1]
    detect = stage()
    answers = fed(detect, [*baseline().split(), *in_turn(harmed())])
    answers += fed(detect, [closed(number, 3_600_000) for number in range(SOURCES)])
    entries = ledger(answers)
    assert end < 3_600_000
    assert {one.to_ms for one in entries} == {3_600_000}
    assert len({(one.detector, one.reason) for one in entries}) == len(entries)
    rang = [one for one in findings(answers) if one.detector == "error_given_score"]
    entry = next(one for one in entries if (one.detector, one.reason) == ("error_given_score", "base"))
    assert entry.alarms == len(rang)
    share = BUDGET.spend("m", "error_given_score")
    most = 360 * sum(share.rollup if "|" not in lane else share.fine for lane in baseline().lanes)
    assert 0.2 * most < entry.spent < most
    assert any(one.reason == "recovery" for one in entries)
    assert {one.ledger for one in entries if one.reason == "ticket"} == {"ticket"}
    assert not [one for one in entries if one.detector == "feature_integrity_rule" and one.spent]
    spent = {name: sum(one.spent for one in entries if one.ledger == name) for name in ("page", "ticket")}
    assert min(spent.values()) > 0
    assert detect.counts.spent == pytest.approx(spent)


def deployment(name: str) -> Deployment:
    return Deployment(deployment_id=name, model="m", at_ms=0, decided_at_ms=0)


def test_a_deployment_is_paid_for_once_in_the_next_tick() -> None:
    detect, records = stage(), [*baseline().split(), *in_turn(harmed())]
    fed(detect, records[:60])
    assert detect.receive([deployment("d1"), deployment("d1")]) == []
    assert detect.settled
    answers = fed(detect, [*records[60:90], deployment("d1"), *records[90:120]])
    lumps = [one for one in ledger(answers) if one.reason == "lump"]
    assert sum(one.spent for one in lumps) == pytest.approx(0.01)
    assert {one.to_ms - one.from_ms for one in lumps} == {TICK_MS}
    assert {one.ledger for one in lumps} == {"page"}
    assert len({one.from_ms for one in lumps}) == 1


def test_deployments_take_no_more_than_the_reserve_of_the_week() -> None:
    detect, records = stage(), [*baseline().split(), *in_turn(harmed())]
    fed(detect, records[:60])
    answers = fed(detect, [*[deployment(f"d{number}") for number in range(50)], *records[60:120]])
    assert sum(one.spent for one in ledger(answers) if one.reason == "lump") == pytest.approx(0.2)


def test_models_of_other_partitions_are_left_alone() -> None:
    detect = Detect(
        rows={},
        partition=0,
        partition_of=lambda name: int(name == "elsewhere"),
        tenant="",
        environment="",
        models={"m": MODEL, "elsewhere": replace(MODEL, name="elsewhere")},
        budget=replace(BUDGET, tiers={"m": "standard", "elsewhere": "standard"}),
        ticks_at_once=TICKS_AT_ONCE,
    )
    assert set(detect.models) == {"m"}
    assert detect.receive([replace(part, model="elsewhere") for part in baseline().split()]) == []
