"""One job that is run: its inputs, as many at a time as there is room for, and what they became."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.core.errors import DeadlineExceeded, ServingError, StorageUnavailable, TryLater
from app.jobs.plan import Plan, Planner
from app.jobs.status import Claimed, Ending, JobState, Problem
from app.jobs.store import JobStore

log = structlog.get_logger()

PROGRESS_S = 0.5
LATE = Ending(
    JobState.EXPIRED,
    problem=Problem("deadline_exceeded", "The deadline passed before the job was done."),
)


@dataclass(frozen=True, slots=True)
class PutOff:
    """Not all inputs could be run now; None for `why`: because the server stops."""

    why: TryLater | None = None


class Answering:
    """`run` once. may_begin: asked before each input."""

    def __init__(
        self,
        job: Claimed,
        store: JobStore,
        planner: Planner,
        room: asyncio.Semaphore,
        *,
        may_begin: Callable[[], bool],
        on_progress: Callable[[str], None],
    ) -> None:
        self._job = job
        self._store = store
        self._planner = planner
        self._room = room
        self._may_begin = may_begin
        self._on_progress = on_progress
        self._parts: dict[int, bytes] = {}
        self._unkept: dict[int, bytes] = {}
        self._failed = job.failed
        self._later: TryLater | None = None
        self._is_late = False

    async def run(self) -> Ending | PutOff:
        """Raises StorageUnavailable where what was answered before cannot be read."""
        try:
            plan = self._planner.plan(self._job)
        except TryLater as later:
            return PutOff(later)
        except ServingError as error:
            return Ending(JobState.FAILED, problem=Problem(error.code, str(error)))
        if self._job.done:
            self._parts = await self._store.parts(self._job.id)
        try:
            async with asyncio.timeout(self._job.left_s):
                await self._answer(plan)
        except TimeoutError:
            return LATE
        if self._is_late:
            return LATE
        if len(self._parts) < plan.inputs:
            return PutOff(self._later)
        return plan.ending(self._parts)

    async def save(self) -> None:
        """Keep what was answered since the last time; raises nothing."""
        if not self._unkept or self._job.inputs == 1:
            return
        saving, self._unkept = self._unkept, {}
        try:
            done = len(self._parts)
            await self._store.note_parts(self._job, saving, done=done, failed=self._failed)
        except StorageUnavailable:
            self._unkept = saving | self._unkept
            return
        self._on_progress(self._job.id)

    async def _answer(self, plan: Plan) -> None:
        ends = asyncio.get_running_loop().time() + self._job.left_s
        saving = asyncio.create_task(self._keep_saving())
        try:
            missing = (at for at in range(plan.inputs) if at not in self._parts)
            await asyncio.gather(*(self._one(plan, at, ends) for at in missing))
        finally:
            saving.cancel()
            await asyncio.wait([saving])

    async def _one(self, plan: Plan, position: int, ends: float) -> None:
        async with self._room:
            left_s = ends - asyncio.get_running_loop().time()
            if self._is_late or not self._may_begin():
                return
            try:
                part = await plan.run(position, left_s)
            except TryLater as later:
                self._later = later
                return
            except DeadlineExceeded:
                self._is_late = True
                return
        self._failed += part.is_failure
        self._parts[position] = self._unkept[position] = part.body

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            await self.save()
