"""One worker process as the server sees it: starts it, speaks with it, ends it, notices its end.

What is owed to callers is the ledger's, because it outlives the process.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, assert_never

import msgspec
import structlog

from app.core.errors import CannotLoad, LoadTimedOut, WorkerLost, from_code
from app.core.types import Piece
from app.workers.deaths import Death, oom_counters, oom_kills
from app.workers.messages import (
    AskThreads,
    Beat,
    Cancel,
    Ended,
    Health,
    ItemDone,
    ItemFailed,
    Load,
    Loaded,
    LoadFailed,
    Pieces,
    Results,
    ReturnThreads,
    Started,
    Stop,
    Submit,
    ToWorker,
    WireItem,
    decode_to_server,
    encode,
    Used,
)
from app.workers.state import WorkerState, move
from app.workers.wire import Wire

log = structlog.get_logger()

KILL_AFTER_S = 5.0  # after it was asked to end
CLOSED_GRACE_S = 1.0  # between the end of the connection and that of the process
WORKER_COMMAND = (sys.executable, "-m", "app.workers.child")
CHILD_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    # Large buffers go back to the system when they are freed. By itself the allocator learns to
    # keep them, and a worker stays as large as its largest batch (BART-large: 830 MB, not 740).
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
}


class Listener(Protocol):
    """Who is told what a worker says."""

    def on_results(
        self, handle: "WorkerHandle", items: Sequence[ItemDone | ItemFailed]
    ) -> None: ...

    def on_pieces(self, handle: "WorkerHandle", pieces: Sequence[tuple[int, Piece]]) -> None: ...

    def on_used(self, handle: "WorkerHandle", used: Sequence[Used]) -> None: ...

    def on_started(self, handle: "WorkerHandle", started: Started) -> None: ...

    def on_ended(self, handle: "WorkerHandle", run: int) -> None: ...

    def on_beat(self, handle: "WorkerHandle", beat: Beat) -> None: ...

    def on_ask(self, handle: "WorkerHandle", threads: int) -> None: ...

    def on_return(self, handle: "WorkerHandle", threads: int) -> None: ...

    def on_health(self, handle: "WorkerHandle") -> None: ...

    def on_exit(self, handle: "WorkerHandle") -> None: ...


class WorkerHandle:
    """Build, `start`, `submit` as often as wanted, `stop`."""

    def __init__(
        self,
        name: str,
        load: Load,
        listener: Listener,
        environment: Mapping[str, str],
        command: tuple[str, ...] = WORKER_COMMAND,
    ) -> None:
        self.name = name
        self.state = WorkerState.STARTING
        self.exit_reason = ""
        self.has_answered = False
        self.outage = ""  # why it cannot serve now, though it lives: the latest that it said
        self._load = load
        self._listener = listener
        self._environment = {**environment, **CHILD_ENVIRONMENT}
        self._command = command
        self.is_ended_from_outside = False  # once it has ended
        self._killed_because = ""
        self._was_killed = False
        self._resident_bytes = 0
        self._oom_counters: tuple[Path, ...] = ()
        self._oom_kills: tuple[int, ...] = ()
        self._process: asyncio.subprocess.Process | None = None
        self._spawning = asyncio.Lock()  # `stop` must not overlook a process that is being born
        self._wire = Wire(self._on_frames, self._on_closed)
        self._closed = asyncio.Event()
        self._loaded: asyncio.Future[Loaded] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_ready(self) -> bool:
        return self.state is WorkerState.READY

    async def start(self, timeout_s: float) -> Loaded:
        """Start the process and wait until it has loaded.

        Raises CannotLoad when it says that it cannot, LoadTimedOut when it takes too long,
        WorkerLost when it dies.
        """
        self._loaded = asyncio.get_running_loop().create_future()
        async with self._spawning:
            if self.state is WorkerState.STARTING:
                await self._spawn()
        if self.state is not WorkerState.STARTING:  # stopped meanwhile
            raise self._lost()
        self.send(self._load)
        try:
            async with asyncio.timeout(timeout_s):
                loaded = await asyncio.shield(self._loaded)
        except TimeoutError:
            self._loaded.cancel()
            late = f"was not loaded after {timeout_s:g} s (WORKER_START_TIMEOUT_S)"
            self.kill(late)
            raise LoadTimedOut(f"{self.name} {late}") from None
        if not self.is_ready:  # it ended while the news was on its way
            raise self._lost()
        return loaded

    async def _spawn(self) -> None:
        """Raises WorkerLost when the machine has no process or memory to give."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # signals to the group are the server's to handle
                )
        except OSError as error:
            ours.close()
            self.exit_reason = f"could not be started: {error}"
            self.state = move(self.state, WorkerState.DEAD)
            raise self._lost() from error
        self._oom_counters = oom_counters(self._process.pid)
        self._oom_kills = oom_kills(self._oom_counters)
        self._watch = loop.create_task(self._wait_for_exit(self._process))
        await loop.create_unix_connection(lambda: self._wire, sock=ours)

    def submit(self, items: list[WireItem]) -> None:
        """For a worker that is ready; of one that has ended nothing comes back but its exit."""
        self.send(Submit(items))

    def cancel(self, ids: list[int]) -> None:
        self.send(Cancel(ids))

    def send(self, message: ToWorker) -> None:
        self._wire.send(encode(message))

    async def stop(self) -> None:
        """Ask the process to end, make it, and wait until it has."""
        was_ready = self.is_ready
        if self.state is not WorkerState.DEAD:
            self.state = move(self.state, WorkerState.STOPPING)
        async with self._spawning:
            if was_ready:
                self.send(Stop())
            else:  # it listens only once it has loaded, and owes nothing before
                self.kill()
        if self._watch is None:
            return
        done, _ = await asyncio.wait([self._watch], timeout=KILL_AFTER_S)
        if not done:
            self.kill()
            await self._watch

    async def wait(self) -> None:
        """Return when the process has ended."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    def kill(self, because: str = "") -> None:
        """because: what people are told in place of the signal; the first reason counts."""
        self._killed_because = self._killed_because or because
        if self._process is not None and self._process.returncode is None:
            self._was_killed = True
            self._process.kill()

    async def _wait_for_exit(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        with contextlib.suppress(TimeoutError):  # its last words may still be in the socket
            async with asyncio.timeout(CLOSED_GRACE_S):
                await self._closed.wait()
        self.exit_reason = self._killed_because or _describe_exit(code)
        death = Death(
            code,
            self._was_killed,
            self._oom_kills,
            oom_kills(self._oom_counters),
            self._resident_bytes,
            self._load.memory_limit_bytes,
        )
        self.is_ended_from_outside = death.is_from_outside
        self.state = move(self.state, WorkerState.DEAD)
        self._wire.close()
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(self._lost())
        self._listener.on_exit(self)

    def _lost(self) -> WorkerLost:
        what = self.exit_reason or f"is {self.state}"
        return WorkerLost(f"the worker of {self.name} {what}; try again", retry_after_s=1.0)

    def _on_closed(self) -> None:
        # A worker without a connection is of no use, but mostly one that is ending by itself.
        self._closed.set()
        asyncio.get_running_loop().call_later(CLOSED_GRACE_S, self.kill)

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            for frame in frames:
                self._on_message(frame)
        except msgspec.DecodeError as error:
            log.error("worker_sent_garbage", worker=self.name, error=str(error))
            self.kill("sent what is no message and was killed")

    def _on_message(self, frame: bytes) -> None:
        message = decode_to_server(frame)
        match message:
            case Results(items):
                self.has_answered = True
                self._listener.on_results(self, items)
            case Pieces(pieces, used):
                self.has_answered = self.has_answered or bool(pieces)
                self._listener.on_used(self, used)
                self._listener.on_pieces(self, pieces)
            case Started():
                self._listener.on_started(self, message)
            case Ended(run):
                self._listener.on_ended(self, run)
            case AskThreads(threads):
                self._listener.on_ask(self, threads)
            case ReturnThreads(threads):
                self._listener.on_return(self, threads)
            case Health(outage):
                self.outage = outage
                self._listener.on_health(self)
            case Beat():
                self._resident_bytes = message.resident_bytes
                self._listener.on_beat(self, message)
            case Loaded():
                self._on_loaded(message)
            case LoadFailed(code, text):
                error = CannotLoad(text) if code == "internal" else from_code(code, text)
                self._resolve_load(lambda future: future.set_exception(error))
            case _:
                assert_never(message)

    def _on_loaded(self, message: Loaded) -> None:
        self.outage = message.outage
        if self.state is WorkerState.STARTING:  # else it was stopped meanwhile
            self.state = move(self.state, WorkerState.READY)
        self._resolve_load(lambda future: future.set_result(message))

    def _resolve_load(self, resolve: Callable[[asyncio.Future[Loaded]], None]) -> None:
        if self._loaded is not None and not self._loaded.done():
            resolve(self._loaded)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"was ended by {name}"
