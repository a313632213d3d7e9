"""The bound in front of every queue: one permit per item, given back when it is answered.

An item whose deadline would pass before its turn is refused here too, at once, in place of waiting
in vain. The prediction errs towards taking: it is asked of the worker (`note_backlog`), counts
only who would be served before, and knows nothing until something was measured. It is corrected by
what became of those whom it concerned, see `Slack`.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from math import exp

from app.core.errors import Overloaded
from app.core.types import NOBODY, Asker, Priority

RATE_SMOOTHING = 0.05
MAX_RETRY_AFTER_S = 60.0
RATE_S = 1.0  # how far back the rates of answers look
MOST_BUSY = 0.99
FORGETTING = 0.8  # weight of the past at each report of a backlog
MOST_LATE = 0.02  # share of those taken near their deadline that may miss it
LEAST_SEEN = 20  # of them
SETTLING_S = 0.5
LARGEST_RISE, FALL = 0.5, 0.03
MOST_PRESSED, PRESSED_RISE = 0.1, 0.15
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
            self._move(step)
            self._seen = self._late = 0
            self._moved = now

    def note_pressed(self, share: float) -> None:
        """So many of the batches had to be others for the sake of rows that waited for long."""
        if self._seen and share > MOST_PRESSED:
            self._move(min(PRESSED_RISE, share))

    def _move(self, step: float) -> None:
        self.factor = min(MOST_SLACK, max(LEAST_SLACK, self.factor * (1 + step)))


class _Rate:
    """Work per second, of the latest seconds above all."""

    __slots__ = ("_at", "_per_s")

    def __init__(self) -> None:
        self._at = self._per_s = 0.0

    def add(self, work: float, now: float) -> None:
        self._per_s = self.at(now) + work / RATE_S
        self._at = now

    def at(self, now: float) -> float:
        return self._per_s * exp(-max(0.0, now - self._at) / RATE_S)


@dataclass(slots=True)
class _Account:
    """Of one caller in one class, as long as he has unanswered work; or of the whole class."""

    left: float = 0.0
    answered: _Rate = field(default_factory=_Rate)

    def settle(self, work: float, now: float) -> None:
        self.left -= work
        self.answered.add(work, now)


class Admission:
    """Permits for the items inside one worker, and an honest guess of when to come back."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.in_use = 0
        self._name = name
        self._gap_s: float | None = None  # smoothed time between two answers
        self._last_answer: float | None = None  # None after an idle time, which says nothing
        # Work is counted in characters or whatever `acquire` is given: unanswered, by who asked.
        self._accounts: dict[Priority, dict[str, _Account]] = {
            priority: defaultdict(_Account) for priority in Priority
        }
        self._reported_ms = 0.0  # smoothed backlogs, as their worker saw them
        self._reported_work = 0.0  # and the work they were
        self._classes = {priority: _Account() for priority in Priority}
        self._now = 0.0  # of the latest answer
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
        self._accounts[asker.priority][asker.caller].left += work
        self._classes[asker.priority].left += work
        return predicted_ms > 0

    def release(self, now: float, asker: Asker = NOBODY, work: float = 1.0) -> None:
        """An item was answered, whatever the answer."""
        self.in_use -= 1
        accounts = self._accounts[asker.priority]
        accounts[asker.caller].settle(work, now)
        self._classes[asker.priority].settle(work, now)
        self._now = now
        if accounts[asker.caller].left <= 0:
            del accounts[asker.caller]
        if not accounts:
            self._classes[asker.priority].left = 0.0  # sums of floats drift
        if self._last_answer is not None:
            gap = max(0.0, now - self._last_answer)
            known = gap if self._gap_s is None else self._gap_s
            self._gap_s = known + RATE_SMOOTHING * (gap - known)
        self._last_answer = now if self.in_use else None

    def note_backlog(self, ms: float, pressed: float = 0.0) -> None:
        """The worker predicts that what it holds takes so long. Large backlogs teach most.

        pressed: share of its latest batches that were others than the best, so that rows which had
        waited for most of their time came in time.
        """
        for slack in self._slack.values():
            slack.note_pressed(pressed)
        if work := sum(each.left for each in self._classes.values()):
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
        better = sum(each.left for p, each in self._classes.items() if p < asker.priority)
        better_ms = ms_per_work * better
        alike_ms = ms_per_work * (self._classes[asker.priority].left + work)
        own_s = 1 - self._busy(ms_per_work, asker)  # of each second
        if self.slack(asker.priority) * (better_ms + alike_ms) <= own_s * timeout_ms / 2:
            return 0.0  # soon enough even if all went first; the rest costs a look at each caller
        soon_ms, late_ms = self._in_turn_ms(asker, work, ms_per_work)
        return min((better_ms + soon_ms) / own_s, better_ms + late_ms)

    def _in_turn_ms(self, asker: Asker, work: float, ms_per_work: float) -> tuple[float, float]:
        """Until a caller has had his turns beside the others of his class: if nobody else came,
        and if all others always had as much waiting as he."""
        accounts = self._accounts[asker.priority]
        account = accounts.get(asker.caller)
        own = work + (account.left if account else 0.0)
        others = [each.left for caller, each in accounts.items() if caller != asker.caller]
        waiting = own + sum(min(left, own) for left in others)
        return ms_per_work * waiting, ms_per_work * own * (len(others) + 1)

    def _busy(self, ms_per_work: float, asker: Asker) -> float:
        """Share of the time that others of his class and the better ones have used of late."""
        of_others = sum(
            each.answered.at(self._now) for p, each in self._classes.items() if p <= asker.priority
        )
        account = self._accounts[asker.priority].get(asker.caller)
        if account is not None:
            of_others -= account.answered.at(self._now)
        return min(MOST_BUSY, ms_per_work / 1000 * of_others)
