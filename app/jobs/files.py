"""Large results as files: whole or not there, and found again by job and fence alone."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.storage.folders import sync_folder

_NAME = re.compile(r"(job_[0-9a-f]{32})-([0-9]+)", re.ASCII)


class ResultFiles:
    """All in one folder, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, job_id: str, fence: int, body: bytes) -> None:
        """Returns when it is durable. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(job_id, fence)
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(self._folder)

    def read(self, job_id: str, fence: int) -> bytes:
        """Raises OSError."""
        return self._path(job_id, fence).read_bytes()

    def delete_all(self, named: Iterable[tuple[str, int]]) -> None:
        """By job and fence."""
        for job_id, fence in named:
            self._path(job_id, fence).unlink(missing_ok=True)

    def found(self) -> Iterator[tuple[str, int]]:
        """Job and fence of each, for whoever knows which of them still count."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if named := _NAME.fullmatch(path.name):
                yield named[1], int(named[2])

    def _path(self, job_id: str, fence: int) -> Path:
        return self._folder / f"{job_id}-{fence}"
