"""The port of the store of files and batches: what it promises, whatever keeps it.

Contents of files are not kept here but in folders (contents.py). Every method raises
StorageUnavailable where the database cannot be used now; whether a change was made is then unknown,
and all of them may be called again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.batches.status import Batch, BatchStatus, Counts, Problem, Purpose, StoredFile


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a caller's files or batches. after: the id that the page begins behind."""

    caller: str
    limit: int
    after: str | None = None
    is_ascending: bool = False
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all callers and servers. open: batches that have not ended; files: how many, and their
    bytes. What there is none of is 0."""

    open: Mapping[BatchStatus, int]
    oldest_s: float
    files: Mapping[Purpose, tuple[int, int]]


class FileStore(Protocol):
    async def add_file(self, file: StoredFile, caller_bytes: int | None = None) -> None:
        """caller_bytes: most that all files of its caller may have. Raises CallerFilesFull."""

    async def caller_bytes(self, caller: str, now: float) -> int:
        """Of all the caller's files that have not expired."""

    async def file(self, caller: str, file_id: str, now: float) -> StoredFile | None:
        """None where the caller has no such file, or it has expired."""

    async def files(self, page: Page, now: float) -> list[StoredFile]: ...

    async def delete_file(self, caller: str, file_id: str, now: float) -> StoredFile | None:
        """What was deleted. Raises FileInUse."""

    async def delete_expired(self, now: float) -> list[StoredFile]:
        """Files, and batches that have been kept for long; a thousand of each at most."""

    async def known(self, file_ids: Iterable[str]) -> set[str]:
        """Those that count: files, and outputs that open batches are about to have."""


class BatchStore(FileStore, Protocol):
    async def add(self, batch: Batch) -> None: ...

    async def get(self, caller: str, batch_id: str) -> Batch | None: ...

    async def page(self, page: Page) -> list[Batch]: ...

    async def open_in(self, place: str) -> list[Batch]:
        """Those to be run by whoever has that folder; who came first is first."""

    async def reread(self, batch_id: str) -> Batch | None: ...

    async def figures(self, now: float) -> Figures: ...

    async def begin(self, batch_id: str, total: int, now: float) -> bool:
        """From validating to in progress; False where it was cancelled meanwhile."""

    async def fail(self, batch_id: str, problems: Sequence[Problem], now: float) -> bool: ...

    async def note_counts(self, batch_id: str, counts: Counts) -> BatchStatus | None:
        """Its status now; None where it is gone."""

    async def cancel(self, caller: str, batch_id: str, now: float) -> Batch | None:
        """Whoever runs it ends it. Raises NotCancellable. None where the caller has no such."""

    async def conclude(self, batch_id: str, counts: Counts, *, is_whole: bool, now: float) -> Batch:
        """No more lines are run. Chooses names of the outputs, once; is_whole: all lines were."""

    async def end(
        self, batch_id: str, status: BatchStatus, outputs: Sequence[StoredFile], now: float
    ) -> None:
        """With the files that there are; nothing happens to one that has ended."""
