"""What did the model say, what was true, and how late did we learn it?

The rules, one by one, are those of `docs/decisions/0004-the-join-by-place.md`; the code cites them by number.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from detectors.statistics import LabelledRows, OutputRows
from schemas.baseline import Baseline
from schemas.binning import Binning
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.model import Model
from schemas.outcome import Outcomes
from streams.stages.batch import MISPLACED, NOT_LOOKED_AT, Coded, Ints, LabelBatch, OutputBatch
from streams.stages.blocks import (
    Array,
    Block,
    BlockKey,
    BlockWriter,
    Cause,
    Checkpoint,
    Journal,
    Manifest,
    Run,
    Send,
    decode,
    whole,
)
from streams.stages.cells import CELLS, CellBook
from streams.stages.counting import Counting, declared_slots
from streams.stages.distinct import distinct
from streams.stages.hash_index import Places
from streams.stages.known import EXPIRED, LABELLED, SETTLED, KnownOutputs, KnownRows
from streams.stages.orphans import ORPHAN, Orphans
from streams.stages.row_log import RowLog
from streams.stages.watermark import NEVER, Watermark

OUTPUTS, LABELS = "model-outputs", "labels"

MARK = np.dtype(
    [
        ("segment", "<u4"),
        ("row", "<u4"),
        ("first_place_ms", "<i8"),
        ("labelled_at_ms", "<i8"),
        ("version", "<i8"),
        ("tick_ms", "<i8"),  # in which the outcome counts
        ("label", "<u4"),
        ("retracted", "?"),
    ]
)
"""What a labelled output keeps while it takes corrections: its first label's place, and its highest version."""

COUNTERS = (
    "output_rows",
    "label_rows",
    "labelled",
    "expired",
    "duplicate_output",
    "conflicting_output",
    "late_output",
    "dead_output",
    "joined",
    "corrected",
    "duplicate_label",
    "late_label",
    "label_flips",
    "orphan_expired",
    "dead_label",
    "future_rows",
    "orphans_over_bound",
    "closed_labelled",
    "closed_expired",
    "closed_sampled",
    "closed_misplaced",
)
"""What is counted. `output_rows` = labelled + expired + pending + duplicate_output + dead_output, and so on."""

_BUCKETS = 64  # of deadlines over the time that an id is known
_BUCKET_BOUND_MS = 1 << 31  # deadlines are kept as 32 bits from their bucket's start
_CELL_RUNS = 16
CLOCKS_APART_MS = 5_000
"""How far the clocks of producers may be ahead of the broker's before a row of theirs takes more room."""
_HALF_WORD = np.uint32(16)


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


class Saved(NamedTuple):
    """State to go on from: value of the believed manifest, and the blocks by key."""

    manifest: bytes
    blocks: Mapping[bytes, bytes]


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
    saved
        State to go on from, None for a partition that begins: see `restore`.
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
        saved: Saved | None = None,
    ) -> None:
        manifest = None if saved is None else Manifest.decode(saved.manifest)
        self.settings = settings
        self._partition = partition
        self._partitions = partitions
        self._journal = journal
        self._on_outcomes = on_outcomes
        self._block_rows = settings.block_rows if manifest is None else manifest.block_rows
        numbers = {} if manifest is None else manifest.numbers
        self._positions: dict[str, int] = {} if manifest is None else dict(manifest.positions)
        self._watermarks = {topic: self._watermark(topic, manifest) for topic in (OUTPUTS, LABELS)}
        self._book = CellBook(models, default_label_wait_ms=settings.default_label_wait_ms)
        self._known = KnownOutputs(
            bucket_ms=_bucket_ms(settings, models),
            block_rows=self._block_rows,
            ahead_ms=settings.allowed_disorder_ms + CLOCKS_APART_MS,
            label_wait_of=lambda cells: self._book.label_wait_ms[cells],
            store=journal.runs,
            first_number=numbers.get("segment", 0),
        )
        self._marks = RowLog(MARK, kind="marks", block_rows=self._block_rows, start=numbers.get("marks", 0))
        self._orphans = Orphans(block_rows=self._block_rows, start=numbers.get("orphans", 0))
        self._counting = Counting(
            book=self._book,
            models=models,
            tick_ms=settings.tick_ms,
            max_lanes=settings.max_lanes_per_model,
            needs=settings.needs,
            partition=partition,
            partitions=partitions,
        )
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._closed_through_ms = None if manifest is None else manifest.closed_through_ms
        self._sent_through_ms = None if manifest is None else manifest.sent_through_ms
        self._manifest_through_ms = self._closed_through_ms
        self._manifest_counters: Mapping[str, int] = {} if manifest is None else manifest.counters
        self._cause: Cause = "records" if manifest is None else manifest.cause
        self._sequence = 0 if manifest is None else manifest.sequence
        self._cell_runs: list[Run] = []
        if saved is None or manifest is None:
            self._writer = BlockWriter(partition=partition, epoch=journal.epoch)
        else:
            self._writer = self._writer_after(manifest, saved.blocks)
            self._take_blocks(manifest, saved.blocks)

    def _watermark(self, topic: str, manifest: Manifest | None) -> Watermark:
        disorder = self.settings.allowed_disorder_ms
        mark = None if manifest is None else manifest.watermarks.get(topic)
        if mark is None or mark.ms is None:
            return Watermark(allowed_disorder_ms=disorder)
        return Watermark(allowed_disorder_ms=disorder, ms=mark.ms, cause=mark.cause)

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
        return cls(
            settings=settings,
            models=models,
            partition=partition,
            partitions=partitions,
            journal=journal,
            on_outcomes=on_outcomes,
            saved=Saved(manifest, blocks),
        )

    def _writer_after(self, manifest: Manifest, blocks: Mapping[bytes, bytes]) -> BlockWriter:
        made_under = (manifest.partition, manifest.partitions, manifest.tick_ms)
        if made_under != (self._partition, self._partitions, self.settings.tick_ms):
            ours = f"partition {self._partition} of {self._partitions} with a tick of {self.settings.tick_ms} ms"
            raise MalformedRecordError("manifest", "", ours, "{} of {} with {} ms".format(*made_under))
        epoch = self._journal.epoch
        named = {key for run in manifest.runs for key in run.keys(self._partition)}
        written = [BlockKey.decode(key) for key in {*blocks, *named}]
        writer = BlockWriter(
            partition=self._partition,
            epoch=epoch,
            first_run=1 + max((key.run for key in written if key.epoch == epoch), default=-1),
            runs=manifest.runs,
            garbage=sorted(blocks.keys() - named),
        )
        if manifest.epoch != epoch:
            writer.retire_key(BlockKey(self._partition, "manifest", manifest.epoch, 0, 0).encode())
        return writer

    def _take_blocks(self, manifest: Manifest, blocks: Mapping[bytes, bytes]) -> None:
        def of(kind: str) -> list[Block]:
            runs = sorted((run for run in manifest.runs if run.kind == kind), key=lambda run: (run.epoch, run.run))
            return [(run, *decode(whole(run, self._partition, blocks))) for run in runs]

        for run, header, _ in of("cells"):
            self._book.take_entries(header["cells"])
            self._cell_runs.append(run)
        for cells in self._known.restore(of("rows"), of("settled")):
            self._book.hold(cells, 1)
        self._marks.restore(of("marks"))
        for first, marks in self._marks.blocks():
            numbers = (np.arange(first, first + len(marks)) % (1 << 32)).astype(np.uint32)
            known, places = self._known.places_named(marks["segment"].astype(np.int64), marks["row"].astype(np.int64))
            self._known.label(places, numbers[known], distinct_places=False)
        self._known.expire(self.watermark_ms)
        self._orphans.restore(
            of("orphans"), of("taken"), expired_before_ms=manifest.numbers["orphans_expired_before_ms"]
        )
        self._counting.restore(of("open-ticks"), of("closed-ticks"))
        self._counts.update(manifest.counters)
        self._counting.closed_labelled = self._counts["closed_labelled"]
        self._counting.closed_expired = self._counts["closed_expired"]
        self._counting.closed_sampled = self._counts["closed_sampled"]
        self._counting.closed_misplaced = self._counts["closed_misplaced"]
        if self._closed_through_ms is not None:
            self._counting.rebuild_at_risk(
                self._closed_through_ms, self._without_closed_outcome(self._closed_through_ms)
            )

    def _without_closed_outcome(self, closed_through_ms: int) -> Iterator[tuple[Ints, Ints]]:
        """Yield model numbers and counting ticks of known outputs without an outcome in a closed tick."""
        tick_ms = self.settings.tick_ms
        for rows, places in self._known.each_segment():
            state = self._known.state[places]
            ticks = rows.counting_tick(tick_ms)
            outcome = np.full(len(rows), -NEVER, np.int64)
            outcome[state == SETTLED] = NEVER
            expired = state == EXPIRED
            outcome[expired] = np.maximum(ticks, rows.due_ms // tick_ms * tick_ms)[expired]
            labelled = state == LABELLED
            outcome[labelled] = self._marks.read(self._known.mark[places[labelled]])["tick_ms"]
            at_risk = outcome >= closed_through_ms
            yield self._book.model[rows.cell[at_risk]], ticks[at_risk]

    # -- what the host tells

    def take_baseline(self, baseline: Baseline) -> None:
        """Use a baseline's bins for the ticks from its `valid_from_ms` on that are not open yet.

        Of the versions valid at a tick's start the greatest counts. Any part of a baseline will do, and a repeat
        changes nothing. Hand over all that are published before the first batch.

        Raises
        ------
        MalformedRecordError
            When its tick is not ours.
        """
        self._counting.take_baseline(baseline)

    def receive(self, batch: OutputBatch | LabelBatch) -> list[DeadLetter]:
        """Take one batch, in order of place; what was already taken changes nothing.

        Answers with the rows that were refused: too far in the future, or orphans over the bound. Their dead letters
        have no bytes; the host, which has them, may add them.
        """
        topic = OUTPUTS if isinstance(batch, OutputBatch) else LABELS
        assert batch.partition == self._partition, (batch.partition, self._partition)
        position = self._positions.get(topic, batch.start)
        if batch.end <= position:
            return []
        assert batch.start >= position, f"a batch is taken whole: {topic} from {batch.start}, expected {position}"
        self._positions[topic] = batch.end
        dead = self._take_outputs(batch) if isinstance(batch, OutputBatch) else self._take_labels(batch)
        self._pass_time()
        return dead

    def advance(self, clock_ms: int, *, outputs_at_edge: bool, labels_at_edge: bool) -> None:
        """Learn the time; it moves the watermark of a topic only when that is told to be at its edge.

        At the edge means that a probe answered by the broker shows position == high watermark, and that all up to
        there was received.
        """
        to_ms = clock_ms - self.settings.allowed_disorder_ms - self.settings.idle_after_ms
        moved = [
            self._watermarks[topic].move(to_ms)
            for topic, at_edge in ((OUTPUTS, outputs_at_edge), (LABELS, labels_at_edge))
            if at_edge
        ]
        if any(moved):
            self._pass_time()

    # -- outputs

    def _take_outputs(self, batch: OutputBatch) -> list[DeadLetter]:
        settings = self.settings
        counts = self._counts
        counts["output_rows"] += len(batch.id_hash) + batch.dead
        counts["dead_output"] += batch.dead
        at, dead = self._not_future(OUTPUTS, batch, batch.made_at_ms)
        counts["dead_output"] += len(dead)
        if len(at) == 0:
            return dead
        made_at_ms = batch.made_at_ms[at]
        place_ms = self._watermarks[OUTPUTS].pass_rows(np.minimum(made_at_ms, batch.broker_ms[at]))
        self._counting.cover(OUTPUTS, self._tick(place_ms), batch.offset[at])
        self._look_at(batch.misplaced[at], made_at_ms, place_ms)
        cells = self._book.of_rows(
            _chosen(batch.model, at),
            _chosen(batch.version, at),
            {name: _chosen(column, at) for name, column in batch.segments.items()},
        )
        rows = KnownRows(
            batch.id_hash[at],
            made_at_ms + self._book.label_wait_ms[cells],
            made_at_ms,
            place_ms,
            _folded(batch.content[at]),
            cells.astype(np.uint16),
            batch.prediction[at],
            batch.score[at],
            batch.confidence[at],
        )
        new, by_hash = self._new_outputs(rows)
        if len(new) < len(rows):
            rows, at = rows[new], at[new]
        if len(rows) == 0:
            return dead
        counts["late_output"] += int(np.count_nonzero(rows.place_ms > rows.due_ms))
        places = self._known.add(rows, by_hash)
        self._book.hold(rows.cell, 1)
        ticks = rows.counting_tick(settings.tick_ms)
        for model, of in self._by_model(rows.cell):

            def rows_under(binning: Binning, chosen: Ints, of: Ints = of) -> OutputRows:
                mine = of[chosen]
                return OutputRows(
                    tick_ms=ticks[mine],
                    score=rows.score[mine],
                    confidence=rows.confidence[mine],
                    feature_slots=declared_slots(batch.features, at[mine], binning.features),
                )

            self._counting.count("outputs", model, rows.cell[of].astype(np.int64), ticks[of], rows_under)
        if self._orphans.waiting:
            self._pair_orphans(rows, places, by_hash)
        return dead

    def _new_outputs(self, rows: KnownRows) -> tuple[Ints, Ints]:
        """Rule 1: positions of the outputs whose id is not known at their place, and what sorts these by hash."""
        wait = self.settings.orphan_wait_ms
        order = np.argsort(rows.id_hash)
        hashes = rows.id_hash[order]
        again = hashes[1:] == hashes[:-1]
        if again.any():
            order = np.argsort(rows.id_hash, kind="stable")
        needle, places = self._known.find(hashes)
        if len(needle) == 0 and not again.any():
            return np.arange(len(rows)), order
        group = np.concatenate([np.zeros(1, np.int64), np.cumsum(~again)])
        groups = int(group[-1]) + 1
        known_until = np.full(groups, NEVER, np.int64)
        content = np.zeros(groups, np.uint16)
        contested = np.bincount(group, minlength=groups) > 1
        if len(needle):
            known = self._known.rows_at(places)
            newest = np.argsort(known.due_ms, kind="stable")
            known_until[group[needle[newest]]] = known.due_ms[newest] + wait
            content[group[needle[newest]]] = known.content[newest]
            contested[group[needle]] = True
        place_ms, until, says = rows.place_ms[order], rows.due_ms[order] + wait, rows.content[order]
        new = np.ones(len(rows), np.bool_)
        open_rows = np.flatnonzero(contested[group])
        while len(open_rows):
            of = group[open_rows]
            copy = place_ms[open_rows] <= known_until[of]
            new[open_rows[copy]] = False
            self._counts["duplicate_output"] += int(np.count_nonzero(copy))
            self._counts["conflicting_output"] += int(np.count_nonzero(copy & (says[open_rows] != content[of])))
            open_rows = open_rows[~copy]
            # one that is itself later than its wait makes no copies: passing over it only spares turns
            lasting = open_rows[place_ms[open_rows] <= until[open_rows]]
            first = lasting[np.unique(group[lasting], return_index=True)[1]]
            known_until[group[first]] = until[first]
            content[group[first]] = says[first]
            decided_to = np.full(groups, len(rows), np.int64)
            decided_to[group[first]] = first
            open_rows = open_rows[open_rows > decided_to[group[open_rows]]]
        kept = np.sort(order[new])
        return kept, np.argsort(rows.id_hash[kept])

    def _pair_orphans(self, rows: KnownRows, places: Places, order: Ints) -> None:
        """Give labels that waited to the first of these outputs that is pairable with each."""
        needle, numbers = self._orphans.find(rows.id_hash[order])
        if len(needle) == 0:
            return
        output = order[needle]
        orphans = self._orphans.read(numbers)
        pairable = self._pairable(rows[output], orphans["place_ms"])
        output, numbers, orphans = output[pairable], numbers[pairable], orphans[pairable]
        by_place = np.lexsort((output, orphans["row"], orphans["offset"]))
        output, numbers, orphans = output[by_place], numbers[by_place], orphans[by_place]
        first = np.sort(np.unique(numbers, return_index=True)[1])
        output, numbers, orphans = output[first], numbers[first], orphans[first]
        self._orphans.take(numbers)
        self._apply(places[output], rows[output], _Labels.waited(orphans))

    def _pairable(self, rows: KnownRows, label_place_ms: Ints) -> npt.NDArray[np.bool_]:
        """Rule 3: whether output and label see each other."""
        wait = self.settings.orphan_wait_ms
        pairable: npt.NDArray[np.bool_] = (rows.place_ms <= label_place_ms + wait) & (
            label_place_ms <= rows.due_ms + wait
        )
        return pairable

    # -- labels

    def _take_labels(self, batch: LabelBatch) -> list[DeadLetter]:
        counts = self._counts
        wait = self.settings.orphan_wait_ms
        counts["label_rows"] += len(batch.id_hash) + batch.dead
        counts["dead_label"] += batch.dead
        at, dead = self._not_future(LABELS, batch, batch.labelled_at_ms)
        counts["dead_label"] += len(dead)
        if len(at) == 0:
            return dead
        labelled_at_ms = batch.labelled_at_ms[at]
        place_ms = self._watermarks[LABELS].pass_rows(np.minimum(labelled_at_ms, batch.broker_ms[at]))
        self._counting.cover(LABELS, self._tick(place_ms), batch.offset[at])
        self._look_at(batch.misplaced[at], labelled_at_ms, place_ms)
        waits = np.array([self._book.wait_of(model) for model in batch.model.values], np.int64)
        own_due_ms = np.where(batch.made_at_ms[at] >= 0, batch.made_at_ms[at] + waits[batch.model.codes[at]], -NEVER)
        late = own_due_ms < place_ms
        gone = late & (own_due_ms + wait < place_ms)  # rule 8: by its own word no output can be pairable with it
        counts["late_label"] += int(np.count_nonzero(gone))
        if gone.any():
            at, labelled_at_ms, place_ms, late = at[~gone], labelled_at_ms[~gone], place_ms[~gone], late[~gone]
        order = np.argsort(batch.id_hash[at])
        needle, places = self._known.find(batch.id_hash[at][order])
        label = order[needle]
        if len(label) > 1:
            in_place = np.argsort(label)
            label, places = label[in_place], places[in_place]
        rows = self._known.rows_at(places)
        pairable = self._pairable(rows, place_ms[label])
        if not pairable.all():
            label, places, rows = label[pairable], places[pairable], rows[pairable]
        # several outputs of one id: the first by place; of those at one place only the last is not late beyond all waits
        if len(label) and int(np.bincount(label).max()) > 1:
            by_place = np.lexsort((rows.place_ms <= rows.due_ms + wait, rows.place_ms, label))
            first = by_place[np.unique(label[by_place], return_index=True)[1]]
            label, places, rows = label[first], places[first], rows[first]
        columns = _Labels(
            place_ms,
            labelled_at_ms,
            batch.version[at],
            batch.label[at],
            batch.retracted[at],
        )
        self._apply(places, rows, columns[label])
        alone = np.ones(len(at), np.bool_)
        alone[label] = False
        over = alone & (self._watermarks[OUTPUTS].ms > place_ms + wait)
        self._count_orphans_expired(late[over])
        alone &= ~over
        if alone.any():
            orphans = np.empty(int(np.count_nonzero(alone)), ORPHAN)
            for name, column in (
                ("id_hash", batch.id_hash[at]),
                ("offset", batch.offset[at]),
                ("row", batch.row[at]),
                ("place_ms", place_ms),
                ("labelled_at_ms", labelled_at_ms),
                ("version", columns.version),
                ("label", columns.label),
                ("retracted", columns.retracted),
                ("late", late),
            ):
                orphans[name] = column[alone]
            self._orphans.add(orphans)
            dead += self._over_bound()
        return dead

    def _over_bound(self) -> list[DeadLetter]:
        bound = self.settings.orphans_bound_rows
        over = self._orphans.overflow(bound)
        self._counts["dead_label"] += len(over)
        self._counts["orphans_over_bound"] += len(over)
        error = MalformedRecordError(
            "label", "prediction_id", f"one of at most {bound} that wait for their output", "more"
        )
        return [
            DeadLetter.of(
                error,
                topic=LABELS,
                partition=self._partition,
                offset=offset,
                key=None,
                value=None,
                row=row,
                stage="join",
            )
            for offset, row in zip(over["offset"].tolist(), over["row"].tolist(), strict=True)
        ]

    def _count_orphans_expired(self, late: npt.NDArray[np.bool_]) -> None:
        self._counts["late_label"] += int(np.count_nonzero(late))
        self._counts["orphan_expired"] += int(np.count_nonzero(~late))

    def _apply(self, places: Places, rows: KnownRows, labels: "_Labels") -> None:
        """Rules 4 to 6: what each label does to the output that has it; labels in order of place.

        An output's first eligible label makes its outcome, if it has none: those before it do nothing, those behind it
        are corrections or copies. So the cost is that of the labels, however many of them one output has.
        """
        if len(places) == 0:
            return
        counts = self._counts
        in_order = np.sort(places)
        if (in_order[1:] == in_order[:-1]).any():
            order = np.argsort(places, kind="stable")
            start = _starts(places[order])
            group = np.repeat(np.arange(len(start)), np.diff(start, append=len(places)))
            of, labels, place = rows[order[start]], labels[order], places[order[start]]
        else:
            group = np.arange(len(places))
            of, place = rows, places
        state = self._known.state[place]
        standing = np.zeros(len(place), MARK)
        labelled = state == LABELLED
        standing[labelled] = self._marks.read(self._known.mark[place[labelled]])
        output_tick = of.counting_tick(self.settings.tick_ms)
        label_tick = self._tick(np.maximum(labels.labelled_at_ms, labels.place_ms))
        none = ~labelled & (state != SETTLED)
        due_ms = of.due_ms[group]
        in_time = (labels.labelled_at_ms <= due_ms) & (labels.place_ms <= due_ms)
        eligible = np.flatnonzero(none[group] & in_time & ~labels.retracted)
        makers = eligible[_starts(group[eligible])]
        made = group[makers]
        first_label = np.where(labelled, -1, len(labels))
        first_label[made] = makers
        labelled[made] = True
        standing["first_place_ms"][made] = labels.place_ms[makers]
        standing["tick_ms"][made] = np.maximum(output_tick[made], label_tick[makers])
        _put(standing, made, labels[makers])
        at = np.arange(len(labels))
        before = none[group] & (at < first_label[group])
        behind = labelled[group] & (at > first_label[group])
        takes = behind & (labels.place_ms <= standing["first_place_ms"][group] + self.settings.correction_wait_ms)
        corrections, corrected = _corrections(standing, group[takes], labels[takes])
        corrects = np.flatnonzero(takes)[corrections]
        copies = int(np.count_nonzero(before & labels.retracted)) + int(np.count_nonzero(takes)) - len(corrects)
        counts["joined"] += len(makers)
        counts["corrected"] += len(corrects)
        counts["duplicate_label"] += copies
        counts["late_label"] += len(labels) - len(makers) - len(corrects) - copies
        flips = self._flips(of[group[corrects]], corrected, labels[corrects])
        flip_tick = np.maximum(label_tick[corrects], standing["tick_ms"][group[corrects]])
        changed = np.zeros(len(place), np.bool_)
        changed[made] = True
        changed[group[corrects]] = True
        last = np.flatnonzero(np.diff(group[corrects], append=-1))
        _put(standing, group[corrects[last]], labels[corrects[last]])
        standing["segment"], standing["row"] = self._known.name_of(place)
        put = np.flatnonzero(changed)
        marks = self._marks.append(standing if len(put) == len(standing) else standing.take(put))
        counts["labelled"] += self._known.label(place[put], marks, distinct_places=True)
        self._count_labelled(of[made], labels[makers], output_tick[made], standing["tick_ms"][made])
        self._count_flips(of[group[corrects[flips]]], flip_tick[flips])

    def _flips(self, of: KnownRows, before: Array, now: "_Labels") -> npt.NDArray[np.bool_]:
        """Whether corrections make right answers wrong, or wrong ones right."""
        was = ~before["retracted"] & self._wrong(of, before["label"])
        flips: npt.NDArray[np.bool_] = was != (~now.retracted & self._wrong(of, now.label))
        return flips

    def _wrong(self, rows: KnownRows, label: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Whether the answers are wrong by these labels: another class, or a number off by more than is allowed."""
        allowed = self._book.allowed_error[rows.cell]
        wrong: npt.NDArray[np.bool_] = label != rows.prediction
        number = ~np.isnan(allowed)
        if number.any():
            said, true = rows.prediction[number].view(np.float32), np.ascontiguousarray(label[number]).view(np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                wrong[number] = ~(np.abs(said.astype(np.float64) - true) <= allowed[number])
        return wrong

    def _count_labelled(self, rows: KnownRows, labels: "_Labels", output_tick: Ints, tick: Ints) -> None:
        wrong = self._wrong(rows, labels.label)
        delay_ms = np.maximum(labels.labelled_at_ms - rows.made_at_ms, 0)
        for model, of in self._by_model(rows.cell):

            def rows_under(_: Binning, chosen: Ints, of: Ints = of) -> LabelledRows:
                mine = of[chosen]
                return LabelledRows(
                    tick_ms=tick[mine],
                    made_at_ms=rows.made_at_ms[mine],
                    delay_ms=delay_ms[mine],
                    score=rows.score[mine],
                    confidence=rows.confidence[mine],
                    wrong=wrong[mine],
                )

            self._counting.count("labelled", model, rows.cell[of].astype(np.int64), tick[of], rows_under)
            self._counting.resolve(model, tick[of], output_tick[of], labelled=True)
            if self._on_outcomes is not None:
                self._on_outcomes(
                    Outcomes(
                        model=model,
                        id_hash=rows.id_hash[of],
                        made_at_ms=rows.made_at_ms[of],
                        tick_ms=tick[of],
                        labelled=np.ones(len(of), np.bool_),
                        delay_ms=delay_ms[of],
                        wrong=wrong[of],
                    )
                )

    def _count_flips(self, rows: KnownRows, tick: Ints) -> None:
        self._counts["label_flips"] += len(rows)
        for model, of in self._by_model(rows.cell):
            self._counting.count("flips", model, rows.cell[of].astype(np.int64), tick[of], _no_rows)

    # -- time passes

    @property
    def watermark_ms(self) -> int:
        """The partition's watermark: the lesser of the two topics'; `watermark.NEVER` before both have one."""
        return min(one.ms for one in self._watermarks.values())

    def _pass_time(self) -> None:
        """Expire what is due, then close what is complete."""
        now = self.watermark_ms
        places = self._known.expire(now)
        if len(places):
            self._count_expired(self._known.rows_at(places))
        gone = self._orphans.expire(self._watermarks[OUTPUTS].ms - self.settings.orphan_wait_ms)
        self._count_orphans_expired(gone["late"])
        through = int(now // self.settings.tick_ms * self.settings.tick_ms)
        if through > max(self._closed_through_ms or 0, 0):
            self._counting.close(through)
            self._closed_through_ms = through
            outputs, labels = self._watermarks[OUTPUTS], self._watermarks[LABELS]
            self._cause = outputs.cause if outputs.ms <= labels.ms else labels.cause

    def _count_expired(self, rows: KnownRows) -> None:
        tick_ms = self.settings.tick_ms
        output_tick = rows.counting_tick(tick_ms)
        tick = np.maximum(output_tick, rows.due_ms // tick_ms * tick_ms)
        self._counts["expired"] += len(rows)
        for model, of in self._by_model(rows.cell):
            self._counting.count("expired", model, rows.cell[of].astype(np.int64), tick[of], _no_rows)
            self._counting.resolve(model, tick[of], output_tick[of], labelled=False)
            if self._on_outcomes is not None:
                self._on_outcomes(
                    Outcomes(
                        model=model,
                        id_hash=rows.id_hash[of],
                        made_at_ms=rows.made_at_ms[of],
                        tick_ms=tick[of],
                        labelled=np.zeros(len(of), np.bool_),
                        delay_ms=np.full(len(of), -1, np.int64),
                        wrong=np.zeros(len(of), np.bool_),
                    )
                )

    # -- what lasts

    def checkpoint(self) -> Checkpoint:
        """Return what must be made durable since the last one, in order."""
        self._forget()
        writer = self._writer
        if self._book.added:
            if len(self._cell_runs) >= _CELL_RUNS:
                for run in self._cell_runs:
                    writer.retire(run)
                self._cell_runs = []
                entries = self._book.all_entries()
            else:
                entries = self._book.entries(self._book.added)
            self._cell_runs.append(writer.write("cells", {"cells": entries}, {}))
            self._book.added.clear()
        self._known.write(writer)
        self._marks.write(writer)
        self._orphans.write(writer)
        self._counting.write(writer)
        records, runs = writer.flush()
        self._sequence += 1
        manifest = Manifest(
            epoch=self._journal.epoch,
            sequence=self._sequence,
            partition=self._partition,
            partitions=self._partitions,
            tick_ms=self.settings.tick_ms,
            block_rows=self._block_rows,
            positions=self.positions,
            watermarks={topic: one.mark for topic, one in self._watermarks.items()},
            counters=self.counters,
            runs=runs,
            closed_through_ms=self._closed_through_ms,
            sent_through_ms=self._sent_through_ms,
            cause=self._cause,
            numbers={
                "segment": self._known.next_number,
                "marks": self._marks.start,
                "orphans": self._orphans.numbers[0],
                "orphans_expired_before_ms": self._watermarks[OUTPUTS].ms - self.settings.orphan_wait_ms,
            },
        )
        self._manifest_through_ms = self._closed_through_ms
        self._manifest_counters = manifest.counters
        return Checkpoint(
            blocks=records,
            manifest=(BlockKey(self._partition, "manifest", self._journal.epoch, 0, 0).encode(), manifest.encode()),
            to_send=self.unsent(),
            through_ms=self._manifest_through_ms,
            positions=self.positions,
        )

    def _forget(self) -> None:
        """Let go of what no later row can need."""
        settings, writer = self.settings, self._writer
        closed = self._closed_through_ms
        if closed is None:
            return
        while (marks := self._marks.front()) is not None:
            takes_none = int(marks["first_place_ms"].max()) + settings.correction_wait_ms < self._watermarks[LABELS].ms
            if not (takes_none and int(marks["tick_ms"].max()) < closed):
                break
            numbers = ((self._marks.start + np.arange(len(marks))) % (1 << 32)).astype(np.uint32)
            self._known.settle(marks["segment"].astype(np.int64), marks["row"].astype(np.int64), numbers)
            self._marks.drop_front(writer)
        before = min(self.watermark_ms - settings.orphan_wait_ms, closed)
        self._known.forget(due_before_ms=before, writer=writer, hold=self._book.hold)
        if len(self._book) > CELLS // 2:
            self._book.forget_unused()

    def sent(self, through_ms: int) -> None:
        """Learn that everything closed through this event time is acknowledged on `window-stats`."""
        self._sent_through_ms = max(through_ms, self._sent_through_ms or 0)
        self._counting.sent(through_ms, self._writer)

    def unsent(self) -> list[Send]:
        """Return what is closed by the last manifest and not known to be sent; a restart sends it again."""
        through = self._manifest_through_ms
        if through is None or (self._sent_through_ms is not None and through <= self._sent_through_ms):
            return []
        closed = Closed(
            source_partition=self._partition,
            source_partitions=self._partitions,
            through_ms=through,
            cause=self._cause,
            sampled=self._manifest_counters.get("closed_sampled", 0),  # a manifest of an older join has none
            misplaced=self._manifest_counters.get("closed_misplaced", 0),
        )
        return [*self._counting.unsent(through), Send(None, closed.encode())]

    # -- what can be seen

    @property
    def positions(self) -> dict[str, int]:
        """Next offset of each topic from which a batch was received."""
        return dict(self._positions)

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the partition began, by name (`COUNTERS`)."""
        counting = self._counting
        closed = {
            "closed_labelled": counting.closed_labelled,
            "closed_expired": counting.closed_expired,
            "closed_sampled": counting.closed_sampled,
            "closed_misplaced": counting.closed_misplaced,
        }
        return {**self._counts, **closed}

    @property
    def gauges(self) -> dict[str, int]:
        """What is held now, by name: rows, ticks, bytes, and event times in ms, 0 for none."""
        return {
            "pending_rows": self._known.pending,
            "known_rows": self._known.rows,
            "orphan_rows": self._orphans.waiting,
            "mark_rows": len(self._marks),
            "open_ticks": self._counting.open_ticks,
            "cells": len(self._book),
            "resident_bytes": sum(self._known.nbytes.values()) + self._marks.nbytes + self._orphans.nbytes,
            "watermark_outputs_ms": self._watermarks[OUTPUTS].ms,
            "watermark_labels_ms": self._watermarks[LABELS].ms,
            "closed_through_ms": self._closed_through_ms or 0,
            "oldest_pending_ms": (self._counting.oldest_pending_ms or 0) if self._known.pending else 0,
        }

    def conservation_error(self) -> int:
        """Rows by which the four equations of conservation do not balance; anything but 0 is our fault."""
        n = self._counts
        outputs = n["labelled"] + n["expired"] + self._known.pending + n["duplicate_output"] + n["dead_output"]
        labels = n["joined"] + n["corrected"] + n["duplicate_label"] + n["late_label"]
        labels += n["orphan_expired"] + self._orphans.waiting + n["dead_label"]
        totals = self._counting.totals()
        return (
            abs(n["output_rows"] - outputs)
            + abs(n["label_rows"] - labels)
            + abs(n["joined"] - n["labelled"])
            + abs(totals[0] + totals[1] - n["labelled"] - n["expired"])
        )

    # -- small things

    def _tick(self, times_ms: Ints) -> Ints:
        ticks: Ints = times_ms // self.settings.tick_ms * self.settings.tick_ms
        return ticks

    def _look_at(self, misplaced: npt.NDArray[np.int8], own_ms: Ints, place_ms: Ints) -> None:
        """Count the rows whose partition was looked at: whatever becomes of them, in the ticks in which they count."""
        rows = np.flatnonzero(misplaced != NOT_LOOKED_AT)
        if len(rows):
            ticks = self._tick(np.maximum(own_ms[rows], place_ms[rows]))
            self._counting.look_at(ticks, misplaced[rows] == MISPLACED)

    def _by_model(self, cells: npt.NDArray[np.uint16]) -> Iterator[tuple[str, Ints]]:
        """Yield each model with the positions of its rows."""
        models = self._book.model[cells]
        for number in distinct(models).tolist():
            yield self._book.model_names[number], np.flatnonzero(models == number)

    def _not_future(self, topic: str, batch: OutputBatch | LabelBatch, times_ms: Ints) -> tuple[Ints, list[DeadLetter]]:
        """Rule 9: positions of the rows whose event time is not beyond the broker's, and dead letters of the others."""
        skew = self.settings.future_skew_ms
        future = times_ms > batch.broker_ms + skew
        if not future.any():
            return np.arange(len(times_ms)), []
        name = "made_at_ms" if topic == OUTPUTS else "labelled_at_ms"
        dead = []
        for row in np.flatnonzero(future).tolist():
            got = f"{times_ms[row] - batch.broker_ms[row]} ms after it"
            error = MalformedRecordError(
                topic.removeprefix("model-").rstrip("s"), name, f"at most {skew} ms after the broker's time", got
            )
            dead.append(
                DeadLetter.of(
                    error,
                    topic=topic,
                    partition=self._partition,
                    offset=int(batch.offset[row]),
                    key=None,
                    value=None,
                    row=int(batch.row[row]),
                    stage="join",
                )
            )
        self._counts["future_rows"] += len(dead)
        return np.flatnonzero(~future), dead


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Labels as columns; `place_ms` is the watermark of labels at the place of each."""

    place_ms: Ints
    labelled_at_ms: Ints
    version: Ints
    label: npt.NDArray[np.uint32]
    retracted: npt.NDArray[np.bool_]

    @classmethod
    def waited(cls, orphans: Array) -> "_Labels":
        return cls(
            orphans["place_ms"], orphans["labelled_at_ms"], orphans["version"], orphans["label"], orphans["retracted"]
        )

    def __len__(self) -> int:
        return len(self.place_ms)

    def __getitem__(self, rows: Any) -> "_Labels":  # noqa: ANN401 - whatever indexes an array
        return _Labels(
            self.place_ms[rows],
            self.labelled_at_ms[rows],
            self.version[rows],
            self.label[rows],
            self.retracted[rows],
        )


def _starts(sorted_values: npt.NDArray[np.integer]) -> Ints:
    """Return where each run of equal values starts."""
    starts: Ints = np.flatnonzero(np.diff(sorted_values, prepend=sorted_values[:1] - 1))
    return starts


def _put(standing: Array, at: Ints, labels: _Labels) -> None:
    for name in ("labelled_at_ms", "version", "label", "retracted"):
        standing[name][at] = getattr(labels, name)


def _corrections(standing: Array, group: Ints, labels: _Labels) -> tuple[Ints, Array]:
    """Rule 6: positions of the labels that are of higher version than what stands at their place, and what that is.

    Parameters
    ----------
    standing
        What stands of each group before its labels.
    group, labels
        Of the labels, group by group, and in order of place in each.
    """
    if len(group) == 0:
        return np.empty(0, np.int64), standing[:0]
    groups = group[_starts(group)]
    chain = np.empty(len(groups) + len(group), MARK)
    order = np.argsort(np.concatenate([groups, group]), kind="stable")  # what stands, then its labels
    of = np.concatenate([groups, group])[order]
    is_label = order >= len(groups)
    chain[~is_label] = standing[groups]
    _put(chain, np.flatnonzero(is_label), labels)
    stands = ~is_label
    start = np.flatnonzero(stands)
    size = np.diff(start, append=len(chain))
    explicit = np.add.reduceat(chain["version"] >= 0, start, dtype=np.int64)
    by_version = explicit == size
    stands |= _rising(chain, np.repeat(by_version, size), of)
    mixed = np.repeat(~by_version & (explicit > 1), size)
    if mixed.any():
        stands[mixed] = _rising_mixed(chain[mixed], ~is_label[mixed])
    place = np.arange(len(chain))
    last = np.maximum.accumulate(np.where(stands, place, 0))
    corrects = np.flatnonzero(stands & is_label)
    return order[corrects] - len(groups), chain[last[corrects - 1]]


def _rising(chain: Array, by_version: npt.NDArray[np.bool_], of: Ints) -> npt.NDArray[np.bool_]:
    """Whether labels are higher than all before them in their group, where one order holds in all of a group."""
    _, rank = np.unique(np.where(by_version, chain["version"], chain["labelled_at_ms"]), return_inverse=True)
    height = of * len(chain) + rank
    peak = np.maximum.accumulate(height)
    at_peak = np.maximum.accumulate(np.where(height == peak, np.arange(len(chain)), 0))
    before = np.concatenate([[0], at_peak[:-1]])  # at equal times what stands says what the last of them said
    other = (chain["label"] != chain["label"][before]) | (chain["retracted"] != chain["retracted"][before])
    higher: npt.NDArray[np.bool_] = (height > height[before]) | ((height == height[before]) & other & ~by_version)
    return higher


def _rising_mixed(chain: Array, begins: npt.NDArray[np.bool_]) -> list[bool]:
    """Decide the same one by one, where some labels of a group have a version and others none: no order holds then.

    What stands may be of an older time than a label that it stood up against by its version. `begins` is where a group does.
    """
    stands: list[bool] = begins.tolist()
    at_ms, at_version, said = NEVER, -1, (0, False)
    columns = (chain[name].tolist() for name in ("labelled_at_ms", "version", "label", "retracted"))
    for at, (labelled_at_ms, version, label, retracted) in enumerate(zip(*columns, strict=True)):
        says = (label, retracted)
        if not stands[at]:
            if version >= 0 and at_version >= 0:
                stands[at] = version > at_version
            else:
                stands[at] = labelled_at_ms > at_ms or (labelled_at_ms == at_ms and says != said)
        if stands[at]:
            at_ms, at_version, said = labelled_at_ms, version, says
    return stands


def _bucket_ms(settings: JoinSettings, models: Mapping[str, Model]) -> int:
    """Span of deadlines that are forgotten together: a small share of how long an id is known, in whole ticks."""
    longest = max([settings.default_label_wait_ms, *(one.label_wait_ms for one in models.values())])
    span = (longest + settings.orphan_wait_ms) // _BUCKETS
    return int(min(max(span // settings.tick_ms, 1) * settings.tick_ms, _BUCKET_BOUND_MS))


def _chosen(column: Coded, rows: Ints) -> Coded:
    return Coded(column.codes[rows], column.values)


def _folded(content: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Sixteen bits of the content: a conflict passes as a copy once in 65,536."""
    folded: npt.NDArray[np.uint16] = (content ^ (content >> _HALF_WORD)).astype(np.uint16)
    return folded


def _no_rows(_: Binning, __: Ints) -> None:
    """Nothing but their number counts."""
