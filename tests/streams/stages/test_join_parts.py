"""The parts of the join that a small log does not reach: bounds, wrap-around, purging, what a row is kept as."""

import gc
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.binning import baseline_zero, confidence_of
from detectors.statistics import OutputRows
from schemas.arrays import Counts
from schemas.baseline import Baseline
from schemas.binning import Binning
from schemas.fields import MalformedRecordError
from schemas.lane import OTHER
from schemas.model import Model
from schemas.window_stats import WindowStats
from streams.stages import cells as bounds
from streams.stages import counting
from streams.stages.blocks import BlockKey, BlockWriter, MemoryRuns, Run, decode, encode, parts, whole
from streams.stages.cells import CellBook, Lanes
from streams.stages.counting import Counting
from streams.stages.distinct import distinct, numbered
from streams.stages.hash_index import HashIndex
from streams.stages.known import EXPIRED, LABELLED, PENDING, SETTLED, KnownOutputs, KnownRows
from streams.stages.row_log import RowLog

MODEL = Model(
    name="m",
    kind="classification",
    threshold=0.5,
    sla_accuracy=None,
    segments=("a", "b"),
    features={},
    required=(),
    label_wait_ms=100,
    tier="standard",
)


# -- index


@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12), st.sets(st.integers(0, 143)))
def test_the_index_finds_every_row_of_a_hash_and_no_other(batches: list[list[int]], dead: set[int]) -> None:
    index, expected, place = HashIndex(), defaultdict(set), 0
    for batch in batches:
        hashes = np.sort(np.array(batch, np.uint64) * np.uint64(0x0600000000000001))
        places = np.arange(place, place + len(batch), dtype=np.uint32)
        index.add(hashes, places)
        for one, at in zip(hashes.tolist(), places.tolist(), strict=True):
            expected[one].add(at)
        place += len(batch)
    index.keep(lambda places: ~np.isin(places, list(dead)))
    needles = np.arange(42, dtype=np.uint64) * np.uint64(0x0600000000000001)
    needle, places = index.find(needles)
    found = defaultdict(set)
    for at, one in zip(needle.tolist(), places.tolist(), strict=True):
        found[int(needles[at])].add(one)
    assert found == {one: at - dead for one, at in expected.items() if at - dead}
    assert len(places) == sum(map(len, found.values()))


def test_the_index_holds_fifteen_bytes_a_row() -> None:
    index = HashIndex()
    rng = np.random.default_rng(5)
    for start in range(0, 100_000, 1_000):
        hashes = np.sort(rng.integers(0, 2**64, 1_000, dtype=np.uint64))
        index.add(hashes, np.arange(start, start + 1_000, dtype=np.uint32))
    assert index.nbytes < 15.1 * len(index)


@given(st.lists(st.integers(-5, 5) | st.integers(0, 2**40), max_size=20))
def test_distinct_is_unique(values: list[int]) -> None:
    array = np.array(values, np.int64)
    unique, inverse = np.unique(array, return_inverse=True)
    assert distinct(array).tolist() == unique.tolist()
    ours = numbered(array)
    assert (ours[0].tolist(), ours[1].tolist()) == (unique.tolist(), inverse.tolist())


# -- what a row is kept as

FLOATS = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, float("nan")])


@st.composite
def known_rows(draw: st.DrawFn) -> KnownRows:
    n = draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=n, max_size=n))

    made = np.array(column(st.integers(0, 200_000)), np.int64)
    place = np.maximum.accumulate(np.maximum(made - 50, np.array(column(st.integers(-50, 200_000)))))
    score = np.array(draw(st.lists(FLOATS, min_size=n, max_size=n)), np.float32)
    confidence = np.array(draw(st.lists(FLOATS, min_size=n, max_size=n)), np.float32)
    if draw(st.booleans()):
        confidence = confidence_of(score)
    return KnownRows(
        np.array(column(st.integers(0, 2**64 - 1)), np.uint64),
        made + 100,
        made,
        place,
        np.array(column(st.integers(0, 2**16 - 1)), np.uint16),
        np.array(column(st.integers(0, 3)), np.uint16),
        np.array(column(st.integers(0, 2**32 - 1)), np.uint32),
        score,
        confidence,
    )


def _known(block_rows: int, first_number: int = 0) -> KnownOutputs:
    return KnownOutputs(
        bucket_ms=1_000,
        block_rows=block_rows,
        ahead_ms=50,
        label_wait_of=lambda cells: np.full(len(cells), 100),
        store=MemoryRuns(),
        first_number=first_number,
    )


def _columns(rows: KnownRows) -> dict[str, list[object]]:
    score, confidence = np.nan_to_num(rows.score, nan=-1) + 0, np.nan_to_num(rows.confidence, nan=-1) + 0
    exact = ("id_hash", "due_ms", "made_at_ms", "place_ms", "content", "cell", "prediction")
    columns = {name: getattr(rows, name).tolist() for name in exact}
    return columns | {"score": score.tolist(), "confidence": confidence.tolist()}


@given(st.lists(known_rows(), min_size=1, max_size=4), st.sampled_from([1, 3, 64]))
def test_a_row_comes_back_as_it_was_before_and_after_a_restart(batches: list[KnownRows], block_rows: int) -> None:
    known = _known(block_rows)
    writer = BlockWriter(partition=0, epoch=1)
    changelog: dict[bytes, bytes] = {}
    places = []
    for rows in batches:
        places.append(known.add(rows, np.argsort(rows.id_hash)))
        known.write(writer)
        changelog |= {key: value for key, value in writer.flush()[0] if value is not None}
    runs = writer.flush()[1]
    again = _known(block_rows)
    blocks = [(run, *decode(whole(run, 0, changelog))) for run in runs]
    cells = [cell for of in again.restore(blocks, []) for cell in of.tolist()]
    assert len(cells) == sum(map(len, batches))
    for rows, at in zip(batches, places, strict=True):
        assert _columns(known.rows_at(at)) == _columns(rows)
        numbers, inside = known.name_of(at)
        held, there = again.places_named(numbers, inside)
        assert held.all()
        assert _columns(again.rows_at(there)) == _columns(rows)
        needle, found = again.find(np.sort(rows.id_hash))
        assert set(there.tolist()) <= set(found.tolist())
        assert set(needle.tolist()) == set(range(len(rows)))


def test_slots_are_used_again_and_old_rows_are_not_found() -> None:
    known = _known(4)
    writer = BlockWriter(partition=0, epoch=1)
    for turn in range(40):
        made = np.full(4, turn * 1_000, np.int64)
        ids = np.arange(4, dtype=np.uint64) + np.uint64(7)
        zero = np.zeros(4)
        rows = KnownRows(
            ids,
            made + 100,
            made,
            made - 50,
            zero.astype(np.uint16),
            zero.astype(np.uint16),
            zero.astype(np.uint32),
            zero.astype(np.float32),
            np.ones(4, np.float32),
        )
        places = known.add(rows, np.arange(4))
        assert sorted(known.find(ids)[1].tolist()) == sorted(places.tolist())
        assert (known.state[places] == PENDING).all()
        known.label(places[:1], np.array([9], np.uint32), distinct_places=True)
        assert known.expire(turn * 1_000 + 100).tolist() == []
        assert known.expire(turn * 1_000 + 101).tolist() == places[1:].tolist()
        assert known.state[places].tolist() == [LABELLED, EXPIRED, EXPIRED, EXPIRED]
        segment, row = known.name_of(places[:2])
        known.settle(segment, row, np.array([9, 9], np.uint32))
        assert known.state[places].tolist() == [SETTLED, EXPIRED, EXPIRED, EXPIRED]
        known.forget(due_before_ms=turn * 1_000 + 101, writer=writer, hold=lambda *_: None)
        assert known.rows == 0
        assert known.find(ids)[1].tolist() == []
    assert len(known.state) <= 4 * 8


def test_rows_of_all_past_times_share_a_segment() -> None:
    known = _known(64)
    made = np.arange(0, 1_000_000, 20_000)
    n = len(made)
    zero = np.zeros(n)
    rows = KnownRows(
        np.arange(n).astype(np.uint64),
        made + 100,
        made,
        np.full(n, 1_000_000),
        zero.astype(np.uint16),
        zero.astype(np.uint16),
        zero.astype(np.uint32),
        zero.astype(np.float32),
        np.ones(n, np.float32),
    )
    places = known.add(rows, np.arange(n))
    assert len(set((places // 64).tolist())) == 1
    assert _columns(known.rows_at(places)) == _columns(rows)


# -- logs and blocks


def test_numbers_of_a_log_go_on_past_32_bits() -> None:
    start = (1 << 32) - 4
    log = RowLog(np.dtype([("a", "<i8")]), kind="marks", block_rows=4, start=start)
    numbers = log.append(np.array([(at,) for at in range(11)], log.dtype))
    assert numbers[3:6].tolist() == [(1 << 32) - 1, 0, 1]
    assert log.read(numbers[[9, 2, 5]])["a"].tolist() == [9, 2, 5]
    log.drop_front(BlockWriter(partition=0, epoch=0))
    assert log.read(numbers[[9, 5]])["a"].tolist() == [9, 5]


def test_a_log_goes_on_after_restarts_block_by_block() -> None:
    dtype = np.dtype([("a", "<i8")])
    changelog: dict[bytes, bytes] = {}
    runs: list[Run] = []
    written: list[int] = []
    for turn, more in enumerate((8, 2, 1, 3, 1, 20, 2, 1)):
        writer = BlockWriter(partition=0, epoch=turn, runs=runs)
        log = RowLog(dtype, kind="marks", block_rows=16)
        log.restore([(run, *decode(whole(run, 0, changelog))) for run in runs])
        rows = np.arange(len(written), len(written) + more)
        log.append(rows.astype(dtype))
        written += rows.tolist()
        log.write(writer)
        records, runs = writer.flush()
        changelog |= {key: value for key, value in records if value is not None}
        assert [at for _, block in log.blocks() for at in block["a"].tolist()] == written


def test_a_torn_block_is_refused() -> None:
    value = encode({"kind": "x"}, {"row": np.arange(5)})
    with pytest.raises(MalformedRecordError, match="CRC-32"):
        decode(value[:-1])
    with pytest.raises(MalformedRecordError, match="partition/kind/epoch/run/part"):
        BlockKey.decode(b"1/rows/2")


def test_a_large_block_is_cut_into_records_below_the_limit() -> None:
    value = encode({}, {"row": np.arange(250_000)})
    pieces = parts(value)
    assert max(map(len, pieces)) <= 900_000
    run = Run("rows", 1, 2, len(pieces))
    assert whole(run, 0, dict(zip(run.keys(0), pieces, strict=True))) == value


# -- cells and lanes


def test_past_the_bound_new_values_count_in_other_and_every_row_has_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CELLS", 8)
    monkeypatch.setattr(bounds, "CELLS_PER_MODEL", 3)
    book = CellBook({"m": MODEL}, default_label_wait_ms=9)
    cells = [book.number("m", str(version), {"a": "1"}) for version in range(6)]
    assert book.cell(cells[2]).version == "2"
    assert {cells[3], cells[4], cells[5]} == {cells[3]}
    assert (book.cell(cells[3]).version, book.cell(cells[3]).values) == (OTHER, (OTHER, OTHER))
    assert book.cell(book.number("m", "1" * 600, {})).version == OTHER
    strangers = [book.number(f"x{at}", "", {}) for at in range(20)]
    assert max(strangers) < 8
    assert book.cell(strangers[-1]).model == OTHER


def test_cells_that_no_row_is_in_are_free_again() -> None:
    book = CellBook({}, default_label_wait_ms=9)
    first, second = book.number("m", "1", {}), book.number("m", "2", {})
    book.hold(np.array([second, second], np.uint16), 1)
    book.forget_unused()
    assert len(book) == 1
    assert book.number("n", "1", {}) == first
    assert book.cell(second).version == "2"
    again = CellBook({}, default_label_wait_ms=9)
    again.take_entries(book.all_entries())
    assert [again.cell(at) for at in (first, second)] == [book.cell(at) for at in (first, second)]
    holed = CellBook({}, default_label_wait_ms=9)
    holed.take_entries(book.entries([second]))
    assert {holed.number("n", str(at), {}) for at in range(2)} == {0, 2}


def _binning(**lists: object) -> Binning:
    zero = baseline_zero(10, 0.5)
    return Binning(**{name: getattr(zero, name) for name in zero.__struct_fields__} | lists)


def _baseline(binning: Binning) -> Baseline:
    return Baseline(
        model="m",
        version=1,
        valid_from_ms=0,
        binning=binning,
        reference_ms=(0, 1),
        armed={},
        tolerance={},
        decided_at_ms=0,
        lanes=(),
        arrays={},
    )


def test_lanes_past_the_bound_are_folded_into_the_other_of_their_kind() -> None:
    binning = _binning(versions=["1", "2"], segments={"a": ["x", "y"]})
    lanes = Lanes(binning, ("a", "b"), max_lanes=4)
    assert lanes.names == (
        "*",
        "version:1",
        "version:2",
        "segment:a=x",
        "version:(other)",
        "segment:a=(other)",
        "version:(other)|segment:a=(other)",
    )
    known = lanes.folded("1", ("x", "ignored"))
    beyond = lanes.folded("2", ("y", "ignored"))
    assert [lanes.names[at] for at in lanes.members[known]] == ["*", "version:1", "segment:a=x", lanes.names[6]]
    assert [lanes.names[at] for at in lanes.members[beyond]] == ["*", "version:2", "segment:a=(other)", lanes.names[6]]


def test_cells_past_those_counted_apart_give_the_same_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> dict[str, Counts]:
        book = CellBook({"m": MODEL}, default_label_wait_ms=9)
        tally = Counting(
            book=book,
            models={"m": MODEL},
            tick_ms=10,
            max_lanes=500,
            needs=["outputs", "outputs_by_score"],
            partition=0,
            partitions=1,
        )
        tally.take_baseline(_baseline(_binning(versions=["0", "1"], segments={"a": ["0", "1", "2"]})))
        writer = BlockWriter(partition=0, epoch=1)
        changelog: dict[bytes, bytes] = {}
        cells = np.array([book.number("m", str(at % 3), {"a": str(at % 4)}) for at in range(50)])
        score = np.linspace(0, 1, 50, dtype=np.float32)

        def rows_under(_: Binning, at: np.ndarray) -> OutputRows:
            return OutputRows(
                tick_ms=np.zeros(len(at), np.int64),
                score=score[at],
                confidence=score[at],
                feature_slots=np.zeros((len(at), 0), np.int16),
            )

        ticks = np.zeros(50, np.int64)
        for half in (np.arange(25), np.arange(25, 50)):

            def half_under(binning: Binning, at: np.ndarray, half: np.ndarray = half) -> OutputRows:
                return rows_under(binning, half[at])

            tally.count("outputs", "m", cells[half], ticks[half], half_under)
            tally.write(writer)
            records, runs = writer.flush()
            changelog |= {key: value for key, value in records if value is not None}
            again = Counting(
                book=book,
                models={"m": MODEL},
                tick_ms=10,
                max_lanes=500,
                needs=["outputs", "outputs_by_score"],
                partition=0,
                partitions=1,
            )
            again.restore([(run, *decode(whole(run, 0, changelog))) for run in runs], [])
            tally = again
        tally.close(10)
        stats = WindowStats.decode(tally.unsent(10)[0].value)
        return {
            f"{name} {lane}": array
            for name in stats.arrays
            for lane, array in zip(stats.lanes, stats.arrays[name], strict=True)
        }

    apart = counted()
    assert apart["outputs *"].tolist() == [50]
    assert apart["outputs version:(other)"].tolist() == [16]
    monkeypatch.setattr(counting, "DENSE_CELLS", 3)
    folded = counted()
    assert {name: array.tolist() for name, array in folded.items()} == {
        name: array.tolist() for name, array in apart.items()
    }


def _tally(book: CellBook) -> Counting:
    return Counting(book=book, models={}, tick_ms=10, max_lanes=500, needs=["outputs"], partition=0, partitions=1)


def _count_a_row_of(tally: Counting, book: CellBook, model: str, tick: int) -> int:
    """Count an output of a model, and give its cell."""
    cell = book.number(model, "", {})
    tally.count("outputs", model, np.array([cell]), np.array([tick]), lambda _, __: None)
    return cell


def test_models_named_once_take_no_room_when_they_are_gone() -> None:
    book = CellBook({}, default_label_wait_ms=9)
    tally, writer, held = _tally(book), BlockWriter(partition=0, epoch=1), []
    tracemalloc.start()
    for tick in range(0, 60, 10):
        cells = np.array([_count_a_row_of(tally, book, f"m{tick}-{at}", tick) for at in range(400)], np.uint16)
        book.hold(cells, 1)
        tally.close(tick + 10)
        tally.write(writer)
        writer.flush()
        tally.sent(tick + 10, writer)
        book.hold(cells, -1)
        book.forget_unused()
        book.added.clear()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(book) == 0
    assert held[-1] < held[1] + 50_000, held


def test_what_a_model_takes_does_not_grow_with_the_number_of_the_others() -> None:
    def room(others: int) -> int:
        book = CellBook({}, default_label_wait_ms=9)
        for at in range(others):
            book.number(f"other{at}", "", {})
        tally = _tally(book)
        tracemalloc.start()
        for at in range(10):
            _count_a_row_of(tally, book, f"m{at}", 0)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return taken

    assert room(20_000) < 2 * room(10)


def test_a_book_that_is_restored_from_its_blocks_is_the_one_that_wrote_them() -> None:
    rng = np.random.default_rng(5)
    book = CellBook({}, default_label_wait_ms=9)
    blocks = []
    held: list[int] = []
    for _ in range(400):
        for _ in range(int(rng.integers(1, 4))):
            held.append(book.number(f"m{rng.integers(12)}", f"{rng.integers(3)}", {}))
            book.hold(np.array(held[-1:]), 1)
        gone = [held.pop(int(rng.integers(len(held)))) for _ in range(min(len(held), int(rng.integers(4))))]
        if gone:
            book.hold(np.array(gone), -1)
        blocks.append(book.entries(book.added))
        book.added.clear()
        if rng.random() < 0.2:
            book.forget_unused()
        again = CellBook({}, default_label_wait_ms=9)
        for block in blocks:
            again.take_entries(block)
        if held:
            again.hold(np.array(held), 1)
        alive = sorted(set(held))
        assert [again.cell(number) for number in alive] == [book.cell(number) for number in alive]
        again.forget_unused()
        assert len(again) == len(alive), "what nothing is in takes no room"
        assert {model: again.cells_of(model) for model in again.model_names} == dict(
            Counter(book.cell(number).model for number in alive)
        )
        assert len(again.model_names) == len({book.cell(number).model for number in alive})


def test_rows_go_on_counting_when_cells_and_models_have_other_numbers() -> None:
    book = CellBook({"m": MODEL}, default_label_wait_ms=9)
    tally = _tally(book)
    tally.take_baseline(_baseline(_binning(versions=["1", "2"])))
    cells = {}
    for version in ("gone", "1", "2"):
        cells[version] = np.array([book.number("m", version, {})])
    of_rows = np.concatenate([cells[one] for one in ("gone", "1", "2")])
    tally.count("outputs", "m", of_rows, np.zeros(3, np.int64), lambda _, __: None)
    book.hold(np.concatenate([cells["1"], cells["2"]]), 1)
    book.forget_unused()
    of_rows = np.concatenate([cells["2"], [book.number("m", "new", {})]])
    tally.count("outputs", "m", of_rows, np.zeros(2, np.int64), lambda _, __: None)
    tally.close(10)
    (send,) = tally.unsent(10)
    stats = WindowStats.decode(send.value)
    outputs = dict(zip(stats.lanes, stats.arrays["outputs"][:, 0].tolist(), strict=True))
    assert outputs == {"*": 5, "version:1": 1, "version:2": 2, "version:(other)": 2}
