"""Who waits for news of a job is told, at once by those who run it here."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator


class Watch:
    """News have no content: whoever is woken reads the job."""

    def __init__(self) -> None:
        self._watching: dict[str, set[asyncio.Event]] = defaultdict(set)

    @property
    def job_ids(self) -> list[str]:
        return list(self._watching)

    @contextlib.contextmanager
    def on(self, job_id: str) -> Iterator[asyncio.Event]:
        """Set whenever the job has changed. Read the job after you began to watch it."""
        event = asyncio.Event()
        self._watching[job_id].add(event)
        try:
            yield event
        finally:
            self._watching[job_id].discard(event)
            if not self._watching[job_id]:
                del self._watching[job_id]

    def changed(self, job_id: str) -> None:
        for event in self._watching.get(job_id, ()):
            event.set()
