"""Refusing below the application while the server cannot read as fast as it is asked.

A full queue is refused by the application, which has read the request by then. Where even that
takes too long, requests wait unread in their sockets, and every answer is late by that. So once the
event loop has been late for a while, those that it reaches late are refused from their header
alone, for a fraction of the work. Only POST is: probes and metrics always pass.
"""

import asyncio
import time
from typing import Any

from app.api.deps import PRIORITIES, PRIORITY_HEADER
from app.api.limits import Limits, overloaded, refusal_bytes
from app.api.protocol import LimitedConfig, LimitedProtocol, Reading
from app.core.types import Priority

TICK_S = 0.01
TARGET_S = 0.025  # the loop is late when it comes so long after its time
PERSISTS_S = 0.3  # one long callback is no overload
RELIEF_S = 1.0
PATIENCE_S = {Priority.INTERACTIVE: 0.2, Priority.NORMAL: TARGET_S, Priority.BATCH: TARGET_S}
MAX_BODY_BYTES = 64 * 2**10  # of what is read to the end although it is refused
_PRIORITY = PRIORITY_HEADER.lower().encode("ascii")
_CLASSES = {name.encode("ascii"): priority for name, priority in PRIORITIES.items()}
_TOO_LATE = overloaded("The server is asked more than it can read; try again later.")


class Lateness:
    """How late the event loop is, and whether that is overload. Seconds; no clock of its own.

    Whoever owns it calls `tick` every `TICK_S`, as exactly as the loop manages.
    """

    def __init__(self, now: float) -> None:
        self._due = now + TICK_S
        self._late = 0.0
        self._since: float | None = None  # late at every look since then
        self._last = now  # when it was late last
        self._is_overloaded = False

    def tick(self, now: float) -> None:
        self._late = now - self._due
        self._due = now + TICK_S
        self._look(self._late, now)

    def is_too_late(self, now: float, priority: Priority) -> bool:
        """Whether a request of this class that is reached now is to be refused."""
        late = max(self._late, now - self._due)
        self._look(late, now)
        return self._is_overloaded and late > PATIENCE_S[priority]

    def _look(self, late: float, now: float) -> None:
        if late > TARGET_S:
            self._last = now
            if self._since is None:
                self._since = now - late
            if now - self._since >= PERSISTS_S:
                self._is_overloaded = True
        else:
            self._since = None
            if now - self._last > RELIEF_S:
                self._is_overloaded = False


class SheddingConfig(LimitedConfig):
    """A configuration whose connections shed load together while somebody runs `watch`."""

    def __init__(self, app: Any, limits: Limits, **options: Any) -> None:
        super().__init__(app, limits, protocol=SheddingProtocol, **options)
        self.lateness = Lateness(time.monotonic())

    async def watch(self) -> None:
        """Look at the event loop until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.lateness.tick(time.monotonic())


class SheddingProtocol(LimitedProtocol):
    """One connection of a server that sheds load."""

    def __init__(self, config: SheddingConfig, *others: Any, **named: Any) -> None:
        super().__init__(config, *others, **named)
        self._lateness = config.lateness
        self._is_shed = False  # whether the request that is being received is

    def on_headers_complete(self) -> None:
        if self._may_shed() and self._lateness.is_too_late(time.monotonic(), self._priority()):
            self._is_shed = True
            self._begin(Reading.BODY, self._heard)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_shed:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_shed:
            super().on_message_complete()
            return
        self._is_shed = False
        self._begin(Reading.NOTHING, self._heard)
        self._served = True
        self._occupancy.note_shed()
        self.write_counted(refusal_bytes(_TOO_LATE, closes=False))

    def _may_shed(self) -> bool:
        """Whether the next answer of the connection may be given here, and soon."""
        length = self._header(b"content-length")
        return (
            self.parser.get_method() == b"POST"
            and not self._unanswered
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.should_keep_alive()
            and length.isdigit()
            and int(length) <= MAX_BODY_BYTES
        )

    def _priority(self) -> Priority:
        return _CLASSES.get(self._header(_PRIORITY), Priority.NORMAL)

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.headers if name == wanted), b"")
