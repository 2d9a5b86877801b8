"""Which leaf of model x version x segment values is a row, and to which lanes does a leaf belong?

Rows keep a cell, a number of 16 bits; what it means stands once, in the book. A tick is counted on the cells as its
baseline sees them, with everything unlisted folded into `(other)`, and rolled up to lanes when it closes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.binning import Binning
from schemas.lane import OTHER, Lane
from schemas.model import Model
from streams.stages.batch import Coded, Ints
from streams.stages.distinct import numbered

CELLS = 65_536
"""Cells of one partition at most, at one time."""
NAME_CHARACTERS = 512
"""A longer version or segment value is `(other)`."""
CELLS_PER_MODEL = 16_384
"""Cells of one model at most: past it, rows whose version and segment values are new count in `(other)`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One leaf.

    Parameters
    ----------
    model, version
        Names.
    values
        Value of each of the model's declared segments, `(other)` where the row has none.
    label_wait_ms
        The model's, as it was when the cell was made; deadlines of its rows follow from it.
    """

    model: str
    version: str
    values: tuple[str, ...]
    label_wait_ms: int


class CellBook:
    """The dictionary of cells, and of each what rows need to know of it, as columns by cell.

    Parameters
    ----------
    models
        The configured models.
    default_label_wait_ms
        Wait of every other model.

    Examples
    --------
    >>> book = CellBook({}, default_label_wait_ms=60_000)
    >>> names = Coded(np.array([0, 0, 1], np.int32), ("m", "n")), Coded(np.array([0, 0, -1], np.int32), ("7",))
    >>> book.of_rows(*names, {})
    array([0, 0, 1])
    >>> book.cell(0), book.label_wait_ms[:2]
    (Cell(model='m', version='7', values=(), label_wait_ms=60000), array([60000, 60000]))
    """

    def __init__(self, models: Mapping[str, Model], *, default_label_wait_ms: int) -> None:
        self._models = models
        self._default_label_wait_ms = default_label_wait_ms
        self._cells: list[Cell | None] = []
        self._numbers: dict[Cell, int] = {}
        self._per_model: dict[str, int] = {}
        self._free: list[int] = []
        self._rows = np.zeros(0, np.int64)
        self.model_names: list[str] = []
        self._model_numbers: dict[str, int] = {}
        self.model = np.zeros(0, np.int64)
        self.within_model = np.zeros(0, np.int64)
        """Number of a cell among those of its model."""
        self.label_wait_ms = np.zeros(0, np.int64)
        self.allowed_error = np.zeros(0, np.float64)
        self.added: list[int] = []
        self.generation = 0
        """Grows when numbers get another meaning."""

    def __len__(self) -> int:
        return len(self._numbers)

    def cell(self, number: int) -> Cell:
        """Return one cell."""
        cell = self._cells[number]
        assert cell is not None, number
        return cell

    def cells_of(self, model: str) -> int:
        """Count the cells of a model."""
        return self._per_model.get(model, 0)

    def wait_of(self, model: str) -> int:
        """Label wait of a model, in ms."""
        known = self._models.get(model)
        return self._default_label_wait_ms if known is None else known.label_wait_ms

    def of_rows(self, model: Coded, version: Coded, segments: Mapping[str, Coded]) -> Ints:
        """Cell of each row, made where it is new."""
        names = sorted(segments)
        columns = [model, version, *(segments[name] for name in names)]
        key: Ints = np.zeros(len(model.codes), np.int64)
        for column in columns:
            width = len(column.values) + 1
            if int(key.max(initial=0)) > (1 << 62) // width:
                key = numbered(key)[1]
            key = key * width + column.codes + 1
        unique, inverse = numbered(key)
        first = np.empty(len(unique), np.int64)
        first[inverse[::-1]] = np.arange(len(key) - 1, -1, -1)
        numbers = np.empty(len(first), np.int64)
        for at, row in enumerate(first.tolist()):
            name = model.at(row)
            assert name is not None, row
            values = {segment: segments[segment].at(row) for segment in names}
            numbers[at] = self.number(name, version.at(row) or "", values)
        return numbers[inverse]

    def number(self, model: str, version: str, values: Mapping[str, str | None]) -> int:
        """Return the number of a cell, made if it is new; past the bounds it is the model's, or every model's, `(other)`."""
        declared = self._models[model].segments if model in self._models else ()
        version = version if len(version) <= NAME_CHARACTERS else OTHER
        said = {name: value for name, value in values.items() if value and len(value) <= NAME_CHARACTERS}
        wait = self.wait_of(model)
        cell = Cell(model, version, tuple(said.get(name, OTHER) for name in declared), wait)
        if cell in self._numbers:
            return self._numbers[cell]
        full = len(self._numbers) >= CELLS - 1 - len(self._models)  # room for the `(other)` of each listed model
        if full or self.cells_of(model) >= CELLS_PER_MODEL:
            cell = Cell(model, OTHER, (OTHER,) * len(declared), wait)
            if full and model not in self._models and cell not in self._numbers:
                cell = Cell(OTHER, OTHER, (), wait)
        number = self._numbers.get(cell)
        if number is None:
            number = self._free.pop() if self._free else len(self._cells)
            self._put(number, cell)
        return number

    def _put(self, number: int, cell: Cell) -> None:
        if number >= len(self.model):
            size = max(64, 2 * number)
            for name in ("_rows", "model", "within_model", "label_wait_ms", "allowed_error"):
                old = getattr(self, name)
                new = np.zeros(size, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)
        while number >= len(self._cells):
            self._cells.append(None)
        self._cells[number] = cell
        self._numbers[cell] = number
        self._count(number, cell.model)
        known = self._models.get(cell.model)
        self.label_wait_ms[number] = cell.label_wait_ms
        regression = known is not None and known.kind == "regression"
        self.allowed_error[number] = known.threshold if known is not None and regression else np.nan
        self.added.append(number)

    def _count(self, number: int, model: str) -> None:
        """Give a cell its number within its model, and a new model one too."""
        if model not in self._model_numbers:
            self._model_numbers[model] = len(self.model_names)
            self.model_names.append(model)
        self.model[number] = self._model_numbers[model]
        self.within_model[number] = self.cells_of(model)
        self._per_model[model] = self.cells_of(model) + 1

    def _count_again(self) -> None:
        """Give new numbers to what is left, so that what is gone takes no room."""
        self.generation += 1
        self.model_names, self._model_numbers, self._per_model = [], {}, {}
        self._free = []
        for number, cell in enumerate(self._cells):
            if cell is None:
                self._free.append(number)
            else:
                self._count(number, cell.model)

    def hold(self, cells: npt.NDArray[np.integer], sign: int) -> None:
        """Learn that rows of these cells came (1) or were forgotten (-1)."""
        counts = np.bincount(cells, minlength=len(self._rows))
        self._rows += sign * counts[: len(self._rows)]

    def forget_unused(self) -> None:
        """Free the cells that no row is in, and their models' names with the last of them."""
        gone = [(number, cell) for cell, number in self._numbers.items() if self._rows[number] == 0]
        for number, cell in gone:
            del self._numbers[cell]
            self._cells[number] = None
        if gone:
            self._count_again()

    def entries(self, numbers: Iterable[int]) -> list[tuple[int, str, str, list[str], int]]:
        """Cells as a block keeps them."""
        found = ((number, self._cells[number]) for number in numbers)
        return [
            (at, one.model, one.version, list(one.values), one.label_wait_ms) for at, one in found if one is not None
        ]

    def all_entries(self) -> list[tuple[int, str, str, list[str], int]]:
        """Every cell, as a block keeps it."""
        return self.entries(range(len(self._cells)))

    def take_entries(self, entries: Sequence[tuple[int, str, str, Sequence[str], int]]) -> None:
        """Take cells from a block; a later entry of a number replaces an earlier one."""
        for number, model, version, values, wait in entries:
            before = self._cells[number] if number < len(self._cells) else None
            if before is not None:
                del self._numbers[before]
            cell = Cell(model, version, tuple(values), wait)
            if cell in self._numbers:  # it was forgotten, and came again under another number
                self._cells[self._numbers[cell]] = None
            self._put(number, cell)
        self.added.clear()
        self._count_again()


class Lanes:
    """The lanes of one model under one baseline, and the cells of a tick as that baseline sees them.

    `(other)` stands beside listed values only: without listed versions there is no lane of a version. Past the bound,
    by order of listing, a lane is folded into the `(other)` of its kind.

    Parameters
    ----------
    binning
        Which versions and segment values are lanes, most traffic first.
    segments
        The model's declared segments, in the order of `Cell.values`.
    max_lanes
        Listed lanes at most.

    Examples
    --------
    >>> binning = Binning(tick_ms=1, score_edges=[], confidence_edges=[], delay_edges_ms=[], age_edges_ticks=[],
    ...     segments={"SEX": ["1"]}, versions=["7"])
    >>> lanes = Lanes(binning, ("SEX",), max_lanes=500)
    >>> lanes.names
    ('*', 'version:7', 'segment:SEX=1', 'version:7|segment:SEX=1',
     'version:(other)', 'segment:SEX=(other)', 'version:(other)|segment:SEX=(other)')
    >>> lanes.folded("8", ("1",)), lanes.members[0].tolist()
    (0, [0, 4, 2, 6])
    """

    def __init__(self, binning: Binning, segments: Sequence[str], *, max_lanes: int) -> None:
        self._versions = set(binning.versions)
        self._segments = segments
        self._listed = {name: set(binning.segments.get(name, ())) for name in segments}
        seen = [name for name in segments if binning.segments.get(name)]
        listed = [Lane()]
        listed += [Lane(version) for version in binning.versions]
        listed += [Lane("", name, value) for name in seen for value in binning.segments[name]]
        listed += [
            Lane(version, name, value)
            for version in binning.versions
            for name in seen
            for value in binning.segments[name]
        ]
        others = [Lane(OTHER)] if binning.versions else []
        others += [Lane("", name, OTHER) for name in seen]
        others += [Lane(OTHER, name, OTHER) for name in seen if binning.versions]
        kept = list(dict.fromkeys([*listed[:max_lanes], *others]))
        self._numbers = {lane: number for number, lane in enumerate(kept)}
        self.seen = seen
        """Declared segments with listed values."""
        self.names = tuple(lane.name for lane in kept)
        self._cells: dict[tuple[str, ...], int] = {}
        self.leaves: list[tuple[str, ...]] = []
        """Version and segment values of each folded cell."""
        self._members = np.zeros((16, self._width()), np.int64)

    def _width(self) -> int:
        by_version = 1 if self._versions else 0
        return 1 + by_version + len(self.seen) * (1 + by_version)

    @property
    def members(self) -> Ints:
        """`int64[folded cells, lanes of a cell]`: the lanes that each folded cell adds to."""
        return self._members[: len(self.leaves)]

    def folded(self, version: str, values: Sequence[str]) -> int:
        """Return the folded cell of a leaf: what is not listed is `(other)`."""
        leaf = (
            version if version in self._versions else OTHER,
            *(
                value if value in self._listed[name] else OTHER
                for name, value in zip(self._segments, values, strict=False)
                if name in self.seen
            ),
        )
        number = self._cells.get(leaf)
        if number is None:
            number = self._cells[leaf] = len(self.leaves)
            self.leaves.append(leaf)
            if number >= len(self._members):
                self._members = np.concatenate([self._members, np.zeros_like(self._members)])
            self._members[number] = self._lanes_of(leaf)
        return number

    def folded_again(self, seen: Sequence[str], leaf: Sequence[str]) -> int:
        """Return the folded cell of a leaf that was folded before, as a block keeps it."""
        by_name = dict(zip(seen, leaf[1:], strict=True))
        return self.folded(leaf[0], [by_name.get(name, OTHER) for name in self._segments])

    def lane_again(self, name: str) -> int:
        """Return the number of a lane by its name."""
        return self._numbers[self._or_other(Lane.of(name))]

    def _lanes_of(self, leaf: tuple[str, ...]) -> list[int]:
        version, values = leaf[0], list(zip(self.seen, leaf[1:], strict=True))
        own = [Lane()]
        if self._versions:
            own.append(self._or_other(Lane(version)))
        own += [self._or_other(Lane("", name, value)) for name, value in values]
        if self._versions:
            own += [self._or_other(Lane(version, name, value)) for name, value in values]
        return [self._numbers[lane] for lane in own]

    def _or_other(self, lane: Lane) -> Lane:
        if lane in self._numbers:
            return lane
        return Lane(OTHER if lane.version else "", lane.segment, OTHER if lane.segment else "")
