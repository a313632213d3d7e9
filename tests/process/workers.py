"""What the process tests share: loads of misbehaving runtimes, and benches that start workers."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from app.core.clock import Clock, MonotonicClock
from app.core.errors import ServingError
from app.core.metrics import Metrics
from app.core.types import Done, Failed, Outcome
from app.workers.calibration import Calibration
from app.workers.cpu import CpuBudget
from app.workers.handle import WorkerHandle
from app.workers.messages import Beat, GrantThreads, HostedVersion, Load
from app.workers.supervisor import Preparation, ServingState, Supervisor, SupervisorLimits
from app.workers.turns import LoadingTurns
from tests.fakes import a_load

COMMAND = (sys.executable, "-m", "tests.process.misbehaving_child")
LOAD_S = 45.0  # a bound for a busy machine, not an expectation
ANSWER_S = 30.0
VERSION = "echo:v1"


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


class Generous:
    """Grants whatever a worker asks for."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.exits: list[WorkerHandle] = []

    def on_beat(self, handle: WorkerHandle, beat: Beat) -> None:
        self.beats.append(beat)

    def on_ask(self, handle: WorkerHandle, threads: int) -> None:
        handle.send(GrantThreads(threads))

    def on_return(self, handle: WorkerHandle, threads: int) -> None:
        pass

    def on_exit(self, handle: WorkerHandle) -> None:
        self.exits.append(handle)


class Bench:
    """Starts single workers and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = Generous()
        self.handles: list[WorkerHandle] = []

    def handle(self, load: Load, command: tuple[str, ...] = COMMAND) -> WorkerHandle:
        handle = WorkerHandle("echo", load, self.listener, os.environ, command)
        self.handles.append(handle)
        return handle

    async def started(self, runtime: str, **options: Any) -> WorkerHandle:
        handle = self.handle(load(runtime, self.folder, **options))
        await handle.start(LOAD_S)
        return handle

    async def close(self) -> None:
        for handle in self.handles:
            await handle.stop()
            assert handle.owed == 0, "a caller got no answer"


async def ask(to: "WorkerHandle | Supervisor", text: str, timeout_ms: float = 30_000) -> Outcome:
    """One answer, whatever it is."""
    parameters = {"truncate": False}
    return await asyncio.wait_for(to.submit(VERSION, text, parameters, timeout_ms), ANSWER_S)


@dataclass
class Watched:
    """A supervisor whose changes of state can be waited for."""

    supervisor: Supervisor
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


class SupervisorBench:
    """Runs supervisors over real children and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.cpu = CpuBudget(2, self.metrics.cpu)
        self.turns = LoadingTurns()
        self.watched: list[Watched] = []
        self._running: list[asyncio.Task[None]] = []

    def run(
        self,
        what: Load | Callable[[], Awaitable[Preparation]],
        *,
        name: str = "echo",
        clock: Clock | None = None,
        max_crashes: int = 5,
        start_timeout_s: float = LOAD_S,
        command: tuple[str, ...] = COMMAND,
    ) -> Watched:
        async def prepare(tell: Callable[[str], None]) -> Preparation:
            return Preparation(what, {}) if isinstance(what, Load) else await what()

        supervisor = Supervisor(
            name,
            prepare,
            limits=SupervisorLimits(start_timeout_s, max_crashes, max_queue_items=100),
            cpu=self.cpu,
            metrics=self.metrics,
            clock=clock or MonotonicClock(),
            turns=self.turns,
            on_change=lambda changed: watched.on_change(changed),
            command=command,
        )
        watched = Watched(supervisor)
        self.watched.append(watched)
        self._running.append(asyncio.create_task(supervisor.run()))
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
            await asyncio.gather(*self._running)
