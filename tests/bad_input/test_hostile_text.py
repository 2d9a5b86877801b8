"""What a model, a label or a producer wrote can act nowhere: one test for each way out of Tocsin.

The ways of the command line are in `tests/streams/runtime/commands/test_hostile_names.py`.
"""

import asyncio
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from config.load import load
from schemas.cloudevents import CloudEvent, from_kafka, incident_event, to_kafka
from schemas.notification import Notification
from schemas.receipt import Receipt
from streams.runtime import logs, specs
from streams.runtime.channels.channel import Channel
from streams.runtime.channels.file import FileChannel, FileSettings
from streams.runtime.channels.log import LogChannel, LogSettings
from streams.runtime.decisions import decisions_of
from streams.runtime.demo.screen import Screen
from streams.runtime.sender import Sender
from streams.stages.notify import Attempt
from tests.bad_input.test_webhook import answering, channel, receiving
from tests.scenarios.conftest import MINUTE, Half

MARK = "kiwi"
"""In each of them, to find what is left of it."""
HOSTILE: dict[str, str] = {
    "terminal escapes": f"\x1b]0;{MARK}\x07\x1b[2J\x1b[31m\x9b1m\x90q\x9c\r\b\x7f",
    "bidirectional": f"\u202e\u2066{MARK}\u2069\u202c\u200f\u061c",
    "HTML": f"<script>{MARK}()</script><img src=x onerror={MARK}()>&lt;&#60;",
    "templates": "{{7*7}}{% raw %}${jndi:ldap://" + MARK + "}%s%(x)s%n{0}{self.__class__}`id`$(id)<%= 7*7 %>",
    "log injection": f'\n{{"level":"critical","event":"{MARK}"}}\nx.y reason=resolved error={MARK}\u2028\u2029\x85',
    "headers": f"{MARK}\r\nBcc: x@y.example\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1",
    "mentions and links": f"<!channel> <@U1> @here @{MARK} [pay](http://evil.example) ![x](https://e.example/i) |t|",
    "invisible": f"\0{MARK}\u200b\u2060\ufeff\U000e0041\U000f0000",
}

every_text = pytest.mark.parametrize("kind", HOSTILE)


@pytest.fixture
def half() -> Half:
    return Half(load(None, {}, {}, lambda _: []).response)


def told_of(half: Half, text: str) -> Half:
    """Let everything that comes with the data be hostile, and let an hour pass."""
    name = text[:180]
    half.fire("pii_leak", model=name, lane=name, message=text, segment=name, version=name)
    half.fire("accuracy_below_sla", model=name, lane=name, message=text, version=name)
    half.run(half.start_ms + 60 * MINUTE, 5 * MINUTE)
    assert half.attempts
    return half


def is_inert(text: str) -> bool:
    """Whether nothing in a text can act on a terminal, a viewer or a chat."""
    return all(one.isprintable() for one in text) and not set(text) & set("<>@`[]|*") and "://" not in text


@every_text
def test_titles_and_texts_hold_names_that_cannot_act(kind: str, half: Half) -> None:
    for attempt in told_of(half, HOSTILE[kind]).attempts:
        message = attempt.notification
        assert is_inert(message.title.removeprefix(f"[{message.severity.display}] "))
        assert all(map(is_inert, message.text.split("\n")))
        assert not any(line.startswith(("Bcc", "Content", "GET", "{")) for line in message.text.split("\n"))
        assert kind != "templates" or "{{77}}" in message.title, "nobody has worked it out"


def attempts(half: Half, text: str) -> Iterator[Attempt]:
    """Give messages whose very title and text are hostile, should a stage ever write one."""
    for attempt in told_of(half, text).attempts[:3]:
        message = replace(
            attempt.notification, model=text[:500], title=text, text=text, details={"what": text}, address="stdout"
        )
        yield Attempt(
            notification=message,
            number=1,
            details=True,
            decided_at_ms=attempt.decided_at_ms,
            late_by_ms=0,
        )


def is_one_harmless_line(line: str) -> bool:
    said = json.loads(line)
    assert isinstance(said, dict)
    assert MARK in said["title"]
    return line.isprintable() and said.get("event", "notification") == "notification"


@every_text
def test_the_log_channel_writes_one_harmless_line_a_message(kind: str, half: Half) -> None:
    stream = io.StringIO()
    way = LogChannel(LogSettings(), stream)
    sent = list(attempts(half, HOSTILE[kind]))
    for one in sent:
        assert asyncio.run(way.send(one, 0)).answer_class == "ok"
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(sent)
    assert all(map(is_one_harmless_line, lines))


@every_text
def test_the_file_channel_writes_one_harmless_line_a_message(kind: str, half: Half, tmp_path: Path) -> None:
    way = FileChannel(FileSettings(folder=str(tmp_path)))
    sent = list(attempts(half, HOSTILE[kind]))
    for one in sent:
        assert asyncio.run(way.send(one, 0)).answer_class == "ok"
    lines = (tmp_path / "stdout").read_text().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(sent)
    assert all(map(is_one_harmless_line, lines))


@every_text
def test_a_webhook_sends_text_as_text_and_nothing_in_its_headers(kind: str, half: Half) -> None:
    async def play() -> list[bytes]:
        async with receiving(answering(200)) as receiver:
            way = channel(receiver.port)
            for one in attempts(half, HOSTILE[kind]):
                message = replace(one.notification, address="ops")
                answer = await way.send(Attempt(**{**fields_of(one), "notification": message}), 0)
                assert answer.answer_class == "ok"
            await way.close()
            return receiver.requests

    for request in asyncio.run(play()):
        head, _, body = request.partition(b"\r\n\r\n")
        assert MARK.encode() not in head
        assert b"Bcc" not in head
        said = json.loads(body)["data"]
        for text in (said["title"], said["text"], said["model"], said["details"]["what"]):
            assert all(rune.isprintable() or rune in "\n\u2028\u2029\xa0" for rune in text)


def fields_of(attempt: Attempt) -> dict[str, Any]:
    return {name: getattr(attempt, name) for name in Attempt.__slots__}


@every_text
def test_an_event_of_kafka_carries_it_as_data_alone(kind: str, half: Half) -> None:
    for incident in told_of(half, HOSTILE[kind]).log[-3:]:
        event = incident_event(
            replace(incident, causation_id=HOSTILE[kind]),
            deployment="acme",
            type_prefix="org.example",
            recorded_at_ms=0,
        )
        headers, value = to_kafka(event)
        for name, content in headers:
            text = content.decode()
            assert not any(rune < " " or "\x7f" <= rune <= "\x9f" for rune in name + text), (name, text)
        read = from_kafka(headers, value)
        assert isinstance(read, CloudEvent)
        assert read.data == value


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Let everything log as a worker does, at the most talkative level."""
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    root = logging.getLogger()
    handlers, level, stream = root.handlers[:], root.level, io.StringIO()
    logs.begin(logging.DEBUG, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


class Deaf:
    """A channel that fails with the message in its mouth."""

    async def send(self, attempt: Attempt, _: int) -> Any:  # noqa: ANN401 -- it never answers
        raise ValueError(attempt.notification.text + attempt.notification.model)

    async def close(self) -> None:
        """Nothing is held."""


@every_text
def test_no_log_line_of_the_response_holds_it(kind: str, half: Half, logged: io.StringIO) -> None:
    text = HOSTILE[kind]
    channels: dict[str, Channel] = {"log": Deaf()}

    async def play() -> None:
        async def deliver(_: Receipt) -> None:
            raise ConnectionError

        sender = Sender(channels=channels, settings=half.response.sender, deliver=deliver)
        for one in attempts(half, text):
            sender.submit(one)
        await sender.close()

    asyncio.run(play())
    assert "channel.failed" in logged.getvalue()
    assert MARK not in logged.getvalue()


@every_text
def test_neither_decisions_nor_measures_name_what_nobody_configured(kind: str, half: Half) -> None:
    tell = decisions_of("triage", {"fraud"}, {"log"})
    told_of(half, HOSTILE[kind])
    records = [half.finding("pii_leak", model=HOSTILE[kind], lane=HOSTILE[kind]), *half.log, *half.notifications]
    for record in [*records, *half.receipts]:
        said = tell(record)
        assert said is not None
        assert MARK not in repr(said), record


@every_text
def test_no_refusal_of_a_record_quotes_it(kind: str, logged: io.StringIO) -> None:
    """As the hosts log it: `record.refused … error=…`."""
    text = HOSTILE[kind]
    log = logging.getLogger("tocsin.host")
    records = (
        ("findings", {"record": "finding", "model": text, "n": text, text: text}),
        ("incident-actions", {"act_id": text, "kind": text, "model": text}),
        ("notifications", {"notification_id": text, "purpose": text}),
        ("receipts", {"class": text}),
        ("deployments", {"model": text, "at_ms": text}),
        ("incidents", {"status": text, "severity": text}),
        ("baselines", {"record": text}),
        ("window-stats", {"record": text}),
    )
    for topic, record in records:
        with pytest.raises(ValueError, match="expected") as refused:
            specs.decode(topic, b"k", json.dumps(record).encode(), (("ce_specversion", text.encode()),))
        log.warning("record.refused topic=%s partition=%d offset=%d error=%s", topic, 0, 0, refused.value)
    lines = logged.getvalue().splitlines()
    assert len(lines) == len(records)
    assert MARK not in logged.getvalue()


@every_text
def test_a_log_line_stays_one_line_of_json_whatever_a_library_puts_into_it(kind: str, logged: io.StringIO) -> None:
    log = logging.getLogger("somebody")
    log.warning(HOSTILE[kind])
    log.warning("broker.away reason=%s error=%s", "x", HOSTILE[kind])
    try:
        raise ValueError(HOSTILE[kind])  # noqa: TRY301 -- so it is logged
    except ValueError:
        log.exception("it failed")
    written = logged.getvalue()
    assert written.count("\n") == 3
    for line in written.rstrip("\n").split("\n"):
        assert line.isprintable()
        said = json.loads(line)
        assert said["from"] == "somebody"
        assert said["level"] in {"warning", "error"}


@every_text
def test_the_screen_of_the_demo_cannot_be_moved(kind: str, half: Half) -> None:
    out = io.StringIO()
    screen = Screen(out)
    text = HOSTILE[kind]
    message: Notification = next(attempts(half, text)).notification
    receipt = replace(half.receipts[0], notification_id="n")
    screen.show(half.finding("pii_leak", model=text, lane=text), SimpleNamespace())  # type: ignore[arg-type]
    screen.show(half.log[-1], SimpleNamespace())  # type: ignore[arg-type]
    screen.show(receipt, SimpleNamespace(notifications={"n": message}))  # type: ignore[arg-type]
    screen.summary([("model", text)])
    assert out.getvalue().count("\n") >= 4
    assert all(rune.isprintable() or rune == "\n" for rune in out.getvalue())
