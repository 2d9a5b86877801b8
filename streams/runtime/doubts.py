"""Which rows will be taken, and yet not do what their sender expects of them?

Nothing here is refused: to send a month's history is a fair wish. It is said once each, with counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.label import Label
from schemas.model import Model
from schemas.output import Output
from streams.runtime.lines import plain
from streams.runtime.terminal import at, lasting
from streams.runtime.topics import partition_of_id

MOST_MODELS = 10
"""Models that are named one by one."""


@dataclass(slots=True, kw_only=True)
class Doubts:
    """Looks at each row that is sent.

    Parameters
    ----------
    models
        The configured models by name.
    counted_through_ms
        By input partition the event time before which all ticks are closed; none where the join never ran.
    partitions
        How many input partitions there are.
    label_wait_ms, future_skew_ms
        `join.label_wait`, for models that are not listed, and `join.future_skew`.

    Examples
    --------
    >>> doubts = Doubts(models={}, counted_through_ms={}, partitions=4, label_wait_ms=1_000, future_skew_ms=100)
    >>> doubts.look(Output(prediction_id="p", model="m", made_at_ms=7, prediction=1), now_ms=5_000)
    >>> doubts.unlisted, doubts.overdue
    (Counter({'m': 1}), 1)
    """

    models: Mapping[str, Model]
    counted_through_ms: Mapping[int, int]
    partitions: int
    label_wait_ms: int
    future_skew_ms: int
    late: int = 0
    overdue: int = 0
    overdue_from_ms: int | None = None
    future: int = 0
    unlisted: Counter[str] = field(default_factory=Counter)
    lacking: Counter[tuple[str, str]] = field(default_factory=Counter)

    def look(self, record: Output | Label, now_ms: int) -> None:
        """Take note of one row, sent at `now_ms`."""
        event_ms = record.made_at_ms if isinstance(record, Output) else record.labelled_at_ms
        if self.counted_through_ms:
            partition = partition_of_id(record.prediction_id, self.partitions)
            self.late += event_ms < self.counted_through_ms.get(partition, 0)
        self.future += event_ms > now_ms + self.future_skew_ms
        model = self.models.get(record.model)
        if model is None:
            self.unlisted[record.model] += 1
        if isinstance(record, Label):
            return
        if event_ms + (self.label_wait_ms if model is None else model.label_wait_ms) < now_ms:
            self.overdue += 1
            self.overdue_from_ms = min(event_ms, self.overdue_from_ms or event_ms)
        if model is not None and not all(record.features.get(name) is not None for name in model.required):
            absent = [name for name in model.required if record.features.get(name) is None]
            self.lacking.update((model.name, name) for name in absent)

    def said(self) -> list[str]:
        """Say each doubt once: how many rows, what becomes of them, what to do."""
        doubts = []
        if self.late:
            doubts.append(
                f"rows older than what has been counted already: {self.late:,}; they count late, in the first open tick "
                "instead of in their own (--start-now --speed 1 sends a file as if it happened from now on)"
            )
        if self.overdue:
            doubts.append(
                f"outputs older than labels are awaited, the oldest of {at(self.overdue_from_ms)}: {self.overdue:,}; they "
                "expire without a label at once, or as soon as the clock moves on (--end-now moves all times)"
            )
        if self.future:
            doubts.append(
                f"rows more than {lasting(self.future_skew_ms)} in the future: {self.future:,}; the join refuses them, "
                "`tocsin dead-letters list` will show them"
            )
        doubts += [
            f"rows of {plain(name)}, which the settings do not list: {count:,}; they are joined and counted, and nothing "
            f'rings for them (add [models."{plain(name)}"] to the file of --config)'
            for name, count in self.unlisted.most_common(MOST_MODELS)
        ]
        if len(self.unlisted) > MOST_MODELS:
            doubts.append(f"models that the settings do not list either: {len(self.unlisted) - MOST_MODELS:,} more")
        doubts += [
            f"outputs of {plain(model)} without the feature {name}, which the settings require: {count:,}"
            for (model, name), count in self.lacking.most_common()
        ]
        return doubts
