"""How much each key may do: rates, concurrency, quotas and budget, decided in memory.

A rate is that of this process; quotas are those of all together (limiter.py).
"""

from app.core.errors import RateLimited, ServingError
from app.keys.gcra import Gcra
from app.keys.key import KeyLimits
from app.keys.quotas import Quotas, Used, exceeded

MINUTE_S = 60.0


class KeyMeter:
    """One key's, for as long as it has limits: they may change, what was counted goes on."""

    __slots__ = ("limits", "has_quota", "requests", "tokens", "running", "quotas")

    def __init__(self, limits: KeyLimits, quotas: Quotas) -> None:
        self.requests: Gcra | None = None
        self.tokens: Gcra | None = None
        self.running = 0
        self.renew(limits, quotas, 0.0)

    def renew(self, limits: KeyLimits, quotas: Quotas, now: float) -> None:
        """As the key and the ledger are now."""
        self.limits = limits
        self.has_quota = limits.has_quota
        self.requests = _rate(self.requests, limits.requests_per_minute, now)
        self.tokens = _rate(self.tokens, limits.tokens_per_minute, now)
        self.quotas = quotas

    def refusal(self, now: float, wall: float) -> ServingError | None:
        """Why a request cannot be taken now; nothing is taken for one that is refused."""
        limits = self.limits
        if limits.concurrent_requests is not None and self.running >= limits.concurrent_requests:
            most = limits.concurrent_requests
            return RateLimited(f"the API key has {most} requests running", retry_after_s=1.0)
        for rate, unit in ((self.requests, "requests"), (self.tokens, "tokens")):
            if rate is not None and (wait_s := rate.wait_s(now)):
                told = f"the API key's {rate.limit} {unit} per minute are used up"
                return RateLimited(told, retry_after_s=round(wait_s, 3))
        if self.has_quota:
            self.quotas = self.quotas.at(wall)
            return exceeded(limits, self.quotas, wall)
        return None

    def begin(self, now: float) -> None:
        self.running += 1
        if self.requests is not None:
            self.requests.take(now)

    def end(self) -> None:
        self.running -= 1

    def charge(self, use: Used, now: float, wall: float) -> None:
        if self.tokens is not None:
            self.tokens.take(now, use.input_tokens + use.output_tokens)
        self.quotas = self.quotas.at(wall)
        self.quotas.add(use)


def _rate(former: Gcra | None, per_minute: int | None, now: float) -> Gcra | None:
    if per_minute is None:
        return None
    if former is None:
        return Gcra(per_minute, MINUTE_S)
    return former if former.limit == per_minute else former.at(per_minute, now)
