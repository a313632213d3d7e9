"""Which pieces of which prompts a step reads. No library here.

A prompt is cut at the same places whoever is beside it, so that its keys and values, and with them
its text, do not depend on its neighbours: it is read in pieces of `budget` tokens from its start.
A step reads pieces of at most `budget` tokens together, one of each prompt, and prompts take
turns: who has more to read goes to the end of the line, so that a short prompt waits for no more
than a piece of each long one before it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens from `start` to before `stop`. is_last: the prompt ends with it."""

    start: int
    stop: int
    is_last: bool

    @property
    def tokens(self) -> int:
        return self.stop - self.start


class PromptReading:
    """Follows the prompts that are not read to their end."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._line: deque[int] = deque()
        self._lengths: dict[int, int] = {}
        self._starts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._line)

    def add(self, sequence_id: int, tokens: int) -> None:
        self._line.append(sequence_id)
        self._lengths[sequence_id] = tokens
        self._starts[sequence_id] = 0

    def remove(self, sequence_ids: Iterable[int]) -> None:
        """Their callers have left."""
        gone = set(sequence_ids)
        self._line = deque(i for i in self._line if i not in gone)
        for sequence_id in gone:
            self._lengths.pop(sequence_id, None)
            self._starts.pop(sequence_id, None)

    def plan(self) -> Mapping[int, Piece]:
        """Books what the next step reads."""
        pieces: dict[int, Piece] = {}
        room = self._budget
        while self._line:
            sequence_id = self._line[0]
            if sequence_id in pieces:
                break
            start, length = self._starts[sequence_id], self._lengths[sequence_id]
            stop = min(start + self._budget, length)
            if stop - start > room:
                break
            room -= stop - start
            pieces[sequence_id] = Piece(start, stop, stop == length)
            self._line.popleft()
            if stop == length:
                del self._lengths[sequence_id], self._starts[sequence_id]
            else:
                self._starts[sequence_id] = stop
                self._line.append(sequence_id)
        return pieces
