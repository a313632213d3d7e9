"""Statements on keys of requests that are to have effect once."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from app.core.errors import IdempotencyKeyReused, StillRunning
from app.jobs.status import OnceKey
from app.jobs.tables import ONCE


@dataclass(frozen=True, slots=True)
class Before:
    """What became of an earlier request with the key."""

    job_id: str | None
    body: bytes | None


def _is(once: OnceKey) -> ColumnElement[bool]:
    return (ONCE.c.caller == once.caller) & (ONCE.c.route == once.route) & (ONCE.c.key == once.key)


def found(connection: Connection, once: OnceKey, now: float) -> Before | None:
    """None where the request is the first. Raises IdempotencyKeyReused, StillRunning."""
    row = connection.execute(select(ONCE).where(_is(once))).one_or_none()
    if row is None or row.expires_at <= now:
        return None
    if bytes(row.digest) != once.digest:
        raise IdempotencyKeyReused
    if row.job_id is None and row.body is None:
        if row.held_until <= now:
            return None
        raise StillRunning
    return Before(row.job_id, None if row.body is None else bytes(row.body))


def hold(
    connection: Connection,
    once: OnceKey,
    *,
    until: float,
    job_id: str | None = None,
    owner: str | None = None,
    held_until: float | None = None,
) -> None:
    """Note the key as used: for a job, or by `owner` for an answer that is being made."""
    connection.execute(delete(ONCE).where(_is(once)))
    connection.execute(
        insert(ONCE).values(
            caller=once.caller,
            route=once.route,
            key=once.key,
            digest=once.digest,
            job_id=job_id,
            owner=owner,
            held_until=held_until,
            expires_at=until,
        )
    )


def settle(connection: Connection, once: OnceKey, owner: str, body: bytes | None) -> None:
    """Keep the answer; None: forget the key, because there is none."""
    ours = _is(once) & (ONCE.c.owner == owner)
    if body is None:
        connection.execute(delete(ONCE).where(ours))
    else:
        connection.execute(update(ONCE).where(ours).values(body=body))


def forget_held(connection: Connection, owner: str) -> None:
    """Of an owner that has ended."""
    connection.execute(delete(ONCE).where(ONCE.c.owner == owner, ONCE.c.body.is_(None)))
