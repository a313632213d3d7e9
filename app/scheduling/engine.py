"""Decides which sequences run: plan, step, apply, once per token round. No I/O, no clock.

Charter: who joins the running sequences and who is made to leave is decided here. How one step
is computed is the runtime's business. The rules (docs/scheduling.md):

1. Sequences join in the order of their turns (fair_order.py: class, age, shares of callers in
   tokens) as soon as their prompt and all their possible tokens fit into the runtime's cache, so
   that nothing that runs is ever thrown out again for lack of room.
2. One that does not fit yet lets smaller ones go first, for as many tokens as it needs itself;
   from then on nobody joins before it. So it neither blocks the small for ever nor starves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from app.core.types import Priority
from app.scheduling.fair_order import FairOrder

PASSERS_LOOKED_AT = 64
_SLACK = 64  # deadlines of those who left that may be kept before they are cleared out


@dataclass(frozen=True, slots=True)
class Sequence:
    """One prompt with its continuations. tokens: the most it can ever hold in the cache."""

    item_id: int
    tokens: int
    arrived: float
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    caller: str = ""

    @property
    def key(self) -> int:
        return self.item_id

    def is_expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What happens before the next step.

    join: prompts to add. leave: running sequences to stop, cancelled ones among them.
    expired: items whose deadline passed, running or not, whose callers must be told.
    """

    join: tuple[Sequence, ...]
    leave: tuple[int, ...]
    expired: tuple[int, ...]


class StepScheduler:
    """Waiting and running sequences within a budget of sequences and cache tokens."""

    def __init__(self, max_sequences: int, max_tokens: int) -> None:
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self._waiting: dict[int, Sequence] = {}
        self._order: FairOrder[Sequence] = FairOrder()
        self._due: list[tuple[float, int]] = []  # a heap of deadlines; some have left
        self._running: dict[int, Sequence] = {}
        self._cancelled: set[int] = set()
        self._patience: dict[int, int] = {}  # who lets others go first, for how many tokens yet
        self.waiting_tokens = 0
        self.freed_tokens = 0  # of all that ever ran and left

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> bool:
        """Let a sequence wait; False when it is larger than the cache and could never join."""
        if sequence.tokens > self.max_tokens:
            return False
        self._waiting[sequence.item_id] = sequence
        self.waiting_tokens += sequence.tokens
        self._order.add(sequence)
        if sequence.deadline is not None:
            heappush(self._due, (sequence.deadline, sequence.item_id))
        return True

    def cancel(self, item_id: int) -> None:
        """The caller left: a waiting sequence goes now, a running one before the next step."""
        if self._withdraw(item_id):
            self._tidy()
        elif item_id in self._running:
            self._cancelled.add(item_id)

    def plan(self, now: float) -> StepPlan:
        """Who leaves and who joins before the next step. The plan is booked at once."""
        late_waiting = self._expire_waiting(now)
        late_running = [s.item_id for s in self._running.values() if s.is_expired(now)]
        leave = sorted(self._cancelled.union(late_running))
        for item_id in leave:
            self.freed_tokens += self._running.pop(item_id).tokens
        expired = [*late_waiting, *(i for i in late_running if i not in self._cancelled)]
        self._cancelled.clear()
        return StepPlan(tuple(self._join(now)), tuple(leave), tuple(expired))

    def apply(self, finished: Iterable[int]) -> None:
        """These sequences came to their end in the step."""
        for item_id in finished:
            if (ended := self._running.pop(item_id, None)) is not None:
                self.freed_tokens += ended.tokens
            self._cancelled.discard(item_id)

    def _expire_waiting(self, now: float) -> list[int]:
        late: list[int] = []
        while self._due and now >= self._due[0][0]:
            _, item_id = heappop(self._due)
            if self._withdraw(item_id):
                late.append(item_id)
        return late

    def _withdraw(self, item_id: int) -> bool:
        """Whether it waited."""
        sequence = self._waiting.pop(item_id, None)
        if sequence is None:
            return False
        self.waiting_tokens -= sequence.tokens
        self._order.remove(sequence)
        self._patience.pop(item_id, None)
        return True

    def _join(self, now: float) -> list[Sequence]:
        joined: list[Sequence] = []
        free = self.max_tokens - sum(s.tokens for s in self._running.values())
        while len(self._running) < self.max_sequences:
            sequence = self._next_that_fits(free, now)
            if sequence is None:
                break
            free -= sequence.tokens
            self.waiting_tokens -= sequence.tokens
            del self._waiting[sequence.item_id]
            self._patience.pop(sequence.item_id, None)
            self._order.serve([sequence])
            self._running[sequence.item_id] = sequence
            joined.append(sequence)
        if joined:
            self._tidy()
        return joined

    def _next_that_fits(self, free: int, now: float) -> Sequence | None:
        """Whose turn it is, or who may go before him while he waits for room."""
        head = self._order.first(now)
        if head is None or head.tokens <= free:
            return head
        patience = self._patience.setdefault(head.item_id, head.tokens)
        for priority in Priority:
            if free and patience and priority >= head.priority:
                for sequence in islice(self._order.walk(priority), PASSERS_LOOKED_AT):
                    if sequence.tokens <= min(free, patience):
                        self._patience[head.item_id] = patience - sequence.tokens
                        return sequence
        return None

    def _tidy(self) -> None:
        if len(self._due) > 2 * len(self._waiting) + _SLACK:
            self._due = [entry for entry in self._due if entry[1] in self._waiting]
            heapify(self._due)
