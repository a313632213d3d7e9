"""Is this file the one that was pinned? Hashed once, then remembered by size and time.

The memory is a small marker per sha256. It only saves time: a marker that is lost, damaged or
cannot be written (a read-only store) costs one more hashing, never a wrong answer.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec
import structlog

from app.models.spec import ModelFile

_log = structlog.get_logger(__name__)


class _Seen(msgspec.Struct, frozen=True):
    """A file as it was when its hash was right."""

    path: str
    size_bytes: int
    mtime_ns: int


class VerifiedFiles:
    """Checks files against their pins. Markers live in `root/verified`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def problem(self, path: Path, file: ModelFile) -> str | None:
        """What is wrong with the file at `path`, or None. Raises OSError if it cannot be read."""
        if not path.is_file():
            return "is missing"
        seen = self._look(path)
        if seen.size_bytes == file.size_bytes and self._marker(file.sha256) == seen:
            return None
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if (digest, seen.size_bytes) != (file.sha256, file.size_bytes):
            return (
                f"has {seen.size_bytes} bytes and sha256 {digest}, "
                f"not {file.size_bytes} bytes and sha256 {file.sha256}"
            )
        self._remember(file.sha256, seen)
        return None

    def vouch(self, path: Path, sha256: str) -> None:
        """Remember a file that the caller has just hashed."""
        self._remember(sha256, self._look(path))

    def _look(self, path: Path) -> _Seen:
        stat = path.stat()
        # Relative inside the store, so that markers survive when the whole store is moved.
        inside = path.is_relative_to(self._root)
        name = path.relative_to(self._root) if inside else path
        return _Seen(str(name), stat.st_size, stat.st_mtime_ns)

    def _marker(self, sha256: str) -> _Seen | None:
        try:
            text = (self._root / "verified" / f"{sha256}.json").read_bytes()
            return msgspec.json.decode(text, type=_Seen)
        except (OSError, msgspec.DecodeError):
            return None

    def _remember(self, sha256: str, seen: _Seen) -> None:
        folder = self._root / "verified"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as draft:
                draft.write(msgspec.json.encode(seen))
            os.replace(draft.name, folder / f"{sha256}.json")
        except OSError as error:
            _log.debug("verification not remembered", sha256=sha256, reason=str(error))
