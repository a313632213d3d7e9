"""Versions loaded and unloaded while their server runs, over real workers."""

import asyncio
import os
import signal

import msgspec
import pytest

from app.core.errors import FileUnavailable, ModelUnavailable, Superseded, UnavailableForNow
from app.workers.means import Preparation
from app.workers.messages import HostedVersion
from app.workers.status import ServingState
from tests.process.test_supervisor import NeverClock
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
from tests.processes import living

OTHER = "other:v1"


def of_two(folder, runtime="Wellbehaved"):
    """One artefact that two versions share."""
    both = [HostedVersion(version, "embed", {}, {}) for version in (VERSION, OTHER)]
    return msgspec.structs.replace(load(runtime, folder), versions=both)


async def within(waiting):
    return await asyncio.wait_for(waiting, LOAD_S)


def state(watched, version=VERSION):
    return watched.supervisor.state_of(version)[0]


async def stopped_with_an_item(watched):
    """The worker does not move, and owes an answer."""
    pid = watched.supervisor.status.pid
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(ask(watched.supervisor, "good"))
    await eventually(lambda: watched.supervisor.unanswered == 1, "the input")
    return pid, asked


async def ordered(watched, order):
    """An order that is given and not carried out yet."""
    task = asyncio.create_task(order(VERSION))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_unloaded_version_is_gone_with_its_process_and_serves_again_when_loaded(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    supervisor, pid = watched.supervisor, watched.supervisor.status.pid
    await within(supervisor.unload(VERSION))
    assert not living(pid)
    assert state(watched) is supervisor.status.state is ServingState.UNLOADED
    with pytest.raises(ModelUnavailable, match="echo:v1 is unloaded"):
        supervisor.submit(VERSION, "good", {}, 1000)
    await within(supervisor.load(VERSION))
    assert value_of(await ask(supervisor, "good")) == expected("good")
    assert supervisor.status.pid != pid


async def test_what_was_accepted_is_answered_and_nothing_new_is_taken_meanwhile(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    pid, asked = await stopped_with_an_item(watched)
    unloading = await ordered(watched, watched.supervisor.unload)
    assert state(watched) is ServingState.UNLOADING
    with pytest.raises(ModelUnavailable, match="is unloading"):
        watched.supervisor.submit(VERSION, "good", {}, 1000)
    os.kill(pid, signal.SIGCONT)
    assert value_of(await asked) == expected("good")
    await within(unloading)
    assert not living(pid)


async def test_what_is_not_answered_within_the_grace_time_fails(supervised):
    watched = await supervised.ready(load("HangsInRun", supervised.folder), grace_s=0.05)
    pid = watched.supervisor.status.pid
    asked = asyncio.create_task(ask(watched.supervisor, "a sin"))
    await eventually(lambda: watched.supervisor.unanswered == 1, "the input")
    unloading = await ordered(watched, watched.supervisor.unload)
    assert str(error_of(await asked)) == "echo:v1 was unloaded before this was answered"
    os.kill(pid, signal.SIGKILL)  # the supervisor would, after some seconds
    await within(unloading)
    assert not living(pid)


async def test_worker_dies_during_an_unload_and_what_it_owed_is_run_by_the_next(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    pid, asked = await stopped_with_an_item(watched)
    unloading = await ordered(watched, watched.supervisor.unload)
    os.kill(pid, signal.SIGKILL)
    assert value_of(await asked) == expected("good")
    await within(unloading)
    assert state(watched) is ServingState.UNLOADED


async def test_versions_of_one_worker_come_and_go_alone_and_the_last_takes_it_along(supervised):
    both = {VERSION: True, OTHER: True}
    watched = await supervised.ready(of_two(supervised.folder), versions=both)
    supervisor, pid = watched.supervisor, watched.supervisor.status.pid
    await within(supervisor.unload(OTHER))
    assert (state(watched), state(watched, OTHER)) == (ServingState.READY, ServingState.UNLOADED)
    assert value_of(await ask(supervisor, "good")) == expected("good")
    await within(supervisor.load(OTHER))
    assert supervisor.status.pid == pid
    await within(asyncio.gather(supervisor.unload(VERSION), supervisor.unload(OTHER)))
    assert not living(pid)
    await within(supervisor.load(OTHER))
    assert (state(watched), state(watched, OTHER)) == (ServingState.UNLOADED, ServingState.READY)


async def test_load_during_an_unload_keeps_the_worker_and_tells_who_unloads(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    pid, asked = await stopped_with_an_item(watched)
    unloading = await ordered(watched, watched.supervisor.unload)
    await within(watched.supervisor.load(VERSION))
    with pytest.raises(Superseded, match="loaded by a later order"):
        await within(unloading)
    os.kill(pid, signal.SIGCONT)
    assert value_of(await asked) == expected("good")
    assert (state(watched), watched.supervisor.status.pid) == (ServingState.READY, pid)


async def test_unload_during_a_load_ends_it_and_tells_who_loads(supervised):
    watched = supervised.run(load("HangsInLoad", supervised.folder))
    loading = await ordered(watched, watched.supervisor.load)
    await within(watched.supervisor.unload(VERSION))
    with pytest.raises(Superseded, match="unloaded by a later order"):
        await within(loading)
    assert state(watched) is ServingState.UNLOADED


async def test_orders_without_end_leave_the_last_ones_state(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    supervisor = watched.supervisor
    orders = [supervisor.unload, supervisor.load] * 5
    await within(asyncio.gather(*(order(VERSION) for order in orders), return_exceptions=True))
    await within(supervisor.load(VERSION))
    assert value_of(await ask(supervisor, "good")) == expected("good")
    orders.reverse()
    await within(asyncio.gather(*(order(VERSION) for order in orders), return_exceptions=True))
    assert state(watched) is ServingState.UNLOADED


async def test_version_that_is_not_wanted_at_the_start_is_not_even_fetched(supervised):
    fetched = []

    async def fetch():
        fetched.append(VERSION)
        return Preparation(load("Wellbehaved", supervised.folder), {})

    watched = supervised.run(fetch, versions={VERSION: False})
    await asyncio.sleep(0)
    assert (state(watched), fetched) == (ServingState.UNLOADED, [])
    await within(watched.supervisor.load(VERSION))
    assert fetched == [VERSION]
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_load_of_a_failed_version_tries_again_and_says_why_not(supervised):
    reasons = ["the file is truncated", "it still is"]

    async def fetch():
        if reasons:
            raise FileUnavailable(reasons.pop(0))
        return Preparation(load("Wellbehaved", supervised.folder), {})

    watched = supervised.run(fetch)
    await watched.until(ServingState.FAILED)
    with pytest.raises(ModelUnavailable, match="has failed: it still is"):
        await within(watched.supervisor.load(VERSION))
    await within(watched.supervisor.load(VERSION))
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_load_does_not_wait_for_the_next_try_of_what_could_not_be_had(supervised):
    tries = 0

    async def fetch():
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UnavailableForNow("the hub cannot be reached")
        return Preparation(load("Wellbehaved", supervised.folder), {})

    watched = supervised.run(fetch, clock=NeverClock())
    await watched.until(ServingState.FAILED)
    await within(watched.supervisor.load(VERSION))
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_unload_does_not_wait_for_what_is_being_fetched(supervised):
    fetched = asyncio.Event()

    async def fetch():
        await fetched.wait()
        return Preparation(load("Wellbehaved", supervised.folder), {})

    watched = supervised.run(fetch)
    await asyncio.sleep(0)
    await within(watched.supervisor.unload(VERSION))
    loading = await ordered(watched, watched.supervisor.load)
    assert state(watched) is ServingState.LOADING
    fetched.set()
    await within(loading)
    assert value_of(await ask(watched.supervisor, "good")) == expected("good")


async def test_stopping_server_takes_no_orders_and_ends_the_waiting_for_them(supervised):
    watched = supervised.run(load("HangsInLoad", supervised.folder))
    loading = await ordered(watched, watched.supervisor.load)
    watched.supervisor.drain()
    with pytest.raises(ModelUnavailable, match="the server is stopping"):
        await within(loading)
    with pytest.raises(ModelUnavailable, match="the server is stopping"):
        await within(watched.supervisor.unload(VERSION))


async def test_unloaded_worker_is_no_crash_and_leaves_nothing_in_the_metrics(supervised):
    watched = await supervised.ready(load("Wellbehaved", supervised.folder))
    await within(watched.supervisor.unload(VERSION))
    value = supervised.metrics.registry.get_sample_value
    assert value("inference_worker_resident_bytes", {"worker": "echo"}) == 0
    assert value("inference_worker_restarts_total", {"worker": "echo"}) == 0
    assert watched.states[-1] is ServingState.UNLOADED
    assert ServingState.RESTARTING not in watched.states
