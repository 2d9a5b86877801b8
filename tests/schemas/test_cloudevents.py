"""The Kafka binding of CloudEvents, and the traps in which readers have been seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import CloudEvent, Headers, from_kafka, to_kafka
from schemas.fields import MalformedRecordError

EVENT = CloudEvent(
    id="i1:3",
    source="urn:tocsin:prod",
    type="org.example.tocsin.incident.opened.v1",
    subject="INC-260DE83DF6D6",
    time="2026-11-25T10:00:00.000Z",
    datacontenttype="application/json",
    extensions={"severitynumber": 17, "severitytext": "ERROR"},
    data=b'{"seq":3}',
)


def test_binary_headers_are_those_of_the_binding() -> None:
    headers, value = to_kafka(EVENT)
    names = [name for name, _ in headers]
    assert "ce_datacontenttype" not in names
    assert dict(headers)["content-type"] == b"application/json"
    assert dict(headers)["ce_id"] == b"i1:3"
    assert value == EVENT.data


def test_structured_is_one_json_object() -> None:
    headers, value = to_kafka(EVENT, "structured")
    assert dict(headers)["content-type"].startswith(b"application/cloudevents+json")
    assert value is not None
    assert b'"data":{"seq":3}' in value
    read = from_kafka(headers, value)
    assert isinstance(read, CloudEvent)
    assert read == EVENT


def test_a_structured_message_that_also_has_ce_headers_is_structured() -> None:
    headers, value = to_kafka(EVENT, "structured")
    read = from_kafka((("ce_specversion", b"1.0"), ("ce_id", b"another"), *headers), value)
    assert isinstance(read, CloudEvent)
    assert read.id == "i1:3"


def test_the_content_type_is_read_in_any_case() -> None:
    _, value = to_kafka(EVENT, "structured")
    read = from_kafka((("Content-Type", b"Application/CloudEvents+JSON"),), value)
    assert isinstance(read, CloudEvent)


def test_no_data_is_a_tombstone_and_not_an_empty_value() -> None:
    from msgspec.structs import replace  # noqa: PLC0415

    headers, value = to_kafka(replace(EVENT, data=None))
    assert value is None
    read = from_kafka(headers, None)
    assert isinstance(read, CloudEvent)
    assert read.data is None
    assert to_kafka(replace(EVENT, data=b""))[1] == b""


def test_reading_adds_nothing() -> None:
    headers, value = to_kafka(CloudEvent(id="1", source="s", type="t", data=b"{}"))
    read = from_kafka(headers, value)
    assert isinstance(read, CloudEvent)
    assert read.time is None
    assert read.extensions == {}


def test_what_is_no_event_is_its_value() -> None:
    assert from_kafka((("traceparent", b"x"),), b"{}") == b"{}"
    assert from_kafka((), None) is None


def test_bytes_that_are_no_json_travel_in_base64() -> None:
    event = CloudEvent(id="1", source="s", type="t", datacontenttype="application/octet-stream", data=b"\x00\xff")
    headers, value = to_kafka(event, "structured")
    assert value is not None
    assert b"data_base64" in value
    assert from_kafka(headers, value) == event


def test_the_first_of_equal_headers_counts() -> None:
    headers, value = to_kafka(EVENT)
    read = from_kafka((*headers, ("ce_id", b"second")), value)
    assert isinstance(read, CloudEvent)
    assert read.id == "i1:3"


@pytest.mark.parametrize(
    ("headers", "value", "field"),
    [
        ((("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s")), b"", "type"),
        ((("ce_specversion", b"0.3"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")), b"", "specversion"),
        ((("ce_specversion", b"1.0"), ("ce_id", b"\xff"), ("ce_source", b"s"), ("ce_type", b"t")), b"", "ce_id"),
        ((("content-type", b"application/cloudevents+json"),), b"no json", ""),
        ((("content-type", b"application/cloudevents+json"),), None, ""),
        ((("content-type", b"application/cloudevents+json"),), b'{"specversion":"1.0","id":"1"}', "source"),
    ],
)
def test_what_breaks_the_rules_is_refused_by_field(headers: Headers, value: bytes | None, field: str) -> None:
    with pytest.raises(MalformedRecordError) as caught:
        from_kafka(headers, value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "extensions", [{"Upper": "x"}, {"under_score": "x"}, {"a" * 21: "x"}, {"big": 2**31}, {"tab": "a\tb"}]
)
def test_unlawful_extensions_do_not_leave(extensions: dict[str, str | int | bool]) -> None:
    with pytest.raises(MalformedRecordError):
        to_kafka(CloudEvent(id="1", source="s", type="t", extensions=extensions))


PRINTABLE = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(
    name=PRINTABLE,
    subject=st.none() | PRINTABLE,
    extensions=st.dictionaries(
        st.from_regex(r"ext[a-z0-9]{1,10}", fullmatch=True),
        PRINTABLE | st.integers(-(2**31), 2**31 - 1) | st.booleans(),
    ),
)
def test_structured_is_read_as_it_was_written(
    name: str, subject: str | None, extensions: dict[str, str | int | bool]
) -> None:
    event = CloudEvent(id=name, source="s", type="t", subject=subject, extensions=extensions, data=b"[1]")
    assert from_kafka(*to_kafka(event, "structured")) == event
