"""The worker's side of the CPU budget (scheduling/cpu_lease.py holds the server's).

Threads once granted are kept from batch to batch, so that a worker which is alone asks once; after
a recall they go back as they become free.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from app.workers.messages import AskThreads, ReturnThreads


class LeaseClient:
    """Leases for the streams of one worker; every call asks for the same number of threads."""

    def __init__(self, send: Callable[[AskThreads | ReturnThreads], None]) -> None:
        self._send = send
        self._free = 0
        self._is_recalled = False
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, threads: int) -> None:
        """Return when `threads` threads may be kept busy."""
        if self._free >= threads and not self._waiting:
            self._free -= threads
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((threads, granted))
        self._send(AskThreads(threads))
        await granted

    def release(self, threads: int) -> None:
        """The threads are idle again."""
        self._free += threads
        if self._is_recalled:
            self._return_free()

    def on_grant(self, threads: int) -> None:
        self._free += threads
        self._is_recalled = False
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, granted = self._waiting.popleft()
            if granted.cancelled():
                continue
            self._free -= wanted
            granted.set_result(None)

    def on_recall(self) -> None:
        self._is_recalled = True
        self._return_free()

    def _return_free(self) -> None:
        if self._free:
            self._send(ReturnThreads(self._free))
            self._free = 0
