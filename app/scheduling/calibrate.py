"""Chooses how an encoder uses this machine, from measured batches. Pure.

The worker measures a small grid of shapes for each way of cutting up the CPU; here the cost model
is fitted to each, the batcher itself is run over texts of realistic lengths against it, and the
plan and budget with most real tokens per second win.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.scheduling.batcher import Batcher, BatchLimits, Hold
from app.scheduling.cost_model import CostModel, Sample, fit
from app.scheduling.queue import Row, RowQueue

TOKEN_BUDGETS = (128, 256, 512, 1024, 2048)
# A larger budget delays whoever comes next; it must earn that.
LEAST_GAIN = 1.02
# What a batch costs its worker beside the forward pass: thread hops, bookkeeping, messages.
# Counted, batches are larger: 448 texts/s in place of 392 (MiniLM, two streams, backlog).
HANDLING_MS = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner for one way of cutting up the CPU."""

    limits: BatchLimits
    cost: CostModel
    tokens_per_s: float  # of all streams together, predicted


def grid(max_rows: int, max_tokens: int) -> list[tuple[int, int]]:
    """Shapes (rows, tokens) worth measuring within the bounds of model and batch."""
    rows = sorted({1, min(4, max_rows), max_rows})
    tokens = sorted({16, 64, max_tokens} & set(range(1, max_tokens + 1)) or {max_tokens})
    return [(r, t) for r in rows for t in tokens if r == 1 or r * t <= TOKEN_BUDGETS[-1]]


def realistic_lengths(count: int, max_tokens: int) -> list[int]:
    """Lognormal text lengths: median 28 tokens, 90th percentile about 61; same each time."""
    source = random.Random(28)
    return [min(max_tokens, max(3, int(source.lognormvariate(3.33, 0.61)))) for _ in range(count)]


def choose(
    samples: Sequence[Sample], streams: int, max_rows: int, max_tokens: int, max_hold_s: float
) -> Choice:
    """Fit the samples and pick the smallest token budget that does about as well as the best."""
    fitted = fit(samples)
    cost = replace(fitted, fixed_ms=fitted.fixed_ms + HANDLING_MS)
    lengths = realistic_lengths(256, max_tokens)
    best: Choice | None = None
    for budget in TOKEN_BUDGETS:
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
