"""Statements on the queue: out under a lease, and back. Each function runs in a transaction."""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from app.core.types import Priority
from app.jobs.order import Turns, Waiting
from app.jobs.status import Claimed, Ending, JobState, Problem, Renewed
from app.jobs.store import CHUNK
from app.jobs.tables import JOBS, PARTS, REQUESTS, RESULTS, WEBHOOKS


def is_in(*states: JobState) -> Any:
    """The condition as the partial indexes have it."""
    names: list[Any] = [literal_column(f"'{state}'") for state in states]
    return JOBS.c.state == names[0] if len(names) == 1 else JOBS.c.state.in_(names)


IS_QUEUED, IS_RUNNING = is_in(JobState.QUEUED), is_in(JobState.RUNNING)
IS_HELD = (JOBS.c.id == bindparam("job")) & (JOBS.c.fence == bindparam("held")) & IS_RUNNING
NOT_LEASED: dict[str, Any] = {"owner": None, "lease_until": None}

OF_CLASS = JOBS.c.priority == bindparam("class")

LINE = (
    select(JOBS.c.id, JOBS.c.submitted_at)
    .where(IS_QUEUED, OF_CLASS)
    .order_by(JOBS.c.tag, JOBS.c.id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)
)
_IS_CHOSEN = JOBS.c.id.in_(bindparam("chosen", expanding=True))
_LEASE = (
    update(JOBS)
    .where(_IS_CHOSEN)
    .values(
        state=JobState.RUNNING.value,
        owner=bindparam("who"),
        lease_until=bindparam("until"),
        attempts=JOBS.c.attempts + 1,
        fence=JOBS.c.fence + 1,
        started_at=func.coalesce(JOBS.c.started_at, bindparam("at")),
    )
    .returning(
        JOBS.c.id,
        JOBS.c.fence,
        JOBS.c.attempts,
        JOBS.c.caller,
        JOBS.c.priority,
        JOBS.c.endpoint,
        JOBS.c.inputs,
        JOBS.c.done,
        JOBS.c.failed,
        JOBS.c.submitted_at,
        JOBS.c.deadline_at,
        JOBS.c.request_id,
    )
)
_BODIES = select(REQUESTS.c.job_id, REQUESTS.c.body).where(
    REQUESTS.c.job_id.in_(bindparam("chosen", expanding=True))
)


def claim(
    connection: Connection, turns: Turns, owner: str, count: int, lease_s: float, now: float
) -> list[Claimed]:
    """In the order of their turns."""
    wake_delayed(connection, now)
    lines: dict[Priority, list[Waiting]] = {}
    for priority in Priority:
        found = connection.execute(LINE, {"class": int(priority), "count": count})
        lines[priority] = [Waiting(*row) for row in found]
    chosen = turns.choose(lines, count, now)
    if not chosen:
        return []
    place = {job_id: at for at, job_id in enumerate(chosen)}
    bodies = {row.job_id: row.body for row in connection.execute(_BODIES, {"chosen": chosen})}
    leased = connection.execute(
        _LEASE, {"chosen": chosen, "who": owner, "until": now + lease_s, "at": now}
    )
    claimed = [_claimed(row, bodies[row.id], now) for row in leased]
    return sorted(claimed, key=lambda job: place[job.id])


def _claimed(row: Any, body: bytes, now: float) -> Claimed:
    return Claimed(
        id=row.id,
        fence=row.fence,
        attempts=row.attempts,
        caller=row.caller,
        priority=Priority(row.priority),
        endpoint=row.endpoint,
        request=bytes(body),
        inputs=row.inputs,
        done=row.done,
        failed=row.failed,
        waited_s=max(0.0, now - row.submitted_at),
        left_s=row.deadline_at - now,
        request_id=row.request_id,
    )


_IS_DUE = is_in(JobState.DELAYED) & (JOBS.c.run_at <= bindparam("at"))
_DUE = (
    select(JOBS.c.id)
    .where(_IS_DUE)
    .order_by(JOBS.c.run_at)
    .limit(CHUNK)
    .with_for_update(skip_locked=True)
)
_WAKE = update(JOBS).where(_IS_CHOSEN).values(state=JobState.QUEUED.value, run_at=None)


def wake_delayed(connection: Connection, now: float) -> None:
    due = list(connection.execute(_DUE, {"at": now}).scalars())
    if due:
        connection.execute(_WAKE, {"chosen": due})


FIRST_DUE = [select(JOBS.c.id).where(each).limit(1) for each in (IS_QUEUED, _IS_DUE)]


def has_due(connection: Connection, now: float) -> bool:
    return any(connection.scalar(query, {"at": now}) is not None for query in FIRST_DUE)


_RENEW = (
    update(JOBS)
    .where(_IS_CHOSEN, IS_RUNNING)
    .values(lease_until=bindparam("until"))
    .returning(JOBS.c.id, JOBS.c.fence, JOBS.c.cancel)
)


def renew(connection: Connection, held: Mapping[str, int], lease_s: float, now: float) -> Renewed:
    """Another holder's lease, if the fence has moved, is lengthened once: he renews it anyway."""
    if not held:
        return Renewed(frozenset(), frozenset())
    rows = connection.execute(_RENEW, {"chosen": list(held), "until": now + lease_s}).all()
    ours = [row for row in rows if row.fence == held[row.id]]
    return Renewed(
        frozenset(held) - {row.id for row in ours}, frozenset(row.id for row in ours if row.cancel)
    )


_PROGRESS = update(JOBS).where(IS_HELD).values(done=bindparam("count"), failed=bindparam("bad"))


def note_parts(
    connection: Connection, job: Claimed, parts: Mapping[int, bytes], *, done: int, failed: int
) -> bool:
    changed = {"job": job.id, "held": job.fence, "count": done, "bad": failed}
    if not connection.execute(_PROGRESS, changed).rowcount:
        return False
    if parts:
        again = PARTS.c.position.in_(list(parts))  # after a first time of which nobody knows
        connection.execute(delete(PARTS).where(PARTS.c.job_id == job.id, again))
        connection.execute(
            insert(PARTS),
            [{"job_id": job.id, "position": at, "body": body} for at, body in parts.items()],
        )
    return True


_END = (
    update(JOBS)
    .where(IS_HELD)
    .values(
        **NOT_LEASED,
        state=bindparam("end"),
        finished_at=bindparam("at"),
        expires_at=bindparam("until"),
        error_code=bindparam("code"),
        error_message=bindparam("message"),
        done=case((bindparam("whole"), JOBS.c.inputs), else_=JOBS.c.done),
    )
    .returning(JOBS.c.has_webhook)
)
_DROP_PARTS = PARTS.delete().where(PARTS.c.job_id == bindparam("job"))
_ADD_RESULT = insert(RESULTS)
_TELL = (
    update(WEBHOOKS).where(WEBHOOKS.c.job_id == bindparam("job")).values(next_at=bindparam("at"))
)


def finish(
    connection: Connection,
    job: Claimed,
    ending: Ending,
    *,
    now: float,
    keep_s: float,
    in_file: bool,
) -> bool:
    """in_file: the result is not kept here, only what tells it from another."""
    problem = ending.problem or Problem("", "")
    changed = {
        "job": job.id,
        "held": job.fence,
        "end": ending.state.value,
        "at": now,
        "until": now + keep_s,
        "code": problem.code or None,
        "message": problem.message or None,
        "whole": ending.state is JobState.SUCCEEDED,
    }
    ended = connection.execute(_END, changed).one_or_none()
    if ended is None:
        return False
    if job.inputs > 1:
        connection.execute(_DROP_PARTS, {"job": job.id})
    if ending.result is not None:
        row = {
            "job_id": job.id,
            "fence": job.fence,
            "size": len(ending.result),
            "sha256": hashlib.sha256(ending.result).digest(),
            "body": None if in_file else ending.result,
        }
        connection.execute(_ADD_RESULT, row)
    if ended.has_webhook:
        connection.execute(_TELL, {"job": job.id, "at": now})
    return True


_RELEASE = (
    update(JOBS)
    .where(IS_HELD)
    .values(**NOT_LEASED, state=JobState.QUEUED.value, attempts=JOBS.c.attempts - 1)
)
_DELAY = _RELEASE.values(
    state=JobState.DELAYED.value,
    run_at=bindparam("at"),
    error_code=bindparam("code"),
    error_message=bindparam("message"),
)


def release(connection: Connection, held: Mapping[str, int]) -> int:
    return sum(
        connection.execute(_RELEASE, {"job": job_id, "held": fence}).rowcount
        for job_id, fence in held.items()
    )


def delay(connection: Connection, job: Claimed, run_at: float, why: Problem) -> bool:
    changed = {"job": job.id, "held": job.fence, "at": run_at}
    told = {"code": why.code, "message": why.message}
    return bool(connection.execute(_DELAY, {**changed, **told}).rowcount)
