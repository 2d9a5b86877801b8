"""Dead letters from a terminal: counted by what is wrong, and shown without what may be personal."""

import json
from collections.abc import Callable

import pytest

from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from streams.runtime.terminal import Exit

Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def written(put: Put) -> None:
    for offset in range(3):
        error = MalformedRecordError("output", "score", "float <= 1.0", "1.5")
        letter = DeadLetter.of(
            error, topic="model-outputs", partition=1, offset=offset, key=b"p", value=b'{"who":"Ann"}'
        )
        put("dead-letters", None, letter.encode(), 1)
    error = MalformedRecordError("label", "", "a JSON object", "no value")
    letter = DeadLetter.of(error, topic="labels", partition=0, offset=9, key=None, value=None, row=4)
    put("dead-letters", None, letter.encode(), 0)


def test_they_are_counted_by_what_is_wrong_the_most_frequent_first(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("dead-letters", "list", "--json")
    assert status == Exit.DONE
    assert [(row["count"], row["topic"], row["field"]) for row in map(json.loads, out.splitlines())] == [
        (3, "model-outputs", "score"),
        (1, "labels", ""),
    ]


def test_each_is_shown_with_its_place_and_reason(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("dead-letters", "list", "--each", "--topic", "labels")
    assert out == "labels[0]@9 row 4  label: expected a JSON object, got no value\n"


def test_a_topic_that_nobody_reads_is_usage_and_the_others_are_named(tocsin: Tocsin) -> None:
    status, out, err = tocsin("dead-letters", "list", "--topic", "nosuch")
    assert (status, out) == (Exit.USAGE, "")
    assert "nosuch: no topic of that name is read; there are " in err
    assert "model-outputs" in err


def test_nothing_of_that_kind_is_no_fault(tocsin: Tocsin) -> None:
    status, out, err = tocsin("dead-letters", "list", "--topic", "findings")
    assert (status, out, err) == (Exit.DONE, "", "nothing of that was refused\n")


@pytest.mark.parametrize("last", ["0", "-1", "x"])
def test_a_count_that_cannot_be_meant_is_usage_and_says_what_is_expected(
    tocsin: Tocsin, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tocsin("dead-letters", "list", "--last", last)
    assert ended.value.code == Exit.USAGE
    assert "a whole number above 0" in capsys.readouterr().err


def test_bytes_are_shown_only_when_asked_for(tocsin: Tocsin) -> None:
    for more in ((), ("--json",)):
        assert "Ann" not in tocsin("dead-letters", "list", "--each", *more)[1]
    assert "Ann" in tocsin("dead-letters", "list", "--each", "--bytes")[1]


def test_only_the_last_of_each_partition_are_looked_at(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("dead-letters", "list", "--json", "--last", "1")
    assert sorted(json.loads(line)["count"] for line in out.splitlines()) == [1, 1]


def test_what_is_no_dead_letter_is_named_and_passed_over(tocsin: Tocsin, put: Put) -> None:
    put("dead-letters", None, b"{", 3)
    status, _, err = tocsin("dead-letters", "list")
    assert (status, "dead-letters[3]@0" in err) == (Exit.DONE, True)
