"""One worker process and its handle: every way in which the process can fail its server."""

import asyncio
import json
import os
import signal
import sys
import time

import pytest

from app.core.errors import CannotLoad, DeadlineExceeded, InputTooLong, ServingError, WorkerLost
from app.core.parameters import resolve
from app.tasks.catalogue import task_info
from app.workers import handle as handle_module
from app.workers.state import WorkerState
from tests.process.workers import (
    LOAD_S,
    ask,
    error_of,
    eventually,
    expected,
    generating,
    load,
    value_of,
)
from tests.processes import living

# Loads in no time, and dies before its server has read about it.
BORN_TO_DIE = """
import os, socket, sys
from app.workers.messages import Loaded, encode
message = encode(Loaded(0.0, 64, {}, {}))
sock = socket.socket(fileno=int(sys.argv[1]))
sock.sendall(len(message).to_bytes(4, "big") + message)
os._exit(9)
"""


def runs(folder):
    """What a `RecordsItsRuns` noted, in order."""
    log = folder / "runs.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def recording(bench, run_s=0.3):
    log = str(bench.folder / "runs.jsonl")
    return await bench.started("RecordsItsRuns", name="a", log=log, run_s=str(run_s))


async def test_worker_answers_and_ends_when_told(bench):
    worker = await bench.started("Wellbehaved")
    assert value_of(await ask(worker, "good")) == expected("good")
    pid = worker.pid
    await worker.stop()
    assert worker.exit_reason == "exited with status 0"
    assert not living(pid)


async def test_refusal_to_load_is_told_with_its_reason(bench):
    with pytest.raises(CannotLoad, match="loading failed: OSError"):
        await bench.started("RaisesInLoad")


async def test_unknown_runtime_is_refused_by_name(bench):
    with pytest.raises(CannotLoad, match="unknown runtime 'NoSuch'"):
        await bench.started("NoSuch")


async def test_exit_in_load_is_a_lost_worker(bench):
    with pytest.raises(WorkerLost, match="exited with status 3"):
        await bench.started("ExitsInLoad")


async def test_load_that_hangs_is_ended_at_the_start_timeout(bench):
    worker = bench.handle(load("HangsInLoad", bench.folder))
    with pytest.raises(CannotLoad, match="not loaded after 1.5 s .WORKER_START_TIMEOUT_S."):
        await worker.start(1.5)
    await asyncio.wait_for(worker.wait(), LOAD_S)
    assert worker.exit_reason == "was not loaded after 1.5 s (WORKER_START_TIMEOUT_S)"


async def test_worker_that_dies_right_after_loading_is_lost(bench):
    """The news of the load and of the death arrived together; the first was taken for a start,
    and the move from dead to ready broke the whole fleet."""
    for _ in range(5):
        worker = bench.handle(
            load("Wellbehaved", bench.folder), (sys.executable, "-c", BORN_TO_DIE)
        )
        try:
            await worker.start(LOAD_S)
        except WorkerLost as lost:
            assert "exited with status 9" in str(lost)
        await asyncio.wait_for(worker.wait(), LOAD_S)
        assert worker.state is WorkerState.DEAD


async def test_what_cannot_be_started_is_a_lost_worker(bench):
    worker = bench.handle(load("Wellbehaved", bench.folder), ("/no/such/program",))
    with pytest.raises(WorkerLost, match="could not be started"):
        await worker.start(LOAD_S)


@pytest.mark.parametrize("turns", range(4))
async def test_stop_during_the_start_ends_both(bench, turns):
    """A stop that came before there was a process left one behind, which then loaded in peace."""
    worker = bench.handle(load("HangsInLoad", bench.folder))
    start = asyncio.create_task(worker.start(LOAD_S))
    for _ in range(turns):
        await asyncio.sleep(0)
    await worker.stop()
    with pytest.raises(WorkerLost):
        await asyncio.wait_for(start, 10)
    await worker.wait()
    assert worker.pid is None or not living(worker.pid)


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("KilledInRun", "was ended by SIGKILL"),
        ("SegfaultsInRun", "was ended by SIGSEGV"),
        ("ExitsInRun", "exited with status 7"),
    ],
    ids=["killed", "segfault", "exit"],
)
async def test_death_in_a_run_answers_everything_that_was_inside(bench, runtime, reason):
    worker = await bench.started(runtime)
    texts = ["sin", "behind it", "and further back"]
    outcomes = await asyncio.gather(*(ask(worker, text) for text in texts))
    for outcome in outcomes:
        assert isinstance(error_of(outcome), WorkerLost)
        assert reason in str(error_of(outcome))
        assert error_of(outcome).code == "model_unavailable"
    assert worker.state is WorkerState.DEAD
    assert worker.exits == 1


@pytest.mark.parametrize("runtime", ["RaisesInRun", "LosesARow"])
async def test_run_that_fails_fails_its_batch_alone(bench, runtime):
    worker = await bench.started(runtime)
    good, bad, after = await asyncio.gather(
        ask(worker, "good"), ask(worker, "a sin"), ask(worker, "after")
    )
    assert value_of(good) == expected("good")
    assert type(error_of(bad)) is ServingError  # ours, and no word of why to the caller
    assert value_of(after) == expected("after")
    assert worker.state is WorkerState.READY


async def test_input_that_the_task_refuses_fails_alone(bench):
    worker = await bench.started("Wellbehaved")
    long, good = await asyncio.gather(ask(worker, "x" * 65), ask(worker, "good"))
    assert isinstance(error_of(long), InputTooLong)
    assert "65 tokens" in str(error_of(long))
    assert value_of(good) == expected("good")


@pytest.mark.parametrize("runtime", ["WritesGarbage", "SpeaksNonsense"])
async def test_worker_that_sends_what_is_no_message_is_ended(bench, runtime):
    worker = await bench.started(runtime)
    assert isinstance(error_of(await ask(worker, "sin")), WorkerLost)
    assert worker.state is WorkerState.DEAD
    assert not living(worker.pid)


async def test_deadline_answers_on_time_while_the_run_hangs(bench, monkeypatch):
    monkeypatch.setattr(handle_module, "KILL_AFTER_S", 0.3)
    worker = await bench.started("HangsInRun")
    started = time.monotonic()
    outcome = await ask(worker, "sin", timeout_ms=200)
    assert isinstance(error_of(outcome), DeadlineExceeded)
    assert 0.2 <= time.monotonic() - started < 2
    await asyncio.wait_for(worker.stop(), 5)
    assert worker.exit_reason == "was ended by SIGKILL"


async def test_stop_does_not_wait_for_one_who_ignores_sigterm(bench, monkeypatch):
    monkeypatch.setattr(handle_module, "KILL_AFTER_S", 0.3)
    worker = await bench.started("IgnoresSigterm")
    hanging = asyncio.create_task(ask(worker, "sin"))
    await eventually(lambda: bool(worker.runs), "the run")
    await asyncio.wait_for(worker.stop(), 5)
    assert worker.exit_reason == "was ended by SIGKILL"
    assert isinstance(error_of(await hanging), WorkerLost)


async def test_worker_outlives_signals_that_are_meant_for_the_server(bench):
    """Service managers and terminals signal the whole group; what runs must be finished first."""
    worker = await bench.started("Wellbehaved")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, number)
    assert value_of(await ask(worker, "good")) == expected("good")


async def test_chatter_on_stdout_disturbs_nobody(bench, capfd):
    worker = await bench.started("ChatsOnStdout")
    assert value_of(await ask(worker, "sin")) == expected("sin")
    assert value_of(await ask(worker, "good")) == expected("good")
    capfd.readouterr()


async def test_cancelled_item_is_not_run(bench):
    worker = await recording(bench)
    first = worker.ask("first")
    second = worker.ask("second")
    third = worker.ask("third")
    await eventually(lambda: len(runs(bench.folder)) == 1, "the first run")
    second.cancel()
    assert value_of(await first) == expected("first")
    assert value_of(await third) == expected("third")
    assert [run["what"] for run in runs(bench.folder)] == ["start", "end"] * 2


async def test_item_whose_deadline_passes_in_the_queue_is_not_run(bench):
    worker = await recording(bench, run_s=0.5)
    first = worker.ask("first")
    await eventually(lambda: len(runs(bench.folder)) == 1, "the first run")
    late = await ask(worker, "late", timeout_ms=50)
    assert isinstance(error_of(late), DeadlineExceeded)
    assert not first.done()
    assert value_of(await ask(worker, "third")) == expected("third")
    assert [run["what"] for run in runs(bench.folder)] == ["start", "end"] * 2


async def test_heartbeat_tells_batches_and_memory(bench):
    worker = await bench.started("Wellbehaved")
    await ask(worker, "four")
    await eventually(lambda: any(b.batches for b in worker.beats), "a beat", 10)
    batches = [batch for beat in worker.beats for batch in beat.batches]
    assert [(batch.rows, batch.real_tokens) for batch in batches] == [(1, 4)]
    assert worker.beats[-1].resident_bytes > 10_000_000


GENERATION = resolve(
    task_info("generate", "tokens").parameters, {"max_new_tokens": 3, "temperature": 0.0}
)


async def test_step_that_fails_ends_the_worker_and_tells_its_callers(bench):
    worker = bench.handle(generating("RaisesInStep", bench.folder))
    await worker.start(LOAD_S)
    good = await worker.ask("count", **GENERATION)
    assert value_of(good) == "123"
    bad = await asyncio.wait_for(worker.ask("sin", **GENERATION), LOAD_S)
    assert isinstance(error_of(bad), WorkerLost)
    assert worker.exit_reason == "exited with status 1"
