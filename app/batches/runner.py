"""Runs batches: finds those that are open, and sees each to its end.

Whoever runs one holds a lock on a file of it, which its process loses when it ends in whichever
way: another then goes on at once, and nobody runs what somebody else does.
"""

import asyncio
from pathlib import Path
from typing import BinaryIO

import structlog

from app.batches.answering import Stop
from app.batches.contents import try_lock
from app.batches.running import Means, Running
from app.batches.status import Batch
from app.core.background import Background
from app.core.errors import StorageUnavailable

log = structlog.get_logger()

AT_ONCE, OF_ONE_CALLER = 32, 4
POLL_S, MEASURE_S, SWEEP_S, RETRY_S = 1.0, 5.0, 60.0, 5.0


class BatchRunner:
    """`start`, `wake` after a batch was made, `stop`."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._running: dict[str, Running] = {}
        self._background = Background("batches")
        self._wake = asyncio.Event()
        self._has_looked_for_strays = False

    def start(self) -> None:
        # Whoever makes one here wakes us; other servers do not.
        self._background.repeat(self.find, POLL_S, self._wake)
        self._background.repeat(self.measure, MEASURE_S)
        self._background.repeat(self.sweep, SWEEP_S)

    def wake(self) -> None:
        """There is something to run."""
        self._wake.set()

    def cancel(self, batch_id: str) -> None:
        """Stop the batch at once if it runs here."""
        if (running := self._running.get(batch_id)) is not None:
            running.end(Stop.CANCELLED)

    def begin_stop(self) -> None:
        """Begin no further line."""
        if self._background.begin_stop():
            for running in self._running.values():
                running.end(Stop.LEAVING, at_once=False)

    async def stop(self, grace_s: float) -> None:
        """Lines that are being answered are waited for, for `grace_s` from `begin_stop` on."""
        self.begin_stop()
        await self._background.stop(grace_s, self._leave)

    def _leave(self) -> None:
        for running in self._running.values():
            running.end(Stop.LEAVING)

    async def find(self) -> int:
        """Begin with those that are open and run by nobody; returns how many that are."""
        means, begun = self._means, 0
        if self._background.is_leaving or not means.work.can_run:
            return 0
        for batch in await means.store.open_in(means.contents.place):
            if not self._has_room(batch) or (lock := self._lock(batch)) is None:
                continue
            self._running[batch.id] = Running(batch, means)
            self._background.begin(self._live(batch.id, lock))
            begun += 1
        return begun

    async def sweep(self) -> None:
        """Delete what was kept long enough, and at first what was left behind."""
        if not self._has_looked_for_strays:
            self._has_looked_for_strays = True
            await self.delete_strays()
        means = self._means
        while gone := await means.store.delete_expired(means.now()):
            here = [file.id for file in gone if file.place == means.contents.place]
            await asyncio.to_thread(means.contents.delete, here)

    async def measure(self) -> None:
        """For the metrics."""
        found = await self._means.store.figures(self._means.now())
        self._means.metrics.measured(
            {status.value: count for status, count in found.open.items()},
            found.oldest_s,
            {purpose.value: files for purpose, files in found.files.items()},
        )

    async def delete_strays(self) -> int:
        """Contents that belong to no row, since their server ended before it was made."""
        contents = self._means.contents
        found = await asyncio.to_thread(lambda: list(contents.left_behind()))
        strays = set(found) - await self._means.store.known(found)
        await asyncio.to_thread(contents.delete, strays)
        return len(strays)

    async def _live(self, batch_id: str, lock: BinaryIO) -> None:
        try:
            with lock:
                await self._run(batch_id)
        except (StorageUnavailable, OSError) as error:
            log.error("batch_put_off", batch=batch_id, error=type(error).__name__, why=str(error))
            await asyncio.sleep(RETRY_S)
        except Exception as error:
            log.error("batch_put_off", batch=batch_id, exc_info=error)
            await asyncio.sleep(RETRY_S)
        finally:
            del self._running[batch_id]
            self._wake.set()

    async def _run(self, batch_id: str) -> None:
        """As it is now: another may have ended it before we had the lock."""
        batch = await self._means.store.reread(batch_id)
        if batch is not None and batch.status.is_open:
            running = self._running[batch_id] = Running(batch, self._means)
            if self._background.is_leaving:
                running.end(Stop.LEAVING)
            await running.run()
            batch = await self._means.store.reread(batch_id)
        if batch is None or not batch.status.is_open:
            self._lock_path(batch_id).unlink(missing_ok=True)

    def _has_room(self, batch: Batch) -> bool:
        """Who has many batches does not keep others from running theirs."""
        callers = [running.caller for running in self._running.values()]
        is_new = batch.id not in self._running
        return is_new and len(callers) < AT_ONCE and callers.count(batch.caller) < OF_ONE_CALLER

    def _lock(self, batch: Batch) -> BinaryIO | None:
        file = self._lock_path(batch.id).open("ab")
        if try_lock(file):
            return file
        file.close()
        return None

    def _lock_path(self, batch_id: str) -> Path:
        return self._means.folder / f"{batch_id}.lock"
