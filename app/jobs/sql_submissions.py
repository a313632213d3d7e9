"""Statements that put jobs into the queue, each at its place. They run in a transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select

from app.core.types import Priority
from app.jobs.sql_queue import IS_QUEUED, IS_RUNNING, OF_CLASS
from app.jobs.status import JobState, NewJob
from app.jobs.tables import JOBS, REQUESTS, WEBHOOKS

_REACHED = func.coalesce(
    select(func.max(JOBS.c.tag)).where(IS_RUNNING, OF_CLASS).scalar_subquery(),
    select(func.min(JOBS.c.tag)).where(IS_QUEUED, OF_CLASS).scalar_subquery(),
    0,
)
_OWN_END = (
    select(JOBS.c.tag + JOBS.c.inputs)
    .where(IS_QUEUED, OF_CLASS, JOBS.c.caller == bindparam("who"))
    .order_by(JOBS.c.tag.desc())
    .limit(1)
    .scalar_subquery()
)
_NEXT_TAG = select(_REACHED, func.coalesce(_OWN_END, 0))
_ADD_JOBS, _ADD_REQUESTS, _ADD_WEBHOOK = insert(JOBS), insert(REQUESTS), insert(WEBHOOKS)


def add(connection: Connection, jobs: Sequence[NewJob], now: float) -> None:
    """Each caller's jobs one behind the other."""
    ends: dict[tuple[str, Priority], int] = {}
    rows: list[dict[str, Any]] = []
    for job in jobs:
        line = job.caller, job.priority
        if line not in ends:
            reached, own = connection.execute(
                _NEXT_TAG, {"class": int(job.priority), "who": job.caller}
            ).one()
            ends[line] = max(reached, own)
        rows.append(_row(job, ends[line], now))
        ends[line] += job.inputs
    connection.execute(_ADD_JOBS, rows)
    connection.execute(_ADD_REQUESTS, [{"job_id": job.id, "body": job.request} for job in jobs])
    hooks = [
        {"job_id": job.id, "url": job.webhook.url, "secret": job.webhook.secret, "attempts": 0}
        for job in jobs
        if job.webhook is not None
    ]
    if hooks:
        connection.execute(_ADD_WEBHOOK, hooks)


def _row(job: NewJob, tag: int, now: float) -> dict[str, Any]:
    return {
        "id": job.id,
        "caller": job.caller,
        "request_id": job.request_id,
        "endpoint": job.endpoint,
        "model": job.model,
        "priority": int(job.priority),
        "inputs": job.inputs,
        "done": 0,
        "failed": 0,
        "state": JobState.QUEUED.value,
        "tag": tag,
        "attempts": 0,
        "fence": 0,
        "cancel": False,
        "submitted_at": now,
        "deadline_at": now + job.timeout_s,
        "has_webhook": job.webhook is not None,
    }
