"""The webhook against a real server: signatures, what each status means, and where it does not go."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest
import trustme
from pytest_httpserver import HTTPServer
from standardwebhooks.webhooks import Webhook
from werkzeug import Request
from werkzeug import Response as Reply

from schemas.fields import MalformedRecordError
from schemas.incident import Severity, Status
from schemas.notification import MessageReason, Notification
from streams.runtime.channels import webhook
from streams.runtime.channels.channel import Answer
from streams.runtime.channels.webhook import Endpoint, WebhookChannel, WebhookSettings
from streams.stages.notify import Attempt

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 -- the published vector's
HOSTILE = "<!channel> [x](http://evil.example) \r\nBcc: a@b \x1b[31m \u202e üñ"


def attempt(*, details: bool = True, text: str = "More answers are wrong.", address: str = "ops") -> Attempt:
    message = Notification(
        notification_id="af2cbcf8-1a0f-5007-b165-f69eced7d67b",
        incident_id="260de83d-f6d6-5738-b2dd-2307938697ba",
        display_id="INC-260DE83DF6D6",
        dedup_key="e1d8",
        model="credit",
        seq=3,
        episode=1,
        cause="step:0.page",
        cause_at_ms=1_000,
        decided_at_ms=1_000,
        purpose="page",
        reason=MessageReason.FIRST,
        mode="page",
        group="responders",
        target="team:ml-oncall",
        channel="webhook",
        address=address,
        severity=Severity.HIGH,
        status=Status.INVESTIGATING,
        title="[SEV-2] credit",
        text=text,
        details={"class": "model_quality"},
        firing=tuple(f"{number:064d}" for number in range(50)),
    )
    return Attempt(notification=message, number=1, details=details, decided_at_ms=1_000, late_by_ms=0)


def channel(url: str, *, allow_private: bool = True, request_timeout_ms: int = 2_000) -> WebhookChannel:
    endpoint = Endpoint(url=url, secret_from="OPS", allow_private=allow_private)  # noqa: S106 -- a variable's name
    settings = WebhookSettings(
        connect_timeout_ms=1_000,
        request_timeout_ms=request_timeout_ms,
        endpoints={"ops": endpoint},
    )
    return WebhookChannel(settings, {"ops": SECRET})


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(work)


async def sending(way: WebhookChannel, what: Attempt, wall_ms: int) -> Answer:
    try:
        return await way.send(what, wall_ms)
    finally:
        await way.close()


def send(way: WebhookChannel, what: Attempt | None = None, wall_ms: int = 1_614_265_330_000) -> Answer:
    return run(sending(way, what or attempt(), wall_ms))


def replying(server: HTTPServer, *replies: Reply | Callable[[Request], Reply]) -> list[Request]:
    """Let a server answer by a script; return what it was asked."""
    asked: list[Request] = []
    script = list(replies)

    def answer(request: Request) -> Reply:
        request.get_data()
        asked.append(request)
        reply = script.pop(0) if len(script) > 1 else script[0]
        return reply if isinstance(reply, Reply) else reply(request)

    server.expect_request("/hook").respond_with_handler(answer)
    return asked


def test_the_signature_is_that_of_the_published_vector() -> None:
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    signed = Webhook(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_can_verify_what_arrives(httpserver: HTTPServer) -> None:
    asked = replying(httpserver, Reply("taken"))
    answer = send(channel(httpserver.url_for("/hook")), wall_ms=int(time.time() * 1000))
    assert (answer.answer_class, answer.reason, answer.code, answer.body) == ("ok", "sent", 200, "taken")
    [request] = asked
    payload = Webhook(SECRET).verify(request.get_data(), dict(request.headers))
    assert payload["type"] == "incident.page"
    assert payload["data"]["severity"] == "SEV-2"
    assert payload["data"]["details"] == {"class": "model_quality"}
    assert request.headers["webhook-id"] == attempt().notification.notification_id
    assert request.headers["host"] == f"{httpserver.host}:{httpserver.port}"


def test_all_attempts_have_one_id_and_each_its_own_time(httpserver: HTTPServer) -> None:
    asked = replying(httpserver, Reply(status=500))
    way = channel(httpserver.url_for("/hook"))

    async def twice() -> Answer:
        await way.send(attempt(), 1_614_265_330_000)
        return await sending(way, attempt(), 1_614_265_390_000)

    run(twice())
    assert len({request.headers["webhook-id"] for request in asked}) == 1
    assert [request.headers["webhook-timestamp"] for request in asked] == ["1614265330", "1614265390"]
    assert len({request.headers["webhook-signature"] for request in asked}) == 2


@pytest.mark.parametrize(
    ("status", "means"),
    [
        (200, "ok"),
        (201, "ok"),
        (202, "ok"),
        (204, "ok"),
        (302, "permanent"),
        (400, "permanent"),
        (401, "disable"),
        (403, "disable"),
        (404, "permanent"),
        (408, "retry"),
        (410, "disable"),
        (413, "shrink"),
        (415, "permanent"),
        (425, "retry"),
        (429, "retry"),
        (500, "retry"),
        (502, "retry"),
        (504, "retry"),
    ],
)
def test_what_each_status_means(httpserver: HTTPServer, status: int, means: str) -> None:
    replying(httpserver, Reply(status=status))
    assert send(channel(httpserver.url_for("/hook"))).answer_class == means


def test_redirects_are_not_followed(httpserver: HTTPServer) -> None:
    asked = replying(httpserver, Reply(status=307, headers={"Location": "/elsewhere"}))
    httpserver.expect_request("/elsewhere").respond_with_data("leaked")
    assert send(channel(httpserver.url_for("/hook"))).answer_class == "permanent"
    assert len(asked) == 1
    assert [request.path for request, _ in httpserver.log] == ["/hook"]


@pytest.mark.parametrize(
    ("header", "wish_ms"),
    [("3", 3_000), ("Thu, 25 Feb 2021 15:02:20 GMT", 10_000), ("Thu, 25 Feb 2021 15:02:00 GMT", 0), ("soon", None)],
)
def test_retry_after_is_heard_as_seconds_and_as_a_date(
    httpserver: HTTPServer, header: str, wish_ms: int | None
) -> None:
    replying(httpserver, Reply(status=429, headers={"Retry-After": header}))
    assert send(channel(httpserver.url_for("/hook"))).retry_after_ms == wish_ms


def test_a_script_of_troubles_ends_in_one_delivery(httpserver: HTTPServer) -> None:
    def slow(_request: Request) -> Reply:
        time.sleep(0.6)
        return Reply()

    replying(httpserver, Reply(status=429, headers={"Retry-After": "3"}), Reply(status=500), slow, Reply())
    url = httpserver.url_for("/hook")
    answers = [send(channel(url, request_timeout_ms=300)) for _ in range(4)]
    assert [answer.reason for answer in answers] == ["http_429", "http_500", "timeout", "sent"]
    assert [answer.retry_after_ms for answer in answers] == [3_000, None, None, None]


def test_nobody_there_is_the_worlds_trouble() -> None:
    answer = send(channel("http://127.0.0.1:9/hook"))
    assert (answer.answer_class, answer.reason) == ("retry", "network_ConnectError")


def test_a_name_that_is_not_found_is_tried_again() -> None:
    answer = send(channel("http://no-such-host.invalid/hook", request_timeout_ms=10_000))
    assert answer.answer_class == "retry"


async def serve_with_kept_connections(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: list[str]
) -> None:
    """Answer each request of a connection, and note the host that was asked for."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            said = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
            await reader.readexactly(int(said["content-length"]))
            to.append(said["host"].partition(":")[0])
            writer.write(b"HTTP/1.1 204 taken\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


def test_each_endpoint_has_to_show_its_own_certificate_at_an_address_that_others_share_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "authority.pem"))
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.test").configure_cert(shown)  # and none for b.test
    asked: list[str] = []

    async def here(_: httpx.URL) -> str:
        return "127.0.0.1"

    monkeypatch.setattr(webhook, "_address", here)

    async def play() -> list[str]:
        serve = partial(serve_with_kept_connections, to=asked)
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shown) as server:
            port = server.sockets[0].getsockname()[1]
            urls = {name: f"https://{name}.test:{port}/hook" for name in ("a", "b")}
            endpoints = {name: Endpoint(url=url, secret_from="OPS", allow_private=True) for name, url in urls.items()}  # noqa: S106
            settings = WebhookSettings(connect_timeout_ms=5_000, request_timeout_ms=5_000, endpoints=endpoints)
            way = WebhookChannel(settings, dict.fromkeys(urls, SECRET))
            answers = [await way.send(attempt(address=name), 1_614_265_330_000) for name in ("a", "a", "b")]
            await way.close()
            return [answer.reason for answer in answers]

    assert asyncio.run(play()) == ["sent", "sent", "network_ConnectError"]
    assert asked == ["a.test", "a.test"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[64:ff9b:1::a00:1]",  # RFC 8215
        "[::a00:1]",
        "[::127.0.0.1]",
        "[::ffff:0:a00:1]",  # RFC 2765
        "[5f00::1]",  # RFC 9602
        "[2002:a00:1::]",
        "[2001:0:5db8:d70e::f5ff:fffe]",  # Teredo
    ],
)
def test_the_local_network_is_refused_unless_allowed(host: str) -> None:
    answer = send(channel(f"https://{host}/hook", allow_private=False))
    assert (answer.answer_class, answer.reason) == ("permanent", "private_address")


def test_plain_http_is_refused_unless_allowed() -> None:
    answer = send(channel("http://93.184.215.14/hook", allow_private=False))
    assert (answer.answer_class, answer.reason) == ("permanent", "not_encrypted")


def test_an_unknown_endpoint_is_never_right() -> None:
    answer = send(channel("http://127.0.0.1:9/"), attempt(address="nowhere"))
    assert (answer.answer_class, answer.reason) == ("permanent", "unknown_endpoint")


def test_hostile_text_arrives_as_text(httpserver: HTTPServer) -> None:
    asked = replying(httpserver, Reply())
    send(channel(httpserver.url_for("/hook")), attempt(text=HOSTILE), int(time.time() * 1000))
    payload = Webhook(SECRET).verify(asked[0].get_data(), dict(asked[0].headers))
    assert payload["data"]["text"] == "<!channel> [x](http://evil.example) \nBcc: a@b [31m  üñ"


def test_less_is_sent_when_the_other_side_says_so_and_when_it_would_be_too_large(httpserver: HTTPServer) -> None:
    asked = replying(httpserver, Reply())
    send(channel(httpserver.url_for("/hook")), attempt(details=False))
    send(channel(httpserver.url_for("/hook")), attempt(text="ü" * 9_000))
    for request in asked:
        assert request.json is not None
        assert "details" not in request.json["data"]
        assert len(request.get_data()) <= 20_480


def test_a_large_answer_is_read_in_part(httpserver: HTTPServer) -> None:
    replying(httpserver, Reply("x" * 1_000_000))
    answer = send(channel(httpserver.url_for("/hook")))
    assert answer.answer_class == "ok"
    assert len(answer.body) == 2_048


@pytest.mark.parametrize(
    "environ",
    [{}]
    + [
        {"OPS": secret}
        for secret in (
            "",
            "whsec_",
            "whsec_ü",
            "abc",
            "a passphrase, no key",
            "correct horse battery staple, twice ok",
            "whsec_YWJj",
            SECRET[:-1],
            SECRET * 3,
        )
    ],
)
def test_a_secret_that_is_none_is_named_at_the_start(environ: dict[str, str]) -> None:
    raw = {
        "connect_timeout_ms": 1_000,
        "request_timeout_ms": 2_000,
        "endpoints": {"ops": {"url": "https://h.example", "secret_from": "OPS", "allow_private": False}},
    }
    with pytest.raises(MalformedRecordError, match="secret_from"):
        WebhookChannel.of(raw, environ)


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_a_key_in_base64_is_taken_with_its_mark_or_without(secret: str) -> None:
    raw = {
        "connect_timeout": "1 s",
        "request_timeout_ms": 2_000,
        "endpoints": {"ops": {"url": "https://h.example", "secret_from": "OPS", "allow_private": False}},
    }
    asyncio.run(WebhookChannel.of(raw, {"OPS": secret}).close())


@pytest.mark.parametrize(
    "said",
    [
        "xoxb-0123-secret",
        "\\/services\\/T1\\/xoxb-0123-secret",
        "/services/T1/xoxb%2D0123%2Dsecret",
        "key was k3y-of-8-and-more",
    ],
)
def test_no_part_of_a_path_stands_in_a_receipt(httpserver: HTTPServer, said: str) -> None:
    replying(httpserver, Reply(said, status=500))
    url = httpserver.url_for("/services/T1/xoxb%2D0123%2Dsecret?key=k3y-of-8-and-more")
    body = send(channel(url)).body
    assert "..." in body
    assert not any(part in body for part in ("xoxb-0123", "xoxb%2D0123", "k3y-of"))
