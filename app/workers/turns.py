"""Who may load when: loads run side by side, but one that measures the machine runs alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LoadingTurns:
    """Shared by the supervisors of a server.

    A worker that calibrates takes its turn alone, because what it measures beside another's load
    would be wrong for as long as the result is kept.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._loading = 0
        self._measuring = False

    @asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        """Held while a worker loads."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_free(alone))
            self._loading += 1
            self._measuring = alone
        try:
            yield
        finally:
            async with self._changed:
                self._loading -= 1
                self._measuring = False
                self._changed.notify_all()

    def _is_free(self, alone: bool) -> bool:
        return not self._measuring and not (alone and self._loading)
