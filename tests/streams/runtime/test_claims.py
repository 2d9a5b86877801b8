"""One owner at a time, and no zombie's state is believed."""

import itertools

import pytest

from streams.runtime.claims import Claim, FencedError, Taking
from streams.stages.blocks import BlockKey, Manifest

Record = tuple[bytes, bytes | None]


class Partition:
    """A changelog partition: what was appended, in order."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, key: bytes, value: bytes | None = b"{}") -> int:
        self.records.append((key, value))
        return len(self.records) - 1

    def manifest(self, epoch: int, sequence: int) -> int:
        made = Manifest(
            epoch=epoch, sequence=sequence, partition=3, partitions=4, tick_ms=1, block_rows=1, positions={},
            watermarks={}, counters={}, runs=[], closed_through_ms=None, sent_through_ms=None, cause="records", numbers={},
        )  # fmt: skip
        return self.append(BlockKey(3, "manifest", epoch, 0, 0).encode(), made.encode())

    def read(self, claim: Claim) -> Claim:
        for offset in range(claim.read_to, len(self.records)):
            if claim.next is Taking.CLAIM:
                break
            claim.meet(offset, *self.records[offset])
        return claim

    def asking(self, owner: int) -> Claim:
        """Read to the end, as the first step."""
        claim = self.read(Claim(partition=3, owner=owner))
        claim.end()
        return claim

    def take(self, owner: int) -> Claim:
        """Take the partition with nobody interfering."""
        claim = self.asking(owner)
        claim.claimed_at(self.append(claim.key()))
        self.read(claim)
        assert claim.next is Taking.TAKEN
        return claim


def sequence_of(claim: Claim) -> tuple[int, int] | None:
    value = claim.kept().manifest
    return None if value is None else (Manifest.decode(value).epoch, Manifest.decode(value).sequence)


def test_a_partition_begins_with_nothing_and_epoch_one() -> None:
    claim = Partition().take(1)
    assert (claim.epoch, sequence_of(claim)) == (1, None)


def test_the_next_owner_believes_the_last_manifest_and_the_last_value_of_each_block() -> None:
    partition = Partition()
    partition.take(1)
    partition.append(b"3/rows/1/0/0", b"old")
    partition.append(b"3/rows/1/0/0", b"new")
    partition.append(b"3/rows/1/1/0", b"gone")
    partition.manifest(1, 1)
    partition.append(b"3/rows/1/1/0", None)
    partition.manifest(1, 2)
    claim = partition.take(2)
    kept = claim.kept()
    assert claim.epoch == 2
    assert kept.blocks == {b"3/rows/1/0/0": b"new"}
    assert kept.old_claims == (b"3/claim/1/1/0",)
    assert kept.manifest is not None
    assert Manifest.decode(kept.manifest).sequence == 2


def test_a_zombies_manifest_after_a_higher_claim_never_counts() -> None:
    partition = Partition()
    partition.take(1)
    partition.manifest(1, 7)
    second = partition.take(2)
    partition.manifest(1, 8)  # the zombie's
    third = partition.take(3)
    assert (second.epoch, third.epoch) == (2, 3)
    assert sequence_of(third) == (1, 7)


def test_what_lies_after_the_claim_is_not_in_the_state() -> None:
    partition = Partition()
    partition.take(1)
    partition.manifest(1, 1)
    claim = partition.asking(2)
    at = partition.append(claim.key())
    partition.manifest(1, 2)
    claim.claimed_at(at)
    for offset in range(claim.read_to, at + 1):
        claim.meet(offset, *partition.records[offset])
    assert sequence_of(claim) == (1, 1)


def test_an_owner_that_meets_another_claim_is_fenced() -> None:
    partition = Partition()
    first = partition.take(1)
    partition.read(first)
    partition.take(2)
    with pytest.raises(FencedError, match=r"epoch 1 of 1 met the claim 3/claim/2/2/0: .* its own worker\.instance"):
        partition.read(first)


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_of_some_that_claim_at_once_exactly_one_goes_on(order: tuple[int, ...]) -> None:
    #  read   read   read   claim   claim   claim      all of one epoch
    partition = Partition()
    claims = {owner: partition.asking(owner) for owner in (1, 2, 3)}
    going = list(order)
    while any(claims[owner].next is not Taking.TAKEN for owner in going):
        for owner in list(going):
            claim = claims[owner]
            if claim.next is Taking.CLAIM:
                claim.claimed_at(partition.append(claim.key()))
        for owner in list(going):
            try:
                partition.read(claims[owner])
            except FencedError:
                going.remove(owner)
    for owner in list(going):
        try:
            partition.read(claims[owner])
        except FencedError:
            going.remove(owner)
    assert len(going) == 1


def test_a_tombstone_of_an_old_claim_harms_nobody() -> None:
    partition = Partition()
    partition.take(1)
    second = partition.take(2)
    for key in second.kept().old_claims:
        partition.append(key, None)
    partition.read(second)
    assert partition.take(3).epoch == 3


def test_records_that_are_none_of_ours_are_counted() -> None:
    partition = Partition()
    partition.append(b"what", b"ever")
    assert partition.take(1).foreign == 1


def test_who_claims_second_claims_again_and_fences_the_first() -> None:
    partition = Partition()
    first, second = partition.asking(1), partition.asking(2)
    first.claimed_at(partition.append(first.key()))
    second.claimed_at(partition.append(second.key()))
    assert partition.read(second).next is Taking.CLAIM, "another claim of its epoch lies before its own"
    assert second.epoch == 2
    with pytest.raises(FencedError, match="met the claim 3/claim/1/2/0"):
        partition.read(first)
