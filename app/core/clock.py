"""Time as a dependency, so that tests can move it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds on a clock that never runs backwards."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or `until` has come, whichever is first."""


class MonotonicClock:
    """The real one."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - self.now())):
                await event.wait()
        except TimeoutError:
            pass
