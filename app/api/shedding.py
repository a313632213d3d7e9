"""Refusing below the application while the server is asked for more than it can even read.

A full queue is refused by the application, which has read the request by then; that costs six times
what a refusal from the header alone costs. So under pressure (the event loop comes late, or reading
and refusing keep half a core busy that models could use) a request is refused here

- when the loop is so late that the request has waited unread, or
- with the probability that its caller's requests of that class are refused anyway: of those who get
  `ACCEPTS_TIMES` the answers that they ask for, nothing ("Handling Overload" in Site Reliability
  Engineering, O'Reilly 2016: adaptive throttling).

Only POST is: probes and metrics always pass.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from app.api.deps import CALLER_HEADER, PRIORITIES, PRIORITY_HEADER
from app.api.limits import Limits, overloaded, refusal_bytes
from app.api.protocol import LimitedConfig, LimitedProtocol, Reading
from app.core.types import Priority

TICK_S = 0.01
TARGET_S = 0.025  # the loop is late when it comes so long after its time
PERSISTS_S = 0.3  # one long callback is no overload
RELIEF_S = 1.0
PATIENCE_S = {Priority.INTERACTIVE: 0.2, Priority.NORMAL: TARGET_S, Priority.BATCH: TARGET_S}
BUSY_CORES = 0.5
LOOK_S = 0.5  # how often that is judged, and the past of callers halved
ACCEPTS_TIMES = 1.5
MAX_BODY_BYTES = 64 * 2**10  # of what is read to the end although it is refused
_PRIORITY, _CALLER = (name.lower().encode("ascii") for name in (PRIORITY_HEADER, CALLER_HEADER))
_CLASSES = {name.encode("ascii"): priority for name, priority in PRIORITIES.items()}
_TOO_LATE = overloaded("The server is asked for more than it can read; try again later.")

Who = tuple[bytes, Priority]


class Pressure:
    """Whether the server's own process is short of time. Seconds; no clock of its own.

    Whoever owns it calls `tick` every `TICK_S`, as exactly as the loop manages. used_s: CPU time
    of the process.
    """

    def __init__(self, now: float, used_s: float) -> None:
        self._due = now + TICK_S
        self._late = 0.0
        self._since: float | None = None  # late at every look since then
        self._last = now  # when it was late last
        self._looked, self._used_s = now, used_s
        self.is_late = False
        self.is_busy = False

    def tick(self, now: float, used_s: float) -> None:
        self._late = now - self._due
        self._due = now + TICK_S
        self._look(self._late, now)
        if now - self._looked >= LOOK_S:
            self.is_busy = used_s - self._used_s > BUSY_CORES * (now - self._looked)
            self._looked, self._used_s = now, used_s

    def lateness(self, now: float) -> float:
        """How long what is reached now has waited for the loop."""
        late = max(self._late, now - self._due)
        self._look(late, now)
        return late

    def _look(self, late: float, now: float) -> None:
        if late > TARGET_S:
            self._last = now
            if self._since is None:
                self._since = now
            if now - self._since >= PERSISTS_S:
                self.is_late = True
        else:
            self._since = None
            if now - self._last > RELIEF_S:
                self.is_late = False


class Shares:
    """What each caller asked lately and what of that was taken."""

    def __init__(self) -> None:
        self._asked: dict[Who, float] = {}
        self._taken: dict[Who, float] = {}

    @property
    def known(self) -> int:
        """Callers remembered, by class."""
        return len(self._asked)

    def ask(self, who: Who) -> float:
        """Note a request. The probability with which it may be refused unread."""
        asked = self._asked[who] = self._asked.get(who, 0.0) + 1
        return max(0.0, 1 - (ACCEPTS_TIMES * self._taken.get(who, 0.0) + 1) / asked)

    def take(self, who: Who) -> None:
        """A request was not refused."""
        self._taken[who] = self._taken.get(who, 0.0) + 1

    def fade(self) -> None:
        """What lies back counts half."""
        self._asked = {who: count / 2 for who, count in self._asked.items() if count >= 1}
        taken = self._taken.items()
        self._taken = {who: count / 2 for who, count in taken if who in self._asked}


class Shedding:
    """Decides for all connections of a server; runs while somebody awaits `watch`."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._pressure = Pressure(time.monotonic(), time.process_time())
        self._shares = Shares()
        self._draw = draw

    async def watch(self) -> None:
        """Look at the event loop until cancelled."""
        faded = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._pressure.tick(now, time.process_time())
            if now - faded >= LOOK_S:
                faded = now
                self._shares.fade()

    def sheds(self, who: Who) -> bool:
        refused_anyway = self._shares.ask(who)
        late_s = self._pressure.lateness(time.monotonic())
        if self._pressure.is_late and late_s > PATIENCE_S[who[1]]:
            return True
        is_pressed = self._pressure.is_late or self._pressure.is_busy
        return is_pressed and self._draw() < refused_anyway

    def take(self, who: Who) -> None:
        self._shares.take(who)


class SheddingConfig(LimitedConfig):
    """A configuration whose connections shed load together."""

    def __init__(
        self, app: Any, limits: Limits, shedding: Shedding | None = None, **options: Any
    ) -> None:
        super().__init__(app, limits, protocol=SheddingProtocol, **options)
        self.shedding = shedding or Shedding()


class SheddingProtocol(LimitedProtocol):
    """One connection of a server that sheds load."""

    def __init__(self, config: SheddingConfig, *others: Any, **named: Any) -> None:
        super().__init__(config, *others, **named)
        self._shedding = config.shedding
        self._is_shed = False  # whether the request that is being received is
        self._who: Who | None = None  # asked last, with nothing unanswered before it

    def on_headers_complete(self) -> None:
        self._who = self._asker() if self._may_shed() else None
        if self._who is not None and self._shedding.sheds(self._who):
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
        self.write_counted(refusal_bytes(_TOO_LATE, self.url, closes=False))

    def answering(self, status: bytes) -> None:
        if self._who is not None and status not in (b"429", b"503"):
            self._shedding.take(self._who)
        self._who = None

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

    def _asker(self) -> Who:
        """By name or else by address, and class; who is malformed is refused later anyway."""
        name = self._header(_CALLER)[:64]
        address = b"" if self.client is None else b"/" + self.client[0].encode()
        return name or address, _CLASSES.get(self._header(_PRIORITY), Priority.NORMAL)

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.headers if name == wanted), b"")
