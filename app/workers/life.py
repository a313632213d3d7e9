"""One life of a worker: from the first look for its files until it is given up, or ended.

fetch files and start -> ready -> (the process ends, or is ended because it is stuck or holds too
much memory) -> restarting, after a pause that doubles with every crash in a row -> ready again, or
failed after too many crashes without a single answer between them. A refusal to load is final: it
would be refused again; files that cannot be had for now are tried again. What was accepted outlives
the process: `ledger.py`.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from app.core.errors import CannotLoad, LoadTimedOut, ModelUnavailable, WorkerLost, will_pass
from app.core.types import Piece
from app.workers.crashes import FIRST_TRY_S, LONGEST_TRY_S, Crashes, pause_of
from app.workers.desk import Desk
from app.workers.handle import WorkerHandle
from app.workers.ledger import Verdict
from app.workers.means import Means, Preparation, Prepare
from app.workers.messages import Beat, ItemDone, ItemFailed, Load, Started, Used
from app.workers.processor_time import processor_time_s
from app.workers.status import IN_SERVICE, ServingState, Status
from app.workers.watchdog import CHECK_S, Watchdog

log = structlog.get_logger()


class Life:
    """Owns the worker's process; `run` is all of it and is cancelled by nobody but `end`.

    loss_of: why what a version has accepted cannot be answered; None while it can. on_change:
    called when `status` has another state.
    """

    def __init__(
        self,
        name: str,
        prepare: Prepare,
        desk: Desk,
        means: Means,
        *,
        loss_of: Callable[[str], ModelUnavailable | None],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.status = Status()
        self.refused: dict[str, str] = {}  # versions that failed alone, with the reason
        self.task_options: dict[str, dict[str, Any]] = {}  # by version, once its task was built
        self._prepare = prepare
        self._desk = desk
        self._means = means
        self._limits, self._clock, self._metrics = means.limits, means.clock, means.metrics
        self._loss_of = loss_of
        self._on_change = on_change
        self._crashes = Crashes(means.limits.max_crashes)
        self._handle: WorkerHandle | None = None
        self._watchdog = Watchdog(means.limits.watch, means.clock.now())
        self._verdict = Verdict()  # on the latest death
        self._ending = asyncio.Event()
        self._is_draining = False

    async def run(self) -> None:
        """Load, serve, restart; returns after `end` or when the worker is given up."""
        try:
            prepared = await self._bring()
            if not self._ending.is_set():
                self._note_facts(prepared)
                await self._keep_alive(prepared.load)
        except CannotLoad as error:
            self._give_up(str(error))
        except Exception as error:  # the other workers must not fall with this one
            log.error("supervisor_broke", worker=self.name, exc_info=error)
            self._give_up(f"an unexpected {type(error).__name__}; the server's log has it")
            if self._handle is not None:
                await self._handle.stop()
        self._desk.ledger.fail(self._loss_of)

    def drain(self) -> None:
        """Nothing new will come: a worker that ends and owes nothing is not started again."""
        self._is_draining = True

    async def end(self, state: ServingState, reason: str) -> None:
        """Returns when there is no process; what it still owes may be lost, so drain first.

        `run` returns once nothing is being fetched any more.
        """
        self._become(state, reason)
        self._ending.set()
        self._desk.ledger.fail(self._loss_of)  # first: its end must not be blamed on an input
        if self._handle is not None:
            await self._handle.stop()

    def on_results(self, handle: WorkerHandle, items: Sequence[ItemDone | ItemFailed]) -> None:
        for item in items:
            self._desk.ledger.answered(item, self._clock.now())

    def on_pieces(self, handle: WorkerHandle, pieces: Sequence[tuple[int, Piece]]) -> None:
        for item_id, piece in pieces:
            self._desk.ledger.wrote(item_id, piece)

    def on_used(self, handle: WorkerHandle, used: Sequence[Used]) -> None:
        for each in used:
            self._desk.ledger.used(each)

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
            pressed = sum(batch.is_pressed for batch in beat.batches)
            self._desk.note_backlog(beat.backlog_ms, pressed / max(1, len(beat.batches)))
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
        self._means.cpu.ask(handle, threads)

    def on_return(self, handle: WorkerHandle, threads: int) -> None:
        self._means.cpu.give_back(handle, threads)

    def on_health(self, handle: WorkerHandle) -> None:
        if self.status.state in IN_SERVICE:
            self._enter_service(handle)

    def on_exit(self, handle: WorkerHandle) -> None:
        self._means.cpu.forget(handle)
        self._metrics.worker_gone(self.name)
        self._verdict = self._desk.ledger.lost(
            self._watchdog.inside, from_outside=handle.is_ended_from_outside
        )
        self.status = replace(self.status, pid=None, resident_bytes=0, waiting_rows=0)

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
                if not will_pass(error) or self._ending.is_set():
                    raise
                pause_s = pause_of(times, FIRST_TRY_S, LONGEST_TRY_S)
                log.error("version_failed", worker=self.name, reason=str(error), next_try_s=pause_s)
                self._begin_again_after(ServingState.FAILED, pause_s, str(error))
            await self._clock.wait(self._ending, self._clock.now() + pause_s)
            if self._ending.is_set():
                break
        raise CannotLoad("it is not wanted any more")

    def _note_facts(self, prepared: Preparation) -> None:
        self.refused = dict(prepared.refused)
        reason = "" if self.status.state is ServingState.LOADING else "it is loading, after all"
        self.status = replace(self.status, artefact=prepared.facts, reason=reason, next_start=None)

    async def _keep_alive(self, load: Load) -> None:
        while not self._ending.is_set():
            handle = await self._serve_once(load)
            if self._ending.is_set() or (self._is_draining and not self._desk.unanswered):
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
            await self._clock.wait(self._ending, self._clock.now() + crashes.pause_s)
            if self._ending.is_set():
                return
            self.status = replace(self.status, restarts=self.status.restarts + 1)
            self._metrics.worker_restarted(self.name)

    def _begin_again_after(self, state: ServingState, pause_s: float, reason: str) -> None:
        next_start = datetime.now(UTC) + timedelta(seconds=pause_s)
        self._become(state, f"{reason}; next start in {pause_s:g} s", next_start)

    async def _serve_once(self, load: Load) -> WorkerHandle:
        """One process from start to end."""
        command = self._means.command
        handle = self._handle = WorkerHandle(self.name, load, self, os.environ, command)
        try:
            async with self._means.turns.turn(alone=_will_measure(load)):
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
        self.refused |= loaded.refused
        hosted = (version for version in load.versions if version.key not in self.refused)
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
        self._desk.ledger.fail(self._loss_of)  # what was held for versions that it refused
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
        if self.status.state is ServingState.LOADING and not self._ending.is_set():
            self._become(ServingState.LOADING, what)

    def _give_up(self, reason: str) -> None:
        if not self._ending.is_set():
            log.error("version_failed", worker=self.name, reason=reason)
            self._become(ServingState.FAILED, reason)

    def _become(self, state: ServingState, reason: str, next_start: datetime | None = None) -> None:
        self.status = replace(self.status, state=state, reason=reason, next_start=next_start)
        self._on_change()


def _will_measure(load: Load) -> bool:
    return bool(load.calibration_path) and not Path(load.calibration_path).exists()
