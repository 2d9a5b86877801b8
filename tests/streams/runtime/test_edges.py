"""Where a log ends is asked for as long as a worker lives, also after its leader has changed."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.runtime import cursor, hot_path, kafka
from streams.runtime.cursor import Edges, UnansweredError
from streams.runtime.hot_path import HotPath

FENCED = KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))


class StaleAdmin:
    """A client that was open while a leader changed: it is refused for ever. One made later is not."""

    made = 0

    def __init__(self, _: object) -> None:
        type(self).made += 1
        self._stale = self.made == 1

    def list_offsets(self, asked: dict[Any, Any], **_: float) -> dict[Any, Future[Any]]:
        answers: dict[Any, Future[Any]] = {place: Future() for place in asked}
        for answer in answers.values():
            if self._stale:
                answer.set_exception(FENCED)
            else:
                answer.set_result(SimpleNamespace(offset=7))
        return answers


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    StaleAdmin.made = 0
    monkeypatch.setattr(cursor, "AdminClient", StaleAdmin)


@pytest.mark.usefixtures("stale")
def test_a_client_that_is_refused_is_replaced() -> None:
    edges = Edges({"bootstrap.servers": "b:1"}, 1_000)
    with pytest.raises(UnansweredError, match=r"findings\[0\]: Broker: Leader epoch is older than broker epoch"):
        edges.ends([("findings", 0)])
    assert edges.ends([("findings", 0)]) == {("findings", 0): 7}


def test_the_joins_client_is_replaced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(kafka, "admin", lambda _, name: made.append(name))
    refused: Future[Any] = Future()
    refused.set_exception(FENCED)
    settings = SimpleNamespace(kafka=SimpleNamespace(input_partitions=4), models={})
    path = HotPath(settings)  # type: ignore[arg-type]
    path._tell(hot_path._Probe(None, {("labels", 0): refused}, {}))  # noqa: SLF001
    assert made == ["join-admin"]
