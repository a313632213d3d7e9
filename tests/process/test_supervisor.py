"""Supervisors over real workers that die: restarts, back-off, giving up, and nobody else hurt."""

import asyncio
import os
import signal

import msgspec
import pytest
from structlog.testing import capture_logs

from app.core.clock import MonotonicClock
from app.core.errors import (
    DeadlineExceeded,
    FileUnavailable,
    ModelUnavailable,
    UnavailableForNow,
)
from app.workers.means import Preparation
from app.workers.status import ServingState
from tests.process.workers import (
    LOAD_S,
    VERSION,
    ask,
    error_of,
    eventually,
    expected,
    load,
    value_of,
)


class HastyClock:
    """Waits for nothing, and notes how long it should have waited."""

    def __init__(self):
        self.pauses = []

    def now(self):
        return 0.0

    async def wait(self, event, until):
        self.pauses.append(until)
        await asyncio.sleep(0)


async def killed(watched, times):
    """Kill the worker and wait until the next one is ready."""
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    await watched.until(ServingState.READY, times=times)


async def test_worker_that_dies_is_restarted_and_serves_again(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    supervisor, first = watched.supervisor, watched.supervisor.status.pid
    await killed(watched, times=2)
    assert value_of(await ask(supervisor, "good")) == expected("good")
    assert supervisor.status.pid not in (None, first)
    assert supervisor.status.restarts == 1
    restarts = supervised.metrics.registry.get_sample_value(
        "inference_worker_restarts_total", {"worker": "echo"}
    )
    assert restarts == 1
    assert watched.states == [ServingState.READY, ServingState.RESTARTING, ServingState.READY]


async def test_request_to_a_restarting_worker_is_held_for_the_next_one(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    await watched.until(ServingState.RESTARTING)
    status = watched.supervisor.status
    assert status.reason == "the worker was ended by SIGKILL; next start in 0.25 s"
    assert status.next_start is not None
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")
    assert watched.supervisor.status.next_start is None


async def test_deadline_and_departure_of_what_is_held_while_restarting(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder), clock=NeverClock())
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    await watched.until(ServingState.RESTARTING)
    leaves = watched.supervisor.submit(VERSION, "leaves", {"truncate": False}, 30_000)
    held = supervised.metrics.registry.get_sample_value("inference_queue_items", {"worker": "echo"})
    assert held == 1
    late = await ask(watched.supervisor, "late", timeout_ms=50)
    assert isinstance(error_of(late), DeadlineExceeded)
    leaves.cancel()
    await asyncio.sleep(0)
    assert watched.supervisor.unanswered == 0


async def test_what_is_owed_when_a_version_is_given_up_fails_with_the_reason(supervised):
    watched = await supervised.ready(load("HangsInRun", supervised.folder), max_crashes=0)
    owed = asyncio.create_task(ask(watched.supervisor, "a sin"))
    await eventually(lambda: watched.supervisor.unanswered == 1, "the submission")
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    error = error_of(await owed)
    assert isinstance(error, ModelUnavailable)
    assert "has failed: the worker was ended by SIGKILL" in str(error)


async def test_crash_loop_backs_off_and_is_given_up_alone(supervised):
    clock = HastyClock()
    other = await supervised.ready(load("Wellbehaved", supervised.folder), name="other")
    watched = supervised.run(load("ExitsInLoad", supervised.folder), clock=clock, max_crashes=4)
    await watched.until(ServingState.FAILED)
    assert clock.pauses == [0.25, 0.5, 1.0, 2.0]
    assert watched.supervisor.status.reason == (
        "the worker exited with status 3, 5 times in a row without an answer; given up"
    )
    with pytest.raises(ModelUnavailable, match="given up"):
        watched.supervisor.submit(VERSION, "good", {}, 1000)
    assert value_of(await ask(other.supervisor, "good")) == expected("good")


async def test_pause_never_exceeds_its_longest(supervised):
    clock = HastyClock()
    watched = supervised.run(load("ExitsInLoad", supervised.folder), clock=clock, max_crashes=8)
    await watched.until(ServingState.FAILED)
    assert clock.pauses[-2:] == [16.0, 30.0]


async def test_answer_between_two_crashes_starts_the_count_again(supervised):
    clock = HastyClock()
    watched = await supervised.ready(
        load("Wellbehaved", supervised.folder), clock=clock, max_crashes=1
    )
    for crash in range(1, 4):
        assert value_of(await ask(watched.supervisor, "good")) == expected("good")
        await killed(watched, times=crash + 1)
    assert clock.pauses == [0.25] * 3
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    await watched.until(ServingState.FAILED)


class NeverClock(MonotonicClock):
    """The pause before a restart lasts for ever."""

    async def wait(self, event, until):
        await event.wait()


@pytest.mark.parametrize(
    ("runtime", "timeout_s", "reason"),
    [
        ("RaisesInLoad", LOAD_S, "loading failed: OSError"),
        ("HangsInLoad", 1.5, "not loaded after 1.5 s"),
    ],
    ids=["raises", "hangs"],
)
async def test_refusal_to_load_is_final(supervised, runtime, timeout_s, reason):
    watched = supervised.run(load(runtime, supervised.folder), start_timeout_s=timeout_s)
    await watched.until(ServingState.FAILED)
    assert reason in watched.supervisor.status.reason
    assert watched.supervisor.status.restarts == 0
    assert watched.states == [ServingState.FAILED]


async def test_what_cannot_be_had_for_now_is_tried_again_and_served_then(supervised):
    clock, tries = HastyClock(), 0

    async def fetch():
        nonlocal tries
        tries += 1
        if tries < 4:
            try:
                raise UnavailableForNow("the hub cannot be reached")
            except UnavailableForNow as error:  # as the stores do
                raise FileUnavailable(f"the model is not available: {error}") from error
        return Preparation(load("Wellbehaved", supervised.folder), {})

    watched = supervised.run(fetch, clock=clock)
    await watched.until(ServingState.FAILED)
    status = watched.supervisor.status
    assert status.reason == (
        "the model is not available: the hub cannot be reached; next start in 2 s"
    )
    assert status.next_start is not None
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        watched.supervisor.submit(VERSION, "good", {}, 1000)
    await watched.until(ServingState.READY)
    assert clock.pauses == [2.0, 4.0, 8.0]
    assert watched.states == [*[ServingState.FAILED] * 3, ServingState.READY]
    assert watched.supervisor.status.next_start is None
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_what_cannot_be_had_at_all_is_asked_for_once(supervised):
    async def fetch():
        raise FileUnavailable("there is no such repository")

    watched = supervised.run(fetch, clock=HastyClock())
    await watched.until(ServingState.FAILED)
    await asyncio.sleep(0.05)
    assert watched.states == [ServingState.FAILED]
    assert watched.supervisor.status.next_start is None


async def test_stop_ends_the_waiting_for_what_cannot_be_had_for_now(supervised):
    async def fetch():
        raise UnavailableForNow("the hub cannot be reached")

    watched = supervised.run(fetch, clock=NeverClock())
    await watched.until(ServingState.FAILED)
    await asyncio.wait_for(supervised.close(), 10)
    assert watched.states == [ServingState.FAILED, ServingState.STOPPING]


async def test_restart_that_takes_too_long_is_one_crash_of_a_version_that_was_ready(supervised):
    """The machine may have been busy; a first start that is late is refused at once."""
    first = supervised.folder / "first"
    first.touch()
    options = {"once": str(first)}
    late = msgspec.structs.replace(load("HangsInSecondLoad", supervised.folder), options=options)
    watched = await supervised.ready(late, start_timeout_s=8.0)
    os.kill(watched.supervisor.status.pid, signal.SIGKILL)
    await watched.until(ServingState.RESTARTING, times=2)
    assert watched.supervisor.status.reason == (
        "the worker was not loaded after 8 s (WORKER_START_TIMEOUT_S); next start in 0.5 s"
    )
    await watched.until(ServingState.READY, times=2)
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")
    assert watched.supervisor.status.restarts == 2


async def test_failure_that_nobody_foresaw_fails_one_supervisor_alone(supervised):
    async def full_disk():
        raise OSError("no space left on device")

    other = await supervised.ready(load("Wellbehaved", supervised.folder), name="other")
    watched = supervised.run(full_disk)
    await watched.until(ServingState.FAILED)
    assert "OSError" in watched.supervisor.status.reason
    assert value_of(await ask(other.supervisor, "good")) == expected("good")


async def test_stop_while_loading_ends_the_worker_and_says_stopping(supervised):
    watched = supervised.run(load("HangsInLoad", supervised.folder))
    await asyncio.sleep(0)
    await asyncio.wait_for(supervised.close(), 10)
    assert watched.supervisor.status.state is ServingState.STOPPING


async def test_stop_while_files_are_fetched_starts_nothing(supervised):
    fetched = asyncio.Event()

    async def fetch():
        await fetched.wait()
        raise FileUnavailable("the server is stopping")  # as the store does

    watched = supervised.run(fetch)
    await asyncio.sleep(0)
    closing = asyncio.create_task(supervised.close())
    await watched.until(ServingState.STOPPING)
    fetched.set()
    await asyncio.wait_for(closing, 10)
    assert watched.states == [ServingState.STOPPING]


async def test_worker_that_ends_while_nothing_more_will_come_is_neither_missed_nor_replaced(
    supervised,
):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    watched.supervisor.drain()
    with capture_logs() as logged:
        os.kill(watched.supervisor.status.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.shield(watched.life), LOAD_S)
    assert logged == []
    assert watched.states == [ServingState.READY]


async def test_drained_worker_is_replaced_for_what_was_accepted(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    os.kill(watched.supervisor.status.pid, signal.SIGSTOP)
    asked = asyncio.create_task(ask(watched.supervisor, "good"))
    await eventually(lambda: watched.supervisor.unanswered == 1, "the input")
    watched.supervisor.drain()
    await killed(watched, times=2)
    assert value_of(await asked) == expected("good")


async def test_stop_does_not_wait_for_the_pause_between_two_crashes(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    for crash in range(1, 5):  # the fourth pause is one of two seconds
        os.kill(watched.supervisor.status.pid, signal.SIGKILL)
        await watched.until(ServingState.RESTARTING, times=crash)
        if crash < 4:
            await watched.until(ServingState.READY, times=crash + 1)
    started = asyncio.get_running_loop().time()
    await supervised.close()
    assert asyncio.get_running_loop().time() - started < 1.5
    assert watched.supervisor.status.restarts == 3
