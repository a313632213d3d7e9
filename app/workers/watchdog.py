"""Is a worker well? What it says of itself, and how long ago. Time is an argument; no I/O.

Stuck is not dead: a process that is stopped, or whose engine never comes back, keeps its items
for ever. It is known by its beats, which its loop sends every second, and by its running batches,
which should end within a multiple of what the cost model predicts. A step of generation holds the
loop, and the reading of a long prompt may take minutes: who is silent but computes is left alone
for a multiple of the time that is given to others.
"""

from dataclasses import dataclass

CHECK_S = 0.5  # how often somebody should ask
RUN_MULTIPLE = 20.0  # of the predicted time; the first batch of an unmeasured shape is slow
BUSY_MULTIPLE = 10.0  # of the time without a beat, for a process that computes
BUSY_CORES = 0.1  # used since the last check; a thread that waits uses none


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """memory_bytes: most resident memory; 0: any."""

    stuck_after_s: float
    memory_bytes: int = 0


@dataclass(slots=True)
class _Run:
    items: frozenset[int]
    since: float
    limit_s: float | None


class Watchdog:
    """Watches one process, from when it has loaded."""

    def __init__(self, limits: WatchLimits, now: float) -> None:
        self._limits = limits
        self._runs: dict[int, _Run] = {}
        self._beat_at = now
        self._busy_at = now
        self._asked_at = now
        self._cpu_s: float | None = None
        self._resident_bytes = 0

    def on_beat(self, resident_bytes: int, now: float) -> None:
        self._beat_at = now
        self._resident_bytes = resident_bytes

    def on_started(self, run: int, items: list[int], predicted_ms: float, now: float) -> None:
        """predicted_ms 0: nobody knows how long it takes, and its time is not watched."""
        limit_s = max(self._limits.stuck_after_s, RUN_MULTIPLE * predicted_ms / 1000)
        self._runs[run] = _Run(frozenset(items), now, limit_s if predicted_ms else None)

    def on_ended(self, run: int) -> None:
        self._runs.pop(run, None)

    @property
    def inside(self) -> frozenset[int]:
        """Items of the runs that have not ended."""
        return frozenset().union(*(run.items for run in self._runs.values()))

    def stuck(self, now: float, cpu_s: float | None) -> str | None:
        """Why the worker must be taken for stuck; None when it need not be.

        cpu_s: processor time that the process has used so far; None where nobody knows.
        """
        self._note_use(now, cpu_s)
        self._forgive_own_absence(now)
        silent_s = now - self._beat_at
        if now - max(self._beat_at, self._busy_at) > self._limits.stuck_after_s:
            return f"gave no sign of life for {silent_s:.1f} s (WORKER_STUCK_AFTER_S)"
        if silent_s > BUSY_MULTIPLE * self._limits.stuck_after_s:
            return (
                f"computed for {silent_s:.1f} s without a sign of life "
                f"({BUSY_MULTIPLE:g} times WORKER_STUCK_AFTER_S)"
            )
        for run in self._runs.values():
            if run.limit_s is not None and now - run.since > run.limit_s:
                return (
                    f"has run one batch of {len(run.items)} inputs for {now - run.since:.1f} s, "
                    f"its limit is {run.limit_s:.1f} s (WORKER_STUCK_AFTER_S)"
                )
        return None

    def too_large(self) -> str | None:
        """Why the worker holds more memory than it may."""
        limit = self._limits.memory_bytes
        if not limit or self._resident_bytes <= limit:
            return None
        return (
            f"held {self._resident_bytes / 2**20:.0f} MB of memory, its limit is "
            f"{limit / 2**20:.0f} MB (WORKER_MEMORY_LIMIT_MB)"
        )

    def _note_use(self, now: float, cpu_s: float | None) -> None:
        if cpu_s is not None and self._cpu_s is not None:
            passed_s = now - self._asked_at
            if passed_s > 0 and cpu_s - self._cpu_s >= BUSY_CORES * passed_s:
                self._busy_at = now
        self._cpu_s = cpu_s

    def _forgive_own_absence(self, now: float) -> None:
        """A server that was itself stopped or swamped has not read what its workers said."""
        absent_s = now - self._asked_at - 2 * CHECK_S
        self._asked_at = now
        if absent_s > 0:
            self._beat_at = min(now, self._beat_at + absent_s)
            self._busy_at = min(now, self._busy_at + absent_s)
            for run in self._runs.values():
                run.since = min(now, run.since + absent_s)
