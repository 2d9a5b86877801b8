"""Incidents from a terminal: seen as they are, and acted upon by records."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition, murmur2
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.incident import Incident, Phase, Reason, Severity, Status
from schemas.incident_action import IncidentAction
from schemas.instant import Instant
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime.terminal import Exit

SAMPLE = Path(__file__).parents[3] / "golden" / "wire" / "incident" / "1.json"
NOW_MS = time.time_ns() // 1_000_000
Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


def incident(number: int, model: str, status: Status, severity: Severity) -> Incident:
    sample = Incident.decode(SAMPLE.read_bytes())
    states = {"raw_error": "firing", "silence": "cleared", "feature_integrity": "firing"} if number == 1 else {}
    return replace(
        sample,
        findings=tuple(
            replace(
                sample.findings[0],
                finding_id=detector,
                detector=detector,
                lane="*",
                state=state,
                message=f"{detector} says so",
            )
            for detector, state in states.items()
        ),
        incident_id=f"{number}60de83d-f6d6-5738-b2dd-2307938697ba",
        display_id=f"INC-{number}60DE83DF6D6",
        model=model,
        status=status,
        severity=severity,
        seq=1,
        opened_at_ms=Instant(NOW_MS - number),
        reason=Reason.OPENED,
        phase=Phase.TRIAGE,
        due_at_ms=None,
        causation_id="raw_error",
        note="a note with \x1b[31mcolour",
    )


@pytest.fixture(scope="module", autouse=True)
def written(put: Put) -> None:
    for number, model, status, severity in (
        (1, "fraud", Status.INVESTIGATING, Severity.CRITICAL),
        (2, "price", Status.CONTAINED, Severity.MEDIUM),
        (3, "fraud", Status.RESOLVED, Severity.HIGH),
        (4, "fraud", Status.INVESTIGATING, Severity.HIGH),
    ):
        one = incident(number, model, status, severity)
        partition = murmur2(model.encode(), 4)
        put("incidents-latest", one.incident_id.encode(), one.encode(), partition)
        put("incidents", one.incident_id.encode(), one.encode(), partition)
        put("incidents", one.incident_id.encode(), one.encode(), partition)  # at least once
    put(
        "incidents-latest",
        incident(4, "fraud", Status.RESOLVED, Severity.HIGH).incident_id.encode(),
        None,
        murmur2(b"fraud", 4),
    )
    put("clock", None, Clock(now_ms=NOW_MS).encode(), 2)
    put("clock", None, Clock(now_ms=NOW_MS + 5).encode(), 1)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be the moment at which this module began, so that its clock passes for one that moves."""
    monkeypatch.setattr("streams.runtime.reading.wall_ms", lambda: NOW_MS)


def test_what_is_open_is_listed_oldest_first(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("incidents", "list")
    assert status == Exit.DONE
    assert [line.split()[0] for line in out.splitlines()] == ["incident", "INC-260DE83DF6D6", "INC-160DE83DF6D6"]


def test_a_record_that_cannot_be_read_is_left_out_and_said(tocsin: Tocsin, put: Put) -> None:
    put("incidents-latest", b"junk", b"{", 0)
    status, out, err = tocsin("incidents", "list")
    assert status == Exit.DONE
    assert "INC-260DE83DF6D6" in out
    assert "records that cannot be read, and are left out (is this command older than they?): 1, first" in err
    put("incidents-latest", b"junk", None, 0)
    assert "cannot be read" not in tocsin("incidents", "list")[2]


def test_junk_on_the_clock_is_no_time(tocsin: Tocsin, put: Put) -> None:
    for partition in range(4):
        put("clock", None, b"junk", partition)
    assert tocsin("incidents", "list")[0] == Exit.DONE


def test_a_script_gets_one_line_of_json_for_each(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("incidents", "list", "--all", "--model", "fraud", "--json")
    assert [json.loads(line)["display_id"] for line in out.splitlines()] == ["INC-360DE83DF6D6", "INC-160DE83DF6D6"]


def test_a_severity_means_that_bad_or_worse(tocsin: Tocsin) -> None:
    for said in ("2", "SEV-2"):
        _, out, _ = tocsin("incidents", "list", "--all", "--severity", said, "--json")
        assert [json.loads(line)["severity"] for line in out.splitlines()] == [2, 1]


@pytest.mark.parametrize("name", ["", "inc-", "INC-26"])
@pytest.mark.parametrize("act", [("show",), ("ack",), ("comment", "x")])
def test_what_names_nothing_names_not_the_only_incident(
    tocsin: Tocsin, broker: str, act: tuple[str, ...], name: str
) -> None:
    before = len(acts(broker))
    status, _, err = tocsin("incidents", act[0], name, *act[1:])
    assert (status, "names no incident" in err, len(acts(broker))) == (Exit.USAGE, True, before)


def test_that_no_containment_is_needed_wants_a_reason_before_anything_is_sent(tocsin: Tocsin, broker: str) -> None:
    before = len(acts(broker))
    status, _, err = tocsin("incidents", "contain", "INC-160DE83D", "--by", "none_needed", "--waive", "nothing to save")
    assert (status, "--text WHY" in err, len(acts(broker))) == (Exit.USAGE, True, before)


def test_one_is_shown_with_its_timeline_each_entry_once_and_harmless_to_the_terminal(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("incidents", "show", "inc-160")
    assert status == Exit.DONE
    assert out.count("#1]") == 1
    assert "\x1b" not in out


def test_one_is_shown_with_what_its_findings_say(tocsin: Tocsin) -> None:
    shown = tocsin("incidents", "show", "inc-160")[1]
    assert [line.rpartition("  ")[2] for line in shown.splitlines() if line.startswith(("firing", "cleared"))] == [
        "raw_error says so",
        "silence says so",
        "feature_integrity says so",
    ]


def test_a_record_of_the_timeline_says_which_finding_was_its_cause(tocsin: Tocsin, put: Put) -> None:
    one = replace(incident(1, "fraud", Status.INVESTIGATING, Severity.CRITICAL), note="", seq=2)
    put("incidents", one.incident_id.encode(), one.encode(), murmur2(b"fraud", 4))
    assert f": {one.findings[0].kind} on *, raw_error says so  [" in tocsin("incidents", "show", "inc-160")[1]


def test_a_receipt_stands_below_the_message_that_it_answers(tocsin: Tocsin, put: Put) -> None:
    one, name = incident(2, "price", Status.CONTAINED, Severity.MEDIUM), "4c20b774"
    wire = SAMPLE.parents[1]
    asked = replace(
        Notification.decode((wire / "notification" / "1.json").read_bytes()),
        notification_id=name,
        incident_id=one.incident_id,
        model="price",
        decided_at_ms=Instant(NOW_MS),
    )
    answered = replace(
        Receipt.decode((wire / "receipt" / "1.json").read_bytes()),
        notification_id=name,
        incident_id=one.incident_id,
        model="price",
        decided_at_ms=Instant(NOW_MS - 1_000),  # who delivers was told an earlier time
    )
    put("notifications", one.incident_id.encode(), asked.encode(), murmur2(b"price", 4))
    put("receipts", name.encode(), answered.encode(), murmur2(b"price", 4))
    lines = tocsin("incidents", "show", "inc-260")[1].splitlines()
    assert [line.split("  ")[1].split(" ")[0] for line in lines[-2:]] == ["ticket", "a"]
    assert lines[-2].split("  ")[0] == lines[-1].split("  ")[0]


def test_when_it_began_is_shown_as_an_interval_and_its_detection_at_most_that_late(tocsin: Tocsin, put: Put) -> None:
    edges = [Instant(1_795_341_600_000 + after_ms) for after_ms in (0, 220_000)]
    sample = incident(1, "late", Status.INVESTIGATING, Severity.LOW)
    found = replace(sample.findings[0], onset_from_at_ms=edges[0], onset_to_at_ms=edges[1])
    one = replace(
        sample,
        incident_id="77777777",
        display_id="INC-77777777",
        findings=(found,),
        impact_started_at_ms=edges[0],
        impact_ended_at_ms=None,
        resolved_at_ms=None,
        detected_at_ms=edges[1],
    )
    put("incidents-latest", one.incident_id.encode(), one.encode(), murmur2(b"late", 4))
    shown = tocsin("incidents", "show", "INC-777")[1]
    put("incidents-latest", one.incident_id.encode(), None, murmur2(b"late", 4))
    assert "affected      begun between 2026-11-22 10:00:00 and 10:03:40, until now\n" in shown
    assert "detected      2026-11-22 10:03:40, at most 3 min 40 s after\n" in shown
    assert shown.count("between 2026-11-22 10:00:00 and 10:03:40") == 2  # the finding's own line, too


def test_what_has_no_time_is_not_shown_with_a_dash(tocsin: Tocsin) -> None:
    assert "phase         triage\n" in tocsin("incidents", "show", "inc-260")[1]


def test_a_beginning_that_may_be_several_is_refused_with_their_names(tocsin: Tocsin, put: Put) -> None:
    twin = replace(
        incident(1, "price", Status.RESOLVED, Severity.LOW), incident_id="160de8aa", display_id="INC-160DE8AA"
    )
    put("incidents-latest", twin.incident_id.encode(), twin.encode(), murmur2(b"price", 4))
    status, _, err = tocsin("incidents", "show", "160de8")
    assert status == Exit.USAGE
    assert "INC-160DE83DF6D6" in err


def test_one_that_nobody_knows_is_not_so(tocsin: Tocsin) -> None:
    assert tocsin("incidents", "show", "INC-999")[0] == Exit.NOT_SO


def acts(broker: str, wanted: int = 0) -> list[tuple[int, IncidentAction]]:
    """Read all acts in the order in which they were written; wait for so many."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "looker", "enable.partition.eof": True})
    consumer.assign([TopicPartition("incident-actions", partition, 0) for partition in range(4)])
    found: list[tuple[int, IncidentAction]] = []
    ends: set[int] = set()
    for _ in range(100):
        if len(ends) == 4 and len(found) >= wanted:
            break
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append((message.partition() or 0, IncidentAction.decode(message.value())))
        elif message is not None:
            ends.add(message.partition() or 0)
    consumer.close()
    return sorted(found, key=lambda one: one[1].recorded_at_ms or 0)


@pytest.fixture
def answered(put: Put, broker: str) -> Iterator[Callable[[Incident], None]]:
    """Return what lets triage answer the next act with this record, after one that is no answer."""
    threads = []

    def answer(record: Incident) -> None:
        known = len(acts(broker))

        def triage() -> None:
            (partition, action) = acts(broker, known + 1)[known]
            for one in (replace(record, seq=2, causation_id="another's"), replace(record, causation_id=action.act_id)):
                put("incidents", one.incident_id.encode(), one.encode(), partition)

        threads.append(threading.Thread(target=triage))
        threads[-1].start()

    yield answer
    for thread in threads:
        thread.join()


def test_an_act_travels_to_its_models_partition_decided_at_the_clock_of_that_and_its_answer_is_shown(
    tocsin: Tocsin, answered: Callable[[Incident], None], broker: str
) -> None:
    one = incident(1, "fraud", Status.INVESTIGATING, Severity.CRITICAL)
    answered(replace(one, seq=3, reason=Reason.ACKNOWLEDGED))
    status, out, err = tocsin("incidents", "ack", "INC-160DE83D", "--actor", "ann", "--json")
    assert (status, err) == (Exit.DONE, "")
    assert json.loads(out)["reason"] == "acknowledged"
    ((partition, action),) = acts(broker)
    assert partition == murmur2(b"fraud", 4)
    assert (action.kind, action.actor.id, action.actor.kind) == ("ack", "ann", "human")
    assert (action.decided_at_ms, action.occurred_at_ms) == (NOW_MS, NOW_MS)


def test_an_act_that_is_refused_says_what_why_and_which_option_helps(
    tocsin: Tocsin, answered: Callable[[Incident], None]
) -> None:
    one = incident(1, "fraud", Status.INVESTIGATING, Severity.CRITICAL)
    answered(replace(one, seq=4, reason=Reason.MISSING_EVIDENCE))
    status, out, err = tocsin("incidents", "contain", "INC-160DE83D", "--by", "rollback")
    assert (status, "missing_evidence" in out) == (Exit.NOT_SO, True)
    assert "INC-160DE83DF6D6 was not contained: SEV-1" in err
    assert "--snapshot" in err
    assert "--waive" in err


def test_resolving_while_findings_fire_names_them_and_needs_to_be_insisted_upon(
    tocsin: Tocsin, answered: Callable[[Incident], None], broker: str
) -> None:
    before = len(acts(broker))
    words = ("incidents", "resolve", "INC-160DE83D", "--as", "fixed", "--reason", "mended")
    status, out, err = tocsin(*words)
    assert (status, out, len(acts(broker))) == (Exit.NOT_SO, "", before)
    assert "still firing in INC-160DE83DF6D6: raw_error on *, feature_integrity on *." in err
    assert "--still-firing" in err
    one = incident(1, "fraud", Status.RESOLVED, Severity.CRITICAL)
    answered(replace(one, seq=5, reason=Reason.RESOLVED))
    status, out, err = tocsin(*words, "--still-firing")
    assert (status, "resolved" in out, "still firing" in err) == (Exit.DONE, True, True)


@pytest.fixture
def refusal(tocsin: Tocsin, put: Put) -> Callable[[Incident], str]:
    """Return what says why an incident, which is put there for as long, is not resolved."""

    def refused(one: Incident) -> str:
        partition = murmur2(one.model.encode(), 4)
        put("incidents-latest", one.incident_id.encode(), one.encode(), partition)
        try:
            status, _, err = tocsin("incidents", "resolve", one.display_id, "--as", "fixed", "--reason", "mended")
        finally:
            put("incidents-latest", one.incident_id.encode(), None, partition)
        assert status == Exit.NOT_SO
        return err

    return refused


def test_who_would_resolve_what_is_contained_and_fires_is_not_told_to_contain_it(
    refusal: Callable[[Incident], str],
) -> None:
    firing = incident(1, "fraud", Status.INVESTIGATING, Severity.HIGH).findings
    err = refusal(replace(incident(6, "fraud", Status.CONTAINED, Severity.HIGH), findings=firing))
    assert "was not resolved: it is contained, wait until these have cleared, or insist by --still-firing" in err


def test_who_would_resolve_what_fires_beyond_the_findings_that_are_kept_is_told(
    refusal: Callable[[Incident], str],
) -> None:
    one = replace(incident(6, "fraud", Status.CONTAINED, Severity.HIGH), findings=(), firing_total=10)
    assert f"still firing in {one.display_id}: 10 findings. Once" in refusal(one)


def test_where_no_worker_tells_the_time_nothing_is_sent_and_a_list_says_how_old_it_is(
    tocsin: Tocsin, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN__WORKER__CLOCK_EVERY_MS", "100")
    monkeypatch.setattr("streams.runtime.reading.wall_ms", lambda: NOW_MS + 5 + 120_000)
    before = len(acts(broker))
    status, _, err = tocsin("incidents", "comment", "INC-260", "hello")
    assert (status, len(acts(broker))) == (Exit.NOT_SO, before)
    assert "(2 min ago): start `tocsin worker all`" in err
    assert "nothing was sent" in err
    status, out, err = tocsin("incidents", "list")
    assert (status, "INC-260" in out) == (Exit.DONE, True)
    assert "this list stays as it is" in err


def test_an_act_without_an_answer_says_that_it_was_sent(tocsin: Tocsin, broker: str) -> None:
    status, _, err = tocsin("incidents", "comment", "INC-260", "the unit was changed", "--wait", "0")
    assert status == Exit.NOT_SO
    assert "sent" in err
    assert "it need not be sent again" in err
    assert "the unit was changed" in [action.text for _, action in acts(broker)]


def test_a_text_beyond_what_a_record_takes_is_refused_before_it_is_sent(tocsin: Tocsin) -> None:
    status, _, err = tocsin("incidents", "resolve", "INC-260", "--as", "fixed", "--reason", "x" * 201)
    assert (status, "reason" in err) == (Exit.USAGE, True)


def test_a_text_that_is_none_is_refused_before_it_is_sent(tocsin: Tocsin) -> None:
    status, _, err = tocsin("incidents", "comment", "INC-260", "caf\udce9")  # a byte of another encoding
    assert (status, "the act cannot be sent" in err) == (Exit.USAGE, True)


def test_what_is_shown_of_one_tells_of_none_of_the_others_that_cannot_be_read(tocsin: Tocsin, put: Put) -> None:
    name, partition = incident(1, "fraud", Status.INVESTIGATING, Severity.CRITICAL).incident_id, murmur2(b"fraud", 4)
    for topic in ("incidents", "notifications"):
        put(topic, b"another", b"{", partition)
        put(topic, None, b"{", partition)
    status, _, err = tocsin("incidents", "show", name)
    assert (status, err) == (Exit.DONE, "")
    for topic in ("incidents", "notifications"):
        put(topic, name.encode(), b"{", partition)
    err = tocsin("incidents", "show", name)[2]
    assert [line.partition("[")[0] for line in err.splitlines()] == ["incidents", "notifications"]
