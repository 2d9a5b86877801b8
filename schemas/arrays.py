r"""How do arrays of counts travel? A JSON header, a newline, and per array the entries that are not 0.

    {"record": …, "lanes": […], "statistics": [{"name": …, "shape": […], "entries": n}, …]}\n
    int32[n] flat index, int64[n] value      (little-endian, per statistic in the header's order)

The flat index counts in an array of shape `(lanes, *shape)`, C order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.fields import MalformedRecordError

Counts = npt.NDArray[np.int64]
LIMIT_BYTES = 900_000
"""No record is larger than this."""

_ENTRY_BYTES = 12


class Layout(msgspec.Struct, frozen=True):
    """One statistic in the header: its name, its shape behind the lane axis, and how many entries follow."""

    name: str
    shape: list[int]
    entries: int


def pack(header: Mapping[str, Any], lanes: Sequence[str], arrays: Mapping[str, Counts]) -> bytes:
    """Encode counts, each `int64[lanes, ...]`, behind a header.

    >>> value = pack({"record": "demo"}, ["*"], {"outputs": np.array([[0, 7]])})
    >>> unpack(value, "demo")[1]["outputs"]
    array([[0, 7]])
    """
    layouts, blocks = [], []
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array, dtype=np.int64).ravel()
        index = np.flatnonzero(flat)
        layouts.append(Layout(name, list(array.shape[1:]), len(index)))
        blocks += [index.astype("<i4").tobytes(), flat[index].astype("<i8").tobytes()]
    head = msgspec.json.encode({**header, "lanes": list(lanes), "statistics": layouts})
    return b"".join([head, b"\n", *blocks])


class _Layouts(msgspec.Struct, frozen=True):
    lanes: list[str]
    statistics: list[Layout]


def unpack(value: bytes, record: str) -> tuple[bytes, dict[str, Counts]]:
    """Decode what `pack` made: the header's bytes, and the arrays, each `int64[lanes, ...]`."""
    head, newline, body = value.partition(b"\n")
    if not newline:
        raise MalformedRecordError(record, "", "a JSON header and a newline", f"{len(value)} bytes without one")
    try:
        layouts = msgspec.json.decode(head, type=_Layouts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecordError(record, "header", "lanes and statistics", str(error).partition(" - ")[0]) from None
    arrays: dict[str, Counts] = {}
    at = 0
    for layout in layouts.statistics:
        shape = (len(layouts.lanes), *layout.shape)
        size = int(np.prod(shape, dtype=np.int64)) if min(shape, default=0) >= 0 else -1
        end = at + layout.entries * _ENTRY_BYTES
        if not (0 <= layout.entries <= size <= 2**27 and end <= len(body)):
            got = f"{layout.entries} entries of {list(shape)} in {len(body) - at} bytes"
            raise MalformedRecordError(record, layout.name, "entries that fit shape and bytes", got)
        index = np.frombuffer(body, "<i4", layout.entries, at)
        counts = np.frombuffer(body, "<i8", layout.entries, at + 4 * layout.entries)
        if layout.entries and not (index.min() >= 0 and index.max() < size):
            raise MalformedRecordError(record, layout.name, f"an index below {size}", f"{index.min()}..{index.max()}")
        flat = np.zeros(size, np.int64)
        flat[index] = counts
        arrays[layout.name] = flat.reshape(shape)
        at = end
    if at != len(body):
        raise MalformedRecordError(record, "", f"{at} bytes of entries", str(len(body)))
    return head, arrays


def lane_slices(arrays: Mapping[str, Counts], lanes: int, limit_bytes: int) -> list[slice]:
    """Cut the lane axis so that each part's entries stay below `limit_bytes` (one lane is never cut)."""
    entries = np.zeros(lanes, np.int64)
    for array in arrays.values():
        entries += np.count_nonzero(array.reshape(lanes, -1), axis=1)
    slices, start, held = [], 0, 0
    for lane, size in enumerate((entries * _ENTRY_BYTES + 64).tolist()):
        if held and held + size > limit_bytes:
            slices.append(slice(start, lane))
            start, held = lane, 0
        held += size
    return [*slices, slice(start, lanes)]
