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

from app.core.errors import Overloaded, StorageUnavailable
from app.keys import usage_rows
from app.keys.tables import SUMS
from app.keys.usage_rows import Group, Period, Place
from app.storage.database import Database

WRITE_S = 0.5
DAY_S = 86400
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


def day_of(seconds: float) -> date:
    """In UTC."""
    return date.fromordinal(_EPOCH + int(seconds // DAY_S))


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
