"""A worker that ends because of another, or of topics, says what to do."""

import asyncio
import math
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from faust.types import TP

from schemas.clock import Clock
from streams.runtime import faust_host
from streams.runtime.faust_host import Owned, StageHost
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


class Watched:
    """What a host knows when it asks for the ids of its inputs; the brokers answer `found`."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {"t.findings": "one"}
        self.asked = 0
        owned = SimpleNamespace(view=SimpleNamespace(ids={"findings": "one"}))
        self.host: Any = SimpleNamespace(
            owned={1: owned}, spec=SimpleNamespace(name="triage"), moving=False, _inputs={"t.findings": "findings"},
            _ids_asked_s=-math.inf, _others=set(), _ask=self._ask, _moves_as=bool, _edges=SimpleNamespace(ids=None),
        )  # fmt: skip

    async def _ask(self, *_: object) -> dict[str, str]:
        self.asked += 1
        return self.found

    def look(self, read: int, end: int) -> None:
        asyncio.run(StageHost._check_ids(self.host, {1: {"findings": read}}, {1: {"findings": end}}))  # noqa: SLF001


def test_another_topic_of_the_same_name_ends_the_worker_when_two_answers_say_so(ended: list[str]) -> None:
    watched = Watched()
    watched.look(5, 5)
    watched.look(5, 7)
    assert watched.asked == 1, "now and then"
    watched.look(5, 4)
    assert watched.asked == 2, "at once where a topic ends before what was read"
    watched.found = {"t.findings": "two"}
    watched.look(5, 4)
    watched.found = {"t.findings": "one"}
    watched.look(5, 5)
    watched.found = {"t.findings": "two"}
    watched.look(5, 4)
    assert not ended, "one answer may be of a broker that knows no better"
    with pytest.raises(SystemExit):
        watched.look(5, 9)
    line = parsed(f"host.ended reason={ended[0]}")
    assert (line["reason"], line["topics"]) == ("made_anew", "['findings']")
    assert "from their beginning" in str(line["error"])


class Clocks:
    """The two clocks of a host, which are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(faust_host, "now_s", lambda: self.now_s)
        monkeypatch.setattr("streams.runtime.faust_host.time.time", lambda: 1_000_000 + self.now_s)

    def at_ms(self, ago_s: float) -> int:
        return round((1_000_000 + self.now_s - ago_s) * 1000)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def owned(cursor: int, now_s: float) -> Owned:
    view: Any = SimpleNamespace(cursors={"findings": cursor})
    return Owned(
        partition=0, view=view, stage=None, epoch=1, next_changelog_offset=0, moved_at_s={},
        read_from_s={"findings": now_s}, clock_seen_at_s=now_s,
    )  # fmt: skip


def test_a_backlog_is_as_old_as_the_record_that_was_read_last(clocks: Clocks) -> None:
    one = owned(5, clocks.now_s)
    one.note_ends({"findings": 9}, clocks.now_s)
    one.note_read("findings", clocks.at_ms(ago_s=60))
    assert one.read_from_s["findings"] == clocks.now_s - 60
    one.note_read("findings", None)
    one.note_read("findings", clocks.at_ms(ago_s=-30))
    assert one.read_from_s["findings"] == clocks.now_s, "a clock of its writer that is ahead"


def test_what_comes_after_all_was_read_is_no_older_than_that(clocks: Clocks) -> None:
    #  a record | an hour of nothing, asked each second | the next, not read yet
    one = owned(5, clocks.now_s)
    one.note_read("findings", clocks.at_ms(ago_s=3_600))
    one.note_ends({"findings": 5}, clocks.now_s - 1)
    assert one.read_from_s["findings"] == clocks.now_s - 1
    one.note_read("findings", clocks.at_ms(ago_s=3_600))
    assert one.read_from_s["findings"] == clocks.now_s - 1, "it was read again"
    clocks.now_s += 20
    one.note_ends({"findings": 6}, clocks.now_s)
    assert one.read_from_s["findings"] == clocks.now_s - 21


HOUR_MS = 3_600_000


class Hearing:
    """A host that hears clock values; `stamped_ms` is the broker's time, None where the topic bears the writer's."""

    def __init__(self, clocks: Clocks, *, writes_clock: bool = True) -> None:
        self.now_ms = clocks.at_ms(0)
        self.owned = owned(0, clocks.now_s)
        self.host: Any = SimpleNamespace(
            spec=SimpleNamespace(name="escalate"), counts=faust_host.Counts(), _clock_news=asyncio.Event(),
            _settings=SimpleNamespace(writes_clock=writes_clock), _listening_s=lambda: clocks.now_s,
        )  # fmt: skip

    def hear(self, now_ms: int, stamped_ms: int | None) -> int:
        at_ms = now_ms if stamped_ms is None else stamped_ms
        message = SimpleNamespace(
            value=Clock(now_ms=now_ms).encode(), timestamp=at_ms / 1000, timestamp_type=int(stamped_ms is not None)
        )
        StageHost._hear_clock(self.host, self.owned, message)  # noqa: SLF001 -- the record of another machine
        return self.owned.clock_ms


def test_a_clock_far_ahead_of_the_brokers_counts_as_the_brokers_and_is_said_once(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    hearing = Hearing(clocks)
    now_ms = hearing.now_ms
    assert hearing.hear(now_ms + 300_000, now_ms) == now_ms + 300_000
    for turn in range(400, 403):
        stamped_ms = now_ms + turn * 1_000
        assert hearing.hear(stamped_ms + 9 * HOUR_MS, stamped_ms) == stamped_ms
    assert hearing.host.counts.clocks_ahead == 3
    assert [record.getMessage().split()[0] for record in caplog.records] == ["clock.ahead"]
    assert hearing.hear(now_ms + 10 * HOUR_MS, now_ms + 10 * HOUR_MS) == now_ms + 10 * HOUR_MS, "not this machine's"


def test_where_the_broker_stamps_no_clock_one_far_ahead_of_this_machines_counts_as_that(clocks: Clocks) -> None:
    hearing = Hearing(clocks)
    assert hearing.hear(4_000_000_000_000, None) == hearing.now_ms


def test_a_replays_clock_is_taken_as_it_is(clocks: Clocks) -> None:
    hearing = Hearing(clocks, writes_clock=False)
    assert hearing.hear(4_000_000_000_000, hearing.now_ms) == 4_000_000_000_000
    assert hearing.host.counts.clocks_ahead == 0
