"""Whose fault was the death of a process? What is known of it is an argument, but for the counters.

A signal that people and supervisors send, that was not ours, and with no sign of memory having run
out, is nobody's fault: whoever ran is no suspect. Everything else may be an input's doing.
"""

import signal
from dataclasses import dataclass
from pathlib import Path

FROM_PEOPLE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
NEAR_LIMIT = 0.8  # of the memory that it may hold
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Death:
    """One process, ended. status: negative for a signal. was_ours: we had killed it.

    oom_kills_before, oom_kills_after: by the kernel's counters, at its start and its end.
    resident_bytes: by its last beat. limit_bytes: of memory; 0: none.
    """

    status: int
    was_ours: bool
    oom_kills_before: tuple[int, ...]
    oom_kills_after: tuple[int, ...]
    resident_bytes: int = 0
    limit_bytes: int = 0

    @property
    def is_from_outside(self) -> bool:
        """Somebody ended it who knows nothing of what it ran."""
        is_near_limit = self.limit_bytes and self.resident_bytes > NEAR_LIMIT * self.limit_bytes
        return (
            -self.status in FROM_PEOPLE
            and not self.was_ours
            and self.oom_kills_before == self.oom_kills_after
            and not is_near_limit
        )


def oom_counters(pid: int, proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[Path, ...]:
    """Files that count what the kernel ended for memory: of the machine and of the process's group.

    The group's are found while the process lives; version 2 of control groups, or version 1.
    """
    found = [proc / "vmstat"]
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        relative = group.lstrip("/")
        if not controllers:
            found.append(cgroups / relative / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(cgroups / "memory" / relative / "memory.oom_control")
    return tuple(path for path in found if path.is_file())


def oom_kills(counters: tuple[Path, ...]) -> tuple[int, ...]:
    """What they say; -1 for one that does not."""
    return tuple(map(_count, counters))


def _count(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return -1
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else -1
