"""Whose turn it is. No clock, no database.

Between classes: a better one goes first, but one whose first job has waited for long is due a tenth
of the places. Inside a class callers share by inputs: every job has a tag, a place on a line that
is the same for all (start-time fair queueing). A caller's job begins where his last one ends, or
where the class has got to if that is further; the least tag is next. So who submits 10,000 jobs
gets 10,000 places one behind the other, and another's single job goes between the first of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.types import Priority

AGED_S = {Priority.NORMAL: 30.0, Priority.BATCH: 120.0}
AGED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue."""

    id: str
    submitted_at: float


class Turns:
    """Chooses between classes; what is due to an aged one adds up over claims."""

    def __init__(self) -> None:
        self._due = dict.fromkeys(AGED_S, 0.0)

    def choose(
        self, waiting: Mapping[Priority, Sequence[Waiting]], count: int, now: float
    ) -> list[str]:
        """At most `count` of them; those of each class are given in their order."""
        left, places = count, {}
        for priority, aged_s in AGED_S.items():
            line = waiting[priority]
            if not line or now - line[0].submitted_at < aged_s:
                self._due[priority] = 0.0
                continue
            self._due[priority] += AGED_SHARE * count
            places[priority] = min(int(self._due[priority]), len(line), left)
            self._due[priority] -= places[priority]
            left -= places[priority]
        chosen: list[str] = []
        for priority in Priority:
            reserved = places.get(priority, 0)
            taken = waiting[priority][: reserved + left]
            left -= max(0, len(taken) - reserved)
            chosen += [one.id for one in taken]
        return chosen
