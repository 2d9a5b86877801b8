"""What does healthy look like for each lane of a model?"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import msgspec
import numpy as np

from schemas.arrays import LIMIT_BYTES, Counts, Layout, lane_slices, pack, unpack
from schemas.binning import Binning
from schemas.fields import REFUSALS, Count, MalformedRecordError, Ordinal, counted, malformed
from schemas.output import Millis, Name

_MORE_DIGITS = 8
"""By which a number in a part's header may be longer than in one without lanes."""


class BaselineHeader(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="baseline"):
    """What stands before the counts of a baseline's part; `schemas.arrays` says how the counts follow."""

    schema: Ordinal = 1
    model: Name
    version: Ordinal
    valid_from_ms: Millis
    part: Count
    parts: Ordinal
    binning: Binning
    reference_ms: tuple[Millis, Millis]
    armed: dict[str, list[str]]
    tolerance: dict[str, float]
    decided_at_ms: Millis
    lanes: list[str]
    statistics: list[Layout]


_HEADER = msgspec.json.Decoder(BaselineHeader)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """The reference of a model: its bins, and the sum of all window statistics over its healthy history.

    A detector fits itself to `arrays`, which are the same statistics that it reads later, so that one file defines
    both. Lanes of a part are whole; the header stands in every part, and lists the part's own lanes alone.

    Parameters
    ----------
    version
        1, 2, …: what window statistics name. 0 is no baseline, in code.
    valid_from_ms
        Event time from which ticks use it, at least 2 min after publication.
    reference_ms
        The healthy history, `[from, to)`, in its own event time.
    armed
        Per detector the lanes that passed the replay of `tocsin baseline build`; all others are in shadow.
    tolerance
        Per detector what was added in log-odds until the replay passed: show it to the owner.
    arrays
        Per statistic `int64[lanes, ...]`.
    """

    model: str
    version: int
    valid_from_ms: int
    part: int = 0
    parts: int = 1
    binning: Binning
    reference_ms: tuple[int, int]
    armed: Mapping[str, tuple[str, ...]]
    tolerance: Mapping[str, float]
    decided_at_ms: int
    lanes: tuple[str, ...]
    arrays: Mapping[str, Counts]

    def encode(self) -> bytes:
        """Encode as `schemas.arrays` describes."""
        header = {
            "record": "baseline",
            "schema": 1,
            "model": self.model,
            "version": self.version,
            "valid_from_ms": self.valid_from_ms,
            "part": self.part,
            "parts": self.parts,
            "binning": self.binning,
            "reference_ms": self.reference_ms,
            "armed": {name: list(lanes) for name, lanes in self.armed.items()},
            "tolerance": dict(self.tolerance),
            "decided_at_ms": self.decided_at_ms,
        }
        return pack(header, self.lanes, self.arrays)

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Decode one part, or say what is wrong with the bytes."""
        if value is None:
            raise MalformedRecordError("baseline", "", "a JSON header and counts", "no value")
        head, arrays = unpack(value, "baseline")
        try:
            header = _HEADER.decode(head)
        except REFUSALS as error:
            raise malformed("baseline", head, error) from None
        return cls(
            model=header.model,
            version=header.version,
            valid_from_ms=header.valid_from_ms,
            part=header.part,
            parts=header.parts,
            binning=header.binning,
            reference_ms=header.reference_ms,
            armed={name: tuple(lanes) for name, lanes in header.armed.items()},
            tolerance=header.tolerance,
            decided_at_ms=header.decided_at_ms,
            lanes=tuple(header.lanes),
            arrays=arrays,
        )

    def split(self) -> "list[Baseline]":
        """Cut into parts below the limit of a record, but where `too_large` says that there are none."""
        armed = Counter(chain.from_iterable(self.armed.values()))
        listed = [1 + armed[lane] for lane in self.lanes]
        slices = lane_slices(self.arrays, self.lanes, LIMIT_BYTES - self._shared_bytes(), listed)
        return [self._cut(cut, part, len(slices)) for part, cut in enumerate(slices)]

    def too_large(self) -> str:
        """Say why a part cannot be below the limit of a record, and what helps; nothing where all are."""
        largest = next((size for part in self.split() if (size := len(part.encode())) > LIMIT_BYTES), 0)
        if not largest:
            return ""
        bins = self.binning
        values = sum(map(len, bins.segments.values()))
        of = ", ".join(
            counted(count, what)
            for count, what in (
                (len(bins.features), "feature"), (len(bins.versions), "version"), (values, "segment value")
            )
        )  # fmt: skip
        return (
            f"too large to be published: a part has {largest:,} bytes, {self._shared_bytes():,} of them bins ({of}), "
            f"and a record has at most {LIMIT_BYTES:,}; declare fewer features or segments, or lower "
            "detect.max_lanes_per_model"
        )

    def _shared_bytes(self) -> int:
        """How much of each part is not of a lane."""
        return len(self._cut(slice(0, 0), 0, 1).encode()) + _MORE_DIGITS * (2 + len(self.arrays))

    def _cut(self, cut: slice, part: int, parts: int) -> "Baseline":
        lanes = self.lanes[cut]
        own = frozenset(lanes)
        armed = {name: tuple(lane for lane in listed if lane in own) for name, listed in self.armed.items()}
        arrays = {name: np.ascontiguousarray(array[cut]) for name, array in self.arrays.items()}
        return replace(self, part=part, parts=parts, armed=armed, lanes=lanes, arrays=arrays)

    @staticmethod
    def joined(parts: "list[Baseline]") -> "Baseline | None":
        """Put the parts of one version together; None while one is missing. Each may list armed lanes of others, too."""
        by_part = {one.part: one for one in parts}
        if not parts or any(part not in by_part for part in range(parts[0].parts)):
            return None
        whole = [by_part[part] for part in range(parts[0].parts)]
        first = whole[0]
        return replace(
            first,
            parts=1,
            armed={
                name: tuple(dict.fromkeys(chain.from_iterable(one.armed.get(name, ()) for one in whole)))
                for name in first.armed
            },
            lanes=tuple(lane for one in whole for lane in one.lanes),
            arrays={name: np.concatenate([one.arrays[name] for one in whole]) for name in first.arrays},
        )
