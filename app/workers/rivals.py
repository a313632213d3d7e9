"""Whether others used the processors while something was measured on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import psutil

MOST_TAKEN = 0.1  # of what the measured threads could use


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Seconds so far. all: of every process and of other virtual machines; ours: of this one."""

    at: float
    all: float
    ours: float

    @classmethod
    def now(cls) -> "ProcessorTimes":
        every, own = psutil.cpu_times(), psutil.Process().cpu_times()
        # Waiting for a disk keeps no processor busy; guests are counted among users already.
        idle = every.idle + getattr(every, "iowait", 0.0)
        guests = getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)
        return cls(perf_counter(), sum(every) - idle - guests, own.user + own.system)


def taken(before: ProcessorTimes, after: ProcessorTimes, processors: int, threads: int) -> float:
    """Share of `threads` that others left no processor for, 0 to 1.

    processors: of the machine. Others may use those that the threads need not.
    """
    passed = after.at - before.at
    if passed <= 0:
        return 0.0
    others = max(0.0, (after.all - before.all) - (after.ours - before.ours)) / passed
    return min(1.0, max(0.0, others - max(0, processors - threads)) / threads)


class Rivals:
    """Watches over one measurement."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.have_disturbed = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = ProcessorTimes.now()
        yield
        processors = psutil.cpu_count() or self._threads
        share = taken(before, ProcessorTimes.now(), processors, self._threads)
        self.have_disturbed = share > MOST_TAKEN
