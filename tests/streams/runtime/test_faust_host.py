"""A worker that ends because of another, or of topics, says what to do."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from faust.types import TP

from streams.runtime import faust_host
from streams.runtime.faust_host import StageHost
from streams.runtime.logs import parsed
from streams.runtime.write_ahead import epoch_headers


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the process would have ended with."""
    reasons: list[str] = []

    def end(reason: str, _: BaseException | None = None) -> NoReturn:
        reasons.append(reason)
        raise SystemExit(faust_host.EXIT_STATUS)

    monkeypatch.setattr(faust_host, "end_hard", end)
    return reasons


def test_a_worker_whose_partition_another_took_says_what_to_do(ended: list[str]) -> None:
    async def reading(*_: object) -> AsyncIterator[tuple[list[Any], int]]:
        yield [SimpleNamespace(headers=epoch_headers(8), key=b"k")], 1

    host: Any = SimpleNamespace(
        owned={1: SimpleNamespace(epoch=7)},
        spec=SimpleNamespace(name="triage"),
        _settings=SimpleNamespace(group_limit=1),
        _changelog="changelog",
        _reading=reading,
    )
    with pytest.raises(SystemExit):
        asyncio.run(StageHost._overwrite(host, [(1, 0, 1)]))  # noqa: SLF001 -- a claim of another needs two workers
    line = parsed(f"host.ended reason={ended[0]}")
    assert (line["reason"], line["partition"]) == ("superseded", "1")
    assert "worker.instance" in str(line["error"])


def test_topics_of_unlike_partitions_are_named_with_what_to_do(ended: list[str]) -> None:
    host: Any = SimpleNamespace(
        _subscribed=("clock", "findings"), _clock_topic="clock", spec=SimpleNamespace(name="triage")
    )
    with pytest.raises(SystemExit):
        asyncio.run(StageHost.note(host, {TP("clock", 0), TP("clock", 1), TP("findings", 0)}))
    line = parsed(f"host.ended reason={ended[0]}")
    assert (line["reason"], line["clock"]) == ("unlike_topics", "[0, 1]")
    assert str(line["error"]).endswith("run `tocsin topics check`")
