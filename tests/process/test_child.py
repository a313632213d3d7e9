"""The worker process without its server: it must never outlive it."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from app.workers.messages import AskThreads, Loaded, LoadFailed, Results, Stop
from tests.process.raw import raw_worker
from tests.process.workers import LOAD_S, eventually, expected, load
from tests.processes import living

ENDS_S = 10.0


def test_worker_that_is_told_to_stop_exits_clean(tmp_path):
    with raw_worker(load("Wellbehaved", tmp_path)) as worker:
        assert worker.until(Loaded).max_tokens == 64
        worker.submit("good")
        (item,) = worker.until(Results).items
        assert (item.id, item.value) == (1, expected("good"))
        worker.send(Stop())
        assert worker.process.wait(ENDS_S) == 0


def test_worker_that_cannot_load_says_so_and_exits(tmp_path):
    with raw_worker(load("RaisesInLoad", tmp_path)) as worker:
        assert worker.until(LoadFailed).message == "loading failed: OSError"
        assert worker.process.wait(ENDS_S) == 1


@pytest.mark.parametrize("runtime", ["Wellbehaved", "HangsInLoad"], ids=["idle", "loading"])
def test_worker_exits_when_the_connection_closes(tmp_path, runtime):
    with raw_worker(load(runtime, tmp_path)) as worker:
        if runtime == "Wellbehaved":
            worker.until(Loaded)
        worker.connection.close()
        worker.process.wait(LOAD_S)


def test_worker_in_a_run_exits_when_the_connection_closes(tmp_path):
    with raw_worker(load("HangsInRun", tmp_path)) as worker:
        worker.until(Loaded)
        worker.submit("sin")
        worker.until(AskThreads)
        worker.connection.close()
        assert worker.process.wait(ENDS_S) == 1


def test_worker_that_hears_nonsense_exits(tmp_path):
    with raw_worker(load("Wellbehaved", tmp_path)) as worker:
        worker.until(Loaded)
        worker.connection.sendall(b"\xff\xff\xff\xff")
        assert worker.process.wait(ENDS_S) == 1


async def test_children_die_by_themselves_when_the_server_is_killed(tmp_path):
    command = [sys.executable, "-m", "tests.process.doomed_parent", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        line = await asyncio.to_thread(parent.stdout.readline)
        pids = [int(pid) for pid in line.split()]
        assert len(pids) == 3 and all(living(pid) for pid in pids)
        os.kill(parent.pid, signal.SIGKILL)
    for pid in pids:
        await eventually(lambda: not living(pid), f"the end of {pid}", ENDS_S)
