"""Does it ring, when, and does it ring without need? The main job on real data, with a fault put in on purpose.

A replayer writes outputs, labels and the clock, tick by tick, and waits for every stage before the next: event time
runs as fast as the stages follow. Everything else is the job as it runs in production.
"""

import asyncio
import logging
import os
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

from confluent_kafka import KafkaException

from config.load import load
from config.settings import Settings
from detectors.fitting import fit_baseline
from schemas.baseline import Baseline
from schemas.clock import Clock
from schemas.incident import Actor, Incident
from schemas.incident_action import IncidentAction
from schemas.instant import Instant
from schemas.notification import Notification
from streams.runtime import kafka, logs, topics
from streams.runtime.demo.census import census
from streams.runtime.demo.generator import MINUTE_MS, MODEL, ROWS_PER_MINUTE, Fault, Stream, stream
from streams.runtime.demo.screen import Screen, after
from streams.runtime.demo.watching import Watching
from streams.runtime.embedded_broker import PARTITIONS, EmbeddedBroker
from streams.runtime.sending import Sending, send_all
from streams.runtime.terminal import CommandError, Exit, Steps, at
from streams.runtime.wiring import SMALL_STAGES, Joining, SmallStages, hot_path_settings, table_changelogs

BEGINS_MS = 1_768_208_400_000  # Monday, 12 January 2026, 09:00 UTC
PAST_MS = BEGINS_MS - 7 * 24 * 60 * MINUTE_MS
PATIENCE_MINUTES = 120
"""How long a run goes on after the fault when nobody acknowledges."""
PAUSE_MINUTES = 3
"""How long it goes on after the acknowledgement."""
ACK_AFTER_MS = 5 * MINUTE_MS
"""How long the person who is asked as the second needs to answer."""
SECOND_PAGE = 2
FOLLOW_MS = 50_000
"""How far the join may be behind the clock: the allowed disorder, the idle wait, and the tick that is open. Less than
detect waits for a source partition before it speaks of a gap."""
STALL_S = 120.0
"""How long all stages may take for one tick."""
READY_S = 120.0
LOOK_S = 0.02
LOG_SHOWN_BYTES = 4_000

ON_CALL = "demo:on-call"
TOLD = {
    "unit": "an upstream job sends age in months for one row in five",
    "rollback": "a deployment brings back an old version, which knows only age decade and sex",
    "none": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run measured; times are event time, None for what did not happen.

    Parameters
    ----------
    found_at_ms
        Decision time of the first finding of any kind after the fault; one that opens a ticket pages nobody.
    detected_at_ms
        Decision time of the first finding after the fault that may page.
    notified_at_ms
        Decision time of the first page that was delivered after the fault.
    false_pages
        Pages delivered before the fault.
    lanes, messages
        Lanes that rang, in all detectors; messages that were delivered beside the pages.
    incidents
        Ids of all incidents.
    """

    fault: Fault
    fault_at_ms: int | None
    found_at_ms: int | None
    detected_at_ms: int | None
    notified_at_ms: int | None
    acknowledged_at_ms: int | None
    false_pages: int
    lanes: int
    messages: int
    incidents: tuple[str, ...]


def settings_for(broker: str, prefix: str, folder: Path) -> Settings:
    """Read the demo's settings, with everything that it writes below `folder`."""
    options = {
        "kafka.broker": ("--broker", broker),
        "kafka.topic_prefix": ("--topic-prefix", prefix),
        "join.folder": ("demo", str(folder / "pending")),
        "channels.file.folder": ("demo", str(folder / "notifications")),
    }
    with as_file(files(__package__) / "settings.toml") as file:
        return load(file, {}, options, lambda _: ())


def learned(settings: Settings, seed: int) -> Baseline:
    """Fit the baseline to 2015, made into a stream by the same generator."""
    healthy = stream(census(2015), name="2015", begins_at_ms=PAST_MS, seed=seed)
    with Steps() as steps:
        return fit_baseline(
            healthy.history(),
            settings.models[MODEL],
            budget=settings.budget(),
            version=1,
            valid_from_ms=BEGINS_MS,
            decided_at_ms=BEGINS_MS,
            told=steps.tell,
        )


@contextmanager
def broker_for(address: str | None, folder: Path) -> Iterator[Settings]:
    """Give settings on a broker that has our topics: an embedded one, or a real one with topics of this run alone."""
    if address is None:
        with EmbeddedBroker() as embedded:
            settings = settings_for(embedded.address, "demo.", folder)
            assert settings.kafka.output_partitions == PARTITIONS
            prefix = settings.kafka.topic_prefix
            embedded.touch([*(prefix + name for name in topics.TOPICS), *table_changelogs(settings)])
            yield settings
        return
    settings = settings_for(address, f"demo.{secrets.token_hex(4)}.", folder)
    changelogs = table_changelogs(settings)
    admin = kafka.admin(settings.kafka)
    try:
        faults = topics.create(admin, settings.kafka, changelogs)
    except (KafkaException, TimeoutError) as error:
        raise CommandError(Exit.BROKER, kafka.unanswered(settings.kafka, admin, error)) from None
    if faults:
        raise CommandError(Exit.NOT_SO, "the topics are not as they must be\n" + "\n".join(map(str, faults)))
    try:
        yield settings
    finally:
        names = [*(settings.kafka.topic_prefix + name for name in topics.TOPICS), *changelogs]
        for deleted in admin.delete_topics(names).values():
            deleted.exception(settings.kafka.request_wait_ms / 1000)


class Replay:
    """One run: the world that writes, the stages that follow, the person who answers."""

    def __init__(self, settings: Settings, run: Stream, fault: Fault, minutes: int, screen: Screen) -> None:
        self._settings = settings
        self._stream = run
        self._fault: Fault = fault
        self._minutes = minutes
        self._screen = screen
        self._sending = Sending(settings.kafka, "demo-world")
        self._watching = Watching(settings.kafka)
        self._small = SmallStages(settings, SMALL_STAGES, os.environ, writes_clock=False)
        self._joining = Joining(hot_path_settings(settings, clock="topic"))
        self._acts: dict[str, IncidentAction] = {}

    async def run(self) -> Result:
        """Start all stages, replay until somebody has acknowledged, and stop them."""
        self._tell(BEGINS_MS)
        self._joining.start()
        try:
            await self._small.start()
            await self._until(self._ready, READY_S, "the stages did not start")
            await self._replay()
        finally:
            await asyncio.to_thread(self._joining.stop)
            await self._small.stop()
            self._watching.close()
        return self._result()

    def _ready(self) -> bool:
        owned = len(self._joining.status.owned) == self._settings.kafka.input_partitions
        return owned and all(host.ready for host in self._small.hosts.values())

    async def _replay(self) -> None:
        tick_ms = self._settings.join.tick_ms
        last_ms = BEGINS_MS + (self._minutes + (0 if self._fault == "none" else PATIENCE_MINUTES)) * MINUTE_MS
        now_ms = BEGINS_MS
        fault_at_ms = self._stream.fault_at_ms
        while now_ms < last_ms:
            if fault_at_ms is not None and now_ms <= fault_at_ms < now_ms + tick_ms:
                self._screen.happened(fault_at_ms, f"FAULT      {TOLD[self._fault]}; every answer looks as before")
            for output in self._stream.outputs(now_ms, now_ms + tick_ms):
                self._sending.send(topics.route(output, self._settings.kafka.input_partitions))
            for label in self._stream.labels(now_ms, now_ms + tick_ms):
                self._sending.send(topics.route(label, self._settings.kafka.input_partitions))
            now_ms += tick_ms
            self._answer(now_ms)
            self._tell(now_ms)
            self._progress(now_ms)
            await self._until(partial(self._followed, now_ms), STALL_S, "the stages stand still")
            acknowledged_ms = self._acknowledged_ms()
            if acknowledged_ms is not None:
                last_ms = min(last_ms, acknowledged_ms + PAUSE_MINUTES * MINUTE_MS)

    def _tell(self, now_ms: int) -> None:
        """Write the clock, after everything that is older."""
        self._sending.finish()
        for record in topics.route_each(Clock(now_ms=now_ms), self._settings.kafka.output_partitions):
            self._sending.send(record)
        self._sending.finish()

    def _progress(self, now_ms: int) -> None:
        minute = (now_ms - BEGINS_MS) // MINUTE_MS
        pending = sum(one.get("pending", 0) for one in self._joining.status.partitions.values())
        rows = minute * ROWS_PER_MINUTE
        self._screen.progress(f"{at(now_ms)[11:]}  {rows:,} outputs, {pending:,} of them without a label yet")

    def _followed(self, now_ms: int) -> bool:
        """Whether every stage has taken this clock, and the join has closed all that it can."""
        closed = self._watching.seen.closed_ms
        sources = range(self._settings.kafka.input_partitions)
        if min(closed.get(source, 0) for source in sources) < now_ms - FOLLOW_MS:
            return False
        taken = [self._small.taken_ms(stage) for stage in SMALL_STAGES]
        return all(len(one) == self._settings.kafka.output_partitions and min(one.values()) >= now_ms for one in taken)

    async def _until(self, what: Callable[[], bool], wait_s: float, complaint: str) -> None:
        until_s = time.monotonic() + wait_s
        while True:
            for record in await asyncio.to_thread(self._watching.news, LOOK_S):
                self._screen.show(record, self._watching.seen)
            if what():
                return
            if time.monotonic() > until_s:
                raise CommandError(Exit.BROKER, f"{complaint} within {wait_s:.0f} s")

    # -- the person on call

    def _answer(self, now_ms: int) -> None:
        """Acknowledge, once the second page has been there for a while: the first one is asleep."""
        for incident in list(self._watching.seen.incidents.values()):
            pages = self._pages(incident)
            if incident.incident_id in self._acts or len(pages) < SECOND_PAGE:
                continue
            acts_at_ms = pages[SECOND_PAGE - 1].decided_at_ms + ACK_AFTER_MS
            if acts_at_ms > now_ms:
                continue
            act = IncidentAction(
                act_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:tocsin:demo:{incident.incident_id}")),
                incident_id=incident.incident_id,
                model=incident.model,
                kind="ack",
                actor=Actor(id=ON_CALL, kind="human"),
                source="demo",
                occurred_at_ms=Instant(acts_at_ms),
                decided_at_ms=Instant(acts_at_ms),
                recorded_at_ms=Instant(time.time_ns() // 1_000_000),
            )
            self._acts[incident.incident_id] = act
            self._sending.send(topics.route(act, self._settings.kafka.output_partitions))

    def _pages(self, incident: Incident) -> list[Notification]:
        """Return pages about an incident that asked somebody to respond and arrived, in order."""
        seen = self._watching.seen
        pages = [
            one
            for one in seen.notifications.values()
            if one.incident_id == incident.incident_id
            and one.notification_id in seen.reached
            and one.mode == "page"
            and one.group == "responders"
        ]
        return sorted(pages, key=lambda one: one.decided_at_ms)

    def _acknowledged_ms(self) -> int | None:
        times = [one.acknowledged_at_ms for one in self._watching.seen.incidents.values()]
        return min((int(one) for one in times if one is not None), default=None)

    def _result(self) -> Result:
        seen = self._watching.seen
        fault_ms = self._stream.fault_at_ms
        pages = sorted(
            int(one.decided_at_ms)
            for one in seen.notifications.values()
            if one.mode == "page" and one.notification_id in seen.reached
        )
        firing = [
            one
            for one in seen.findings
            if one.state == "firing" and fault_ms is not None and one.decided_at_ms > fault_ms
        ]
        since = [] if fault_ms is None else [ms for ms in pages if ms > fault_ms]
        return Result(
            fault=self._fault,
            fault_at_ms=fault_ms,
            found_at_ms=min((one.decided_at_ms for one in firing), default=None),
            detected_at_ms=min((one.decided_at_ms for one in firing if one.ledger == "page"), default=None),
            notified_at_ms=since[0] if since else None,
            acknowledged_at_ms=self._acknowledged_ms(),
            false_pages=len(pages) - len(since),
            lanes=sum(one.state == "firing" for one in seen.findings),
            messages=len(seen.reached) - len(pages),
            incidents=tuple(sorted(seen.incidents)),
        )


def play(fault: Fault, minutes: int, broker: str | None, seed: int, screen: Screen) -> Result:
    """Run once: healthy for some minutes of event time, then with a fault until somebody has acknowledged."""
    fault_at_ms = None if fault == "none" else BEGINS_MS + minutes * MINUTE_MS
    run = stream(census(2016), name="2016", begins_at_ms=BEGINS_MS, seed=seed, fault=fault, fault_at_ms=fault_at_ms)
    with tempfile.TemporaryDirectory(prefix="tocsin-demo-") as name, broker_for(broker, Path(name)) as settings:
        log = Path(name) / "demo.log"
        with log.open("w") as lines:
            logs.begin(logging.WARNING, lines)
            try:
                baseline = learned(settings, seed)
                send_all(
                    settings.kafka,
                    [topics.route(part, settings.kafka.output_partitions) for part in baseline.split()],
                )
                screen.happened(BEGINS_MS, f"begin      {ROWS_PER_MINUTE} outputs a minute, people of the 2016 census")
                return asyncio.run(_replayed(settings, run, fault, minutes, screen))
            except CommandError:
                sys.stderr.write(log.read_text()[-LOG_SHOWN_BYTES:])
                raise
            finally:
                logging.shutdown()
                logging.getLogger().handlers.clear()


async def _replayed(settings: Settings, run: Stream, fault: Fault, minutes: int, screen: Screen) -> Result:
    return await Replay(settings, run, fault, minutes, screen).run()


def told(result: Result, screen: Screen) -> None:
    """Write the figures of a run."""
    began = result.fault_at_ms
    if began is None:
        screen.summary([("false pages", str(result.false_pages)), ("incidents", str(len(result.incidents)))])
        return
    screen.summary(
        [
            ("fault began", at(began)),
            ("first finding of any kind, after", after(result.found_at_ms, began)),
            ("first finding that may page, after", after(result.detected_at_ms, began)),
            ("first page delivered, after", after(result.notified_at_ms, began)),
            ("acknowledged, after", after(result.acknowledged_at_ms, began)),
            ("false pages before the fault", str(result.false_pages)),
            ("lanes that rang, messages sent", f"{result.lanes}, {result.messages}"),
        ]
    )
