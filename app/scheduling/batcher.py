"""Decides which waiting rows share the next forward pass. No clock, no await, no threads.

Charter: everything that decides who is in a batch lives here, and nothing that waits does. The
rules (design: docs/architecture.md):

1. An idle stream starts at once with what waits, unless the cost model says that holding back
   for company pays, and then never longer than `max_hold_s` after the oldest row came. Nothing is
   held while another stream idles: company would run there.
2. A batch has at most `max_rows` rows and `max_padded_tokens` padded tokens (rows x longest);
   a single row always fits. Of the batches that hold the oldest waiting row, the one with most
   real tokens per predicted millisecond is taken, so rows of like length meet and nobody starves.
   Only rows of the oldest one's group come into question.
3. When several streams are idle, the waiting rows are spread over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.scheduling.cost_model import CostModel, Sample
from app.scheduling.queue import Row, RowQueue

ARRIVAL_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch. window: how many of the oldest rows are looked at, at least."""

    max_rows: int
    max_padded_tokens: int
    max_hold_s: float = 0.0
    window: int = 64

    @property
    def rows_considered(self) -> int:
        return max(self.window, self.max_rows)


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for company, at most until then (seconds on the caller's clock)."""

    until: float


class Batcher:
    """Chooses batches from a queue; remembers only how fast rows arrive and batches run."""

    def __init__(self, limits: BatchLimits, cost: CostModel) -> None:
        self.limits = limits
        self.cost = cost
        self._gap_s = float("inf")  # smoothed time between arrivals
        self._last_arrival: float | None = None

    def note_arrivals(self, count: int, now: float) -> None:
        """Rows came in; tells the holding rule how soon company may be expected."""
        if self._last_arrival is not None and count:
            gap = (now - self._last_arrival) / count
            known = gap if self._gap_s == float("inf") else self._gap_s
            self._gap_s = known + ARRIVAL_SMOOTHING * (gap - known)
        self._last_arrival = now

    def note_ran(self, rows: int, longest: int, ms: float) -> float:
        """A batch took this long; tells the cost model. Returns what had been predicted."""
        predicted = self.cost.predict_ms(rows, longest)
        self.cost = self.cost.observe(Sample(rows, longest, ms))
        return predicted

    def choose(self, queue: RowQueue, now: float, idle_streams: int = 1) -> list[Row] | Hold | None:
        """The next batch, or until when to wait for a better one, or None while nothing waits.

        The rows stay in the queue: the caller takes them out when it runs them.
        """
        waiting = queue.window(self.limits.rows_considered)
        if not waiting:
            return None
        spread = -(-len(waiting) // max(1, idle_streams))
        batch = self._best_batch(waiting, min(self.limits.max_rows, spread))
        if len(batch) == len(queue) and idle_streams <= 1:
            until = self._hold_until(batch, now)
            if until > now:
                return Hold(until)
        return batch

    def _best_batch(self, waiting: Sequence[Row], max_rows: int) -> list[Row]:
        """Most real tokens per predicted ms among runs of like length around the oldest row."""
        oldest = waiting[0]
        company = (row for row in waiting if row.group == oldest.group)
        by_length = sorted(company, key=lambda row: row.tokens)
        at = by_length.index(oldest)
        best, best_rate = [oldest], -1.0
        for last in range(at, min(at + max_rows, len(by_length))):
            longest = by_length[last].tokens
            fitting = min(max_rows, max(1, self.limits.max_padded_tokens // max(1, longest)))
            first = max(0, last - fitting + 1)
            if first > at:
                break
            rate, size = self._best_run_ending_at(by_length, first, at, last)
            if rate > best_rate:
                best, best_rate = by_length[last - size + 1 : last + 1], rate
        return best

    def _best_run_ending_at(
        self, by_length: Sequence[Row], first: int, at: int, last: int
    ) -> tuple[float, int]:
        """Best (tokens per ms, rows) of the runs first..last to at..last."""
        longest = max(1, by_length[last].tokens)
        tokens = sum(by_length[i].tokens for i in range(at, last + 1))
        best = (-1.0, 1)
        for start in range(at, first - 1, -1):
            if start < at:
                tokens += by_length[start].tokens
            size = last - start + 1
            rate = max(tokens, 1) / self.cost.predict_ms(size, longest)
            best = max(best, (rate, size))
        return best

    def _hold_until(self, batch: Sequence[Row], now: float) -> float:
        """When to stop waiting; `now` or earlier when waiting does not pay.

        One more row of the same length would save `alone + batch - together` milliseconds of
        compute and costs every row of the batch the time until it comes: once the rows have
        waited longer than that together since the last arrival, no company is worth it.
        """
        if self._last_arrival is None or len(batch) >= self.limits.max_rows:
            return now
        longest = max(row.tokens for row in batch)
        if (len(batch) + 1) * longest > self.limits.max_padded_tokens:
            return now
        batch_ms = self.cost.predict_ms(len(batch), longest)
        saved_ms = (
            batch_ms
            + self.cost.predict_ms(1, longest)
            - self.cost.predict_ms(len(batch) + 1, longest)
        )
        patience_s = saved_ms / len(batch) / 1000
        if self._gap_s >= patience_s:
            return now
        bounds = [row.arrived + self.limits.max_hold_s for row in batch]
        bounds += [row.deadline - batch_ms / 1000 for row in batch if row.deadline is not None]
        return min(self._last_arrival + patience_s, *bounds)
