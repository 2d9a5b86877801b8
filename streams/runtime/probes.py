"""What does a worker tell those who keep it running? `/startup`, `/ready`, `/live` and `/metrics`, on one port.

    /startup  200 once all that was assigned at first is restored
    /ready    200 while every stage is assigned, restored and answered by its brokers, and rows lie where they belong
    /live     200 while every loop comes round; nothing else counts, so that an outage of the brokers restarts nobody
    /metrics  Prometheus' text format (`metrics.METRICS`)

The probes answer 503 else, and say in JSON why. A thread of its own answers them, so that a loop that is stuck can be
told from one that is not.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
from prometheus_client.exposition import choose_encoder

from config.settings import ProbeSettings
from streams.runtime.metrics import Measure, registry_of

MOST_AT_ONCE = 16
"""Requests that are answered at once; more are closed unanswered."""
REQUEST_WAIT_S = 5.0
"""How long a request may take to come, all of it, and its answer to be taken."""

log = logging.getLogger("tocsin.probes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a host is, seen from outside.

    Parameters
    ----------
    beats
        By loop, how long ago it last came round, in seconds.
    restored
        Whether there was a moment at which all that was assigned was restored.
    unready
        Why it does not serve now, one sentence each; empty when it does.
    """

    beats: dict[str, float]
    restored: bool
    unready: tuple[str, ...]


class Host(Protocol):
    """What is looked at; asked from another thread than its own, at any moment from its making on."""

    def health(self, bounds: ProbeSettings) -> Health:
        """Tell how it is."""
        ...

    def measures(self) -> Iterable[Measure]:
        """Tell what there is to measure."""
        ...


class ListenError(Exception):
    """The address of the probes cannot be had; the message says what to do."""


class Probes:
    """The endpoints, open from `open` to `close`; where no address is set they are nowhere.

    Parameters
    ----------
    others
        What there is to measure beside the hosts.
    ended
        Called when nobody answers any more though nobody closed it.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        hosts: Sequence[Host],
        others: Callable[[], Iterable[Measure]],
        *,
        ended: Callable[[BaseException], object],
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._ended = ended
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._registry = registry_of([self._own, others, *(host.measures for host in hosts)])

    @property
    def port(self) -> int:
        """The port on which it listens; 0 while it does not."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def open(self) -> None:
        """Begin to listen.

        Raises
        ------
        ListenError
            The address is in use, or none of this machine.
        """
        if not self._settings.address:
            return
        place = (self._settings.address, self._settings.port)
        try:
            self._server = _Server(place, self._answer)
        except OSError as error:
            raise ListenError(
                f"probes: cannot listen on {place[0]}:{place[1]} ({error.strerror or error}): choose another probes.port, "
                "0 for a free one, or another probes.address"
            ) from None
        self._thread = threading.Thread(target=self._serve, args=(self._server,), name="probes", daemon=True)
        self._thread.start()
        log.info("probes.open address=%s port=%d", place[0], self.port)

    def _serve(self, server: "_Server") -> None:
        try:
            server.serve_forever(poll_interval=0.2)
        except BaseException as error:  # noqa: BLE001 -- a thread that ends in silence is the worst of ends
            self._ended(error)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- answers

    def not_alive(self) -> list[str]:
        """Name the loops that are stuck."""
        bound_s = self._settings.silent_after_ms / 1000
        beats = {loop: age_s for host in self._hosts for loop, age_s in host.health(self._settings).beats.items()}
        return [f"{loop}: not back for {age_s:.0f} s" for loop, age_s in beats.items() if age_s > bound_s]

    def not_ready(self) -> list[str]:
        """Say why it does not serve now."""
        return [why for host in self._hosts for why in host.health(self._settings).unready]

    def not_started(self) -> list[str]:
        """Say what has never been restored yet."""
        return [
            why
            for health in (host.health(self._settings) for host in self._hosts)
            if not health.restored
            for why in health.unready or ("not restored yet",)
        ]

    def _own(self) -> Iterable[Measure]:
        yield Measure("tocsin_ready", (), not self.not_ready())
        for host in self._hosts:
            for loop, age_s in host.health(self._settings).beats.items():
                yield Measure("tocsin_heartbeat_age_seconds", (loop,), age_s)

    def _answer(self, path: str, accepts: str) -> tuple[HTTPStatus, str, bytes]:
        """Return status, content type and body for a path."""
        probe = {"/live": self.not_alive, "/ready": self.not_ready, "/startup": self.not_started}.get(path)
        if probe is not None:
            why = probe()
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            return status, "application/json", msgspec.json.encode({"ok": not why, "why": why}) + b"\n"
        if path == "/metrics":
            encode, content_type = choose_encoder(accepts)
            return HTTPStatus.OK, content_type, encode(self._registry)
        text = b"/startup, /ready, /live, /metrics\n"
        return (HTTPStatus.OK if path == "/" else HTTPStatus.NOT_FOUND), "text/plain; charset=utf-8", text


Answer = Callable[[str, str], tuple[HTTPStatus, str, bytes]]


class _Server(ThreadingMixIn, HTTPServer):
    """An HTTP server that answers a bounded number of requests at once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_AT_ONCE
    allow_reuse_address = True  # a port whose last connections linger is free; one with a listener is not

    def __init__(self, place: tuple[str, int], answer: Answer) -> None:
        self.answer = answer
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._coming: dict[socket.socket, float] = {}
        """Until when each request has to be there; a timeout of the socket would begin anew with each byte."""
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        super().__init__(place, _Request)

    def server_bind(self) -> None:
        """Bind without asking for the machine's name, which may take a resolver's time."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- as the library has it
        """Answer in a thread of its own, if there is one left."""
        if not self._turns.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._coming[request] = time.monotonic() + REQUEST_WAIT_S
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the machine gives no thread
            self.has_come(request)
            self._turns.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- as the library has it
        """Answer, and give the turn back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.has_come(request)
            self._turns.release()

    def has_come(self, request: socket.socket) -> None:
        """Wait for a request no more."""
        self._coming.pop(request, None)

    def service_actions(self) -> None:
        """Break off, several times a second, what has not come in time."""
        now_s = time.monotonic()
        for request in [one for one, until_s in list(self._coming.items()) if until_s < now_s]:
            self.has_come(request)
            with suppress(OSError):  # it has just ended by itself
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 -- as the library has it
        """Say that a request could not be answered."""
        log.debug("probes.unanswered")


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_WAIT_S

    def do_GET(self) -> None:
        """Answer."""
        self.server.has_come(self.connection)
        try:
            status, content_type, body = self.server.answer(
                self.path.partition("?")[0], self.headers.get("accept") or ""
            )
        except Exception:  # whatever it is, the probe is told, and the worker goes on: it is not what it is asked about
            log.exception("probes.failed")
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"see the worker's log\n"
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Say nothing: probes come every few seconds."""

    def version_string(self) -> str:
        """Say who answers, and not which interpreter."""
        return "tocsin"
