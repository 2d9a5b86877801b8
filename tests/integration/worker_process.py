"""One worker as an operator runs it: `tocsin worker`, its log and its probes."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

TOCSIN = str(Path(sys.executable).with_name("tocsin"))
WAIT_S = 120
REQUEST_WAIT_S = 10
PARTITIONS = 4

MODEL = """
[models.fraud]
kind = "classification"
sla_accuracy = 0.9

[channels.file]
folder = "{folder}/sent"

[directory]
"team:ml-oncall" = [{{ channel = "file", address = "oncall.ndjson", modes = ["page", "message", "ticket"] }}]

[join]
folder = "{folder}/pending"
"""


def until(said: Callable[[], object], wait_s: float = WAIT_S, why: Callable[[], object] = str) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + wait_s
    while not said():
        if time.monotonic() > deadline_s:
            pytest.fail(f"it did not come to pass: {why()}")
        time.sleep(0.2)


def run_tocsin(
    options: Sequence[str], *words: str, environ: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [TOCSIN, *words, *options]
    environment = {**os.environ, **environ}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S, env=environment)


class Worker:
    """A `tocsin worker` process."""

    def __init__(
        self,
        options: Sequence[str],
        log: Path,
        *words: str,
        environ: Mapping[str, str] = {},
        program: Path | None = None,
    ) -> None:
        self.log = log
        self._out = log.open("a")
        begin = [TOCSIN] if program is None else [sys.executable, str(program)]
        self.process = subprocess.Popen(
            [*begin, "worker", *words, *options], stdout=self._out, stderr=self._out, env={**os.environ, **environ}
        )

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Return what was logged of an event; everything when none is named."""
        found = []
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                one = json.loads(line)
                if not event or one["event"] == event:
                    found.append(one)
        return found

    @property
    def port(self) -> int:
        """Where its probes answer."""
        until(lambda: self.lines("probes.open") or self.process.poll() is not None, why=self.log.read_text)
        return int(self.lines("probes.open")[-1]["port"])

    def ask(self, path: str) -> tuple[int, str]:
        """Return status and body of an answer; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=REQUEST_WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()
        except OSError:
            return 0, ""

    def until_answers(self, path: str, status: int) -> str:
        """Wait until a probe answers so, and return what it says."""
        said: list[tuple[int, str]] = [(0, "")]

        def is_so() -> bool:
            said.append(self.ask(path))
            return said[-1][0] == status or self.process.poll() is not None

        until(is_so, why=lambda: (said[-1], self.log.read_text()[-3000:]))
        assert said[-1][0] == status, (said[-1], self.log.read_text()[-3000:])
        return said[-1][1]

    def measures(self) -> dict[str, float]:
        """Return all samples, by name with labels as they are written."""
        _, text = self.ask("/metrics")
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def total(self, name: str, **labels: str) -> float:
        """Sum the samples of a name that have these labels."""
        marks = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for sample, value in self.measures().items()
            if sample.partition("{")[0] == name and all(mark in sample for mark in marks)
        )

    def has_read_all(self) -> bool:
        """Whether the join has read both topics to their ends, and nothing is pending."""
        lags = [
            value for name, value in self.measures().items() if name.startswith("tocsin_lag_offsets") and "join" in name
        ]
        return len(lags) == 2 * PARTITIONS and not sum(lags) and not self.total("tocsin_join_pending_outputs")

    def send(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, and return its status."""
        status = self.process.wait(WAIT_S)
        self._out.close()
        return status

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the status with which it ends."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it where a test did not."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()


def write_rows(file: Path, name: str, count: int, *, at_ms: int, model: str = "fraud") -> Path:
    """Write outputs, each with its label, a second later, beside it."""
    with file.open("w") as lines:
        for number in range(count):
            row = {
                "prediction_id": f"{name}-{number}", "model": model, "made_at_ms": at_ms + number, "prediction": 1,
                "score": 0.875, "label": int(number % 10 != 0), "labelled_at_ms": at_ms + number + 1_000,
            }  # fmt: skip
            lines.write(json.dumps(row) + "\n")
    return file
