"""What does a million events a second need? Arithmetic on measured figures: processes, partitions, memory, network, brokers."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from tests.benchmarks.figures import shown
from tests.benchmarks.markdown import markdown

EVENTS = 1_000_000
OUTPUT_SHARE = 1 / 1.84
"""As in the benchmark: 0.84 labels to an output."""
LOAD = 0.6
"""Of what a process can do, so much is used: it catches up an hour's stop in an hour and a half."""
PARTITIONS_A_PROCESS = 4
"""So that a process that is lost is shared by several, and more processes can be added."""
COPIES = 3
BASE_BYTES = 400e6
"""Of a process with nothing pending: libraries, and what is fetched ahead."""
BROKER_WRITES = 100e6
"""Bytes a second that one broker may write, copies included: a plain disk and a 10 Gbit/s network do more."""
LEAST_BROKERS = 3
OUTPUT_BYTES, LABEL_BYTES = 214, 94
BATCHED_OUTPUT_BYTES, BATCHED_LABEL_BYTES = 111, 45
HELD_H = 1, 6, 24, 15 * 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of sending rows.

    Parameters
    ----------
    rate
        Rows a second of one process.
    output_bytes, label_bytes
        Of a row in its message, before compression.
    """

    name: str
    rate: float
    output_bytes: int
    label_bytes: int

    @property
    def processes(self) -> int:
        """How many processes of the join."""
        return ceil(EVENTS / (LOAD * self.rate))

    @property
    def partitions(self) -> int:
        """How many partitions of each input: a power of two."""
        return 1 << (PARTITIONS_A_PROCESS * self.processes - 1).bit_length()

    @property
    def in_bytes(self) -> float:
        """Bytes a second that producers send."""
        return EVENTS * (OUTPUT_SHARE * self.output_bytes + (1 - OUTPUT_SHARE) * self.label_bytes)


def plan(medians: Mapping[str, float]) -> str:
    """Return tables for the page."""
    ways = [
        Way(
            name="one row a message",
            rate=medians["join_single_rows_per_s"],
            output_bytes=OUTPUT_BYTES,
            label_bytes=LABEL_BYTES,
        ),
        Way(
            name="100 rows a message",
            rate=medians["join_batched_rows_per_s"],
            output_bytes=BATCHED_OUTPUT_BYTES,
            label_bytes=BATCHED_LABEL_BYTES,
        ),
    ]
    changelog = EVENTS * medians["changelog_bytes_per_row"]
    rows = [["rows/s of one process", *(shown(way.rate) for way in ways)]]
    rows += [
        [f"processes, each with a processor to itself, at {LOAD:.0%}", *(str(way.processes) for way in ways)],
        ["partitions of each input", *(str(way.partitions) for way in ways)],
        ["producers send, MB/s before compression", *(shown(way.in_bytes / 1e6) for way in ways)],
        ["the changelog adds, MB/s before compression", *(shown(changelog / 1e6) for _ in ways)],
        [
            f"brokers write in all, with {COPIES} copies, MB/s",
            *(shown(COPIES * (way.in_bytes + changelog) / 1e6) for way in ways),
        ],
        [
            f"brokers, at {BROKER_WRITES / 1e6:.0f} MB/s each",
            *(str(max(LEAST_BROKERS, ceil(COPIES * (way.in_bytes + changelog) / BROKER_WRITES))) for way in ways),
        ],
    ]
    each = markdown(["", *(way.name for way in ways)], rows)
    held = [
        [
            f"{hours} h" if hours < 48 else f"{hours // 24} d",
            shown(_held(hours) / 1e9),
            *(
                shown((_held(hours) * medians["pending_bytes_per_output"] / way.processes + BASE_BYTES) / 1e9)
                for way in ways
            ),
            shown(_held(hours) * medians["disk_bytes_per_output"] / 1e9),
        ]
        for hours in HELD_H
    ]
    head = ["outputs are known for", "rows, 10⁹", *(f"GB a process, {way.name}" for way in ways), "GB on disk in all"]
    return f"{each}\n\n{markdown(head, held)}"


def _held(hours: int) -> float:
    return EVENTS * OUTPUT_SHARE * hours * 3_600
