"""Probes: alive is who comes round, ready is who serves, and nobody who asks can stop the answers."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

import pytest

from config.settings import ProbeSettings
from streams.runtime import probes
from streams.runtime.metrics import Measure
from streams.runtime.probes import Health, ListenError, Probes

SETTINGS = ProbeSettings(
    address="127.0.0.1", port=0, silent_after_ms=10_000, answer_wait_ms=10_000, mismatch_wait_ms=10_000
)
WAIT_S = 10


@dataclass
class Stage:
    """A host whose health is told."""

    beats: dict[str, float] = field(default_factory=lambda: {"join": 0.1})
    restored: bool = True
    unready: tuple[str, ...] = ()
    broken: bool = False

    def health(self, bounds: ProbeSettings) -> Health:  # noqa: ARG002 -- what it says is told
        return Health(beats=self.beats, restored=self.restored, unready=self.unready)

    def measures(self) -> Iterable[Measure]:
        assert not self.broken, "a defect"
        yield Measure("tocsin_partitions_owned", ("join",), 4.0)


@pytest.fixture
def stages() -> list[Stage]:
    return [Stage(), Stage(beats={"detect": 0.2})]


@pytest.fixture
def opened(stages: list[Stage]) -> Iterator[Probes]:
    ended: list[BaseException] = []
    with Probes(SETTINGS, stages, list, ended=ended.append) as one:
        yield one
    assert not ended


def ask(one: Probes, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{one.port}{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()


def test_all_is_well(opened: Probes) -> None:
    for path in ("/live", "/ready", "/startup"):
        status, body = ask(opened, path)
        assert (status, json.loads(body)) == (200, {"ok": True, "why": []})
    assert ask(opened, "/")[0] == 200
    assert ask(opened, "/elsewhere")[0] == 404


def test_a_loop_that_does_not_come_round_is_not_alive_and_is_named(opened: Probes, stages: list[Stage]) -> None:
    stages[1].beats = {"detect": 9.9}
    assert ask(opened, "/live")[0] == 200
    stages[1].beats = {"detect": 12.0}
    status, body = ask(opened, "/live")
    assert (status, json.loads(body)["why"]) == (503, ["detect: not back for 12 s"])


def test_who_does_not_serve_is_alive_all_the_same(opened: Probes, stages: list[Stage]) -> None:
    stages[0].unready = ("join: no answer from the brokers for 400 s",)
    assert ask(opened, "/live")[0] == 200
    status, body = ask(opened, "/ready")
    assert (status, json.loads(body)["why"]) == (503, list(stages[0].unready))
    assert ask(opened, "/startup")[0] == 200, "once started is started"
    assert "tocsin_ready 0.0" in ask(opened, "/metrics")[1]


def test_who_was_never_restored_has_not_started(opened: Probes, stages: list[Stage]) -> None:
    stages[1].restored, stages[1].unready = False, ("detect: waits for partitions, or restores them (40%)",)
    status, body = ask(opened, "/startup")
    assert (status, json.loads(body)["why"]) == (503, list(stages[1].unready))


def test_a_defect_of_a_measure_is_said_and_probes_go_on(
    opened: Probes, stages: list[Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stages[0].broken = True
    status, body = ask(opened, "/metrics")
    assert (status, body) == (500, "see the worker's log\n")
    assert "probes.failed" in caplog.text
    assert ask(opened, "/live")[0] == 200


def test_whoever_asks_and_does_not_listen_stops_nobody(opened: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes._Request, "timeout", 1.0)  # noqa: SLF001
    with ExitStack() as held:
        for _ in range(probes.MOST_AT_ONCE):
            held.enter_context(socket.create_connection(("127.0.0.1", opened.port)))
        until(lambda: not answers(opened))  # all turns are taken: closed unanswered, not kept waiting
        until(lambda: answers(opened))  # and given back when their time is over


def test_whoever_asks_a_little_at_a_time_stops_nobody(opened: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REQUEST_WAIT_S", 1.0)
    with ExitStack() as held:
        slow = [
            held.enter_context(socket.create_connection(("127.0.0.1", opened.port))) for _ in range(probes.MOST_AT_ONCE)
        ]

        for one in slow:
            one.sendall(b"GET /live HTTP/1.1\r\nname: ")
        until(lambda: not answers(opened))

        def answers_again() -> bool:
            for one in slow:
                with suppress(OSError):  # it was broken off
                    one.sendall(b"x")
            return answers(opened)

        until(answers_again)


def answers(one: Probes) -> bool:
    try:
        return ask(one, "/live")[0] == 200
    except OSError:
        return False


def _fail(error: BaseException) -> None:
    pytest.fail(f"it ended: {error}")


def until(said: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(WAIT_S * 20):
        if said():
            return
        waited.wait(0.05)
    pytest.fail("it did not come to pass")


def test_a_port_in_use_is_refused_with_what_to_do_and_port_0_never_is(opened: Probes) -> None:
    second = Probes(replace(SETTINGS, port=opened.port), [], list, ended=_fail)
    with pytest.raises(
        ListenError, match=rf"127\.0\.0\.1:{opened.port} \(Address already in use\): choose another probes\.port"
    ):
        second.open()
    with Probes(SETTINGS, [], list, ended=_fail) as third:
        assert third.port not in {0, opened.port}


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ListenError, match=r"probes\.address"):
        Probes(replace(SETTINGS, address="192.0.2.1"), [], list, ended=_fail).open()


def test_without_an_address_nobody_listens() -> None:
    with Probes(replace(SETTINGS, address=""), [], list, ended=_fail) as nowhere:
        assert nowhere.port == 0


def test_a_thread_of_answers_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[BaseException] = []

    def fail(*_: object, **__: object) -> None:
        raise OSError("out of files")

    monkeypatch.setattr(probes._Server, "serve_forever", fail)  # noqa: SLF001
    monkeypatch.setattr(probes._Server, "shutdown", lambda _: None)  # noqa: SLF001
    with Probes(SETTINGS, [], list, ended=ended.append):
        until(lambda: bool(ended))
    assert str(ended[0]) == "out of files"
