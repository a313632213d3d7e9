"""Files and batches as their callers see them. What runs batches is batches/runner.py."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog

from app.batches.contents import Contents, Incoming
from app.batches.runner import BatchRunner
from app.batches.status import Batch, Purpose, StoredFile, check_room, new_file_id
from app.batches.store import BatchStore, Page
from app.core.disk import RETRY_S, words_for
from app.core.errors import (
    BatchNotFound,
    InvalidRequest,
    StorageUnavailable,
    StoredFileNotFound,
)

log = structlog.get_logger()

WINDOW, WINDOW_S = "24h", 86_400.0
_READ_BYTES = 256 * 2**10


class Upload:
    """A file that comes in. `write`, then `keep` once."""

    def __init__(
        self, caller: str, kept: int, incoming: Incoming, file_id: str, service: "BatchService"
    ) -> None:
        """kept: bytes of the caller's files."""
        self._caller = caller
        self._kept = kept
        self._incoming = incoming
        self._file_id = file_id
        self._service = service
        self.is_kept = False

    async def write(self, data: bytes) -> None:
        """Raises CallerFilesFull, StorageUnavailable."""
        self._service.check_room(self._kept, self._incoming.size + len(data))
        try:
            await asyncio.to_thread(self._incoming.write, data)
        except OSError as error:
            raise _not_kept(error) from error

    async def keep(self, filename: str, keep_s: float | None) -> StoredFile:
        """Returns when the file is durable. keep_s: None for the server's own choice. Raises
        CallerFilesFull, for others may have come in meanwhile, and StorageUnavailable."""
        try:
            sha256 = await asyncio.to_thread(self._incoming.finish)
        except OSError as error:
            raise _not_kept(error) from error
        file = self._service.described(
            self._file_id, self._caller, filename, self._incoming.size, sha256, keep_s
        )
        await self._service.note(file)
        self.is_kept = True
        return file


class BatchService:
    """`start` in the event loop; `stop` before the services that lines are run by.

    keep_s: how long files are kept where their callers say nothing. caller_bytes: most of all files
    of one caller.
    """

    def __init__(
        self,
        store: BatchStore,
        contents: Contents,
        runner: BatchRunner,
        keep_s: float,
        caller_bytes: int,
    ) -> None:
        self._store = store
        self._contents = contents
        self._runner = runner
        self._keep_s = keep_s
        self._caller_bytes = caller_bytes
        self._is_stopping = False

    def start(self) -> None:
        self._runner.start()

    def begin_stop(self) -> None:
        self._is_stopping = True
        self._runner.begin_stop()

    async def stop(self, grace_s: float) -> None:
        await self._runner.stop(grace_s)

    # --- files

    @asynccontextmanager
    async def receiving(self, caller: str, least: int = 1) -> AsyncGenerator[Upload, None]:
        """A file to be written; it is gone at the end unless it was kept. least: bytes that it
        will have. Raises CallerFilesFull, StorageUnavailable."""
        self._refuse_while_stopping()
        kept = await self._store.caller_bytes(caller, time.time())
        self.check_room(kept, least)
        file_id = new_file_id()
        try:
            incoming = await asyncio.to_thread(self._contents.receive, file_id)
        except OSError as error:
            raise _not_kept(error) from error
        upload = Upload(caller, kept, incoming, file_id, self)
        try:
            yield upload
        finally:
            await asyncio.to_thread(incoming.close, is_kept=upload.is_kept)

    def described(
        self,
        file_id: str,
        caller: str,
        filename: str,
        size: int,
        sha256: bytes,
        keep_s: float | None,
    ) -> StoredFile:
        now = time.time()
        expires_at = now + (self._keep_s if keep_s is None else keep_s)
        place = self._contents.place
        return StoredFile(
            file_id, caller, Purpose.BATCH, filename, size, sha256, now, expires_at, place
        )

    def check_room(self, kept: int, more: int) -> None:
        """Raises CallerFilesFull."""
        check_room(kept, more, self._caller_bytes)

    async def note(self, file: StoredFile) -> None:
        """Raises CallerFilesFull."""
        await self._store.add_file(file, self._caller_bytes)

    async def file(self, caller: str, file_id: str) -> StoredFile:
        """Raises StoredFileNotFound."""
        file = await self._store.file(caller, file_id, time.time())
        if file is None:
            raise StoredFileNotFound
        return file

    async def files(self, page: Page) -> Sequence[StoredFile]:
        return await self._store.files(page, time.time())

    async def content(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """Its content in pieces; the first tells whether it can be had. Raises
        StorageUnavailable."""
        if file.place != self._contents.place:
            raise StorageUnavailable("the file is in the folder of another server")
        try:
            opened = await asyncio.to_thread(self._contents.open, file.id)
        except OSError as error:
            raise _not_kept(error) from error
        try:
            while data := await asyncio.to_thread(opened.read, _READ_BYTES):
                yield data
        finally:
            opened.close()

    async def delete_file(self, caller: str, file_id: str) -> None:
        """Nobody finds it then; a content that the disk keeps is deleted at the next start.

        Raises StoredFileNotFound, FileInUse."""
        file = await self._store.delete_file(caller, file_id, time.time())
        if file is None:
            raise StoredFileNotFound
        if file.place == self._contents.place:
            try:
                await asyncio.to_thread(self._contents.delete, [file_id])
            except OSError as error:
                log.error("file_failed", error=type(error).__name__, reason=error.strerror)

    # --- batches

    async def create(
        self,
        caller: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        keep_s: float | None,
        models: frozenset[str] | None = None,
    ) -> Batch:
        """It is validated after this. Raises StoredFileNotFound, InvalidRequest for one of ours."""
        self._refuse_while_stopping()
        file = await self.file(caller, input_file_id)
        if file.purpose is not Purpose.BATCH:
            raise InvalidRequest(
                f"input_file_id names a file whose purpose is {file.purpose}; upload one for batch"
            )
        now = time.time()
        batch = Batch(
            caller=caller,
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=WINDOW,
            keep_s=self._keep_s if keep_s is None else keep_s,
            created_at=now,
            expires_at=now + WINDOW_S,
            place=file.place,
            metadata=metadata,
            models=models,
        )
        await self._store.add(batch)
        self._runner.wake()
        return batch

    async def batch(self, caller: str, batch_id: str) -> Batch:
        """Raises BatchNotFound."""
        return _found(await self._store.get(caller, batch_id))

    async def batches(self, page: Page) -> Sequence[Batch]:
        return await self._store.page(page)

    async def cancel(self, caller: str, batch_id: str) -> Batch:
        """What was answered is kept. Raises BatchNotFound, NotCancellable."""
        batch = _found(await self._store.cancel(caller, batch_id, time.time()))
        self._runner.cancel(batch_id)
        self._runner.wake()
        return batch

    def _refuse_while_stopping(self) -> None:
        if self._is_stopping:
            raise StorageUnavailable("the server is stopping; ask another", retry_after_s=5.0)


def _found(batch: Batch | None) -> Batch:
    if batch is None:
        raise BatchNotFound
    return batch


def _not_kept(error: OSError) -> StorageUnavailable:
    log.error("file_failed", error=type(error).__name__, reason=error.strerror)
    return StorageUnavailable(words_for(error), retry_after_s=RETRY_S)
