"""How does a worker end when it is told to? In order and within a bound; told a second time, at once."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

UNFINISHED_STATUS = 1
"""Exit status of a worker whose bound passed before all was written; whoever comes next reads that again."""

log = logging.getLogger("tocsin.worker")


def end_now(status: int) -> NoReturn:
    """End the process, whatever of it still runs; what was logged is written."""
    for handler in logging.getLogger().handlers:
        with suppress(OSError, ValueError):
            handler.flush()
    os._exit(status)


class Ending:
    """Listens for SIGTERM and Ctrl-C in the main thread, from `with` on to its end.

    Parameters
    ----------
    stop_wait_ms
        How long the orderly end may take from the first signal on.
    """

    def __init__(self, stop_wait_ms: int) -> None:
        self._stop_wait_ms = stop_wait_ms
        self._told = threading.Event()
        self._then: Callable[[], object] | None = None
        self._gone = threading.Event()
        self._finished = False
        self._before: dict[signal.Signals, Any] = {}

    def told(self) -> bool:
        """Whether the first signal has come."""
        return self._told.is_set()

    def then(self, do: Callable[[], object]) -> None:
        """Do something at the first signal, between two steps of the main thread; at once where it has come already."""
        self._then = do
        if self.told():
            do()

    def finish(self) -> None:
        """Learn that all is written: what is still to come may be cut off."""
        self._finished = True

    def cut(self) -> NoReturn:
        """End the process now, whatever of it still runs; the status says whether all is written."""
        end_now(0 if self._finished else UNFINISHED_STATUS)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._gone.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        self._told.set()
        threading.Thread(target=self._bound, args=(signal.Signals(number),), name="ending", daemon=True).start()
        if self._then is not None:
            self._then()

    def _bound(self, number: signal.Signals) -> None:
        log.info("worker.told_to_stop signal=%s stop_wait_ms=%d", number.name, self._stop_wait_ms)
        if self._gone.wait(self._stop_wait_ms / 1000):
            return
        if not self._finished:
            log.warning("worker.stop_unfinished stop_wait_ms=%d", self._stop_wait_ms)
        self.cut()
