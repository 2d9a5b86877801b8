"""Whose is a partition, and which state counts? What the changelog's own order says.

Taking a partition: read its changelog to the end, write a claim of the next epoch, read on to that claim, and believe
the greatest manifest before it. A manifest that follows a claim of a higher epoch never counts: a zombie wrote it. When
another claim of the same epoch lies before one's own, claim again. From then on whoever meets a claim as high as its
own, by another, is the zombie, and ends.

All of this is arithmetic over the records of one partition in order; the host reads and writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from schemas.fields import MalformedRecordError
from streams.stages.blocks import BlockKey, Manifest, believed

TAKEN_OVER = (
    "another worker has this one's name or partitions: give each its own worker.instance, and start this one again"
)


class FencedError(Exception):
    """Another worker has taken this partition while this one was away. It ends by itself; the message says what to do."""


class Taking(Enum):
    """What comes next when taking a partition."""

    READ = "read"
    CLAIM = "claim"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """State to go on from.

    Parameters
    ----------
    manifest
        Value of the believed manifest, None for a partition that begins.
    blocks
        Last value of each key before the claim, without manifests and claims.
    old_claims
        Keys of claims of lower epochs: tombstones may follow the first manifest of one's own.
    """

    manifest: bytes | None
    blocks: Mapping[bytes, bytes]
    old_claims: tuple[bytes, ...]


@dataclass(slots=True)
class Claim:
    """One attempt to own a partition, and the watch over it afterwards.

    Parameters
    ----------
    partition
        Which input partition.
    owner
        A number that no other process has: part of the claim's key, so that compaction keeps two claims apart.

    Examples
    --------
    >>> claim = Claim(partition=3, owner=77)
    >>> claim.end(); claim.next
    <Taking.CLAIM: 'claim'>
    >>> key = claim.key(); key
    b'3/claim/1/77/0'
    >>> claim.claimed_at(0); claim.meet(0, key, b"{}"); claim.next
    <Taking.TAKEN: 'taken'>
    >>> claim.meet(1, b"3/claim/2/78/0", b"{}")
    Traceback (most recent call last):
    streams.runtime.claims.FencedError: partition 3: epoch 1 of 77 met the claim 3/claim/2/78/0: ...
    """

    partition: int
    owner: int
    epoch: int = 0
    next: Taking = Taking.READ
    foreign: int = 0
    """Records whose key is none of ours."""
    read_to: int = 0
    """Offset behind the last record that was met."""
    _own_offset: int | None = None
    _highest: int = 0
    _rival: bool = False
    _blocks: dict[bytes, bytes] = field(default_factory=dict)
    _claims: dict[bytes, int] = field(default_factory=dict)
    _manifests: dict[int, bytes] = field(default_factory=dict)

    def end(self) -> None:
        """Learn that all there is was met."""
        if self.next is Taking.READ and self._own_offset is None:
            self._ask()

    def _ask(self) -> None:
        self.epoch = self._highest + 1
        self._rival = False
        self.next = Taking.CLAIM

    def key(self) -> bytes:
        """Return the key of the claim to write."""
        return BlockKey(self.partition, "claim", self.epoch, self.owner, 0).encode()

    def claimed_at(self, offset: int) -> None:
        """Learn that the claim is acknowledged, and where it lies: it is to be read on to there."""
        assert self.next is Taking.CLAIM, self.next
        self._own_offset = offset
        self.next = Taking.READ

    def meet(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Take note of one record of the changelog, in order of offset.

        Raises
        ------
        FencedError
            Another has claimed what was taken.
        """
        self.read_to = offset + 1
        try:
            name = BlockKey.decode(key or b"")
        except MalformedRecordError:
            self.foreign += 1
            return
        if self.next is Taking.TAKEN:
            self._watch(name, value)
            return
        assert key is not None, "it was decoded"
        if name.kind == "claim":
            self._meet_claim(offset, name, key, value)
        elif name.kind == "manifest":
            if value is not None and name.epoch >= self._highest:
                self._manifests[name.epoch] = value
            elif value is None:
                self._manifests.pop(name.epoch, None)
        elif value is None:
            self._blocks.pop(key, None)
        else:
            self._blocks[key] = value

    def _meet_claim(self, offset: int, name: BlockKey, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._claims.pop(key, None)
            return
        self._claims[key] = name.epoch
        if offset == self._own_offset:
            self._own_offset = None
            if self._rival:
                self._highest = max(self._highest, self.epoch)
                self._ask()
            else:
                self.next = Taking.TAKEN
            return
        self._highest = max(self._highest, name.epoch)
        # one that is written, but whose place is not known yet, is met only after its acknowledgement
        if self.epoch and name.epoch >= self.epoch:
            self._rival = True

    def _watch(self, name: BlockKey, value: bytes | None) -> None:
        own = (name.epoch, name.run) == (self.epoch, self.owner)
        if name.kind == "claim" and value is not None and name.epoch >= self.epoch and not own:
            raise FencedError(
                f"partition {self.partition}: epoch {self.epoch} of {self.owner} met the claim {name.encode().decode()}: "
                f"{TAKEN_OVER}"
            )

    def kept(self) -> Kept:
        """Return the state to go on from, once; it is let go of."""
        assert self.next is Taking.TAKEN, self.next
        manifests = {epoch: Manifest.decode(value) for epoch, value in self._manifests.items()}
        best = believed(manifests.values())
        kept = Kept(
            manifest=None if best is None else self._manifests[best.epoch],
            blocks=self._blocks,
            old_claims=tuple(key for key, epoch in self._claims.items() if epoch < self.epoch),
        )
        self._blocks, self._manifests, self._claims = {}, {}, {}
        return kept
