"""Whose is memory that is free? The allocator's, until it is asked to give it back.

Arrays of all sizes come and go with every batch, and leave the heap full of holes: after ten million rows a worker held
600 MB, of which 260 were free. glibc gives only the end of its heap back by itself; told to do so at each free
(`MALLOC_TRIM_THRESHOLD_`) it takes half of the processor's time.
"""

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any | None:  # noqa: ANN401 - a function of C
    """Return what does it; None where the C library has no such thing."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give back to the system what is free; some hundredths of a second for a gigabyte."""
    trim = _trim()
    if trim is not None:
        trim(ctypes.c_size_t(0))
