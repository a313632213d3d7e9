"""A store of jobs whose time a test moves, and jobs to put into it."""

from typing import Any

from sqlalchemy import Connection

from app.jobs.files import ResultFiles
from app.jobs.sql import SqlJobStore
from app.jobs.status import Claimed, Ending, JobState, JobView, NewJob
from app.jobs.store import Limits
from app.storage.database import Database

OWNER, OTHER, LEASE_S = "one", "other", 15.0
LIMITS = Limits(max_attempts=3, keep_s=100.0, once_s=50.0)
DONE = Ending(JobState.SUCCEEDED, b'{"success":true}')


class HandClock:
    """Unix seconds that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self, connection: Connection) -> float:
        return self.now


class Bench(SqlJobStore):
    """The store, with its clock in reach and short words for what tests do all the time."""

    def __init__(self, database: Database, files: ResultFiles | None = None) -> None:
        self.time = HandClock()
        super().__init__(database, LIMITS, files=files, clock=self.time)

    async def add(self, count: int = 1, **fields: Any) -> list[str]:
        return await self.submit([a_job(**fields) for _ in range(count)])

    async def take(self, count: int = 1, owner: str = OWNER) -> list[Claimed]:
        return await self.claim(owner, count, LEASE_S)

    async def begun(self, **fields: Any) -> Claimed:
        """One job, running."""
        await self.add(**fields)
        (job,) = await self.take()
        return job

    async def view(self, job_id: str, caller: str = "me") -> JobView:
        found = await self.get(caller, job_id)
        assert found is not None
        return found

    async def state(self, job_id: str) -> JobState:
        return (await self.states([job_id]))[job_id][0]


def a_job(**fields: Any) -> NewJob:
    usual: dict[str, Any] = {
        "caller": "me",
        "endpoint": "/infer",
        "request": b"{}",
        "timeout_s": 1000.0,
    }
    return NewJob(**usual | fields)
