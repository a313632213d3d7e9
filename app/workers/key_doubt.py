"""A key that requests were refused for, although the health of its server says nothing of that.

Many servers answer `GET /models` to anybody, and a request that needs the key is somebody's to pay
for. So requests of callers are the only proof: after a refusal none is sent for a while, which
doubles with each refusal that follows, and an answer ends it.
"""

LONGEST_S = 300.0


class KeyDoubt:
    """Seconds; time is an argument. first_s: how long the first refusal keeps a version out."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._next_s = first_s
        self._until = float("-inf")

    def refused(self, now: float) -> None:
        """A request was. Those that were out together count once."""
        if not self.lasts(now):
            self._until = now + self._next_s
            self._next_s = max(self._first_s, min(2 * self._next_s, LONGEST_S))

    def end(self) -> None:
        """The key was taken, or its server's health tells of it after all."""
        self._until, self._next_s = float("-inf"), self._first_s

    def lasts(self, now: float) -> bool:
        return now < self._until
