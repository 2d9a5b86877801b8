"""What must a host know of a stage, beside the stage itself?"""

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from schemas.fields import MalformedRecordError
from streams.runtime.metrics import Measure
from streams.stages.stage import Stage

In = TypeVar("In")
Out = TypeVar("Out")

Headers = tuple[tuple[str, bytes], ...]
Rows = MutableMapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Bytes:
    """One record as it lies in the log; `at_ms` is the time that the broker holds for it, None where it holds none."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """An output as bytes, and where it goes; `partition` None means by murmur2 of the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """What is done in this process, and not by a record, once the state that decided it is durable.

    A crash may swallow it: the stage's own deadline finds that out. `do` returns at once.
    """

    do: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What operators are told of one output once it is durable: a line of the log, and what it counts as."""

    event: str
    fields: Mapping[str, object]
    counts: Sequence[Measure] = ()
    level: int = logging.INFO


def _untold(_: Any) -> None:  # noqa: ANN401 -- any output
    """Tell nobody."""


def _unmeasured(_stage: Any, _partition: int, _now_ms: int) -> Sequence[Measure]:  # noqa: ANN401 -- any stage
    """Measure nothing."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec(Generic[In, Out]):
    """One stage as its host sees it. Topics are named without the deployment's prefix.

    Parameters
    ----------
    name
        The stage's verb; its table and changelog are called after it.
    inputs
        Topics which it reads, all with the same number of partitions; the clock is not among them.
    make_stage
        `(rows, partition)` to a stage over those rows. Keys that begin with `@` are the host's. A stage that has a
        method `clock(now_ms: int, live: bool) -> list[Out]` is told each clock value that comes, and whether it had
        then read all there was. One that does much in pieces (`streams.stages.stage.InPieces`) is let go on before it
        is told anything else.
    decode
        `(topic, key, value, headers)` to a record, or `MalformedRecordError`; None for what says nothing, a tombstone.
    advance_by
        `clock`: the host calls `advance` with the clock, at the live edge. `records`: the stage's own inputs tell the
        time, and the host calls `advance` never.
    told_at_ms
        Decision time which a record carries, None where it carries none. Far behind, a stage that advances by the
        clock advances by this.
    route
        An output to bytes and place: one record or several, or something to be done in this process.
    dead
        `(topic, partition, record, error)` to the dead letter, an output like any other.
    tell
        What operators are told of an output; None for nothing.
    measure
        `(stage, partition, now_ms)` to what there is to measure of a stage; `now_ms` is the newest clock value, -1 before
        the first. Asked about once a second.
    """

    name: str
    inputs: tuple[str, ...]
    make_stage: Callable[[Rows, int], Stage[In, Out]]
    decode: Callable[[str, bytes | None, bytes | None, Headers], In | None]
    advance_by: Literal["clock", "records"]
    told_at_ms: Callable[[In], int | None]
    route: Callable[[Out], Routed | Handed | Sequence[Routed]]
    dead: Callable[[str, int, Bytes, MalformedRecordError], Out]
    tell: Callable[[Out], Decision | None] = _untold
    measure: Callable[[Any, int, int], Iterable[Measure]] = _unmeasured
