"""The worker's side of the CPU budget (scheduling/cpu_lease.py holds the server's).

Threads once granted are kept from batch to batch, so that a worker which is alone asks once. After
a recall they go back as they become free, but not before they have been used for a quantum: when
they change hands a core idles until the last stream is done, and caches begin anew.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from app.workers.messages import AskThreads, ReturnThreads

IDLE_S = 0.001  # who has not begun anew by then has nothing to do


class LeaseClient:
    """Leases for the streams of one worker; every call asks for the same number of threads.

    quantum_s: how long threads may be used after a grant although others wait.
    """

    def __init__(
        self,
        send: Callable[[AskThreads | ReturnThreads], None],
        *,
        quantum_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._quantum_s = quantum_s
        self._now = now
        self._granted = 0.0  # when threads came to a worker that had none
        self._held = 0
        self._free = 0
        self._is_recalled = False
        self._idling: asyncio.TimerHandle | None = None  # threads go back at its end
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, threads: int) -> None:
        """Return when `threads` threads may be kept busy."""
        if self._free >= threads and not self._waiting:
            self._free -= threads
            if not self._free:
                self._stop_idling()
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((threads, granted))
        self._send(AskThreads(threads))
        await granted

    def release(self, threads: int) -> None:
        """The threads are idle again."""
        self._free += threads
        if not self._is_recalled:
            return
        if self._now() - self._granted < self._quantum_s:
            self._stop_idling()
            self._idling = asyncio.get_running_loop().call_later(IDLE_S, self._return_free)
        else:
            self._return_free()

    def on_grant(self, threads: int) -> None:
        if not self._held:
            self._granted = self._now()
        self._held += threads
        self._free += threads
        self._is_recalled = False
        self._stop_idling()
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, granted = self._waiting.popleft()
            if granted.cancelled():
                continue
            self._free -= wanted
            granted.set_result(None)

    def on_recall(self) -> None:
        self._is_recalled = True
        self._return_free()

    def _stop_idling(self) -> None:
        if self._idling is not None:
            self._idling.cancel()
            self._idling = None

    def _return_free(self) -> None:
        self._stop_idling()
        if self._free:
            self._send(ReturnThreads(self._free))
            self._held -= self._free
            self._free = 0
