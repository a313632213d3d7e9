"""Rows that wait for a forward pass, in order of arrival. Time is an argument; no I/O.

Charter: who waits, and who leaves without having run, is decided here. Which of the waiting rows
run together is the batcher's business.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one item.

    tokens: its length. arrived and deadline: seconds on one clock. group: only rows of one group
    may share a batch.
    """

    item_id: int
    index: int
    tokens: int
    arrived: float
    deadline: float | None = None
    group: Hashable = None

    def is_expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


class RowQueue:
    """First come, first served, except for those who leave."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], Row] = {}  # insertion order is the order of arrival

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._rows[row.item_id, row.index] = row

    def window(self, size: int) -> list[Row]:
        """The `size` oldest rows, oldest first."""
        return list(islice(self._rows.values(), size))

    def take(self, rows: Iterable[Row]) -> None:
        """Remove rows that are about to run."""
        for row in rows:
            del self._rows[row.item_id, row.index]

    def drop(self, item_id: int, row_count: int) -> int:
        """Remove what still waits of an item that left; returns how many rows that was."""
        before = len(self._rows)
        for index in range(row_count):
            self._rows.pop((item_id, index), None)
        return before - len(self._rows)

    def expired(self, now: float, window: int) -> set[int]:
        """Items among the `window` oldest rows whose deadline has passed."""
        return {row.item_id for row in self.window(window) if row.is_expired(now)}
