"""Waiting for news, but not for ever."""

import asyncio


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, or so long. A cancellation at the same moment is not lost, as it can be by
    `asyncio.wait_for`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
