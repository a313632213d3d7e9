"""The budget of CPU threads: the server's book, alone and with the workers' side of it.

In the state machine every message waits in an in-order queue until it is delivered, so that asks,
grants, recalls and returns cross each other in every way that a socket allows.
"""

import asyncio
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.scheduling.cpu_lease import CpuLeases, Grant, Order, Recall
from app.workers.lease import LeaseClient
from app.workers.messages import AskThreads, ReturnThreads


def test_free_threads_are_granted_at_once():
    leases = CpuLeases(4)

    assert leases.ask("a", 3) == [Grant("a", 3)]
    assert leases.in_use == 3


def test_who_waits_has_the_holders_told_to_give_back():
    leases = CpuLeases(2)
    leases.ask("a", 2)

    assert leases.ask("b", 1) == [Recall("a")]
    assert leases.give_back("a", 2) == [Grant("b", 1)]


def test_a_holder_is_told_once():
    leases = CpuLeases(2)
    leases.ask("a", 2)
    leases.ask("b", 1)

    assert leases.ask("c", 1) == []


def test_a_holder_that_was_granted_more_since_it_was_told_is_told_again():
    """Its new grant ended the recall on its side: without another it would keep everything."""
    leases = CpuLeases(2)
    leases.ask("a", 2)
    leases.ask("c", 1)
    leases.give_back("a", 1)
    leases.ask("a", 1)
    assert leases.give_back("c", 1) == [Grant("a", 1)]

    assert leases.ask("b", 1) == [Recall("a")]


def test_nobody_overtakes_a_larger_request():
    leases = CpuLeases(4)
    leases.ask("a", 2)
    leases.ask("b", 4)

    assert leases.ask("c", 1) == []
    assert leases.give_back("a", 2) == [Grant("b", 4), Recall("b")]
    assert leases.give_back("b", 4) == [Grant("c", 1)]


def test_a_dead_holder_frees_its_threads_and_its_place_in_line():
    leases = CpuLeases(2)
    leases.ask("a", 2)
    leases.ask("b", 2)
    leases.ask("c", 1)
    leases.forget("b")

    assert leases.forget("a") == [Grant("c", 1)]
    assert leases.in_use == 1


def test_threads_that_nobody_holds_cannot_be_given_back_twice():
    leases = CpuLeases(2)
    leases.ask("a", 1)
    leases.give_back("a", 5)
    leases.give_back("a", 1)

    assert leases.in_use == 0
    assert leases.ask("b", 2) == [Grant("b", 2)]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget of 0"):
        CpuLeases(0)


def test_who_asks_for_more_than_the_budget_gets_what_it_asked_for_once_all_is_free():
    """The grant was once cut to the budget, and the worker waited for the rest for ever."""
    leases = CpuLeases(2)
    leases.ask("a", 1)

    assert leases.ask("b", 4) == [Recall("a")]
    assert leases.give_back("a", 1) == [Grant("b", 4)]
    assert leases.in_use == 2
    assert leases.ask("c", 1) == [Recall("b")]
    assert leases.give_back("b", 4) == [Grant("c", 1)]


class Worker:
    """A worker's streams around one real LeaseClient; messages lie in queues until delivered."""

    def __init__(self, name: str, streams: int) -> None:
        self.name = name
        self.streams = streams
        self.to_server: deque[AskThreads | ReturnThreads] = deque()
        self.to_worker: deque[Order] = deque()
        self.client = LeaseClient(self.to_server.append)
        self.asking: list[asyncio.Task[None]] = []
        self.computing: list[int] = []  # threads of each batch

    def begin(self, threads: int) -> None:
        self.asking.append(asyncio.get_running_loop().create_task(self._compute(threads)))

    async def _compute(self, threads: int) -> None:
        await self.client.acquire(threads)
        self.computing.append(threads)

    def end(self) -> None:
        self.client.release(self.computing.pop(0))

    def notice(self) -> None:
        self.asking = [task for task in self.asking if not task.done()]


class Leases(RuleBasedStateMachine):
    """Workers compute, wait, give back and die while their messages are under way."""

    @initialize(
        budget=st.integers(2, 4) | st.just(1),
        streams=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    )
    def start(self, budget, streams):
        self.loop = asyncio.new_event_loop()
        self.leases = CpuLeases(budget)
        self.born = 0
        self.workers: list[Worker] = []
        for each in streams:
            self._spawn(each)

    def _spawn(self, streams):
        self.workers.append(Worker(f"worker/{self.born}", streams))
        self.born += 1

    def _act(self, act) -> None:
        """Do it on the loop and let whoever it woke run."""

        async def do() -> None:
            act()
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(do())
        for worker in self.workers:
            worker.notice()

    def _pick(self, number):
        return self.workers[number % len(self.workers)]

    @rule(number=st.integers(0, 2), threads=st.integers(1, 4), promptly=st.booleans())
    def a_stream_wants_to_compute(self, number, threads, promptly):
        worker = self._pick(number)
        if len(worker.asking) + len(worker.computing) < worker.streams:
            self._act(lambda: worker.begin(min(threads, self.leases.budget)))
        if promptly:
            self.everything_arrives()

    @rule(number=st.integers(0, 2))
    def a_stream_has_computed(self, number):
        worker = self._pick(number)
        if worker.computing:
            self._act(worker.end)

    @rule(number=st.integers(0, 2))
    def the_server_reads(self, number):
        worker = self._pick(number)
        if worker.to_server:
            message = worker.to_server.popleft()
            if isinstance(message, AskThreads):
                self._carry_out(self.leases.ask(worker.name, message.threads))
            else:
                self._carry_out(self.leases.give_back(worker.name, message.threads))

    @rule(number=st.integers(0, 2))
    def a_worker_reads(self, number):
        worker = self._pick(number)
        if worker.to_worker:
            order = worker.to_worker.popleft()
            if isinstance(order, Grant):
                self._act(lambda: worker.client.on_grant(order.threads))
            else:
                self._act(worker.client.on_recall)

    @rule()
    def everything_arrives(self):
        while any(worker.to_server or worker.to_worker for worker in self.workers):
            for number in range(len(self.workers)):
                self.the_server_reads(number)
                self.a_worker_reads(number)
                self.no_more_threads_compute_than_there_are()

    @precondition(lambda self: self.born < 6)
    @rule(number=st.integers(0, 2))
    def a_worker_dies_and_another_takes_its_place(self, number):
        worker = self._pick(number)
        self.workers.remove(worker)
        self._bury(worker)
        self._carry_out(self.leases.forget(worker.name))
        self._spawn(worker.streams)

    def _bury(self, worker) -> None:
        async def bury() -> None:
            for task in worker.asking:
                task.cancel()
            await asyncio.gather(*worker.asking, return_exceptions=True)

        self.loop.run_until_complete(bury())

    def _carry_out(self, orders) -> None:
        by_name = {worker.name: worker for worker in self.workers}
        for order in orders:
            by_name[order.holder].to_worker.append(order)

    @invariant()
    def no_more_threads_compute_than_there_are(self):
        if hasattr(self, "leases"):
            busy = sum(sum(worker.computing) for worker in self.workers)
            assert busy <= self.leases.in_use <= self.leases.budget

    def teardown(self):
        if not hasattr(self, "leases"):
            return
        for _ in range(20):  # nine streams at most, one batch each
            self.everything_arrives()
            for number in range(len(self.workers)):
                self.a_stream_has_computed(number)
        stuck = [worker.name for worker in self.workers if worker.asking]
        for worker in self.workers:
            self._bury(worker)
            self.leases.forget(worker.name)
        self.loop.close()
        assert not stuck, "some asked and were never served"
        assert self.leases.in_use == 0


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=100, stateful_step_count=50)
