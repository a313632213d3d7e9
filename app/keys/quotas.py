"""Quotas of days and months in UTC, and a budget: what was spent, and whether that is all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from app.core.errors import QuotaExceeded
from app.keys.key import KeyLimits
from app.keys.tables import SUMS

DAY_S = 86400
_EPOCH = date(1970, 1, 1).toordinal()


class Used(Protocol):
    """Of what one call used."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_nanos: int


def day_of(seconds: float) -> date:
    """In UTC."""
    return date.fromordinal(_EPOCH + int(seconds // DAY_S))


@dataclass(slots=True)
class Spent:
    """In one period. nanos: money."""

    requests: int = 0
    tokens: int = 0
    nanos: int = 0

    def add(self, use: Used) -> None:
        self.requests += use.requests
        self.tokens += use.input_tokens + use.output_tokens
        self.nanos += use.cost_nanos


@dataclass(slots=True)
class Quotas:
    """What was spent in the running day and month; older sums end with their period."""

    day: date
    today: Spent = field(default_factory=Spent)
    month: Spent = field(default_factory=Spent)

    def at(self, wall: float) -> "Quotas":
        """The same, in the periods of that time."""
        if self.day.toordinal() == _EPOCH + int(wall // DAY_S):
            return self
        day = day_of(wall)
        is_same_month = (day.year, day.month) == (self.day.year, self.day.month)
        return Quotas(day, Spent(), self.month if is_same_month else Spent())

    def add(self, use: Used) -> None:
        self.today.add(use)
        self.month.add(use)

    def count(self, day: date, sums: Sequence[float]) -> None:
        """What the ledger has of a day of this month, in the order of its SUMS."""
        row = dict(zip(SUMS, sums, strict=True))
        for spent in (self.month, self.today) if day == self.day else (self.month,):
            spent.requests += int(row["requests"])
            spent.tokens += int(row["input_tokens"] + row["output_tokens"])
            spent.nanos += int(row["cost_nanos"])


def exceeded(limits: KeyLimits, quotas: Quotas, wall: float) -> QuotaExceeded | None:
    """wall: seconds since 1970."""
    today, month = quotas.today, quotas.month
    if _is_over(limits.daily_requests, today.requests):
        return _used_up("daily_requests", DAY_S - wall % DAY_S)
    if _is_over(limits.daily_tokens, today.tokens):
        return _used_up("daily_tokens", DAY_S - wall % DAY_S)
    if _is_over(limits.monthly_requests, month.requests):
        return _used_up("monthly_requests", _seconds_to_next_month(wall))
    if _is_over(limits.monthly_tokens, month.tokens):
        return _used_up("monthly_tokens", _seconds_to_next_month(wall))
    if _is_over(limits.monthly_budget_nanos, month.nanos):
        return _used_up("monthly_budget", _seconds_to_next_month(wall))
    return None


def _is_over(limit: int | None, spent: int) -> bool:
    return limit is not None and spent >= limit


def _used_up(name: str, ends_s: float) -> QuotaExceeded:
    told = f"the API key's {name} is used up; it begins anew at the end of the period (UTC)"
    return QuotaExceeded(told, retry_after_s=float(round(ends_s)))


def _seconds_to_next_month(wall: float) -> float:
    day = day_of(wall)
    following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return (following - day).days * DAY_S - wall % DAY_S
