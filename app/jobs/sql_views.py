"""Statements that only read."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from app.core.types import Priority
from app.jobs.sql_queue import IS_QUEUED, IS_RUNNING, is_in
from app.jobs.status import Depth, JobState, JobView, Problem
from app.jobs.store import Page
from app.jobs.tables import JOBS, PARTS, RESULTS

_VIEW = select(JOBS, RESULTS.c.size).select_from(
    JOBS.outerjoin(RESULTS, RESULTS.c.job_id == JOBS.c.id)
)
_ONE = _VIEW.where(JOBS.c.id == bindparam("job"), JOBS.c.caller == bindparam("who"))


def get(connection: Connection, caller: str, job_id: str) -> JobView | None:
    row = connection.execute(_ONE, {"job": job_id, "who": caller}).one_or_none()
    return None if row is None else _view(row)


def page(connection: Connection, wanted: Page) -> list[JobView]:
    query = _VIEW.where(JOBS.c.caller == wanted.caller)
    if wanted.state is not None:
        query = query.where(is_in(*(each for each in JobState if each.shown is wanted.state)))
    if wanted.model is not None:
        query = query.where(JOBS.c.model == wanted.model)
    if wanted.before is not None:
        query = query.where(JOBS.c.id < wanted.before)
    return [
        _view(row)
        for row in connection.execute(query.order_by(JOBS.c.id.desc()).limit(wanted.limit))
    ]


def _view(row: Any) -> JobView:
    problem = Problem(row.error_code, row.error_message or "") if row.error_code else None
    return JobView(
        id=row.id,
        caller=row.caller,
        state=JobState(row.state),
        endpoint=row.endpoint,
        model=row.model,
        priority=Priority(row.priority),
        inputs=row.inputs,
        done=row.done,
        failed=row.failed,
        attempts=row.attempts,
        is_cancelling=row.cancel,
        problem=problem,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        run_at=row.run_at,
        deadline_at=row.deadline_at,
        expires_at=row.expires_at,
        result_bytes=row.size,
        request_id=row.request_id,
    )


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[JobState, int]]:
    query = select(JOBS.c.id, JOBS.c.state, JOBS.c.done).where(JOBS.c.id.in_(job_ids))
    return {row.id: (JobState(row.state), row.done) for row in connection.execute(query)}


def parts(connection: Connection, job_id: str) -> dict[int, bytes]:
    query = select(PARTS.c.position, PARTS.c.body).where(PARTS.c.job_id == job_id)
    return {row.position: bytes(row.body) for row in connection.execute(query)}


def result(connection: Connection, job_id: str) -> Any | None:
    """The row of `job_results`."""
    return connection.execute(select(RESULTS).where(RESULTS.c.job_id == job_id)).one_or_none()


_WAITING = select(JOBS.c.priority, func.count()).where(IS_QUEUED).group_by(JOBS.c.priority)
_FIRST = (
    select(JOBS.c.submitted_at)
    .where(IS_QUEUED, JOBS.c.priority == bindparam("class"))
    .order_by(JOBS.c.tag)
    .limit(1)
)


def depth(connection: Connection, now: float) -> Depth:
    """oldest_s: of the one whose turn is next, which is nearly always the oldest."""
    waiting = {Priority(at): count for at, count in connection.execute(_WAITING)}
    since = {each: connection.scalar(_FIRST, {"class": int(each)}) for each in waiting}
    oldest = {each: max(0.0, now - at) for each, at in since.items() if at is not None}
    running = connection.scalar(select(func.count()).select_from(JOBS).where(IS_RUNNING)) or 0
    return Depth(waiting, oldest, running)
