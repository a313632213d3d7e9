"""Refusing below the application while the server is asked for more than it can even read.

A full queue is refused by the application, which has read the request by then; that costs six times
what a refusal from the header alone costs. So under pressure (the event loop comes late, or reading
and refusing keep cores busy that models could use) a request is refused here

- when the loop is so late that the request has waited unread, while many come, or
- with the probability that its caller's requests of that class are refused anyway: so many are read
  that some `READ_AT_LEAST` times what the application takes of them reach it (after "Handling
  Overload" in Site Reliability Engineering, O'Reilly 2016: adaptive throttling). When it takes
  nearly all that is read, there is room again, and up to `READ_AT_MOST` times as many are read.

Only POST is: probes and metrics always pass. The refusal leaves after `HELD_S`: clients that ask
again at once would else keep the server busy with nothing but refusing them, and it would not come
out of that by itself.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.api.deps import CALLER_HEADER, PRIORITIES, PRIORITY_HEADER
from app.api.limits import Limits, overloaded, refusal_bytes
from app.api.protocol import LimitedConfig, LimitedProtocol, Reading
from app.core.cpus import usable_cpus
from app.core.types import Priority

TICK_S = 0.01
TARGET_S = 0.025  # the loop is late when it comes so long after its time
PERSISTS_S = 0.3  # one long callback is no overload
RELIEF_S = 1.0
PATIENCE_S = {Priority.INTERACTIVE: 0.2, Priority.NORMAL: TARGET_S, Priority.BATCH: TARGET_S}
BUSY_SHARE, BUSY_CORES = 0.15, 0.5  # of the cores that there are; and at most
LOOK_S = 0.1  # how often that is judged
HALF_LIFE_S = 0.5  # of the past of callers
COALESCED_S = 0.008  # a fraction of what a batch takes
REFUSES_MANY = ASKS_MANY = 20  # in a half-life
READ_AT_LEAST, READ_AT_MOST = 1.2, 2.0
TURNS = 8  # of the loop until a request, or an answer, that has come is through
HELD_S = 0.015
MAX_BODY_BYTES = 64 * 2**10  # of what is read to the end although it is refused
_PRIORITY, _CALLER = (name.lower().encode("ascii") for name in (PRIORITY_HEADER, CALLER_HEADER))
_CLASSES = {name.encode("ascii"): priority for name, priority in PRIORITIES.items()}
_TOO_LATE = overloaded("The server is asked for more than it can read; try again later.")

Who = tuple[bytes, Priority]


class Pressure:
    """Whether the server's own process is short of time. Seconds; no clock of its own.

    Whoever owns it calls `tick` every `TICK_S`, as exactly as the loop manages. used_s: CPU time
    of the process. busy_cores: from so many on that it keeps busy, they are missed elsewhere.
    """

    def __init__(self, now: float, used_s: float, busy_cores: float = BUSY_CORES) -> None:
        self._busy_cores = busy_cores
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
            self.is_busy = used_s - self._used_s > self._busy_cores * (now - self._looked)
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


@dataclass(slots=True)
class _Past:
    """Counts that fade. read: by the application, which `refused` some of them at once."""

    asked: float = 0.0
    read: float = 0.0
    refused: float = 0.0

    def fade(self) -> None:
        self.asked /= 2
        self.read /= 2
        self.refused /= 2

    @property
    def refused_anyway(self) -> float:
        """Share of what is asked next that need not be read."""
        taken = self.read - self.refused
        eagerness = taken * READ_AT_LEAST / self.read if self.read else 1.0
        over = max(0.0, eagerness - 1) / (READ_AT_LEAST - 1)
        times = READ_AT_LEAST + (READ_AT_MOST - READ_AT_LEAST) * over
        return max(0.0, 1 - max(1.0, times * taken) / self.asked) if self.asked else 0.0


class Shares:
    """What each caller asked lately and what of that was taken."""

    def __init__(self) -> None:
        self._pasts: dict[Who, _Past] = {}

    @property
    def known(self) -> int:
        """Callers remembered, by class."""
        return len(self._pasts)

    def ask(self, who: Who) -> float:
        """Note a request. The probability with which it may be refused unread."""
        past = self._pasts.get(who)
        if past is None:
            past = self._pasts[who] = _Past()
        refused_anyway = past.refused_anyway
        past.asked += 1
        return refused_anyway

    def read(self, who: Who) -> None:
        """It went to the application."""
        if (past := self._pasts.get(who)) is not None:
            past.read += 1

    def refuse(self, who: Who) -> None:
        """The application refused it."""
        if (past := self._pasts.get(who)) is not None:
            past.refused = min(past.read, past.refused + 1)

    def fade(self) -> None:
        """What lies back counts half."""
        for who, past in list(self._pasts.items()):
            if past.asked < 1:
                del self._pasts[who]
            past.fade()


class Shedding:
    """Decides for all connections of a server; runs while somebody awaits `watch`."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        busy_cores = min(BUSY_CORES, BUSY_SHARE * usable_cpus())
        self._pressure = Pressure(time.monotonic(), time.process_time(), busy_cores)
        self._shares = Shares()
        self._draw = draw
        self._asked = self._refused = 0  # in the present half-life
        self._is_asked_much = self._is_refusing = False  # in the one before

    async def watch(self) -> None:
        """Look at the event loop until cancelled.

        While many are refused it is kept from looking for requests for `COALESCED_S` at a time, as
        network cards keep from interrupting: those that came meanwhile are handled in one go. To be
        woken for each costs as much again as to refuse it, and the caches of whatever ran. Between
        two such pauses the loop turns so often that what came is handled to its end.
        """
        faded = time.monotonic()
        while True:
            if self._is_short_of_time:
                time.sleep(COALESCED_S)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._pressure.tick(now, time.process_time())
            if now - faded >= HALF_LIFE_S:
                faded = now
                self._shares.fade()
                self._is_refusing, self._refused = self._refused >= REFUSES_MANY, 0
                self._is_asked_much, self._asked = self._asked >= ASKS_MANY, 0

    def sheds(self, who: Who) -> bool:
        refused_anyway = self._shares.ask(who)
        self._asked += 1
        late_s = self._pressure.lateness(time.monotonic())
        if self._is_too_late(late_s, who) or (self._is_pressed and self._draw() < refused_anyway):
            self._refused += 1
            return True
        self._shares.read(who)
        return False

    def _is_too_late(self, late_s: float, who: Who) -> bool:
        """Few requests are not why the loop is late, nor would it be earlier without them."""
        are_many = self._is_asked_much or self._asked > ASKS_MANY
        return are_many and self._pressure.is_late and late_s > PATIENCE_S[who[1]]

    def refuse(self, who: Who) -> None:
        """The application refused what was read of his."""
        self._shares.refuse(who)
        self._refused += 1

    @property
    def _is_pressed(self) -> bool:
        return self._pressure.is_late or self._pressure.is_busy

    @property
    def _is_short_of_time(self) -> bool:
        """For what is worth doing, because of what is refused."""
        return self._pressure.is_busy and self._is_refusing

    @property
    def hold_s(self) -> float:
        """How long a refusal is kept back; it is late enough where the loop is."""
        return 0.0 if self._pressure.is_late else HELD_S


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
        self._held: asyncio.TimerHandle | None = None  # a refusal

    def on_message_begin(self) -> None:
        self._let_go()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        given = dict(reversed(self.headers))  # the first of a name
        self._who = self._asker(given) if self._may_shed(given) else None
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
        self._held = self.loop.call_later(self._shedding.hold_s, self._let_go)

    def _let_go(self) -> None:
        """Answer what was refused, if that is still to be done."""
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self.write_counted(refusal_bytes(_TOO_LATE, self.url, closes=False))

    def shutdown(self) -> None:
        self._let_go()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
        super().connection_lost(exc)

    def answering(self, status: bytes) -> None:
        if self._who is not None and status in (b"429", b"503"):
            self._shedding.refuse(self._who)
        self._who = None

    def _may_shed(self, given: dict[bytes, bytes]) -> bool:
        """Whether the next answer of the connection may be given here, and soon."""
        length = given.get(b"content-length", b"")
        return (
            self.parser.get_method() == b"POST"
            and not self._unanswered
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.should_keep_alive()
            and length.isdigit()
            and int(length) <= MAX_BODY_BYTES
        )

    def _asker(self, given: dict[bytes, bytes]) -> Who:
        """By name or else by address, and class; who is malformed is refused later anyway."""
        name = given.get(_CALLER, b"")[:64]
        address = b"" if self.client is None else b"/" + self.client[0].encode()
        return name or address, _CLASSES.get(given.get(_PRIORITY, b""), Priority.NORMAL)
