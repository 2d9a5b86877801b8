"""How does an incident travel as a CloudEvent? The Kafka binding of CloudEvents 1.0.2, binary and structured.

Binary: attributes are headers `ce_…`, the content type is the header `content-type`, the value is the data as it is, and
no data is no value, a tombstone. Structured: the whole event is JSON. The key is ours and is never touched.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.fields import REFUSALS, MalformedRecordError, described
from schemas.ids import rfc3339
from schemas.incident import Incident, Severity

Headers = tuple[tuple[str, bytes], ...]
Extension = str | int | bool

STRUCTURED = "application/cloudevents+json; charset=UTF-8"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_NEARLY_A_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
MAX_NAME = 20
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INT_32 = 1 << 31
_REQUIRED = ("id", "source", "specversion", "type")
_KNOWN = (*_REQUIRED, "subject", "time", "datacontenttype", "dataschema")
_LOGGED: Mapping[Severity, tuple[str, int]] = {
    Severity.CRITICAL: ("FATAL", 21),
    Severity.HIGH: ("ERROR", 17),
    Severity.MEDIUM: ("WARN", 13),
    Severity.LOW: ("INFO", 9),
}

Text = Annotated[str, Meta(min_length=1)]


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event: its attributes, its extensions by name, its data as bytes (None: no data, which is not empty data)."""

    id: Text
    source: Text
    type: Text
    specversion: Literal["1.0"] = "1.0"
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: dict[str, Extension] = {}
    data: bytes | None = None

    def attributes(self) -> dict[str, Extension]:
        """Return all attributes that are there, extensions last."""
        known = {name: getattr(self, name) for name in _KNOWN}
        return {name: value for name, value in known.items() if value is not None} | self.extensions


def checked(event: CloudEvent) -> CloudEvent:
    """Return the event if its attributes are lawful; `MalformedRecordError` names the first that is not.

    >>> checked(CloudEvent(id="1", source="urn:x", type="t", extensions={"trace_id": "7"}))
    Traceback (most recent call last):
    schemas.fields.MalformedRecordError: cloudevent.trace_id: expected 1 to 20 of a-z and 0-9, got another name
    """
    for name, value in event.attributes().items():
        if not 0 < len(name) <= MAX_NAME or not _NAME.issuperset(name):
            raise MalformedRecordError("cloudevent", _shown(name), "1 to 20 of a-z and 0-9", "another name")
        if isinstance(value, str) and _CONTROL.search(value):
            raise MalformedRecordError("cloudevent", name, "a text without control characters", "one with them")
        if isinstance(value, int) and not isinstance(value, bool) and not -_INT_32 <= value < _INT_32:
            raise MalformedRecordError("cloudevent", name, "an integer of 32 bits", "a larger one")
    return event


def _shown(name: str) -> str:
    """Show a name that is none, if it is near enough to one to be a slip."""
    return name if _NEARLY_A_NAME.fullmatch(name) else ""


def to_kafka(event: CloudEvent, mode: Literal["binary", "structured"] = "binary") -> tuple[Headers, bytes | None]:
    """Return headers and value of the message; the key is the caller's.

    >>> headers, value = to_kafka(CloudEvent(id="1", source="urn:x", type="t", datacontenttype="application/json",
    ...                                      extensions={"sampled": True}, data=b"{}"))
    >>> dict(headers)["ce_sampled"], dict(headers)["content-type"], value
    (b'true', b'application/json', b'{}')
    """
    checked(event)
    if mode == "structured":
        whole: dict[str, object] = dict(event.attributes())
        if event.data is not None:
            if _is_json(event.datacontenttype):
                whole["data"] = msgspec.Raw(event.data)
            else:
                whole["data_base64"] = base64.b64encode(event.data).decode()
        return (("content-type", STRUCTURED.encode()),), msgspec.json.encode(whole)
    headers = [
        (f"ce_{name}", _text(value).encode()) for name, value in event.attributes().items() if name != "datacontenttype"
    ]
    if event.datacontenttype is not None:
        headers.append(("content-type", event.datacontenttype.encode()))
    return tuple(headers), event.data


def _text(value: Extension) -> str:
    """Write an attribute: booleans as `true` and `false`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_json(content_type: str | None) -> bool:
    """Whether data of this type stands in a JSON event as it is; without a type it is JSON."""
    if content_type is None:
        return True
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def from_kafka(headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> CloudEvent | bytes | None:
    """Return the event of a message, in whichever mode; the bare value when the message is no CloudEvent.

    The content type decides first, so that a structured message which also carries `ce_` headers is read as what it is.
    Nothing is added that was not sent: no time, no key.
    """
    found: dict[str, bytes] = {}
    for name, content in headers:
        if content is not None:
            found.setdefault(name.lower(), content)
    content_type = _utf8("content-type", found["content-type"]) if "content-type" in found else None
    if content_type is not None and content_type.lower().startswith("application/cloudevents"):
        return _structured(value)
    if "ce_specversion" not in found:
        return value
    attributes = {
        name.removeprefix("ce_"): _utf8(name, content) for name, content in found.items() if name.startswith("ce_")
    }
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return _event(dict(attributes), value)


def _utf8(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise MalformedRecordError("cloudevent", _shown(name), "UTF-8", f"{len(content)} other bytes") from None


def _structured(value: bytes | None) -> CloudEvent:
    try:
        raw = msgspec.json.decode(value or b"", type=dict[str, msgspec.Raw])
        data = raw.pop("data", None)
        packed = raw.pop("data_base64", None)
        attributes = {name: msgspec.json.decode(one, type=Extension | None) for name, one in raw.items()}
        content = bytes(data) if data is not None else None
        if packed is not None:
            content = base64.b64decode(msgspec.json.decode(packed, type=str), validate=True)
    except REFUSALS:
        raise MalformedRecordError("cloudevent", "", "a JSON object of attributes", "something else") from None
    return _event({name: one for name, one in attributes.items() if one is not None}, content)


def _event(attributes: Mapping[str, Extension], data: bytes | None) -> CloudEvent:
    for name in _REQUIRED:
        if not attributes.get(name):
            raise MalformedRecordError("cloudevent", name, "a value (the attribute is required)", "nothing")
    known = {name: attributes[name] for name in _KNOWN if name in attributes}
    rest = {name: value for name, value in attributes.items() if name not in _KNOWN}
    try:
        event = msgspec.convert({**known, "extensions": rest}, CloudEvent)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`")
        expected = "`1.0`" if name == "specversion" else "a text"
        raise MalformedRecordError("cloudevent", name, expected, described(attributes.get(name))) from None
    return checked(msgspec.structs.replace(event, data=data))


def incident_event(incident: Incident, *, deployment: str, type_prefix: str, recorded_at_ms: int) -> CloudEvent:
    """Return an incident's record as an event.

    Parameters
    ----------
    deployment
        Name of this Tocsin; the source is `urn:tocsin:<deployment>`.
    type_prefix
        Reverse DNS name, for instance `org.example.tocsin`.
    recorded_at_ms
        Wall time of writing; the event's own `time` is when the impact began, as far as that is known.
    """
    name, number = _LOGGED[incident.severity]
    happened_ms = incident.opened_at_ms if incident.impact_started_at_ms is None else incident.impact_started_at_ms
    extensions: dict[str, Extension] = {
        "partitionkey": incident.incident_id,
        "sequence": f"{incident.seq:010d}",
        "severitytext": name,
        "severitynumber": number,
        "correlationid": incident.incident_id,
        "recordedtime": rfc3339(recorded_at_ms),
    }
    if incident.causation_id:
        extensions["causationid"] = _CONTROL.sub("", incident.causation_id)
    return CloudEvent(
        id=f"{incident.incident_id}:{incident.seq}",
        source=f"urn:tocsin:{deployment}",
        type=f"{type_prefix}.incident.{incident.reason}.v1",
        subject=incident.display_id,
        time=rfc3339(happened_ms),
        datacontenttype="application/json",
        dataschema="urn:tocsin:schema:incident:1",
        extensions=extensions,
        data=incident.encode(),
    )
