"""Decides which sequences run: plan, step, apply, once per token round. No I/O, no clock.

Charter: who joins the running sequences and who is made to leave is decided here. How one step
is computed is the runtime's business. Sequences join in order of arrival as soon as their prompt
and all their possible tokens fit into the runtime's cache, so that nothing that runs is ever
thrown out again for lack of room.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sequence:
    """One prompt with its continuations. tokens: the most it can ever hold in the cache."""

    item_id: int
    tokens: int
    arrived: float
    deadline: float | None = None

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
        self._running: dict[int, Sequence] = {}
        self._cancelled: set[int] = set()

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
        return True

    def cancel(self, item_id: int) -> None:
        """The caller left: a waiting sequence goes now, a running one before the next step."""
        if self._waiting.pop(item_id, None) is None and item_id in self._running:
            self._cancelled.add(item_id)

    def plan(self, now: float) -> StepPlan:
        """Who leaves and who joins before the next step. The plan is booked at once."""
        late_waiting = [s.item_id for s in self._waiting.values() if s.is_expired(now)]
        late_running = [s.item_id for s in self._running.values() if s.is_expired(now)]
        for item_id in late_waiting:
            del self._waiting[item_id]
        leave = sorted(self._cancelled.union(late_running))
        for item_id in leave:
            del self._running[item_id]
        expired = [*late_waiting, *(i for i in late_running if i not in self._cancelled)]
        self._cancelled.clear()
        return StepPlan(tuple(self._join()), tuple(leave), tuple(expired))

    def apply(self, finished: Iterable[int]) -> None:
        """These sequences came to their end in the step."""
        for item_id in finished:
            self._running.pop(item_id, None)
            self._cancelled.discard(item_id)

    def _join(self) -> list[Sequence]:
        joined: list[Sequence] = []
        free = self.max_tokens - sum(s.tokens for s in self._running.values())
        for sequence in list(self._waiting.values()):
            if len(self._running) == self.max_sequences or sequence.tokens > free:
                break
            free -= sequence.tokens
            del self._waiting[sequence.item_id]
            self._running[sequence.item_id] = sequence
            joined.append(sequence)
        return joined
