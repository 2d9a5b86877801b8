"""From where to where does a batch reach that no client can read? It is asked until it is known.

A batch cannot be read when it cannot be decompressed, or when its bytes changed on a broker's disk.
"""

from collections.abc import Callable

from confluent_kafka import KafkaError

UNREADABLE = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)  # noqa: SLF001 -- so they are named in the client
CHECKED = {"check.crcs": "true"}
"""Settings of a client that sees when bytes have changed."""
EXPECTED = "a batch that can be read"
"""What the dead letter of such a batch says was expected."""


def reach(ask: Callable[[int], int | None], at: int, end: int) -> tuple[int, int] | None:
    """Return the offsets `[begins, ends)` of the batch that stands in the way at `at`; None when it can be read.

    A client says where it begins only: its end is searched, in steps that double, then halve.

    Parameters
    ----------
    ask
        Asks the brokers anew for what lies at an offset: None when it can be read, else the first offset of its batch.
    end
        Where the log ends, or what is asked for.

    Examples
    --------
    >>> reach(lambda offset: 3 if 3 <= offset < 12 else None, 3, 40)
    (3, 12)
    """
    begins = ask(at)
    if begins is None:
        return None
    inside = first = max(begins, at)
    beyond, step = end, 1

    def is_inside(offset: int) -> bool:
        found = ask(offset)
        return found is not None and found <= first  # else it is another, further on

    while inside + step < beyond and is_inside(inside + step):
        inside, step = inside + step, 2 * step
    beyond = min(inside + step, beyond)
    while beyond - inside > 1:
        middle = (inside + beyond) // 2
        inside, beyond = (middle, beyond) if is_inside(middle) else (inside, middle)
    return first, beyond
