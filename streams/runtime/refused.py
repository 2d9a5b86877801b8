"""What is an operator told of rows that the join refused? One line for each topic and partition, with the first's reason."""

from collections.abc import Mapping, Sequence

from schemas.dead_letter import DeadLetter

MOST_LINES = 20
"""Lines for what was refused between two checkpoints; the last one then counts what has none of its own."""


def refused_lines(letters: Sequence[DeadLetter]) -> list[Mapping[str, object]]:
    """Return the fields of each line, those with the most rows first.

    `offset` and `error` are the first row's; where others were refused for other reasons, the line says so. What came
    makes no other reason.

    >>> def letter(offset, topic, field):
    ...     return DeadLetter(
    ...         topic=topic, partition=3, offset=offset, record="label", field=field, expected="a text", got="null"
    ...     )
    >>> lines = refused_lines([letter(7, "labels", "label"), letter(8, "model-outputs", "label"), letter(9, "labels", "model")])
    >>> lines[0]
    {'rows': 2, 'topic': 'labels', 'partition': 3, 'offset': 7, 'error': 'the first of 2 kinds: label.label: expected a text, got null'}
    >>> lines[1]
    {'rows': 1, 'topic': 'model-outputs', 'partition': 3, 'offset': 8, 'error': 'label.label: expected a text, got null'}
    """
    places: dict[tuple[str, int], list[DeadLetter]] = {}
    for letter in letters:
        places.setdefault((letter.topic, letter.partition), []).append(letter)
    ranked = sorted(places.values(), key=len, reverse=True)
    named = ranked if len(ranked) <= MOST_LINES else ranked[: MOST_LINES - 1]
    lines: list[Mapping[str, object]] = [_line(of_place) for of_place in named]
    if rest := ranked[len(named) :]:
        lines.append({"rows": sum(map(len, rest)), "error": f"of {len(rest)} more partitions: see the dead letters"})
    return lines


def _line(letters: Sequence[DeadLetter]) -> Mapping[str, object]:
    first, kinds = letters[0], len({letter.kind for letter in letters})
    return {
        "rows": len(letters),
        "topic": first.topic,
        "partition": first.partition,
        "offset": first.offset,
        "error": first.complaint if kinds == 1 else f"the first of {kinds} kinds: {first.complaint}",
    }
