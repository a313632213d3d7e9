"""How many CPUs this process may use."""

import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(quota_file: Path = CPU_QUOTA) -> int:
    """CPUs this process may run on, at most as many as a container's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _cpu_quota(quota_file) or allowed or 1))


def _cpu_quota(quota_file: Path) -> int | None:
    """Whole CPUs of a cgroup's quota, rounded up; None where there is none."""
    try:
        quota, period = quota_file.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or `max`
        return None
