"""The store of jobs in SQL: which statements share a transaction, and by whose clock.

Leases are judged by one clock for all who share the queue: the database's on PostgreSQL; on SQLite,
whose writers share a machine, the machine's, made steady so that setting it ends no lease.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from app.core.disk import RETRY_S, words_for
from app.core.errors import InvariantBroken, StorageUnavailable
from app.jobs import sql_once, sql_queue, sql_submissions, sql_sweeps, sql_views
from app.jobs.files import ResultFiles
from app.jobs.order import Turns
from app.jobs.status import (
    Claimed,
    Depth,
    Ending,
    JobState,
    JobView,
    NewJob,
    OnceKey,
    Problem,
    Renewed,
    Swept,
)
from app.jobs.store import CHUNK, Limits, Page
from app.jobs.tables import JOBS, RESULTS
from app.storage.database import Database

log = structlog.get_logger()

FILE_ABOVE_BYTES = 64 * 2**10

Clock = Callable[[Connection], float]
"""Unix seconds, by the connection's database or without it."""


def steady_clock() -> Clock:
    """The machine's time at the start, and from then on what has passed."""
    started = time.time() - time.monotonic()
    return lambda _: started + time.monotonic()


def database_clock(connection: Connection) -> float:
    """PostgreSQL's, of this moment and not of the transaction's begin."""
    now = select(func.extract("epoch", func.clock_timestamp()))
    return float(connection.scalar(now) or 0.0)


def clock_of(database: Database) -> Clock:
    return database_clock if database.is_postgres else steady_clock()


class SqlJobStore:
    """files: None where results stay in the database, as where several servers share it."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        *,
        files: ResultFiles | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._limits = limits
        self._files = files
        self._turns = Turns()
        self._now = clock or clock_of(database)

    async def submit(self, jobs: Sequence[NewJob], once: OnceKey | None = None) -> list[str]:
        try:
            return await self._database.write(lambda c: self._submit(c, jobs, once))
        except IntegrityError:  # another server has just taken the same key
            return await self._database.write(lambda c: self._submit(c, jobs, once))

    def _submit(
        self, connection: Connection, jobs: Sequence[NewJob], once: OnceKey | None
    ) -> list[str]:
        now = self._now(connection)
        if once is not None:
            (job,) = jobs
            before = sql_once.found(connection, once, now)
            if before is not None:
                return [str(before.job_id)]
            until = now + self._limits.once_s
            sql_once.hold(connection, once, until=until, job_id=job.id)
        for at in range(0, len(jobs), CHUNK):
            sql_submissions.add(connection, jobs[at : at + CHUNK], now)
        return [job.id for job in jobs]

    async def claim(self, owner: str, count: int, lease_s: float) -> list[Claimed]:
        return await self._database.write(
            lambda c: sql_queue.claim(c, self._turns, owner, count, lease_s, self._now(c))
        )

    async def renew(self, held: Mapping[str, int], lease_s: float) -> Renewed:
        return await self._database.write(lambda c: sql_queue.renew(c, held, lease_s, self._now(c)))

    async def note_parts(
        self, job: Claimed, parts: Mapping[int, bytes], *, done: int, failed: int
    ) -> bool:
        return await self._database.write(
            lambda c: sql_queue.note_parts(c, job, parts, done=done, failed=failed)
        )

    async def parts(self, job_id: str) -> dict[int, bytes]:
        return await self._database.read(lambda c: sql_views.parts(c, job_id))

    async def finish(self, job: Claimed, ending: Ending) -> bool:
        files, body = self._files, ending.result
        if files is None or body is None or len(body) <= FILE_ABOVE_BYTES:
            return await self._finish(job, ending, in_file=False)
        try:
            await asyncio.to_thread(files.write, job.id, job.fence, body)
        except OSError as error:
            raise _not_kept(error) from error
        is_ours = await self._finish(job, ending, in_file=True)
        if not is_ours:
            await self._delete_unless_kept(files, (job.id, job.fence))
        return is_ours

    async def _finish(self, job: Claimed, ending: Ending, *, in_file: bool) -> bool:
        return await self._database.write(
            lambda c: sql_queue.finish(
                c, job, ending, now=self._now(c), keep_s=self._limits.keep_s, in_file=in_file
            )
        )

    async def release(self, held: Mapping[str, int]) -> int:
        return await self._database.write(lambda c: sql_queue.release(c, held))

    async def delay(self, job: Claimed, delay_s: float, why: Problem) -> bool:
        return await self._database.write(
            lambda c: sql_queue.delay(c, job, self._now(c) + delay_s, why)
        )

    async def cancel(self, caller: str, job_id: str) -> JobView | None:
        return await self._database.write(lambda c: self._cancel(c, caller, job_id))

    def _cancel(self, connection: Connection, caller: str, job_id: str) -> JobView | None:
        now = self._now(connection)
        sql_sweeps.cancel(connection, caller, job_id, now, self._limits)
        return sql_views.get(connection, caller, job_id)

    async def get(self, caller: str, job_id: str) -> JobView | None:
        return await self._database.read(lambda c: sql_views.get(c, caller, job_id))

    async def states(self, job_ids: Sequence[str]) -> dict[str, tuple[JobState, int]]:
        return await self._database.read(lambda c: sql_views.states(c, job_ids))

    async def page(self, page: Page) -> list[JobView]:
        return await self._database.read(lambda c: sql_views.page(c, page))

    async def result(self, job_id: str) -> bytes | None:
        row = await self._database.read(lambda c: sql_views.result(c, job_id))
        if row is None or row.body is not None:
            return None if row is None else bytes(row.body)
        if self._files is None:
            raise StorageUnavailable("the result is in a file of another server")
        try:
            body = await asyncio.to_thread(self._files.read, job_id, row.fence)
        except OSError as error:
            raise _not_kept(error) from error
        if hashlib.sha256(body).digest() != bytes(row.sha256):
            raise InvariantBroken(f"the file with the result of {job_id} is damaged")
        return body

    async def sweep(self) -> Swept:
        swept, deleted = await self._database.write(
            lambda c: sql_sweeps.sweep(c, self._now(c), self._limits)
        )
        files = self._files
        if files is not None and deleted.files:
            await asyncio.to_thread(files.delete_all, deleted.files)
        return swept

    async def recover(self, owner: str) -> int:
        return await self._database.write(lambda c: self._recover(c, owner))

    def _recover(self, connection: Connection, owner: str) -> int:
        now = self._now(connection)
        sql_once.forget_held(connection, owner)
        total = 0
        while sum(
            moved := sql_sweeps.take_back(connection, JOBS.c.owner == owner, now, self._limits)
        ):
            total += sum(moved)
        return total

    async def has_due(self) -> bool:
        return await self._database.read(lambda c: sql_queue.has_due(c, self._now(c)))

    async def depth(self) -> Depth:
        return await self._database.read(lambda c: sql_views.depth(c, self._now(c)))

    async def delete_strays(self) -> int:
        """Files of results that were never noted, because their server ended before. For a start,
        while no job is being finished here."""
        if self._files is None:
            return 0
        files = self._files
        found = await asyncio.to_thread(lambda: list(files.found()))
        strays = 0
        for at in range(0, len(found), CHUNK):
            some = found[at : at + CHUNK]
            gone = set(some) - await self._kept(some)
            await asyncio.to_thread(files.delete_all, gone)
            strays += len(gone)
        return strays

    async def _delete_unless_kept(self, files: ResultFiles, named: tuple[str, int]) -> None:
        """It may have been noted by an attempt whose success nobody was told of."""
        if not await self._kept([named]):
            await asyncio.to_thread(files.delete_all, [named])

    async def _kept(self, some: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        return await self._database.read(lambda c: _kept(c, some))


def _kept(connection: Connection, some: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    query = select(RESULTS.c.job_id, RESULTS.c.fence).where(
        RESULTS.c.job_id.in_([job_id for job_id, _ in some])
    )
    return {(row.job_id, row.fence) for row in connection.execute(query)}


def _not_kept(error: OSError) -> StorageUnavailable:
    log.error("result_file_failed", error=type(error).__name__, reason=error.strerror)
    return StorageUnavailable(words_for(error), retry_after_s=RETRY_S)
