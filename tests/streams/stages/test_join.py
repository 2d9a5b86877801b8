"""The join against its oracle: however it is cut, interleaved, stopped and begun again, only the two logs decide."""

import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.binning import baseline_zero
from detectors.statistics import STATISTICS
from schemas.baseline import Baseline
from schemas.binning import Binning, FeatureBins
from schemas.closed import Closed
from schemas.fields import MalformedRecordError
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.stages.blocks import Journal, Manifest, MemoryRuns, decode, encode
from streams.stages.join import LABELS, OUTPUTS, Join, JoinSettings
from tests.simulation.join_driver import Driver
from tests.simulation.join_oracle import LabelRow, OutputRow, label_batch, output_batch

SETTINGS = JoinSettings(
    tick_ms=10,
    allowed_disorder_ms=5,
    idle_after_ms=20,
    default_label_wait_ms=90,
    orphan_wait_ms=40,
    correction_wait_ms=50,
    future_skew_ms=30,
    max_lanes_per_model=7,
    block_rows=4,
    orphans_bound_rows=10_000,
    needs=tuple(STATISTICS),
)


def _model(name: str, kind: str, wait_ms: int, segments: tuple[str, ...] = ()) -> Model:
    return Model(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        threshold=0.5,
        sla_accuracy=None,
        segments=segments,
        features={"age": "numeric", "job": "categorical"},
        required=(),
        label_wait_ms=wait_ms,
        tier="standard",
    )


MODELS: Mapping[str, Model] = {
    "fraud": _model("fraud", "classification", 60, ("sex", "land")),
    "price": _model("price", "regression", 200),
}
NAMES = ("fraud", "price", "unlisted")
BINNING = Binning(
    tick_ms=10,
    score_edges=baseline_zero(10, 0.5).score_edges,
    confidence_edges=baseline_zero(10, 0.5).confidence_edges,
    delay_edges_ms=[5, 10, 20, 30, 40, 50, 60],
    age_edges_ticks=[0, 1, 3, 6, 12],
    features=[
        FeatureBins(name="age", kind="numeric", edges=[float(10 * at) for at in range(1, 10)], low=0.0, high=95.0),
        FeatureBins(name="job", kind="categorical", categories=["a"], known=["b"]),
    ],
    segments={"sex": ["1", "2"]},
    versions=["7", "8"],
)
BASELINES = [
    Baseline(
        model="fraud",
        version=version,
        valid_from_ms=valid_from_ms,
        binning=binning,
        reference_ms=(0, 1),
        armed={},
        tolerance={},
        decided_at_ms=0,
        lanes=(),
        arrays={},
    )
    for version, valid_from_ms, binning in (
        (1, 100, BINNING),
        (2, 300, Binning(**{name: getattr(BINNING, name) for name in BINNING.__struct_fields__ if name != "versions"})),
    )
]
TENTHS = [float(np.float32(one / 10)) for one in range(11)]
FEATURES: list[dict[str, float | str | None]] = [
    {"age": age, "job": job} for age in (5.0, 50.0, 99.0, None, "old") for job in ("a", "b", "z", 3.0)
]
NUMBERS = [int(np.float32(one).view(np.uint32)) for one in (1.0, 1.4, 1.5, 1.6, float("nan"))]


@st.composite
def logs(draw: st.DrawFn, most: int = 30) -> tuple[list[OutputRow], list[LabelRow]]:
    """Two logs of the same few ids, with what can go wrong in them."""
    ids = st.integers(1, 6)
    steps = st.sampled_from([0, 0, 1, 1, 2, 3, 5, 12, 45])
    jitter = st.sampled_from([0, 0, 0, 1, 4, 6, 15, 70, 200, -3, -25])
    outputs: list[OutputRow] = []
    now, offset = draw(st.integers(0, 50)), 0
    for _ in range(draw(st.integers(0, most))):
        now += draw(steps)
        offset += draw(st.sampled_from([0, 1, 1, 2])) if outputs else 0
        number = draw(ids)
        model = NAMES[number % 3]
        made = max(now - draw(jitter), 0)
        features: dict[str, float | str | None] = {}
        if draw(st.booleans()):
            features = dict(draw(st.sampled_from(FEATURES)))
        outputs.append(
            OutputRow(
                offset=offset,
                row=0 if not outputs or outputs[-1].offset != offset else outputs[-1].row + 1,
                broker_ms=now if draw(st.integers(0, 19)) else max(now - 100, 0),
                id_hash=number * 0x9E3779B97F4A7C15 % 2**64,
                misplaced=draw(st.sampled_from([None, False, True])),
                made_at_ms=made,
                model=model,
                version=draw(st.sampled_from([None, "7", "8", "9"])),
                prediction=draw(st.sampled_from(NUMBERS)),
                content=draw(st.integers(0, 1)),
                score=draw(st.sampled_from([*TENTHS, float("nan")])),
                confidence=draw(st.sampled_from([*TENTHS, float("nan")])),
                segments=draw(st.sampled_from([{}, {"sex": "1"}, {"sex": "3", "land": "x"}, {"land": "x"}])),
                features=features,
            )
        )
    labels: list[LabelRow] = []
    now, offset = draw(st.integers(0, 80)), 0
    for _ in range(draw(st.integers(0, most))):
        now += draw(steps)
        offset += draw(st.sampled_from([0, 1, 1, 2])) if labels else 0
        number = draw(ids)
        known = draw(st.integers(0, 4))
        labels.append(
            LabelRow(
                offset=offset,
                row=0 if not labels or labels[-1].offset != offset else labels[-1].row + 1,
                broker_ms=now if draw(st.integers(0, 19)) else max(now - 100, 0),
                id_hash=number * 0x9E3779B97F4A7C15 % 2**64,
                misplaced=draw(st.sampled_from([None, False, True])),
                labelled_at_ms=max(now - draw(jitter), 0),
                model=NAMES[number % 3],
                label=draw(st.sampled_from(NUMBERS)),
                version=draw(st.sampled_from([-1, -1, 1, 2, 3])),
                made_at_ms=max(now - draw(jitter), 0) if known == 0 else -1,
                retracted=draw(st.integers(0, 5)) == 0,
            )
        )
    return outputs, labels


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(OUTPUTS), st.integers(1, 9)),
        st.tuples(st.just(LABELS), st.integers(1, 9)),
        st.tuples(st.just("advance"), st.integers(0, 600), st.booleans(), st.booleans()),
        st.tuples(st.just("checkpoint"), st.sampled_from(["", "", "", "blocks", "manifest", "send"])),
        st.tuples(st.just("crash")),
    ),
    max_size=16,
)
FAR_MS = 2_500


def _walk(driver: Driver, steps: list[tuple[object, ...]]) -> None:
    for step in steps:
        match step:
            case ("advance", int(clock_ms), bool(outputs), bool(labels)):
                driver.advance(clock_ms, outputs_at_edge=outputs, labels_at_edge=labels)
            case ("checkpoint", str(crash_after)):
                driver.checkpoint(crash_after=crash_after)
            case ("crash",):
                driver.crash()
            case (str(topic), int(messages)):
                driver.read(topic, messages)
        driver.check()


def _driver(log: tuple[list[OutputRow], list[LabelRow]], **changes: int) -> Driver:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return Driver(settings=settings, models=MODELS, outputs=log[0], labels=log[1], baselines=BASELINES)


@given(logs(), STEPS, st.sampled_from([1, 2, 4, 64]))
def test_whatever_the_order_of_reading_only_the_logs_decide(
    log: tuple[list[OutputRow], list[LabelRow]], steps: list[tuple[object, ...]], block_rows: int
) -> None:
    driver = _driver(log, block_rows=block_rows)
    _walk(driver, steps)
    driver.finish(FAR_MS)
    verdict = driver.check()
    driver.check_sent()
    assert sorted(driver.outcomes, key=repr) == sorted(verdict.outcomes, key=repr)
    assert driver.closed[-1].through_ms == verdict.closed_through_ms


@given(logs())
def test_each_output_has_one_outcome_and_nothing_is_left(log: tuple[list[OutputRow], list[LabelRow]]) -> None:
    driver = _driver(log)
    driver.finish(FAR_MS)
    verdict = driver.check()
    by_row = sorted(driver.outcomes, key=repr)
    assert by_row == sorted(verdict.outcomes, key=repr)
    gauges = driver.join.gauges
    held = {name: gauges[name] for name in ("pending_rows", "known_rows", "orphan_rows", "open_ticks")}
    assert held == dict.fromkeys(held, 0)


@settings(max_examples=40)
@given(logs(most=10))
def test_one_row_at_a_time_or_all_at_once_is_the_same(log: tuple[list[OutputRow], list[LabelRow]]) -> None:
    sent = []
    for messages, first in itertools.product((1, 3, 1000), (OUTPUTS, LABELS)):
        driver = _driver(log)
        topics = [first, LABELS if first == OUTPUTS else OUTPUTS]
        while any(driver.left(topic) > 0 for topic in topics):
            for topic in topics:
                driver.read(topic, messages)
        driver.finish(FAR_MS)
        sent.append((driver.sent, driver.join.counters))
    assert all(one == sent[0] for one in sent)


def test_a_long_run_with_crashes_agrees_with_the_oracle() -> None:
    rng = np.random.default_rng(20261124)
    for _ in range(2):
        outputs, labels = _long_logs(rng, 300)
        driver = _driver((outputs, labels), block_rows=8)
        while driver.left(OUTPUTS) > 0 or driver.left(LABELS) > 0:
            driver.read(OUTPUTS, int(rng.integers(1, 40)))
            driver.read(LABELS, int(rng.integers(1, 40)))
            if rng.random() < 0.4:
                driver.checkpoint(crash_after=str(rng.choice(["", "", "blocks", "manifest", "send"])))
        driver.check()
        driver.finish(20_000)
        driver.check()
        driver.check_sent()
        assert driver.join.gauges["known_rows"] == 0


def _long_logs(rng: np.random.Generator, n: int) -> tuple[list[OutputRow], list[LabelRow]]:
    made = np.sort(rng.integers(0, 3_000, n)) - rng.integers(0, 5, n)
    outputs = [
        OutputRow(
            offset=at,
            broker_ms=10_000,
            id_hash=int(rng.integers(2**63)) if at % 9 else 77,
            misplaced=at % 7 == 0 if at % 3 else None,
            made_at_ms=max(int(made[at]), 0),
            model=NAMES[at % 3],
            version=str(at % 4 + 6),
            prediction=NUMBERS[at % 2],
            score=float(np.float32(rng.random())),
            confidence=float(np.float32(rng.random())),
            segments={"sex": str(at % 3)},
        )
        for at in range(n)
    ]
    delays = rng.exponential(50, n).astype(int)
    order = np.argsort(made + delays, kind="stable")
    labels = [
        LabelRow(
            offset=at,
            broker_ms=10_000,
            id_hash=outputs[of].id_hash,
            labelled_at_ms=max(int(made[of] + delays[of]), 0),
            model=outputs[of].model,
            label=NUMBERS[int(rng.integers(4))],
        )
        for at, of in enumerate(order.tolist())
    ]
    return outputs, labels


def test_a_batch_that_was_taken_changes_nothing_when_it_comes_again() -> None:
    rows = [OutputRow(offset=at, broker_ms=20, id_hash=at, made_at_ms=20 - at, model="fraud") for at in range(3)]
    driver = _driver((rows, []))
    driver.read(OUTPUTS, 3)
    before = driver.join.counters
    assert driver.join.receive(output_batch(rows, partition=1, start=0, end=3)) == []
    assert driver.join.counters == before


def test_rows_that_were_looked_at_count_in_their_ticks_whatever_becomes_of_them() -> None:
    #  ticks  10       20       30      40
    #         a  b,b'  |  c     |  d    |        b' a copy, c nobody looked at
    #  labels a a'             z                   a' a copy, z of no output
    made = ((1, 11, False), (2, 12, True), (2, 13, True), (3, 22, None), (4, 31, True))
    outputs = [
        OutputRow(offset=at, broker_ms=99, id_hash=of, made_at_ms=made_at_ms, model="fraud", misplaced=misplaced)
        for at, (of, made_at_ms, misplaced) in enumerate(made)
    ]
    said = ((1, 14, False), (1, 15, True), (9, 24, True))
    labels = [
        LabelRow(offset=at, broker_ms=99, id_hash=of, labelled_at_ms=labelled_at_ms, model="fraud", misplaced=misplaced)
        for at, (of, labelled_at_ms, misplaced) in enumerate(said)
    ]
    driver = _driver((outputs, labels))
    driver.read(LABELS, 3)
    driver.read(OUTPUTS, 5)
    driver.advance(45)
    driver.checkpoint()
    driver.advance(65)
    driver.checkpoint()
    assert [(one.through_ms, one.sampled, one.misplaced) for one in driver.closed] == [(20, 5, 3), (40, 7, 5)]
    driver.check_sent()


def test_a_row_that_is_ahead_is_said_to_be_looked_at_when_its_own_tick_closes() -> None:
    #  broker  22            closed through 20, then 40
    #  label   35, counts in the tick of 30, long after that of its offset is closed
    driver = _driver(
        ([], [LabelRow(offset=0, broker_ms=22, id_hash=1, labelled_at_ms=35, model="fraud", misplaced=True)])
    )
    driver.read(LABELS, 1)
    for clock_ms in (45, 65):
        driver.advance(clock_ms)
        driver.checkpoint()
    assert [(one.through_ms, one.sampled, one.misplaced) for one in driver.closed] == [(20, 0, 0), (40, 1, 1)]


@given(logs(), STEPS)
def test_a_mark_that_is_sent_again_has_the_same_bytes(
    log: tuple[list[OutputRow], list[LabelRow]], steps: list[tuple[object, ...]]
) -> None:
    driver = _driver(log)
    _walk(driver, steps)
    driver.crash()
    again = [send.value for send in driver.join.unsent()]
    driver.crash()
    assert [send.value for send in driver.join.unsent()] == again
    said: dict[int, Closed] = {}
    for mark in driver.closed:
        assert said.setdefault(mark.through_ms, mark) == mark


def test_state_of_a_join_that_did_not_look_is_gone_on_with() -> None:
    rows = [OutputRow(offset=at, broker_ms=99, id_hash=at, made_at_ms=20, model="fraud") for at in range(3)]
    driver = _driver((rows, [LabelRow(offset=0, broker_ms=99, id_hash=0, labelled_at_ms=20, model="fraud")]))
    driver.read(OUTPUTS, 3)
    driver.read(LABELS, 1)
    driver.advance(40)
    checkpoint = driver.join.checkpoint()
    blocks = {}
    for key, value in checkpoint.blocks:
        if value is not None:
            header, arrays = decode(value)
            header.pop("looked_at", None)
            blocks[key] = encode(header, arrays)
    manifest = Manifest.decode(checkpoint.manifest[1])
    older = {name: n for name, n in manifest.counters.items() if name not in ("closed_sampled", "closed_misplaced")}
    value = msgspec.structs.replace(manifest, counters=older).encode()
    join = Join.restore(
        blocks, value, models=MODELS, partition=1, partitions=4, journal=Journal(2, MemoryRuns()), settings=SETTINGS
    )
    [mark] = [Closed.decode(send.value) for send in join.unsent() if send.model is None]
    assert (mark.sampled, mark.misplaced) == (0, 0)
    late = [OutputRow(offset=3, broker_ms=99, id_hash=7, made_at_ms=21, model="fraud", misplaced=True)]
    join.receive(output_batch(late, partition=1, start=3, end=4))
    join.advance(90, outputs_at_edge=True, labels_at_edge=True)
    [mark] = [Closed.decode(send.value) for send in join.checkpoint().to_send if send.model is None]
    assert (mark.sampled, mark.misplaced) == (1, 1)


def test_orphans_over_the_bound_are_dead_letters_oldest_first() -> None:
    labels = [LabelRow(offset=at, broker_ms=9, id_hash=at, labelled_at_ms=at, model="fraud") for at in range(5)]
    driver = _driver(([], labels), orphans_bound_rows=2)
    driver.read(LABELS, 5)
    assert driver.dead == 3
    assert driver.join.gauges["orphan_rows"] == 2
    assert driver.join.counters["orphans_over_bound"] == 3
    assert driver.join.conservation_error() == 0
    driver.checkpoint()
    driver.crash()
    assert driver.join.gauges["orphan_rows"] == 2


def test_a_batch_that_is_half_known_is_our_own_fault() -> None:
    rows = [OutputRow(offset=at, broker_ms=9, id_hash=at, made_at_ms=at, model="fraud") for at in range(5)]
    driver = _driver((rows, []))
    driver.read(OUTPUTS, 3)
    with pytest.raises(AssertionError, match="a batch is taken whole"):
        driver.join.receive(output_batch(rows, partition=1, start=1, end=5))


def test_the_oldest_pending_output_is_known_by_its_tick_also_after_a_restart() -> None:
    #  ticks 20      30      40 …        labels of a and b come at 32 and 95: a, then b, is no longer the oldest
    #        a,b     c                   c expires at 31 + 60
    made = (("a", 20), ("b", 24), ("c", 31))
    outputs = [
        OutputRow(offset=at, broker_ms=99, id_hash=at, made_at_ms=made_at_ms, model="fraud")
        for at, (_, made_at_ms) in enumerate(made)
    ]
    labels = [
        LabelRow(offset=at, broker_ms=99, id_hash=of, labelled_at_ms=32 + at, model="fraud")
        for at, of in enumerate((0, 1))
    ]
    driver = _driver((outputs, labels))
    assert driver.join.gauges["oldest_pending_ms"] == 0
    driver.read(OUTPUTS, 3)
    assert driver.join.gauges["oldest_pending_ms"] == 20
    driver.read(LABELS, 1)
    driver.advance(70)
    driver.checkpoint()
    driver.crash()
    assert driver.join.gauges["oldest_pending_ms"] == 20
    driver.read(LABELS, 1)
    driver.advance(90)
    assert driver.join.gauges["oldest_pending_ms"] == 30
    driver.finish(FAR_MS)
    assert driver.join.gauges["oldest_pending_ms"] == 0


def test_rows_of_the_future_are_dead_and_move_nothing() -> None:
    rows = [OutputRow(offset=at, broker_ms=100, id_hash=at, made_at_ms=130 + at, model="fraud") for at in range(2)]
    driver = _driver((rows, []))
    driver.read(OUTPUTS, 2)
    assert driver.dead == 1
    assert driver.join.gauges["watermark_outputs_ms"] == 95, "the broker's time, less the disorder"
    assert driver.join.counters["dead_output"] == 1


def test_a_label_that_is_ahead_carries_no_other_with_it() -> None:
    #  broker  0        60   61 …
    #  label        90 ^     ^ 61, 62, … count in their own ticks
    outputs = [
        OutputRow(offset=at, broker_ms=50 + at, id_hash=at, made_at_ms=50 + at, model="fraud") for at in range(6)
    ]
    labels = [LabelRow(offset=0, broker_ms=60, id_hash=99, labelled_at_ms=90, model="fraud")]
    labels += [
        LabelRow(offset=at, broker_ms=60 + at, id_hash=at, labelled_at_ms=60 + at, model="fraud") for at in range(1, 6)
    ]
    driver = _driver((outputs, labels))
    driver.read(OUTPUTS, 6)
    driver.read(LABELS, 6)
    assert driver.join.gauges["watermark_labels_ms"] == 60
    driver.advance(110)
    driver.checkpoint()
    sent = [WindowStats.decode(value) for value in driver.sent.values()]
    counted = {one.tick_start_ms: int(one.arrays["labelled_by_age"].sum()) for one in sent}
    assert {tick: count for tick, count in counted.items() if count} == {60: 5}
    driver.check()


def test_refused_rows_of_the_edge_are_in_the_balance() -> None:
    driver = _driver(([], []))
    driver.join.receive(output_batch([], partition=1, start=0, end=4, dead=4))
    driver.join.receive(label_batch([], partition=1, start=7, end=9, dead=2))
    assert driver.join.counters["output_rows"] == driver.join.counters["dead_output"] == 4
    assert driver.join.positions == {OUTPUTS: 4, LABELS: 9}
    assert driver.join.conservation_error() == 0


def test_state_of_another_partition_count_is_refused() -> None:
    driver = _driver(([OutputRow(offset=0, broker_ms=9, id_hash=1, made_at_ms=9, model="fraud")], []))
    driver.read(OUTPUTS, 1)
    checkpoint = driver.join.checkpoint()
    blocks = {key: value for key, value in checkpoint.blocks if value is not None}
    saved = {"models": MODELS, "partition": 1, "journal": Journal(2, MemoryRuns()), "settings": SETTINGS}
    with pytest.raises(MalformedRecordError, match="partition 1 of 5"):
        Join.restore(blocks, checkpoint.manifest[1], partitions=5, **saved)  # type: ignore[arg-type]
    blocks.popitem()
    with pytest.raises(MalformedRecordError, match="1 missing"):
        Join.restore(blocks, checkpoint.manifest[1], partitions=4, **saved)  # type: ignore[arg-type]


def test_a_baseline_of_another_tick_is_refused() -> None:
    driver = _driver(([], []))
    binning = baseline_zero(20, 0.5)
    with pytest.raises(MalformedRecordError, match="a tick of 10 ms"):
        driver.join.take_baseline(replace(BASELINES[0], binning=binning))


def test_a_batch_of_one_id_alone_is_taken_in_order() -> None:
    outputs = [OutputRow(offset=0, broker_ms=900, id_hash=5, made_at_ms=10, model="fraud")]
    labels = [
        LabelRow(offset=at, broker_ms=900, id_hash=5, labelled_at_ms=20, model="fraud", label=at % 3, version=at // 2)
        for at in range(60)
    ]
    driver = _driver((outputs, labels))
    driver.read(OUTPUTS, 1)
    driver.read(LABELS, 60)
    driver.check()
    assert driver.join.counters["corrected"] == 29


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 4), st.integers(0, 2), st.booleans()), max_size=40),
    st.integers(1, 40),
)
def test_labels_of_one_id_stand_as_one_by_one_however_they_are_cut(
    said: list[tuple[int, int, int, bool]], cut: int
) -> None:
    outputs = [OutputRow(offset=0, broker_ms=900, id_hash=5, made_at_ms=10, model="fraud")]
    labels = [
        LabelRow(
            offset=at,
            broker_ms=900,
            id_hash=5,
            labelled_at_ms=20 + after,
            model="fraud",
            label=label,
            version=version,
            retracted=retracted,
        )
        for at, (after, version, label, retracted) in enumerate(said)
    ]
    driver = _driver((outputs, labels))
    driver.read(OUTPUTS, 1)
    for _ in range(0, len(labels), cut):
        driver.read(LABELS, cut)
        driver.check()
    driver.finish(FAR_MS)


def _calls(versions: tuple[int, ...], labels: int, ids: int = 1) -> int:
    """Count the calls that are made while ids take this many labels in all, each of other content than the one before it."""
    outputs = [OutputRow(offset=at, broker_ms=900, id_hash=5 + at, made_at_ms=10, model="fraud") for at in range(ids)]
    driver = _driver((outputs, []))
    driver.read(OUTPUTS, ids)
    rows = [
        LabelRow(
            offset=at,
            broker_ms=900,
            id_hash=5 + at * ids // labels,
            labelled_at_ms=20,
            model="fraud",
            label=at % 3,
            version=-1 if versions[at % len(versions)] < 0 else at,
        )
        for at in range(labels)
    ]
    batch = label_batch(rows, partition=1, start=0, end=labels)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        driver.join.receive(batch)
    finally:
        sys.setprofile(None)
    assert driver.join.counters["corrected"] == labels - ids
    return calls


@pytest.mark.parametrize("versions", [(-1,), (1,), (1, -1)])
def test_many_labels_of_one_id_take_no_turn_each(versions: tuple[int, ...]) -> None:
    assert _calls(versions, 2_000) < _calls(versions, 20) + 100
    assert _calls(versions, 2_000, ids=400) < _calls((-1,), 2_000, ids=400) + 100


def test_what_is_no_longer_named_is_buried_and_nothing_else() -> None:
    driver = _driver(_long_logs(np.random.default_rng(4), 300), block_rows=8)
    written: set[bytes] = set()
    while driver.left(OUTPUTS) > 0 or driver.left(LABELS) > 0:
        driver.read(OUTPUTS, 15)
        driver.read(LABELS, 15)
        before = named = written
        checkpoint = driver.join.checkpoint()
        named = {key for run in Manifest.decode(checkpoint.manifest[1]).runs for key in run.keys(1)}
        for key, value in checkpoint.blocks:
            assert (value is None) == (key not in named)
            assert value is None or key not in before, "a key is written once"
            written = written - {key} if value is None else written | {key}
        assert named <= written
        if checkpoint.through_ms is not None:
            driver.join.sent(checkpoint.through_ms)
    driver.advance(20_000)
    driver.join.sent(driver.join.checkpoint().through_ms or 0)
    driver.join.checkpoint()
    assert len(Manifest.decode(driver.join.checkpoint().manifest[1]).runs) < 30


def test_an_output_past_its_corrections_takes_no_label_though_its_deadline_is_far() -> None:
    #  10 O---20 L--------70 correction wait over---120 L---------210 deadline
    outputs = [
        OutputRow(offset=at, broker_ms=300, id_hash=at, made_at_ms=time, model="price")
        for at, time in ((0, 10), (1, 130))
    ]
    labels = [
        LabelRow(offset=at, broker_ms=300, id_hash=number, labelled_at_ms=time, model="price")
        for at, (number, time) in enumerate([(0, 20), (9, 110), (0, 120), (0, 125)])
    ]
    driver = _driver((outputs, labels), block_rows=1)
    driver.read(OUTPUTS, 2)
    driver.read(LABELS, 2)
    assert driver.join.gauges["mark_rows"] == 1
    driver.checkpoint()
    assert driver.join.gauges["mark_rows"] == 0
    driver.read(LABELS, 1)
    driver.check()
    driver.checkpoint()
    driver.crash()
    driver.read(LABELS, 1)
    driver.check()
    assert driver.join.counters["late_label"] == 2


def test_a_correction_in_time_is_taken_however_many_checkpoints_lie_before_it() -> None:
    outputs = [
        OutputRow(offset=at, broker_ms=300, id_hash=at, made_at_ms=time, model="price")
        for at, time in ((0, 10), (1, 60))
    ]
    labels = [
        LabelRow(offset=at, broker_ms=300, id_hash=number, labelled_at_ms=time, model="price", version=at)
        for at, (number, time) in enumerate([(0, 20), (9, 60), (0, 65)])
    ]
    driver = _driver((outputs, labels), block_rows=1)
    driver.read(OUTPUTS, 2)
    driver.read(LABELS, 2)
    driver.checkpoint()
    driver.read(LABELS, 1)
    driver.check()
    assert driver.join.counters["corrected"] == 1


def test_an_output_is_not_forgotten_before_the_tick_of_its_outcome_is_closed() -> None:
    #  3 O--------------------93 deadline, 94 its wait is over, 97 checkpoint and crash, 100 its tick ends
    outputs = [OutputRow(offset=0, broker_ms=300, id_hash=1, made_at_ms=3, model="unlisted")]
    driver = _driver((outputs, []), block_rows=1, orphan_wait_ms=1)
    driver.read(OUTPUTS, 1)
    driver.advance(97 + 25)
    driver.checkpoint()
    driver.crash()
    driver.finish(FAR_MS)
    driver.check()
    driver.check_sent()
    assert driver.join.gauges["known_rows"] == 0


def test_what_a_cell_means_survives_many_checkpoints_and_a_crash() -> None:
    n = 40
    outputs = [
        OutputRow(
            offset=at, broker_ms=300, id_hash=at, made_at_ms=10 + at, model="fraud", version=str(at), prediction=7
        )
        for at in range(n)
    ]
    labels = [
        LabelRow(offset=at, broker_ms=300, id_hash=at, labelled_at_ms=12 + at, model="fraud", label=7)
        for at in range(n)
    ]
    driver = _driver((outputs, labels), block_rows=64)
    for _ in range(n):
        driver.read(OUTPUTS, 1)
        driver.checkpoint()
    manifest = Manifest.decode(driver.join.checkpoint().manifest[1])
    assert sum(run.kind == "cells" for run in manifest.runs) <= 16
    driver.crash()
    driver.read(LABELS, n)
    driver.check()
    assert {(one.delay_ms, one.wrong) for one in driver.outcomes} == {(2, False)}


def test_shorter_waits_after_a_restart_count_what_they_end() -> None:
    labels = [LabelRow(offset=0, broker_ms=300, id_hash=8, labelled_at_ms=20, model="fraud")]
    outputs = [OutputRow(offset=at, broker_ms=300, id_hash=at, made_at_ms=55 + at, model="fraud") for at in range(2)]
    driver = _driver((outputs, labels))
    driver.read(LABELS, 1)
    driver.read(OUTPUTS, 1)
    driver.checkpoint()
    driver.settings = replace(SETTINGS, orphan_wait_ms=10)
    driver.crash()
    assert driver.join.conservation_error() == 0
    driver.read(OUTPUTS, 1)
    assert driver.join.conservation_error() == 0
    assert driver.join.counters["orphan_expired"] == 1
