"""What a server does beside answering: loops, and tasks that come and go, until it stops."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from math import inf

import structlog

from app.core.errors import StorageUnavailable
from app.core.waiting import wait_at_most

log = structlog.get_logger()

ENDS_S = 5.0  # for what was stopped to keep what it has

Step = Callable[[], Awaitable[object]]


class Background:
    """Loops of steps, and lives: tasks that are waited for when the server stops.

    name: of what is done, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lives: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._leaving_since = inf

    @property
    def lives(self) -> frozenset["asyncio.Task[None]"]:
        """That have not ended."""
        return frozenset(self._lives)

    @property
    def is_leaving(self) -> bool:
        """Nothing is to be begun any more."""
        return self._leaving_since < inf

    def repeat(self, step: Step, pause_s: float, wake: asyncio.Event | None = None) -> None:
        """Now and then after pauses of so many seconds, which `wake` cuts short. A failure is
        logged, and the step comes again."""
        self._loops.append(asyncio.create_task(self._repeat(step, pause_s, wake)))

    def begin(self, life: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(life)
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

    def begin_stop(self) -> bool:
        """Whether this was the first call: the grace counts from then on."""
        if self.is_leaving:
            return False
        self._leaving_since = asyncio.get_running_loop().time()
        return True

    async def stop(self, grace_s: float, end: Callable[[], None]) -> None:
        """Wait for all lives until `grace_s` after `begin_stop`, have them ended by `end`, wait
        for that a little, and cancel what is left."""
        self.begin_stop()
        ends = self._leaving_since + grace_s
        await self._settle(max(0.0, ends - asyncio.get_running_loop().time()))
        end()
        await self._settle(ENDS_S)
        tasks = (*self._loops, *self._lives)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, seconds: float) -> None:
        if self._lives:
            await asyncio.wait(self._lives, timeout=seconds)

    async def _repeat(self, step: Step, pause_s: float, wake: asyncio.Event | None) -> None:
        while True:
            if wake is not None:
                wake.clear()
            await self._attempt(step)
            await asyncio.sleep(0)  # others have a turn even where each step asks for the next
            if wake is None:
                await asyncio.sleep(pause_s)
            else:
                await wait_at_most(wake, pause_s)

    async def _attempt(self, step: Step) -> None:
        try:
            await step()
        except StorageUnavailable:
            pass  # the database has logged it
        except OSError as error:
            self._tell(step, reason=str(error))
        except Exception as error:
            self._tell(step, exc_info=error)

    def _tell(self, step: Step, **why: object) -> None:
        name = getattr(step, "__name__", repr(step))
        log.error(f"{self._name}_step_failed", step=name, **why)
