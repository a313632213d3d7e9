"""Statements on many jobs at once: what nobody works on, is too late, or was kept long enough."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, select, update

from app.jobs.sql_queue import IS_RUNNING, NOT_LEASED, is_in
from app.jobs.status import JobState, Swept
from app.jobs.store import CHUNK, Limits
from app.jobs.tables import JOBS, ONCE, RESULTS, WEBHOOKS

DEAD = ("dead_letter", "The server that ran it ended {} times; it is not tried again.")
LATE = ("deadline_exceeded", "The deadline passed before the job was done.")


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted. files: results kept in files, each by job and fence."""

    jobs: int
    files: list[tuple[str, int]]


def sweep(connection: Connection, now: float, limits: Limits) -> tuple[Swept, Deleted]:
    returned, dead = take_back(connection, JOBS.c.lease_until < now, now, limits)
    expired = _expire(connection, now, limits)
    deleted = _delete(connection, now)
    return Swept(returned, dead, expired, deleted.jobs), deleted


def take_back(
    connection: Connection, condition: ColumnElement[bool], now: float, limits: Limits
) -> tuple[int, int]:
    """Running jobs of which `condition` says that nobody works on them: to the queue, or failed.

    Returns how many of each; one that was to be cancelled is, and counts with the first.
    """
    gone = _chosen(connection, IS_RUNNING & condition)
    if not gone:
        return 0, 0
    is_out = JOBS.c.attempts >= limits.max_attempts
    code, words = DEAD
    cancelled = _end(
        connection, JOBS.c.id.in_(gone) & JOBS.c.cancel, JobState.CANCELLED, now, limits
    )
    dead = _end(
        connection,
        JOBS.c.id.in_(gone) & IS_RUNNING & is_out,
        JobState.FAILED,
        now,
        limits,
        (code, words.format(limits.max_attempts)),
    )
    back = update(JOBS).where(JOBS.c.id.in_(gone), IS_RUNNING)
    returned = connection.execute(back.values(**NOT_LEASED, state=JobState.QUEUED.value)).rowcount
    return cancelled + returned, dead


def cancel(connection: Connection, caller: str, job_id: str, now: float, limits: Limits) -> None:
    """At once where nobody runs it; else its holder is told when he renews his lease."""
    own = (JOBS.c.id == job_id) & (JOBS.c.caller == caller)
    waits = is_in(JobState.QUEUED, JobState.DELAYED)
    if not _end(connection, own & waits, JobState.CANCELLED, now, limits):
        connection.execute(update(JOBS).where(own, IS_RUNNING).values(cancel=True))


def _expire(connection: Connection, now: float, limits: Limits) -> int:
    waits = is_in(JobState.QUEUED, JobState.DELAYED)
    late = _chosen(connection, waits & (JOBS.c.deadline_at <= now))
    if not late:
        return 0
    return _end(connection, JOBS.c.id.in_(late), JobState.EXPIRED, now, limits, LATE)


def _chosen(connection: Connection, condition: ColumnElement[bool]) -> list[str]:
    query = select(JOBS.c.id).where(condition).limit(CHUNK).with_for_update(skip_locked=True)
    return list(connection.execute(query).scalars())


def _end(
    connection: Connection,
    condition: ColumnElement[bool],
    state: JobState,
    now: float,
    limits: Limits,
    why: tuple[str, str] | None = None,
) -> int:
    """Of a job that had been put off, the reason stays beside why it has ended."""
    values: dict[str, Any] = {
        **NOT_LEASED,
        "state": state.value,
        "finished_at": now,
        "expires_at": now + limits.keep_s,
        "run_at": None,
        "error_code": why[0] if why else None,
        "error_message": _with_reason(why[1]) if why else None,
    }
    ended = update(JOBS).where(condition).values(**values).returning(JOBS.c.id, JOBS.c.has_webhook)
    rows = connection.execute(ended).all()
    told = [row.id for row in rows if row.has_webhook]
    if told:
        connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.job_id.in_(told)).values(next_at=now))
    return len(rows)


def _with_reason(words: str) -> Any:
    last = words + " It had been put off: " + JOBS.c.error_message
    return case((JOBS.c.error_message.is_(None), words), else_=last)


def _delete(connection: Connection, now: float) -> Deleted:
    connection.execute(
        delete(ONCE).where(
            ONCE.c.key.in_(select(ONCE.c.key).where(ONCE.c.expires_at <= now).limit(CHUNK)),
            ONCE.c.expires_at <= now,
        )
    )
    old = list(
        connection.execute(select(JOBS.c.id).where(JOBS.c.expires_at <= now).limit(CHUNK)).scalars()
    )
    if not old:
        return Deleted(0, [])
    in_files = select(RESULTS.c.job_id, RESULTS.c.fence).where(
        RESULTS.c.job_id.in_(old), RESULTS.c.body.is_(None)
    )
    files = [(row.job_id, row.fence) for row in connection.execute(in_files)]
    connection.execute(delete(JOBS).where(JOBS.c.id.in_(old)))
    return Deleted(len(old), files)
