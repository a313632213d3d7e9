"""Samples what the threads of a server's workers do, and what the server says that they may."""

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

SAMPLES_PER_S = 20
COMPUTING_SHARE = 0.02  # of the time of its worker: less is a loop that reads and writes messages


class ThreadSampler:
    """A context: samples from entry to exit, 20 times per second.

    A thread that is runnable counts, whether or not it has a core at that moment. Threads that
    hardly ever run (event loops, garbage) are left out of `computing`, by their whole CPU time.
    Loops that read and write messages, and helper threads of the engines that spin for a moment
    after their part of a batch is done, look like computing: a sample may be one above the budget
    for that reason. tests/process/test_cpu_budget.py has the exact proof, on fake runtimes.
    """

    def __init__(self, server: psutil.Process, url: str) -> None:
        self._server = server
        self._url = url
        self._samples: list[tuple[float, set[tuple[int, int]]]] = []
        self._leased: Counter[int] = Counter()
        self._cpu_s: dict[tuple[int, int], float] = {}
        self._first_cpu_s: dict[tuple[int, int], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._started = self._lasted = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._lasted = time.monotonic() - self._started

    def report(self, left_out: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
        """left_out: from when to when workers loaded, which is not under the budget."""
        used = {key: s - self._first_cpu_s[key] for key, s in self._cpu_s.items()}
        computing = {key for key, s in used.items() if s > COMPUTING_SHARE * self._lasted}
        counts = sorted(
            len(runnable & computing)
            for at, runnable in self._samples
            if not any(start <= at <= end for start, end in left_out)
        )
        return {
            "samples": len(counts),
            "most_leased": max(self._leased, default=0),
            "leased_samples": dict(sorted(self._leased.items())),
            "most_computing": counts[-1],
            "p90_computing": counts[int(0.9 * (len(counts) - 1))],
            "computing_samples": dict(Counter(counts)),
            "workers_cpu_per_s": round(sum(used.values()) / self._lasted, 2),
        }

    def _sample(self) -> None:
        while not self._ended.wait(1 / SAMPLES_PER_S):
            runnable = set()
            for key, state, cpu_s in _threads_of(self._server):
                self._first_cpu_s.setdefault(key, cpu_s)
                self._cpu_s[key] = cpu_s
                if state == "R":
                    runnable.add(key)
            self._samples.append((time.monotonic(), runnable))
            if len(self._samples) % SAMPLES_PER_S == 0:
                self._leased[self._leased_now()] += 1

    def _leased_now(self) -> int:
        wanted = urllib.request.Request(
            f"{self._url}/metrics", headers={"Accept": "application/json"}
        )
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return int(json.load(answer)["cpu"]["leased_threads"])


def _threads_of(server: psutil.Process) -> Iterator[tuple[tuple[int, int], str, float]]:
    """(process, thread), state and CPU seconds of every thread of every worker."""
    for worker in server.children():
        for task in Path(f"/proc/{worker.pid}/task").glob("*"):
            try:
                stat = (task / "stat").read_text()
            except OSError:  # it ended
                continue
            fields = stat.rpartition(")")[2].split()
            cpu_s = (int(fields[11]) + int(fields[12])) / 100
            yield (worker.pid, int(task.name)), fields[0], cpu_s
