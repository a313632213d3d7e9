"""Which servers of this machine still live, so that what a dead one held is taken back at once.

Every server has a file of its own in a folder that all of the machine share, and holds a lock on it
that the kernel lets go when the process ends, however it ends.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".owner"


class Owner:
    """One server among those who share a queue. name: what its leases are under."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self.name = secrets.token_hex(12)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        making = folder / f"{self.name}.new"
        self._descriptor = os.open(making, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._is_open = True
        # Only now can others see it: nobody finds it unlocked while we live.
        making.rename(self._path(self.name))

    def dead(self) -> Iterator[str]:
        """Names of owners that have ended; each once more until it is forgotten."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stem != self.name and _is_free(path):
                yield path.stem

    def forget(self, name: str) -> None:
        """Whatever a dead one held was taken back."""
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held any more. A second time does nothing. Where its file cannot be deleted,
        the next server takes back what it held, which is nothing."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(OSError):
                self.forget(self.name)
            os.close(self._descriptor)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"


def _is_free(path: Path) -> bool:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return False
