"""The bound in front of every queue: one permit per item, given back when it is answered.

An item whose deadline would pass before its turn is refused here too, at once, in place of waiting
in vain. The prediction errs towards taking: it is asked of the worker (`note_backlog`), counts
only who would be served before, and knows nothing until something was measured. It is corrected by
what became of those whom it concerned, see `Slack`.
"""

from collections import defaultdict

from app.core.errors import Overloaded
from app.core.types import NOBODY, Asker, Priority

RATE_SMOOTHING = 0.05
MAX_RETRY_AFTER_S = 60.0
FORGETTING = 0.8  # weight of the past at each report of a backlog
MOST_LATE = 0.02  # share of those taken near their deadline that may miss it
LEAST_SEEN = 20  # of them
SETTLING_S = 0.5
LARGEST_RISE, FALL = 0.5, 0.03
WAY_SHARE = 0.05  # of the time of an input, for its answer's way back
# A worker in demand gets less of the processor than it did before, and a queue of half the deadline
# keeps it as busy as a longer one.
LEAST_SLACK, MOST_SLACK = 1.2, 4.0


class Slack:
    """By how much predictions are multiplied, so that nearly all who are taken are in time.

    Moved by the share of those that were late, once per `SETTLING_S` and not by each of them: what
    becomes of an input is known as late as its deadline, and by then a factor that every late one
    moves has gone far too far. Too much makes waiting shorter, too little makes it in vain, so it
    rises fast and falls slowly.
    """

    def __init__(self) -> None:
        self.factor = LEAST_SLACK
        self._seen = self._late = 0
        self._moved = 0.0

    def note(self, is_late: bool, now: float) -> None:
        """One of those whose prediction was near their deadline has ended."""
        self._seen += 1
        self._late += is_late
        if self._seen >= LEAST_SEEN and now - self._moved >= SETTLING_S:
            excess = self._late / self._seen - MOST_LATE
            step = min(LARGEST_RISE, excess) if excess > 0 else -FALL
            self.factor = min(MOST_SLACK, max(LEAST_SLACK, self.factor * (1 + step)))
            self._seen = self._late = 0
            self._moved = now


class Admission:
    """Permits for the items inside one worker, and an honest guess of when to come back."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.in_use = 0
        self._name = name
        self._gap_s: float | None = None  # smoothed time between two answers
        self._last_answer: float | None = None  # None after an idle time, which says nothing
        # Work is counted in characters or whatever `acquire` is given: unanswered, by who asked.
        self._work: dict[Priority, dict[str, float]] = {
            priority: defaultdict(float) for priority in Priority
        }
        self._reported_ms = 0.0  # smoothed backlogs, as their worker saw them
        self._reported_work = 0.0  # and the work they were
        # Who comes later is served before the worse classes, and slows only those.
        self._slack = {priority: Slack() for priority in Priority}

    def acquire(
        self, asker: Asker = NOBODY, work: float = 1.0, timeout_ms: float = float("inf")
    ) -> bool:
        """Take a permit. Raises Overloaded, with the time after which room is likely.

        Returns whether its end is predicted near the deadline: `note_end` wants to know of it.
        """
        if self.in_use >= self._limit_of(asker.priority):
            raise Overloaded(
                f"{self._name} already has {self.in_use} inputs waiting or running, its limit "
                f"(MAX_QUEUE_ITEMS={self.limit}); try again later",
                retry_after_s=self.retry_after_s(),
            )
        predicted_ms = self._predicted_ms(asker, work, timeout_ms)
        finish_ms = self.slack(asker.priority) * predicted_ms
        if finish_ms > (1 - WAY_SHARE) * timeout_ms:
            raise Overloaded(
                f"{self._name} would answer in about {finish_ms / 1000:.1f} s, after the deadline "
                f"in {timeout_ms / 1000:.1f} s; try again later",
                retry_after_s=min(MAX_RETRY_AFTER_S, max(1.0, (finish_ms - timeout_ms) / 1000)),
            )
        self.in_use += 1
        self._work[asker.priority][asker.caller] += work
        return predicted_ms > 0

    def release(self, now: float, asker: Asker = NOBODY, work: float = 1.0) -> None:
        """An item was answered, whatever the answer."""
        self.in_use -= 1
        left = self._work[asker.priority]
        left[asker.caller] -= work
        if left[asker.caller] <= 0:
            del left[asker.caller]
        if self._last_answer is not None:
            gap = max(0.0, now - self._last_answer)
            known = gap if self._gap_s is None else self._gap_s
            self._gap_s = known + RATE_SMOOTHING * (gap - known)
        self._last_answer = now if self.in_use else None

    def note_backlog(self, ms: float) -> None:
        """The worker predicts that what it holds takes so long. Large backlogs teach most."""
        work = sum(sum(left.values()) for left in self._work.values())
        if work:
            self._reported_ms = FORGETTING * self._reported_ms + ms
            self._reported_work = FORGETTING * self._reported_work + work

    def _limit_of(self, priority: Priority) -> int:
        """The best class finds room where others have filled the queue."""
        return self.limit + (self.limit // 8 if priority is Priority.INTERACTIVE else 0)

    def slack(self, priority: Priority) -> float:
        """By what predictions for that class are multiplied."""
        return self._slack[priority].factor

    def note_end(self, now: float, *, is_late: bool, priority: Priority = Priority.NORMAL) -> None:
        """One that was taken near its deadline was answered, or was not in time."""
        self._slack[priority].note(is_late, now)

    def retry_after_s(self) -> float:
        """Seconds in which, at the present pace, half of the queue is answered."""
        pace = 0.01 if self._gap_s is None else self._gap_s
        return min(MAX_RETRY_AFTER_S, max(1.0, pace * self.in_use / 2))

    def _predicted_ms(self, asker: Asker, work: float, timeout_ms: float) -> float:
        """Until the end of what would be served before it and of itself; 0 where unknown."""
        if not self._reported_work or not self.in_use:
            return 0.0
        ms_per_work = self._reported_ms / self._reported_work
        better = sum(sum(left.values()) for cls, left in self._work.items() if cls < asker.priority)
        alike = self._work[asker.priority]
        rough_ms = (better + sum(alike.values()) + work) * ms_per_work
        if self.slack(asker.priority) * rough_ms <= timeout_ms / 2:
            return 0.0  # soon enough even if all went first; the rest costs a look at each caller
        own = alike.get(asker.caller, 0) + work
        others = sum(min(left, own) for caller, left in alike.items() if caller != asker.caller)
        return (better + others + own) * ms_per_work
