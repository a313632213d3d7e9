"""Keeps one worker alive for the versions that share its artefact.

The life: fetch files and start -> ready -> (the process ends, or is ended because it is stuck or
holds too much memory) -> restarting, after a pause that doubles with every crash in a row ->
ready again, or failed after too many crashes without a single answer between them. A refusal to
load is final: it would be refused again; files that cannot be had for now are tried again. What was
accepted outlives the process: `ledger.py`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from app.core.clock import Clock
from app.core.errors import CannotLoad, LoadTimedOut, ModelUnavailable, WorkerLost, will_pass
from app.core.metrics import Metrics
from app.core.types import NOBODY, Asker, Outcome
from app.workers.cpu import CpuBudget
from app.workers.crashes import FIRST_TRY_S, LONGEST_TRY_S, Crashes, pause_of
from app.workers.desk import Desk
from app.workers.handle import WORKER_COMMAND, WorkerHandle
from app.workers.ledger import OnPiece, Verdict
from app.workers.messages import Beat, ItemDone, ItemFailed, Load, Started
from app.workers.processor_time import processor_time_s
from app.workers.status import IN_SERVICE, ServingState, Status, refusal
from app.workers.turns import LoadingTurns
from app.workers.watchdog import CHECK_S, Watchdog, WatchLimits

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SupervisorLimits:
    """Bounds of one worker's life."""

    start_timeout_s: float
    max_crashes: int
    max_queue_items: int
    watch: WatchLimits


@dataclass(frozen=True, slots=True)
class Preparation:
    """What to load; refused: versions that cannot be served, with the reason.

    facts: what is known of the artefact beside the catalog, for people.
    """

    load: Load
    refused: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


Prepare = Callable[[Callable[[str], None]], Awaitable[Preparation]]
"""Brings what a worker loads; its argument may be told, from any thread, what it is at."""


class Supervisor:
    """Owns the worker's process; `run` is its whole life and is cancelled by nobody but `stop`."""

    def __init__(
        self,
        name: str,
        prepare: Prepare,
        *,
        limits: SupervisorLimits,
        cpu: CpuBudget,
        metrics: Metrics,
        clock: Clock,
        turns: LoadingTurns,
        on_change: Callable[["Supervisor"], None],
        command: tuple[str, ...] = WORKER_COMMAND,
    ) -> None:
        self.name = name
        self.status = Status()
        self.task_options: dict[str, dict[str, Any]] = {}  # by version, once its task was built
        self._prepare = prepare
        self._limits = limits
        self._cpu = cpu
        self._metrics = metrics
        self._clock = clock
        self._turns = turns
        self._on_change = on_change
        self._command = command
        self._desk = Desk(name, limits.max_queue_items, clock)
        metrics.watch_items(name, lambda: self.unanswered)
        self._crashes = Crashes(limits.max_crashes)
        self._handle: WorkerHandle | None = None
        self._watchdog = Watchdog(limits.watch, clock.now())
        self._verdict = Verdict()  # on the latest death
        self._refused: dict[str, str] = {}
        self._stopping = asyncio.Event()
        self._is_draining = False

    @property
    def unanswered(self) -> int:
        return self._desk.unanswered

    def state_of(self, version: str) -> tuple[ServingState, str]:
        """State and reason of one version (`name:version`); mostly those of the worker."""
        if version in self._refused:
            return ServingState.FAILED, self._refused[version]
        return self.status.state, self.status.reason

    def submit(
        self,
        version: str,
        text: str,
        parameters: dict[str, Any],
        timeout_ms: float,
        inputs: Mapping[str, Any] | None = None,
        asker: Asker = NOBODY,
        on_piece: OnPiece | None = None,
    ) -> asyncio.Future[Outcome]:
        """The outcome to be; inputs: tensors, in place of text; on_piece: told text and tokens of
        each piece of the answer while it is written, where the model writes in steps.

        While the worker restarts, the input is held for the next one. Raises ModelUnavailable or
        Overloaded at once, or InvalidRequest.
        """
        if (refusal := self._refusal(version)) is not None:
            raise refusal
        return self._desk.submit(version, text, parameters, timeout_ms, inputs, asker, on_piece)

    def _refusal(self, version: str) -> ModelUnavailable | None:
        """Why nothing can be taken for a version, or what was taken cannot be kept."""
        state, reason = self.state_of(version)
        is_between_two = state in (ServingState.STUCK, ServingState.RESTARTING)
        if state is ServingState.READY or (is_between_two and self.status.load_s is not None):
            return None
        return refusal(version, state, reason)

    async def run(self) -> None:
        """Load, serve, restart; returns after `stop` or when the worker is given up."""
        try:
            prepared = await self._bring()
            self._refused = dict(prepared.refused)
            reason = "" if self.status.state is ServingState.LOADING else "it is loading, after all"
            self.status = replace(
                self.status, artefact=prepared.facts, reason=reason, next_start=None
            )
            await self._keep_alive(prepared.load)
        except CannotLoad as error:
            self._give_up(str(error))
        except Exception as error:  # the other workers must not fall with this one
            log.error("supervisor_broke", worker=self.name, exc_info=error)
            self._give_up(f"an unexpected {type(error).__name__}; the server's log has it")
            if self._handle is not None:
                await self._handle.stop()
        self._desk.ledger.fail(self._refusal)

    async def _bring(self) -> Preparation:
        """Tried again where what is in the way may pass by itself.

        The version has failed meanwhile, so that readiness does not wait for it. Raises CannotLoad.
        """
        loop = asyncio.get_running_loop()

        def tell(what: str) -> None:
            loop.call_soon_threadsafe(self._note_progress, what)

        for times in count(1):
            try:
                return await self._prepare(tell)
            except CannotLoad as error:
                if not will_pass(error) or self._stopping.is_set():
                    raise
                pause_s = pause_of(times, FIRST_TRY_S, LONGEST_TRY_S)
                log.error("version_failed", worker=self.name, reason=str(error), next_try_s=pause_s)
                self._begin_again_after(ServingState.FAILED, pause_s, str(error))
            await self._clock.wait(self._stopping, self._clock.now() + pause_s)
            if self._stopping.is_set():
                break
        raise CannotLoad("the server is stopping")

    def drain(self) -> None:
        """Nothing new will come: a worker that ends and owes nothing is not started again."""
        self._is_draining = True

    async def stop(self) -> None:
        """End the worker; what it still owes is lost, so drain first."""
        self._become(ServingState.STOPPING, "the server is stopping")
        self._stopping.set()
        self._desk.ledger.fail(self._refusal)  # first: its end must not be blamed on an input
        if self._handle is not None:
            await self._handle.stop()

    def on_results(self, handle: WorkerHandle, items: Sequence[ItemDone | ItemFailed]) -> None:
        for item in items:
            self._desk.ledger.answered(item, self._clock.now())

    def on_pieces(self, handle: WorkerHandle, pieces: Sequence[tuple[int, str, int]]) -> None:
        for item_id, text, tokens in pieces:
            self._desk.ledger.wrote(item_id, text, tokens)

    def on_started(self, handle: WorkerHandle, started: Started) -> None:
        now = self._clock.now()
        self._watchdog.on_started(started.run, started.items, started.predicted_ms, now)

    def on_ended(self, handle: WorkerHandle, run: int) -> None:
        self._watchdog.on_ended(run)
        if not self._watchdog.inside:
            self._desk.ledger.idle(self._clock.now())

    def on_beat(self, handle: WorkerHandle, beat: Beat) -> None:
        self._watchdog.on_beat(beat.resident_bytes, self._clock.now())
        if (reason := self._watchdog.too_large()) is not None:
            self._kill(handle, reason)
        if not beat.waiting and not self._watchdog.inside:
            self._desk.ledger.idle(self._clock.now())
        self.status = replace(
            self.status, resident_bytes=beat.resident_bytes, waiting_rows=beat.waiting
        )
        if beat.backlog_ms is not None:
            self._desk.note_backlog(beat.backlog_ms)
        self._metrics.worker_beat(self.name, beat.waiting, beat.resident_bytes)
        for batch in beat.batches:
            self._metrics.batch_ran(
                self.name,
                batch.rows,
                batch.real_tokens,
                batch.padded_tokens,
                batch.ms,
                batch.predicted_ms,
            )

    def on_ask(self, handle: WorkerHandle, threads: int) -> None:
        self._cpu.ask(handle, threads)

    def on_return(self, handle: WorkerHandle, threads: int) -> None:
        self._cpu.give_back(handle, threads)

    def on_health(self, handle: WorkerHandle) -> None:
        if self.status.state in IN_SERVICE:
            self._enter_service(handle)

    def on_exit(self, handle: WorkerHandle) -> None:
        self._cpu.forget(handle)
        self._metrics.worker_gone(self.name)
        self._verdict = self._desk.ledger.lost(
            self._watchdog.inside, from_outside=handle.is_ended_from_outside
        )
        self.status = replace(self.status, pid=None, resident_bytes=0, waiting_rows=0)

    async def _keep_alive(self, load: Load) -> None:
        while not self._stopping.is_set():
            handle = await self._serve_once(load)
            if self._stopping.is_set() or (self._is_draining and not self.unanswered):
                return
            reason = f"the worker {handle.exit_reason}"
            crashes = self._crashes
            crashes.note(self._verdict, has_answered=handle.has_answered)
            log.error("worker_died", worker=self.name, reason=reason, in_a_row=crashes.in_a_row)
            if crashes.are_too_many:
                raise CannotLoad(
                    f"{reason}, {crashes.in_a_row} times in a row without an answer; given up"
                )
            self._begin_again_after(ServingState.RESTARTING, crashes.pause_s, reason)
            await self._clock.wait(self._stopping, self._clock.now() + crashes.pause_s)
            if self._stopping.is_set():
                return
            self.status = replace(self.status, restarts=self.status.restarts + 1)
            self._metrics.worker_restarted(self.name)

    def _begin_again_after(self, state: ServingState, pause_s: float, reason: str) -> None:
        next_start = datetime.now(UTC) + timedelta(seconds=pause_s)
        self._become(state, f"{reason}; next start in {pause_s:g} s", next_start)

    async def _serve_once(self, load: Load) -> WorkerHandle:
        """One process from start to end."""
        handle = self._handle = WorkerHandle(self.name, load, self, os.environ, self._command)
        try:
            async with self._turns.turn(alone=_will_measure(load)):
                loaded = await handle.start(self._limits.start_timeout_s)
        except WorkerLost:
            return handle
        except CannotLoad as error:
            await handle.stop()
            if isinstance(error, LoadTimedOut) and self.status.load_s is not None:
                return handle  # it has loaded before: the machine is busy, and this one was a crash
            raise
        self.status = replace(
            self.status,
            pid=handle.pid,
            load_s=loaded.load_s,
            max_tokens=loaded.max_tokens,
            calibration=loaded.calibration,
            signature=loaded.signature,
        )
        self._refused |= loaded.refused
        hosted = (version for version in load.versions if version.key not in self._refused)
        self.task_options = {version.key: version.options for version in hosted}
        self._metrics.worker_loaded(self.name, loaded.load_s)
        log.info("worker_ready", worker=self.name, pid=handle.pid, load_s=round(loaded.load_s, 2))
        if handle.is_ready:  # else it died, or was stopped, while its turn was given on
            await self._serve(handle)
        else:
            await handle.wait()
        return handle

    async def _serve(self, handle: WorkerHandle) -> None:
        """From when it has loaded until it has ended, by itself or because it had to be."""
        self._watchdog = Watchdog(self._limits.watch, self._clock.now())
        self._enter_service(handle)
        self._desk.ledger.fail(self._refusal)  # what was held for versions that it refused
        self._desk.ledger.attach(handle, self._clock.now())
        ended = asyncio.ensure_future(handle.wait())
        while not (await asyncio.wait([ended], timeout=CHECK_S))[0]:
            used_s = processor_time_s(handle.pid)
            reason = self._watchdog.stuck(self._clock.now(), used_s)
            if reason is not None and self.status.state in IN_SERVICE:
                self._become(ServingState.STUCK, reason)
                self._kill(handle, reason)

    def _enter_service(self, handle: WorkerHandle) -> None:
        """Or leave it, as long as the server behind the worker does not serve."""
        if handle.outage:
            log.warning("version_unavailable", worker=self.name, reason=handle.outage)
            self._become(ServingState.UNAVAILABLE, handle.outage)
        else:
            self._become(ServingState.READY, "")

    def _kill(self, handle: WorkerHandle, reason: str) -> None:
        self._desk.ledger.detach()
        handle.kill(f"{reason} and was killed")

    def _note_progress(self, what: str) -> None:
        if self.status.state is ServingState.LOADING and not self._stopping.is_set():
            self._become(ServingState.LOADING, what)

    def _give_up(self, reason: str) -> None:
        if not self._stopping.is_set():
            log.error("version_failed", worker=self.name, reason=reason)
            self._become(ServingState.FAILED, reason)

    def _become(self, state: ServingState, reason: str, next_start: datetime | None = None) -> None:
        self.status = replace(self.status, state=state, reason=reason, next_start=next_start)
        self._on_change(self)


def _will_measure(load: Load) -> bool:
    return bool(load.calibration_path) and not Path(load.calibration_path).exists()
