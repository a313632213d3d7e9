"""The meters of all keys that asked lately, and where what a call used is told.

A meter goes on as long as its key is the one that the keyring knows. When that is read anew, so is
what the ledger has of its day and month, which is how other servers' usage comes to be known here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.core.errors import StorageUnavailable
from app.keys.key import Key
from app.keys.limits import KeyMeter
from app.keys.quotas import Quotas, day_of
from app.keys.usage import UsageLedger, Use

MOST_METERS = 20_000

SpentOf = Callable[[str], Awaitable[Quotas]]
"""What the ledger has of a key, by its id. Raises StorageUnavailable."""


class Limiter:
    """Decides at once for a key that it knows."""

    def __init__(
        self,
        spent_of: SpentOf,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._spent_of = spent_of
        self._now, self._wall = now, wall
        self._meters: dict[str, tuple[Key, KeyMeter]] = {}
        self._renewing: dict[str, asyncio.Lock] = {}

    def now(self) -> float:
        return self._now()

    def meter_of(self, key_id: str) -> KeyMeter | None:
        known = self._meters.get(key_id)
        return None if known is None else known[1]

    async def enter(self, key: Key) -> KeyMeter | None:
        """Whoever gets a meter ends it. None: the key has no limits.

        Raises RateLimited, QuotaExceeded; StorageUnavailable where a quota cannot be known.
        """
        known = self._meters.get(key.id)
        if known is not None and known[0] is key:
            meter = known[1]
        elif key.terms.limits.is_set:
            meter = await self._renewed(key)
        else:
            self._meters.pop(key.id, None)
            return None
        now = self._now()
        if (refused := meter.refusal(now, self._wall())) is not None:
            raise refused
        meter.begin(now)
        return meter

    def charge(self, key_id: str, use: Use) -> None:
        if (known := self._meters.get(key_id)) is not None:
            known[1].charge(use, self._now(), self._wall())

    async def _renewed(self, key: Key) -> KeyMeter:
        """Once for all who wait for it."""
        lock = self._renewing.setdefault(key.id, asyncio.Lock())
        async with lock:
            known = self._meters.get(key.id)
            if known is not None and known[0] is key:
                return known[1]
            quotas = await self._quotas(key)
            meter = self._kept(key, quotas)  # as it is after the wait
            self._make_room()
            self._meters[key.id] = (key, meter)
            self._renewing.pop(key.id, None)
            return meter

    def _kept(self, key: Key, quotas: Quotas) -> KeyMeter:
        """Whoever began with it ends with it, whatever the key's limits have become."""
        former = self._meters.pop(key.id, None)
        if former is None:
            return KeyMeter(key.terms.limits, quotas)
        former[1].renew(key.terms.limits, quotas, self._now())
        return former[1]

    async def _quotas(self, key: Key) -> Quotas:
        """Nothing is added between the ledger's sums and their return."""
        if not key.terms.limits.has_quota:
            return Quotas(day_of(self._wall()))
        try:
            return await self._spent_of(key.id)
        except StorageUnavailable:
            if (former := self._meters.get(key.id)) is None:
                raise
            return former[1].quotas

    def _make_room(self) -> None:
        """Of those with nothing running, the one that was renewed longest ago goes."""
        if len(self._meters) >= MOST_METERS:
            idle = (key_id for key_id, (_, meter) in self._meters.items() if not meter.running)
            if (oldest := next(idle, None)) is not None:
                del self._meters[oldest]


class Metering:
    """Where the inference service tells what was used."""

    def __init__(
        self, ledger: UsageLedger, limiter: Limiter, on_cost: Callable[[str, str, int], None]
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._on_cost = on_cost

    def add(self, key: str, model: str, version: str, use: Use) -> None:
        self._ledger.add(key, model, version, use)
        if key:
            self._limiter.charge(key, use)
        if use.cost_nanos:
            self._on_cost(model, version, use.cost_nanos)
