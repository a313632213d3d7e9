"""Jobs as their callers see them: submitted, looked at, waited for, cancelled.

What runs them is jobs/runner.py, here or on another server that shares the database; news of those
that run elsewhere are looked for once a second.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from app.core.errors import JobNotFound, StorageUnavailable
from app.core.job_metrics import JobMetrics
from app.jobs.notifier import Notifier
from app.jobs.runner import Runner
from app.jobs.status import JobState, JobView, NewJob, OnceKey
from app.jobs.store import JobStore, Page
from app.jobs.watch import Watch

LOOK_S = 1.0


class JobService:
    """`start` in the event loop; `stop` before the services that jobs are run by."""

    def __init__(
        self,
        store: JobStore,
        runner: Runner,
        watch: Watch,
        metrics: JobMetrics,
        notifier: Notifier | None = None,
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._runner = runner
        self._watch = watch
        self._metrics = metrics
        self._looking: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        self._runner.start()
        self._looking = asyncio.create_task(self._look())
        if self._notifier is not None:
            self._notifier.start()

    def begin_stop(self) -> None:
        """Nothing new is taken; who waits is told how things are."""
        self._is_stopping = True
        self._runner.begin_stop()
        for job_id in self._watch.job_ids:
            self._watch.changed(job_id)

    async def stop(self, grace_s: float) -> None:
        self.begin_stop()
        if self._looking is not None:
            self._looking.cancel()
        await self._runner.stop(grace_s)
        if self._notifier is not None:
            await self._notifier.stop()

    async def submit(self, job: NewJob, once: OnceKey | None = None) -> tuple[JobView, bool]:
        """The job, kept, and whether it is new: with `once` it may have been there before.

        Raises IdempotencyKeyReused, StorageUnavailable.
        """
        if self._is_stopping:
            raise StorageUnavailable("the server is stopping; ask another", retry_after_s=5.0)
        (job_id,) = await self._store.submit([job], once)
        is_new = job_id == job.id
        if is_new:
            self._metrics.submitted.inc()
            self._runner.wake()
        return await self.get(job.caller, job_id), is_new

    async def get(self, caller: str, job_id: str) -> JobView:
        """Raises JobNotFound."""
        return _found(await self._store.get(caller, job_id))

    async def wait(self, caller: str, job_id: str, seconds: float) -> JobView:
        """The job once it has ended, or as it is after so long. Raises JobNotFound."""
        with self._watch.on(job_id) as news:
            view = await self.get(caller, job_id)
            try:
                async with asyncio.timeout(seconds):
                    while not view.state.is_final and not self._is_stopping:
                        await news.wait()
                        news.clear()
                        view = await self.get(caller, job_id)
            except TimeoutError:
                pass
        return view

    async def changes(self, caller: str, job_id: str) -> AsyncGenerator[JobView, None]:
        """The job now, after each change, and last when it has ended. Raises JobNotFound."""
        with self._watch.on(job_id) as news:
            told: JobView | None = None
            while told is None or not told.state.is_final:
                view = await self.get(caller, job_id)
                if view != told:
                    yield view
                told = view
                if self._is_stopping:
                    return
                if not view.state.is_final:
                    await news.wait()
                    news.clear()

    async def result(self, view: JobView) -> bytes | None:
        """JSON, of a job that succeeded."""
        if view.state is not JobState.SUCCEEDED:
            return None
        return await self._store.result(view.id)

    async def cancel(self, caller: str, job_id: str) -> JobView:
        """A job that waits has ended then; one that runs is stopped. Raises JobNotFound."""
        view = _found(await self._store.cancel(caller, job_id))
        if view.state is JobState.RUNNING:
            self._runner.cancel(job_id)
        self._watch.changed(job_id)
        return view

    async def page(self, page: Page) -> Sequence[JobView]:
        return await self._store.page(page)

    async def _look(self) -> None:
        seen: dict[str, tuple[JobState, int]] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            if not (job_ids := self._watch.job_ids):
                continue
            try:
                now = await self._store.states(job_ids)
            except StorageUnavailable:
                continue
            for job_id in job_ids:
                if now.get(job_id) != seen.get(job_id):
                    self._watch.changed(job_id)
            seen = now


def _found(view: JobView | None) -> JobView:
    if view is None:
        raise JobNotFound
    return view
