"""The usage ledger: gathered in memory, written in groups, at most twice per second.

What was answered more than a second ago outlives a kill. While the database is gone, additions wait
here, summed up by key, model, version and day; a group that may or may not have been committed goes
again under its number (usage_rows.py).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any, Protocol

import structlog

from app.core.errors import Overloaded, StorageUnavailable
from app.keys import usage_rows
from app.keys.quotas import DAY_S, Quotas, day_of
from app.keys.tables import SUMS
from app.keys.usage_rows import Group, Period, Place
from app.storage.database import Database

log = structlog.get_logger()

WRITE_S = 0.5
_EPOCH = date(1970, 1, 1).toordinal()


class Use(Protocol):
    """What one call used of one version; services/metering.py has it."""

    requests: int
    items: int
    failures: int
    cached_items: int
    input_tokens: int
    output_tokens: int
    compute_ms: float
    cost_nanos: int


class UsageLedger:
    """One per server."""

    def __init__(self, database: Database, *, wall: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall = wall
        self._writer = secrets.token_hex(16)
        self._sequence = 0
        self._pending: dict[tuple[str, str, str, int], list[float]] = {}
        self._group: Group | None = None  # on its way, or to be sent again
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()

    def add(self, key: str, model: str, version: str, use: Use) -> None:
        place = (key, model, version, int(self._wall() // DAY_S))
        row = self._pending.get(place)
        if row is None:
            row = self._pending[place] = [0] * len(SUMS)
            self._news.set()
        row[0] += use.requests
        row[1] += use.items
        row[2] += use.failures
        row[3] += use.cached_items
        row[4] += use.input_tokens
        row[5] += use.output_tokens
        row[6] += use.compute_ms
        row[7] += use.cost_nanos

    async def run(self) -> None:
        """Until it is cancelled; `flush` writes the rest."""
        while True:
            await self._news.wait()
            await asyncio.sleep(WRITE_S)
            try:
                await self.flush()
            except (StorageUnavailable, Overloaded):
                self._news.set()  # the database has logged it
            except Exception as error:
                log.error("usage_not_written", exc_info=error)
                self._news.set()

    async def flush(self) -> None:
        """Returns when everything that was added before is durable. Raises StorageUnavailable."""
        async with self._turn:
            if self._group is not None:
                await self._write(self._group)
            self._news.clear()
            if self._pending:
                self._group = self._new_group()
                await self._write(self._group)

    async def _write(self, group: Group) -> None:
        await self._database.write(partial(usage_rows.add, group=group, now=self._wall()))
        self._group = None

    async def spent(self, key_id: str) -> Quotas:
        """Of a key, today and this month, up to this moment. Raises StorageUnavailable."""
        async with self._turn:  # no group is written meanwhile
            if self._group is not None:
                await self._write(self._group)
            today = day_of(self._wall())
            month = Period(today.replace(day=1), today)
            read = partial(usage_rows.totals, period=month, by=("day",), key_id=key_id)
            quotas = Quotas(today)
            for row in await self._database.read(read):
                quotas.count(row["day"], [row[name] for name in SUMS])
            for (key, _, _, day), sums in self._pending.items():
                if key == key_id:
                    quotas.count(date.fromordinal(_EPOCH + day), sums)
            return quotas

    def _new_group(self) -> Group:
        self._sequence += 1
        rows: dict[Place, Sequence[float]] = {
            (key, model, version, date.fromordinal(_EPOCH + day)): row
            for (key, model, version, day), row in self._pending.items()
        }
        self._pending = {}
        return Group(self._writer, self._sequence, rows)

    async def totals(
        self, period: Period, by: Sequence[str], key_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Up to this moment. Raises StorageUnavailable."""
        await self.flush()
        return await self._database.read(
            lambda connection: usage_rows.totals(connection, period, by, key_id)
        )
