"""Outputs and labels, as producers send them: what is taken, and what is said of the rest."""

import pytest
from msgspec import UNSET

from schemas.closed import Closed
from schemas.fields import MalformedRecordError, class_name
from schemas.label import Label
from schemas.output import Output

LEAST_OUTPUT = b'{"prediction_id":"p1","model":"m","made_at_ms":7,"prediction":1%s}'
LEAST_LABEL = b'{"prediction_id":"p1","model":"m","labelled_at_ms":9,"label":0%s}'


def test_absent_is_not_null() -> None:
    assert Output.decode(LEAST_OUTPUT % b"").score is UNSET
    with pytest.raises(MalformedRecordError, match=r"output\.score: expected a number, got null"):
        Output.decode(LEAST_OUTPUT % b',"score":null')


def test_a_feature_may_be_a_number_a_name_or_explicitly_nothing() -> None:
    features = Output.decode(LEAST_OUTPUT % b',"features":{"a":1,"b":1.5,"c":"x","d":null}').features
    assert features == {"a": 1, "b": 1.5, "c": "x", "d": None}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (b',"score":1.5', "output.score: expected a number of at most 1.0, got 1.5"),
        (b',"score":-0.1', "output.score: expected a number of at least 0.0, got -0.1"),
        (b',"score":"0.5"', "output.score: expected a number, got a text of 3 characters"),
        (b',"probabilities":{"x":2}', "output.probabilities: expected a number of at most 1.0, got an object of 1"),
        (b',"latency_ms":-1', "output.latency_ms: expected a number of at least 0.0, got -1"),
        (b',"segments":{"s":7}', "output.segments: expected a text, got an object of 1"),
        (b',"segments":[]', "output.segments: expected an object, got a list of 0"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected_and_what_came(more: bytes, said: str) -> None:
    with pytest.raises(MalformedRecordError) as caught:
        Output.decode(LEAST_OUTPUT % more)
    assert str(caught.value) == said


@pytest.mark.parametrize("field", ["prediction_id", "model", "made_at_ms", "prediction"])
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    wire = LEAST_OUTPUT % b""
    with pytest.raises(
        MalformedRecordError, match=rf"output\.{field}: expected a value \(the field is required\), got nothing"
    ):
        Output.decode(wire.replace(f'"{field}":'.encode(), b'"other":'))


def test_a_time_in_seconds_or_before_1970_or_beyond_9999_is_told_apart() -> None:
    assert Output.decode(LEAST_OUTPUT.replace(b":7,", b":1764064800,") % b"").made_at_ms == 1_764_064_800
    for wrong in (b"-1", b"253402300800000", b"7.5"):
        with pytest.raises(MalformedRecordError, match=r"output\.made_at_ms"):
            Output.decode(LEAST_OUTPUT.replace(b":7,", b":" + wrong + b",") % b"")


def test_text_of_a_model_is_never_quoted_in_an_error() -> None:
    with pytest.raises(MalformedRecordError) as caught:
        Output.decode(LEAST_OUTPUT % b',"score":"Ann Example, 1 Main Street"')
    assert "Ann" not in str(caught.value)


@pytest.mark.parametrize("value", [b"9223372036854775808", b"1" + b"0" * 400, b"1e999"])
def test_a_number_that_no_array_could_hold_is_refused_at_the_edge(value: bytes) -> None:
    for record, least in ((Output, LEAST_OUTPUT.replace(b":1%s", b":" + value + b"%s")),
                          (Label, LEAST_LABEL.replace(b":0%s", b":" + value + b"%s"))):  # fmt: skip
        with pytest.raises(MalformedRecordError):
            record.decode(least % b"")


def test_a_class_has_one_name_whether_it_came_as_text_or_number() -> None:
    assert {class_name(value) for value in ("1", 1, 1.0)} == {"1"}
    assert class_name(2**63 - 1) == "9223372036854775807"
    assert class_name(0.5) == "0.5"


def test_a_label_says_by_itself_only_what_was_true_and_when() -> None:
    label = Label.decode(LEAST_LABEL % b"")
    assert (label.version, label.made_at_ms, label.source, label.retracted) == (UNSET, UNSET, "system", False)


def test_a_label_version_is_not_negative() -> None:
    with pytest.raises(MalformedRecordError, match=r"label\.version"):
        Label.decode(LEAST_LABEL % b',"version":-1')


def test_a_name_that_is_not_allowed_is_never_quoted() -> None:
    with pytest.raises(MalformedRecordError) as caught:
        Label.decode(LEAST_LABEL % b',"source":"Ann Example"')
    assert "Ann" not in str(caught.value)
    with pytest.raises(MalformedRecordError) as caught:
        Closed.decode(b'{"record":"Ann Example"}')
    assert "Ann" not in str(caught.value)
