"""Keys as requests find them: in memory, for a short while, and never after they were changed.

A key that was found is known for `KNOWN_S`, one that does not exist for `UNKNOWN_S`; a change in
this process (`changed`) ends that at once, one of another server or of the command line as soon as
`watch` has read the generation, twice per second. While the database is gone, keys that are known
go on to work for the rest of their time.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from app.core.errors import Overloaded, StorageUnavailable
from app.keys import store
from app.keys.key import Key
from app.storage.database import Database

KNOWN_S = 30.0
UNKNOWN_S = 5.0
WATCH_S = 0.5
MOST_KNOWN = 10_000  # of each sort: who guesses keys drives out no good one
MOST_LOOKUPS = 64  # at the same time; a flood of guesses must not fill the database's queue

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    until: float


class Keyring:
    """generation: as it was read when the server started."""

    def __init__(
        self,
        database: Database,
        generation: int,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._generation = generation
        self._now, self._wall = now, wall
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[Key | None]] = {}
        self._changes = 0

    @property
    def is_empty(self) -> bool:
        """No key was ever made."""
        return self._generation == 0

    def changed(self) -> None:
        """Forget everything; what is being looked up is not remembered."""
        self._changes += 1
        self._known.clear()
        self._unknown.clear()
        self._looking.clear()

    async def find(self, digest: str) -> Key | None:
        """Does not yield where the answer is known.

        Raises StorageUnavailable, or Overloaded where too many are looked up.
        """
        now = self._now()
        known = self._known.get(digest)
        if known is not None and known.until > now:
            return known.key if known.key.valid_until > self._wall() else None
        if self._unknown.get(digest, 0.0) > now:
            return None
        return await self._look_up(digest)

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            with suppress(StorageUnavailable):
                await self.refresh()

    async def refresh(self) -> None:
        """See whether keys were changed elsewhere. Raises StorageUnavailable."""
        generation = await self._database.read(store.generation)
        if generation != self._generation:
            self._generation = generation
            self.changed()

    async def _look_up(self, digest: str) -> Key | None:
        """Once for all who ask for the same."""
        task = self._looking.get(digest)
        if task is None:
            if len(self._looking) >= MOST_LOOKUPS:
                raise Overloaded("too many unknown API keys are being checked", retry_after_s=1.0)
            task = self._looking[digest] = asyncio.create_task(self._read(digest))
            task.add_done_callback(lambda ended: self._looked_up(digest, ended))
        return await asyncio.shield(task)

    def _looked_up(self, digest: str, ended: "asyncio.Task[Key | None]") -> None:
        if self._looking.get(digest) is ended:
            del self._looking[digest]
        if not ended.cancelled():
            ended.exception()  # whoever waited has it

    async def _read(self, digest: str) -> Key | None:
        changes, wall = self._changes, self._wall()
        key = await self._database.read(lambda connection: store.find(connection, digest, wall))
        if changes == self._changes:
            if key is None:
                _remember(self._unknown, digest, self._now() + UNKNOWN_S)
            else:
                _remember(self._known, digest, _Known(key, self._now() + KNOWN_S))
        return key


def _remember(table: dict[str, V], digest: str, value: V) -> None:
    """The newest last; the oldest makes room."""
    table.pop(digest, None)
    if len(table) >= MOST_KNOWN:
        del table[next(iter(table))]
    table[digest] = value
