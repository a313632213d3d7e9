"""The lines of one batch are answered: so many at a time, and what they became is kept in groups.

reading    slices of the file, in a thread; lines that have an answer are passed over
asking     each line a task that holds a place until it is answered; who cannot be served now
           waits with its place, so that a server in trouble is asked less
keeping    every `KEEP_S` what was answered since, durably, and then the counts
"""

import asyncio
import random
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from app.batches.lines import Line, LineReader, task_of
from app.batches.results import (
    Numbered,
    Reply,
    Results,
    error_line,
    reply_line,
    request_id_of,
)
from app.batches.status import Batch, BatchStatus, Counts
from app.batches.store import BatchStore
from app.batches.work import Asked, Work
from app.core.batch_metrics import BatchMetrics
from app.core.errors import DeadlineExceeded, StorageUnavailable, TryLater
from app.core.waiting import wait_at_most

log = structlog.get_logger()

KEEP_S, RETRY_S = 0.25, 1.0
LEAST_DELAY_S, MOST_DELAY_S = 0.1, 10.0
MOST_UNKEPT = 512
TOO_LATE = "This request could not be executed before the completion window expired."


class Stop(StrEnum):
    """Why no more lines are answered."""

    CANCELLED = "cancelled"  #: its caller wants it no more
    EXPIRED = "expired"  #: its time has passed
    LEAVING = "leaving"  #: the server stops


@dataclass(slots=True)
class Unkept:
    """What was answered and is not on the disk yet."""

    answers: list[Numbered]
    failures: list[Numbered]

    def __len__(self) -> int:
        return len(self.answers) + len(self.failures)


class Place:
    """One of the room's. It is left once, also by a task that was cancelled before it began."""

    def __init__(self, room: asyncio.Semaphore) -> None:
        self._room = room
        self._is_taken = False

    async def take(self) -> None:
        await self._room.acquire()
        self._is_taken = True

    def leave(self, _: object = None) -> None:
        if self._is_taken:
            self._is_taken = False
            self._room.release()

    async def __aenter__(self) -> None:
        if not self._is_taken:
            await self.take()

    async def __aexit__(self, *_: object) -> None:
        self.leave()


class Answering:
    """`run` once. room: places of all batches; max_bytes: of a line."""

    def __init__(
        self,
        batch: Batch,
        store: BatchStore,
        work: Work,
        room: asyncio.Semaphore,
        folder: Path,
        max_bytes: int,
        metrics: BatchMetrics,
    ) -> None:
        """Reads what was answered before. Raises OSError."""
        self._batch = batch
        self._store = store
        self._work = work
        self._room = room
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._results = Results(folder, batch.id)
        self._answered_before = self._results.numbers
        self._unkept = Unkept([], [])
        self._keeping = asyncio.Lock()
        self._is_over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends = 0.0
        self.stop: Stop | None = None

    @property
    def counts(self) -> Counts:
        return Counts(self._batch.counts.total, *self._results.counts)

    async def run(self, file: BinaryIO, left_s: float) -> None:
        """Returns when all lines are answered and kept, or `end` was called and what was answered
        is kept, or after `left_s`. file: closed by whoever opened it. Raises OSError for it."""
        loop = asyncio.get_running_loop()
        self._ends = loop.time() + left_s
        late = loop.call_later(max(0.0, left_s), self.end, Stop.EXPIRED)
        if left_s <= 0:
            self.end(Stop.EXPIRED)
        keeping = asyncio.create_task(self._keep_on())
        try:
            await self._ask_all(LineReader(file, self._max_bytes))
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            late.cancel()
            self._withdraw()
            self._is_over.set()
            await asyncio.gather(keeping, *self._tasks, return_exceptions=True)

    def end(self, why: Stop, *, at_once: bool = True) -> None:
        """Begin no more lines; at_once: nor wait for those that are being answered.

        The first reason counts."""
        self.stop = self.stop or why
        if at_once:
            self._withdraw()

    async def expire(self, file: BinaryIO) -> None:
        """Answer all lines that have no answer with the reason. Raises OSError for the file."""
        reader, has = LineReader(file, self._max_bytes), self._results.numbers
        while lines := await asyncio.to_thread(reader.slice):
            for line in lines:
                if line.number not in has and line.text is not None:
                    custom_id = task_of(line.text).custom_id
                    text = error_line(
                        self._batch.id, line.number, custom_id, "batch_expired", TOO_LATE
                    )
                    self._unkept.failures.append((line.number, text))
            await self._keep()

    def close(self) -> None:
        self._results.close()

    def _withdraw(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _ask_all(self, reader: LineReader) -> None:
        while self.stop is None and (lines := await asyncio.to_thread(reader.slice)):
            for line in lines:
                if line.number in self._answered_before:
                    continue
                if len(self._unkept) >= MOST_UNKEPT:
                    await self._keep()
                place = Place(self._room)
                await place.take()
                if self.stop is not None:
                    place.leave()
                    return
                task = asyncio.create_task(self._ask(line, place))
                self._tasks.add(task)
                self._metrics.in_flight.inc()
                task.add_done_callback(self._answered)
                task.add_done_callback(place.leave)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._metrics.in_flight.dec()

    async def _ask(self, line: Line, place: Place) -> None:
        """One line, from its place to its answer, or to the end of the batch."""
        try:
            if line.text is None:
                raise msgspec.DecodeError("the line is too long")
            task = task_of(line.text)
        except msgspec.DecodeError as error:  # it was checked, so the file has changed
            log.error("batch_line_damaged", batch=self._batch.id, line=line.number, why=str(error))
            return
        request_id = request_id_of(self._batch.id, line.number)
        asked = self._work.read(self._batch.endpoint, bytes(task.body), self._batch)
        reply = asked if isinstance(asked, Reply) else await self._reply(asked, place, request_id)
        if reply is None:
            return
        text = reply_line(self._batch.id, line.number, task.custom_id, reply, request_id)
        kept = self._unkept.failures if reply.is_failure else self._unkept.answers
        kept.append((line.number, text))

    async def _reply(self, asked: Asked, place: Place, request_id: str) -> Reply | None:
        """The first input has the line's place; each other one takes a place of its own, before
        the next line has one."""
        first = self._insist(asked, 0, place)
        others = (self._insist(asked, at, Place(self._room)) for at in range(1, asked.inputs))
        results = [await first] if asked.inputs == 1 else await asyncio.gather(first, *others)
        return None if None in results else asked.reply(results, request_id)

    async def _insist(self, asked: Asked, position: int, place: Place) -> Any | None:
        """Until the input is served; None where the batch ends before."""
        loop, delay_s = asyncio.get_running_loop(), LEAST_DELAY_S
        async with place:
            while self.stop is None:
                try:
                    return await asked.run(position, self._ends - loop.time())
                except DeadlineExceeded:
                    self.end(Stop.EXPIRED)
                    return None
                except TryLater as later:
                    log.debug("batch_line_put_off", batch=self._batch.id, code=later.code)
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                delay_s = min(2 * delay_s, MOST_DELAY_S)
        return None

    async def _keep_on(self) -> None:
        """It is not cancelled: what a thread has begun to write it would write beside others."""
        while not self._is_over.is_set():
            await wait_at_most(self._is_over, KEEP_S)
            await self._keep()
        await self._keep()  # what was answered while the last was kept

    async def _keep(self) -> None:
        """Returns when all that was answered before is durable; waits for the disk's recovery, but
        not when the server stops: lines without an answer are run again."""
        async with self._keeping:
            if not self._unkept:
                return
            unkept, self._unkept = self._unkept, Unkept([], [])
            while len(unkept):
                try:
                    await self._append(unkept)
                except OSError as error:
                    log.error("batch_results_not_kept", batch=self._batch.id, reason=str(error))
                    if self.stop is Stop.LEAVING:
                        return
                    await asyncio.sleep(RETRY_S)
            await self._tell()

    async def _append(self, unkept: Unkept) -> None:
        """Raises OSError; what was appended before is counted."""
        answers, failures = self._results.counts
        try:
            await asyncio.to_thread(self._results.append, unkept.answers, unkept.failures)
        finally:
            now = self._results.counts
            self._metrics.kept(now[0] - answers, now[1] - failures)

    async def _tell(self) -> None:
        """Counts; and whether it was cancelled, by whichever server."""
        try:
            status = await self._store.note_counts(self._batch.id, self.counts)
        except (StorageUnavailable, TryLater):
            return  # they are told again
        if status in (BatchStatus.CANCELLING, None):
            self.end(Stop.CANCELLED)
