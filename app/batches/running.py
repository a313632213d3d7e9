"""One batch from its file to its end, by whoever holds its lock. Each step may be done again by
another after it was broken off: results are found on the disk, statuses in the database."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from app.batches.answering import Answering, Stop
from app.batches.contents import Contents
from app.batches.lines import Checker, LineReader
from app.batches.results import paths_of
from app.batches.status import (
    Batch,
    BatchStatus,
    Counts,
    Problem,
    Purpose,
    StoredFile,
    check_room,
)
from app.batches.store import BatchStore
from app.batches.work import Work
from app.core.batch_metrics import BatchMetrics
from app.core.errors import CallerFilesFull

log = structlog.get_logger()

Now = Callable[[], float]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """inputs: most lines of all batches that are with the models at a time; lines: most of one
    batch; line_bytes: of one line; caller_bytes: of all files of one caller."""

    inputs: int = 128
    lines: int = 50_000
    line_bytes: int = 8 * 2**20
    caller_bytes: int = 5 * 2**30


@dataclass(frozen=True, slots=True)
class Means:
    """What running a batch takes. folder: of results that grow; room: places of all batches."""

    store: BatchStore
    contents: Contents
    work: Work
    folder: Path
    limits: BatchLimits
    room: asyncio.Semaphore
    metrics: BatchMetrics
    now: Now = time.time


class Running:
    """`run` once."""

    def __init__(self, batch: Batch, means: Means) -> None:
        self._batch = batch
        self._means = means
        self._answering: Answering | None = None
        self._stop: Stop | None = None

    @property
    def caller(self) -> str:
        return self._batch.caller

    def end(self, why: Stop, *, at_once: bool = True) -> None:
        self._stop = self._stop or why
        if self._answering is not None:
            self._answering.end(why, at_once=at_once)

    async def run(self) -> None:
        """Returns when the batch has ended or the server leaves. Raises StorageUnavailable, OSError
        for a disk that is in trouble: try again then."""
        if self._batch.output_id is None:
            try:
                async with self._input() as file:
                    if not await self._answered(file):
                        return
            except FileNotFoundError:
                await self._fail([Problem("input_file_missing", "the input file is gone")])
                return
        await self._publish()

    async def _answered(self, file: BinaryIO) -> bool:
        """Whether the batch is over but for its outputs."""
        means = self._means
        if self._batch.status is BatchStatus.VALIDATING and not await self._validated(file):
            return False
        answering = await asyncio.to_thread(
            Answering,
            self._batch,
            means.store,
            means.work,
            means.room,
            means.folder,
            means.limits.line_bytes,
            means.metrics,
        )
        try:
            return await self._concluded(answering, file)
        finally:
            await asyncio.to_thread(answering.close)

    async def _concluded(self, answering: Answering, file: BinaryIO) -> bool:
        if self._batch.status is BatchStatus.CANCELLING:
            answering.end(Stop.CANCELLED)
        if self._stop is not None:
            answering.end(self._stop)
        self._answering = answering
        await asyncio.to_thread(file.seek, 0)
        await answering.run(file, self._batch.expires_at - self._means.now())
        if answering.stop is Stop.LEAVING:
            return False
        if answering.stop is Stop.EXPIRED:
            await asyncio.to_thread(file.seek, 0)
            await answering.expire(file)
        self._batch = await self._means.store.conclude(
            self._batch.id,
            answering.counts,
            is_whole=answering.stop is None,
            now=self._means.now(),
        )
        return True

    async def _validated(self, file: BinaryIO) -> bool:
        """Whether there is something to run, or a part of an outcome."""
        means, batch = self._means, self._batch
        if (full := await self._no_room()) is not None:
            await self._fail([full])
            return False
        checker = Checker(
            batch.endpoint,
            means.limits.lines,
            means.limits.line_bytes,
            lambda model: means.work.model_problem(batch.endpoint, model),
        )
        reader = LineReader(file, means.limits.line_bytes)
        while self._stop is None and not checker.is_over:
            if not await asyncio.to_thread(_check_slice, reader, checker):
                break
        if self._stop is Stop.LEAVING:
            return False
        if self._stop is None:
            checker.finish()
            if checker.problems:
                await self._fail(checker.problems)
                return False
            if await means.store.begin(batch.id, checker.total, means.now()):
                log.info("batch_begun", batch=batch.id, requests=checker.total)
        self._batch = await means.store.reread(batch.id) or batch
        return self._batch.status.is_open

    async def _no_room(self) -> Problem | None:
        """Outputs cannot be refused once they are there: who has no room for a byte gets none."""
        means, caller = self._means, self._batch.caller
        kept = await means.store.caller_bytes(caller, means.now())
        try:
            check_room(kept, 1, means.limits.caller_bytes)
        except CallerFilesFull as full:
            return Problem(full.code, str(full))
        return None

    async def _fail(self, problems: list[Problem]) -> None:
        """One that was cancelled meanwhile is that."""
        means, batch = self._means, self._batch
        for path in paths_of(means.folder, batch.id):
            path.unlink(missing_ok=True)
        if await means.store.fail(batch.id, problems, means.now()):
            means.metrics.ended.labels(BatchStatus.FAILED.value).inc()
            log.info("batch_ended", batch=batch.id, status="failed", problem=problems[0].code)
        else:
            await means.store.end(batch.id, BatchStatus.CANCELLED, (), means.now())
            means.metrics.ended.labels(BatchStatus.CANCELLED.value).inc()

    async def _publish(self) -> None:
        """Results become files, and the batch ends."""
        means, batch = self._means, self._batch
        outputs = []
        names = (batch.output_id, batch.error_id)
        for path, file_id, kind in zip(
            paths_of(means.folder, batch.id), names, ("output", "error"), strict=True
        ):
            if file_id is None:
                continue
            taken = await asyncio.to_thread(means.contents.take_in, path, file_id)
            if taken is not None:
                outputs.append(self._file(file_id, kind, *taken))
        status = _END.get(batch.status, BatchStatus.EXPIRED)
        await means.store.end(batch.id, status, outputs, means.now())
        means.metrics.ended.labels(status.value).inc()
        log.info("batch_ended", batch=batch.id, status=status.value, **_shown(batch.counts))

    def _file(self, file_id: str, kind: str, size: int, sha256: bytes) -> StoredFile:
        batch, now = self._batch, self._means.now()
        return StoredFile(
            id=file_id,
            caller=batch.caller,
            purpose=Purpose.OUTPUT,
            filename=f"{batch.id}_{kind}.jsonl",
            size=size,
            sha256=sha256,
            created_at=now,
            expires_at=now + batch.keep_s,
            place=batch.place,
        )

    @contextlib.asynccontextmanager
    async def _input(self) -> AsyncIterator[BinaryIO]:
        file = await asyncio.to_thread(self._means.contents.open, self._batch.input_file_id)
        try:
            yield file
        finally:
            file.close()


_END = {
    BatchStatus.FINALIZING: BatchStatus.COMPLETED,
    BatchStatus.CANCELLING: BatchStatus.CANCELLED,
}  # of one whose lines are over; else its time has passed


def _check_slice(reader: LineReader, checker: Checker) -> bool:
    """False at the end of the file."""
    lines = reader.slice()
    checker.check(lines)
    return bool(lines)


def _shown(counts: Counts) -> dict[str, int]:
    return {"requests": counts.total, "answered": counts.completed, "refused": counts.failed}
