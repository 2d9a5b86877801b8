"""What is a topic, when there is no broker? Lists, one a partition; a compacted one forgets what was overwritten."""

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from streams.runtime.stage_spec import Headers


class Entry(NamedTuple):
    """One record as it lies in a log; `value` is bytes where bytes matter, and a decoded row at the edge."""

    offset: int
    key: bytes | None
    value: Any
    headers: Headers = ()
    broker_ms: int = 0


class Log:
    """One partition of one topic."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self.end = 0

    def append(self, key: bytes | None, value: Any, headers: Headers = ()) -> int:  # noqa: ANN401 -- see Entry
        """Write one record and return its offset."""
        self._entries.append(Entry(self.end, key, value, headers))
        self.end += 1
        return self.end - 1

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def read(self, start: int, end: int) -> list[Entry]:
        """Return what is left of `[start, end)`."""
        first = bisect_left(self._entries, start, key=lambda entry: entry.offset)
        last = bisect_left(self._entries, end, key=lambda entry: entry.offset)
        return self._entries[first:last]

    def compact(self, rng: random.Random) -> None:
        """Forget, before some place, all but the last record of each key there, as the cleaner of a broker may."""
        dirty_end = rng.randint(0, self.end)
        last = {entry.key: entry.offset for entry in self._entries if entry.offset < dirty_end}
        self._entries = [
            entry for entry in self._entries if entry.offset >= dirty_end or last[entry.key] == entry.offset
        ]

    def latest(self) -> dict[bytes, Entry]:
        """Return the last record of each key."""
        return {entry.key: entry for entry in self._entries if entry.key is not None}

    def table(self, end: int) -> dict[bytes, bytes]:
        """Return the last value of each key before `end`; None deletes."""
        table: dict[bytes, bytes] = {}
        for entry in self._entries:
            if entry.offset < end:
                assert entry.key is not None
                if entry.value is None:
                    table.pop(entry.key, None)
                else:
                    table[entry.key] = entry.value
        return table


class Topics:
    """All topics by name and partition; they come into being when they are asked for."""

    def __init__(self) -> None:
        self._logs: defaultdict[tuple[str, int], Log] = defaultdict(Log)

    def __getitem__(self, place: tuple[str, int]) -> Log:
        return self._logs[place]
