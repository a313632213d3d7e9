"""The store of files and batches in SQL: which statements share a transaction."""

from collections.abc import Iterable, Sequence
from functools import partial

from sqlalchemy import Connection

from app.batches import sql_batches, sql_figures, sql_files
from app.batches.status import Batch, BatchStatus, Counts, Problem, StoredFile
from app.batches.store import Figures, Page
from app.core.errors import BatchNotFound
from app.storage.database import Database


def _known(file_ids: list[str], connection: Connection) -> set[str]:
    return sql_files.known(connection, file_ids)


class SqlBatchStore:
    """Times are given by whoever calls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_file(self, file: StoredFile, caller_bytes: int | None = None) -> None:
        await self._database.write(lambda c: sql_files.add_within(c, file, caller_bytes))

    async def caller_bytes(self, caller: str, now: float) -> int:
        return await self._database.read(lambda c: sql_files.caller_bytes(c, caller, now))

    async def file(self, caller: str, file_id: str, now: float) -> StoredFile | None:
        return await self._database.read(lambda c: sql_files.get(c, caller, file_id, now))

    async def files(self, page: Page, now: float) -> list[StoredFile]:
        return await self._database.read(lambda c: sql_files.page(c, page, now))

    async def delete_file(self, caller: str, file_id: str, now: float) -> StoredFile | None:
        return await self._database.write(lambda c: sql_files.remove(c, caller, file_id, now))

    async def delete_expired(self, now: float) -> list[StoredFile]:
        return await self._database.write(lambda c: sql_files.remove_expired(c, now))

    async def known(self, file_ids: Iterable[str]) -> set[str]:
        asked = list(file_ids)
        found: set[str] = set()
        for at in range(0, len(asked), sql_files.CHUNK):
            some = asked[at : at + sql_files.CHUNK]
            found |= await self._database.read(partial(_known, some))
        return found

    async def add(self, batch: Batch) -> None:
        await self._database.write(lambda c: sql_batches.add(c, batch))

    async def get(self, caller: str, batch_id: str) -> Batch | None:
        return await self._database.read(lambda c: sql_batches.get(c, batch_id, caller))

    async def page(self, page: Page) -> list[Batch]:
        return await self._database.read(lambda c: sql_batches.page(c, page))

    async def open_in(self, place: str) -> list[Batch]:
        return await self._database.read(lambda c: sql_batches.open_in(c, place))

    async def reread(self, batch_id: str) -> Batch | None:
        return await self._database.read(lambda c: sql_batches.get(c, batch_id))

    async def figures(self, now: float) -> Figures:
        return await self._database.read(lambda c: sql_figures.figures(c, now))

    async def begin(self, batch_id: str, total: int, now: float) -> bool:
        return await self._database.write(lambda c: sql_batches.begin(c, batch_id, total, now))

    async def fail(self, batch_id: str, problems: Sequence[Problem], now: float) -> bool:
        return await self._database.write(lambda c: sql_batches.fail(c, batch_id, problems, now))

    async def note_counts(self, batch_id: str, counts: Counts) -> BatchStatus | None:
        return await self._database.write(lambda c: sql_batches.note_counts(c, batch_id, counts))

    async def cancel(self, caller: str, batch_id: str, now: float) -> Batch | None:
        return await self._database.write(lambda c: sql_batches.cancel(c, caller, batch_id, now))

    async def conclude(self, batch_id: str, counts: Counts, *, is_whole: bool, now: float) -> Batch:
        found = await self._database.write(
            lambda c: sql_batches.conclude(c, batch_id, counts, is_whole=is_whole, now=now)
        )
        if found is None:
            raise BatchNotFound
        return found

    async def end(
        self, batch_id: str, status: BatchStatus, outputs: Sequence[StoredFile], now: float
    ) -> None:
        await self._database.write(lambda c: sql_batches.end(c, batch_id, status, outputs, now))
