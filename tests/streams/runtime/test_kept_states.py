"""What lies in the topics of state outlives the code that wrote it: each sample is restored, and says what it said."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from streams.stages.blocks import BlockKey, Kind
from streams.stages.detect import STATE, _State
from streams.stages.watch_rows import DTYPES
from tests.streams.runtime.kept_states import (
    GOLDEN,
    KINDS,
    STAGES,
    Sample,
    filled,
    form_of,
    restored,
    says,
    state_of_today,
)  # fmt: skip

every_stage = pytest.mark.parametrize("stage", STAGES)


def samples(stage: str) -> list[Path]:
    """Return the samples of one stage, oldest first."""
    return sorted((GOLDEN / stage).glob("*.json"), key=lambda file: int(file.stem))


def lost(said: object, says_now: object, at: str = "") -> Iterator[str]:
    """Name what was said and is not any more; what is said beside it is new."""
    if isinstance(said, dict) and isinstance(says_now, dict):
        for name, inner in said.items():
            yield from lost(inner, says_now.get(name), f"{at}.{name}")
    elif isinstance(said, list) and isinstance(says_now, list) and len(said) == len(says_now):
        for number, (one, other) in enumerate(zip(said, says_now, strict=True)):
            yield from lost(one, other, f"{at}[{number}]")
    elif said != says_now:
        yield f"{at}: {said} is now {says_now}"


@every_stage
def test_every_state_ever_kept_is_restored_and_keeps_all_that_it_said(stage: str) -> None:
    for file in samples(stage):
        sample = Sample.decode(file.read_bytes())
        assert list(lost(sample.said, says(stage, sample))) == [], file


@every_stage
def test_the_state_as_it_is_kept_today_is_among_the_samples(stage: str) -> None:
    today = state_of_today(stage)
    forms = [form_of(stage, Sample.decode(file.read_bytes())) for file in samples(stage)]
    if os.environ.get("UPDATE_GOLDEN") == "1" and form_of(stage, today) not in forms:
        (GOLDEN / stage).mkdir(parents=True, exist_ok=True)
        with (GOLDEN / stage / f"{len(forms) + 1}.json").open("xb") as file:  # x: a sample is never rewritten
            file.write(today.encode())
        forms.append(form_of(stage, today))
    assert form_of(stage, today) in forms, f"{stage} keeps its state otherwise: UPDATE_GOLDEN=1 adds a sample"


def test_samples_of_the_join_hold_every_kind_of_block_and_leave_ticks_unsent() -> None:
    sample = Sample.decode(samples("join")[-1].read_bytes())
    assert {BlockKey.decode(one.key).kind for one in sample.changelog} == set(get_args(Kind))
    assert sample.said[1], "closed ticks that were not sent"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_samples_of_a_small_stage_end_in_an_entry_whose_rows_were_not_written(stage: str) -> None:
    sample = Sample.decode(samples(stage)[-1].read_bytes())
    found = restored(sample)
    assert found.again().records
    rows = [key.decode().partition("/")[2] for key in found.table]
    for prefix in KINDS.get(stage, {}):
        assert any(row.startswith(prefix) for row in rows), prefix


def test_samples_of_detect_are_of_evidence_that_is_not_enough_yet() -> None:
    said = Sample.decode(samples("detect")[-1].read_bytes()).said
    assert [one[1]["state"] for one in said if isinstance(one, list) and one[0] == "Finding"]


def test_samples_of_detect_hold_figures_in_each_array_and_something_of_all_but_baselines_that_were_given_up() -> None:
    held = filled(Sample.decode(samples("detect")[-1].read_bytes()))
    fields = held.pop(STATE)
    assert held == {array: [True] for array in sorted(DTYPES)}
    given_up = _State.__struct_fields__.index("given_up")
    assert [at for at, is_filled in enumerate(fields) if not is_filled] == [given_up]


def test_samples_of_triage_send_again_what_their_entry_holds() -> None:
    sample = Sample.decode(samples("triage")[-1].read_bytes())
    assert restored(sample).again().outputs


def test_samples_of_state_are_numbered_without_a_gap() -> None:
    assert {folder.name for folder in GOLDEN.iterdir()} == set(STAGES)
    for folder in GOLDEN.iterdir():
        numbers = sorted(int(file.stem) for file in folder.iterdir())
        assert numbers == list(range(1, len(numbers) + 1)), folder
