"""Which outputs are known, where does each lie, and when is its label overdue?

Rows lie in segments: of one time bucket by deadline, in order of arrival, 26 bytes a row, never changed once written.
A full segment is sealed and lies where cold runs lie. A row's place is its segment's slot and its position in it, so
that it never moves; an index leads from the hash to the place. What changes of a row, its state, stands apart: one byte,
and the number of its mark.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.binning import confidence_of
from streams.stages.batch import Ints, Singles
from streams.stages.blocks import Array, Block, BlockWriter, Run, RunStore, Slices
from streams.stages.distinct import distinct, inverted, numbered, runs_of
from streams.stages.hash_index import Hashes, HashIndex, Places
from streams.stages.watermark import NEVER

PENDING, LABELLED, SETTLED, EXPIRED = 0, 1, 2, 3
"""States: no outcome; labelled and takes corrections; labelled and takes none; expired."""

ROW = np.dtype(
    [
        ("id_hash", "<u8"),
        ("due", "<u4"),  # deadline, ms from the segment's base
        # how far the row was behind the greatest event time at its place, in ms; FAR_BEHIND: see FAR
        ("behind", "<u2"),
        ("content", "<u2"),
        ("cell", "<u2"),
        ("prediction", "<u4"),
        ("score", "<f4"),  # below 0: no score, and the confidence is its absolute value
    ]
)
FAR = np.dtype([("row", "<u4"), ("due_ms", "<i8"), ("place_ms", "<i8")])
"""Rows that do not fit: far behind, far ahead, or late."""
FAR_BEHIND = 65_535
_DERIVED = np.float32(np.nan)  # of a confidence column: it follows from the score
_ABSENT = np.float32(-1)
_PIECES = 8


@dataclass(frozen=True, slots=True, eq=False)
class KnownRows:
    """Known outputs as columns; `place_ms` is the watermark of model-outputs at the place of each."""

    id_hash: Hashes
    due_ms: Ints
    made_at_ms: Ints
    place_ms: Ints
    content: npt.NDArray[np.uint16]
    cell: npt.NDArray[np.uint16]
    prediction: npt.NDArray[np.uint32]
    score: Singles
    confidence: Singles

    def __len__(self) -> int:
        return len(self.id_hash)

    def __getitem__(self, rows: Any) -> "KnownRows":  # noqa: ANN401 - whatever indexes an array
        return KnownRows(
            self.id_hash[rows],
            self.due_ms[rows],
            self.made_at_ms[rows],
            self.place_ms[rows],
            self.content[rows],
            self.cell[rows],
            self.prediction[rows],
            self.score[rows],
            self.confidence[rows],
        )

    def counting_tick(self, tick_ms: int) -> Ints:
        """Start of the tick in which each output counts."""
        tick: Ints = np.maximum(self.made_at_ms, self.place_ms) // tick_ms * tick_ms
        return tick


@dataclass(slots=True, eq=False)
class _Segment:
    number: int
    slot: int
    base_ms: int
    ahead_ms: int
    rows: Array
    size: int = 0
    sealed: bool = False
    confidence: Singles | None = None
    far: Array = field(default_factory=lambda: np.empty(0, FAR))
    latest_due_ms: int = NEVER
    slices: Slices = field(default_factory=Slices)
    settled: Run | None = None
    queued: int = 0
    queue: list[tuple[Ints, Ints]] = field(default_factory=list)  # deadlines in order, and their rows

    def due_ms(self, start: int, end: int) -> Ints:
        due: Ints = self.base_ms + self.rows["due"][start:end].astype(np.int64)
        low, high = np.searchsorted(self.far["row"], [start, end])
        due[self.far["row"][low:high].astype(np.int64) - start] = self.far["due_ms"][low:high]
        return due


class KnownOutputs:
    """Known outputs of one partition.

    Parameters
    ----------
    bucket_ms
        Span of deadlines that lie together, and are forgotten together; below 49 days.
    block_rows
        Rows of a segment, at most 65,536.
    ahead_ms
        How far a row may be ahead of the watermark at its place, and fit.
    label_wait_of
        Label wait by cell, `int64[n]` of cells.
    store
        Where sealed segments lie.
    first_number
        Number of the next segment.
    """

    def __init__(
        self,
        *,
        bucket_ms: int,
        block_rows: int,
        ahead_ms: int,
        label_wait_of: Callable[[npt.NDArray[np.uint16]], Ints],
        store: RunStore,
        first_number: int = 0,
    ) -> None:
        self._bucket_ms = bucket_ms
        self._block_rows = block_rows
        self._ahead_ms = ahead_ms
        self._label_wait_of = label_wait_of
        self._store = store
        self.next_number = first_number
        self._segments: list[_Segment | None] = []
        self._by_number: dict[int, _Segment] = {}
        self._open: dict[int, _Segment] = {}
        self._free: list[int] = []
        self._retired: list[int] = []
        self._retired_rows = 0
        self._index = HashIndex()
        self._next_due = np.empty(0, np.int64)
        self._base_ms = np.empty(0, np.int64)
        self._slot_ahead_ms = np.empty(0, np.int64)
        self._slot_number = np.empty(0, np.int64)
        self.state = np.empty(0, np.uint8)
        self.mark = np.empty(0, np.uint32)
        self._dirty: dict[int, _Segment] = {}
        self._dirty_settled: dict[int, _Segment] = {}
        self.rows = 0
        self.pending = 0

    # -- rows come

    def add(self, rows: KnownRows, by_hash: Ints) -> Places:
        """Add outputs in order of arrival, all pending; `by_hash` sorts them by hash. Return their places."""
        bucket = np.maximum(rows.due_ms, rows.place_ms) // self._bucket_ms
        places = np.empty(len(rows), np.uint32)
        for one in distinct(bucket).tolist():
            of = np.flatnonzero(bucket == one)
            at = 0
            while at < len(of):
                segment = self._open.get(one) or self._open_segment(one)
                chosen = of[at : at + self._block_rows - segment.size]
                places[chosen] = self._append(segment, rows if len(chosen) == len(rows) else rows[chosen])
                at += len(chosen)
                if segment.size == self._block_rows:
                    self._seal(segment)
                    del self._open[one]
        self._index.add(rows.id_hash[by_hash], places[by_hash])
        self.rows += len(rows)
        self.pending += len(rows)
        return places

    def _open_segment(self, bucket: int) -> _Segment:
        segment = self._new_segment(
            self.next_number, bucket * self._bucket_ms, self._ahead_ms, min(64, self._block_rows)
        )
        self.next_number += 1
        self._open[bucket] = segment
        return segment

    def _new_segment(self, number: int, base_ms: int, ahead_ms: int, size: int) -> _Segment:
        slot = self._free.pop() if self._free else len(self._segments)
        if slot == len(self._segments):
            self._segments.append(None)
        if slot >= len(self._next_due):
            slots = max(8, 2 * slot)
            assert slots * self._block_rows < 1 << 32, "places are of 32 bits"
            self._next_due = _grown(self._next_due, slots)
            self._base_ms = _grown(self._base_ms, slots)
            self._slot_ahead_ms = _grown(self._slot_ahead_ms, slots)
            self._slot_number = _grown(self._slot_number, slots)
            self.state = _grown(self.state, slots * self._block_rows)
            self.mark = _grown(self.mark, slots * self._block_rows)
        segment = _Segment(number, slot, base_ms, ahead_ms, np.empty(size, ROW))
        self._segments[slot] = segment
        self._by_number[number] = segment
        self._next_due[slot] = -NEVER
        self._base_ms[slot] = base_ms
        self._slot_ahead_ms[slot] = ahead_ms
        self._slot_number[slot] = number
        self.state[slot * self._block_rows : (slot + 1) * self._block_rows] = PENDING
        return segment

    def _append(self, segment: _Segment, rows: KnownRows) -> Places:
        start, end = segment.size, segment.size + len(rows)
        if end > len(segment.rows):
            size = min(self._block_rows, max(end, 2 * start))
            segment.rows = _grown(segment.rows, size)
            if segment.confidence is not None:
                segment.confidence = _grown(segment.confidence, size)
        behind = rows.place_ms + segment.ahead_ms - rows.made_at_ms
        far = (behind < 0) | (behind >= FAR_BEHIND) | (rows.place_ms > rows.due_ms)
        scored = ~np.isnan(rows.score)
        into = segment.rows[start:end]
        into["id_hash"] = rows.id_hash
        into["due"] = np.where(far, 0, rows.due_ms - segment.base_ms)
        into["behind"] = np.where(far, FAR_BEHIND, behind)
        into["content"] = rows.content
        into["cell"] = rows.cell
        into["prediction"] = rows.prediction
        into["score"] = np.where(scored, rows.score + np.float32(0), -np.abs(rows.confidence))
        graded = scored & (rows.confidence != confidence_of(rows.score))
        if graded.any() and segment.confidence is None:
            segment.confidence = np.full(len(segment.rows), _DERIVED, np.float32)
        if segment.confidence is not None:
            own = np.where(np.isnan(rows.confidence), _ABSENT, rows.confidence)
            segment.confidence[start:end] = np.where(graded, own, _DERIVED)
        if far.any():
            at = np.flatnonzero(far)
            more = np.empty(len(at), FAR)
            more["row"], more["due_ms"], more["place_ms"] = at + start, rows.due_ms[at], rows.place_ms[at]
            segment.far = np.concatenate([segment.far, more])
        segment.size = end
        segment.latest_due_ms = max(segment.latest_due_ms, int(rows.due_ms.max()))
        self._next_due[segment.slot] = min(self._next_due[segment.slot], int(rows.due_ms.min()))
        self._dirty[segment.number] = segment
        places: Places = (segment.slot * self._block_rows + np.arange(start, end)).astype(np.uint32)
        return places

    def _seal(self, segment: _Segment) -> None:
        rows = segment.rows[: segment.size]
        parts = [rows.tobytes()]
        if segment.confidence is not None:
            parts.append(segment.confidence[: segment.size].tobytes())
        self._store.put(str(segment.number), b"".join(parts))
        buffer = self._store.open(str(segment.number))
        segment.rows = np.frombuffer(buffer, ROW, segment.size)
        if segment.confidence is not None:
            segment.confidence = np.frombuffer(buffer, np.float32, segment.size, rows.nbytes)
        segment.sealed = True

    # -- rows are looked up

    def find(self, hashes: Hashes) -> tuple[Ints, Places]:
        """Find the places of all known rows of these hashes (best sorted): positions in `hashes`, and places."""
        needle, places = self._index.find(hashes)
        if self._retired:
            alive = self._alive(places)
            needle, places = needle[alive], places[alive]
        return needle, places

    def _alive(self, places: Places) -> npt.NDArray[np.bool_]:
        live = np.fromiter((one is not None for one in self._segments), np.bool_, len(self._segments))
        alive: npt.NDArray[np.bool_] = live[places // self._block_rows]
        return alive

    def rows_at(self, places: Places) -> KnownRows:
        """Read rows by place, in the order asked for."""
        slots, inside = np.divmod(places.astype(np.int64), self._block_rows)
        few = len(self._segments) <= 1 << 16
        order = np.argsort(slots.astype(np.uint16) if few else slots, kind="stable")  # 16 bits are sorted by radix
        sorted_slots, sorted_inside = slots[order], inside[order]
        raw = np.empty(len(places), ROW)
        own = np.full(len(places), _DERIVED, np.float32)
        graded = False
        for start, end in runs_of(sorted_slots):
            segment = self._segments[sorted_slots[start]]
            assert segment is not None, sorted_slots[start]
            segment.rows.take(sorted_inside[start:end], out=raw[start:end])
            if segment.confidence is not None:
                own[start:end] = segment.confidence[sorted_inside[start:end]]
                graded = True
        back = inverted(order)
        return self._widened(raw.take(back), own[back] if graded else None, slots, inside)

    def _widened(self, raw: Array, own: Singles | None, slots: Ints, inside: Ints) -> KnownRows:
        due_ms = self._base_ms[slots] + raw["due"]
        behind = raw["behind"].astype(np.int64)
        cell = np.ascontiguousarray(raw["cell"])
        far = np.flatnonzero(behind == FAR_BEHIND)
        place_far = np.empty(len(far), np.int64)
        for slot in distinct(slots[far]).tolist():
            segment = self._segments[slot]
            assert segment is not None, slot
            of = np.flatnonzero(slots[far] == slot)
            at = np.searchsorted(segment.far["row"], inside[far[of]])
            due_ms[far[of]] = segment.far["due_ms"][at]
            place_far[of] = segment.far["place_ms"][at]
        made_at_ms = due_ms - self._label_wait_of(cell)
        place_ms = made_at_ms - self._slot_ahead_ms[slots] + behind
        place_ms[far] = place_far
        kept = np.ascontiguousarray(raw["score"])
        scored = ~np.signbit(kept)
        score = np.where(scored, kept, np.float32(np.nan))
        confidence = np.where(scored, confidence_of(kept), -kept)
        if own is not None:
            confidence = np.where(np.isnan(own), confidence, np.where(own < 0, np.float32(np.nan), own))
        return KnownRows(
            np.ascontiguousarray(raw["id_hash"]),
            due_ms,
            made_at_ms,
            place_ms,
            np.ascontiguousarray(raw["content"]),
            cell,
            np.ascontiguousarray(raw["prediction"]),
            score,
            confidence,
        )

    def name_of(self, places: Places) -> tuple[Ints, Ints]:
        """Segment number and row of each place: a name that stays true when the slot is used again."""
        slots, inside = np.divmod(places.astype(np.int64), self._block_rows)
        return self._slot_number[slots], inside

    def places_named(self, segments: Ints, rows: Ints) -> tuple[npt.NDArray[np.bool_], Places]:
        """Undo `name_of`: which are still known, and the places of those."""
        numbers, inverse = numbered(segments)
        slots = np.array(
            [self._by_number[one].slot if one in self._by_number else -1 for one in numbers.tolist()], np.int64
        )
        slot = slots[inverse] if len(numbers) else np.empty(0, np.int64)
        known = slot >= 0
        places: Places = (slot[known] * self._block_rows + rows[known]).astype(np.uint32)
        return known, places

    # -- rows change

    def label(self, places: Places, marks: npt.NDArray[np.uint32], *, distinct_places: bool) -> int:
        """Note the newest mark, the last one given, of rows that have or get a label; return how many were pending."""
        pending = places[self.state[places] == PENDING]
        self.state[places] = LABELLED
        self.mark[places] = marks
        first = len(pending) if distinct_places else len(np.unique(pending))
        self.pending -= first
        return first

    def settle(self, segments: Ints, rows: Ints, marks: npt.NDArray[np.uint32]) -> None:
        """Note that rows with these newest marks take no correction any more; rows with other marks stay."""
        known, places = self.places_named(segments, rows)
        newest = (self.state[places] == LABELLED) & (self.mark[places] == marks[known])
        self.state[places[newest]] = SETTLED
        for slot in distinct(places[newest] // self._block_rows).tolist():
            segment = self._segments[slot]
            assert segment is not None, slot
            self._dirty_settled[segment.number] = segment

    def expire(self, before_ms: int) -> Places:
        """Expire the pending rows whose deadline is before `before_ms`; return their places."""
        due: list[Places] = []
        for slot in np.flatnonzero(self._next_due[: len(self._segments)] < before_ms).tolist():
            segment = self._segments[slot]
            assert segment is not None, slot
            rows = self._overdue(segment, before_ms)
            due.append((slot * self._block_rows + rows).astype(np.uint32))
        if not due:
            return np.empty(0, np.uint32)
        places: Places = np.concatenate(due)
        places = places[self.state[places] == PENDING]
        self.state[places] = EXPIRED
        self.pending -= len(places)
        return places

    def _overdue(self, segment: _Segment, before_ms: int) -> Ints:
        if segment.queued < segment.size:
            due = segment.due_ms(segment.queued, segment.size)
            order = np.argsort(due, kind="stable")
            segment.queue.append((due[order], segment.queued + order))
            segment.queued = segment.size
        if len(segment.queue) > _PIECES:
            due = np.concatenate([piece[0] for piece in segment.queue])
            order = np.argsort(due, kind="stable")
            segment.queue = [(due[order], np.concatenate([piece[1] for piece in segment.queue])[order])]
        rows, left = [np.empty(0, np.int64)], []
        for due, of in segment.queue:
            end = int(np.searchsorted(due, before_ms))
            rows.append(of[:end])
            if end < len(due):
                left.append((due[end:], of[end:]))
        segment.queue = left
        self._next_due[segment.slot] = min((int(due[0]) for due, _ in left), default=-NEVER)
        return np.concatenate(rows)

    def forget(
        self, *, due_before_ms: int, writer: BlockWriter, hold: Callable[[npt.NDArray[np.uint16], int], None]
    ) -> None:
        """Forget every segment whose last deadline is before `due_before_ms`."""
        for segment in list(self._by_number.values()):
            if segment.latest_due_ms < due_before_ms:
                hold(np.ascontiguousarray(segment.rows["cell"][: segment.size]), -1)
                self._drop(segment, writer)
        if self._retired_rows > len(self._index) // 2:
            self._index.keep(self._alive)
            self._free += self._retired
            self._retired = []
            self._retired_rows = 0

    def _drop(self, segment: _Segment, writer: BlockWriter) -> None:
        segment.slices.retire(writer)
        if segment.settled is not None:
            writer.retire(segment.settled)
        if segment.sealed:
            segment.rows, segment.confidence = np.empty(0, ROW), None  # lets go of the store's buffer
            self._store.drop(str(segment.number))
        else:
            self._open = {bucket: one for bucket, one in self._open.items() if one is not segment}
        self._segments[segment.slot] = None
        self._next_due[segment.slot] = -NEVER
        del self._by_number[segment.number]
        self._dirty.pop(segment.number, None)
        self._dirty_settled.pop(segment.number, None)
        self._retired.append(segment.slot)
        self._retired_rows += segment.size
        self.rows -= segment.size
        start = segment.slot * self._block_rows
        assert not (self.state[start : start + segment.size] == PENDING).any(), "a row is forgotten without an outcome"

    # -- rows last

    def write(self, writer: BlockWriter) -> None:
        """Write what the changelog does not hold yet."""
        for segment in self._dirty.values():

            def write(start: int, end: int, segment: _Segment = segment) -> Run:
                arrays: dict[str, Array] = {"rows": segment.rows[start:end]}
                if segment.confidence is not None:
                    arrays["confidence"] = segment.confidence[start:end]
                low, high = np.searchsorted(segment.far["row"], [start, end])
                if low < high:
                    arrays["far"] = segment.far[low:high]
                header = {
                    "segment": segment.number,
                    "base_ms": segment.base_ms,
                    "disorder_ms": segment.ahead_ms,
                    "start": start,
                }
                return writer.write("rows", header, arrays)

            segment.slices.extend(segment.size, writer, write, whole=segment.sealed)
        self._dirty.clear()
        for segment in self._dirty_settled.values():
            if segment.settled is not None:
                writer.retire(segment.settled)
            start = segment.slot * self._block_rows
            bits = np.packbits(self.state[start : start + segment.size] == SETTLED)
            segment.settled = writer.write("settled", {"segment": segment.number}, {"bits": bits})
        self._dirty_settled.clear()

    def restore(
        self,
        rows: list[Block],
        settled: list[Block],
    ) -> Iterator[npt.NDArray[np.uint16]]:
        """Take the blocks of `rows` and `settled`; yield the cells of each segment."""
        by_segment: dict[int, list[Block]] = {}
        for one in rows:
            by_segment.setdefault(one[1]["segment"], []).append(one)
        hashes: list[Hashes] = []
        places: list[Places] = []
        for number, blocks in sorted(by_segment.items()):
            segment = self._restored(number, sorted(blocks, key=lambda one: one[1]["start"]))
            hashes.append(segment.rows["id_hash"][: segment.size])
            places.append((segment.slot * self._block_rows + np.arange(segment.size)).astype(np.uint32))
            yield np.ascontiguousarray(segment.rows["cell"][: segment.size])
        if hashes:
            together = np.concatenate(hashes)
            order = np.argsort(together)
            self._index.add(together[order], np.concatenate(places)[order])
        for run, header, arrays in settled:
            segment = self._by_number[header["segment"]]
            start = segment.slot * self._block_rows
            bits = np.flatnonzero(np.unpackbits(arrays["bits"]))
            self.state[start + bits] = SETTLED
            self.pending -= len(bits)
            segment.settled = run

    def _restored(self, number: int, blocks: list[Block]) -> _Segment:
        header = blocks[0][1]
        size = sum(len(arrays["rows"]) for _, _, arrays in blocks)
        segment = self._new_segment(number, header["base_ms"], header["disorder_ms"], size)
        for run, head, arrays in blocks:
            start, end = head["start"], head["start"] + len(arrays["rows"])
            segment.rows[start:end] = arrays["rows"]
            if "confidence" in arrays:
                if segment.confidence is None:
                    segment.confidence = np.full(size, _DERIVED, np.float32)
                segment.confidence[start:end] = arrays["confidence"]
            segment.far = np.concatenate([segment.far, arrays.get("far", segment.far[:0])])
            segment.slices.take(start, end, run)
        segment.size = size
        due = segment.due_ms(0, size)
        segment.latest_due_ms = int(due.max())
        self._next_due[segment.slot] = int(due.min())
        self.rows += size
        self.pending += size
        if size == self._block_rows:
            self._seal(segment)
        else:
            bucket = segment.base_ms // self._bucket_ms
            if (
                bucket * self._bucket_ms == segment.base_ms
                and bucket not in self._open
                and segment.ahead_ms == self._ahead_ms
            ):
                self._open[bucket] = segment
        return segment

    def each_segment(self) -> Iterator[tuple[KnownRows, Places]]:
        """Yield the rows of each segment, and their places."""
        for segment in self._by_number.values():
            places = (segment.slot * self._block_rows + np.arange(segment.size)).astype(np.uint32)
            yield self.rows_at(places), places

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes resident, by part; sealed segments lie in the store."""
        unsealed = [one for one in self._by_number.values() if not one.sealed]
        return {
            "index": self._index.nbytes,
            "states": self.state.nbytes + self.mark.nbytes,
            "open": sum(one.rows.nbytes for one in unsealed),
            "far": sum(one.far.nbytes for one in self._by_number.values()),
        }


def _grown(array: Array, size: int) -> Array:
    grown = np.empty(size, array.dtype)
    grown[: len(array)] = array
    return grown
