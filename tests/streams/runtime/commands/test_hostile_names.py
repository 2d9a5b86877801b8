"""What came with the data moves no terminal, whatever a command shows, for people and for scripts."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import murmur2
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.dead_letter import DeadLetter
from schemas.incident import Incident, Status
from schemas.instant import Instant
from schemas.notification import Notification
from schemas.receipt import Receipt
from schemas.window_stats import WindowStats
from streams.runtime.terminal import Exit
from tests.bad_input.mutations import samples
from tests.bad_input.test_hostile_text import HOSTILE, MARK

NOW_MS = time.time_ns() // 1_000_000
TEXT = "".join(HOSTILE.values())
SHORT = {kind: text[:190] for kind, text in HOSTILE.items()}
Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def written(put: Put) -> None:
    for number, text in enumerate(SHORT.values()):
        name = f"{number}60de83d-f6d6-5738-b2dd-2307938697ba"
        sample = Incident.decode(samples("incident")[-1])
        findings = tuple(replace(one, kind=text, lane=text, unit=text, segment=text) for one in sample.findings)
        incident = replace(
            sample, incident_id=name, display_id=f"INC-{number}60DE83DF6D6", model=text, versions=(text,), seq=1,
            status=Status.INVESTIGATING, opened_at_ms=Instant(NOW_MS + number), note=TEXT, tenant=text, environment=text,
            findings=findings,
        )  # fmt: skip
        partition = murmur2(text.encode(), 4)
        for topic in ("incidents-latest", "incidents"):
            put(topic, name.encode(), incident.encode(), partition)
        message = Notification.decode(samples("notification")[-1])
        message = replace(message, incident_id=name, model=text, target=TEXT, channel=TEXT, title=TEXT, text=TEXT)
        put("notifications", name.encode(), message.encode(), partition)
        receipt = Receipt.decode(samples("receipt")[-1])
        receipt = replace(receipt, incident_id=name, model=text, target=TEXT, channel=TEXT, reason=TEXT, body=TEXT)
        put("receipts", b"n", receipt.encode(), partition)
        letter = DeadLetter(
            topic=TEXT, partition=0, offset=number, record=TEXT, field=TEXT, expected=TEXT, got=TEXT, stage=TEXT, attempt=2,
            key=TEXT.encode(), value=TEXT.encode(), value_bytes=9, origin=text,
        )  # fmt: skip
        put("dead-letters", TEXT.encode(), letter.encode(), 0)
        put("dead-letters", TEXT.encode(), TEXT.encode(), 1)
        row = {"prediction_id": text, "model": text, "made_at_ms": NOW_MS, "prediction": text}
        put("model-outputs", text.encode(), json.dumps(row).encode(), murmur2(text.encode(), 4))
        put("labels", b"k", text.encode(), 0)
    put("window-stats", b"m", replace_model(TEXT[:500]), 0)
    put("clock", None, Clock(now_ms=NOW_MS).encode(), 2)


def replace_model(name: str) -> bytes:
    stats = WindowStats.decode(samples("window-stats")[-1])
    fields = {field: getattr(stats, field) for field in WindowStats.__dataclass_fields__}
    return WindowStats(**fields | {"model": name}).encode()


@pytest.mark.parametrize(
    "words",
    [
        ["incidents", "list", "--all"],
        ["incidents", "list", "--all", "--json"],
        *(["incidents", "show", f"INC-{number}60DE83DF6D6"] for number in range(len(HOSTILE))),
        ["incidents", "show", "INC-060DE83DF6D6", "--json"],
        ["incidents", "show", SHORT["terminal escapes"]],
        ["incidents", "ack", SHORT["headers"], "--actor", TEXT],
        ["status"],
        ["status", "--json"],
        ["dead-letters", "list"],
        ["dead-letters", "list", "--json"],
        ["dead-letters", "list", "--each", "--bytes"],
        ["dead-letters", "list", "--each", "--bytes", "--json"],
        ["dead-letters", "list", "--topic", TEXT],
        ["dead-letters", "list", "--model", TEXT],
        ["dead-letters", "replay", "--dry-run"],
        ["dead-letters", "replay", "--dry-run", "--json"],
        ["baseline", "list"],
        ["schema", TEXT],
        ["topics", "check", "--topic-prefix", "a\x1b[31m"],
    ],
    ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode(),
)
def test_no_command_shows_what_could_act(tocsin: Tocsin, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        _, out, err = tocsin(*words)
    except SystemExit:
        out, err = capsys.readouterr()
    shown = out + err
    assert shown
    assert all(one.isprintable() or one == "\n" for one in shown), shown
    if "--json" in words:
        for line in out.splitlines():
            json.loads(line)


def test_it_is_there_all_the_same(tocsin: Tocsin) -> None:
    """Shown, and not left out: a script gets the text as it was."""
    _, out, _ = tocsin("incidents", "list", "--all", "--json")
    assert {json.loads(line)["model"] for line in out.splitlines()} == set(SHORT.values())
    assert MARK in tocsin("incidents", "list", "--all")[1]


def test_rows_of_a_hostile_file_are_named_and_move_nothing(tocsin: Tocsin, tmp_path: Path) -> None:
    file = tmp_path / "rows\x1b[31m.ndjson"
    rows = [
        {"prediction_id": text, "model": text, "made_at_ms": text, "prediction": 1, text: text}
        for text in SHORT.values()
    ]
    rows.append({"prediction_id": TEXT[:99], "model": TEXT[:99], "made_at_ms": NOW_MS, "prediction": TEXT})
    file.write_text("\n".join(map(json.dumps, rows)) + f"\n{TEXT}\n", encoding="utf-8")
    status, out, err = tocsin("produce", str(file))
    assert status == Exit.DATA
    assert err.count("output.made_at_ms: expected a whole number") == len(SHORT)
    assert all(one.isprintable() or one == "\n" for one in out + err)
