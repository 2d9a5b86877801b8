"""Incidents from a terminal: seen as they are, and acted upon by records."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition, murmur2
from msgspec.structs import replace

from schemas.clock import Clock
from schemas.incident import Incident, Phase, Reason, Severity, Status
from schemas.incident_action import IncidentAction
from schemas.instant import Instant
from streams.runtime.terminal import Exit

SAMPLE = Path(__file__).parents[3] / "golden" / "wire" / "incident" / "1.json"
NOW_MS = 1_764_064_800_000
Put = Callable[[str, bytes | None, bytes | None, int], None]
Tocsin = Callable[..., tuple[int, str, str]]


def incident(number: int, model: str, status: Status, severity: Severity) -> Incident:
    return replace(
        Incident.decode(SAMPLE.read_bytes()),
        incident_id=f"{number}60de83d-f6d6-5738-b2dd-2307938697ba",
        display_id=f"INC-{number}60DE83DF6D6",
        model=model,
        status=status,
        severity=severity,
        seq=1,
        opened_at_ms=Instant(NOW_MS - number),
        reason=Reason.OPENED,
        phase=Phase.TRIAGE,
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
    put("clock", None, Clock(now_ms=NOW_MS - 5).encode(), 1)


def test_what_is_open_is_listed_oldest_first(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("incidents", "list")
    assert status == Exit.DONE
    assert [line.split()[0] for line in out.splitlines()] == ["incident", "INC-260DE83DF6D6", "INC-160DE83DF6D6"]


def test_a_script_gets_one_line_of_json_for_each(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("incidents", "list", "--all", "--model", "fraud", "--json")
    assert [json.loads(line)["display_id"] for line in out.splitlines()] == ["INC-360DE83DF6D6", "INC-160DE83DF6D6"]


def test_a_severity_means_that_bad_or_worse(tocsin: Tocsin) -> None:
    _, out, _ = tocsin("incidents", "list", "--all", "--severity", "2", "--json")
    assert [json.loads(line)["severity"] for line in out.splitlines()] == [2, 1]


def test_one_is_shown_with_its_timeline_each_entry_once_and_harmless_to_the_terminal(tocsin: Tocsin) -> None:
    status, out, _ = tocsin("incidents", "show", "inc-160")
    assert status == Exit.DONE
    assert out.count("#1]") == 1
    assert "\x1b" not in out


def test_a_beginning_that_may_be_several_is_refused_with_their_names(tocsin: Tocsin, put: Put) -> None:
    twin = replace(
        incident(1, "price", Status.RESOLVED, Severity.LOW), incident_id="160de8aa", display_id="INC-160DE8AA"
    )
    put("incidents-latest", twin.incident_id.encode(), twin.encode(), murmur2(b"price", 4))
    status, _, err = tocsin("incidents", "show", "160de8")
    assert status == Exit.USAGE
    assert "INC-160DE83DF6D6" in err


def test_one_that_nobody_knows_is_not_so(tocsin: Tocsin) -> None:
    assert tocsin("incidents", "show", "INC-9")[0] == Exit.NOT_SO


def acts(broker: str, wanted: int) -> list[tuple[int, IncidentAction]]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "looker", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("incident-actions", partition, 0) for partition in range(4)])
    found: list[tuple[int, IncidentAction]] = []
    for _ in range(50):
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append((message.partition() or 0, IncidentAction.decode(message.value())))
            if len(found) == wanted:
                break
    consumer.close()
    return found


def test_an_act_travels_to_its_models_partition_decided_at_the_newest_clock_and_its_answer_is_shown(
    tocsin: Tocsin, put: Put, broker: str
) -> None:
    def triage() -> None:
        (partition, action) = acts(broker, 1)[0]
        one = incident(1, "fraud", Status.INVESTIGATING, Severity.CRITICAL)
        other = replace(one, seq=2, reason=Reason.NOTED, causation_id="somebody else's")
        answer = replace(one, seq=3, reason=Reason.ACKNOWLEDGED, causation_id=action.act_id)
        put("incidents", one.incident_id.encode(), other.encode(), partition)
        put("incidents", one.incident_id.encode(), answer.encode(), partition)

    answering = threading.Thread(target=triage)
    answering.start()
    status, out, err = tocsin("incidents", "ack", "INC-160DE83D", "--actor", "ann", "--json")
    answering.join()
    assert (status, err) == (Exit.DONE, "")
    assert json.loads(out)["reason"] == "acknowledged"
    ((partition, action),) = acts(broker, 1)
    assert partition == murmur2(b"fraud", 4)
    assert (action.kind, action.actor.id, action.actor.kind) == ("ack", "ann", "human")
    assert (action.decided_at_ms, action.occurred_at_ms) == (NOW_MS, NOW_MS)


def test_an_act_without_an_answer_says_that_it_was_sent(tocsin: Tocsin, broker: str) -> None:
    status, _, err = tocsin("incidents", "comment", "INC-260", "the unit was changed", "--wait", "0")
    assert status == Exit.NOT_SO
    assert "sent" in err
    assert "the unit was changed" in [action.text for _, action in acts(broker, 2)]


def test_a_text_beyond_what_a_record_takes_is_refused_before_it_is_sent(tocsin: Tocsin) -> None:
    status, _, err = tocsin("incidents", "resolve", "INC-260", "--as", "fixed", "--reason", "x" * 201)
    assert (status, "reason" in err) == (Exit.USAGE, True)
