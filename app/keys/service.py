"""Keys as the server's routes change them: durable before they are told, in force at once."""

import time
from collections.abc import Callable, Sequence

from app.keys import admin, audit, store
from app.keys.audit import Act, Actor
from app.keys.change import Change
from app.keys.key import Key, Terms
from app.keys.keyring import Keyring
from app.storage.database import Database


class KeyService:
    """Every call raises StorageUnavailable where the database is gone."""

    def __init__(
        self, database: Database, keyring: Keyring, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._wall = wall

    async def create(self, actor: Actor, terms: Terms) -> tuple[Key, str]:
        """The key and its secret. Raises InvalidRequest, NameTaken."""
        now = self._wall()
        key, secret, act = await self._database.write(
            lambda connection: admin.create(connection, actor, terms, now)
        )
        await self._done(act)
        return key, secret

    async def update(self, actor: Actor, named: str, change: Change) -> Key:
        """Raises InvalidRequest, NameTaken, KeyNotFound."""
        now = self._wall()
        key, act = await self._database.write(
            lambda connection: admin.update(connection, actor, named, change, now)
        )
        if act is not None:
            await self._done(act)
        return key

    async def revoke(self, actor: Actor, named: str) -> Key:
        """Raises KeyNotFound."""
        now = self._wall()
        key, act = await self._database.write(
            lambda connection: admin.revoke(connection, actor, named, now)
        )
        await self._done(act)
        return key

    async def rotate(self, actor: Actor, named: str, grace_s: float) -> tuple[Key, str]:
        """The key and its new secret. Raises KeyNotFound."""
        now = self._wall()
        key, secret, act = await self._database.write(
            lambda connection: admin.rotate(connection, actor, named, now, grace_s)
        )
        await self._done(act)
        return key, secret

    async def get(self, named: str) -> Key:
        """Raises KeyNotFound."""
        return await self._database.read(lambda connection: store.get(connection, named))

    async def list(self) -> Sequence[Key]:
        return await self._database.read(store.all_keys)

    async def note(self, act: Act) -> None:
        """Something else that an administrator did."""
        await self._database.write(lambda connection: audit.record(connection, act))
        audit.tell(act)

    async def audited(self, limit: int, before: int | None) -> Sequence[tuple[int, Act]]:
        return await self._database.read(lambda connection: audit.latest(connection, limit, before))

    async def _done(self, act: Act) -> None:
        self._keyring.changed()
        audit.tell(act)
        await self._keyring.refresh()  # the first key closes the door to those without one
