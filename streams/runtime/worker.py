"""How does one process run stages? It opens the probes, runs until it is told to end, and says by its status how it went."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from config.settings import Settings
from streams.runtime import hot_path
from streams.runtime.ending import UNFINISHED_STATUS, Ending
from streams.runtime.faust_host import end_hard, is_held
from streams.runtime.hot_path import HotPath
from streams.runtime.metrics import Measure
from streams.runtime.probes import Host, Probes
from streams.runtime.segment_files import check_folder
from streams.runtime.wiring import Joining, SmallStages, hot_path_settings

log = logging.getLogger("tocsin.worker")


def serve(settings: Settings, stages: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run stages, and return the status to end with.

    Raises
    ------
    FolderError, ListenError
        The folder of the join, or the address of the probes, cannot be had; nothing was started.
    """
    if "join" in stages:
        check_folder(Path(settings.join.folder))
    if list(stages) == ["join"]:
        path = HotPath(hot_path_settings(settings, clock=settings.worker.clock))
        with _probes(settings, [path]):
            return hot_path.serve(path, settings.worker.stop_wait_ms)
    with Ending(settings.worker.stop_wait_ms) as ending:
        runner = asyncio.Runner()
        try:
            return runner.run(_serve(settings, stages, environ, ending))
        finally:
            # else a start failed, and Faust's tasks, which heed no cancellation, end with the process
            if not is_held():
                runner.close()


async def _serve(settings: Settings, stages: Sequence[str], environ: Mapping[str, str], ending: Ending) -> int:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    ending.then(lambda: loop.call_soon_threadsafe(stopping.set))
    joining = Joining(hot_path_settings(settings, clock=settings.worker.clock)) if "join" in stages else None
    small = SmallStages(
        settings, [one for one in stages if one != "join"], environ, writes_clock=settings.worker.clock == "wall"
    )
    hosts: list[Host] = [*small.hosts.values()]
    if joining is not None:
        hosts.append(joining.path)
    with _probes(settings, hosts, small):
        if not await _started(small, stopping):
            await _leave(small, ending)
        if joining is not None:
            joining.start()
        await stopping.wait()
        if joining is not None:
            await asyncio.to_thread(joining.stop)
        await small.stop()
    ending.finish()
    return UNFINISHED_STATUS if joining is not None and joining.path.is_unfinished else 0


async def _started(small: SmallStages, stopping: asyncio.Event) -> bool:
    """Start the hosts; False where the worker was told to stop before all of them had started."""
    starting, told = asyncio.create_task(small.start()), asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not starting.done():
        starting.cancel()  # and not waited for: what hangs may not heed it
        return False
    await starting
    return True


async def _leave(small: SmallStages, ending: Ending) -> NoReturn:
    """End in the middle of a start.

    Who has started finishes what is in hand. Who has not may have a thread that waits for brokers or for the other members
    of its group, and cannot be told: it has nothing in hand, and ends with the process.
    """
    starting = small.starting
    await small.stop(leaving=starting)
    ending.finish()
    log.info("worker.ended status=0 had_not_started=%s", ",".join(starting))
    ending.cut()


def _probes(settings: Settings, hosts: Sequence[Host], small: SmallStages | None = None) -> Probes:
    def others() -> Iterator[Measure]:
        if small is not None and "detect" in small.hosts:
            yield Measure("tocsin_budget_per_week", ("page",), settings.detect.pages_per_week)
            yield Measure("tocsin_budget_per_week", ("ticket",), settings.detect.tickets_per_week)
        if small is not None and small.sender is not None:
            yield from small.sender.measures()

    return Probes(settings.probes, hosts, others, ended=lambda error: end_hard("thread=probes", error))
