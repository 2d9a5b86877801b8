"""Which bytes were refused, where did they come from, and why? And which of them were sent again?"""

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from schemas.fields import Count, MalformedRecordError, Ordinal, Record, Whole
from schemas.output import Millis

MAX_KEY_BYTES = 2_048
"""As long as any prediction id can be."""
MAX_VALUE_BYTES = 65_536

Place = Annotated[str, Meta(max_length=200)]
"""`topic/partition/offset/row`: where a record was refused first."""


class DeadLetter(Record, frozen=True, kw_only=True):
    """Refused bytes with their origin and the three parts of the error.

    Parameters
    ----------
    topic, partition, offset, row
        Where it was; `row` counts from 0 inside a many-row message, -1 when the whole message is meant.
    field, expected, got
        As in `schemas.fields.MalformedRecordError`.
    key, value
        The bytes, base64 in JSON, so that they can be sent again; `value_bytes` is their full length, since what is
        larger than 64 KB is cut.
    attempt, origin
        Which attempt it was, 1 being its producer's own; and where the first was refused, of what was sent again.

    Examples
    --------
    >>> error = MalformedRecordError("output", "score", "a number of at most 1.0", "1.5")
    >>> letter = DeadLetter.of(error, topic="model-outputs", partition=1, offset=42, key=b"p1", value=b"{}", row=4)
    >>> letter.first, letter.is_whole
    ('model-outputs/1/42/4', True)
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
    origin: Place = ""
    decided_at_ms: Millis = 0
    recorded_at_ms: Millis = 0

    @property
    def first(self) -> str:
        """Where it was refused first, `topic/partition/offset/row`: the same for all attempts."""
        return self.origin or f"{self.topic}/{self.partition}/{self.offset}/{self.row}"

    @property
    def is_whole(self) -> bool:
        """Whether it holds all that was refused."""
        key_is = self.key is None or len(self.key) < MAX_KEY_BYTES
        return self.value is not None and self.value_bytes == len(self.value) and key_is

    def holding(self, key: bytes | None, value: bytes | None) -> "DeadLetter":
        """Return it with the bytes that were refused, as much of them as it may hold."""
        return replace(
            self,
            key=None if key is None else key[:MAX_KEY_BYTES],
            value=None if value is None else value[:MAX_VALUE_BYTES],
            value_bytes=0 if value is None else len(value),
        )

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What is counted together: topic, record, field, and what was expected, whatever came."""
        return self.topic, self.record, self.field, self.expected

    @property
    def complaint(self) -> str:
        """What was wrong, in the words of the error that it was made of.

        >>> DeadLetter(topic="labels", partition=0, offset=7, record="label", field="labelled_at_ms", expected="a number",
        ...            got="null").complaint
        'label.labelled_at_ms: expected a number, got null'
        """
        return str(MalformedRecordError(self.record, self.field, self.expected, self.got))

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
            stage=stage,
        ).holding(key, value)


class SentAgain(Record, frozen=True, kw_only=True, tag_field="record", tag="sent-again"):
    """A mark among the dead letters: what was refused at a place was sent again.

    Parameters
    ----------
    first
        Where it was refused first, `topic/partition/offset/row`.
    attempt
        Which attempt that was; the first, by its producer, is 1.
    """

    first: Place
    attempt: Annotated[int, Meta(ge=2, le=1_000)]
    recorded_at_ms: Millis = 0
