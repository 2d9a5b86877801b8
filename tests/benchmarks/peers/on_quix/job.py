"""The join as a user of Quix Streams would write it: two topics concatenated, and one keyed state for both.

What to read and where to write stands in the variable `PEER`, as JSON. State is one entry an id: an output that waits for
its label, or a label that waits for its output; the first label takes it away. What happened is added up between two
checkpoints and sent before the state's changelog and the offsets, as Quix flushes its sinks first: so sums of a window
come in parts, and a crash repeats a part, it loses none.
"""

import gc
import json
import os
from typing import Any

from quixstreams import Application, State
from quixstreams.sinks import BaseSink

TOLD = json.loads(os.environ["PEER"])
WINDOW_MS, LABEL_WAIT_MS = TOLD["window_ms"], TOLD["label_wait_ms"]

gc.set_threshold(100_000, 50, 100)  # what waits for a checkpoint is no garbage: a tenth of the time went into looking

app = Application(
    TOLD["broker"],
    consumer_group=TOLD["group"],
    auto_offset_reset="earliest",
    state_dir=TOLD["folder"],
    # by default it waits a second for 10,000 messages, and librdkafka another before it asks for more
    consumer_poll_timeout=0.1,
    consumer_extra_config={"fetch.queue.backoff.ms": 10},
    loglevel="WARNING",
)

Count = tuple[int, str, int, int, int]
"""Start of the window, lane, and how many outputs, labelled and correct."""


def join(row: dict[str, Any], state: State) -> list[Count]:
    """Take an output or a label, and say what is to be counted."""
    known = state.get("row")
    if "made_at_ms" in row:
        at_ms, lane = row["made_at_ms"], row["segments"]["region"]
        counts = [(at_ms // WINDOW_MS, lane, 1, 0, 0)]
        output = [at_ms, row["prediction"], lane]
        if known is None:
            state.set("row", output)
        elif len(known) == 2:
            state.delete("row")
            counts += matched(output, known)
        return counts
    label = [row["labelled_at_ms"], row["label"]]
    if known is None:
        state.set("row", label)
    elif len(known) == 3:
        state.delete("row")
        return matched(known, label)
    return []


def matched(output: list[Any], label: list[Any]) -> list[Count]:
    """Say what a label in time is counted as."""
    made_at_ms, prediction, lane = output
    labelled_at_ms, truth = label
    if labelled_at_ms - made_at_ms > LABEL_WAIT_MS:
        return []
    return [(labelled_at_ms // WINDOW_MS, lane, 0, 1, int(prediction == truth))]


class Counts(BaseSink):  # type: ignore[misc] # the checker has no Quix Streams
    """Add up between two checkpoints, and send."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[tuple[int, str], list[int]] = {}
        self._failed: list[object] = []

    def setup(self) -> None:
        """Connect."""
        self._producer = app.get_producer()

    def add(self, value: list[Count], *_: object, **__: object) -> None:
        """Take what one row is counted as."""
        for window, lane, outputs, labelled, correct in value:
            sums = self._sums.setdefault((window, lane), [0, 0, 0])
            sums[0] += outputs
            sums[1] += labelled
            sums[2] += correct

    def flush(self) -> None:
        """Send, and see it delivered."""
        for (window, lane), sums in self._sums.items():
            value = json.dumps([window * WINDOW_MS, lane, *sums])
            self._producer.produce(TOLD["counts"], value.encode(), lane.encode(), on_delivery=self._delivered)
        self._sums = {}
        left = self._producer.flush()
        if left or self._failed:
            raise RuntimeError(f"{left} sums were not delivered, {len(self._failed)} were refused")

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed.append(error)


outputs, labels = (app.dataframe(app.topic(TOLD[name])) for name in ("outputs", "labels"))
outputs.concat(labels).apply(join, stateful=True).sink(Counts())

if __name__ == "__main__":
    app.run()
