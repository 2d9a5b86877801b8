"""Of a state in rows only what changed is written, and what is read back is what was put."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.stages.stage import Overlay
from streams.stages.state_rows import BLOCK_BYTES, StateRows, TornStateError, quoted

NAMES = st.sampled_from(["a", "a/b", "a/b/c", "ab"])
LONG = b"x" * BLOCK_BYTES + b"y" * BLOCK_BYTES


@given(st.lists(st.lists(st.tuples(NAMES, st.one_of(st.none(), st.binary(min_size=1, max_size=3))), max_size=5)))
def test_what_is_read_is_what_was_put(generations: list[list[tuple[str, bytes | None]]]) -> None:
    rows: dict[str, bytes] = {}
    wanted: dict[str, bytes] = {}
    for generation in generations:
        state = StateRows(rows)
        assert state.read() == wanted
        for name, value in generation:
            if value is None:
                state.drop(name)
                wanted = {one: kept for one, kept in wanted.items() if one != name and not one.startswith(f"{name}/")}
            else:
                state.put(name, value)
                wanted[name] = value
        state.seal()
    assert StateRows(rows).read() == wanted


def test_blocks_that_did_not_change_are_not_written() -> None:
    rows: dict[str, bytes] = {}
    state = StateRows(rows)
    state.put("a", LONG)
    state.seal()
    assert set(rows) == {"a/0", "a/1", "snapshot"}
    overlay = Overlay(rows)
    state = StateRows(overlay)
    state.read()
    state.put("a", LONG[:-1] + b"!")
    state.seal()
    assert set(overlay.changes()) == {"a/1", "snapshot"}
    state.put("a", b"short")
    state.seal()
    assert StateRows(overlay).read() == {"a": b"short"}


def test_a_block_in_the_place_of_another_is_noticed() -> None:
    rows: dict[str, bytes] = {}
    state = StateRows(rows)
    state.put("a", LONG)
    state.seal()
    with pytest.raises(TornStateError):
        StateRows({**rows, "a/0": rows["a/1"], "a/1": rows["a/0"]}).read()
    with pytest.raises(TornStateError):
        StateRows({key: row for key, row in rows.items() if key != "a/1"}).read()
    with pytest.raises(TornStateError):
        StateRows({**rows, "b/0": b"foreign"}).read()


def test_no_name_is_taken_for_a_part_of_another() -> None:
    assert len({quoted(name) for name in ("a/b", "a%2Fb", "a", "a%b")}) == 4
    assert not any("/" in quoted(name) for name in ("a/b", "//"))
