"""Shares a budget of CPU threads among workers. Pure: events in, orders out.

A worker asks before it computes and keeps what it was granted, batch after batch, until another
worker has to wait; then it is told to give back what it does not use at that moment, and the rest
when its running batch or step ends. Whoever has waited longest is served first, and nobody
overtakes a larger request, so none starves. The parent forgets a dead worker, which frees its
threads.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grant:
    """Tell `holder` that it may keep `threads` more threads busy."""

    holder: str
    threads: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Tell `holder` to give its threads back as they become free."""

    holder: str


Order = Grant | Recall


class CpuLeases:
    """The book of who holds how many of `budget` threads, and who waits."""

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ValueError(f"a budget of {budget} threads cannot run anything")
        self.budget = budget
        self._held: dict[str, int] = {}
        self._recalled: set[str] = set()
        self._waiting: deque[tuple[str, int]] = deque()

    @property
    def in_use(self) -> int:
        return sum(self._held.values())

    def ask(self, holder: str, threads: int) -> list[Order]:
        """`holder` wants `threads` more, all at once; more than the budget counts as all of it."""
        self._waiting.append((holder, max(threads, 1)))
        return self._settle()

    def give_back(self, holder: str, threads: int) -> list[Order]:
        """`holder` no longer keeps `threads` busy."""
        left = self._held.get(holder, 0) - threads
        if left > 0:
            self._held[holder] = left
        else:
            self._held.pop(holder, None)
            self._recalled.discard(holder)
        return self._settle()

    def forget(self, holder: str) -> list[Order]:
        """`holder` is dead: whatever it held or waited for is void."""
        self._held.pop(holder, None)
        self._recalled.discard(holder)
        self._waiting = deque(entry for entry in self._waiting if entry[0] != holder)
        return self._settle()

    def _next_booked(self) -> int:
        return min(self._waiting[0][1], self.budget)

    def _settle(self) -> list[Order]:
        orders: list[Order] = []
        while self._waiting and (booked := self._next_booked()) <= self.budget - self.in_use:
            holder, threads = self._waiting.popleft()
            self._held[holder] = self._held.get(holder, 0) + booked
            # What it held before this grant was recalled for those ahead of it, now served.
            self._recalled.discard(holder)
            orders.append(Grant(holder, threads))
        if self._waiting:
            for holder in self._held:
                if holder not in self._recalled:
                    self._recalled.add(holder)
                    orders.append(Recall(holder))
        return orders
