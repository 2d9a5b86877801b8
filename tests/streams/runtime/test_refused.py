"""Refused rows: each topic and partition by itself, and never more lines than are read."""

from schemas.dead_letter import DeadLetter
from streams.runtime.refused import MOST_LINES, refused_lines


def letter(topic: str, partition: int, offset: int, field: str = "label", got: str = "null") -> DeadLetter:
    return DeadLetter(
        topic=topic, partition=partition, offset=offset, record="label", field=field, expected="a class", got=got
    )


def test_rows_of_different_places_are_never_counted_as_of_one() -> None:
    lines = refused_lines(
        [letter("labels", 3, 7), letter("model-outputs", 3, 5), letter("labels", 0, 1), letter("labels", 3, 8)]
    )
    assert [(line["topic"], line["partition"], line["offset"], line["rows"]) for line in lines] == [
        ("labels", 3, 7, 2),
        ("model-outputs", 3, 5, 1),
        ("labels", 0, 1, 1),
    ]


def test_one_reason_does_not_stand_for_others() -> None:
    [line] = refused_lines([letter("labels", 3, at, field) for at, field in enumerate(("label", "model", "label"))])
    assert line["error"] == "the first of 2 kinds: label.label: expected a class, got null"


def test_other_values_are_no_other_reason() -> None:
    [line] = refused_lines([letter("labels", 3, at, got=f"{at} ms after it") for at in range(3)])
    assert (line["rows"], line["error"]) == (3, "label.label: expected a class, got 0 ms after it")


def test_many_partitions_do_not_make_many_lines_and_no_row_is_left_out() -> None:
    lines = refused_lines([letter("labels", partition, 0) for partition in range(100) for _ in range(3)])
    assert len(lines) == MOST_LINES
    assert sum(int(str(line["rows"])) for line in lines) == 300
    assert lines[-1]["error"] == f"of {100 - MOST_LINES + 1} more partitions: see the dead letters"


def test_where_nothing_was_refused_nothing_is_said() -> None:
    assert refused_lines([]) == []
