"""A worker that is told to stop: in order, within a bound, and at once when told again."""

import signal
import subprocess
import sys
import time

import pytest

WAIT_S = 30
PROGRAM = """
import sys, time
from streams.runtime.ending import Ending

with Ending({stop_wait_ms}) as ending:
    ending.then(lambda: print("told", flush=True))
    print("begun", flush=True)
    while not ending.told():
        time.sleep(0.01)
    {after}
print("over", flush=True)
"""


def begin(stop_wait_ms: int, after: str) -> "subprocess.Popen[str]":
    program = PROGRAM.format(stop_wait_ms=stop_wait_ms, after=after)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_it_finish(number: signal.Signals) -> None:
    with begin(60_000, "time.sleep(0.2)") as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=WAIT_S)
    assert (said, process.returncode) == ("told\nover\n", 0)


def test_a_second_signal_ends_it_at_once() -> None:
    with begin(60_000, "time.sleep(600)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == -signal.SIGTERM


def test_what_takes_longer_than_the_bound_is_cut_off_and_the_status_says_so() -> None:
    with begin(200, "time.sleep(600)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 1


def test_what_is_cut_off_after_all_was_written_is_no_failure() -> None:
    with begin(200, "ending.finish(); time.sleep(600)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_signal_that_came_before_anybody_asked_is_not_lost() -> None:
    program = PROGRAM.format(stop_wait_ms=60_000, after="").replace(
        "with Ending", "print('begun', flush=True)\nwith Ending"
    )
    program = program.replace("    ending.then", "    time.sleep(1)\n    ending.then")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=WAIT_S)
    assert (said, process.returncode) == ("told\nbegun\nover\n", 0)
