"""What is a stage?"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Generic, Protocol, TypeVar

InT_contra = TypeVar("InT_contra", contravariant=True)
OutT = TypeVar("OutT")
RowT = TypeVar("RowT")


class Stage(Protocol[InT_contra, OutT]):
    """Records in, records out, and time is told. One object per input partition.

    Its state is the mapping `rows` that it was given, written only by assignment and deletion; a new object over the
    same mapping goes on where the old one stopped.
    """

    def receive(self, records: Sequence[InT_contra]) -> list[OutT]:
        """Take records of one partition in order; the same record again changes nothing."""
        ...

    def advance(self, decided_at_ms: int) -> list[OutT]:
        """Learn the time; going back changes nothing."""
        ...

    @property
    def settled(self) -> bool:
        """Whether all that was received is in the mapping, so that the host may move its cursor.

        A stage that writes with each record is always settled. One that snapshots answers False in between: its host
        then writes nothing, and a restart reads on from the last cursor.
        """
        ...


class InPieces(Protocol[OutT]):
    """A stage that may have much to do at once, and does it in pieces, so that its host can do something else in between.

    Each of its calls does one piece. Whoever drives it asks for `more` before it tells it anything else, until there is
    none. Where it was cut cannot be seen in what comes out, nor whether another object went on over the same mapping: while
    it is settled, what is left follows from the mapping.
    """

    @property
    def has_more(self) -> bool:
        """Whether something is left that can be decided now."""
        ...

    def more(self) -> list[OutT]:
        """Do the next piece."""
        ...


def has_more(stage: object) -> bool:
    """Tell whether a stage, in pieces or not, has something left to do."""
    return bool(getattr(stage, "has_more", False))


def whole(stage: InPieces[OutT], first: list[OutT]) -> list[OutT]:
    """Return all pieces of what a call began; `first` is what it gave."""
    outputs = list(first)
    while stage.has_more:
        outputs += stage.more()
    return outputs


class Overlay(MutableMapping[str, RowT], Generic[RowT]):
    """A mapping in which writes wait until the host has made them durable, all of them or none.

    >>> base = {"a": 1, "b": 2}
    >>> rows = Overlay(base)
    >>> rows["a"] = 5; del rows["b"]; rows["c"] = 7
    >>> sorted(rows.items()), base
    ([('a', 5), ('c', 7)], {'a': 1, 'b': 2})
    >>> rows.changes()
    {'a': 5, 'b': None, 'c': 7}
    >>> rows.settle(); len(rows.changes())
    0
    """

    def __init__(self, base: Mapping[str, RowT]) -> None:
        self._base = base
        self._changes: dict[str, RowT | None] = {}

    def __getitem__(self, key: str) -> RowT:
        if key in self._changes:
            row = self._changes[key]
            if row is None:
                raise KeyError(key)
            return row
        return self._base[key]

    def __setitem__(self, key: str, row: RowT) -> None:
        self._changes[key] = row

    def __delitem__(self, key: str) -> None:
        self[key]
        self._changes[key] = None

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._base if key not in self._changes)
        yield from (key for key, row in self._changes.items() if row is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def changes(self) -> dict[str, RowT | None]:
        """Return the last of what was assigned to each key since the last `settle`; None means deleted."""
        return dict(self._changes)

    def settle(self) -> None:
        """Forget the waiting writes: the base holds them now."""
        self._changes.clear()
