"""What does each record look like to somebody who does not write Python? JSON Schema, from what the decoder uses."""

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.baseline import BaselineHeader
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter, SentAgain
from schemas.deployment import Deployment
from schemas.fields import Record
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.incident_action import IncidentAction
from schemas.instant import wire_schema
from schemas.label import Label
from schemas.ledger_entry import LedgerEntry
from schemas.notification import Notification
from schemas.output import Output
from schemas.receipt import Receipt
from schemas.through import Through
from schemas.window_stats import WindowStatsHeader

RECORDS: Mapping[str, type[Record]] = {
    "output": Output,
    "label": Label,
    "closed": Closed,
    "clock": Clock,
    "finding": Finding,
    "through": Through,
    "ledger-entry": LedgerEntry,
    "deployment": Deployment,
    "incident": Incident,
    "incident-action": IncidentAction,
    "notification": Notification,
    "receipt": Receipt,
    "dead-letter": DeadLetter,
    "sent-again": SentAgain,
}
"""Records that are JSON from end to end."""

HEADERS: Mapping[str, type[msgspec.Struct]] = {"window-stats": WindowStatsHeader, "baseline": BaselineHeader}
"""Records whose JSON is a header before a newline and binary counts (`schemas.arrays`)."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of one record by its name in `RECORDS` or `HEADERS`.

    Unknown fields are allowed, as the decoder ignores them.

    >>> schema = json_schema("closed")
    >>> schema["$id"], schema["required"]
    ('urn:tocsin:schema:closed:1', ['record', 'source_partition', 'source_partitions', 'through_ms', 'cause'])
    """
    record = RECORDS[name] if name in RECORDS else HEADERS[name]
    schema: dict[str, Any] = msgspec.json.schema(record, schema_hook=wire_schema)
    defined = {inner: _described(of) for inner, of in schema["$defs"].items()}
    whole = defined.pop(record.__name__)
    head = {"$schema": DIALECT, "$id": f"urn:tocsin:schema:{name}:{_version(record)}"}
    return {**head, **whole, **({"$defs": defined} if defined else {})}


def _version(record: type[msgspec.Struct]) -> int:
    version: int = next(field.default for field in msgspec.structs.fields(record) if field.name == "schema")
    return version


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """Keep of a docstring what a reader of JSON can use: its text up to the examples, without the indentation."""
    if "description" not in schema:
        return schema
    text = schema["description"].partition("\n\n    Examples\n")[0]
    return {**schema, "description": "\n".join(line.removeprefix("    ").rstrip() for line in text.splitlines())}
