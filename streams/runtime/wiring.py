"""How do settings become stages, and stages a worker?

The only place that knows settings, stages and hosts at once. Each small stage has an app and a consumer group of its
own, named after it: so its state stays the same whichever stages share a process.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from config.settings import HOST, Settings, WorkerSettings
from detectors.table import NEEDS
from schemas.receipt import Receipt
from streams.runtime import specs
from streams.runtime.channels.table import open_channels
from streams.runtime.faust_host import FaustHost, HostSettings, end_hard
from streams.runtime.hot_path import HotPath, HotPathSettings
from streams.runtime.join_status import Status
from streams.runtime.sender import Sender
from streams.runtime.stage_spec import StageSpec
from streams.runtime.topics import STAGES
from streams.stages.join import JoinSettings
from streams.stages.notify import Attempt

SMALL_STAGES = STAGES[1:]


def join_settings(settings: Settings) -> JoinSettings:
    """Return what the join is told."""
    join = settings.join
    return JoinSettings(
        tick_ms=join.tick_ms,
        allowed_disorder_ms=join.allowed_disorder_ms,
        idle_after_ms=join.idle_after_ms,
        default_label_wait_ms=join.label_wait_ms,
        orphan_wait_ms=join.orphan_wait_ms,
        correction_wait_ms=join.correction_wait_ms,
        future_skew_ms=join.future_skew_ms,
        max_lanes_per_model=settings.detect.max_lanes_per_model,
        block_rows=join.block_rows,
        orphans_bound_rows=join.orphans_bound_rows,
        needs=NEEDS,
    )


def instance_id(worker: WorkerSettings, stage: str) -> str | None:
    """Return under which name a worker's stage belongs to its group; None for one that comes and goes."""
    name = worker.instance.replace(HOST, socket.gethostname())
    return f"{name}-{stage}" if name else None


def host_settings(settings: Settings, stage: str, *, writes_clock: bool) -> HostSettings:
    """Return what the host of one small stage is told."""
    kafka, worker = settings.kafka, settings.worker
    return HostSettings(
        app_id=f"tocsin-{stage}",
        broker=kafka.broker,
        security=kafka.security.client(),
        topic_prefix=kafka.topic_prefix,
        partitions=kafka.output_partitions,
        instance_id=instance_id(worker, stage),
        session_timeout_ms=worker.session_timeout_ms,
        heartbeat_ms=worker.heartbeat_ms,
        writes_clock=writes_clock,
        clock_every_ms=worker.clock_every_ms,
        clock_wait_ms=worker.clock_wait_ms,
        restore_wait_ms=worker.restore_wait_ms,
        stall_wait_ms=worker.stall_wait_ms,
        delivery_wait_ms=kafka.delivery_wait_ms,
        read_back_wait_ms=worker.read_back_wait_ms,
        group_limit=worker.group_limit,
        fetch_wait_ms=kafka.fetch_wait_ms,
    )


def hot_path_settings(settings: Settings, *, clock: Literal["wall", "topic"]) -> HotPathSettings:
    """Return what a worker of the join is told; `clock` is `topic` where a replayer writes the time."""
    worker = settings.worker
    return HotPathSettings(
        kafka=settings.kafka,
        join=join_settings(settings),
        models=settings.models,
        app_id="tocsin-join",
        instance_id=instance_id(worker, "join"),
        session_timeout_ms=worker.session_timeout_ms,
        heartbeat_ms=worker.heartbeat_ms,
        folder=Path(settings.join.folder),
        checkpoint_ms=settings.join.checkpoint_ms,
        clock=clock,
        start=settings.join.start,
        restore_wait_ms=worker.restore_wait_ms,
        hand_over_wait_ms=worker.hand_over_wait_ms,
    )


def table_changelogs(settings: Settings) -> list[str]:
    """Return the full names of the topics that hold the small stages' state."""
    return [host_settings(settings, stage, writes_clock=True).changelog(stage) for stage in SMALL_STAGES]


class SmallStages:
    """Some of detect, triage, escalate and notify in this process; made inside the loop that runs them.

    Parameters
    ----------
    stages
        Names out of `SMALL_STAGES`.
    environ
        The process's environment: the channels' secrets stand in it.
    writes_clock
        Whether these workers write the wall clock; off where a replayer does.
    """

    def __init__(
        self, settings: Settings, stages: Sequence[str], environ: Mapping[str, str], *, writes_clock: bool
    ) -> None:
        self.sender: Sender | None = None
        self.hosts: dict[str, FaustHost] = {}
        self._partitions = settings.kafka.output_partitions
        makers: Mapping[str, Callable[[Settings], StageSpec[Any, Any]]] = {
            "detect": specs.detect_spec,
            "triage": specs.triage_spec,
            "escalate": specs.escalate_spec,
        }
        for stage in stages:
            if stage == "notify":
                self.sender = Sender(
                    channels=open_channels(settings.response.channels, environ),
                    settings=settings.response.sender,
                    deliver=self._deliver,
                )
                spec = specs.notify_spec(settings, self._submit)
            else:
                spec = makers[stage](settings)
            self.hosts[stage] = FaustHost(host_settings(settings, stage, writes_clock=writes_clock), [spec])
        self._starting = set(self.hosts)

    def _submit(self, attempt: Attempt) -> None:
        assert self.sender is not None
        self.sender.submit(attempt)

    async def _deliver(self, receipt: Receipt) -> None:
        """Write a receipt; it comes back to notify, which decides by it what is next."""
        await self.hosts["notify"].deliver(specs.route(receipt, self._partitions))

    async def start(self) -> None:
        """Start every host."""
        await asyncio.gather(*map(self._start, self.hosts))

    async def _start(self, stage: str) -> None:
        await self.hosts[stage].start()
        self._starting.discard(stage)

    @property
    def starting(self) -> tuple[str, ...]:
        """Stages whose host has not started yet."""
        return tuple(stage for stage in self.hosts if stage in self._starting)

    async def stop(self, leaving: Collection[str] = ()) -> None:
        """Finish what is in hand, commit, leave; hosts of `leaving` are left as they are."""
        if self.sender is not None:
            await self.sender.close()  # while notify's host can still write what became of its attempts
        await asyncio.gather(*(host.stop() for stage, host in self.hosts.items() if stage not in leaving))

    def taken_ms(self, stage: str) -> dict[int, int]:
        """Return for each owned partition of a stage the newest clock value whose consequences are durable."""
        return self.hosts[stage].taken_ms(stage)


class Joining:
    """The join in a thread of its own, for a process that runs other stages too; where it fails, the process ends."""

    def __init__(self, settings: HotPathSettings) -> None:
        self._told = threading.Event()
        self.path = HotPath(settings)
        self._thread = threading.Thread(target=self._run, name="join", daemon=True)

    @property
    def status(self) -> Status:
        """What can be seen of it from outside."""
        return self.path.status

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Tell it to make all last, and wait until it has; it waits for the brokers within bounds of its own."""
        self._told.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.path.run(self._told.is_set)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, this process is not to go on
            end_hard("join", error)
        if not self._told.is_set():
            end_hard("join_ended")
