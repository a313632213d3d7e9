"""Contents of files: whole or not there, and while they come in under a lock of who writes them.

A lock ends with its process, however that ends, so whatever nobody has locked and no row names was
left behind. The folder has a name of its own: servers that share a database but not the folder
leave each other's files alone.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from app.storage.folders import sync_folder

_PLACE = ".place"
_UNDER_WAY = ".tmp"
_NOT_LOCKED, _NOT_LOCKED_S = ".new", 60.0
_READ_BYTES = 2**20


def try_lock(file: BinaryIO) -> bool:
    """Until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Incoming:
    """A content that is being written. Close it when its row is kept, or when there is none."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._temporary = path.with_suffix(_UNDER_WAY)
        made = path.with_suffix(_NOT_LOCKED)
        self._file = made.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        made.rename(self._temporary)  # only now does anybody ask whose it is
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> bytes:
        """Its SHA-256; the content is durable then, and found by its name. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.rename(self._path)
        sync_folder(self._path.parent)
        return self._digest.digest()

    def close(self, *, is_kept: bool) -> None:
        with contextlib.suppress(OSError):
            if not is_kept:
                self._temporary.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)
            self._file.close()


class Contents:
    """All in one folder, which is made."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self.place = _name_of(folder)

    def receive(self, file_id: str) -> Incoming:
        return Incoming(self._folder / file_id)

    def open(self, file_id: str) -> BinaryIO:
        """Raises OSError."""
        return (self._folder / file_id).open("rb")

    def delete(self, file_ids: Iterable[str]) -> None:
        for file_id in file_ids:
            (self._folder / file_id).unlink(missing_ok=True)

    def take_in(self, path: Path, file_id: str) -> tuple[int, bytes] | None:
        """Make a durable file a content; returns its size and SHA-256, or None where there is none.

        May be called again after it was interrupted. Raises OSError.
        """
        target = self._folder / file_id
        if path.exists():
            path.rename(target)
            sync_folder(self._folder)
        if not target.exists():
            return None
        digest = hashlib.sha256()
        with target.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
            return file.tell(), digest.digest()

    def left_behind(self) -> Iterator[str]:
        """Names that nobody writes to now; most are in order, the others have no row."""
        for path in self._folder.iterdir():
            if path.name == _PLACE:
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                if try_lock(file) and not _is_being_made(path, file):
                    yield path.name


def _is_being_made(path: Path, file: BinaryIO) -> bool:
    """Its lock comes a moment after it."""
    age_s = time.time() - os.fstat(file.fileno()).st_mtime
    return path.suffix == _NOT_LOCKED and age_s < _NOT_LOCKED_S


def _name_of(folder: Path) -> str:
    """The folder's own, made by whoever comes first."""
    path = folder / _PLACE
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii")
    making = folder / f"{_PLACE}{secrets.token_hex(4)}{_UNDER_WAY}"
    making.write_text(secrets.token_hex(12), encoding="ascii")
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(making)
    making.unlink()
    return path.read_text(encoding="ascii")
