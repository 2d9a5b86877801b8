"""How does a large state lie in small rows, of which only those are written that changed?

Named values, cut into blocks, and last the row `snapshot`: how many blocks there are, and their hashes, added up. What is
assigned between two snapshots becomes durable as one, as the host of a stage promises; so a row may be written over. The
sum tells of a hand that did not keep to it.
"""

import hashlib
from collections.abc import Iterable, MutableMapping

import msgspec

BLOCK_BYTES = 512_000
SNAPSHOT = "snapshot"
HASH_BYTES = 16


class TornStateError(AssertionError):
    """Rows are not what their snapshot says: something else wrote them, or lost some.

    What to do: drop the rows of this partition; the stage reads its inputs again.
    """


class _Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    blocks: int
    hashes: bytes


def quoted(name: str) -> str:
    """Make any text a part of the name of a value, in which `/` separates.

    >>> quoted("a/b")
    'a%2Fb'
    """
    return name.replace("%", "%25").replace("/", "%2F")


class StateRows:
    """A state of named values, none of them empty, in rows.

    >>> rows: dict[str, bytes] = {}
    >>> state = StateRows(rows)
    >>> state.put("baseline/1", b"healthy"); state.put("lanes", b"first"); state.seal()
    >>> sorted(rows)
    ['baseline/1/0', 'lanes/0', 'snapshot']
    >>> state.drop("baseline"); state.put("lanes", b"second"); state.seal()
    >>> StateRows(rows).read()
    {'lanes': b'second'}
    """

    def __init__(self, rows: MutableMapping[str, bytes]) -> None:
        self._rows = rows
        self._hashes: dict[str, list[int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._hashes

    def names(self, part: str) -> list[str]:
        """Names of the values of this name, and of all whose names begin with it and a `/`."""
        return [name for name in self._hashes if name == part or name.startswith(f"{part}/")]

    def read(self) -> dict[str, bytes]:
        """Return the values of the last snapshot; none where there was never one.

        Raises
        ------
        TornStateError
            When the rows are others.
        """
        row = self._rows.get(SNAPSHOT)
        if row is None:
            return {}
        blocks: dict[str, dict[int, bytes]] = {}
        for key, block in self._rows.items():
            if key != SNAPSHOT:
                name, _, number = key.rpartition("/")
                if not number.isdecimal():
                    raise TornStateError(f"{key}: expected a name and a number")
                blocks.setdefault(name, {})[int(number)] = block
        whole = {name: [by_number[at] for at in sorted(by_number)] for name, by_number in blocks.items()}
        self._hashes = {name: _hashed(name, some) for name, some in whole.items()}
        if row != self._summary():
            raise TornStateError(f"{SNAPSHOT}: expected the sum of the {len(self._rows) - 1} other rows, got another")
        return {name: b"".join(some) for name, some in whole.items()}

    def put(self, name: str, value: bytes) -> None:
        """Write the blocks of a value that are not there already."""
        assert value, f"{name}: an empty value"
        blocks = [value[at : at + BLOCK_BYTES] for at in range(0, len(value), BLOCK_BYTES)]
        was, now = self._hashes.get(name, []), _hashed(name, blocks)
        for number, block in enumerate(blocks):
            if was[number : number + 1] != [now[number]]:
                self._rows[f"{name}/{number}"] = block
        for number in range(len(now), len(was)):
            del self._rows[f"{name}/{number}"]
        self._hashes[name] = now

    def drop(self, part: str) -> None:
        """Delete what `names` names."""
        for name in self.names(part):
            for number in range(len(self._hashes.pop(name))):
                del self._rows[f"{name}/{number}"]

    def seal(self) -> None:
        """Write the snapshot."""
        self._rows[SNAPSHOT] = self._summary()

    def _summary(self) -> bytes:
        total = sum(map(sum, self._hashes.values())) % 256**HASH_BYTES
        blocks = sum(map(len, self._hashes.values()))
        return msgspec.msgpack.encode(_Snapshot(blocks, total.to_bytes(HASH_BYTES)))


def _hashed(name: str, blocks: Iterable[bytes]) -> list[int]:
    """Hash blocks with their places, so that two that changed places are others."""
    hashes = []
    for number, block in enumerate(blocks):
        one = hashlib.blake2b(f"{name}/{number}\0".encode(), digest_size=HASH_BYTES)
        one.update(block)
        hashes.append(int.from_bytes(one.digest()))
    return hashes
