"""What lies in the topics of state, to be kept as samples: the state of each stage in the middle of a fixed story.

A sample is a changelog as its next owner finds it, what that owner is told then, and what it said when the sample was
made. It needs nothing of the story that made it, so that a story may be changed, and the sample stays.
"""

import json
import re
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.closed import Closed
from schemas.deployment import Deployment
from schemas.finding import Finding
from schemas.incident import Incident
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime import specs
from streams.runtime.claims import Claim
from streams.runtime.cursor import View
from streams.runtime.stage_spec import Headers, Routed
from streams.runtime.write_ahead import Changes, Restored, claim, epoch_headers
from streams.stages import escalate, notify, triage
from streams.stages.blocks import BlockKey, Journal, Manifest, MemoryRuns, decode
from streams.stages.detect import STATE, In
from streams.stages.join import LABELS, OUTPUTS, Join, JoinSettings
from streams.stages.rows import Rows
from streams.stages.stage import whole
from streams.stages.state_rows import StateRows
from streams.stages.watch_rows import DTYPES
from tests.scenarios.conftest import DAY, HOUR, MINUTE, Half, default_response
from tests.simulation.join_driver import PARTITION, PARTITIONS, Driver
from tests.simulation.join_oracle import LabelRow, OutputRow, label_batch
from tests.streams.stages import test_detect, test_join

GOLDEN = Path(__file__).parents[2] / "golden" / "state"
STAGES = ("join", "detect", "triage", "escalate", "notify")
KINDS: Mapping[str, Mapping[str, type[msgspec.Struct]]] = {
    "triage": {
        "time": triage.Time,
        "case/": triage.Case,
        "group/": triage.Group,
        "pending/": Finding,
        "finding/": triage.Seen,
        "act/": triage.Seen,
        "deployments/": triage.Changes,
    },
    "escalate": {"time": escalate.Time, "ladder/": escalate.Ladder},
    "notify": {
        "waiting/": notify.Waiting,
        "ended/": notify.Ended,
        "seen/": notify.Seen,
        "pace/": notify.Pace,
        "pages/": notify.Pages,
    },
}
"""Rows of the response's stages by the beginning of their keys."""


class Kept(NamedTuple):
    """One record of a changelog."""

    key: bytes
    value: bytes
    headers: Headers = ()


class Sample(NamedTuple):
    """A state, what its next owner is told (topic and value; `clock` is the time), and what it said."""

    changelog: list[Kept]
    told: list[tuple[str, bytes]]
    said: Any

    def encode(self) -> bytes:
        """Write as JSON, one record a line."""
        changelog = [
            [_text(one.key), _text(one.value), [[n, _text(v)] for n, v in one.headers]] for one in self.changelog
        ]
        told = [[topic, _text(value)] for topic, value in self.told]
        parts = {"changelog": changelog, "told": told, "said": self.said}
        texts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in parts.items()]
        return ("{" + ",\n".join(texts) + "}\n").encode()

    @classmethod
    def decode(cls, value: bytes) -> "Sample":
        """Read what `encode` wrote."""
        parts = json.loads(value)
        changelog = [
            Kept(b64decode(key), b64decode(row), tuple((name, b64decode(one)) for name, one in headers))
            for key, row, headers in parts["changelog"]
        ]
        return cls(changelog, [(topic, b64decode(one)) for topic, one in parts["told"]], parts["said"])


def _text(value: bytes) -> str:
    return b64encode(value).decode()


# ---- the join
# as it was told when the samples were made, which no other test may move

JOIN = JoinSettings(
    tick_ms=10,
    allowed_disorder_ms=5,
    idle_after_ms=20,
    default_label_wait_ms=90,
    orphan_wait_ms=40,
    correction_wait_ms=50,
    future_skew_ms=30,
    max_lanes_per_model=7,
    block_rows=4,
    orphans_bound_rows=10_000,
    needs=test_join.SETTINGS.needs,
)
FAR_MS = 2_500


def join_state() -> Sample:
    """Let outputs and labels come, late, corrected and without the other; ticks are closed and were not sent."""
    outputs = [
        OutputRow(
            offset=number,
            broker_ms=5 * number,
            id_hash=1 + number,
            misplaced=number % 2 == 0 if number % 3 == 0 else None,
            made_at_ms=5 * number,
            model=test_join.NAMES[number % 3],
            version="7",
            prediction=test_join.NUMBERS[number % 2],
            score=0.5,
            segments={"sex": "1"},
            features={"age": 50.0, "job": "a"},
        )
        for number in range(40)
    ]
    labels = [
        LabelRow(
            offset=at,
            broker_ms=5 * number + 12,
            id_hash=1 + number + (1_000 if number % 7 == 0 else 0),
            labelled_at_ms=5 * number + 12,
            model=test_join.NAMES[number % 3],
            label=test_join.NUMBERS[at % 2],
            version=at,
        )
        for at, number in enumerate(sorted([*range(0, 40, 2), *range(0, 40, 6)]))
    ]
    driver = Driver(
        settings=JOIN, models=test_join.MODELS, outputs=outputs, labels=labels, baselines=test_join.BASELINES
    )
    for _ in range(9):
        driver.read(OUTPUTS, 4)
        driver.read(LABELS, 2)
        driver.checkpoint()
    driver.read(LABELS, 8)
    driver.read(OUTPUTS, 3)
    changelog, manifest = driver.torn()
    epoch = Manifest.decode(manifest).epoch
    records = [Kept(BlockKey(PARTITION, "claim", epoch, 77, 0).encode(), b"{}")]
    records += [Kept(key, value) for key, value in changelog.items()]
    records.append(Kept(BlockKey(PARTITION, "manifest", epoch, 0, 0).encode(), manifest))
    late = [
        LabelRow(
            offset=at, broker_ms=200, id_hash=number, labelled_at_ms=200, model=test_join.NAMES[(number - 1) % 3],
            label=test_join.NUMBERS[0], version=90 + at,
        )
        for at, number in enumerate(range(2, 41, 4), driver.join.positions[LABELS])
    ]  # fmt: skip
    return _with_said("join", records, [(LABELS, msgspec.json.encode(late))])


def join_says(sample: Sample) -> list[Any]:
    """Restore a join, and tell what it holds, and what comes of that when it is told the rest and time passes."""
    taking = Claim(partition=PARTITION, owner=78)
    for offset, one in enumerate(sample.changelog):
        taking.meet(offset, one.key, one.value)
    taking.end()
    at = len(sample.changelog)
    key = taking.key()
    taking.claimed_at(at)
    taking.meet(at, key, b"{}")
    kept = taking.kept()
    assert kept.manifest is not None
    outcomes: Counter[str] = Counter()
    join = Join.restore(
        kept.blocks,
        kept.manifest,
        settings=JOIN,
        models=test_join.MODELS,
        partition=PARTITION,
        partitions=PARTITIONS,
        journal=Journal(taking.epoch, MemoryRuns()),
        on_outcomes=lambda some: outcomes.update(
            f"{some.model} {one} {'labelled' if labelled else 'expired'} {delay_ms} {wrong}"
            for one, labelled, delay_ms, wrong in zip(
                some.id_hash.tolist(), some.labelled.tolist(), some.delay_ms.tolist(), some.wrong.tolist(), strict=True
            )
        ),
    )
    for baseline in test_join.BASELINES:
        join.take_baseline(baseline)
    assert join.conservation_error() == 0
    said: list[Any] = [{"counters": join.counters, "gauges": _lasting(join.gauges), "positions": join.positions}]
    said.append(sums_of([one.value for one in join.unsent() if one.model is not None]))
    for _, value in sample.told:
        rows = msgspec.json.decode(value, type=list[LabelRow])
        start, end = rows[0].offset, rows[-1].offset + 1
        assert not join.receive(label_batch(rows, partition=PARTITION, start=start, end=end))
    join.advance(FAR_MS, outputs_at_edge=True, labels_at_edge=True)
    sent = [one.value for one in join.checkpoint().to_send if one.model is not None]
    assert join.conservation_error() == 0
    return [*said, {"counters": join.counters}, dict(sorted(outcomes.items())), sums_of(sent)]


def _lasting(gauges: Mapping[str, int]) -> dict[str, int]:
    """Leave out what a process takes of its machine."""
    return {name: value for name, value in gauges.items() if "bytes" not in name}


def sums_of(values: Iterable[bytes]) -> dict[str, int]:
    """Add up statistics by model, tick and name."""
    sums: defaultdict[str, int] = defaultdict(int)
    for value in values:
        stats = WindowStats.decode(value)
        for name, counts in stats.arrays.items():
            for lane, one in zip(stats.lanes, counts, strict=True):
                sums[f"{stats.model} {stats.tick_start_ms} {lane} {name}"] += int(one.sum())
    return dict(sorted(sums.items()))


# ---- the small stages


def changelog_of(
    before: Mapping[str, bytes], after: Mapping[str, bytes], inputs: Sequence[str], outputs: Sequence[Routed]
) -> list[Kept]:
    """Write rows as a host does, up to an entry with what came after: it is whole, and its rows were not written yet."""
    epoch = epoch_headers(3)
    written = Changes(
        {name: before[name] for name in sorted(before)},
        dict.fromkeys(inputs, 7),
        {topic: f"id of {topic}" for topic in inputs},
    )
    rows: dict[str, bytes | None] = {name: row for name, row in sorted(after.items()) if before.get(name) != row}
    rows |= {name: None for name in sorted(before) if name not in after}
    entry = Changes(rows, dict.fromkeys(inputs, 9), outputs=list(outputs))
    records = [Kept(claim(0), b"", epoch)]
    records += [Kept(key, value or b"", epoch) for key, value in written.records(0)]
    return records + [Kept(key, value, epoch) for key, value in entry.entry(0, 5)]


def restored(sample: Sample) -> Restored:
    """Read a changelog as who takes the partition."""
    rows = Restored(0)
    for one in sample.changelog:
        rows.take(one.key, one.value, one.headers)
    return rows


def stage_of(name: str, rows: Any) -> Any:  # noqa: ANN401 -- a stage over rows
    """Make a stage."""
    response = default_response()
    match name:
        case "detect":
            return test_detect.stage(rows)
        case "triage":
            return triage.Triage(rows=rows, settings=response.triage_settings(frozenset({"credit"})))
        case "escalate":
            return escalate.Escalate(
                rows=rows, settings=response.escalate_settings(), incidents_at_once=escalate.INCIDENTS_AT_ONCE
            )
    return notify.Notify(rows=rows, settings=response.notify)


def stage_says(name: str, sample: Sample) -> list[Any]:
    """Restore a stage, and tell what it holds, what its host sends again, and what it says of what it is told."""
    found = restored(sample)
    again = found.again()
    view = View(0, found.table)
    said: list[Any] = [
        {"epoch": found.epoch, "cursors": view.cursors, "ids": view.ids},
        {"again": [[one.topic, _text(one.key or b""), _text(one.value or b"")] for one in again.outputs]},
        {"written again": sorted(key.decode() for key in again.records)},
    ]
    said += [{key: row} for key, row in rows_said(name, view.rows).items()]
    stage = stage_of(name, view.rows)
    for topic, value in sample.told:
        if topic == "clock":
            now_ms = Clock.decode(value).now_ms
            answers = stage.clock(now_ms, live=True) if hasattr(stage, "clock") else []
            answers += whole(stage, stage.advance(now_ms)) if hasattr(stage, "more") else stage.advance(now_ms)
        else:
            record = Incident.decode(value) if topic == "incidents" else specs.decode(topic, None, value, ())
            answers = whole(stage, stage.receive([record])) if hasattr(stage, "more") else stage.receive([record])
        said += map(_gist, answers)
    return said


def rows_said(name: str, rows: Mapping[str, bytes]) -> dict[str, Any]:
    """Read each row of a stage of the response as the stage does, and write it again: what is left of it."""
    left = {}
    for key in sorted(rows) if name in KINDS else ():
        (kind,) = [kind for prefix, kind in KINDS[name].items() if key.startswith(prefix)]
        again: dict[str, bytes] = {}
        Rows(again, "", kind)[key] = Rows(dict(rows), "", kind)[key]
        left[key] = msgspec.to_builtins(msgspec.msgpack.decode(again[key]))
    return left


def _gist(output: Any) -> list[Any]:  # noqa: ANN401 -- any output
    """Say what an output is about; how it is worded, and what its record holds beside, may change."""
    about = output.notification if isinstance(output, notify.Attempt) else output
    names = (
        "finding_id", "revision", "state", "kind", "through_ms", "detector", "ledger", "incident_id", "seq", "status",
        "severity", "notification_id", "target", "channel", "name", "number", "reason",
    )  # fmt: skip
    values = {name: getattr(about, name) for name in names if hasattr(about, name)}
    values |= {name: round(getattr(about, name), 3) for name in ("log_evidence", "spent") if hasattr(about, name)}
    return [type(output).__name__, {name: _plain(value) for name, value in values.items()}]


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def detect_state() -> Sample:
    """Let a model fall silent and speak again, and go wrong in two ways, while some rows lie in the wrong partition.

    One is found, also of a lane in shadow, and the last snapshot before the other is found is in an entry. Each tenth tick
    is empty, so that a snapshot finds lanes that owe, and one source partition is ahead of the others.
    """
    rows: dict[str, bytes] = {}
    detect = test_detect.stage(rows)
    baseline = test_detect.baseline()
    in_shadow = {"feature_integrity": baseline.armed["feature_integrity"][:-1]}
    ahead, *others = [list(_as_told(part)) for part in test_detect.harmed()]
    records = [
        *replace_fields(baseline, armed={**baseline.armed, **in_shadow}).split(),
        test_detect.deployment("d1"),
        *ahead[:6],
        *test_detect.in_turn([ahead[6:], *others]),
    ]
    snapshots: list[tuple[int, dict[str, bytes]]] = []
    kinds: set[str] = set()
    for number, record in enumerate(records):
        answers = whole(detect, detect.receive([record]))
        kinds |= {one.kind for one in answers if isinstance(one, Finding)}
        if {"feature_corruption", "error_above_baseline"} <= kinds:
            break
        if detect.settled:
            snapshots.append((number + 1, dict(rows)))
    (_, before), (at, after) = snapshots[-2:]
    told = [
        ("window-stats" if isinstance(one, WindowStats | Closed) else "baselines", one.encode())
        for one in records[at : number + 1]
    ]
    return _with_said("detect", changelog_of(before, after, ("window-stats", "baselines", "deployments"), ()), told)


def _as_told(part: Iterable[In]) -> Iterator[In]:
    """Leave out the statistics of a minute, and of each tenth tick; let marks say that rows lie in the wrong partition.

    In each twentieth tick rows come of a model that nobody configured.
    """
    for one in part:
        if isinstance(one, Closed):
            ticks = one.through_ms // test_detect.TICK_MS
            yield replace(one, sampled=4 * ticks, misplaced=2 * (ticks // 40) + ticks // 105)
        elif isinstance(one, WindowStats):
            tick = one.tick_start_ms // test_detect.TICK_MS
            if tick % 10 != 9 and not 60 <= tick < 66:
                yield one
                if tick % 20 == 0:
                    yield replace_fields(one, model="unlisted")


def response_states() -> dict[str, Sample]:
    """Let two incidents open, one acknowledged, with messages that wait, and a finding wait; then one clears, and hours pass."""
    half = Half(default_response())
    half.answer = lambda attempt: (
        None if attempt.notification.model == "other" else "retry" if attempt.number < 2 else "ok"
    )
    half.tick()
    changed = Deployment(deployment_id="d1", model="credit", version="8", at_ms=half.now_ms, decided_at_ms=half.now_ms)
    half.triage.receive([changed])
    leak = half.fire("pii_leak")
    half.fire("accuracy_below_sla", onset_ms=half.start_ms - 5 * HOUR)
    half.run(half.start_ms + 16 * MINUTE)
    half.do("ack")
    half.fire("latency_up", model="slow")
    before = {name: dict(rows) for name, rows in half.rows.items()}
    known = len(half.log)
    half.fire("unsafe_output", model="other")
    half.run(half.now_ms + 5 * MINUTE)
    after = {name: dict(rows) for name, rows in half.rows.items()}
    outputs = [one.encode() for one in half.log[known:]]
    heard = len(half.log), len(half.notifications)
    half.clear(leak)
    half.run(half.now_ms + 30 * MINUTE, 10 * MINUTE)
    clock = [("clock", Clock(now_ms=half.now_ms + hours * HOUR).encode()) for hours in (0, 1, 26)]
    incidents = [("incidents", one.encode()) for one in half.log[heard[0] :]]
    triage_told = [("findings", replace(leak, state="cleared", revision=1, decided_at_ms=half.now_ms).encode())]
    triage_told += [
        ("findings", Through(partition=0, through_ms=half.now_ms + wait_ms).encode()) for wait_ms in (0, HOUR, DAY)
    ]
    notify_told = [("notifications", one.encode()) for one in half.notifications[heard[1] :]]
    sent = [Routed(topic="incidents", key=b"k", value=one, partition=0, headers=(("ce_id", b"1"),)) for one in outputs]
    return {
        "triage": _with_said(
            "triage",
            changelog_of(before["triage"], after["triage"], ("findings", "incident-actions", "deployments"), sent),
            triage_told,
        ),
        "escalate": _with_said(
            "escalate",
            changelog_of(before["escalate"], after["escalate"], ("incidents", "receipts"), ()),
            [*incidents, *clock],
        ),
        "notify": _with_said(
            "notify",
            changelog_of(before["notify"], after["notify"], ("notifications", "incidents", "receipts"), ()),
            [*clock[:1], *notify_told, *incidents, *clock[1:]],
        ),
    }


def _with_said(name: str, changelog: list[Kept], told: list[tuple[str, bytes]]) -> Sample:
    sample = Sample(changelog, told, [])
    return sample._replace(said=says(name, sample))


def says(name: str, sample: Sample) -> list[Any]:
    """Restore a stage from a sample, and return what it says."""
    said = join_says(sample) if name == "join" else stage_says(name, sample)
    plain: list[Any] = json.loads(json.dumps(said, default=_text))
    return plain


def state_of_today(name: str) -> Sample:
    """Return what a stage writes today."""
    return {"join": join_state, "detect": detect_state}.get(name, lambda: response_states()[name])()


def form_of(name: str, sample: Sample) -> dict[str, list[Any]]:
    """Say in which form a state lies, by kind of row: which fields, and arrays of what."""
    forms: dict[str, list[Any]] = {}
    if name == "join":
        parts: defaultdict[tuple[str, int, int], dict[int, bytes]] = defaultdict(dict)
        for one in sample.changelog:
            key = BlockKey.decode(one.key)
            parts[key.kind, key.epoch, key.run][key.part] = one.value
        for (kind, _, _), by_part in parts.items():
            value = b"".join(by_part[at] for at in sorted(by_part))
            if kind in {"manifest", "claim"}:
                forms[kind] = sorted(json.loads(value))
            else:
                header, arrays = decode(value)
                forms[kind] = [sorted(header), [[array, str(one.dtype)] for array, one in arrays.items()]]
        return forms
    for one in sample.changelog:
        row = one.key.decode().partition("/")[2]
        kind = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+|(?<=/).*", "#", row)
        forms[kind] = _fields(one.value) if row[0].isalpha() and name != "detect" else []
    if name == "detect":
        forms |= filled(sample)
    return forms


def filled(sample: Sample) -> dict[str, list[bool]]:
    """Say of each array of detect's watches whether it holds anything but zeros, and of each field beside them the same."""
    values = StateRows(View(0, restored(sample).table).rows).read()
    arrays = {
        array: [bool(packed.strip(b"\0"))]
        for name, packed in sorted(values.items())
        if (array := name.rpartition("/")[2]) in DTYPES
    }
    return arrays | {STATE: [bool(field) for field in msgspec.msgpack.decode(values[STATE])]}


def _fields(value: bytes) -> list[str]:
    return sorted(msgspec.msgpack.decode(value, type=dict[str, msgspec.Raw]))
