"""Is there room? Asked before a long piece of work, so that it does not fail at its end."""

import shutil
from pathlib import Path

import psutil

from app.core.errors import UnavailableForNow

CGROUP = Path("/sys/fs/cgroup")
SPARE_BYTES = 200 * 10**6  # left free on the disk, for the log, the lock and everybody else


def require_disk(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises UnavailableForNow that says how much is needed and how much is free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + SPARE_BYTES:
        raise UnavailableForNow(
            f"{what} need {_mb(needed_bytes)} in {folder} and {_mb(SPARE_BYTES)} to spare, "
            f"{_mb(free)} are free; make room there or set MODEL_STORE to a larger disk"
        )


def require_memory(needed_bytes: int, what: str, cgroup: Path = CGROUP) -> None:
    """Raises UnavailableForNow that says how much is needed and how much there is."""
    available = available_memory(cgroup)
    if available < needed_bytes:
        raise UnavailableForNow(
            f"{what} needs about {_mb(needed_bytes)} of memory, {_mb(available)} are available; "
            "free some, or prepare it on a larger machine and copy MODEL_STORE"
        )


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that may still be taken: the machine's, or what a container's limit leaves."""
    available: int = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text()) - _reclaimable(cgroup)
    except (OSError, ValueError):  # no cgroup v2, or `max`
        return available
    return min(available, max(0, limit - used))


def _reclaimable(cgroup: Path) -> int:
    """Bytes of files that the kernel keeps in memory as long as nobody needs it."""
    lines = (cgroup / "memory.stat").read_text().splitlines()
    kept = dict(line.split() for line in lines)
    return int(kept.get("inactive_file", 0)) + int(kept.get("active_file", 0))


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
