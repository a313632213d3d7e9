"""Rows that wait for a forward pass. Time is an argument; no I/O.

Charter: who waits, and who leaves without having run, is decided here; whose turn it is, in
fair_order.py. Which of the waiting rows run together is the batcher's business.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from app.core.types import Priority
from app.scheduling.fair_order import FairOrder

_SLACK = 64  # entries of rows that left which the heap may hold before it is cleared of them
URGENT_LOOKED_AT = 32
WAY_SHARE, MOST_WAY_S = 0.05, 0.05  # of the time of an input, for its answer's way back
# A caller with short deadlines on everything may be served so much more than his share for them.
URGENT_AHEAD_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one item.

    tokens: its length. arrived and deadline: seconds on one clock. group: only rows of one group
    may share a batch. priority and caller: for the order of turns.
    """

    item_id: int
    index: int
    tokens: int
    arrived: float
    deadline: float | None = None
    group: Hashable = None
    priority: Priority = Priority.NORMAL
    caller: str = ""

    @property
    def aim(self) -> float | None:
        """When to be done, so that the answer reaches its caller by the deadline."""
        if self.deadline is None:
            return None
        return self.deadline - min(MOST_WAY_S, WAY_SHARE * (self.deadline - self.arrived))

    @property
    def key(self) -> tuple[int, int]:
        return self.item_id, self.index

    def is_expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


class RowQueue:
    """Rows in the order of their turns, and by deadline; nothing here costs its length."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], Row] = {}
        self._order: FairOrder[Row] = FairOrder()
        self._late: dict[tuple[int, int], Row] = {}  # can no longer be in time
        self._due: list[tuple[float, int, Row]] = []  # a heap; some of its rows have left
        self._serial = count()
        self.tokens = 0  # of all that wait

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._rows[row.key] = row
            self.tokens += row.tokens
            self._order.add(row)
            if row.deadline is not None:
                heappush(self._due, (row.deadline, next(self._serial), row))

    def head(self, now: float, is_late: Callable[[Row], bool]) -> Row | None:
        """Whose turn it is. What is late has its turn when nothing else waits."""
        while (row := self._order.first(now)) is not None and is_late(row):
            self._order.remove(row)
            self._late[row.key] = row
        return row if row is not None else next(iter(self._late.values()), None)

    def is_uneven(self, head: Row) -> bool:
        """Whether somebody in the head's class has much waiting beside others."""
        return self._order.is_uneven(head.priority)

    def is_of_few(self, row: Row) -> bool:
        """Whether its caller has little waiting, and another in his class much."""
        return row.key not in self._late and self._order.is_of_few(row)

    def company(self, head: Row, size: int) -> list[Row]:
        """The head and, of the next `size` rows of its class or a better one, those of its
        group, in the order of their turns."""
        found = [head]
        for priority in Priority:
            if priority <= head.priority:
                size -= self._gather(found, priority, head, size)
        return found

    def worse(self, head: Row, size: int) -> list[Row]:
        """Of the next `size` rows of worse classes, those of the head's group."""
        found: list[Row] = []
        for priority in Priority:
            if priority > head.priority:
                size -= self._gather(found, priority, head, size)
        return found

    def urgent(self, before: float, head: Row) -> list[Row]:
        """Rows of the head's group, as good as it in class, with a deadline `before` then; the
        earliest first, not all of them if there are many."""
        found: list[Row] = []
        # Places in the heap still to be looked at, as a heap too.
        ahead = [(self._due[0][0], 0)] if self._due else []
        for _ in range(URGENT_LOOKED_AT):
            if not ahead:
                break
            deadline, place = heappop(ahead)
            if deadline >= before:
                break
            row = self._due[place][2]
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(self._due):
                    heappush(ahead, (self._due[child][0], child))
            if self._may_hurry(row, head):
                found.append(row)
        return found

    def take(self, rows: Sequence[Row]) -> None:
        """Remove rows that are about to run; their callers are charged."""
        served = [row for row in rows if self._late.pop(row.key, None) is None]
        self._order.serve(served)
        for row in rows:
            del self._rows[row.key]
            self.tokens -= row.tokens
        self._tidy()

    def drop(self, item_id: int, row_count: int) -> int:
        """Remove what still waits of an item that left; returns how many rows that was."""
        before = len(self._rows)
        for index in range(row_count):
            row = self._rows.pop((item_id, index), None)
            if row is None:
                continue
            self.tokens -= row.tokens
            if self._late.pop(row.key, None) is None:
                self._order.remove(row)
        self._tidy()
        return before - len(self._rows)

    def expired(self, now: float) -> set[int]:
        """Items with a row whose deadline has passed, each told once: drop them."""
        items: set[int] = set()
        while self._due and now >= self._due[0][0]:
            _, _, row = heappop(self._due)
            if self._waits(row):
                items.add(row.item_id)
        return items

    def _gather(self, found: list[Row], priority: Priority, head: Row, size: int) -> int:
        """Add rows of the class to `found`; returns how many were looked at, `size` at most."""
        seen = 0
        if size <= 0:
            return 0
        for row in self._order.walk(priority):
            if row.group == head.group and row is not head:
                found.append(row)
            seen += 1
            if seen == size:
                break
        return seen

    def _waits(self, row: Row) -> bool:
        return self._rows.get(row.key) is row

    def _may_hurry(self, row: Row, head: Row) -> bool:
        return (
            row is not head
            and row.group == head.group
            and row.priority <= head.priority
            and self._waits(row)
            and row.key not in self._late
            and not self._order.is_ahead(row, URGENT_AHEAD_TOKENS)
        )

    def _tidy(self) -> None:
        if len(self._due) > 2 * len(self._rows) + _SLACK:
            self._due = [entry for entry in self._due if self._waits(entry[2])]
            heapify(self._due)
