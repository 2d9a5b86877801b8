"""A worker that is told to stop in the middle of its start."""

import signal
import subprocess
import sys

WAIT_S = 60
PROGRAM = """
import asyncio, logging, sys, threading
from config.load import load
from streams.runtime import worker
from streams.runtime.faust_host import FaustHost

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
logging.getLogger("streams").setLevel(logging.ERROR)

def name(host):
    return "+".join(host.stages)

async def start(host):
    if name(host) == "triage":
        threading.Thread(target=threading.Event().wait).start()  # as a client's that waits for its group
        print("begun", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()  # heeds no cancellation
    await asyncio.sleep(0)

async def stop(host):
    logging.info("stopped %s", name(host))  # whole, whatever another thread says at the same time

FaustHost.start, FaustHost.stop = start, stop
environ = {"TOCSIN__WORKER__STOP_WAIT": "1 h", "TOCSIN__KAFKA__BROKER": "127.0.0.1:1"}
settings = load(None, environ, {}, lambda _: ())
print("ended in order with", worker.serve(settings, ["detect", "triage", "escalate"], {}))
"""


def test_a_worker_that_is_told_to_stop_while_a_host_starts_stops_the_others_and_ends() -> None:
    #  detect, escalate started ... triage starts, without end | SIGTERM: the two stop, status 0
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while "begun" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    lines = said.splitlines()
    assert process.returncode == 0, said
    assert sorted(line for line in lines if line.startswith("stopped")) == ["stopped detect", "stopped escalate"]
    assert lines[-1] == "worker.ended status=0 had_not_started=triage"
