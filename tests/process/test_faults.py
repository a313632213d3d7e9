"""One input that ruins its worker, among others that do not: they succeed, and nothing is left."""

import asyncio
import os
import signal

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from app.core.parameters import resolve
from app.core.types import Failed
from app.tasks.catalogue import task_info
from app.workers.status import ServingState
from app.workers.watchdog import WatchLimits
from tests.process.workers import (
    VERSION,
    ask,
    error_of,
    eventually,
    expected,
    generating,
    load,
    value_of,
)
from tests.processes import living

HASTY = WatchLimits(stuck_after_s=3.0)
LIMIT_BYTES = 300 * 2**20
GENERATION = resolve(
    task_info("generate", "tokens").parameters, {"max_new_tokens": 3, "temperature": 0.0}
)


def batching(runtime, folder, **fields):
    return msgspec.structs.replace(load(runtime, folder), max_batch_size=8, **fields)


async def seven_and_a_sin(supervisor):
    """The code of the sin, and the others' answers checked. All share one batch."""
    texts = [f"good {number}" for number in range(7)]
    texts.insert(3, "a sin")
    outcomes = await asyncio.gather(*(ask(supervisor, text) for text in texts))
    sin = outcomes.pop(3)
    texts.pop(3)
    assert [value_of(outcome) for outcome in outcomes] == [expected(text) for text in texts]
    assert supervisor.unanswered == 0
    return error_of(sin).code


def is_up(status):
    """The refusal comes at a death: the next worker may still be loading."""
    return status.state is ServingState.READY and status.pid is not None


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("KilledInRun", "was ended by SIGKILL"),
        ("SegfaultsInRun", "was ended by SIGSEGV"),
        ("ExitsInRun", "exited with status 7"),
        ("SpeaksNonsense", "sent what is no message and was killed"),
        ("WritesGarbage", "exited with status 1"),
        ("HangsInRun", "has run one batch of"),
        ("IgnoresSigterm", "has run one batch of"),
        ("StopsInRun", "gave no sign of life for"),
        ("HoldsTheInterpreter", "gave no sign of life for"),
        ("FillsSharedMemory", "its limit is 300 MB (WORKER_MEMORY_LIMIT_MB) and was killed"),
    ],
)
async def test_input_that_ruins_its_worker_twice_is_refused_and_its_neighbours_succeed(
    supervised, runtime, reason
):
    watch = WatchLimits(HASTY.stuck_after_s, LIMIT_BYTES)
    watched = await supervised.ready(batching(runtime, supervised.folder), watch=watch)
    first = watched.supervisor.status.pid
    with capture_logs() as logs:
        assert await seven_and_a_sin(watched.supervisor) == "poison_input"
        await eventually(lambda: is_up(watched.supervisor.status), "the restart")
    deaths = [line["reason"] for line in logs if line["event"] == "worker_died"]
    assert all(reason in death for death in deaths)
    # In its batch, in a group of two, alone, and once more if it was not known to run; what looks
    # like a kill from outside, in its batch three times and alone four times.
    assert len(deaths) <= (8 if runtime == "KilledInRun" else 4)
    assert watched.supervisor.status.restarts == len(deaths)
    assert not living(first)


@pytest.mark.parametrize("runtime", ["RaisesInRun", "LosesARow", "AllocatesInRun"])
async def test_input_that_fails_its_batch_fails_alone_and_nothing_is_restarted(supervised, runtime):
    message = batching(runtime, supervised.folder, memory_limit_bytes=LIMIT_BYTES)
    watched = await supervised.ready(message)
    assert await seven_and_a_sin(watched.supervisor) == "internal"
    assert watched.states == [ServingState.READY]


async def test_poison_is_named_in_the_log_by_its_request(supervised):
    watched = await supervised.ready(load("ExitsInRun", supervised.folder))
    with capture_logs() as logs, structlog.contextvars.bound_contextvars(request_id="order-4711"):
        await ask(watched.supervisor, "sin")
    assert [line["request_id"] for line in logs if line["event"] == "poison_input"] == [
        "order-4711"
    ]


async def test_stopped_worker_is_stuck_and_replaced_and_what_came_meanwhile_is_answered(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder), watch=HASTY)
    os.kill(watched.supervisor.status.pid, signal.SIGSTOP)
    texts = [f"good {number}" for number in range(5)]
    outcomes = await asyncio.gather(*(ask(watched.supervisor, text) for text in texts))
    assert [value_of(outcome) for outcome in outcomes] == [expected(text) for text in texts]
    assert watched.states == [
        ServingState.READY,
        ServingState.STUCK,
        ServingState.RESTARTING,
        ServingState.READY,
    ]


async def test_poison_does_not_fail_a_version_however_much_of_it_there_is(supervised):
    watched = await supervised.ready(load("ExitsInRun", supervised.folder), max_crashes=1)
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")
    for _ in range(2):
        assert error_of(await ask(watched.supervisor, "sin")).code == "poison_input"
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_caller_who_leaves_a_hanging_run_is_forgotten_at_once(supervised):
    watched = await supervised.ready(load("HangsInRun", supervised.folder), watch=HASTY)
    leaves = watched.supervisor.submit(VERSION, "a sin", {"truncate": False}, 60_000)
    stays = asyncio.create_task(ask(watched.supervisor, "good"))
    await eventually(lambda: watched.supervisor.unanswered == 2, "the submission")
    leaves.cancel()
    assert value_of(await stays) == expected("good")
    assert watched.supervisor.status.restarts == 1


@pytest.mark.parametrize("runtime", ["KilledInStep", "RaisesInStep", "HangsInStep"])
async def test_prompt_that_ruins_the_generator_is_refused_and_others_are_written(
    supervised, runtime
):
    watched = await supervised.ready(generating(runtime, supervised.folder), watch=HASTY)

    async def write(text):
        return await watched.supervisor.submit(VERSION, text, GENERATION, 30_000)

    texts = ["one", "a sin", "two", "three"]
    outcomes = await asyncio.gather(*map(write, texts))
    sin = outcomes.pop(1)
    assert isinstance(sin, Failed) and sin.error.code == "poison_input"
    assert [value_of(outcome) for outcome in outcomes] == ["123"] * 3
    assert watched.supervisor.status.restarts == (7 if runtime == "KilledInStep" else 2)


async def test_step_that_computes_for_longer_than_a_beat_may_be_missing_is_waited_for(supervised):
    """The reading of a long prompt on few cores."""
    watch = WatchLimits(stuck_after_s=2.0)
    watched = await supervised.ready(generating("TakesLongInStep", supervised.folder), watch=watch)
    outcome = await watched.supervisor.submit(VERSION, "a long prompt", GENERATION, 60_000)
    assert value_of(outcome) == "123"
    assert watched.states == [ServingState.READY]


async def test_kills_from_outside_refuse_nobody_who_was_inside(supervised):
    runtime = load("RecordsItsRuns", supervised.folder)
    options = {"run_s": "2", "name": "echo", "log": str(supervised.folder / "runs")}
    slow = msgspec.structs.replace(runtime, max_batch_size=8, options=options)
    watched = await supervised.ready(slow)
    asked = [asyncio.create_task(ask(watched.supervisor, f"good {n}")) for n in range(4)]
    for times in (2, 3):
        await asyncio.sleep(0.5)  # they are inside
        os.kill(watched.supervisor.status.pid, signal.SIGKILL)
        await watched.until(ServingState.READY, times=times)
    outcomes = await asyncio.gather(*asked)
    assert [value_of(outcome) for outcome in outcomes] == [expected(f"good {n}") for n in range(4)]
    began = (supervised.folder / "runs").read_text().count('"start"')
    assert began <= 6, "they were run again one by one"
