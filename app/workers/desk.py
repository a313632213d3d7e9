"""Takes inputs in for a worker and hands out their outcomes to be: the ledger's ids, time and room.

Whatever is taken in ends in exactly one outcome, whatever becomes of the worker meanwhile: its
answer, the deadline, the caller leaving, a refusal as poison, or the version given up.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import structlog

from app.core.clock import Clock
from app.core.errors import DeadlineExceeded
from app.core.types import NOBODY, Asker, Done, Outcome
from app.scheduling.admission import Admission
from app.workers.effort import effort_of
from app.workers.ledger import Ledger, OnPiece, OnUsed, Owed
from app.workers.messages import WireItem, pack_inputs


class Desk:
    """One per worker and its successors; at most `limit` inputs at once.

    on_settled: called when an input has got its outcome.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        clock: Clock,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger = Ledger()
        self._admission = Admission(limit, name)
        self._clock = clock
        self._on_settled = on_settled
        self._ids = count(1)

    def note_backlog(self, ms: float, pressed: float) -> None:
        """The worker predicts that what it holds takes so long; see `Admission.note_backlog`."""
        self._admission.note_backlog(ms, pressed)

    @property
    def unanswered(self) -> int:
        return self._admission.in_use

    def submit(
        self,
        version: str,
        text: str,
        parameters: dict[str, Any],
        timeout_ms: float,
        inputs: Mapping[str, Any] | None = None,
        asker: Asker = NOBODY,
        on_piece: OnPiece | None = None,
        on_used: OnUsed | None = None,
    ) -> asyncio.Future[Outcome]:
        """The outcome to be; cancelling it withdraws the input.

        Raises Overloaded, or InvalidRequest for inputs that cannot cross to a worker.
        """
        packed = None if inputs is None else pack_inputs(inputs)
        work = effort_of(text, parameters, inputs)
        is_near = self._admission.acquire(asker, work, timeout_ms)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        now, item_id = self._clock.now(), next(self._ids)
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        item = WireItem(
            item_id,
            version,
            text,
            parameters,
            timeout_ms,
            request_id,
            packed,
            asker.priority,
            asker.caller,
            on_piece is not None,
        )
        timer = loop.call_later(timeout_ms / 1000, self.ledger.expire, item_id)

        def settle(result: Outcome) -> None:
            timer.cancel()
            ended = self._clock.now()
            self._admission.release(ended, asker, work)
            if is_near and (late := _is_late(result)) is not None:
                self._admission.note_end(ended, is_late=late, priority=asker.priority)
            if not outcome.done():  # else its caller left
                outcome.set_result(result)
            self._on_settled()

        outcome.add_done_callback(
            lambda done: self.ledger.leave(item_id) if done.cancelled() else None
        )
        self.ledger.accept(Owed(item, now + timeout_ms / 1000, settle, on_piece, on_used), now)
        return outcome


def _is_late(outcome: Outcome) -> bool | None:
    """None: it ended for other reasons than its turn or its deadline."""
    if isinstance(outcome, Done):
        return False
    return True if isinstance(outcome.error, DeadlineExceeded) else None
