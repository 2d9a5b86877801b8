"""What happened in one closed tick, lane by lane, in sums that add up?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import msgspec
import numpy as np

from schemas.arrays import LIMIT_BYTES, Counts, Layout, lane_slices, pack, unpack
from schemas.fields import REFUSALS, Count, MalformedRecordError, Ordinal, malformed
from schemas.output import Millis, Name

_HEADER_ROOM_BYTES = 60_000


class WindowStatsHeader(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="window-stats"):
    """What stands before the counts of a tick's statistics; `schemas.arrays` says how the counts follow."""

    schema: Ordinal = 1
    model: Name
    tick_start_ms: Millis
    tick_end_ms: Millis
    source_partition: Count
    source_partitions: Ordinal
    part: Count
    parts: Ordinal
    baseline_version: Count
    offsets: dict[str, tuple[Count, Count]]
    lanes: list[str]
    statistics: list[Layout]


_HEADER = msgspec.json.Decoder(WindowStatsHeader)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowStats:
    """The sufficient statistics of one tick, one source partition and one model.

    Parameters
    ----------
    tick_start_ms, tick_end_ms
        The tick, `[start, end)`, in event time.
    part, parts
        Which part of this tick's lanes this is; a part holds whole lanes.
    baseline_version
        Whose bins the counts are in; 0 is the one in code.
    offsets
        For audit: per topic (`model-outputs`, `labels`) the offsets, `[from, to)`, whose running watermark lies in the
        tick.
    lanes
        Names (`schemas.lane`), only of those with rows.
    arrays
        Per statistic `int64[lanes, ...]`; names and shapes are those of `detectors.statistics`.

    Examples
    --------
    >>> stats = WindowStats(
    ...     model="m", tick_start_ms=0, tick_end_ms=10_000, source_partition=0, source_partitions=4, part=0, parts=1,
    ...     baseline_version=0, offsets={"labels": (3, 5)}, lanes=("*",), arrays={"outputs": np.array([[5]])},
    ... )
    >>> again = WindowStats.decode(stats.encode())
    >>> again.lanes, again.arrays["outputs"], again.offsets
    (('*',), array([[5]]), {'labels': (3, 5)})
    """

    model: str
    tick_start_ms: int
    tick_end_ms: int
    source_partition: int
    source_partitions: int
    part: int
    parts: int
    baseline_version: int
    offsets: Mapping[str, tuple[int, int]]
    lanes: tuple[str, ...]
    arrays: Mapping[str, Counts]

    def encode(self) -> bytes:
        """Encode as `schemas.arrays` describes."""
        header = {
            "record": "window-stats",
            "schema": 1,
            "model": self.model,
            "tick_start_ms": self.tick_start_ms,
            "tick_end_ms": self.tick_end_ms,
            "source_partition": self.source_partition,
            "source_partitions": self.source_partitions,
            "part": self.part,
            "parts": self.parts,
            "baseline_version": self.baseline_version,
            "offsets": dict(self.offsets),
        }
        return pack(header, self.lanes, self.arrays)

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Decode, or say what is wrong with the bytes."""
        if value is None:
            raise MalformedRecordError("windowstats", "", "a JSON header and counts", "no value")
        head, arrays = unpack(value, "windowstats")
        try:
            header = _HEADER.decode(head)
        except REFUSALS as error:
            raise malformed("windowstats", head, error) from None
        return cls(
            model=header.model,
            tick_start_ms=header.tick_start_ms,
            tick_end_ms=header.tick_end_ms,
            source_partition=header.source_partition,
            source_partitions=header.source_partitions,
            part=header.part,
            parts=header.parts,
            baseline_version=header.baseline_version,
            offsets=header.offsets,
            lanes=tuple(header.lanes),
            arrays=arrays,
        )

    def split(self) -> "list[WindowStats]":
        """Cut into parts below the limit of a record."""
        slices = lane_slices(self.arrays, self.lanes, LIMIT_BYTES - _HEADER_ROOM_BYTES)
        return [
            replace(
                self,
                part=part,
                parts=len(slices),
                lanes=self.lanes[cut],
                arrays={name: np.ascontiguousarray(array[cut]) for name, array in self.arrays.items()},
            )
            for part, cut in enumerate(slices)
        ]
