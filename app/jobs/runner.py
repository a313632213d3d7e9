"""Runs jobs: claims them, has their inputs answered, and sees each to its end.

    claiming  -> as many as there is room for, as soon as there is some; each is a task
    answering -> inputs go to the service, so many of all jobs at a time; parts are kept on the way
    renewing  -> leases, every third of their time; tells what was cancelled, or lost to another
    sweeping  -> what others left behind

A job that cannot be run now, because its model is away or the queue is full, is put off and loses
no attempt. When the server stops, inputs that are being answered are waited for; jobs that have not
ended by then go back to the queue with the parts they have.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from app.core.background import Background
from app.core.errors import ServingError, TryLater
from app.core.job_metrics import JobMetrics
from app.jobs.answering import Answering, PutOff
from app.jobs.held import Held, Stop
from app.jobs.owners import Owner
from app.jobs.plan import Planner
from app.jobs.status import Claimed, Ending, JobState, Problem
from app.jobs.store import CHUNK, JobStore
from app.jobs.watch import Watch

log = structlog.get_logger()

MOST_PER_CLAIM = 16  # their bodies are held in memory
POLL_S, RETRY_S = 1.0, 1.0
LEAST_DELAY_S, MOST_DELAY_S = 1.0, 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """inputs: most of all jobs that are with the service at a time."""

    inputs: int = 64
    lease_s: float = 15.0
    sweep_s: float = 5.0


class Runner:
    """`start`, `wake` after a submission, `stop`."""

    def __init__(
        self,
        store: JobStore,
        planner: Planner,
        owner: Owner,
        watch: Watch,
        metrics: JobMetrics,
        limits: RunnerLimits,
    ) -> None:
        self._store = store
        self._planner = planner
        self._owner = owner
        self._watch = watch
        self._metrics = metrics
        self._limits = limits
        self._room = asyncio.Semaphore(limits.inputs)
        self._held: dict[str, Held] = {}
        self._background = Background("jobs")
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._background.repeat(self.renew, self._limits.lease_s / 3)
        self._background.repeat(self.sweep, self._limits.sweep_s)
        # Whoever submits here or makes room wakes us; other servers do not.
        self._background.repeat(self._claim_all, POLL_S, self._wake)

    def wake(self) -> None:
        """There is something to claim."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop the job at once if it runs here."""
        if (held := self._held.get(job_id)) is not None:
            held.end(Stop.CANCELLED)

    def begin_stop(self) -> None:
        """Claim nothing more, begin no further input."""
        self._background.begin_stop()

    async def stop(self, grace_s: float) -> None:
        """Returns when nothing is held here any more, or cannot be given back.

        grace_s: from `begin_stop` on, for inputs that are being answered.
        """
        await self._background.stop(grace_s, self._leave)
        if not self._held:
            self._owner.close()

    def _leave(self) -> None:
        for held in self._held.values():
            held.end(Stop.LEAVING)

    async def renew(self) -> None:
        """All leases; stops what was cancelled or is lost."""
        fences = {job_id: held.job.fence for job_id, held in self._held.items()}
        if not fences:
            return
        told = await self._store.renew(fences, self._limits.lease_s)
        for why, job_ids in ((Stop.CANCELLED, told.cancelled), (Stop.LOST, told.lost)):
            for job_id in job_ids:
                held = self._held.get(job_id)
                if held is not None and held.job.fence == fences[job_id]:
                    held.end(why)

    async def sweep(self) -> None:
        """What dead servers of this machine held, leases that ran out, deadlines, old jobs."""
        for name in list(self._owner.dead()):
            count = await self._store.recover(name)
            self._owner.forget(name)
            log.info("jobs_recovered", owner=name, count=count)
            self._metrics.taken_back.inc(count)
            self._wake.set()
        while True:
            swept = await self._store.sweep()
            self._metrics.taken_back.inc(swept.returned)
            self._metrics.dead.inc(swept.dead)
            self._metrics.deleted.inc(swept.deleted)
            if swept.dead or swept.returned:
                log.warning("leases_ran_out", returned=swept.returned, dead=swept.dead)
                self._wake.set()
            if max(swept.returned, swept.dead, swept.expired, swept.deleted) < CHUNK:
                break
        depth = await self._store.depth()
        self._metrics.depth(depth.waiting, depth.oldest_s, depth.running)

    async def claim(self) -> int:
        """Begin as many jobs as there is room for, and return how many that were."""
        room = self._limits.inputs - len(self._held)
        if (
            room <= 0
            or self._room.locked()
            or self._background.is_leaving
            or not self._planner.can_run
        ):
            return 0
        count = min(room, MOST_PER_CLAIM)
        claimed = await self._store.claim(self._owner.name, count, self._limits.lease_s)
        self._metrics.claimed.inc(len(claimed))
        for job in claimed:
            held = self._held[job.id] = Held(job)
            self._background.begin(self._live(held))
            self._watch.changed(job.id)
        return len(claimed)

    async def _claim_all(self) -> None:
        while await self._store.has_due() and await self.claim():
            pass

    async def _live(self, held: Held) -> None:
        """One job from its claim to its end."""
        job = held.job
        answering = Answering(
            job,
            self._store,
            self._planner,
            self._room,
            may_begin=lambda: not self._background.is_leaving,
            on_progress=self._watch.changed,
        )
        try:
            work = asyncio.create_task(answering.run())
            held.work = work
            await asyncio.wait([work])
            await answering.save()
            await self._settle(held, _outcome(held, work))
        finally:
            if self._held.get(job.id) is held:
                del self._held[job.id]
            self._watch.changed(job.id)
            self._wake.set()

    async def _settle(self, held: Held, outcome: Ending | PutOff) -> None:
        job = held.job
        if held.stop is Stop.LOST:
            self._metrics.leases_lost.inc()
            log.warning("job_lease_lost", job=job.id)
        elif isinstance(outcome, Ending):
            await self._finish(job, outcome)
        elif outcome.why is None or self._background.is_leaving:
            self._metrics.given_back.inc()
            await self._insist(lambda: self._store.release({job.id: job.fence}))
        else:
            await self._put_off(job, outcome.why)

    async def _finish(self, job: Claimed, ending: Ending) -> None:
        if await self._insist(lambda: self._store.finish(job, ending)):
            self._metrics.ended.labels(ending.state.value).inc()
            code = ending.problem.code if ending.problem else None
            log.info(
                "job_ended",
                job=job.id,
                job_request_id=job.request_id,
                state=ending.state.value,
                error=code,
            )
        else:
            self._metrics.leases_lost.inc()
            log.warning("job_lease_lost", job=job.id)

    async def _put_off(self, job: Claimed, why: TryLater) -> None:
        """The longer it has waited, the longer it can wait for another try."""
        delay_s = max(LEAST_DELAY_S, why.retry_after_s or 0.0, job.waited_s / 4)
        delay_s = min(delay_s, MOST_DELAY_S) * random.uniform(0.8, 1.2)
        problem = Problem(why.code, str(why))
        self._metrics.put_off.inc()
        await self._insist(lambda: self._store.delay(job, delay_s, problem))

    async def _insist(self, change: Callable[[], Awaitable[T]]) -> T:
        """Until the database can be used again; the lease may be lost by then, which it tells."""
        while True:
            try:
                return await change()
            except TryLater:
                await asyncio.sleep(RETRY_S)


def _outcome(held: Held, work: "asyncio.Task[Ending | PutOff]") -> Ending | PutOff:
    if work.cancelled() or held.stop is not None and not work.exception():
        if held.stop is Stop.CANCELLED:
            return Ending(JobState.CANCELLED)
        return PutOff() if work.cancelled() else work.result()
    error = work.exception()
    if isinstance(error, TryLater):
        return PutOff(error)
    if error is not None:
        log.error("job_failed", job=held.job.id, exc_info=error)
        return Ending(JobState.FAILED, problem=Problem(ServingError.code, "The server failed."))
    return work.result()
