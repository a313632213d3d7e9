"""The worker's loop for models that need one forward pass per row.

The way of an item: `submit` notes it -> tokenised off the loop -> its rows wait in the queue -> a
stream leases threads, lets the batcher choose, runs the batch in its thread -> when its last row
is done the task makes the answer off the loop -> `reply`. Rows of all hosted versions share
batches, because they share the weights.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.core.clock import Clock
from app.core.errors import DeadlineExceeded, InvalidRequest, InvariantBroken, ServingError
from app.core.inference import Vectors
from app.core.types import Answer
from app.runtimes.base import OneShotRuntime
from app.scheduling.batcher import Batcher, Hold
from app.scheduling.cost_model import Sample
from app.scheduling.queue import Row, RowQueue
from app.tasks.base import OneShotTask, Prepared
from app.workers.lease import LeaseClient
from app.workers.messages import BatchRan, ItemDone, ItemFailed, WireItem, unpack_inputs

log = structlog.get_logger()


@dataclass(slots=True)
class Pending:
    """An item between its arrival and its answer."""

    item: WireItem
    task: OneShotTask
    arrived: float
    prepared: Prepared = Prepared((), 0)
    outputs: list[Any] = field(default_factory=list)
    rows_left: int = 0
    started: float | None = None
    finished: float | None = None

    @property
    def deadline(self) -> float:
        return self.arrived + self.item.timeout_ms / 1000


class OneShotLoop:
    """Owns the queue, the batcher and the streams of one runtime."""

    def __init__(
        self,
        *,
        runtime: OneShotRuntime,
        tasks: Mapping[str, OneShotTask],
        batcher: Batcher,
        lease: LeaseClient,
        reply: Callable[[Sequence[ItemDone | ItemFailed]], None],
        clock: Clock,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._batcher = batcher
        self._lease = lease
        self._reply = reply
        self._clock = clock
        self._queue = RowQueue()
        self._pending: dict[int, Pending] = {}
        self._arrivals: asyncio.Queue[list[Pending]] = asyncio.Queue()
        self._finished: asyncio.Queue[list[Pending]] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._idle_streams = runtime.plan.streams
        self._choosing = 0  # streams that lease threads for a batch they have not chosen yet
        self._batches: list[BatchRan] = []

    def submit(self, items: Iterable[WireItem]) -> None:
        now = self._clock.now()
        group = [Pending(item, self._tasks[item.version], now) for item in items]
        self._pending.update((pending.item.id, pending) for pending in group)
        self._arrivals.put_nowait(group)

    def cancel(self, ids: Iterable[int]) -> None:
        for item_id in ids:
            self._forget(item_id)

    def take_batches(self) -> list[BatchRan]:
        """What ran since the last call."""
        batches, self._batches = self._batches, []
        return batches

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return self._runtime.plan.streams - self._idle_streams

    async def run(self) -> None:
        """Serve until cancelled."""
        streams = self._runtime.plan.streams
        with (
            ThreadPoolExecutor(streams, "stream") as stream_threads,
            ThreadPoolExecutor(1, "prepare") as prepare_thread,
        ):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._prepare_arrivals(prepare_thread))
                tasks.create_task(self._answer_finished(prepare_thread))
                for _ in range(streams):
                    tasks.create_task(self._run_stream(stream_threads))

    async def _prepare_arrivals(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            group = await self._arrivals.get()
            while not self._arrivals.empty():
                group += self._arrivals.get_nowait()
            results = await loop.run_in_executor(thread, self._prepare, group)
            self._enqueue(group, results)

    def _prepare(self, group: Sequence[Pending]) -> list[Prepared | ServingError]:
        """Runs off the loop; touches nothing that the loop changes."""
        return [self._prepare_one(pending) for pending in group]

    def _prepare_one(self, pending: Pending) -> Prepared | ServingError:
        item = pending.item
        try:
            given = item.text if item.inputs is None else unpack_inputs(item.inputs)
            return pending.task.prepare(given, item.parameters, self._runtime.tokenizer)
        except ServingError as refused:
            return refused
        except Exception:
            log.exception("prepare_failed", version=item.version, request_id=item.request_id)
            return ServingError()

    def _enqueue(
        self, group: Sequence[Pending], results: Sequence[Prepared | ServingError]
    ) -> None:
        refused: list[ItemDone | ItemFailed] = []
        rows: list[Row] = []
        for pending, result in zip(group, results, strict=True):
            item_id = pending.item.id
            if item_id not in self._pending:  # its caller left meanwhile
                continue
            if isinstance(result, ServingError):
                self._forget(item_id)
                refused.append(_failed(item_id, result))
                continue
            pending.prepared = result
            pending.rows_left = len(result.rows)
            pending.outputs = [None] * len(result.rows)
            rows += self._rows(pending)
            if not result.rows:
                self._finished.put_nowait([pending])
        if refused:
            self._reply(refused)
        if rows:
            self._batcher.note_arrivals(len(rows), self._clock.now())
            self._queue.add(rows)
            self._wake.set()

    def _rows(self, pending: Pending) -> list[Row]:
        prepared, group_of = pending.prepared, self._runtime.group_of
        return [
            Row(
                pending.item.id,
                index,
                len(row),
                pending.arrived,
                pending.deadline,
                group_of(prepared.settings_of(index)),
            )
            for index, row in enumerate(prepared.rows)
        ]

    async def _run_stream(self, threads: ThreadPoolExecutor) -> None:
        hold_until: float | None = None
        while True:
            # A row for each stream that is about to choose, or no further one need ask for threads.
            while hold_until is not None or len(self._queue) <= self._choosing:
                self._wake.clear()  # safe: no await since the queue was looked at
                await self._clock.wait(self._wake, hold_until)
                hold_until = None
            self._choosing += 1
            await self._lease.acquire(self._runtime.plan.threads)
            try:
                hold_until = await self._run_next_batch(threads)
            finally:
                self._lease.release(self._runtime.plan.threads)

    async def _run_next_batch(self, threads: ThreadPoolExecutor) -> float | None:
        """Run what the batcher chooses; returns until when to wait if it would rather wait."""
        now = self._clock.now()
        self._choosing -= 1
        self._drop_expired(now)
        chosen = self._batcher.choose(self._queue, now, self._idle_streams)
        if isinstance(chosen, Hold):
            return chosen.until
        if chosen:
            self._queue.take(chosen)
            self._wake.set()  # others may be waiting for what is left
            self._idle_streams -= 1
            try:
                await self._run_batch(chosen, threads)
            finally:
                self._idle_streams += 1
        return None

    async def _run_batch(self, batch: Sequence[Row], threads: ThreadPoolExecutor) -> None:
        rows: list[Any] = []
        settings: list[Any] = []
        started = self._clock.now()
        for row in batch:
            pending = self._pending[row.item_id]
            pending.started = started if pending.started is None else pending.started
            rows.append(pending.prepared.rows[row.index])
            settings.append(pending.prepared.settings_of(row.index))
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(threads, self._runtime.run, rows, settings)
            if len(outputs) != len(rows):
                raise InvariantBroken(f"{len(outputs)} outputs for {len(rows)} rows")
        except InvalidRequest as refused:  # rows of one group are all as wrong as the first
            self._fail({row.item_id for row in batch}, refused)
            return
        except Exception:
            items = {row.item_id for row in batch}
            names = sorted({self._pending[i].item.request_id for i in items if i in self._pending})
            log.exception("batch_failed", rows=len(rows), request_ids=names)
            self._fail(items, ServingError())
            return
        self._book(batch, outputs, (self._clock.now() - started) * 1000)

    def _book(self, batch: Sequence[Row], outputs: Sequence[Any] | Vectors, ms: float) -> None:
        longest = max(row.tokens for row in batch)
        predicted = self._batcher.cost.predict_ms(len(batch), longest)
        self._batcher.cost = self._batcher.cost.observe(Sample(len(batch), longest, ms))
        real = sum(row.tokens for row in batch)
        self._batches.append(BatchRan(len(batch), real, longest * len(batch), ms, predicted))
        complete: list[Pending] = []
        for row, output in zip(batch, outputs, strict=True):
            pending = self._pending.get(row.item_id)
            if pending is None:  # its caller left while the batch ran
                continue
            pending.outputs[row.index] = output
            pending.rows_left -= 1
            if not pending.rows_left:
                pending.finished = self._clock.now()
                complete.append(pending)
        if complete:
            self._finished.put_nowait(complete)

    async def _answer_finished(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            group = await self._finished.get()
            while not self._finished.empty():
                group += self._finished.get_nowait()
            replies = await loop.run_in_executor(thread, self._finish, group)
            owed = [reply for reply in replies if reply.id in self._pending]
            for reply in owed:
                self._forget(reply.id)
            if owed:
                self._reply(owed)

    def _finish(self, group: Sequence[Pending]) -> list[ItemDone | ItemFailed]:
        """Runs off the loop; touches nothing that the loop still changes."""
        return [self._finish_one(pending) for pending in group]

    def _finish_one(self, pending: Pending) -> ItemDone | ItemFailed:
        item = pending.item
        try:
            answer = pending.task.finish(pending.prepared, pending.outputs, item.parameters)
        except ServingError as refused:
            return _failed(item.id, refused)
        except Exception:
            log.exception("finish_failed", version=item.version, request_id=item.request_id)
            return _failed(item.id, ServingError())
        return _done(pending, answer)

    def _drop_expired(self, now: float) -> None:
        # Again after each removal: others moved up into what the batcher considers.
        while expired := self._queue.expired(now, self._batcher.limits.rows_considered):
            self._fail(expired, DeadlineExceeded())

    def _fail(self, ids: Iterable[int], error: ServingError) -> None:
        owed = [item_id for item_id in ids if item_id in self._pending]
        for item_id in owed:
            self._forget(item_id)
        if owed:
            self._reply([_failed(item_id, error) for item_id in owed])

    def _forget(self, item_id: int) -> None:
        pending = self._pending.pop(item_id, None)
        if pending is not None:
            self._queue.drop(item_id, len(pending.prepared.rows))


def _failed(item_id: int, error: ServingError) -> ItemFailed:
    return ItemFailed(item_id, error.code, str(error))


def _done(pending: Pending, answer: Answer) -> ItemDone:
    started = pending.arrived if pending.started is None else pending.started
    finished = started if pending.finished is None else pending.finished
    return ItemDone(
        id=pending.item.id,
        value=answer.value,
        metadata=dict(answer.metadata),
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        queue_ms=(started - pending.arrived) * 1000,
        compute_ms=(finished - started) * 1000,
    )
