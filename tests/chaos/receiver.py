"""Who is told? A webhook's other end on loopback, which counts what it takes, and does not always answer."""

import json
import random
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = "whsec_Y2hhb3MtY2hhb3MtY2hhb3MtY2hhb3Mt"  # noqa: S105 -- nobody else has one
REFUSED_SHARE, UNANSWERED_SHARE = 0.1, 0.05
"""Of the first deliveries of a message: refused with 503; taken, and the connection closed without an answer."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- as the library has it
        """Say nothing of a sender that was killed while it spoke."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Endpoint(ABC):
    """A server on loopback, on a port of its own, for as long as it is entered."""

    def __enter__(self) -> Self:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                whole = len(body) == length  # a sender that is killed leaves half of one
                status = endpoint.take(self.headers["webhook-id"], body) if whole else None
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @abstractmethod
    def take(self, name: str, body: bytes) -> int | None:
        """Take a whole message, in the thread of its connection; return the status to answer, None for no answer."""


@dataclass
class Receiver(Endpoint):
    """Takes what is posted.

    Parameters
    ----------
    seed
        Which messages it refuses, or takes without saying so.
    on_message
        Called with each message that it takes for the first time.
    """

    seed: int
    on_message: Callable[[dict[str, Any]], None]
    taken: Counter[str] = field(default_factory=Counter)
    """How often each id was taken."""
    _asked: Counter[str] = field(default_factory=Counter, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def take(self, name: str, body: bytes) -> int | None:
        """Take a message, or not."""
        with self._lock:
            self._asked[name] += 1
            chance = random.Random(f"{self.seed}/{name}").random()  # noqa: S311 -- chance that can be repeated
            is_first = self._asked[name] == 1
            if is_first and chance < REFUSED_SHARE:
                return 503
            self.taken[name] += 1
            if self.taken[name] == 1:
                self.on_message(json.loads(body))
            return None if is_first and chance < REFUSED_SHARE + UNANSWERED_SHARE else 204
