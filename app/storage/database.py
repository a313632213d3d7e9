"""A database for callers on the event loop: writes in groups by one thread, reads by a few.

Charter: when a transaction begins and ends is decided here; what happens in it is the business of
whoever calls. `work` gets a connection inside a transaction, does its statements and returns; it
neither commits nor rolls back, and may be run a second time after a first one was undone.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, DataError, IntegrityError

from app.core.disk import RETRY_S
from app.core.errors import Overloaded, StorageUnavailable
from app.storage.engines import Engines
from app.storage.trouble import reason_of, told

log = structlog.get_logger()

T = TypeVar("T")
Work = Callable[[Connection], T]

MOST_IN_GROUP = 256
MOST_WAITING = 20_000
READERS = 4
# What a statement did to itself; everything else that a driver raises is the database's state.
_OF_THE_STATEMENT = (IntegrityError, DataError)


@dataclass(slots=True)
class _Write:
    work: Work[Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """Bound to the event loop that makes it. Close it before the loop ends."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._is_open = True
        self._readers = ThreadPoolExecutor(READERS, "storage-read")
        self._writer = threading.Thread(target=self._write_all, name="storage-write", daemon=True)
        self._writer.start()

    @property
    def is_postgres(self) -> bool:
        return self._engines.is_postgres

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction that it may share with others; return when it is durable.

        Its own errors are raised and undo what it did alone. Raises StorageUnavailable where the
        database failed (whether it was committed is then unknown), Overloaded where too many wait.
        """
        if not self._is_open:
            raise StorageUnavailable("the server stops")
        if self._writes.qsize() >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} writes wait for the database; try again later")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._writes.put(_Write(work, answer))
        return await answer

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a transaction that only reads. Raises StorageUnavailable, and its own."""
        if not self._is_open:
            raise StorageUnavailable("the server stops")
        return await self._loop.run_in_executor(self._readers, self._read, work)

    async def close(self) -> None:
        """Commit what waits, and let go of the database."""
        self._is_open = False
        self._writes.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._engines.dispose()

    def _read(self, work: Work[T]) -> T:
        with self._telling_of_failures(), self._engines.reader.begin() as connection:
            return work(connection)

    def _write_all(self) -> None:
        is_ending = False
        while not is_ending:
            taken = [self._writes.get()]
            with contextlib.suppress(queue.Empty):
                while len(taken) < MOST_IN_GROUP:
                    taken.append(self._writes.get_nowait())
            is_ending = None in taken
            group = [one for one in taken if one is not None and not one.answer.cancelled()]
            if group:
                self._commit(group)
                self._loop.call_soon_threadsafe(_answer, group)

    def _commit(self, group: Sequence[_Write]) -> None:
        """One transaction. Where it fails between its beginning and its commit, each write has one
        of its own; where it does not begin, none would."""
        is_divisible = False
        try:
            with self._telling_of_failures(), self._engines.writing() as connection:
                is_divisible = len(group) > 1
                for one in group:
                    self._attempt(connection, one, is_alone=not is_divisible)
                is_divisible = False
        except Exception as error:
            if is_divisible:
                for one in group:
                    self._commit([one])
            else:
                for one in group:
                    one.error = error

    def _attempt(self, connection: Connection, one: _Write, *, is_alone: bool) -> None:
        """Raises only what concerns the whole transaction."""
        if is_alone:
            one.result = one.work(connection)
            return
        one.result = one.error = None
        try:
            with connection.begin_nested():
                one.result = one.work(connection)
        except DBAPIError as error:
            if not isinstance(error, _OF_THE_STATEMENT):
                raise
            one.error = error
        except Exception as error:
            one.error = error

    @contextlib.contextmanager
    def _telling_of_failures(self) -> Iterator[None]:
        try:
            yield
        except _OF_THE_STATEMENT:
            raise
        except (DBAPIError, TimeoutError, OSError) as error:
            log.error("storage_failed", error=type(error).__name__, reason=reason_of(error))
            raise StorageUnavailable(told(error), retry_after_s=RETRY_S) from error


def _answer(group: Sequence[_Write]) -> None:
    for one in group:
        if one.answer.done():
            continue
        if one.error is not None:
            one.answer.set_exception(one.error)
        else:
            one.answer.set_result(one.result)
