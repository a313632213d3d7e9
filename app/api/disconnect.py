"""Work that nobody waits for any more is stopped."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from app.core.errors import Cancelled, InvariantBroken

T = TypeVar("T")


async def run_unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The outcome of `work`; cancels it and raises Cancelled when the client leaves first.

    The body must have been read: what is left to receive is only the disconnect.
    """
    task = asyncio.current_task()
    if task is None:
        raise InvariantBroken("requests run inside a task")
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and task.uncancel() == 0:
            raise Cancelled() from None
        raise
    finally:
        watcher.cancel()
