"""How far a download is: a bar on a terminal, log lines elsewhere, a list in tests."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

Moved = Callable[[int, int], None]
"""Called with the bytes done so far and the total (0 where it is unknown)."""

_log = structlog.get_logger(__name__)


class Progress(Protocol):
    """Shows transfers, one at a time."""

    def transfer(self, name: str) -> AbstractContextManager[Moved]:
        """Shown as begun on entry, as done on a clean exit, as neither when it raises."""


class LogProgress:
    """A line at the start, at each further quarter, and at the end."""

    @contextmanager
    def transfer(self, name: str) -> Iterator[Moved]:
        started = time.monotonic()
        quarter, total = 0, 0

        def moved(done_bytes: int, total_bytes: int) -> None:
            nonlocal quarter, total
            total = total_bytes
            reached = 4 * done_bytes // total_bytes if total_bytes else 0
            if quarter < reached < 4:
                _log.info("fetching", source=name, percent=25 * reached, total_bytes=total_bytes)
            quarter = max(quarter, reached)

        _log.info("fetching", source=name, percent=0)
        yield moved
        seconds = round(time.monotonic() - started, 1)
        _log.info("fetched", source=name, total_bytes=total, seconds=seconds)


class TerminalProgress:
    """A bar with size and speed on stderr."""

    @contextmanager
    def transfer(self, name: str) -> Iterator[Moved]:
        columns = (
            TextColumn("fetching {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total or None)


def progress_for_stderr() -> Progress:
    """The bar where somebody can see it, log lines where nobody can."""
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()
