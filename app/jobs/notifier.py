"""Tells those who asked for it that their jobs have ended; tries again, for hours if it must."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from app.core.errors import ServingError
from app.core.job_metrics import JobMetrics
from app.jobs.status import JobView
from app.jobs.webhooks import TIMEOUT_S, Message, Undeliverable, send

log = structlog.get_logger()

AT_ONCE = 8
POLL_S = 1.0
HOLD_S = 3 * TIMEOUT_S
MAX_ATTEMPTS = 10
FIRST_DELAY_S, GROWTH, MOST_DELAY_S = 5.0, 3.0, 3600.0


class Delivery(Protocol):
    """One try. attempts: this one included."""

    @property
    def view(self) -> JobView: ...

    @property
    def url(self) -> str: ...

    @property
    def secret(self) -> str: ...

    @property
    def attempts(self) -> int: ...


class Webhooks(Protocol):
    """sql_webhooks.py has them. Raises StorageUnavailable."""

    async def has_due(self) -> bool: ...

    async def take(self, count: int, hold_s: float) -> Sequence[Delivery]: ...

    async def delivered(self, job_id: str) -> None: ...

    async def failed(self, job_id: str, why: str, delay_s: float | None) -> None: ...


class Notifier:
    """`start`, `stop`. render: the body of the message of a job; now: Unix seconds."""

    def __init__(
        self,
        webhooks: Webhooks,
        render: Callable[[JobView], bytes],
        metrics: JobMetrics,
        now: Callable[[], float],
        *,
        allows_private: bool,
    ) -> None:
        self._webhooks = webhooks
        self._render = render
        self._metrics = metrics
        self._now = now
        self._allows_private = allows_private
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """What is not told by now is told later, by the next server."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def deliver_due(self) -> int:
        """One try of each of some that are due; returns how many."""
        if not await self._webhooks.has_due():
            return 0
        due = await self._webhooks.take(AT_ONCE, HOLD_S)
        await asyncio.gather(*map(self._deliver, due))
        return len(due)

    async def _run(self) -> None:
        while True:
            try:
                while await self.deliver_due():
                    pass
            except ServingError:
                pass  # the database has logged it
            except Exception as error:
                log.error("webhooks_failed", exc_info=error)
            await asyncio.sleep(POLL_S)

    async def _deliver(self, delivery: Delivery) -> None:
        job_id = delivery.view.id
        message = Message(job_id, delivery.url, delivery.secret, self._render(delivery.view))
        try:
            await send(message, self._now(), allows_private=self._allows_private)
        except Undeliverable as failed:
            is_last = failed.is_final or delivery.attempts >= MAX_ATTEMPTS
            delay_s = None if is_last else delay_after(delivery.attempts)
            self._metrics.webhooks.labels("given_up" if is_last else "failed").inc()
            log.warning("webhook_failed", job=job_id, reason=str(failed), is_last=is_last)
            await self._webhooks.failed(job_id, str(failed), delay_s)
        else:
            self._metrics.webhooks.labels("delivered").inc()
            await self._webhooks.delivered(job_id)


def delay_after(attempts: int) -> float:
    """Seconds until the next try, give or take a fifth."""
    delay_s = min(MOST_DELAY_S, FIRST_DELAY_S * GROWTH ** (attempts - 1))
    return delay_s * random.uniform(0.8, 1.2)
