"""What does a worker that is watched note of its memory?"""

import mmap
from pathlib import Path

from tests.benchmarks.watched_worker import Memory

MIB = 1 << 20


def test_a_mapped_file_is_in_memory_and_not_of_the_process_itself(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_bytes(b"1" * 64 * MIB)
    before = Memory.now()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:: mmap.PAGESIZE].count(b"1") == 64 * MIB // mmap.PAGESIZE  # looks at every page
        after = Memory.now()
    assert after.files - before.files > 60 * MIB
    assert after.own - before.own < 4 * MIB


def test_what_is_allocated_is_of_the_process_itself() -> None:
    before = Memory.now()
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as allocated:  # not what others gave back
        allocated.write(b"1" * 64 * MIB)
        after = Memory.now()
    assert after.own - before.own > 60 * MIB
    assert after.files - before.files < 4 * MIB
