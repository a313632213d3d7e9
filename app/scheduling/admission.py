"""The bound in front of every queue: one permit per item, given back when it is answered."""

from app.core.errors import Overloaded

RATE_SMOOTHING = 0.05
MAX_RETRY_AFTER_S = 60.0


class Admission:
    """Permits for the items inside one worker, and an honest guess of when to come back."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.in_use = 0
        self._name = name
        self._gap_s: float | None = None  # smoothed time between two answers
        self._last_answer: float | None = None  # None after an idle time, which says nothing

    def acquire(self) -> None:
        """Take a permit. Raises Overloaded, with the time after which room is likely."""
        if self.in_use >= self.limit:
            raise Overloaded(
                f"{self._name} already has {self.in_use} inputs waiting or running, its limit "
                f"(MAX_QUEUE_ITEMS={self.limit}); try again later",
                retry_after_s=self.retry_after_s(),
            )
        self.in_use += 1

    def release(self, now: float) -> None:
        """An item was answered, whatever the answer."""
        self.in_use -= 1
        if self._last_answer is not None:
            gap = max(0.0, now - self._last_answer)
            known = gap if self._gap_s is None else self._gap_s
            self._gap_s = known + RATE_SMOOTHING * (gap - known)
        self._last_answer = now if self.in_use else None

    def retry_after_s(self) -> float:
        """Seconds in which, at the present pace, half of the queue is answered."""
        pace = 0.01 if self._gap_s is None else self._gap_s
        return min(MAX_RETRY_AFTER_S, max(1.0, pace * self.in_use / 2))
