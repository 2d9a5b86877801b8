"""From two topics to an incident, by commands alone: a baseline from last year, this year's stream, and a silent rollback."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.finding import Finding
from schemas.incident import Incident
from schemas.instant import instant
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import topics
from streams.runtime.demo.census import census
from streams.runtime.demo.generator import MINUTE_MS, Stream, stream
from streams.runtime.specs import decode
from streams.runtime.terminal import Exit
from tests.chaos.reading import Reading
from tests.integration.join_process import cluster_of
from tests.integration.worker_process import Worker

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
WAIT_S = 180
BEGINS_MS = 1_768_208_400_000
SHADOW = "shadow"
FAULT_AFTER_MS, LASTS_MS = 40 * MINUTE_MS, 80 * MINUTE_MS
SETTINGS = """
[join]
folder = "{folder}"

[models.employment]
kind = "classification"
sla_accuracy = 0.75
segments = ["SEX"]
features = {{ AGEP = "numeric", SCHL = "categorical" }}
required = ["AGEP"]
label_wait = "1 d"
"""

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
Tocsin = Callable[..., subprocess.CompletedProcess[str]]

DECISIONS = ("finding.", "incident.", "act.", "notification.")
"""How the events of decisions begin."""


def written(file: Path, run: Stream, until_ms: int) -> Path:
    """Write a run with the labels that were known by its end beside their outputs."""
    labels = {one.prediction_id: one for one in run.labels(0, until_ms)}
    with file.open("w") as lines:
        for output in run.outputs(0, until_ms):
            row: dict[str, Any] = json.loads(output.encode())
            label = labels.get(output.prediction_id)
            if label is not None:
                row |= {"label": label.label, "labelled_at_ms": label.labelled_at_ms}
            lines.write(json.dumps(row) + "\n")
    return file


def with_a_shadow(file: Path) -> Path:
    """Let a model that no settings list answer some of the same requests."""
    lines = file.read_text().splitlines()
    with file.open("w") as both:
        for number, line in enumerate(lines):
            both.write(line + "\n")
            if number % 100 == 0:
                both.write(json.dumps(json.loads(line) | {"model": SHADOW}) + "\n")
    return file


@pytest.fixture
def options(kafka: str, topic_prefix: str, tmp_path: Path) -> Sequence[str]:
    file = tmp_path / "tocsin.toml"
    file.write_text(SETTINGS.format(folder=tmp_path / "data"))
    return ["--config", str(file), "--broker", kafka, "--topic-prefix", topic_prefix]


@pytest.fixture
def tocsin(options: Sequence[str]) -> Tocsin:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([TOCSIN, *words, *options], check=False, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode in {Exit.DONE, Exit.NOT_SO}, done.stderr
        return done

    return call


def test_a_silent_rollback_opens_an_incident_nothing_did_before_it_and_a_model_that_is_not_listed_gets_its_ticket(
    tocsin: Tocsin, options: Sequence[str], kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    #  begin      fault +40 min                        +80 min = now
    #  |----------|..detected..hold-down 15 min..|opened--|
    #  a shadow that no settings list: hold-down 60 min, opened, 5 min, ticket
    healthy = stream(census(2015), name="ref", begins_at_ms=BEGINS_MS - 10**9, seed=1)
    broken = stream(
        census(2016),
        name="live",
        begins_at_ms=BEGINS_MS,
        seed=2,
        fault="rollback",
        fault_at_ms=BEGINS_MS + FAULT_AFTER_MS,
    )
    past = written(tmp_path / "past.ndjson", healthy, healthy.begins_at_ms + 120 * MINUTE_MS)
    live = with_a_shadow(written(tmp_path / "live.ndjson", broken, BEGINS_MS + LASTS_MS))
    assert tocsin("topics", "create").returncode == Exit.DONE
    built = tocsin(
        "baseline", "build", str(past), "--model", "employment", "--valid-from", "2026-01-01T00:00:00Z", "--json"
    )
    assert json.loads(built.stdout)["armed"]["raw_error"] > 0
    now_ms = time.time_ns() // 1_000_000
    sent = json.loads(tocsin("produce", str(live), "--rows", "100", "--end-now", "--json").stdout)
    fault_ms = now_ms - LASTS_MS + FAULT_AFTER_MS

    worker = Worker(options, tmp_path / "worker.log", "all")
    try:
        opened = incidents(tocsin)
        until(lambda: "ticket to team:platform by log" in shown(tocsin, SHADOW))
        assert worker.end() == Exit.DONE, worker.log.read_text()[-3000:]
    finally:
        worker.kill()
    assert (sent["refused"], list(sent["unlisted"])) == (0, [SHADOW])
    first = min(instant(one["detected_at"]) for one in opened if one["model"] != SHADOW)
    assert first > fault_ms, opened
    assert first - fault_ms < 30 * MINUTE_MS
    assert tocsin("dead-letters", "list").stdout == ""

    unlisted = [(one["severity"], one["status"]) for one in known(tocsin) if one["model"] == SHADOW]
    assert unlisted == [(4, "Investigating")]
    tickets = [one for one in worker.lines("notification") if one["model"] == SHADOW]  # as the channel wrote them
    assert [(one["mode"], one["target"]) for one in tickets] == [("ticket", "team:platform")]

    lines = [one for one in worker.lines() if one["event"].startswith(DECISIONS)]
    assert {one["from"] for one in lines} == {f"tocsin.{name}" for name in ("detect", "triage", "escalate", "sender")}
    assert counted(lines) == counted(decided(kafka, topic_prefix))


def until(said: Callable[[], bool]) -> None:
    for _ in range(WAIT_S // 2):
        if said():
            return
        time.sleep(2)
    pytest.fail("it did not come to pass")


def known(tocsin: Tocsin) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tocsin("incidents", "list", "--all", "--json").stdout.splitlines()]


def incidents(tocsin: Tocsin) -> list[dict[str, Any]]:
    """Wait for an incident about the quality of answers; return all that were opened."""
    until(lambda: any(one["class"] == "model_quality" for one in known(tocsin)))
    return known(tocsin)


def shown(tocsin: Tocsin, model: str) -> str:
    """Show the one incident about a model that nobody watches; nothing before it opens."""
    named = [one["display_id"] for one in known(tocsin) if one["model"] == model]
    assert len(named) <= 1, named
    return tocsin("incidents", "show", named[0]).stdout if named else ""


def counted(lines: Iterable[Mapping[str, object]]) -> Counter[tuple[object, ...]]:
    """Count lines by what tells one decision from another."""
    names = ("event", "reason", "finding", "n", "incident", "seq", "severity", "id", "target", "channel", "attempt")
    return Counter(tuple(line.get(name) for name in names) for line in lines)


def decided(kafka: str, topic_prefix: str) -> Iterator[Mapping[str, object]]:
    """Say of each record of a decision what its line has to hold."""
    cluster = cluster_of(kafka, topic_prefix)
    names = (topics.FINDINGS, topics.INCIDENTS, topics.NOTIFICATIONS, topics.RECEIPTS)
    full = {name: topic_prefix + name for name in names}
    found = Reading(cluster, "whole-way", full, lambda _: cluster.output_partitions).to_ends()
    for (topic, _), entries in found.items():
        for entry in entries:
            match decode(topic, entry.key, entry.value, entry.headers):
                case Finding() as one:
                    yield {"event": f"finding.{one.state}", "finding": one.finding_id, "reason": one.kind, "n": one.n}
                case Incident() as one:
                    yield {
                        "event": f"incident.{one.reason.value}", "reason": one.reason.value, "incident": one.display_id,
                        "seq": one.seq, "severity": one.severity.display,
                    }  # fmt: skip
                case Notification() as one:
                    yield {
                        "event": "notification.asked", "reason": one.reason.value, "incident": one.display_id,
                        "severity": one.severity.display, "id": one.notification_id, "target": one.target,
                        "channel": one.channel,
                    }  # fmt: skip
                case Receipt() as one:
                    yield {
                        "event": f"notification.{one.status}", "reason": one.reason, "id": one.notification_id,
                        "channel": one.channel, "attempt": one.attempt,
                    }  # fmt: skip
