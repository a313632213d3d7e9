"""What can only be asked of the kernel, not waited for by an event."""

import time
from collections.abc import Callable

import psutil


def living(pid: int) -> bool:
    """Whether a process still runs; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], what: str, bound_s: float) -> float:
    """Seconds until it was so. For what can only be asked, not waited for."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > bound_s:
            raise AssertionError(f"{what} did not come within {bound_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - started
