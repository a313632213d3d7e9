"""The worker process: loads one artefact, answers for its versions until told to stop.

Started as `python -m app.workers.child FD`, where FD is its end of a socket pair. The first
message is `Load`. It ends when told to, when the connection closes (the server died), or when
its own loop breaks; whatever was inside is then the server's to account for.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import assert_never

import psutil
import structlog
import uvloop

from app.core.errors import ServingError
from app.core.logging import configure_logging
from app.workers.build import WorkLoop, build_loop
from app.workers.lease import LeaseClient
from app.workers.messages import (
    Beat,
    Cancel,
    GrantThreads,
    ItemDone,
    ItemFailed,
    Load,
    Loaded,
    LoadFailed,
    RecallThreads,
    Results,
    Started,
    Stop,
    Submit,
    ToServer,
    WireItem,
    decode_to_worker,
    encode,
)
from app.workers.replies import Announcement
from app.workers.wire import Wire

log = structlog.get_logger()

BEAT_S = 1.0
QUANTUM_S = 0.04  # some batches or steps; more makes a lone text of another model wait
RESERVED_BYTES = 2**30  # addresses that a worker may reserve beside its memory
PR_SET_PDEATHSIG = 1


class Worker:
    """Messages in, messages out; the work itself is the loop's."""

    def __init__(self) -> None:
        self._wire = Wire(self._on_frames, self._on_closed)
        self._lease = LeaseClient(self._send, quantum_s=QUANTUM_S)
        self._load: asyncio.Future[Load] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()
        self._is_leaving = False
        self._work: WorkLoop | None = None

    async def serve(self, sock: socket.socket) -> int:
        """The exit status: 0 when told to stop, 1 when loading failed."""
        await asyncio.get_running_loop().create_connection(lambda: self._wire, sock=sock)
        load = await self._load
        configure_logging(load.log_format, load.log_level)
        limit_memory(load.memory_limit_bytes)
        leave_priority(load.nice)
        started = time.monotonic()
        try:
            work, facts = await asyncio.to_thread(
                build_loop,
                load,
                self._lease,
                self._reply,
                self._announce,
                self._leasing(load.cpu_threads),
            )
        except Exception as error:
            self._report_load_failure(load, error)
            return 1
        self._work = work
        give_back_freed_memory()
        self._send(
            Loaded(
                time.monotonic() - started,
                facts.max_tokens,
                facts.shown,
                facts.refused,
                facts.signature,
                facts.outage,
            )
        )
        try:
            await self._work_until_stopped(work)
        except Exception as error:
            log.error("worker_broke", artefact=load.artefact, exc_info=error)
            return 1
        return 0

    async def _work_until_stopped(self, work: WorkLoop) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work.run()), tasks.create_task(self._beat(work))]
            await self._stopped.wait()
            for task in running:
                task.cancel()
        self._leave()

    def _leasing(self, threads: int) -> Callable[[], AbstractContextManager[None]]:
        """For the thread that loads: hold that many threads of the budget for a while."""
        loop = asyncio.get_running_loop()

        @contextmanager
        def leased() -> Iterator[None]:
            asyncio.run_coroutine_threadsafe(self._lease.acquire(threads), loop).result()
            try:
                yield
            finally:
                loop.call_soon_threadsafe(self._lease.release, threads)

        return leased

    def _report_load_failure(self, load: Load, error: Exception) -> None:
        log.error("load_failed", artefact=load.artefact, exc_info=error)
        known = error if isinstance(error, ServingError) else None
        message = str(known) if known else f"loading failed: {type(error).__name__}"
        self._send(LoadFailed(known.code if known else "cannot_load", message))
        self._leave()

    def _leave(self) -> None:
        self._is_leaving = True
        self._wire.close()

    def _on_frames(self, frames: list[bytes]) -> None:
        submitted: list[WireItem] = []
        for frame in frames:
            message = decode_to_worker(frame)
            match message:
                case Submit(items):
                    submitted += items
                case Cancel(ids):
                    self._submit(submitted)
                    submitted = []
                    if self._work is not None:
                        self._work.cancel(ids)
                case GrantThreads(threads):
                    self._lease.on_grant(threads)
                case RecallThreads():
                    self._lease.on_recall()
                case Stop():
                    self._stopped.set()
                case Load():
                    self._load.set_result(message)
                case _:
                    assert_never(message)
        self._submit(submitted)

    def _submit(self, items: Sequence[WireItem]) -> None:
        if items and self._work is not None:
            self._work.submit(items)

    def _on_closed(self) -> None:
        if not self._is_leaving:
            # The server died. Whatever loads or runs in other threads can only be left behind.
            os._exit(1)

    def _reply(self, items: Sequence[ItemDone | ItemFailed]) -> None:
        self._send(Results(list(items)))

    def _announce(self, message: Announcement) -> None:
        if isinstance(message, Started):
            self._wire.send_at_once(encode(message))
        else:
            self._send(message)

    def _send(self, message: ToServer) -> None:
        self._wire.send(encode(message))

    async def _beat(self, work: WorkLoop) -> None:
        process = psutil.Process()
        while True:
            resident: int = process.memory_info().rss
            beat = Beat(work.take_batches(), work.waiting, work.running, resident, work.backlog_ms)
            self._send(beat)
            await asyncio.sleep(BEAT_S)


def give_back_freed_memory() -> None:
    """What loading and measuring needed goes back to the system now, not some day."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def limit_memory(limit_bytes: int) -> None:
    """What is allocated far beyond it fails here and now: the server looks only once a second.

    The kernel counts addresses, of which threads and engines reserve many that they never touch
    (MiniLM: 1,010 MB where 408 MB are resident); what is really held, the server sees at a beat.
    """
    if limit_bytes:
        most = 2 * limit_bytes + RESERVED_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def leave_priority(nice: int) -> None:
    """Let the server's process go first: else nobody reads requests while all cores compute.

    Linux may group processes by session for scheduling, and each worker is the first of its own:
    there only the group's own value counts (sched(7), autogroup).
    """
    os.nice(nice)
    with contextlib.suppress(OSError):  # no such grouping here
        with open("/proc/self/autogroup", "w", encoding="ascii") as group:
            group.write(str(nice))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the server dies, even mid-computation."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal or an init system signals the whole group; when to end is the server's to say.
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))

    async def serve() -> int:
        return await Worker().serve(sock)

    return uvloop.run(serve())


if __name__ == "__main__":
    sys.exit(main())
