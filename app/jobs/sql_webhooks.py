"""Statements on webhooks that are due: taken for a while, told, or put off."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select, update

from app.jobs import sql_views
from app.jobs.sql import Clock
from app.jobs.status import JobView
from app.jobs.tables import JOBS, WEBHOOKS
from app.storage.database import Database


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try to tell of a job's end. attempts: this one included."""

    view: JobView
    url: str
    secret: str = field(repr=False)
    attempts: int


_DUE = (
    select(WEBHOOKS.c.job_id)
    .where(WEBHOOKS.c.next_at <= bindparam("at"))
    .order_by(WEBHOOKS.c.next_at)
    .limit(bindparam("count"))
)
_DUE_UNTAKEN = _DUE.with_for_update(skip_locked=True)
_TAKE = (
    update(WEBHOOKS)
    .where(WEBHOOKS.c.job_id.in_(bindparam("chosen", expanding=True)))
    .values(next_at=bindparam("until"), attempts=WEBHOOKS.c.attempts + 1)
    .returning(WEBHOOKS.c.job_id, WEBHOOKS.c.url, WEBHOOKS.c.secret, WEBHOOKS.c.attempts)
)
_IS = WEBHOOKS.c.job_id == bindparam("job")
_DELIVERED = update(WEBHOOKS).where(_IS).values(next_at=None, delivered_at=bindparam("at"))
_FAILED = update(WEBHOOKS).where(_IS).values(next_at=bindparam("at"), last_error=bindparam("why"))


class SqlWebhooks:
    """Who takes one has it for `hold_s`; if he ends meanwhile, it is due again after that."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    async def has_due(self) -> bool:
        return await self._database.read(
            lambda c: c.scalar(_DUE, {"at": self._now(c), "count": 1}) is not None
        )

    async def take(self, count: int, hold_s: float) -> Sequence[Delivery]:
        return await self._database.write(lambda c: self._take(c, count, hold_s))

    def _take(self, connection: Connection, count: int, hold_s: float) -> list[Delivery]:
        now = self._now(connection)
        due = list(connection.execute(_DUE_UNTAKEN, {"at": now, "count": count}).scalars())
        if not due:
            return []
        callers = dict(
            connection.execute(select(JOBS.c.id, JOBS.c.caller).where(JOBS.c.id.in_(due))).all()
        )
        taken = connection.execute(_TAKE, {"chosen": due, "until": now + hold_s}).all()
        views = {each: sql_views.get(connection, callers[each], each) for each in due}
        return [
            Delivery(view, row.url, row.secret, row.attempts)
            for row in taken
            if (view := views[row.job_id]) is not None
        ]

    async def delivered(self, job_id: str) -> None:
        await self._database.write(
            lambda c: c.execute(_DELIVERED, {"job": job_id, "at": self._now(c)})
        )

    async def failed(self, job_id: str, why: str, delay_s: float | None) -> None:
        """delay_s: None where it is not tried again."""
        await self._database.write(
            lambda c: c.execute(
                _FAILED,
                {
                    "job": job_id,
                    "why": why,
                    "at": None if delay_s is None else self._now(c) + delay_s,
                },
            )
        )
