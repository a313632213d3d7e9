"""The worker's loop for models that need one forward pass per row.

The way of an item: `submit` notes it -> tokenised off the loop -> its rows wait in the queue -> a
stream leases threads, lets the batcher choose, runs the batch in its thread -> when its last row
is done the task makes the answer off the loop -> `reply`. Rows of all hosted versions share
batches, because they share the weights.

A batch whose run fails is run again in halves, and those in halves, until what is to blame stands
alone: at most 2n - 1 runs for n rows. Between two of them the threads may go to another worker.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import structlog

from app.core.clock import Clock
from app.core.errors import DeadlineExceeded, InvalidRequest, InvariantBroken, ServingError
from app.core.inference import Vectors
from app.runtimes.base import OneShotRuntime
from app.scheduling.batcher import Batcher, Hold
from app.scheduling.queue import Row, RowQueue
from app.tasks.base import OneShotTask, Prepared
from app.workers.lease import LeaseClient
from app.workers.messages import BatchRan, Ended, ItemDone, ItemFailed, Started, WireItem
from app.workers.one_shot_items import Pending, finish_all, prepare_all
from app.workers.replies import Announce, Reply, failed

log = structlog.get_logger()


class OneShotLoop:
    """Owns the queue, the batcher and the streams of one runtime."""

    def __init__(
        self,
        *,
        runtime: OneShotRuntime,
        tasks: Mapping[str, OneShotTask],
        batcher: Batcher,
        lease: LeaseClient,
        reply: Reply,
        announce: Announce,
        clock: Clock,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._batcher = batcher
        self._lease = lease
        self._reply = reply
        self._announce = announce
        self._clock = clock
        self._queue = RowQueue()
        self._pending: dict[int, Pending] = {}
        self._arrivals: asyncio.Queue[list[Pending]] = asyncio.Queue()
        self._finished: asyncio.Queue[list[Pending]] = asyncio.Queue()
        self._run_ids = count(1)
        self._reruns: deque[Sequence[Row]] = deque()  # halves of batches that failed
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
        return len(self._queue) + sum(map(len, self._reruns))

    @property
    def running(self) -> int:
        return self._runtime.plan.streams - self._idle_streams

    @property
    def backlog_ms(self) -> float | None:
        """Predicted time until all that waits is done, at the pace of the latest batches."""
        pace = self._batcher.ms_per_token
        return None if pace is None else self._queue.tokens * pace / self._runtime.plan.streams

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
            group = await _all_of(self._arrivals)
            tokenizer = self._runtime.tokenizer
            results = await loop.run_in_executor(thread, prepare_all, group, tokenizer)
            self._enqueue(group, results)

    def _enqueue(
        self, group: Sequence[Pending], results: Sequence[Prepared | ServingError]
    ) -> None:
        refused: list[ItemFailed] = []
        rows: list[Row] = []
        for pending, result in zip(group, results, strict=True):
            if pending.item.id not in self._pending:  # its caller left meanwhile
                continue
            if isinstance(result, ServingError):
                refused.append(failed(pending.item.id, result))
                continue
            pending.expect(result)
            rows += pending.rows(self._runtime.group_of)
            if not result.rows:
                self._finished.put_nowait([pending])
        self._answer(refused)
        if rows:
            self._batcher.note_arrivals(len(rows), self._clock.now())
            self._queue.add(rows)
            self._wake.set()

    async def _run_stream(self, threads: ThreadPoolExecutor) -> None:
        hold_until: float | None = None
        while True:
            # Work for each stream that is about to choose, or no further one need ask for threads.
            while hold_until is not None or self._choices <= self._choosing:
                self._wake.clear()  # safe: no await since the queue was looked at
                await self._clock.wait(self._wake, hold_until)
                hold_until = None
            self._choosing += 1
            await self._lease.acquire(self._runtime.plan.threads)
            try:
                hold_until = await self._run_next_batch(threads)
            finally:
                self._lease.release(self._runtime.plan.threads)

    @property
    def _choices(self) -> int:
        """How many streams, at most, would find something to run."""
        return len(self._queue) + len(self._reruns)

    async def _run_next_batch(self, threads: ThreadPoolExecutor) -> float | None:
        """Run what the batcher chooses; returns until when to wait if it would rather wait."""
        now = self._clock.now()
        self._choosing -= 1
        chosen, is_pressed = self._next_rerun(now), False
        if not chosen:
            self._drop_expired(now)
            found = self._batcher.choose(self._queue, now, self._idle_streams)
            if isinstance(found, Hold):
                return found.until
            chosen, is_pressed = found or [], self._batcher.is_pressed
            self._queue.take(chosen)
        if chosen:
            self._wake.set()  # others may be waiting for what is left
            self._idle_streams -= 1
            try:
                await self._run_batch(chosen, threads, is_pressed)
            finally:
                self._idle_streams += 1
        return None

    def _next_rerun(self, now: float) -> Sequence[Row]:
        """The next part of a batch that failed, without rows that expired; empty: there is none."""
        late = {row.item_id for part in self._reruns for row in part if row.is_expired(now)}
        self._fail(late, DeadlineExceeded())
        return self._reruns.popleft() if self._reruns else []

    async def _run_batch(
        self, batch: Sequence[Row], threads: ThreadPoolExecutor, is_pressed: bool
    ) -> None:
        rows: list[Any] = []
        settings: list[Any] = []
        started = self._clock.now()
        for row in batch:
            given, setting = self._pending[row.item_id].start(row.index, started)
            rows.append(given)
            settings.append(setting)
        loop = asyncio.get_running_loop()
        run = next(self._run_ids)
        predicted_ms = self._batcher.cost.predict_ms(len(rows), max(row.tokens for row in batch))
        self._announce(Started(run, sorted({row.item_id for row in batch}), predicted_ms))
        try:
            outputs = await loop.run_in_executor(threads, self._runtime.run, rows, settings)
            if len(outputs) != len(rows):
                raise InvariantBroken(f"{len(outputs)} outputs for {len(rows)} rows")
        except Exception as error:
            self._part(batch, error)
        else:
            self._book(batch, outputs, (self._clock.now() - started) * 1000, is_pressed)
        finally:
            self._announce(Ended(run))

    def _part(self, batch: Sequence[Row], error: Exception) -> None:
        """Run a batch that failed again in halves; a row that failed alone is to blame."""
        if len(batch) > 1:
            log.warning("batch_split", rows=len(batch), error=type(error).__name__)
            wanted = [row for row in batch if row.item_id in self._pending]
            half = len(wanted) // 2
            self._reruns.extendleft(filter(None, [wanted[half:], wanted[:half]]))
            self._wake.set()
            return
        item_id = batch[0].item_id
        if isinstance(error, InvalidRequest):
            self._fail([item_id], error)
        elif (pending := self._pending.get(item_id)) is not None:
            item = pending.item
            log.error(
                "row_failed", version=item.version, request_id=item.request_id, exc_info=error
            )
            self._fail([item_id], ServingError())

    def _book(
        self, batch: Sequence[Row], outputs: Sequence[Any] | Vectors, ms: float, is_pressed: bool
    ) -> None:
        longest = max(row.tokens for row in batch)
        real = sum(row.tokens for row in batch)
        predicted = self._batcher.note_ran(len(batch), longest, real, ms)
        padded = longest * len(batch)
        self._batches.append(BatchRan(len(batch), real, padded, ms, predicted, is_pressed))
        complete: list[Pending] = []
        now = self._clock.now()
        for row, output in zip(batch, outputs, strict=True):
            pending = self._pending.get(row.item_id)
            # None: its caller left while the batch ran.
            if pending is not None and pending.take(row.index, output, now):
                complete.append(pending)
        if complete:
            self._finished.put_nowait(complete)

    async def _answer_finished(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            group = await _all_of(self._finished)
            replies = await loop.run_in_executor(thread, finish_all, group)
            self._answer(replies)

    def _drop_expired(self, now: float) -> None:
        self._fail(self._queue.expired(now), DeadlineExceeded())

    def _fail(self, ids: Iterable[int], error: ServingError) -> None:
        self._answer([failed(item_id, error) for item_id in ids])

    def _answer(self, replies: Sequence[ItemDone | ItemFailed]) -> None:
        """Nothing is owed to callers that have left."""
        owed = [reply for reply in replies if reply.id in self._pending]
        for reply in owed:
            self._forget(reply.id)
        if owed:
            self._reply(owed)

    def _forget(self, item_id: int) -> None:
        pending = self._pending.pop(item_id, None)
        if pending is None:
            return
        self._queue.drop(item_id, len(pending.prepared.rows))
        if self._reruns:
            parts = ([row for row in part if row.item_id != item_id] for part in self._reruns)
            self._reruns = deque(filter(None, parts))


async def _all_of(queue: asyncio.Queue[list[Pending]]) -> list[Pending]:
    """What is in the queue, once anything is."""
    group = await queue.get()
    while not queue.empty():
        group += queue.get_nowait()
    return group
