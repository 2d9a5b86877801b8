"""How does what the watches of a model remember lie in values of bytes, of which few change from tick to tick?

One value for each array, all detectors one after the other, of the lanes alone that are watched; and one for each cell of
the rings, which stands until it is written over, 8 minutes to 8.5 hours later. A bit tells of each figure whether it is 0,
as most are; only the others follow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType

import msgspec
import numpy as np

from detectors.alarm import Flags
from detectors.onset import COLUMNS, cells_between, empty_rings
from detectors.watch import Watch, WatchState

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "mass": "<f8",
        "owed": "<f8",
        "recovery_mass": "<f8",
        "open": "?",
        "heard": "?",
        "since": "<i8",
        "leading": "<i8",
        "midpoint": "<f8",
        "shadow_alarms": "<i8",
    }
)
"""Arrays of a state, and as what they are written."""
LAYOUT, RINGS, RING_DTYPE = "layout", "rings", "<f4"


class _Layout(msgspec.Struct, array_like=True):
    """One detector as it was when this was written: a newer Tocsin may watch other lanes, and bet on other things."""

    detector: str
    watched: bytes
    alternatives: int
    recoveries: int

    def lanes(self, lanes: int) -> Flags:
        """Lanes that were watched, `bool[lanes]`."""
        return np.unpackbits(np.frombuffer(self.watched, np.uint8), count=lanes).astype(np.bool_)

    def behind(self, array: str) -> tuple[int, ...]:
        """Shape of an array behind its lanes."""
        return {"mass": (self.alternatives,), "recovery_mass": (self.recoveries,), RINGS: (COLUMNS,)}.get(array, ())


_LAYOUTS = msgspec.msgpack.Decoder(list[_Layout])


def values_of(
    watches: Mapping[str, Watch], states: Mapping[str, WatchState], since: Mapping[str, int]
) -> Iterator[tuple[str, bytes]]:
    """Give names and values of all arrays, and of those cells that were written since.

    Parameters
    ----------
    since
        By detector, how many ticks it had taken when this was last asked; none where it never was.
    """
    yield LAYOUT, _laid_out(watches)
    if not watches:
        return
    for array, dtype in DTYPES.items():
        yield array, _packed([getattr(states[name], array)[one.judged] for name, one in watches.items()], dtype)
    cells = {cell for name, state in states.items() for cell in cells_between(since.get(name, 0), state.ticks)}
    for level, place in sorted(cells):
        some = [states[name].rings[level, place, one.judged] for name, one in watches.items()]
        yield f"{RINGS}/{level}/{place}", _packed(some, RING_DTYPE)


def _laid_out(watches: Mapping[str, Watch]) -> bytes:
    return msgspec.msgpack.encode(
        [
            _Layout(name, np.packbits(one.fitted.watched).tobytes(), len(one.weights), len(one.recovery_weights))
            for name, one in watches.items()
        ]
    )


def is_laid_out_alike(values: Mapping[str, bytes], watches: Mapping[str, Watch]) -> bool:
    """Whether what was given lies as it would lie now, so that cells can be written one by one."""
    return values[LAYOUT] == _laid_out(watches)


def states_of(
    values: Mapping[str, bytes], ticks: Mapping[str, int], fresh: Mapping[str, WatchState]
) -> dict[str, WatchState]:
    """Read back what was given; a lane that was not watched is as in `fresh`, a detector that is not there is left out.

    Parameters
    ----------
    ticks
        By detector, how many it had taken.
    fresh
        By detector, the state of lanes that were never watched, to begin with.
    """
    layouts = _LAYOUTS.decode(values[LAYOUT])
    if not layouts:
        return {}
    lanes = max((len(one.open) for one in fresh.values()), default=0)
    watched = [one.lanes(lanes) for one in layouts]

    def read(name: str, array: str, dtype: str) -> list[np.ndarray]:
        shapes = [(int(flags.sum()), *one.behind(array)) for one, flags in zip(layouts, watched, strict=True)]
        return _unpacked(values[name], dtype, shapes)

    held = {array: read(array, array, dtype) for array, dtype in DTYPES.items()}
    cells = {name: read(name, RINGS, RING_DTYPE) for name in values if name.startswith(f"{RINGS}/")}
    states = {}
    for number, (one, flags) in enumerate(zip(layouts, watched, strict=True)):
        if one.detector not in fresh:
            continue
        arrays = {}
        for array in DTYPES:
            arrays[array] = _spread(held[array][number], flags, getattr(fresh[one.detector], array))
        rings = empty_rings(lanes)
        for name, some in cells.items():
            _, level, place = name.split("/")
            rings[int(level), int(place), flags] = some[number]
        states[one.detector] = replace(fresh[one.detector], ticks=ticks[one.detector], rings=rings, **arrays)
    return states


def _spread(some: np.ndarray, lanes: Flags, begun: np.ndarray) -> np.ndarray:
    """Put what watched lanes remember among those that begin anew; other alternatives than now begin with nothing."""
    whole = begun.copy() if begun.shape[1:] == some.shape[1:] else np.zeros((len(begun), *some.shape[1:]), begun.dtype)
    whole[lanes] = some
    return whole


def _packed(arrays: Sequence[np.ndarray], dtype: str) -> bytes:
    """Lay arrays one after the other, zeros as bits.

    >>> len(_packed([np.array([0.0, 0.5]), np.zeros(14)], "<f8"))
    10
    """
    flat = np.concatenate([array.ravel() for array in arrays]).astype(dtype, copy=False)
    filled = flat != 0
    return bytes(np.packbits(filled).tobytes() + flat[filled].tobytes())


def _unpacked(value: bytes, dtype: str, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Read back what was packed."""
    sizes = [prod(shape) for shape in shapes]
    count = sum(sizes)
    bits = -(-count // 8)
    flat = np.zeros(count, dtype)
    filled = np.unpackbits(np.frombuffer(value, np.uint8, bits), count=count).astype(np.bool_)
    flat[filled] = np.frombuffer(value, dtype, offset=bits)
    ends = np.cumsum(sizes)
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
