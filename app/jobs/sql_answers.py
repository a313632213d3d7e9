"""Answers of live requests that are to have effect once, by their callers' keys."""

from sqlalchemy import Connection

from app.jobs import sql_once
from app.jobs.sql import Clock, clock_of
from app.jobs.status import OnceKey
from app.storage.database import Database

HELD_S = 600.0  # longer than nearly every answer takes; what a dead server held is free at once


class SqlOnceAnswers:
    """owner: this server's name; keep_s: how long a key is remembered."""

    def __init__(
        self, database: Database, owner: str, keep_s: float, *, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._owner = owner
        self._keep_s = keep_s
        self._now = clock or clock_of(database)

    async def begin(self, once: OnceKey) -> bytes | None:
        return await self._database.write(lambda c: self._begin(c, once))

    def _begin(self, connection: Connection, once: OnceKey) -> bytes | None:
        now = self._now(connection)
        before = sql_once.found(connection, once, now)
        if before is not None:
            return before.body
        until, held_until = now + self._keep_s, now + HELD_S
        sql_once.hold(connection, once, until=until, owner=self._owner, held_until=held_until)
        return None

    async def keep(self, once: OnceKey, body: bytes) -> None:
        await self._database.write(lambda c: sql_once.settle(c, once, self._owner, body))

    async def forget(self, once: OnceKey) -> None:
        await self._database.write(lambda c: sql_once.settle(c, once, self._owner, None))
