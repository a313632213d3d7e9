"""One at a time among all processes of this machine, by the locks of a store's `locks/`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.5


@contextmanager
def locked(
    path: Path,
    *,
    is_stopped: Callable[[], bool],
    on_wait: Callable[[], None],
    stopped: Exception,
) -> Iterator[None]:
    """Hold the lock of this file, which is made where it is not there and left there.

    While another process holds it: `on_wait` is called once, and `stopped` is raised as soon as
    `is_stopped()`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, preserve_lock_file=True)
    is_waiting = False
    while True:
        try:
            lock.acquire(timeout=POLL_S if is_waiting else 0)
            break
        except Timeout:
            if is_stopped():
                raise stopped from None
            if not is_waiting:
                on_wait()
            is_waiting = True
    try:
        yield
    finally:
        lock.release()
