"""Chooses how a one-shot model uses this machine, from measured batches. Pure.

The worker measures a small grid of shapes for each way of cutting up the CPU; here the cost model
is fitted to each, the batcher itself is run over texts of realistic lengths against it, and the
plan and budget that are worth most for the expected `Traffic` win.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.scheduling.batcher import Batcher, BatchLimits, Hold
from app.scheduling.cost_model import CostModel, Sample, fit
from app.scheduling.queue import Row, RowQueue

UNBOUNDED = 10**9
# A larger budget delays whoever comes next; it must earn that.
LEAST_GAIN = 1.02
# What a batch costs its worker beside the forward pass: thread hops, bookkeeping, messages.
# Counted, batches are larger: 448 texts/s in place of 392 (MiniLM, two streams, backlog).
HANDLING_MS = 2.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a model is asked, as far as it shapes the choice.

    median_tokens, spread: of lognormal lengths. budgets: padded tokens per batch to choose from.
    streams_tokens, streams_rows: most padded tokens and rows that all streams may hold together,
    for their memory; stream_rows: so many rows each stream may in any case. grid_tokens: lengths
    worth measuring. grid_longest: the longest that is measured. grid_batch: most padded tokens of
    several rows that are. lone_share: how much the pace of one text at a time weighs beside that
    of a backlog, 0 to 1. max_streams: with more, a lone text would have too few threads.
    least_gain_of_fewer: how much more fewer streams, of more threads each, must be worth.
    """

    median_tokens: float
    spread: float
    budgets: tuple[int, ...]
    streams_tokens: int
    streams_rows: int
    stream_rows: int
    grid_tokens: tuple[int, ...]
    grid_longest: int
    grid_batch: int
    lone_share: float
    max_streams: int
    least_gain_of_fewer: float

    def lengths(self, count: int, max_tokens: int) -> list[int]:
        """Realistic lengths; the same each time."""
        source, middle = random.Random(28), math.log(self.median_tokens)
        drawn = (int(source.lognormvariate(middle, self.spread)) for _ in range(count))
        return [min(max_tokens, max(3, tokens)) for tokens in drawn]

    def budgets_for(self, streams: int) -> list[int]:
        """Padded tokens that each of the streams may hold; the smallest in any case."""
        fitting = [budget for budget in self.budgets if budget * streams <= self.streams_tokens]
        return fitting or [self.budgets[0]]

    def rows_for(self, streams: int, max_rows: int) -> int:
        """Rows of a batch on each of the streams, `max_rows` at most."""
        return min(max_rows, max(self.stream_rows, self.streams_rows // streams))

    def worth(self, cost: CostModel, tokens_per_s: float, max_tokens: int) -> float:
        """One figure for comparing ways of cutting up the CPU."""
        tokens = min(max_tokens, round(self.median_tokens))
        lone = tokens / cost.predict_ms(1, tokens) * 1000
        return float(lone**self.lone_share * tokens_per_s ** (1 - self.lone_share))


# An answer takes milliseconds, so who is alone can do with one thread.
TEXTS = Traffic(
    median_tokens=28,
    spread=0.61,  # 90th percentile about 61
    budgets=(128, 256, 512, 1024, 2048),
    streams_tokens=UNBOUNDED,
    streams_rows=UNBOUNDED,
    stream_rows=1,
    grid_tokens=(16, 64),
    grid_longest=UNBOUNDED,
    grid_batch=2048,
    lone_share=0.0,
    max_streams=UNBOUNDED,
    # All threads on one batch wait for the slowest of them, which a busy machine makes slow; what
    # calibration sees on an idle one must therefore promise more than separate streams do.
    least_gain_of_fewer=1.25,
)
# An answer takes seconds. BART-large (12 layers of 1,024) holds 100 kB for each padded token while
# its batch runs, and as much for each written token of each beam: eight rows of 512 and 60 tokens
# in 4 beams took 0.7 GB beside 0.47 GB for the model, four beams of 142 tokens another 0.06 a row.
# Four rows of 512 at a time keep the three checkpoints of the hub profile below 1.6 GiB, and are as
# fast: a step of more rows takes longer in proportion.
DOCUMENTS = Traffic(
    median_tokens=400,
    spread=0.6,  # 90th percentile about 860
    budgets=(512, 1024, 2048),
    streams_tokens=2048,
    streams_rows=8,
    stream_rows=4,
    grid_tokens=(64, 256, 512),
    grid_longest=1024,
    grid_batch=1024,
    lone_share=0.5,
    max_streams=4,
    # Each stream holds a batch of its own, for documents most of the memory beside the weights.
    # They must pay for that, also where a busy machine made joint threads look slow.
    least_gain_of_fewer=0.9,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner for one way of cutting up the CPU."""

    limits: BatchLimits
    cost: CostModel
    tokens_per_s: float  # of all streams together, predicted


def grid(max_rows: int, max_tokens: int, traffic: Traffic = TEXTS) -> list[tuple[int, int]]:
    """Shapes (rows, tokens) worth measuring within the bounds of model and batch, small first."""
    longest = min(max_tokens, traffic.grid_longest)
    rows = sorted({1, min(4, max_rows), max_rows})
    tokens = sorted({t for t in traffic.grid_tokens if t <= longest} | {longest})
    shapes = [(r, t) for r in rows for t in tokens if r == 1 or r * t <= traffic.grid_batch]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1])


def choose(
    samples: Sequence[Sample],
    streams: int,
    max_rows: int,
    max_tokens: int,
    max_hold_s: float,
    traffic: Traffic = TEXTS,
) -> Choice:
    """Fit the samples and pick the smallest token budget that does about as well as the best."""
    fitted = fit(samples)
    cost = replace(fitted, fixed_ms=fitted.fixed_ms + HANDLING_MS)
    lengths = traffic.lengths(256, max_tokens)
    best: Choice | None = None
    for budget in traffic.budgets_for(streams):
        limits = BatchLimits(max_rows, budget, max_hold_s)
        pace = streams * _tokens_per_s(limits, cost, lengths)
        if best is None or pace > LEAST_GAIN * best.tokens_per_s:
            best = Choice(limits, cost, pace)
    if best is None:
        raise ValueError("no token budgets to choose from")
    return best


def _tokens_per_s(limits: BatchLimits, cost: CostModel, lengths: Iterable[int]) -> float:
    """Pace of one stream working off a backlog, in real tokens per second."""
    queue, batcher = RowQueue(), Batcher(limits, cost)
    queue.add(Row(item, 0, tokens, arrived=0.0) for item, tokens in enumerate(lengths))
    total_tokens = sum(row.tokens for row in queue)
    total_ms = 0.0
    while True:
        batch = batcher.choose(queue, now=0.0)
        if batch is None or isinstance(batch, Hold):
            return total_tokens / total_ms * 1000
        queue.take(batch)
        total_ms += cost.predict_ms(len(batch), max(row.tokens for row in batch))
