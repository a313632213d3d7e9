"""What the process tests share: loads of misbehaving runtimes, and benches that start workers."""

import asyncio
import os
import sys
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from app.core.clock import Clock, MonotonicClock
from app.core.errors import ServingError, WorkerLost
from app.core.metrics import Metrics
from app.core.types import Done, Failed, Outcome, Piece
from app.workers.calibration import Calibration
from app.workers.cpu import CpuBudget
from app.workers.desk import Desk
from app.workers.handle import WorkerHandle
from app.workers.means import Means, Preparation, WorkerLimits
from app.workers.messages import (
    Beat,
    GrantThreads,
    HostedVersion,
    ItemDone,
    ItemFailed,
    Load,
    Loaded,
    Started,
    Used,
)
from app.workers.status import ServingState
from app.workers.supervisor import Supervisor
from app.workers.turns import LoadingTurns
from app.workers.watchdog import WatchLimits
from tests.fakes import a_load

COMMAND = (sys.executable, "-m", "tests.process.misbehaving_child")
LOAD_S = 45.0  # a bound for a busy machine, not an expectation
ANSWER_S = 30.0
VERSION = "echo:v1"
PATIENT = WatchLimits(stuck_after_s=60.0)


def load(runtime: str, folder: Path, *, streams: int = 1, threads: int = 1, **options: Any) -> Load:
    """One version over a fake runtime; calibrated beforehand, so nothing is measured."""
    path = folder / f"calibration-{streams}-{threads}.json"
    path.write_bytes(msgspec.json.encode(Calibration(streams, threads, 512, 1.0, 0.0, 0.0, 1000.0)))
    return a_load(
        artefact=runtime,
        runtime=runtime,
        options=options,
        versions=[HostedVersion(VERSION, "embed", {}, {})],
        cpu_threads=streams * threads,
        max_batch_size=1,
        calibration_path=str(path),
    )


def generating(runtime: str, folder: Path) -> Load:
    """The same for a runtime that works in steps."""
    versions = [HostedVersion(VERSION, "generate", {}, {})]
    return msgspec.structs.replace(load(runtime, folder), kind="tokens", versions=versions)


async def eventually(condition: Callable[[], bool], what: str, bound_s: float = LOAD_S) -> None:
    """For what only the kernel knows; everything of ours is waited for by its own event."""
    try:
        async with asyncio.timeout(bound_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {bound_s:g} s") from None


def value_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Done), outcome
    return outcome.answer.value


def error_of(outcome: Outcome) -> ServingError:
    assert isinstance(outcome, Failed), outcome
    return outcome.error


def expected(text: str) -> list[float]:
    """What every fake runtime answers while it behaves."""
    return [len(text), sum(map(ord, text))]


class Lone(WorkerHandle):
    """One worker with a desk of its own and no supervisor; it is granted every thread it asks for.

    What it leaves behind fails, as when a version is given up.
    """

    def __init__(self, load: Load, command: tuple[str, ...]) -> None:
        super().__init__("echo", load, self, os.environ, command)
        self.desk = Desk("echo", 1000, MonotonicClock())
        self.beats: list[Beat] = []
        self.runs: list[Started | int] = []
        self.exits = 0

    async def start(self, timeout_s: float) -> Loaded:
        loaded = await super().start(timeout_s)
        self.desk.ledger.attach(self, time.monotonic())
        return loaded

    def ask(
        self, text: str, timeout_ms: float = 30_000, version: str = VERSION, **parameters: Any
    ) -> Future[Outcome]:
        return self.desk.submit(version, text, parameters or {"truncate": False}, timeout_ms)

    def stream(
        self, text: str, pieces: list[tuple[str, int]], parameters: dict[str, Any]
    ) -> Future[Outcome]:
        """The same; its pieces are added to the list as they come."""
        return self.desk.submit(
            VERSION, text, parameters, 30_000, on_piece=lambda p: pieces.append((p.text, p.tokens))
        )

    @property
    def owed(self) -> int:
        return self.desk.unanswered

    def on_results(self, handle: WorkerHandle, items: Sequence[ItemDone | ItemFailed]) -> None:
        for item in items:
            self.desk.ledger.answered(item, time.monotonic())

    def on_pieces(self, handle: WorkerHandle, pieces: Sequence[tuple[int, Piece]]) -> None:
        for item_id, piece in pieces:
            self.desk.ledger.wrote(item_id, piece)

    def on_used(self, handle: WorkerHandle, used: Sequence[Used]) -> None:
        for each in used:
            self.desk.ledger.used(each)

    def on_started(self, handle: WorkerHandle, started: Started) -> None:
        self.runs.append(started)

    def on_ended(self, handle: WorkerHandle, run: int) -> None:
        self.runs.append(run)

    def on_beat(self, handle: WorkerHandle, beat: Beat) -> None:
        self.beats.append(beat)

    def on_health(self, handle: WorkerHandle) -> None:
        pass

    def on_ask(self, handle: WorkerHandle, threads: int) -> None:
        handle.send(GrantThreads(threads))

    def on_return(self, handle: WorkerHandle, threads: int) -> None:
        pass

    def on_exit(self, handle: WorkerHandle) -> None:
        self.exits += 1
        self.desk.ledger.lost([])
        self.desk.ledger.fail(lambda _: WorkerLost(f"the worker {self.exit_reason}"))


class Bench:
    """Starts single workers and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Lone] = []

    def handle(self, load: Load, command: tuple[str, ...] = COMMAND) -> Lone:
        worker = Lone(load, command)
        self.workers.append(worker)
        return worker

    async def started(self, runtime: str, **options: Any) -> Lone:
        worker = self.handle(load(runtime, self.folder, **options))
        await worker.start(LOAD_S)
        return worker

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
            assert worker.owed == 0, "a caller got no answer"


async def ask(to: "Lone | Supervisor", text: str, timeout_ms: float = 30_000) -> Outcome:
    """One answer, whatever it is."""
    if isinstance(to, Lone):
        return await asyncio.wait_for(to.ask(text, timeout_ms), ANSWER_S)
    return await asyncio.wait_for(
        to.submit(VERSION, text, {"truncate": False}, timeout_ms), ANSWER_S
    )


@dataclass
class Watched:
    """A supervisor whose changes of state can be waited for."""

    supervisor: Supervisor
    life: asyncio.Task[None]
    states: list[ServingState] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_change(self, supervisor: Supervisor) -> None:
        self.states.append(supervisor.status.state)
        self.changed.set()

    async def until(self, state: ServingState, times: int = 1) -> None:
        """Return when the state has been entered that often."""
        try:
            async with asyncio.timeout(LOAD_S):
                while self.states.count(state) < times:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            seen = [*self.states, self.supervisor.status]
            raise AssertionError(f"not {state} {times} times but {seen}") from None


def _versions_of(what: object) -> dict[str, bool]:
    """Those that a worker is to load; all are wanted."""
    if isinstance(what, Load):
        return {version.key: True for version in what.versions}
    return {VERSION: True}


class SupervisorBench:
    """Runs supervisors over real children and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.cpu = CpuBudget(2, self.metrics.cpu)
        self.turns = LoadingTurns()
        self.watched: list[Watched] = []

    def run(
        self,
        what: Load | Callable[[], Awaitable[Preparation]],
        *,
        name: str = "echo",
        clock: Clock | None = None,
        max_crashes: int = 5,
        start_timeout_s: float = LOAD_S,
        watch: WatchLimits = PATIENT,
        versions: Mapping[str, bool] | None = None,
        grace_s: float = ANSWER_S,
        command: tuple[str, ...] = COMMAND,
    ) -> Watched:
        async def prepare(tell: Callable[[str], None]) -> Preparation:
            return Preparation(what, {}) if isinstance(what, Load) else await what()

        supervisor = Supervisor(
            name,
            versions or _versions_of(what),
            prepare,
            means=Means(
                WorkerLimits(start_timeout_s, max_crashes, 100, watch, grace_s),
                self.cpu,
                self.metrics,
                clock or MonotonicClock(),
                self.turns,
                command,
            ),
            on_change=lambda changed: watched.on_change(changed),
        )
        watched = Watched(supervisor, asyncio.create_task(supervisor.run()))
        self.watched.append(watched)
        return watched

    async def ready(self, what: Load, **options: Any) -> Watched:
        watched = self.run(what, **options)
        await watched.until(ServingState.READY)
        return watched

    async def close(self) -> None:
        for watched in self.watched:
            await watched.supervisor.stop()
            assert watched.supervisor.unanswered == 0, "a caller got no answer"
        async with asyncio.timeout(LOAD_S):
            await asyncio.gather(*(watched.life for watched in self.watched))
