"""Keys, limits and usage of one server, wired together."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from app.core.errors import StorageUnavailable
from app.keys.gate import Gate
from app.keys.keyring import Keyring
from app.keys.limiter import Limiter, Metering
from app.keys.service import KeyService
from app.keys.usage import UsageLedger
from app.storage.database import Database


class Accounts:
    """generation: of the keys, as it was read when the server started. on_cost: is told the model,
    the version and billionths of money. `allows_anonymous`, `is_private`: see Gate."""

    def __init__(
        self,
        database: Database,
        generation: int,
        on_cost: Callable[[str, str, int], None],
        *,
        allows_anonymous: bool,
        is_private: bool,
    ) -> None:
        self._keyring = Keyring(database, generation)
        self.usage = UsageLedger(database)
        limiter = Limiter(self.usage.spent)
        self.gate = Gate(
            self._keyring, limiter, allows_anonymous=allows_anonymous, is_private=is_private
        )
        self.keys = KeyService(database, self._keyring)
        self.meter = Metering(self.usage, limiter, on_cost)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keyring.watch())
            tasks.create_task(self.usage.run())

    async def close(self) -> None:
        """Write what is not written; the database is open yet."""
        with suppress(StorageUnavailable):  # the log has it
            await self.usage.flush()
