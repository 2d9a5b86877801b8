"""What the heap's holes hold can be had back."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from streams.runtime import heap

BLOCK_BYTES = 64 * 1024
BLOCKS = 2_000


def own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


# glibc alone has it, and there it must work; what stands in its place elsewhere is tested below
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has nothing of the kind")
def test_holes_are_given_back() -> None:
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(BLOCKS)]
    kept = blocks[::100]  # what is left lies everywhere
    blocks.clear()
    held = own_bytes()
    heap.give_back()
    assert held - own_bytes() > BLOCKS * BLOCK_BYTES * 0.8
    assert sum(int(one.sum()) for one in kept) == len(kept) * BLOCK_BYTES


def test_where_there_is_no_such_function_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)  # a library of nothing: None has no such attribute
    heap._trim.cache_clear()  # noqa: SLF001
    try:
        heap.give_back()
        assert asked == [None]
    finally:
        heap._trim.cache_clear()  # noqa: SLF001
