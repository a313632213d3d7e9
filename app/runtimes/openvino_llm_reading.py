"""Which prompts the pipeline is given before a step, and where it will cut them. No library here.

The pipeline's own rule: a step has room for `budget` rows; every sequence that writes takes one,
and prompts, in the order in which they were given, take what is left. What a text becomes must not
depend on its neighbours. Where a prompt is cut does not matter, measured to the bit, but for one
case: a piece of a single token goes through another attention kernel. So we count along and see to
it that no such piece comes about:

- at most one prompt is under way in pieces; those behind it are given to the pipeline when they
  can be read whole, or when it is done;
- a *spare*, a short text of our own, writes beside it. If one token would be left for the next
  step, the spare is dropped in this one, and the prompt has its row.

And a step of fewer sequences than threads divides attention differently again: then a prompt of
two tokens, which ends in the same step, is read as *company*.

Not known is how many of several continuations of one prompt still write; all are counted. While
they run, one long prompt in some hundreds may end in a single token.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

LEAST_PIECE = 2
LEAST_USUAL_PIECE = 64  # beside as many sequences as a worker runs
COMPANY_TOKENS = 2
SPARE_TOKENS = 1


@dataclass(slots=True)
class Prompt:
    """rows: how many sequences it becomes once it is read. left: tokens not yet read."""

    sequence_id: int
    tokens: int
    rows: int
    left: int


@dataclass(slots=True)
class Step:
    """What to do before the next step, in this order. read: prompt tokens that it will read."""

    drop_spare: bool = False
    start_spare: bool = False
    join: list[int] = field(default_factory=list)
    needs_company: bool = False
    read: dict[int, int] = field(default_factory=dict)


class PromptReading:
    """Follows the sequences of one pipeline."""

    def __init__(self, budget: int, threads: int) -> None:
        self._budget = budget
        self._least_sequences = max(2, threads)
        self._held: deque[Prompt] = deque()
        self._cut: Prompt | None = None
        self._writing: dict[int, int] = {}  # rows by sequence id

    @property
    def left(self) -> int:
        """Tokens of the prompt under way that later steps will read."""
        return self._cut.left if self._cut is not None else 0

    @property
    def writing(self) -> int:
        """Sequences whose prompts are read; the continuations of one prompt count as one."""
        return len(self._writing)

    def add(self, sequence_id: int, tokens: int, rows: int) -> None:
        self._held.append(Prompt(sequence_id, tokens, rows, tokens))

    def remove(self, sequence_ids: Iterable[int]) -> None:
        """They have ended, or their callers have left."""
        gone = set(sequence_ids)
        self._held = deque(p for p in self._held if p.sequence_id not in gone)
        if self._cut is not None and self._cut.sequence_id in gone:
            self._cut = None
        for sequence_id in gone:
            self._writing.pop(sequence_id, None)

    def plan(self, *, has_spare: bool) -> Step:
        """Books what the next step will read."""
        step = Step()
        sequences = len(self._writing) + has_spare
        room = max(0, self._budget - sum(self._writing.values()) - SPARE_TOKENS * has_spare)
        if has_spare and (self._cut is None or room in (1, self._cut.left - 1)):
            step.drop_spare = True
            room += SPARE_TOKENS
        can_cut = self._cut is None and not has_spare
        if self._cut is not None and room:
            room -= self._read(self._cut, min(room, self._cut.left), step)
        while self._held and self._held[0].tokens <= room:
            prompt = self._held.popleft()
            step.join.append(prompt.sequence_id)
            room -= self._read(prompt, prompt.tokens, step)
        if self._held and can_cut and room >= LEAST_PIECE + SPARE_TOKENS:
            self._cut = self._held.popleft()
            step.start_spare = True
            step.join.append(self._cut.sequence_id)
            room -= self._read(self._cut, room - SPARE_TOKENS, step) + SPARE_TOKENS
        sequences += len(step.read) + step.start_spare - step.drop_spare
        step.needs_company = sequences < self._least_sequences and room >= COMPANY_TOKENS
        return step

    def _read(self, prompt: Prompt, tokens: int, step: Step) -> int:
        prompt.left -= tokens
        step.read[prompt.sequence_id] = tokens
        if prompt.left == 0:
            self._writing[prompt.sequence_id] = prompt.rows
            if prompt is self._cut:
                self._cut = None
        return tokens


def spare_life(left: int) -> int:
    """Tokens that a spare may write: enough to outlast a prompt of which so much is left."""
    return left // LEAST_USUAL_PIECE + 8
