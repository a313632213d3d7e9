"""Two workers on one budget of threads, with real processes that note when they compute."""

import asyncio
import json
import math
import os
import signal
import time
from itertools import groupby

from app.core.errors import ModelUnavailable
from app.core.types import Done
from app.workers.child import QUANTUM_S
from app.workers.status import ServingState
from tests.process.workers import SupervisorBench, ask, eventually, load

BUDGET = 2
RUN_S = 0.01
REQUESTS = 40


def recording(bench, name, *, streams, threads):
    return load(
        "RecordsItsRuns",
        bench.folder,
        streams=streams,
        threads=threads,
        name=name,
        log=str(bench.folder / "runs.jsonl"),
        run_s=str(RUN_S),
    )


def notes(bench):
    log = bench.folder / "runs.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def most_threads_at_once(noted, killed):
    """killed: when which process was killed; a run that it was in ended then."""
    events = [
        (note["at"], note["threads"] if note["what"] == "start" else -note["threads"])
        for note in noted
    ]
    for pid, at in killed.items():
        unended = sum(1 if note["what"] == "start" else -1 for note in noted if note["pid"] == pid)
        threads = next(note["threads"] for note in noted if note["pid"] == pid)
        events += [(at, -threads)] * unended
    most = busy = 0
    for _, change in sorted(events):  # an end before a start at the same moment
        busy += change
        most = max(most, busy)
    assert busy == 0, "a run never ended"
    return most


def longest_monopoly(noted):
    """Most runs that one worker began in a row while the other had work as well."""
    started = [note["worker"] for note in noted if note["what"] == "start"]
    last = {worker: len(started) - started[::-1].index(worker) for worker in set(started)}
    contended = started[started.index("wide") : min(last.values())]
    return max(len(list(runs)) for _, runs in groupby(contended))


async def insist(watched, text):
    """Ask until it is answered; returns how often the worker was lost or away."""
    lost = 0
    while True:
        try:
            if isinstance(await ask(watched.supervisor, text), Done):
                return lost
        except ModelUnavailable:
            await watched.until(ServingState.READY, watched.states.count(ServingState.READY) + 1)
        lost += 1


async def two_workers(bench: SupervisorBench):
    """One of two streams with a thread each, one that needs both threads at once."""
    narrow = await bench.ready(recording(bench, "narrow", streams=2, threads=1), name="narrow")
    wide = await bench.ready(recording(bench, "wide", streams=1, threads=2), name="wide")
    return narrow, wide


async def test_busy_workers_share_the_budget_and_nobody_starves(supervised):
    workers = await two_workers(supervised)
    requests = [insist(watched, f"{i}") for watched in workers for i in range(REQUESTS)]
    assert sum(await asyncio.gather(*requests)) == 0
    noted = notes(supervised)
    assert most_threads_at_once(noted, {}) == BUDGET
    assert sum(note["what"] == "end" for note in noted) == 2 * REQUESTS
    of_a_quantum = BUDGET * math.ceil(QUANTUM_S / RUN_S)
    assert longest_monopoly(noted) <= of_a_quantum + 3


async def test_threads_of_a_killed_worker_are_free_again(supervised):
    workers = await two_workers(supervised)
    enough = asyncio.Event()

    async def client(watched):
        while not enough.is_set():
            await insist(watched, "work")

    clients = [asyncio.create_task(client(watched)) for watched in workers for _ in range(4)]
    killed = {}
    for watched in workers:
        pid = watched.supervisor.status.pid
        await eventually(lambda: is_running(notes(supervised), pid), "a run", 10)
        os.kill(pid, signal.SIGKILL)
        killed[pid] = time.monotonic()
        await watched.until(ServingState.READY, times=2)
        new = watched.supervisor.status.pid
        await eventually(lambda: is_running(notes(supervised), new), "a run after it", 10)
    enough.set()
    await asyncio.gather(*clients)
    assert most_threads_at_once(notes(supervised), killed) == BUDGET


def is_running(noted, pid):
    """Whether it has begun a run that has not ended."""
    return sum(1 if note["what"] == "start" else -1 for note in noted if note["pid"] == pid) > 0
