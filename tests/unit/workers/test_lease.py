"""The worker's side of the CPU budget. Its meeting with the server's: scheduling/test_cpu_lease."""

import asyncio

import pytest

from app.workers.lease import IDLE_S, LeaseClient
from app.workers.messages import AskThreads, ReturnThreads
from tests.fakes import settle_tasks, until


@pytest.fixture
def sent():
    return []


@pytest.fixture
def lease(sent):
    return LeaseClient(sent.append)


async def test_a_stream_waits_until_its_threads_are_granted(lease, sent):
    waits = asyncio.create_task(lease.acquire(2))
    await settle_tasks()
    assert sent == [AskThreads(2)]
    assert not waits.done()

    lease.on_grant(2)
    await waits


async def test_threads_are_kept_from_batch_to_batch_while_nobody_wants_them(lease, sent):
    lease.on_grant(2)
    for _ in range(3):
        await lease.acquire(2)
        lease.release(2)

    assert sent == []


async def test_a_recall_takes_idle_threads_at_once_and_busy_ones_when_they_are_free(lease, sent):
    lease.on_grant(2)
    await lease.acquire(1)

    lease.on_recall()
    assert sent == [ReturnThreads(1)]
    lease.release(1)
    assert sent == [ReturnThreads(1), ReturnThreads(1)]


async def test_after_a_recall_the_next_batch_has_to_ask_again(lease, sent):
    lease.on_grant(1)
    lease.on_recall()
    waits = asyncio.create_task(lease.acquire(1))
    await settle_tasks()

    assert sent == [ReturnThreads(1), AskThreads(1)]
    lease.on_grant(1)
    await waits
    lease.release(1)
    assert len(sent) == 2, "the new grant was not recalled"


async def test_streams_are_served_in_the_order_in_which_they_asked(lease):
    served = []

    async def stream(name):
        await lease.acquire(1)
        served.append(name)

    async with asyncio.TaskGroup() as streams:
        for name in "abc":
            streams.create_task(stream(name))
        await settle_tasks()
        lease.on_grant(2)
        await settle_tasks()
        assert served == ["a", "b"]
        lease.on_grant(1)

    assert served == ["a", "b", "c"]


async def test_a_small_request_does_not_overtake_a_large_one_that_waits(lease, sent):
    lease.on_grant(1)
    large = asyncio.create_task(lease.acquire(2))
    await settle_tasks()
    small = asyncio.create_task(lease.acquire(1))
    await settle_tasks()
    assert not small.done()

    lease.on_grant(2)
    await large
    lease.on_grant(1)
    await small
    assert sent == [AskThreads(2), AskThreads(1)]


async def test_a_stream_that_stopped_waiting_does_not_swallow_the_grant(lease, sent):
    gone = asyncio.create_task(lease.acquire(1))
    await settle_tasks()
    gone.cancel()
    stays = asyncio.create_task(lease.acquire(1))
    await settle_tasks()

    lease.on_grant(1)
    await stays
    assert sent == [AskThreads(1), AskThreads(1)]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patient(sent, clock):
    """Keeps threads for 40 ms although others wait."""
    return LeaseClient(sent.append, quantum_s=0.04, now=clock)


async def test_recalled_threads_are_used_for_their_quantum_first(patient, sent, clock):
    patient.on_grant(2)
    await patient.acquire(2)
    patient.on_recall()
    for _ in range(3):
        clock.now += 0.013
        patient.release(2)
        await patient.acquire(2)
    assert sent == []

    clock.now += 0.013
    patient.release(2)
    assert sent == [ReturnThreads(2)]


async def test_recalled_threads_that_nobody_uses_go_back_before_the_quantum_ends(patient, sent):
    patient.on_grant(2)
    await patient.acquire(2)
    patient.on_recall()
    patient.release(2)
    assert sent == []
    await until(lambda: sent == [ReturnThreads(2)])


async def test_the_end_of_an_idle_time_takes_no_threads_that_are_used_again(patient, sent):
    """A step holds the loop for longer than threads may be idle."""
    patient.on_grant(2)
    await patient.acquire(2)
    patient.on_recall()
    for _ in range(2):
        patient.release(2)
        await patient.acquire(2)
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(5 * IDLE_S, passed.set_result, None)
    await passed
    patient.release(2)
    await settle_tasks()
    assert sent == []


async def test_a_quantum_begins_when_a_worker_that_had_none_is_granted_threads(
    patient, sent, clock
):
    patient.on_grant(1)
    await patient.acquire(1)
    clock.now += 0.05
    patient.on_grant(1)  # to another stream
    patient.on_recall()
    assert sent == [ReturnThreads(1)]
    patient.release(1)
    assert sent == [ReturnThreads(1)] * 2

    patient.on_grant(1)
    await patient.acquire(1)
    patient.on_recall()
    patient.release(1)
    await patient.acquire(1)
    assert len(sent) == 2
