"""Decides which waiting rows share the next forward pass. No clock, no await, no threads.

Charter: everything that decides who is in a batch lives here, and nothing that waits does. The
rules (docs/scheduling.md):

1. An idle stream starts at once with what waits, unless the cost model says that holding back
   for company pays, and then never longer than `max_hold_s` after the first of the batch came.
   Nothing is held while another stream idles: company would run there.
2. A batch has at most `max_rows` rows and `max_padded_tokens` padded tokens (rows x longest);
   a single row always fits. It holds the row whose turn it is, the head (fair_order.py); rule 3 has
   the exception. Of such batches the one with most real tokens per predicted millisecond is taken,
   so rows of like length meet. Only rows of the head's group come into question. Where one caller
   has much waiting beside others, few rows are looked at: his, of which there is every length,
   would push theirs out.
3. No row that could be in time alone joins a batch that is predicted to end after its deadline. A
   row that could miss its deadline if it is not in this batch, the next being as long as may be, is
   put in before others. Where no batch within the bounds holds such rows and the head, and the
   head has time, it lets them go first, once.
4. Rows of a worse class than the head's, and of callers with much waiting where the head's has
   little, fill up what it and its like chose, and may make that longer by no more than
   `FILL_STRETCH`.
5. When several streams are idle, the waiting rows are spread over them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter

from app.scheduling.cost_model import CostModel, Sample
from app.scheduling.queue import Row, RowQueue

ARRIVAL_SMOOTHING = 0.2
PACE_SMOOTHING = 0.05
FILL_STRETCH = 1.25
NARROW_BATCHES = 2
FILL_WINDOW = 16  # rows of worse classes that are looked at
_tokens_of = attrgetter("tokens")
URGENT_BATCHES = 3  # so many times as long as two batches take, deadlines are looked for ahead


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch. window: of how many rows in the order of their turns it is chosen, at
    least."""

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
        self._let_pass: tuple[int, int] | None = None  # the head, when the latest batch lacks it
        self.is_pressed = False  # the latest batch is another for rows that waited for long
        self.ms_per_token: float | None = None  # of real tokens, in the latest batches

    def note_arrivals(self, count: int, now: float) -> None:
        """Rows came in; tells the holding rule how soon company may be expected."""
        if self._last_arrival is not None and count:
            gap = (now - self._last_arrival) / count
            known = gap if self._gap_s == float("inf") else self._gap_s
            self._gap_s = known + ARRIVAL_SMOOTHING * (gap - known)
        self._last_arrival = now

    def note_ran(self, rows: int, longest: int, real_tokens: int, ms: float) -> float:
        """A batch took this long; tells the cost model. Returns what had been predicted."""
        predicted = self.cost.predict_ms(rows, longest)
        pace = predicted / max(1, real_tokens)
        known = pace if self.ms_per_token is None else self.ms_per_token
        self.ms_per_token = known + PACE_SMOOTHING * (pace - known)
        self.cost = self.cost.observe(Sample(rows, longest, ms))
        return predicted

    def choose(self, queue: RowQueue, now: float, idle_streams: int = 1) -> list[Row] | Hold | None:
        """The next batch, or until when to wait for a better one, or None while nothing waits.

        The rows stay in the queue: the caller takes them out when it runs them.
        """
        head = queue.head(now, lambda row: _slack_ms(row, now) < self._alone_ms(row))
        if head is None:
            return None
        considered = min(len(queue), self.limits.rows_considered)
        max_rows = min(self.limits.max_rows, -(-considered // max(1, idle_streams)))
        if queue.is_uneven(head):
            considered = min(considered, NARROW_BATCHES * self.limits.max_rows)
        company, patient = queue.company(head, considered), list[Row]()
        if queue.is_of_few(head):
            patient = [row for row in company if not queue.is_of_few(row)]
            company = [row for row in company if queue.is_of_few(row)]
        batch = self._best_run(company, max_rows, now)
        self.is_pressed = False
        batch = self._with_urgent(batch, company, queue, max_rows, now)
        self._let_pass = None if head in batch else head.key
        if len(batch) < max_rows:
            most_ms = FILL_STRETCH * self._ms(batch)
            patient += queue.worse(head, FILL_WINDOW)
            batch = self._filled(batch, patient, max_rows, now, most_ms)
        if len(batch) == len(queue) and idle_streams <= 1:
            until = self._hold_until(batch, now)
            if until > now:
                return Hold(until)
        return batch

    def _best_run(
        self, company: Sequence[Row], max_rows: int, now: float, as_many: bool = False
    ) -> list[Row]:
        """Most real tokens per predicted ms, or as many rows as possible, among runs of like
        length around the head, the first of the company, in which nobody misses a deadline."""
        head = company[0]
        by_length = sorted(company, key=_tokens_of)
        tokens = [row.tokens for row in by_length]
        slack_ms = [_slack_ms(row, now) for row in by_length]
        at = bisect_left(tokens, head.tokens)  # the sort is stable: it is first among its like
        if slack_ms[at] < self._alone_ms(head):
            slack_ms[at] = inf  # it is late as it is
        best, best_score = [at], (0, -1.0)
        for last in range(at, min(at + max_rows, len(by_length))):
            fitting = self.limits.max_padded_tokens // max(1, tokens[last])
            rows = min(max_rows, max(1, fitting))
            if rows <= last - at:
                break
            run, rate = self._run_ending_at(last, at, rows, tokens, slack_ms, as_many)
            score = (len(run) if as_many else 0, rate)
            if run and score > best_score:
                best, best_score = run, score
        return [by_length[place] for place in best]

    def _run_ending_at(
        self,
        last: int,
        at: int,
        rows: int,
        tokens: Sequence[int],
        slack_ms: Sequence[float],
        as_many: bool,
    ) -> tuple[list[int], float]:
        """Best run of at most `rows` rows from `last` down to `at` or beyond, and its tokens per
        ms; empty where there is none. Whoever would miss his deadline in it is passed over."""
        fixed_ms, row_ms = self.cost.by_rows(max(1, tokens[last]))
        run: list[int] = []
        total, size, best_rate, tightest_ms = 0, 0, -1.0, inf
        for place in range(last, -1, -1):
            ms = fixed_ms + row_ms * (len(run) + 1)
            if len(run) == rows or tightest_ms < ms:
                break
            if slack_ms[place] < ms:
                if place in (at, last):
                    break
                continue
            if slack_ms[place] < tightest_ms:
                tightest_ms = slack_ms[place]
            run.append(place)
            total += tokens[place]
            if place <= at:
                rate = max(total, 1) / ms
                if rate < best_rate and not as_many:
                    break  # what comes now is shorter still
                best_rate, size = rate, len(run)
        return run[:size], best_rate

    def _with_urgent(
        self, batch: list[Row], company: Sequence[Row], queue: RowQueue, max_rows: int, now: float
    ) -> list[Row]:
        """The batch, or one with rows in it that could come too late in the next."""
        head, ms = company[0], self._ms(batch) + self._longest_ms
        within_s = URGENT_BATCHES * ms / 1000
        urgent = [
            row for row in queue.urgent(now + within_s, head) if self._is_urgent(row, ms, now)
        ]
        if not urgent:
            return batch
        core = self._best_run([head, *urgent], max_rows, now, as_many=True)
        if len(core) == 1 and head.key != self._let_pass:
            without = self._best_run([*urgent, head], max_rows, now, as_many=True)
            if _slack_ms(head, now) >= self._ms(without) + self._alone_ms(head):
                core = without
        kept = {row.key for row in core}
        if kept <= {row.key for row in batch}:
            return batch
        self.is_pressed = any(_has_waited(row, now) for row in urgent if row.key in kept)
        rest = [row for row in (*batch, *company) if row.key not in kept]
        return self._filled(core, rest, max_rows, now, inf)

    def _is_urgent(self, row: Row, ms: float, now: float) -> bool:
        """Whether it can still be in time now, and could not after so many milliseconds."""
        alone_ms = self._alone_ms(row)
        return alone_ms <= _slack_ms(row, now) < ms + alone_ms

    def _filled(
        self, batch: list[Row], more: Sequence[Row], max_rows: int, now: float, most_ms: float
    ) -> list[Row]:
        """The batch and those of `more` that fit below its longest row, while that pays, nobody
        misses a deadline and it takes no longer than `most_ms`."""
        longest = max(1, max(row.tokens for row in batch))
        fixed_ms, row_ms = self.cost.by_rows(longest)
        rows = min(max_rows, max(1, self.limits.max_padded_tokens // longest))
        for row in batch:
            if (slack_ms := _slack_ms(row, now)) >= self._alone_ms(row):
                most_ms = min(most_ms, slack_ms)
        filled = {row.key: row for row in batch}
        total = sum(row.tokens for row in batch)
        rate = total / (fixed_ms + row_ms * len(batch))
        for row in sorted(more, key=_tokens_of, reverse=True):
            ms = fixed_ms + row_ms * (len(filled) + 1)
            if len(filled) >= rows or ms > most_ms:
                break
            if row.tokens > longest or row.key in filled or _slack_ms(row, now) < ms:
                continue
            total += row.tokens
            if total / ms < rate:
                break
            rate = total / ms
            filled[row.key] = row
            most_ms = min(most_ms, _slack_ms(row, now))
        return list(filled.values())

    def _ms(self, batch: Sequence[Row]) -> float:
        return self.cost.predict_ms(len(batch), max(1, max(row.tokens for row in batch)))

    @property
    def _longest_ms(self) -> float:
        """Of a full batch."""
        rows = self.limits.max_rows
        return self.cost.predict_ms(rows, max(1, self.limits.max_padded_tokens // rows))

    def _alone_ms(self, row: Row) -> float:
        return self.cost.predict_ms(1, max(1, row.tokens))

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


def _slack_ms(row: Row, now: float) -> float:
    """Until it should be done."""
    return inf if row.aim is None else (row.aim - now) * 1000


def _has_waited(row: Row, now: float) -> bool:
    """For most of its time; who came with little of it is urgent from the first moment."""
    return row.deadline is not None and now - row.arrived > (row.deadline - row.arrived) / 2
