"""Jobs are run to their end, once, whatever happens to who runs them."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from app.core.errors import (
    DeadlineExceeded,
    InputTooLong,
    ModelUnavailable,
    ServingError,
    StorageUnavailable,
)
from app.core.job_metrics import JobMetrics
from app.core.metrics import Metrics
from app.jobs.owners import Owner
from app.jobs.plan import Part
from app.jobs.runner import Runner, RunnerLimits
from app.jobs.status import Claimed, Ending, JobState, Problem
from app.jobs.watch import Watch
from tests.contract.job_bench import LEASE_S, Bench

GUARD_S = 20.0


class AnswersWhenTold:
    """Planner whose inputs wait for the test, but for those that it has a word for.

    `outcomes` says by position what comes at once: bytes, or an error to be raised."""

    def __init__(self) -> None:
        self.can_run = True
        self.begun: list[tuple[str, int]] = []
        self.outcomes: dict[int, bytes | Exception] = {}
        self.gate = asyncio.Event()
        self.refusal: ServingError | None = None

    def plan(self, job: Claimed) -> "_Plan":
        if self.refusal is not None:
            raise self.refusal
        return _Plan(self, job)


class _Plan:
    def __init__(self, planner: AnswersWhenTold, job: Claimed) -> None:
        self._planner = planner
        self._job = job
        self.inputs = job.inputs

    async def run(self, position: int, left_s: float) -> Part:
        self._planner.begun.append((self._job.id, position))
        outcome = self._planner.outcomes.get(position)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            await self._planner.gate.wait()
        return Part(outcome or b"late", False)

    def ending(self, parts: Mapping[int, bytes]) -> Ending:
        return Ending(JobState.SUCCEEDED, b"+".join(parts[at] for at in sorted(parts)))


class Server:
    """A runner and what belongs to it."""

    def __init__(self, store: Bench, folder: Path) -> None:
        self.planner = AnswersWhenTold()
        self.watch = Watch()
        self.owner = Owner(folder)
        self.store = store
        chosen = RunnerLimits(inputs=8, lease_s=LEASE_S)
        metrics = JobMetrics(Metrics().registry)
        self.runner = Runner(store, self.planner, self.owner, self.watch, metrics, chosen)

    async def until(self, job_id: str, *states: JobState) -> JobState:
        """By the runner's own news."""
        async with asyncio.timeout(GUARD_S):
            with self.watch.on(job_id) as news:
                while (state := await self.store.state(job_id)) not in states:
                    await news.wait()
                    news.clear()
        return state

    async def begun(self, count: int) -> None:
        async with asyncio.timeout(GUARD_S):
            while len(self.planner.begun) < count:
                await asyncio.sleep(0.005)

    async def ended(self, job_id: str) -> JobState:
        return await self.until(job_id, *(state for state in JobState if state.is_final))


@pytest_asyncio.fixture
async def store(database):
    return Bench(database)


@pytest_asyncio.fixture
async def server(store, tmp_path):
    server = Server(store, tmp_path / "owners")
    yield server
    await server.runner.stop(0.0)
    assert not server.runner._held and not server.runner._background.lives


async def test_jobs_are_run_and_their_inputs_come_together(server, store):
    server.planner.outcomes = {0: b"a", 1: b"b", 2: b"c"}
    (job_id,) = await store.add(inputs=3)
    server.runner.start()
    assert await server.ended(job_id) is JobState.SUCCEEDED
    assert await store.result(job_id) == b"a+b+c"


async def test_a_submission_wakes_the_runner(server, store, monkeypatch):
    monkeypatch.setattr("app.jobs.runner.POLL_S", 3600.0)
    server.planner.outcomes = {0: b"a"}
    server.runner.start()
    await asyncio.sleep(0.05)
    (job_id,) = await store.add()
    server.runner.wake()
    assert await server.ended(job_id) is JobState.SUCCEEDED


async def test_no_more_inputs_than_allowed_are_answered_at_a_time(server, store):
    await store.add(20)
    server.runner.start()
    await server.begun(8)
    await asyncio.sleep(0.05)
    assert len(server.planner.begun) == 8
    server.planner.gate.set()
    await server.begun(20)


async def test_nothing_is_claimed_before_models_can_run_it(server, store):
    server.planner.can_run = False
    (job_id,) = await store.add()
    assert await server.runner.claim() == 0
    assert await store.state(job_id) is JobState.QUEUED


async def test_what_cannot_be_run_now_is_put_off_with_what_it_has(server, store):
    server.planner.outcomes = {0: b"a", 1: ModelUnavailable("loading", retry_after_s=7.0)}
    (job_id,) = await store.add(inputs=2)
    await server.runner.claim()
    await server.until(job_id, JobState.DELAYED)
    view = await store.view(job_id)
    assert view.problem == Problem("model_unavailable", "loading") and view.attempts == 0
    assert view.run_at is not None and 5 < view.run_at - store.time.now < 9

    server.planner.outcomes[1] = b"b"
    store.time.now += 10
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.SUCCEEDED
    assert await store.result(job_id) == b"a+b"
    assert [at for _, at in server.planner.begun].count(0) == 1


async def test_a_request_that_means_nothing_any_more_fails(server, store):
    server.planner.refusal = InputTooLong("300 tokens")
    (job_id,) = await store.add()
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.FAILED
    assert (await store.view(job_id)).problem == Problem("input_too_long", "300 tokens")


async def test_a_fault_of_ours_tells_nothing(server, store):
    server.planner.outcomes = {0: ZeroDivisionError("a secret")}
    (job_id,) = await store.add()
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.FAILED
    assert "secret" not in str(await store.view(job_id))


@pytest.mark.parametrize("how", ["service", "timer"])
async def test_a_job_that_runs_past_its_deadline_expires(server, store, how):
    if how == "service":
        server.planner.outcomes = {0: DeadlineExceeded()}
    (job_id,) = await store.add(timeout_s=1000.0 if how == "service" else 0.05)
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.EXPIRED


async def test_cancelling_stops_the_work_at_once(server, store):
    (job_id,) = await store.add()
    await server.runner.claim()
    await server.begun(1)
    await store.cancel("me", job_id)
    server.runner.cancel(job_id)
    assert await server.ended(job_id) is JobState.CANCELLED


async def test_cancelling_on_another_server_stops_the_work_at_the_next_renewal(server, store):
    (job_id,) = await store.add()
    await server.runner.claim()
    await store.cancel("me", job_id)
    await server.runner.renew()
    assert await server.ended(job_id) is JobState.CANCELLED


async def test_who_loses_his_lease_stops_and_the_other_finishes(server, store, tmp_path):
    (job_id,) = await store.add()
    await server.runner.claim()
    await server.begun(1)
    store.time.now += LEASE_S + 1
    other = Server(store, tmp_path / "elsewhere")
    other.planner.outcomes = {0: b"other"}
    await other.runner.sweep()
    await other.runner.claim()
    assert await other.ended(job_id) is JobState.SUCCEEDED
    await server.runner.renew()
    async with asyncio.timeout(GUARD_S):
        while server.runner._held:
            await asyncio.sleep(0.005)
    assert await store.result(job_id) == b"other"
    await other.runner.stop(0.0)


async def test_a_server_that_stops_finishes_what_it_can_and_gives_back_the_rest(
    server, store, tmp_path
):
    server.planner.outcomes = {position: b"x" for position in range(4)}
    (slow,) = await store.add(inputs=5)
    await server.runner.claim()
    await server.begun(5)
    (waiting,) = await store.add()
    await server.runner.stop(0.05)
    assert await store.state(slow) is JobState.QUEUED
    assert await store.state(waiting) is JobState.QUEUED
    view = await store.view(slow)
    assert (view.done, view.attempts) == (4, 0)
    assert list((tmp_path / "owners").iterdir()) == []

    other = Server(store, tmp_path / "owners")
    other.planner.outcomes = {0: b"again", 4: b"last"}
    await other.runner.claim()
    assert await other.ended(slow) is JobState.SUCCEEDED
    assert await store.result(slow) == b"x+x+x+x+last"
    await other.runner.stop(0.0)


async def test_inputs_that_are_being_answered_are_waited_for(server, store):
    (job_id,) = await store.add()
    await server.runner.claim()
    await server.begun(1)
    stopping = asyncio.create_task(server.runner.stop(GUARD_S))
    await asyncio.sleep(0)
    server.planner.gate.set()
    await stopping
    assert await store.state(job_id) is JobState.SUCCEEDED


async def test_what_a_dead_server_held_is_taken_back_by_the_next_on_its_machine(
    server, store, tmp_path
):
    dead = Server(store, tmp_path / "owners")
    (job_id,) = await store.add()
    await dead.runner.claim()
    await dead.begun(1)
    os.close(dead.owner._descriptor)  # as the kernel does
    server.planner.outcomes = {0: b"next"}
    await server.runner.sweep()
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.SUCCEEDED
    dead.planner.gate.set()  # it was not dead after all: its answer changes nothing
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(*dead.runner._background.lives)
    assert await store.result(job_id) == b"next"


async def test_an_end_that_cannot_be_kept_now_is_kept_later(server, store, monkeypatch):
    monkeypatch.setattr("app.jobs.runner.RETRY_S", 0.01)
    finish, failures = store.finish, [StorageUnavailable(), StorageUnavailable()]

    async def fail_twice(*arguments):
        if failures:
            raise failures.pop()
        return await finish(*arguments)

    monkeypatch.setattr(store, "finish", fail_twice)
    server.planner.outcomes = {0: b"a"}
    (job_id,) = await store.add()
    await server.runner.claim()
    assert await server.ended(job_id) is JobState.SUCCEEDED


async def test_a_database_that_is_away_for_a_moment_does_not_end_the_loops(
    server, store, monkeypatch
):
    monkeypatch.setattr("app.jobs.runner.POLL_S", 0.01)
    has_due, failures = store.has_due, [StorageUnavailable(), KeyError("a bug")]

    async def fail_twice():
        if failures:
            raise failures.pop()
        return await has_due()

    monkeypatch.setattr(store, "has_due", fail_twice)
    server.planner.outcomes = {0: b"a"}
    (job_id,) = await store.add()
    server.runner.start()
    assert await server.ended(job_id) is JobState.SUCCEEDED
