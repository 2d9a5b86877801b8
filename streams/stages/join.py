"""What did the model say, what was true, and how late did we learn it?

The rules, one by one, are those of `docs/decisions/0004-the-join-by-place.md`; the code cites them by number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from schemas.baseline import Baseline
from schemas.dead_letter import DeadLetter
from schemas.model import Model
from schemas.outcome import Outcomes
from streams.stages.batch import LabelBatch, OutputBatch
from streams.stages.blocks import Checkpoint, Journal, Send

OUTPUTS, LABELS = "model-outputs", "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """Waits and bounds of the join; none has a default.

    Parameters
    ----------
    tick_ms
        Length of a tick.
    allowed_disorder_ms
        How far event times of one partition may be out of order before a row is late.
    idle_after_ms
        How long a partition at its edge may be silent before the clock moves its watermark.
    default_label_wait_ms
        How long after an output of a model that is not listed its label may come.
    orphan_wait_ms
        How long a label waits for its output, and an id is known past its deadline.
    correction_wait_ms
        How long after its first label an output takes corrections.
    future_skew_ms
        How far an event time may lie past the broker's time of its message.
    max_lanes_per_model
        Lanes of a model that are counted apart; all else is `(other)`.
    block_rows
        Rows of a segment; at most 65,536.
    orphans_bound_rows
        Labels that wait for their output at most; past it the oldest become dead letters.
    needs
        Names of the statistics to count (`detectors.statistics`): the union of what the detectors declare.
    """

    tick_ms: int
    allowed_disorder_ms: int
    idle_after_ms: int
    default_label_wait_ms: int
    orphan_wait_ms: int
    correction_wait_ms: int
    future_skew_ms: int
    max_lanes_per_model: int
    block_rows: int
    orphans_bound_rows: int
    needs: tuple[str, ...]


class Join:
    """The join of one input partition. Time is told; what must last is in its checkpoints.

    A host reads `model-outputs` and `labels` of `partition` from `positions`, hands over batches in order, calls
    `advance` between them, and every now and then makes a `checkpoint` durable.

    Parameters
    ----------
    models
        The configured models by name; a model that is not listed is joined with the default wait.
    partition, partitions
        Which input partition, of how many.
    journal
        Epoch of this owner and where cold rows lie.
    on_outcomes
        Called with the outcomes as they are made, in no lasting order; None when nobody looks.
    """

    def __init__(
        self,
        *,
        settings: JoinSettings,
        models: Mapping[str, Model],
        partition: int,
        partitions: int,
        journal: Journal,
        on_outcomes: Callable[[Outcomes], None] | None = None,
    ) -> None:
        raise NotImplementedError

    @classmethod
    def restore(
        cls,
        blocks: Mapping[bytes, bytes],
        manifest: bytes,
        *,
        settings: JoinSettings,
        models: Mapping[str, Model],
        partition: int,
        partitions: int,
        journal: Journal,
        on_outcomes: Callable[[Outcomes], None] | None = None,
    ) -> Self:
        """Go on from the manifest that the host believes.

        Parameters
        ----------
        blocks
            What the changelog partition holds before one's own claim: last value of each key, without manifests and
            claims. What the manifest does not name is tombstoned at the first checkpoint.
        manifest
            Value of the believed manifest.

        Raises
        ------
        MalformedRecordError
            When a block that the manifest names is missing or torn, or was made under another tick or partition count.
        """
        raise NotImplementedError

    def take_baseline(self, baseline: Baseline) -> None:
        """Use a baseline's bins for the ticks from its `valid_from_ms` on that are not open yet.

        Of the versions valid at a tick's start the greatest counts. Any part of a baseline will do, and a repeat
        changes nothing. Hand over all that are published before the first batch.

        Raises
        ------
        MalformedRecordError
            When its tick is not ours.
        """
        raise NotImplementedError

    def receive(self, batch: OutputBatch | LabelBatch) -> list[DeadLetter]:
        """Take one batch, in order of place; what was already taken changes nothing.

        Answers with the rows that were refused: too far in the future, or orphans over the bound. Their dead letters
        have no bytes; the host, which has them, may add them.
        """
        raise NotImplementedError

    def advance(self, clock_ms: int, *, outputs_at_edge: bool, labels_at_edge: bool) -> None:
        """Learn the time; it moves the watermark of a topic only when that is told to be at its edge.

        At the edge means that a probe answered by the broker shows position == high watermark, and that all up to
        there was received.
        """
        raise NotImplementedError

    def checkpoint(self) -> Checkpoint:
        """Return what must be made durable since the last one, in order."""
        raise NotImplementedError

    def sent(self, through_ms: int) -> None:
        """Learn that everything closed through this event time is acknowledged on `window-stats`."""
        raise NotImplementedError

    def unsent(self) -> list[Send]:
        """Return what is closed by the last manifest and not known to be sent; a restart sends it again."""
        raise NotImplementedError

    @property
    def positions(self) -> dict[str, int]:
        """Next offset of each topic."""
        raise NotImplementedError

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the partition began, by name."""
        raise NotImplementedError

    @property
    def gauges(self) -> dict[str, int]:
        """What is held now, by name."""
        raise NotImplementedError

    def conservation_error(self) -> int:
        """Rows by which the four equations of conservation do not balance; anything but 0 is our fault."""
        raise NotImplementedError
