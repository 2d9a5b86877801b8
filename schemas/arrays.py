r"""How do arrays of counts travel? A JSON header, a newline, and per array the entries that are not 0.

    {"record": …, "lanes": […], "statistics": [{"name": …, "shape": […], "entries": n}, …]}\n
    int32[n] flat index, int64[n] value      (little-endian, per statistic in the header's order)

The flat index counts in an array of shape `(lanes, *shape)`, C order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from schemas.fields import REFUSALS, MalformedRecordError

Counts = npt.NDArray[np.int64]
LIMIT_BYTES = 900_000
"""No record is larger than this."""

MOST_CELLS = 2**24
"""Of all arrays of a record together: 128 MiB once unpacked."""

MOST_AXES = 8

MOST_COUNT = 2**48
"""Of one entry: so many can be added up 32,768 times before 64 bits overflow."""

_ENTRY_BYTES = 12
_Size = Annotated[int, Meta(ge=0, le=MOST_CELLS)]


class Layout(msgspec.Struct, frozen=True):
    """One statistic in the header: its name, its shape behind the lane axis, and how many entries follow."""

    name: str
    shape: list[_Size]
    entries: _Size


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
    """Decode what `pack` made: the header's bytes, and the arrays, each `int64[lanes, ...]`.

    Each statistic and each entry stands once, in order, so that one content has one form.
    """
    head, newline, body = value.partition(b"\n")
    if not newline:
        raise MalformedRecordError(record, "", "a JSON header and a newline", f"{len(value)} bytes without one")
    try:
        layouts = msgspec.json.decode(head, type=_Layouts)
    except REFUSALS as error:
        raise MalformedRecordError(record, "header", "lanes and statistics", str(error).partition(" - ")[0]) from None
    arrays: dict[str, Counts] = {}
    at = cells = 0
    for layout in layouts.statistics:
        shape = (len(layouts.lanes), *layout.shape)
        size = math.prod(shape)
        end = at + layout.entries * _ENTRY_BYTES
        cells += size
        if layout.name in arrays or len(shape) > MOST_AXES:
            expected = f"a statistic once, of at most {MOST_AXES} axes"
            raise MalformedRecordError(record, "statistics", expected, f"another, of {len(shape)}")
        if layout.entries > size or end > len(body) or cells > MOST_CELLS:
            got = f"{layout.entries} entries of {list(shape)} in {len(body) - at} bytes"
            raise MalformedRecordError(record, "statistics", "entries that fit shape and bytes", got)
        index = np.frombuffer(body, "<i4", layout.entries, at)
        counts = np.frombuffer(body, "<i8", layout.entries, at + 4 * layout.entries)
        if layout.entries and not (index[0] >= 0 and index[-1] < size and np.all(index[1:] > index[:-1])):
            got = f"{index.min()}..{index.max()}"
            raise MalformedRecordError(record, "statistics", f"rising indices from 0 to below {size}", got)
        if layout.entries and not (counts.min() >= 1 and counts.max() <= MOST_COUNT):
            raise MalformedRecordError(record, "statistics", f"counts from 1 to {MOST_COUNT}", "others")
        flat = np.zeros(size, np.int64)
        flat[index] = counts
        arrays[layout.name] = flat.reshape(shape)
        at = end
    if at != len(body):
        raise MalformedRecordError(record, "", f"{at} bytes of entries", str(len(body)))
    return head, arrays


def lane_slices(
    arrays: Mapping[str, Counts], lanes: Sequence[str], limit_bytes: int, listed: Sequence[int] | None = None
) -> list[slice]:
    """Cut the lane axis so that each part stays below `limit_bytes` (one lane is never cut).

    Parameters
    ----------
    limit_bytes
        For entries and for what the header holds of lanes.
    listed
        By lane how often the header names it; None: once each.

    Examples
    --------
    >>> lane_slices({"outputs": np.array([[1, 2], [3, 0], [0, 4]])}, ["*", "a", "b"], 40)
    [slice(0, 1, None), slice(1, 3, None)]
    """
    names_bytes = len(msgspec.json.encode(lanes)) * max(listed or (1,))
    if names_bytes + _ENTRY_BYTES * sum(map(np.count_nonzero, arrays.values())) <= limit_bytes:
        return [slice(0, len(lanes))]  # as nearly always, and nobody has looked at a single lane
    sizes = np.array([len(msgspec.json.encode(lane)) + 1 for lane in lanes], np.int64)
    sizes *= np.array(1 if listed is None else listed, np.int64)
    for array in arrays.values():
        sizes += _ENTRY_BYTES * np.count_nonzero(array.reshape(len(lanes), -1), axis=1)
    slices, start, held = [], 0, 0
    for lane, size in enumerate(sizes.tolist()):
        if held and held + size > limit_bytes:
            slices.append(slice(start, lane))
            start, held = lane, 0
        held += size
    return [*slices, slice(start, len(lanes))]
