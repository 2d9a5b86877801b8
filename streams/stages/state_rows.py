"""How does a large state lie in small rows, so that a stop at any moment leaves a whole one?

Blocks under keys with the generation modulo 2, and last the row `snapshot` that names them by their hashes: as long as
it is not written, the generation before it is untouched.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping

import msgspec

BLOCK_BYTES = 512_000
SNAPSHOT = "snapshot"


class TornStateError(AssertionError):
    """Rows are not what their snapshot names: something else wrote them, or lost some.

    What to do: drop the rows of this partition; the stage reads its inputs again.
    """


class Fixed(msgspec.Struct, array_like=True):
    """A value that is written once and never changed: its name, and the hashes of its blocks."""

    name: str
    hashes: list[str]


class _Snapshot(msgspec.Struct, array_like=True):
    generation: int
    hashes: list[str]
    fixed: list[Fixed]


def _cut(value: bytes) -> list[bytes]:
    return [value[at : at + BLOCK_BYTES] for at in range(0, len(value), BLOCK_BYTES)] or [b""]


def _hash(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()


class StateRows:
    """A state of two kinds in rows: one value that changes with each generation, and named ones that do not.

    >>> rows: dict[str, bytes] = {}
    >>> state = StateRows(rows)
    >>> state.write(b"first", {"baseline/1": lambda: b"healthy"})
    >>> state.write(b"second", {"baseline/1": lambda: b"healthy"})
    >>> sorted(rows)
    ['fixed/baseline/1/0', 'snapshot', 'state/0/0', 'state/1/0']
    >>> StateRows(rows).read()
    (b'second', {'baseline/1': b'healthy'})
    """

    def __init__(self, rows: MutableMapping[str, bytes]) -> None:
        self._rows = rows
        self._generation = 0
        self._blocks = [0, 0]
        self._fixed: dict[str, list[str]] = {}

    def read(self) -> tuple[bytes, dict[str, bytes]] | None:
        """Return the last whole generation, None where there was never one."""
        row = self._rows.get(SNAPSHOT)
        if row is None:
            return None
        snapshot = msgspec.msgpack.decode(row, type=_Snapshot)
        self._generation = snapshot.generation
        parity = self._generation % 2
        self._blocks = [0, 0]
        self._blocks[parity] = len(snapshot.hashes)
        self._fixed = {one.name: one.hashes for one in snapshot.fixed}
        value = self._read(f"state/{parity}", snapshot.hashes)
        return value, {name: self._read(f"fixed/{name}", hashes) for name, hashes in self._fixed.items()}

    def write(self, value: bytes, fixed: Mapping[str, Callable[[], bytes]]) -> None:
        """Write the next generation; `snapshot` is the last row but for what it makes superfluous.

        A fixed value is asked for when its name is new.
        """
        for name, whole in fixed.items():
            if name not in self._fixed:
                blocks = _cut(whole())
                for number, block in enumerate(blocks):
                    self._rows[f"fixed/{name}/{number}"] = block
                self._fixed[name] = [_hash(block) for block in blocks]
        self._generation += 1
        parity = self._generation % 2
        blocks = _cut(value)
        for number, block in enumerate(blocks):
            self._rows[f"state/{parity}/{number}"] = block
        gone = [name for name in self._fixed if name not in fixed]
        superfluous = [f"state/{parity}/{number}" for number in range(len(blocks), self._blocks[parity])]
        superfluous += [f"fixed/{name}/{number}" for name in gone for number in range(len(self._fixed[name]))]
        for name in gone:
            del self._fixed[name]
        self._blocks[parity] = len(blocks)
        kept = [Fixed(name, hashes) for name, hashes in sorted(self._fixed.items())]
        row = _Snapshot(self._generation, [_hash(block) for block in blocks], kept)
        self._rows[SNAPSHOT] = msgspec.msgpack.encode(row)
        for key in superfluous:
            self._rows.pop(key, None)

    def _read(self, key: str, hashes: list[str]) -> bytes:
        blocks = []
        for number, expected in enumerate(hashes):
            block = self._rows.get(f"{key}/{number}")
            if block is None or _hash(block) != expected:
                raise TornStateError(f"{key}/{number}: expected the block of its snapshot, got another or none")
            blocks.append(block)
        return b"".join(blocks)
