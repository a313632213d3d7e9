"""How fast a runtime that generates frees its cache, and so how long those who wait have to. No
clock.

How long a text becomes is not known before it is written, so what a sequence may hold at most
stands for what it costs: texts that end early free all of it. Counted only while somebody waits,
because who joins at once says nothing of what the runtime could do. By Little's law a queue of so
many tokens, freed at that rate, is worked off in their quotient.
"""

REMEMBERED_MS = 30_000.0


class Turnover:
    """Tokens freed per millisecond of full use, of the latest half minute above all."""

    def __init__(self) -> None:
        self._freed = self._ms = 0.0

    def note(self, freed: int, ms: float) -> None:
        """A step that took `ms`, after which sequences of so many tokens had left, while others
        waited."""
        kept = max(0.0, 1.0 - ms / REMEMBERED_MS)
        self._freed = kept * self._freed + freed
        self._ms = kept * self._ms + ms

    def ms_until_joined(self, waiting: int) -> float | None:
        """Until sequences of so many tokens have joined; None: nothing was freed yet."""
        if not waiting:
            return 0.0
        return waiting * self._ms / self._freed if self._freed else None
