"""How much of the budget of false pages was spent of late? The topic `ledger` says it, an hour to an entry."""

import msgspec

from detectors.budget import WEEK_MS, Budget, Ledger
from schemas.fields import MalformedRecordError
from schemas.ledger_entry import LedgerEntry
from streams.runtime.reading import Reader
from streams.runtime.terminal import complain
from streams.runtime.topics import LEDGER

LOOKS = (4_000, 100_000)
"""Records of each partition that are looked at: first so many, and more only where they reach no week back."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one model spent of one ledger in a week.

    Parameters
    ----------
    spent
        Expected false pages, or tickets, that lanes, recovery tests and deployments were allowed.
    per_week
        What the settings let this model spend a week, with shares that nothing spends yet; None for a model that they do
        not list.
    """

    model: str
    ledger: Ledger
    spent: float
    per_week: float | None


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent in the last week that the ledger knows.

    Parameters
    ----------
    from_ms, to_ms
        The week, in event time: it ends with the newest entry. None where there is no entry.
    all
        Whether every entry of it was looked at, so that the sums are no less than what was spent.
    rows
        By model and ledger.
    """

    from_ms: int | None
    to_ms: int | None
    all: bool
    rows: list[Spent]


def spending(reader: Reader, budget: Budget) -> Spending:
    """Add up the newest week of the ledger; an entry that a worker wrote twice counts once."""
    for last in LOOKS:
        entries, reaches_back, unread = _entries(reader, last)
        to_ms = max((one.to_ms for one in entries), default=0)
        is_all = all(since_ms <= to_ms - WEEK_MS for since_ms in reaches_back)
        if is_all:
            break
    if unread:
        complain(f"records of {reader.topic(LEDGER)} that cannot be read, and are left out: {unread}")
    sums: dict[tuple[str, Ledger], float] = {}
    for one in entries:
        if one.to_ms > to_ms - WEEK_MS:
            sums[one.model, one.ledger] = sums.get((one.model, one.ledger), 0.0) + one.spent
    rows = [
        Spent(model=model, ledger=ledger, spent=spent, per_week=_per_week(budget, model, ledger))
        for (model, ledger), spent in sorted(sums.items())
    ]
    known = bool(entries)
    return Spending(from_ms=to_ms - WEEK_MS if known else None, to_ms=to_ms if known else None, all=is_all, rows=rows)


def _entries(reader: Reader, last: int) -> tuple[list[LedgerEntry], list[int], int]:
    """Read the newest entries, each once; and since when they are known, of each partition that has older ones; how many cannot be read."""
    spans = {partition: reader.bounds(LEDGER, partition) for partition in range(reader.partitions(LEDGER))}
    since_ms = {partition: -1 for partition, (low, high) in spans.items() if high - low <= last}
    entries: dict[tuple[str, str, str, str, int, int], LedgerEntry] = {}
    unread = 0
    for read in reader.between(LEDGER, {one: (max(low, high - last), high) for one, (low, high) in spans.items()}):
        try:
            one = LedgerEntry.decode(read.value)
        except MalformedRecordError:
            unread += 1
            continue
        since_ms.setdefault(read.partition, one.to_ms)
        entries[one.model, one.detector, one.ledger, one.reason, one.from_ms, one.to_ms] = one
    return list(entries.values()), list(since_ms.values()), unread


def _per_week(budget: Budget, model: str, ledger: Ledger) -> float | None:
    return budget.per_week(ledger) * budget.model_share(model) if model in budget.tiers else None
