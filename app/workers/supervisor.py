"""One worker for the versions that share its artefact: lives while one of them is wanted.

`roster.py` decides which are wanted, `life.py` is what a worker goes through while it is needed,
and what was accepted is `desk.py`'s, which outlives both. A version that is unloaded is closed to
new work at once; the process ends when the last one owes nothing, and one is started when a version
is loaded.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from app.core.errors import ModelUnavailable, Superseded
from app.core.types import NOBODY, Asker, Outcome
from app.workers.desk import Desk
from app.workers.ledger import OnPiece, OnUsed
from app.workers.life import Life
from app.workers.means import Means, Prepare
from app.workers.roster import Roster, Wish
from app.workers.status import ServingState, Status, refusal

log = structlog.get_logger()

_CLOSED = {Wish.UNLOADING: ServingState.UNLOADING, Wish.UNLOADED: ServingState.UNLOADED}
_SERVES_SOON_S, _SERVES_LATER_S = 2.0, 60.0


class Supervisor:
    """`run` goes on until `stop`. versions: by `name:version`, each with whether it is wanted."""

    def __init__(
        self,
        name: str,
        versions: Mapping[str, bool],
        prepare: Prepare,
        *,
        means: Means,
        on_change: Callable[["Supervisor"], None],
    ) -> None:
        self.name = name
        self._prepare = prepare
        self._means = means
        self._on_change = on_change
        self._desk = Desk(
            name, means.limits.max_queue_items, means.clock, on_settled=self._on_settled
        )
        means.metrics.watch_items(name, lambda: self.unanswered)
        self._roster = Roster(versions, self._desk.ledger.owes)
        self._life: Life | None = None
        self._is_leaving = False  # the life is to end, or has ended, and another may follow
        self._is_stopping = False
        self._is_draining = False
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._news = asyncio.Event()  # set once, and replaced, whenever a state may have changed

    @property
    def unanswered(self) -> int:
        return self._desk.unanswered

    @property
    def status(self) -> Status:
        """Of the worker; what is known of its artefact stays when it is gone."""
        if self._life is not None and not self._is_leaving:
            return self._life.status
        known = {} if self._life is None else self._life.status.artefact
        return Status(self._state_without_life(), artefact=known)

    @property
    def task_options(self) -> Mapping[str, Mapping[str, Any]]:
        """By version, once its task was built."""
        return {} if self._life is None else self._life.task_options

    def state_of(self, version: str) -> tuple[ServingState, str]:
        """State and reason of one version (`name:version`); mostly those of the worker."""
        closed = _CLOSED.get(self._roster.wish(version))
        return (closed, "") if closed is not None else self._state_of_wanted(version)

    def was_asked_for(self, version: str) -> bool:
        """Somebody has loaded or unloaded it since the start."""
        return self._roster.was_asked_for(version)

    def closed(self, version: str) -> ModelUnavailable | None:
        """Why the version takes nothing new, where somebody wanted it so."""
        closed = _CLOSED.get(self._roster.wish(version))
        if closed is None:
            return None
        return ModelUnavailable(f"{version} is {closed}", retry_after_s=_SERVES_LATER_S)

    def submit(
        self,
        version: str,
        text: str,
        parameters: dict[str, Any],
        timeout_ms: float,
        inputs: Mapping[str, Any] | None = None,
        asker: Asker = NOBODY,
        on_piece: OnPiece | None = None,
        on_used: OnUsed | None = None,
    ) -> asyncio.Future[Outcome]:
        """The outcome to be; inputs: tensors, in place of text; on_piece: told
        each piece of the answer while it is written, where the model writes in steps; on_used: its
        tokens so far.

        While the worker restarts, the input is held for the next one. Raises ModelUnavailable or
        Overloaded at once, or InvalidRequest.
        """
        if (refusal := self.closed(version) or self._loss_of(version)) is not None:
            raise refusal
        return self._desk.submit(
            version, text, parameters, timeout_ms, inputs, asker, on_piece, on_used
        )

    async def load(self, version: str) -> None:
        """Returns when the version takes requests. Cancelling this takes nothing back.

        Raises ModelUnavailable with the reason where it cannot, Superseded when it was unloaded
        meanwhile. A version that has failed is tried again, but for one that failed alone beside
        others that serve.
        """
        self._refuse_while_stopping()
        self._end_grace(version)
        self._roster.load(version)
        life = self._life
        if life is not None and life.status.state is ServingState.FAILED:
            self._is_leaving = True
        self._tell()
        await self._until(lambda: self._is_loaded(version))

    async def unload(self, version: str) -> None:
        """Returns when the version is gone, and with the last one its worker.

        What was accepted is answered before, within the grace time. Raises Superseded when it was
        loaded meanwhile.
        """
        self._refuse_while_stopping()
        if self._roster.wants(version):
            self._roster.unload(version)
            loop, grace_s = asyncio.get_running_loop(), self._means.limits.grace_s
            self._graces[version] = loop.call_later(grace_s, self._lose_patience, version)
        self._tell()
        await self._until(lambda: self._is_unloaded(version))
        self._end_grace(version)

    async def run(self) -> None:
        """Live whenever a version is wanted; returns after `stop`."""
        while not self._is_over:
            self._wake.clear()
            if self._roster.needs_worker and (self._life is None or self._is_leaving):
                await self._live()
                continue
            if not self._roster.needs_worker:
                self._forget_life()
            await self._wake.wait()

    def drain(self) -> None:
        """Nothing new will come: a worker that ends and owes nothing is not started again."""
        self._is_draining = True
        if self._life is not None:
            self._life.drain()
        self._announce()

    async def stop(self) -> None:
        """End the worker; what it still owes is lost, so drain first."""
        self._is_stopping = True
        self._announce()
        if self._life is not None:
            await self._life.end(ServingState.STOPPING, "the server is stopping")
        for version in list(self._graces):
            self._end_grace(version)

    @property
    def _is_over(self) -> bool:
        return self._is_stopping or (self._is_draining and not self.unanswered)

    async def _live(self) -> None:
        """One life, from its begin to its end."""
        life = self._life = Life(
            self.name,
            self._prepare,
            self._desk,
            self._means,
            loss_of=self._loss_of,
            on_change=self._tell,
        )
        self._is_leaving = False
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(life.run())
            running.add_done_callback(lambda _: self._wake.set())
            while not running.done() and self._roster.needs_worker and not self._is_leaving:
                await self._wake.wait()
                self._wake.clear()
            if not running.done() and not self._is_stopping:
                self._is_leaving = True
                await life.end(ServingState.UNLOADING, "")
                self._roster.worker_gone()
                self._tell()

    def _forget_life(self) -> None:
        """Nobody wants one, and there is no process."""
        was_unloading = self._roster.is_unloading
        self._roster.worker_gone()
        self._is_leaving = True
        if was_unloading:
            self._tell()

    def _state_without_life(self) -> ServingState:
        if self._roster.needs_worker:
            return ServingState.LOADING
        return ServingState.UNLOADING if self._roster.is_unloading else ServingState.UNLOADED

    def _state_of_wanted(self, version: str) -> tuple[ServingState, str]:
        if self._life is None or self._is_leaving:
            return ServingState.LOADING, ""
        if version in self._life.refused:
            return ServingState.FAILED, self._life.refused[version]
        return self._life.status.state, self._life.status.reason

    def _loss_of(self, version: str) -> ModelUnavailable | None:
        """Why what was taken for a version cannot be kept, whoever wants it."""
        state, reason = self._state_of_wanted(version)
        is_between_two = state in (ServingState.STUCK, ServingState.RESTARTING)
        if state is ServingState.READY or (is_between_two and self.status.load_s is not None):
            return None
        return refusal(version, state, reason)

    def _refuse_while_stopping(self) -> None:
        if self._is_draining or self._is_stopping:
            raise ModelUnavailable("the server is stopping", retry_after_s=_SERVES_LATER_S)

    def _is_loaded(self, version: str) -> bool:
        self._refuse_while_stopping()
        if not self._roster.wants(version):
            raise Superseded(f"{version} was unloaded by a later order")
        state, _ = self.state_of(version)
        has_ended = state in (ServingState.FAILED, ServingState.UNAVAILABLE)
        if has_ended and (failed := self._loss_of(version)) is not None:
            raise failed
        return state is ServingState.READY

    def _is_unloaded(self, version: str) -> bool:
        self._refuse_while_stopping()
        if self._roster.wants(version):
            raise Superseded(f"{version} was loaded by a later order")
        return self._roster.wish(version) is Wish.UNLOADED

    def _lose_patience(self, version: str) -> None:
        late = ModelUnavailable(f"{version} was unloaded before this was answered")
        self._desk.ledger.fail(lambda owing: late if owing == version else None)

    def _end_grace(self, version: str) -> None:
        if (timer := self._graces.pop(version, None)) is not None:
            timer.cancel()

    def _on_settled(self) -> None:
        if self._roster.is_unloading:
            self._roster.settle()
            self._tell()

    async def _until(self, has_come: Callable[[], bool]) -> None:
        while not has_come():
            await self._news.wait()

    def _tell(self) -> None:
        """A state has changed: whoever waits for one looks, `run` among them."""
        self._on_change(self)
        self._announce()

    def _announce(self) -> None:
        self._wake.set()
        self._news.set()
        self._news = asyncio.Event()
