"""A rate limit as one number per limit: the generic cell rate algorithm. Pure; time is an argument.

`limit` units fit into `window_s`, all at once if nothing was used before, and every unit is free
again one `window_s / limit` after another: no windows with edges to wait for, no list of events.
The number is the time at which everything will be free again; how far it lies ahead is used up.
"""


class Gcra:
    """Units may be taken beyond the limit (what something cost is known only afterwards); then
    nothing is free until that is worked off."""

    __slots__ = ("limit", "window_s", "_interval_s", "_full_at")

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self._interval_s = window_s / limit
        self._full_at = 0.0

    def wait_s(self, now: float, units: int = 1) -> float:
        """How long until that many are free; 0: now. Never, of more than the limit: as of all."""
        wanted = min(units, self.limit) * self._interval_s
        wait = max(self._full_at, now) + wanted - now - self.window_s
        return wait if wait > 1e-9 else 0.0  # sums of intervals are not exact

    def take(self, now: float, units: int = 1) -> None:
        self._full_at = max(self._full_at, now) + units * self._interval_s

    def free(self, now: float) -> int:
        """How many units can be taken now."""
        used = max(0.0, self._full_at - now) / self._interval_s
        return max(0, int(self.limit - used + 1e-6))

    def at(self, limit: int, now: float) -> "Gcra":
        """The same with another limit: what was used stays used, and nobody waits longer for it."""
        changed = Gcra(limit, self.window_s)
        shrinks = min(1.0, self.limit / limit)
        changed._full_at = now + max(0.0, self._full_at - now) * shrinks
        return changed

    def reset_s(self, now: float) -> float:
        """How long until all are free again."""
        return max(0.0, self._full_at - now)
