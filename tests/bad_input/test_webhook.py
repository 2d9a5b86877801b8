"""A receiver that refuses, hangs, breaks off, sends elsewhere or is not there: each has one answer, over real sockets."""

import asyncio
import io
import json
import logging
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from config.load import load
from schemas.dead_letter import DeadLetter
from schemas.fields import MalformedRecordError
from schemas.incident import Incident, Severity, Status
from schemas.notification import MessageReason, Notification
from schemas.receipt import Receipt
from schemas.response import Response
from streams.runtime import logs
from streams.runtime.channels.webhook import WebhookChannel
from streams.runtime.sender import Sender
from streams.stages.notify import Attempt, Notify, NotifyOut
from tests.bad_input.mutations import samples

BEGAN_MS = 1_795_341_600_000
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
GIVE_UP_MS = 20 * MINUTE
SECRET_PATH = "/services/T0BEEF/B0CAFE/x9y8z7"  # noqa: S105 -- nobody's
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 -- the published vector's
PATIENT_MS, HASTY_MS = 20_000, 300

Writer = asyncio.StreamWriter
Act = Callable[[bytes, Writer], Awaitable[None]]


# ---- what a receiver may do


def answering(status: int, *headers: str, body: bytes = b"") -> Act:
    async def act(_: bytes, writer: Writer) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status} said", f"content-length: {len(body)}", *headers])
        writer.write(head.encode() + b"\r\n\r\n" + body)

    return act


def saying(wire: bytes) -> Act:
    async def act(_: bytes, writer: Writer) -> None:
        writer.write(wire)

    return act


async def echo(request: bytes, writer: Writer) -> None:
    body = b"you sent: " + request
    writer.write(b"HTTP/1.1 500 no\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def hang(_: bytes, _writer: Writer) -> None:
    await asyncio.sleep(PATIENT_MS)


async def trickle(_: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 ok\r\n")
    while True:
        writer.write(b"x-more: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def reset(_: bytes, writer: Writer) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def endless(_: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 ok\r\n\r\n")
    while True:
        writer.write(b"x" * 10_000)
        await writer.drain()


@dataclass
class Receiver:
    """A server that does in turn what the script says, the last for ever, and keeps what it was sent."""

    script: list[Act]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in request.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            request += await reader.readexactly(length)
            self.requests.append(request)
            act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            await act(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]


@asynccontextmanager
async def receiving(*script: Act) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(script))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


# ---- who sends


@pytest.fixture(scope="module")
def response() -> Response:
    whole = load(None, {}, {}, lambda _: []).response
    return replace(whole, notify=replace(whole.notify, give_up_by_channel_ms={"webhook": GIVE_UP_MS}))


def channel(port: int, request_timeout_ms: int = PATIENT_MS, path: str = SECRET_PATH) -> WebhookChannel:
    endpoint = {"url": f"http://127.0.0.1:{port}{path}", "secret_from": "OPS", "allow_private": True}
    raw = {"connect_timeout_ms": 1_000, "request_timeout_ms": request_timeout_ms, "endpoints": {"ops": endpoint}}
    return WebhookChannel.of(raw, {"OPS": SECRET})


def message(name: str = "n1", **others: Any) -> Notification:  # noqa: ANN401 -- any field
    said: dict[str, Any] = {
        "notification_id": name, "incident_id": "i1", "display_id": "INC-1", "dedup_key": "d1", "model": "fraud", "seq": 1,
        "episode": 1, "cause": "step:0.page", "cause_at_ms": BEGAN_MS, "decided_at_ms": BEGAN_MS, "purpose": "page",
        "reason": MessageReason.FIRST, "mode": "page", "group": "responders", "target": "team:ml-oncall",
        "channel": "webhook", "address": "ops", "severity": Severity.HIGH, "status": Status.INVESTIGATING,
        "title": "[SEV-2] fraud", "text": "More answers are wrong.",
    }  # fmt: skip
    return Notification(**said | others)


def incident(name: str = "i1") -> Incident:
    sample = Incident.decode(samples("incident")[-1])
    return replace(
        sample, incident_id=name, seq=1, episode=1, acks=(), severity=Severity.HIGH, status=Status.INVESTIGATING,
        decided_at_ms=BEGAN_MS,
    )  # fmt: skip


class Way:
    """Notify, its sender and a webhook, driven by a clock that is told: hours pass in a moment, requests are real."""

    def __init__(self, response: Response, webhook: WebhookChannel) -> None:
        self.now_ms = BEGAN_MS
        self.receipts: list[Receipt] = []
        self.attempts: list[Attempt] = []
        self.dead: list[DeadLetter] = []
        self._notify = Notify(rows={}, settings=response.notify)
        self._sender = Sender(
            channels={"webhook": webhook},
            settings=replace(response.sender, attempt_timeout_ms=60_000),
            deliver=self._deliver,
            wall_clock_ms=lambda: self.now_ms,
        )
        self._fresh: list[Receipt] = []

    async def _deliver(self, receipt: Receipt) -> None:
        self._fresh.append(receipt)

    async def tell(self, *messages: Notification) -> None:
        for one in messages:
            await self._take(self._notify.receive([incident(one.incident_id), one]))

    async def until(self, ms: int, step_ms: int = SECOND) -> None:
        while self.now_ms < BEGAN_MS + ms:
            self.now_ms += step_ms
            await self._take(self._notify.clock(self.now_ms, live=True))

    async def _take(self, outputs: Sequence[NotifyOut]) -> None:
        for output in outputs:
            match output:
                case Attempt():
                    self.attempts.append(output)
                    self._sender.submit(output)
                case DeadLetter():
                    self.dead.append(output)
                case Receipt():
                    self.receipts.append(output)
        await self._sender.settle()
        fresh, self._fresh = self._fresh, []
        for receipt in fresh:
            # what a request takes here would move the decisions
            told = replace(receipt, decided_at_ms=self.now_ms)
            self.receipts.append(told)
            await self._take(self._notify.receive([told]))

    @property
    def said(self) -> list[str]:
        return [f"{receipt.status} {receipt.reason}" for receipt in self.receipts]

    async def close(self) -> None:
        await self._sender.close()


@asynccontextmanager
async def going(response: Response, port: int, **how: Any) -> AsyncIterator[Way]:  # noqa: ANN401 -- of the channel
    way = Way(response, channel(port, **how))
    try:
        yield way
    finally:
        await way.close()


# ---- one attempt, one answer

ANSWERS: dict[str, tuple[Act, str, str, int]] = {
    "500": (answering(500), "retry", "http_500", PATIENT_MS),
    "503 with a page of HTML": (answering(503, body=b"<html>" * 9_000), "retry", "http_503", PATIENT_MS),
    "429": (answering(429), "retry", "http_429", PATIENT_MS),
    "400": (answering(400), "permanent", "http_400", PATIENT_MS),
    "401": (answering(401), "disable", "http_401", PATIENT_MS),
    "413": (answering(413), "shrink", "http_413", PATIENT_MS),
    "hangs": (hang, "retry", "timeout", HASTY_MS),
    "trickles": (trickle, "retry", "timeout", HASTY_MS),
    "resets": (reset, "retry", "network_ReadError", PATIENT_MS),
    "says nothing": (saying(b""), "retry", "network_RemoteProtocolError", PATIENT_MS),
    "no HTTP": (saying(b"\x16\x03\x01\r\n\r\n"), "retry", "network_RemoteProtocolError", PATIENT_MS),
    "breaks off": (
        saying(b"HTTP/1.1 200 ok\r\ncontent-length: 99\r\n\r\nx"), "retry", "network_RemoteProtocolError", PATIENT_MS,
    ),
    "headers without end": (
        saying(b"HTTP/1.1 200 ok\r\n" + b"x: y\r\n" * 50_000), "retry", "network_RemoteProtocolError", PATIENT_MS,
    ),
    "a body without end": (endless, "ok", "sent", PATIENT_MS),
    "a body that is no text": (answering(200, body=b"\xff\xfe\0\x1b[31m"), "ok", "sent", PATIENT_MS),
    "a redirect": (answering(308, "location: https://example.org/"), "permanent", "http_308", PATIENT_MS),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_each_thing_that_a_receiver_may_do_has_one_answer(case: str, response: Response) -> None:
    act, means, reason, timeout_ms = ANSWERS[case]

    async def play() -> Way:
        async with receiving(act) as receiver, going(response, receiver.port, request_timeout_ms=timeout_ms) as way:
            await way.tell(message())
            await way.until(SECOND)
            assert len(receiver.requests) == (2 if means == "shrink" else 1)
            return way

    way = asyncio.run(play())
    receipt = way.receipts[0]
    assert (receipt.answer_class, receipt.reason, receipt.attempt) == (means, reason, 1)
    assert len(receipt.body) <= 2_048
    assert all(rune.isprintable() or rune in "\n\ufffd" for rune in receipt.body)


def test_a_redirect_into_the_local_network_is_never_followed(response: Response) -> None:
    async def play() -> None:
        async with receiving(answering(200)) as inside:
            where = f"location: http://127.0.0.1:{inside.port}/latest/meta-data/"
            async with receiving(answering(302, where)) as outside, going(response, outside.port) as way:
                await way.tell(message())
                await way.until(2 * HOUR, MINUTE)
                assert way.said == ["dead http_302"]
                assert (len(outside.requests), inside.requests) == (1, [])
                assert [letter.got for letter in way.dead] == ["http_302"]

    asyncio.run(play())


# ---- until it is over


def test_a_receiver_in_trouble_is_asked_again_ever_more_seldom_and_then_given_up(response: Response) -> None:
    async def play() -> tuple[Way, Receiver]:
        async with receiving(answering(500, body=b"out of order")) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(GIVE_UP_MS + 2 * MINUTE)
            return way, receiver

    way, receiver = asyncio.run(play())
    times = [attempt.decided_at_ms for attempt in way.attempts]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert max(waits) <= response.notify.page_backoff_cap_ms + SECOND
    assert 20 <= len(times) == len(receiver.requests) <= 120
    assert max(waits[:3]) < max(waits[6:])
    assert times[-1] - times[0] <= GIVE_UP_MS
    assert way.said == ["retrying http_500"] * len(times) + ["dead gave_up"]
    assert (way.receipts[0].code, way.receipts[0].body) == (500, "out of order")
    [letter] = way.dead
    assert (letter.record, letter.field, letter.got, letter.stage) == ("notification", "address", "gave_up", "notify")
    assert letter.value is not None
    assert Notification.decode(letter.value) == message()


@pytest.mark.parametrize(
    ("header", "wish_ms"),
    [
        ("7", 7 * SECOND),
        (formatdate((BEGAN_MS + 8 * SECOND) / 1000, usegmt=True), 7 * SECOND),
        (formatdate((BEGAN_MS - HOUR) / 1000, usegmt=True), 0),
        ("soon", None),
        ("-7", None),
        ("9" * 5_000, 24 * HOUR),
    ],
)
def test_a_wish_to_wait_is_granted_as_seconds_and_as_a_date(
    response: Response, header: str, wish_ms: int | None
) -> None:
    async def play() -> Way:
        script = (answering(429, f"retry-after: {header}"), answering(200))
        async with receiving(*script) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(16 * MINUTE)
            return way

    way = asyncio.run(play())
    assert way.said == ["retrying http_429", "delivered sent"]
    first, second = (attempt.decided_at_ms for attempt in way.attempts)
    assert way.receipts[0].retry_after_ms == wish_ms
    assert second - first >= min(wish_ms or 0, response.notify.retry_after_cap_ms)
    if wish_ms == 7 * SECOND:
        assert second - first == wish_ms


def test_no_wish_to_wait_is_granted_beyond_its_cap(response: Response) -> None:
    async def play() -> Way:
        script = (answering(503, "retry-after: 999999999999"), answering(200))
        async with receiving(*script) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(16 * MINUTE)
            return way

    way = asyncio.run(play())
    first, second = (attempt.decided_at_ms for attempt in way.attempts)
    assert second - first == response.notify.retry_after_cap_ms


def test_troubles_of_all_kinds_end_in_one_delivery_under_one_id(response: Response) -> None:
    async def play() -> tuple[Way, Receiver]:
        script = (answering(500), reset, answering(429, "retry-after: 3"), saying(b"?"), answering(204))
        async with receiving(*script) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(10 * MINUTE)
            return way, receiver

    way, receiver = asyncio.run(play())
    assert [one.split()[0] for one in way.said] == ["retrying"] * 4 + ["delivered"]
    assert len({line for one in receiver.requests for line in one.split(b"\r\n") if b"webhook-id" in line}) == 1
    assert way.dead == []


def test_a_receiver_that_is_not_there_gets_its_message_when_it_is(response: Response) -> None:
    async def play() -> tuple[Way, Receiver]:
        free = socket.create_server(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        receiver = Receiver([answering(200)])
        async with going(response, port) as way:
            await way.tell(message())
            await way.until(2 * MINUTE)
            assert set(way.said) == {"retrying network_ConnectError"}
            server = await asyncio.start_server(receiver.serve, "127.0.0.1", port)
            await way.until(4 * MINUTE)
            server.close()
            return way, receiver

    way, receiver = asyncio.run(play())
    assert way.said[-1] == "delivered sent"
    assert len(receiver.requests) == 1
    assert receiver.bodies[0]["data"]["late_by_ms"] >= 2 * MINUTE


@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_will_never_be_taken_is_not_asked_twice(response: Response, status: int) -> None:
    async def play() -> tuple[Way, Receiver]:
        async with receiving(answering(status)) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(HOUR, MINUTE)
            return way, receiver

    way, receiver = asyncio.run(play())
    assert (way.said, len(receiver.requests)) == ([f"dead http_{status}"], 1)
    assert [letter.got for letter in way.dead] == [f"http_{status}"]


def test_who_does_not_know_us_is_left_alone_and_probed_by_one_message(response: Response) -> None:
    #  401 to the first: closed 10 min | one probe: 401, closed | one probe: 200, all go
    async def play() -> Way:
        script = (answering(401), answering(401), answering(200))
        async with receiving(*script) as receiver, going(response, receiver.port) as way:
            await way.tell(message("n1"))
            await way.until(SECOND)
            await way.tell(message("n2", incident_id="i2"), message("n3", incident_id="i3"))
            await way.until(9 * MINUTE)
            assert len(receiver.requests) == 1
            await way.until(11 * MINUTE)
            assert len(receiver.requests) == 2
            await way.until(19 * MINUTE)
            assert len(receiver.requests) == 2
            return way

    way = asyncio.run(play())
    assert way.said[:2] == ["retrying http_401"] * 2


# ---- what nobody may read

HOSTILE_ID = "n1\r\nx-injected: yes\r\n\r\n"


def test_no_secret_stands_in_a_log_or_a_receipt(response: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the receiver answers with all that it was sent, at the most talkative level."""

    async def play(port_free: int) -> tuple[Way, Receiver]:
        async with receiving(echo, reset, saying(b"?"), echo) as receiver, going(response, receiver.port) as way:
            await way.tell(message())
            await way.until(5 * MINUTE)
            for odd in (channel(port_free), channel(receiver.port, HASTY_MS)):
                await odd.send(way.attempts[0], BEGAN_MS)
                await odd.close()
            return way, receiver

    written = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    try:
        logs.begin(logging.DEBUG, written)
        way, receiver = asyncio.run(play(9))
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert SECRET_PATH.encode() in receiver.requests[0]
    everything = written.getvalue() + "".join(receipt.encode().decode() for receipt in way.receipts)
    assert "you sent: POST ..." in everything
    assert "notification.retrying" in written.getvalue()
    for secret in (SECRET, SECRET.removeprefix("whsec_"), SECRET_PATH, "B0CAFE"):
        assert secret not in everything


def test_no_id_can_put_a_header_into_a_request(response: Response) -> None:
    async def play() -> tuple[Way, Receiver]:
        async with receiving(answering(200)) as receiver, going(response, receiver.port) as way:
            await way.tell(message(HOSTILE_ID))
            await way.until(MINUTE)
            return way, receiver

    way, receiver = asyncio.run(play())
    assert receiver.requests == []
    assert way.receipts[0].reason == "network_LocalProtocolError"


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:hunter2@hooks.example.org/x",
        "https://ann@hooks.example.org/x",
        "https://",
        "https://:443/x",
        "https://[::1/x",
        "https://hooks..example.org/x",
        "https://hooks.example.org:99999/x",
        "https://hooks.example.org:0/x",
        "https://hooks.example.org/\nx",
        "ftp://hooks.example.org/x",
    ],
)
def test_an_address_that_cannot_be_or_holds_a_password_is_named_at_the_start_and_not_quoted(url: str) -> None:
    raw = {
        "connect_timeout_ms": 1_000,
        "request_timeout_ms": 2_000,
        "endpoints": {"ops": {"url": url, "secret_from": "OPS", "allow_private": False}},
    }
    with pytest.raises(MalformedRecordError) as refused:
        WebhookChannel.of(raw, {"OPS": SECRET})
    assert refused.value.field == "endpoints.ops.url"
    assert "hunter2" not in str(refused.value)
