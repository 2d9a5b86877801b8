"""A worker that cannot start says why, and starts nothing."""

from collections.abc import Callable

import pytest

from streams.runtime.terminal import Exit
from streams.runtime.topics import TopicFault

Tocsin = Callable[..., tuple[int, str, str]]


def test_brokers_that_do_not_say_how_their_topics_are_set_have_their_own_status(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> list[TopicFault]:
        raise TimeoutError  # what the client does; the embedded broker answers no such question either

    monkeypatch.setattr("streams.runtime.commands.worker.topics.check", check)
    status, out, err = tocsin("worker", "all")
    assert (status, out) == (Exit.BROKER, "")
    assert "no answer from " in err
    assert "--broker" in err
