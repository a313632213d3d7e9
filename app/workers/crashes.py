"""How often a worker ended by itself, and what follows: how long to wait, when to give up.

A crash that an item is to blame for says nothing about a worker that has answered others: else a
caller could take a version down for good with a handful of poison; nor does one of a trial, which
looks for the one to blame. Of a worker that never answered anything, every crash counts.
"""

from app.workers.ledger import Verdict

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0


FIRST_TRY_S = 2.0  # of what could not be prepared: a hub is asked, or gigabytes are moved
LONGEST_TRY_S = 300.0


def pause_of(times: int, first_s: float, longest_s: float) -> float:
    """Doubles with every time, the first being 1."""
    return min(longest_s, first_s * 2.0 ** min(max(0, times - 1), 10))


class Crashes:
    """Crashes in a row without an answer between them, those that poison explains left out."""

    def __init__(self, most: int) -> None:
        self.in_a_row = 0
        self._most = most
        self._has_ever_answered = False

    def note(self, verdict: Verdict, *, has_answered: bool) -> None:
        """A process ended. has_answered: it had answered something."""
        if has_answered:
            self._has_ever_answered = True
            self.in_a_row = 0
        if verdict.by_trial and self._has_ever_answered:
            self.in_a_row = max(0, self.in_a_row - verdict.explained)
        else:
            self.in_a_row += 1

    @property
    def are_too_many(self) -> bool:
        return self.in_a_row > self._most

    @property
    def pause_s(self) -> float:
        """Doubles with every crash in a row."""
        return pause_of(self.in_a_row, FIRST_PAUSE_S, LONGEST_PAUSE_S)
