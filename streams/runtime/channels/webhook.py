"""A webhook: any HTTP endpoint, signed by the rules of Standard Webhooks.

All attempts carry the same `webhook-id`, so a receiver can tell a repeat. Redirects are not followed; addresses of the
local network are refused unless the endpoint says so, looked up once and then connected to as they were looked up.
"""

import asyncio
import base64
import difflib
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import unquote_to_bytes

import httpx
import msgspec
from msgspec import Meta
from standardwebhooks.webhooks import Webhook

from config.fault import UNSHOWN
from config.reader import shown
from schemas.fields import MalformedRecordError
from schemas.ids import rfc3339
from streams.runtime.channels.channel import Answer, ChannelSettings, Objection, by_status, content, retry_after
from streams.stages.notify import Attempt

MAX_REQUEST_BYTES = 20_480
"""Receivers of Standard Webhooks need not take more."""
MAX_ANSWER_BYTES = 65_536
"""More of an answer is not read."""
MAX_PORT = 65_535
LEAST_KEY_BYTES = 24
MOST_KEY_BYTES = 64
"""What Standard Webhooks asks of a key; a shorter one is rather a mistake than a secret."""
_USUAL_NAME = re.compile(r"_?[A-Z][A-Z0-9]{0,19}(_[A-Z0-9]{1,20}){0,9}")
"""Of a variable of the environment; a key in base64 or hexadecimal digits is none."""
LEAST_SECRET_PATH_BYTES = 8
"""A shorter path holds no secret, and its letters may stand anywhere."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""In which an IPv4 address is written as one of IPv6 (RFC 6052)."""
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that was ever given out of IPv6's open network; outside stand local addresses, and other ways to write those of IPv4."""


class Endpoint(ChannelSettings, frozen=True, kw_only=True):
    """One receiver.

    Parameters
    ----------
    secret_from
        The environment variable that holds its secret: base64 of 24 to 64 bytes, with `whsec_` before it or without.
    allow_private
        Whether it may be in the local network, and be reached without TLS.
    """

    url: Annotated[str, Meta(pattern=r"^https?://")]
    secret_from: Annotated[str, Meta(min_length=1)]
    allow_private: bool


class WebhookSettings(ChannelSettings, frozen=True, kw_only=True):
    """Receivers by name, which are the addresses of this channel, and how long they may take."""

    connect_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)]
    request_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)]
    endpoints: dict[str, Endpoint]

    @classmethod
    def objections(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Objection]:
        """Refuse URLs that cannot be called, and secrets that are missing or are none."""
        for name, endpoint in _endpoints(raw).items():
            url, secret_from = endpoint.get("url"), endpoint.get("secret_from")
            if isinstance(url, str) and url.startswith(("http://", "https://")):
                yield from _odd_url(url, f"endpoints.{name}.url", public=endpoint.get("allow_private") is False)
            if isinstance(secret_from, str) and secret_from:
                yield from _odd_secret(environ.get(secret_from, ""), secret_from, f"endpoints.{name}.secret_from")

    @classmethod
    def nowhere(cls, raw: Mapping[str, object], address: str) -> Objection | None:
        """Refuse what is the name of no endpoint."""
        names = list(_endpoints(raw))
        if address in names:
            return None
        expected = (
            f"the name of an endpoint ({', '.join(names)})" if names else "the name of an endpoint; there is none"
        )
        near = difflib.get_close_matches(address, names, n=1)
        add = "add it to [channels.webhook.endpoints]: url, secret_from and allow_private"
        return Objection("address", expected, shown(address), f"did you mean {near[0]}? Else {add}" if near else add)


class WebhookChannel:
    """Posts each message to an endpoint."""

    def __init__(self, settings: WebhookSettings, secrets: Mapping[str, str]) -> None:
        self._settings = settings
        self._signers = {name: Webhook(secrets[name]) for name in settings.endpoints}
        self._secrets = {name: _secret_parts(one.url, secrets[name]) for name, one in settings.endpoints.items()}
        trusted = httpx.create_ssl_context(trust_env=False)
        timeout = httpx.Timeout(settings.request_timeout_ms / 1000, connect=settings.connect_timeout_ms / 1000)
        # a client keeps connections by address: with one for all, two names of one address would share a certificate
        self._clients = {
            name: httpx.AsyncClient(verify=trusted, follow_redirects=False, trust_env=False, timeout=timeout)
            for name in settings.endpoints
        }

    @classmethod
    def of(cls, raw: Mapping[str, object], environ: Mapping[str, str]) -> "WebhookChannel":
        """Make it from its settings; `MalformedRecordError` names a URL that is none, and a secret that is missing or is none."""
        settings = WebhookSettings.of(raw)
        for one in settings.objections(raw, environ):
            raise MalformedRecordError("webhook", one.setting, one.expected, one.got)
        return cls(settings, {name: environ[one.secret_from] for name, one in settings.endpoints.items()})

    async def send(self, attempt: Attempt, wall_ms: int) -> Answer:
        """Post one message."""
        name = attempt.notification.address
        endpoint = self._settings.endpoints.get(name)
        if endpoint is None:
            return Answer(answer_class="permanent", reason="unknown_endpoint")
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                request = await self._request(name, endpoint, attempt, wall_ms)
                if isinstance(request, Answer):
                    return request
                return await self._post(name, request, wall_ms)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(answer_class="retry", reason="timeout")
        except socket.gaierror:
            return Answer(answer_class="retry", reason="name_not_found")
        except httpx.TransportError as error:
            return Answer(answer_class="retry", reason=f"network_{type(error).__name__}")

    async def _request(self, name: str, endpoint: Endpoint, attempt: Attempt, wall_ms: int) -> httpx.Request | Answer:
        url = httpx.URL(endpoint.url)
        if url.scheme != "https" and not endpoint.allow_private:
            return Answer(answer_class="permanent", reason="not_encrypted")
        address = await _address(url)
        if not endpoint.allow_private and not _is_public(address):
            return Answer(answer_class="permanent", reason="private_address")
        body = _body(attempt)
        message_id = attempt.notification.notification_id
        at = datetime.fromtimestamp(wall_ms // 1000, UTC)
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": "tocsin",
            "webhook-id": message_id,
            "webhook-timestamp": str(wall_ms // 1000),
            "webhook-signature": self._signers[name].sign(message_id, at, body),
        }
        return self._clients[name].build_request(
            "POST",
            url.copy_with(host=address),
            content=body.encode(),
            headers=headers,
            extensions={"sni_hostname": url.host},
        )

    async def _post(self, name: str, request: httpx.Request, wall_ms: int) -> Answer:
        response = await self._clients[name].send(request, stream=True)
        try:
            kept = b""
            async for chunk in response.aiter_raw():
                kept += chunk
                if len(kept) >= MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        for secret in self._secrets[name]:
            kept = kept.replace(secret, b"...")  # some answer with what they were asked
        return by_status(response.status_code, retry_after(response.headers.get("retry-after"), wall_ms), kept)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()


def _body(attempt: Attempt) -> str:
    """Return the payload; the details go when it would be too large."""
    said = content(attempt)
    payload = {
        "type": f"incident.{attempt.notification.purpose}",
        "timestamp": rfc3339(attempt.notification.decided_at_ms),
        "data": said,
    }
    body = msgspec.json.encode(payload)
    if len(body) > MAX_REQUEST_BYTES:
        slim = {key: value for key, value in said.items() if key not in {"details", "firing", "cleared"}}
        body = msgspec.json.encode({**payload, "data": slim})
    return body.decode()


def _endpoints(raw: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return the tables of endpoints, as far as they are tables."""
    endpoints = raw.get("endpoints")
    if not isinstance(endpoints, Mapping):
        return {}
    return {str(name): one for name, one in endpoints.items() if isinstance(one, Mapping)}


def _odd_url(text: str, where: str, *, public: bool) -> Iterator[Objection]:
    """Refuse what cannot be called, what would never be sent to, and a password in a file."""
    like = 'write for instance url = "https://hooks.example.org/tocsin"'
    try:
        url = httpx.URL(text)
        host = url.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        yield Objection(where, "a URL with a host", "something else", like)
        return
    if not host or (url.port is not None and not 0 < url.port <= MAX_PORT):
        yield Objection(where, f"a URL with a host and a port from 1 to {MAX_PORT}", "one without", like)
    if url.userinfo:
        expected = "a URL without user and password: messages are signed"
        yield Objection(where, expected, "one with them", "leave them out; the secret comes by secret_from")
    own = "or set allow_private = true where the receiver is in your own network"
    if public and url.scheme != "https":
        yield Objection(where, "https, for allow_private is false", url.scheme, f"use https, {own}")
    elif public and _is_private(url.host):
        expected = "a host in the open network, for allow_private is false"
        yield Objection(where, expected, "one that is not", f"name another, {own}")


def _odd_secret(secret: str, variable: str, where: str) -> Iterator[Objection]:
    """Refuse what is not a key in base64: it would be read as some other key than the receiver's.

    >>> [one.got for one in _odd_secret("abc", "OPS", "a")], [one.got for one in _odd_secret("YWJj", "OPS", "a")]
    (['something else'], ['a key of 3 bytes'])

    What is no usual name may be the secret itself, and is not said:

    >>> [one.expected for one in _odd_secret("", "whsec_U0VDUkVU", "a")]
    ['the name of a variable of the environment, such as TOCSIN_OPS_SECRET']
    """
    if not secret and not _USUAL_NAME.fullmatch(variable):
        expected = "the name of a variable of the environment, such as TOCSIN_OPS_SECRET"
        yield Objection(where, expected, UNSHOWN, "put the secret into that variable, and its name here")
        return
    make = f'give the receiver and {variable} the same: "whsec_" and what `openssl rand -base64 32` prints'
    if not secret:
        yield Objection(where, f"a secret in the environment as {variable}", "nothing", make)
        return
    expected = f"base64 of {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} bytes in {variable}, with whsec_ before it or without"
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        yield Objection(where, expected, "something else", make)
        return
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        yield Objection(where, expected, f"a key of {len(key)} bytes", make)


def _secret_parts(url: str, secret: str) -> tuple[bytes, ...]:
    """Return what must not stand in a receipt: the secret, and the path and its parts, in which many receivers have theirs.

    >>> _secret_parts("https://hooks.example/services/T1/x%2Dtoken-12?key=0123abcd", "whsec_abcd")
    (b'abcd', b'/services/T1/x%2Dtoken-12?key=0123abcd', b'x%2Dtoken-12', b'x-token-12', b'0123abcd', b'services')
    """
    path = httpx.URL(url).raw_path
    parts = {form for part in re.split(rb"[/?&=;]", path) for form in (part, unquote_to_bytes(part))}
    longest_first = sorted({path} | parts, key=lambda one: (-len(one), one))
    return (
        secret.removeprefix("whsec_").encode(),
        *(one for one in longest_first if len(one) >= LEAST_SECRET_PATH_BYTES),
    )


def _is_private(host: str) -> bool:
    """Whether a host is an address, or the name of this machine, that is not in the open network.

    >>> [_is_private(one) for one in ("10.0.0.1", "::1", "localhost", "93.184.215.14", "hooks.example.org")]
    [True, True, True, False, False]
    """
    try:
        return not _is_public(host)
    except ValueError:
        return host == "localhost"


async def _address(url: httpx.URL) -> str:
    """Look a host up once."""
    found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


def _is_public(address: str) -> bool:
    """Whether an address is in the open network.

    >>> [_is_public(one) for one in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "93.184.215.14")]
    [False, False, False, False, False, True]
    >>> [_is_public(one) for one in ("64:ff9b::a00:1", "2002:a00:1::", "fec0::1", "64:ff9b::5db8:d70e", "2606:4700::1111")]
    [False, False, False, True, True]
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if parsed.teredo is not None or (inner is None and parsed not in UNICAST):
            return False
        parsed = inner or parsed
    return parsed.is_global and not parsed.is_multicast
