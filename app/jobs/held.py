"""Jobs that this server runs now, and why it stops with one of them."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from app.jobs.status import Claimed


class Stop(StrEnum):
    """Why a job is stopped before it has ended."""

    CANCELLED = "cancelled"  #: its caller wants it no more
    LOST = "lost"  #: another holds its lease now
    LEAVING = "leaving"  #: the server stops


@dataclass(slots=True, eq=False)
class Held:
    """A job under our lease. work: what runs it, once it does."""

    job: Claimed
    work: "asyncio.Task[object] | None" = None
    stop: Stop | None = None

    def end(self, why: Stop) -> None:
        """The first reason counts."""
        if self.stop is None:
            self.stop = why
            if self.work is not None:
                self.work.cancel()
