"""What the ledger of a server that was killed may say, from what its clients saw. Knows no wire.

Each call leaves a span of tokens for its key and model, from the least to the most that the ledger
may have of it; nothing is outside the sum of all spans. A span is a point, but where

- an answer came less than `LOSS_S` before its server was killed: nothing or all of it;
- an answer never came, because its server was killed, its client left or its stream was cut off:
  nothing or all that it could have been;
- a job was begun again: once for each time, and of one with many inputs nothing is sure;
- a batch was under way at a kill: of lines that were answered within `LOSS_S`, nothing or all; of
  those that were in flight, once more.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LOSS_S = 1.0
IN_FLIGHT_LINES = 64  # of a batch at a kill, with those answered that were not on the disk yet

Account = tuple[str, str]
"""key, model"""


@dataclass(frozen=True, slots=True)
class Tokens:
    input: int = 0
    output: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.output + other.output)

    def times(self, count: int) -> "Tokens":
        return Tokens(self.input * count, self.output * count)

    def within(self, least: "Tokens", most: "Tokens") -> bool:
        return least.input <= self.input <= most.input and (
            least.output <= self.output <= most.output
        )

    @property
    def total(self) -> int:
        return self.input + self.output


NOTHING = Tokens()


class Kills:
    """When each server was killed, by its number; the last never is."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def is_sure(self, server: int, at: float) -> bool:
        """at: when an answer of that server was there."""
        killed = self.at.get(server)
        return killed is None or at < killed - LOSS_S

    def is_sure_of_any(self, at: float) -> bool:
        """The same for what was done at a time, by whichever server."""
        return all(not killed - LOSS_S <= at <= killed for killed in self.at.values())


class Book:
    """Spans by account."""

    def __init__(self) -> None:
        self._least: dict[Account, Tokens] = defaultdict(Tokens)
        self._most: dict[Account, Tokens] = defaultdict(Tokens)

    def add(self, account: Account, least: Tokens, most: Tokens) -> None:
        self._least[account] += least
        self._most[account] += most

    def broken(self, ledger: Mapping[Account, Tokens]) -> list[str]:
        """The accounts of which the ledger has too little or too much."""
        return [
            f"{account}: the ledger has {ledger.get(account, NOTHING)}, "
            f"right is {self._least[account]} to {self._most[account]}"
            for account in sorted({*ledger, *self._most})
            if not ledger.get(account, NOTHING).within(self._least[account], self._most[account])
        ]

    def shown(self, ledger: Mapping[Account, Tokens]) -> dict[str, dict[str, int]]:
        """Tokens in and out together: what is sure, what the ledger has, what it may have."""
        return {
            "/".join(account): {
                "least": self._least[account].total,
                "ledger": ledger.get(account, NOTHING).total,
                "most": self._most[account].total,
            }
            for account in sorted(self._most)
        }


def span_of_answer(tokens: Tokens, *, is_sure: bool) -> tuple[Tokens, Tokens]:
    return (tokens if is_sure else NOTHING), tokens


def span_of_job(
    tokens: Tokens, inputs: int, attempts: int, ended_at: float, kills: Kills
) -> tuple[Tokens, Tokens]:
    is_sure = kills.is_sure_of_any(ended_at) and (inputs == 1 or attempts == 1)
    return (tokens if is_sure else NOTHING), tokens.times(max(1, attempts))


@dataclass(frozen=True, slots=True)
class Polled:
    """How many lines of a batch were known to be answered at a time."""

    at: float
    answered: int


def span_of_batch(
    lines: Sequence[Tokens], polls: Sequence[Polled], begun: float, ended: float, kills: Kills
) -> tuple[Tokens, Tokens]:
    """lines: in the order of their ends. polls: in the order of time."""
    unsure: set[int] = set()
    again = NOTHING
    for killed in kills.at.values():
        if not begun <= killed or ended < killed - LOSS_S:
            continue
        before = [each.answered for each in polls if each.at < killed - LOSS_S]
        after = [each.answered for each in polls if each.at > killed]
        first = before[-1] if before else 0
        last = (after[0] if after else len(lines)) + IN_FLIGHT_LINES
        unsure.update(range(first, min(last, len(lines))))
        again += total(lines[first:last])
    sure = total(each for at, each in enumerate(lines) if at not in unsure)
    return sure, total(lines) + again


def total(tokens: Iterable[Tokens]) -> Tokens:
    return sum(tokens, NOTHING)
