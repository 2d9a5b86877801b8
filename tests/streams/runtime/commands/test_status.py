"""Status from a terminal: how far each stage has come, seen from the topics alone."""

import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from confluent_kafka import murmur2
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter, SentAgain
from schemas.finding import Effect, Finding
from schemas.incident import Incident, Status
from schemas.ledger_entry import LedgerEntry
from schemas.receipt import Receipt, ReceiptStatus
from schemas.through import Through
from streams.runtime.cli import run
from streams.runtime.commands.status import MUST
from streams.runtime.terminal import Exit, at
from tests.detectors.test_usable import BINS, baseline

Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]
FAULTS = Path(__file__).parents[3] / "config" / "faults"
NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be the moment at which this module began, and an old clock be looked at briefly."""
    monkeypatch.setattr("streams.runtime.reading.wall_ms", lambda: NOW_MS)
    monkeypatch.setenv("TOCSIN__WORKER__CLOCK_EVERY_MS", "200")


def test_a_deployment_without_a_clock_is_not_so_and_says_what_to_start(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("status")
    assert status == Exit.NOT_SO
    assert "no worker tells the time: start `tocsin worker all`" in out


def test_a_clock_that_stands_is_not_so_and_says_since_when(tocsin: Tocsin, put: Put) -> None:
    put("clock", None, Clock(now_ms=NOW_MS - DAY_MS).encode(), 1)
    status, out, _ = tocsin("status", "--json")
    found = json.loads(out)
    assert (status, found["clock_ms"], found["clock_moves"]) == (Exit.NOT_SO, NOW_MS - DAY_MS, False)
    (fault,) = found["faults"]
    assert fault.startswith(f"no worker has told the time since {at(NOW_MS - DAY_MS)} (1 d")
    assert "`tocsin worker all`" in fault


def test_a_worker_that_has_just_stopped_is_missed_at_once(tocsin: Tocsin, put: Put) -> None:
    put("clock", None, Clock(now_ms=NOW_MS - 10_000).encode(), 1)  # clock_wait is 30 s
    status, out, _ = tocsin("status")
    assert (status, "(10 s ago): start" in out) == (Exit.NOT_SO, True)


def test_what_was_sent_again_is_marked_and_not_counted_as_refused(tocsin: Tocsin, put: Put, broker: str) -> None:
    prefix = "letters."
    for topic in MUST:
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    for offset in range(3):
        letter = DeadLetter(
            topic="labels", partition=0, offset=offset, record="label", field="label", expected="a", got="b"
        )
        put(prefix + "dead-letters", None, letter.encode(), 0)
    put(prefix + "dead-letters", None, SentAgain(first="labels/0/0/-1", attempt=2).encode(), 0)
    out = tocsin("status", "--topic-prefix", prefix)[1]
    assert "dead letters   3 kept, see" in out


def test_a_clock_of_another_time_that_moves_is_one(tocsin: Tocsin, put: Put) -> None:
    told = threading.Event()

    def tell() -> None:
        for turn in itertools.count(1):
            put("clock", None, Clock(now_ms=NOW_MS - DAY_MS + turn).encode(), 1)
            if told.wait(0.1):
                return

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        status, out, _ = tocsin("status", "--json")
    finally:
        told.set()
        telling.join()
    assert (status, json.loads(out)["clock_moves"]) == (Exit.DONE, True)


def test_the_newest_mark_of_each_partition_and_how_far_it_is_behind(tocsin: Tocsin, put: Put) -> None:
    put("clock", None, Clock(now_ms=NOW_MS).encode(), 0)
    assert "has closed no tick yet: does `tocsin worker join` run" in tocsin("status")[1]
    for through_ms in (NOW_MS - 20_000, NOW_MS - 10_000):
        for source in range(2):
            mark = Closed(source_partition=source, source_partitions=4, through_ms=through_ms, cause="records")
            put("window-stats", None, mark.encode(), 0)
        put("window-stats", None, b'{"record":"window-stats"}\n\x00', 0)
        put("findings", None, Through(partition=3, through_ms=through_ms).encode(), 3)
    status, out, _ = tocsin("status", "--json")
    found = json.loads(out)
    assert (status, found["faults"], found["hints"]) == (Exit.DONE, [], [])
    assert found["joined_through_ms"] == {"0": NOW_MS - 10_000, "1": NOW_MS - 10_000}
    assert found["detected_through_ms"] == {"3": NOW_MS - 10_000}
    assert "10 s" in tocsin("status")[1]


@pytest.mark.parametrize(
    ("counted_ms", "judged_ms", "said"),
    [(600_000, 600_000, "`tocsin worker join`"), (10_000, 600_000, "`tocsin worker detect`")],
)
def test_a_stage_that_is_far_behind_is_asked_after(
    tocsin: Tocsin, put: Put, broker: str, counted_ms: int, judged_ms: int, said: str
) -> None:
    prefix = f"behind-{counted_ms}."
    for topic in MUST:
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    put(prefix + "clock", None, Clock(now_ms=NOW_MS).encode(), 0)
    mark = Closed(source_partition=0, source_partitions=1, through_ms=NOW_MS - counted_ms, cause="clock")
    put(prefix + "window-stats", None, mark.encode(), 0)
    put(prefix + "findings", None, Through(partition=0, through_ms=NOW_MS - judged_ms).encode(), 0)
    status, out, _ = tocsin("status", "--topic-prefix", prefix)
    assert (status, said in out) == (Exit.DONE, True), out


def test_rows_where_the_join_does_not_look_for_them_are_not_so_with_the_remedy(tocsin: Tocsin, put: Put) -> None:
    for number in range(200):
        name = f"p{number}"
        label = {"prediction_id": name, "model": "m\x1b[31m", "labelled_at_ms": 1, "label": 1}
        put("labels", name.encode(), json.dumps(label).encode(), zlib.crc32(name.encode()) % 4)  # librdkafka's own
    put("labels", b"p", b"no JSON", 0)
    ids = [f"m{number}" for number in range(500)]
    right = [one for one in ids if murmur2(one.encode(), 4) == 1]
    columns = {"prediction_id": right, "model": ["m"] * len(right), "label": [1] * len(right)}
    columns["labelled_at_ms"] = [1] * len(right)
    put("labels", right[0].encode(), json.dumps({"rows": len(right), "columns": columns}).encode(), 1)
    status, out, _ = tocsin("status", "--json")
    found = json.loads(out)
    assert status == Exit.NOT_SO
    looked_at = {"model-outputs": 0, "labels": 98 + len(right[:: max(1, len(right) // 100)])}
    assert found["sampled_rows"] == looked_at, "of each partition the newest messages that are rows"
    assert found["misplaced_rows"]["labels"] > 50, "many rows of a good producer hide no bad one"
    (fault,) = found["faults"]
    assert "partitioner=murmur2_random" in fault
    assert found["unlisted_rows"] == {"m\x1b[31m": 98, "m": len(right)}
    shown = tocsin("status")[1]
    assert "\x1b" not in shown
    assert "models that the settings do not list" in shown


def test_a_model_whose_rows_come_and_for_which_no_baseline_holds_is_pointed_out_with_what_to_do(
    tocsin: Tocsin, put: Put, broker: str, tmp_path: Path
) -> None:
    prefix = "blind."
    for topic in (*MUST, "baselines"):
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    settings = tmp_path / "tocsin.toml"
    settings.write_text('[models.m]\nkind = "text"\n[models.silent]\nkind = "text"\n')

    def says() -> tuple[list[dict[str, object]], list[str]]:
        words = ("status", "--topic-prefix", prefix, "--config", str(settings))
        shown = [line for line in tocsin(*words)[1].splitlines() if "rings for it" in line]
        status, out, _ = tocsin(*words, "--json")
        assert status == Exit.DONE
        return json.loads(out)["blind"], shown

    put(prefix + "clock", None, Clock(now_ms=NOW_MS).encode(), 0)
    assert says() == ([], []), "no rows come"
    row = {"prediction_id": "p-1", "model": "m", "made_at_ms": NOW_MS, "prediction": "a"}
    put(prefix + "model-outputs", b"p-1", json.dumps(row).encode(), murmur2(b"p-1", 4))
    begin = "look at        rows of m come and "
    none = f"{begin}no baseline holds, so that nothing rings for it: `tocsin baseline build`"
    assert says() == ([{"model": "m", "holds_from_ms": None, "refused": ""}], [none])

    other = baseline(replace(BINS, tick_ms=60_000))
    put(prefix + "baselines", b"m/1/0", other.encode(), 0)
    [found], [line] = says()
    assert "binning.tick_ms: expected the tick of this deployment (10000 ms)" in str(found["refused"])
    assert line.startswith(f"{begin}its baseline cannot be used (")

    later = baseline(version=2, valid_from_ms=NOW_MS + 60_000)
    put(prefix + "baselines", b"m/2/0", later.encode(), 0)
    until = f"{begin}its baseline holds from {at(NOW_MS + 60_000)} on: until then nothing rings for it"
    assert says() == ([{"model": "m", "holds_from_ms": NOW_MS + 60_000, "refused": ""}], [until])

    put(prefix + "baselines", b"m/3/0", baseline(version=3, valid_from_ms=NOW_MS).encode(), 0)
    assert says() == ([], [])
    put(prefix + "baselines", b"m/3/0", None, 0)
    assert len(says()[1]) == 1, "it was taken back"


HOUR_MS, WEEK_MS = 3_600_000, 604_800_000


def test_a_page_that_reached_nobody_is_pointed_out_while_its_incident_is_open(
    tocsin: Tocsin, put: Put, broker: str
) -> None:
    prefix = "unreached."
    for topic in (*MUST, "receipts"):
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    wire = FAULTS.parents[1] / "golden" / "wire"
    incident = Incident.decode((wire / "incident" / "1.json").read_bytes())
    receipt = Receipt.decode((wire / "receipt" / "1.json").read_bytes())

    def tells(status: ReceiptStatus, *, mode: Literal["page", "message"] = "page", name: str = "a") -> bool:
        one = replace(receipt, incident_id=incident.incident_id, status=status, mode=mode, notification_id=name)
        put(prefix + "receipts", name.encode(), one.encode(), 0)
        out = tocsin("status", "--topic-prefix", prefix)[1]
        said = f"look at        pages have not been delivered, of {incident.display_id}: `tocsin incidents show`"
        return said in out

    assert not tells("retrying"), "of an incident that nobody knows"
    opened = replace(incident, status=Status.INVESTIGATING)
    put(prefix + "incidents-latest", incident.incident_id.encode(), opened.encode(), 0)
    assert tells("retrying")
    assert not tells("delivered")
    assert not tells("dead", mode="message", name="b")
    assert tells("dead")
    put(prefix + "incidents-latest", incident.incident_id.encode(), None, 0)
    assert not tells("dead")


def entry(
    model: str,
    hour: int,
    spent: float,
    *,
    reason: Literal["base", "lump", "ticket"] = "base",
    detector: str = "raw_error",
) -> bytes:
    """Return what was spent in the hour that ended so many hours ago."""
    to_ms = NOW_MS - hour * HOUR_MS
    ledger: Literal["page", "ticket"] = "ticket" if reason == "ticket" else "page"
    return LedgerEntry(
        model=model, detector=detector, ledger=ledger, from_ms=to_ms - HOUR_MS, to_ms=to_ms, reason=reason, spent=spent,
        lanes=1, alarms=0, decided_at_ms=to_ms,
    ).encode()  # fmt: skip


@pytest.fixture
def two_models(tmp_path: Path) -> str:
    file = tmp_path / "two.toml"
    file.write_text('[models.a]\nkind = "text"\ntier = "critical"\n[models.b]\nkind = "text"\ntier = "standard"\n')
    return str(file)


def test_what_was_spent_in_the_last_week_stands_beside_the_budget(
    tocsin: Tocsin, put: Put, broker: str, two_models: str
) -> None:
    prefix = "spent."
    for topic in MUST:
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    options = ("--topic-prefix", prefix, "--config", two_models)
    assert "spent          nothing yet" in tocsin("status", *options)[1]
    put(prefix + "ledger", None, b"no entry", 0)
    for partition, record in [
        (0, entry("a", 7 * 24, 64.0)),  # ended a week ago
        (0, entry("a", 7 * 24 - 1, 0.25)),
        (0, entry("a", 1, 0.125)),
        (0, entry("a", 1, 0.125)),  # written twice
        (0, entry("a", 1, 0.0625, detector="silence")),
        (0, entry("a", 1, 0.01, reason="lump")),
        (0, entry("a", 0, 2.0, reason="ticket")),
        (1, entry("b", 3, 0.5)),
        (1, entry("gone", 3, 0.5)),
    ]:
        put(prefix + "ledger", None, record, partition)
    _, out, err = tocsin("status", "--json", *options)
    found = json.loads(out)["spending"]
    assert (found["to_ms"], found["to_ms"] - found["from_ms"], found["all"]) == (NOW_MS, WEEK_MS, True)
    rows = {(one["model"], one["ledger"]): (one["spent"], one["per_week"]) for one in found["rows"]}
    assert rows == {
        ("a", "page"): (0.4475, pytest.approx(2 / 3)),
        ("a", "ticket"): (2.0, pytest.approx(40 / 3)),
        ("b", "page"): (0.5, pytest.approx(1 / 3)),
        ("gone", "page"): (0.5, None),
    }
    assert "records of spent.ledger that cannot be read, and are left out: 1" in err
    shown = " ".join(tocsin("status", *options)[1].split())
    assert f"spent ledger in the week to {at(NOW_MS)} budget of a week a page 0.448 0.667 a ticket 2 13.3" in shown
    assert "gone page 0.5 none: not in the settings" in shown


def test_a_ledger_too_long_to_be_read_is_said_to_be_at_least_so_much(
    tocsin: Tocsin, put: Put, broker: str, two_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "long."
    for topic in MUST:
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    for hour in range(9, -1, -1):
        put(prefix + "ledger", None, entry("a", hour, 0.01), 0)
    options = ("status", "--topic-prefix", prefix, "--config", two_models)
    monkeypatch.setattr("streams.runtime.spending.LOOKS", (2, 5))
    assert "at least 0.05 " in tocsin(*options)[1]
    monkeypatch.setattr("streams.runtime.spending.LOOKS", (2, 10))
    assert " 0.1 " in tocsin(*options)[1]
    put(prefix + "ledger", None, entry("a", -7 * 24 + 2, 0.02), 0)
    monkeypatch.setattr("streams.runtime.spending.LOOKS", (5,))
    assert " 0.04 " in tocsin(*options)[1], "what was read reaches a week back"
    put(prefix + "ledger", None, b"no entry", 0)
    monkeypatch.setattr("streams.runtime.spending.LOOKS", (2, 3))
    assert tocsin(*options)[2].count("records of long.ledger that cannot be read") == 1, "though it looked twice"


def test_a_prefix_under_which_nothing_lies_is_not_so(tocsin: Tocsin) -> None:
    status, out, err = tocsin("status", "--topic-prefix", "elsewhere.")  # the embedded broker makes what is asked for
    assert status == Exit.NOT_SO, (out, err)


def test_a_broker_that_does_not_answer_has_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOCSIN__KAFKA__REQUEST_WAIT_MS", "1000")
    assert run(["status", "--broker", "127.0.0.1:1"]) == Exit.BROKER
    assert "--broker" in capsys.readouterr().err


def test_a_faulty_file_is_named_before_any_broker_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--config", str(FAULTS / "many_at_once.toml")]) == Exit.SETTINGS
    assert len(capsys.readouterr().err.splitlines()) == 6


def finding(name: str, model: str, kind: str, decided_at_ms: int, **changes: Any) -> Finding:  # noqa: ANN401
    found = Finding(
        finding_id=name, state="firing", tenant="default", environment="production", model=model, lane="*",
        detector=kind, kind=kind, ledger="page", guarantee="budget", alarm_tick_ms=decided_at_ms,
        decided_at_ms=decided_at_ms, onset_from_ms=decided_at_ms - 60_000, onset_to_ms=decided_at_ms,
        effect=Effect(observed=0.8, expected=0.9, unit="accuracy"), n=400, log_evidence=21.0, baseline_version=1,
    )  # fmt: skip
    return replace(found, **changes)


def test_findings_that_fire_and_have_no_incident_yet_are_told_with_the_time_when_one_opens(
    tocsin: Tocsin, put: Put, broker: str, tmp_path: Path
) -> None:
    #  a fires, and is said again | c clears | d clears, and fires again | e has an incident beside it | f is over its wait
    prefix = "held."
    for topic in MUST:
        AdminClient({"bootstrap.servers": broker}).list_topics(prefix + topic, timeout=10)
    put(prefix + "clock", None, Clock(now_ms=NOW_MS).encode(), 0)
    settings = tmp_path / "tocsin.toml"
    settings.write_text("[triage.hold_downs.3]\nopen_after_ms = 600_000\n")
    began_ms = NOW_MS - 200_000
    first = finding("a", "m", "confidence_drop", began_ms)
    said = [
        first,
        replace(first, revision=1, decided_at_ms=NOW_MS - 10_000),
        gone := finding("c", "n", "confidence_drop", began_ms),
        replace(gone, state="cleared", revision=1),
        back := finding("d", "o", "confidence_drop", began_ms),
        replace(back, state="cleared", revision=1),
        replace(back, revision=2, decided_at_ms=NOW_MS - 50_000),
        finding("e", "p", "confidence_drop", began_ms),
        finding("f", "q", "confidence_drop", NOW_MS - 5_000_000),
    ]
    for one in said:
        put(prefix + "findings", one.model.encode(), one.encode(), 0)
    put(prefix + "findings", None, Through(partition=0, through_ms=NOW_MS).encode(), 0)
    sample = Incident.decode((FAULTS.parents[1] / "golden" / "wire" / "incident" / "1.json").read_bytes())
    opened = replace(sample, model="p", incident_class="model_quality", status=Status.INVESTIGATING)
    put(prefix + "incidents-latest", opened.incident_id.encode(), opened.encode(), 0)
    words = ("status", "--topic-prefix", prefix, "--config", str(settings))
    found = json.loads(tocsin(*words, "--json")[1])["in_hold_down"]
    wait_ms = 600_000
    assert [(one["finding_id"], one["opens_at_ms"]) for one in found] == [
        ("a", began_ms + wait_ms),
        ("d", NOW_MS - 50_000 + wait_ms),
    ]
    out = tocsin(*words)[1]
    assert (
        f"in hold-down   2 findings, the first opens an incident at {at(began_ms + wait_ms)} unless it clears: " in out
    )
    assert "confidence_drop of m, confidence_drop of o" in out
