"""Which bytes were refused, where did they come from, and why?"""

from schemas.fields import Count, MalformedRecordError, Ordinal, Record, Whole
from schemas.output import Millis


class DeadLetter(Record, frozen=True, kw_only=True):
    """Refused bytes with their origin and the three parts of the error.

    Parameters
    ----------
    topic, partition, offset, row
        Where it was; `row` counts from 0 inside a many-row message, -1 when the whole message is meant.
    field, expected, got
        As in `schemas.fields.MalformedRecordError`.
    key, value
        The bytes, base64 in JSON, so that they can be replayed; `value_bytes` is their full length, since what is
        larger than 64 KB is cut.
    """

    topic: str
    partition: Whole
    offset: Whole
    row: Whole = -1
    record: str
    field: str
    expected: str
    got: str
    key: bytes | None = None
    value: bytes | None = None
    value_bytes: Count = 0
    stage: str = ""
    attempt: Ordinal = 1
    decided_at_ms: Millis = 0
    recorded_at_ms: Millis = 0

    @classmethod
    def of(
        cls,
        error: MalformedRecordError,
        *,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        row: int = -1,
        stage: str = "",
    ) -> "DeadLetter":
        """Make the dead letter of one refusal."""
        return cls(
            topic=topic,
            partition=partition,
            offset=offset,
            row=row,
            record=error.record,
            field=error.field,
            expected=error.expected,
            got=error.got,
            key=None if key is None else key[:1024],
            value=None if value is None else value[:65_536],
            value_bytes=0 if value is None else len(value),
            stage=stage,
        )
