"""Folders that are whole or not there: made in a draft, put on disk, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Draft:
    """folder: what is to be published. scratch: for whatever else the making writes."""

    folder: Path
    scratch: Path

    def publish(self, place: Path) -> None:
        """Whatever is there already is replaced."""
        self.folder.chmod(0o755)
        _put_on_disk(self.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(self.folder, place)


class Drafts:
    """Unfinished work by key. Only who holds the lock of a key may use it."""

    def __init__(self, temp: Path) -> None:
        self._temp = temp

    def clear(self, key: str) -> None:
        """What is there for this key was left by the killed."""
        for left in self._temp.glob(f"{key}-*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def begin(self, key: str) -> Iterator[Draft]:
        """Two new folders, which are gone at the end."""
        self._temp.mkdir(parents=True, exist_ok=True)
        folder, scratch = (
            Path(tempfile.mkdtemp(prefix=f"{key}-", dir=self._temp)) for _ in range(2)
        )
        try:
            yield Draft(folder, scratch)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)


def _put_on_disk(folder: Path) -> None:
    """So that a power cut after the rename finds whole files."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
