"""Drives a join as its host would, over two logs in memory, with crashes; the oracle judges what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.baseline import Baseline
from schemas.closed import Closed
from schemas.model import Model
from schemas.outcome import Outcomes
from schemas.window_stats import WindowStats
from streams.stages.batch import LabelBatch, OutputBatch
from streams.stages.blocks import Journal, MemoryRuns, Send
from streams.stages.join import LABELS, OUTPUTS, Join, JoinSettings
from tests.simulation.join_oracle import (
    JoinOracle,
    LabelRow,
    Move,
    Outcome,
    OutputRow,
    Verdict,
    label_batch,
    moved_to,
    output_batch,
)

PARTITION, PARTITIONS = 1, 4


@dataclass
class _Durable:
    """What survives a crash."""

    changelog: dict[bytes, bytes] = field(default_factory=dict)
    manifest: bytes | None = None
    logs: dict[str, int] = field(default_factory=lambda: {OUTPUTS: 0, LABELS: 0})
    outcomes: int = 0


class Driver:
    """Two logs, the join that reads them, and what it has sent.

    Parameters
    ----------
    outputs, labels
        Rows with offsets 0, 1, …; rows of one offset are one message.
    """

    def __init__(
        self,
        *,
        settings: JoinSettings,
        models: Mapping[str, Model],
        outputs: Sequence[OutputRow],
        labels: Sequence[LabelRow],
        baselines: Sequence[Baseline] = (),
    ) -> None:
        self.settings = settings
        self.models = models
        self.baselines = baselines
        self.rows: dict[str, list[OutputRow] | list[LabelRow]] = {OUTPUTS: list(outputs), LABELS: list(labels)}
        self.logs: dict[str, list[OutputRow | LabelRow | Move]] = {OUTPUTS: [], LABELS: []}
        self.outcomes: list[Outcome] = []
        self.sent: dict[tuple[str, int, int], bytes] = {}
        self.closed: list[Closed] = []
        self.dead = 0
        self._durable = _Durable()
        self._epoch = 0
        self._oracle = JoinOracle(
            settings=settings, models=models, partition=PARTITION, partitions=PARTITIONS, baselines=baselines
        )
        self.join = self._new()

    def _new(self) -> Join:
        self._epoch += 1
        journal = Journal(self._epoch, MemoryRuns())
        if self._durable.manifest is None:
            join = Join(
                settings=self.settings,
                models=self.models,
                partition=PARTITION,
                partitions=PARTITIONS,
                journal=journal,
                on_outcomes=self._note,
            )
        else:
            join = Join.restore(
                dict(self._durable.changelog),
                self._durable.manifest,
                settings=self.settings,
                models=self.models,
                partition=PARTITION,
                partitions=PARTITIONS,
                journal=journal,
                on_outcomes=self._note,
            )
        for baseline in self.baselines:
            join.take_baseline(baseline)
        return join

    def _note(self, outcomes: Outcomes) -> None:
        self.outcomes += map(
            Outcome,
            [outcomes.model] * len(outcomes.id_hash),
            outcomes.id_hash.tolist(),
            outcomes.made_at_ms.tolist(),
            outcomes.tick_ms.tolist(),
            outcomes.labelled.tolist(),
            outcomes.delay_ms.tolist(),
            outcomes.wrong.tolist(),
        )

    def left(self, topic: str) -> int:
        """Messages of a topic that were not read."""
        rows = self.rows[topic]
        return rows[-1].offset + 1 - self.join.positions.get(topic, 0) if rows else 0

    def read(self, topic: str, messages: int) -> None:
        """Let the join receive the next messages of a topic."""
        start = self.join.positions.get(topic, 0)
        end = start + min(messages, self.left(topic))
        self.logs[topic] += [row for row in self.rows[topic] if start <= row.offset < end]
        self.dead += len(self.join.receive(self.batch(topic, start, end)))

    def batch(self, topic: str, start: int, end: int) -> OutputBatch | LabelBatch:
        """Return the rows of offsets `[start, end)` as the edge would."""
        if topic == OUTPUTS:
            outputs = [row for row in self.rows[OUTPUTS] if isinstance(row, OutputRow) and start <= row.offset < end]
            return output_batch(outputs, partition=PARTITION, start=start, end=end)
        labels = [row for row in self.rows[LABELS] if isinstance(row, LabelRow) and start <= row.offset < end]
        return label_batch(labels, partition=PARTITION, start=start, end=end)

    def advance(self, clock_ms: int, *, outputs_at_edge: bool = True, labels_at_edge: bool = True) -> None:
        """Tell the clock."""
        move = moved_to(self.settings, clock_ms)
        self.logs[OUTPUTS] += [move] if outputs_at_edge else []
        self.logs[LABELS] += [move] if labels_at_edge else []
        self.join.advance(clock_ms, outputs_at_edge=outputs_at_edge, labels_at_edge=labels_at_edge)

    def checkpoint(self, *, crash_after: str = "") -> None:
        """Make a checkpoint durable, as far as the crash lets it: after `blocks`, `manifest`, `send`, or never."""
        checkpoint = self.join.checkpoint()
        for key, value in checkpoint.blocks:
            if value is None:
                self._durable.changelog.pop(key, None)
            else:
                self._durable.changelog[key] = value
        if crash_after == "blocks":
            return self.crash()
        self._durable.manifest = checkpoint.manifest[1]
        self._durable.outcomes = len(self.outcomes)
        self._durable.logs = {topic: len(log) for topic, log in self.logs.items()}
        if crash_after == "manifest":
            return self.crash()
        self._take(checkpoint.to_send)
        if crash_after == "send":
            return self.crash()
        if checkpoint.through_ms is not None:
            self.join.sent(checkpoint.through_ms)
        return None

    def torn(self) -> tuple[dict[bytes, bytes], bytes]:
        """Make a checkpoint of which nothing is sent any more; return the changelog and the manifest."""
        self.checkpoint(crash_after="manifest")
        assert self._durable.manifest is not None
        return dict(self._durable.changelog), self._durable.manifest

    def crash(self) -> None:
        """Lose everything that is not durable, and begin again."""
        for topic, size in self._durable.logs.items():
            del self.logs[topic][size:]
        del self.outcomes[self._durable.outcomes :]
        self.join = self._new()
        self._take(self.join.unsent())

    def _take(self, sends: Sequence[Send]) -> None:
        for model, value in sends:
            if model is None:
                self.closed.append(Closed.decode(value))
            else:
                stats = WindowStats.decode(value)
                before = self.sent.setdefault((stats.model, stats.tick_start_ms, stats.part), value)
                assert before == value, "the same bytes, however often"

    def verdict(self) -> Verdict:
        """Ask the oracle about what was read so far."""
        outputs = [one for one in self.logs[OUTPUTS] if not isinstance(one, LabelRow)]
        labels = [one for one in self.logs[LABELS] if not isinstance(one, OutputRow)]
        return self._oracle.judge(outputs, labels)

    def check(self) -> Verdict:
        """Hold the join's counters against the oracle's."""
        assert self.join.conservation_error() == 0
        verdict = self.verdict()
        gauges = self.join.gauges
        ours = {name: n for name, n in self.join.counters.items() if n}
        ours |= {"pending": gauges["pending_rows"], "orphan_pending": gauges["orphan_rows"]}
        expected = {"pending": 0, "orphan_pending": 0} | {name: n for name, n in verdict.counters.items() if n}
        assert ours == expected
        return verdict

    def check_sent(self) -> None:
        """Hold all that was sent against the oracle, byte by byte; after a checkpoint without a crash."""
        expected = {}
        verdict = self.verdict()
        for mark in self.closed:
            assert (mark.sampled, mark.misplaced) == verdict.placed(mark.through_ms), mark
        for _, value in verdict.window_stats():
            stats = WindowStats.decode(value)
            expected[stats.model, stats.tick_start_ms, stats.part] = value
        assert self.sent.keys() == expected.keys()
        for key, value in expected.items():
            assert self.sent[key] == value, (key, _shown(self.sent[key]), _shown(value))

    def finish(self, clock_ms: int) -> None:
        """Read all that is left, then let time pass until nothing can be pending."""
        for topic in (OUTPUTS, LABELS):
            self.read(topic, self.left(topic))
        self.advance(clock_ms)
        self.checkpoint()


def _shown(value: bytes) -> dict[str, object]:
    stats = WindowStats.decode(value)
    counts = {
        (name, lane): {at: n for at, n in enumerate(stats.arrays[name][number].ravel().tolist()) if n}
        for name in stats.arrays
        for number, lane in enumerate(stats.lanes)
    }
    return {"offsets": stats.offsets, **{str(key): n for key, n in counts.items() if n}}
