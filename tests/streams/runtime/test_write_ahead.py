"""Wherever a writer stops, and whatever the cleaner forgot, what is read is the state after a whole group."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.runtime import cursor, write_ahead
from streams.runtime.cursor import View
from streams.runtime.stage_spec import Headers, Routed
from streams.runtime.write_ahead import (
    EPOCH,
    Changes,
    Restored,
    TornEntryError,
    claim,
    epoch_headers,
    table_key,
)
from tests.simulation.logs import Log

PARTITION = 2
ROWS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.binary(min_size=1, max_size=60), max_size=3)
CURSORS = st.dictionaries(st.sampled_from(["findings", "acts"]), st.integers(0, 99), max_size=2)
OUTPUTS = st.lists(st.builds(Routed, topic=st.just("incidents"), key=st.just(b"k"), value=st.binary(max_size=9)))
GROUPS = st.lists(st.builds(Changes, rows=ROWS, cursors=CURSORS, outputs=OUTPUTS), min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead, "PART_BYTES", 50)


def written(log: Log, groups: Sequence[Changes], epoch: int) -> list[tuple[int, dict[bytes, bytes], list[Routed]]]:
    """Write groups; return from which offset on each is durable, with the state after it and its outputs."""
    state: dict[bytes, bytes] = {}
    durable: list[tuple[int, dict[bytes, bytes], list[Routed]]] = [(0, {}, [])]
    headers = epoch_headers(epoch)
    for number, changes in enumerate(groups):
        records = list(changes.records(PARTITION))
        entry = [] if changes.is_one else changes.entry(PARTITION, number)
        for key, part in entry:
            log.append(key, part, headers)
        at = log.end
        for key, value in records:
            log.append(key, value, headers)
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        if records:
            durable.append((at if entry else log.end, dict(state), changes.outputs if entry else durable[-1][2]))
    return durable


def read(log: Log, end: int) -> Restored:
    restored = Restored(PARTITION)
    for entry in log.read(0, end):
        restored.take(entry.key or b"", entry.value, entry.headers)
    return restored


@given(groups=GROUPS, chance=st.randoms(use_true_random=False))
def test_a_group_is_there_or_not(groups: list[Changes], chance: random.Random) -> None:
    log = Log()
    durable = written(log, groups, 1)
    assert read(log, log.end).again().records == {}
    end = chance.randint(0, log.end)
    _, state, outputs = [one for one in durable if one[0] <= end][-1]
    restored = read(log, end)
    assert restored.table == state
    assert restored.again().outputs == outputs
    cleaned = Log()
    for entry in log.read(0, end):
        cleaned.append(entry.key, entry.value, entry.headers)
    cleaned.compact(chance)
    assert read(cleaned, end).table == state
    for key, value in restored.again().records.items():
        assert state.get(key) == value


@given(groups=GROUPS, chance=st.randoms(use_true_random=False))
def test_what_was_made_good_needs_no_entry_any_more(groups: list[Changes], chance: random.Random) -> None:
    log = Log()
    written(log, groups, 1)
    end = chance.randint(0, log.end)
    restored, after = read(log, end), Log()
    for entry in log.read(0, end):
        after.append(entry.key, entry.value, entry.headers)
    for key, value in restored.again().records.items():
        after.append(key, value, epoch_headers(2))
    rows = [entry for entry in after if b"/!" not in (entry.key or b"")]
    plain = Restored(PARTITION)
    for entry in rows:
        plain.take(entry.key or b"", entry.value, entry.headers)
    assert plain.table == restored.table


@given(first=GROUPS, stale=GROUPS)
def test_what_a_stopped_process_writes_behind_a_later_claim_counts_for_nothing(
    first: list[Changes], stale: list[Changes]
) -> None:
    log = Log()
    durable = written(log, first, 1)
    log.append(claim(PARTITION), b"", epoch_headers(2))
    before = log.end
    written(log, stale, 1)
    restored = read(log, log.end)
    assert restored.epoch == 2
    assert restored.table == durable[-1][1]
    touched = {one.key for one in log.read(before, log.end) if b"/!" not in (one.key or b"")}
    assert touched <= restored.again().records.keys()


def test_an_entry_that_cannot_be_read_is_a_foreign_hand() -> None:
    headers: Headers = ((EPOCH, b"1"),)
    changes: Any = Changes({"a": b"1", "b": b"2"})
    restored = Restored(PARTITION)
    parts = changes.entry(PARTITION, 0)
    assert len(parts) == 1
    with pytest.raises(TornEntryError, match="2/!"):
        restored.take(table_key(PARTITION, "!0"), parts[0][1][:-1] + b"\xc1", headers)


SIZES = st.integers(1, 900)


NAMES = ("a", "a\0", "a\0001", "a\0_1", "\0")
"""Names hold texts from outside, of any characters."""


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.none() | SIZES, min_size=1), min_size=1, max_size=8))
def test_rows_of_any_size_come_back_from_records_that_a_broker_takes(steps: list[dict[str, int | None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursor, "PART_BYTES", 200)
        table: dict[bytes, bytes] = {}
        view, expected = View(PARTITION, table), dict[str, bytes]()
        for number, step in enumerate(steps):
            for name, size in step.items():
                if size is not None:
                    view.rows[name] = expected[name] = bytes([number + 1]) * size
                elif name in expected:
                    del view.rows[name], expected[name]
            view.settle(changes := Changes())
            for key, row in changes.records(PARTITION):
                assert row is None or len(row) <= 200
                table.pop(key, None) if row is None else table.update({key: row})
            assert dict(view.rows) == dict(View(PARTITION, table).rows) == expected
