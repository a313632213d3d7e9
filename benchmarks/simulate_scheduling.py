"""The real queue and batcher on a simulated clock, beside two usual ways of forming batches.

    python -m benchmarks.simulate_scheduling [--seconds 40] [--seeds 2] [--write docs/simulation.md]

Costs are those that calibration recorded for the embedded encoder (all-MiniLM-L6-v2, int8) on two
cores: two single-threaded streams. Each batch takes what the recorded model says, times a random
factor of about 10 %, which the batcher learns of only when the batch ends. Everybody drops expired
rows before a batch is formed. The policies:

    fifo 8    the oldest eight
    sorted    the 64 oldest by length, cut into eights; the eight with the oldest row
    ours      app/scheduling as it is
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, log
from pathlib import Path
from typing import Protocol

from app.scheduling.batcher import Batcher, BatchLimits, Hold
from app.scheduling.cost_model import CostModel
from app.scheduling.queue import Row, RowQueue

RECORDED = CostModel(fixed_ms=5.206, per_token_ms=0.21316, per_pair_ms=0.00065228)
STREAMS, MAX_ROWS, MAX_PADDED_TOKENS, LONGEST = 2, 8, 256, 256
DEADLINE_S = 1.0
WINDOW = 64
NOISE = 0.1
HEAVY_TEXTS, HEAVY_EVERY_S, HEAVY_DEADLINE_S = 2000, 20.0, 60.0
BURST_ROWS = 60
LIGHT, LIGHT_CALLERS = "light ", 50

Lengths = Callable[[random.Random], int]
Mix = tuple[str, Lengths]
Arrivals = Iterator[tuple[float, str, float]]
"""Time, caller, seconds until the deadline."""


def _lognormal(source: random.Random) -> int:
    return min(LONGEST, max(3, int(source.lognormvariate(log(28), 0.61))))


def _bimodal(source: random.Random) -> int:
    return source.randint(8, 16) if source.random() < 0.8 else source.randint(150, LONGEST)


def _uniform(source: random.Random) -> int:
    return source.randint(3, 128)


MIXES: tuple[Mix, ...] = (("lognormal", _lognormal), ("bimodal", _bimodal), ("uniform", _uniform))


class Policy(Protocol):
    """Who runs next; what it returns has left it."""

    def add(self, row: Row, now: float) -> None: ...

    def next_batch(self, now: float, idle: int) -> list[Row]: ...

    def ran(self, batch: Sequence[Row], ms: float) -> None: ...


class Fifo:
    def __init__(self) -> None:
        self._rows: list[Row] = []

    def add(self, row: Row, now: float) -> None:
        self._rows.append(row)

    def next_batch(self, now: float, idle: int) -> list[Row]:
        batch: list[Row] = []
        taken = 0
        for row in self._rows:
            if len(batch) == MAX_ROWS:
                break
            taken += 1
            if not row.is_expired(now):
                batch.append(row)
        del self._rows[:taken]
        return batch

    def ran(self, batch: Sequence[Row], ms: float) -> None:
        pass


class Sorted(Fifo):
    def next_batch(self, now: float, idle: int) -> list[Row]:
        window: list[Row] = []
        looked_at = 0
        for row in self._rows:
            if len(window) == WINDOW:
                break
            looked_at += 1
            if not row.is_expired(now):
                window.append(row)
        del self._rows[:looked_at]
        if not window:
            return []
        by_length = sorted(window, key=lambda row: row.tokens)
        at = by_length.index(window[0]) // MAX_ROWS * MAX_ROWS
        batch = by_length[at : at + MAX_ROWS]
        chosen = {row.key for row in batch}
        self._rows[:0] = [row for row in window if row.key not in chosen]
        return batch


class Ours:
    def __init__(self) -> None:
        self._queue = RowQueue()
        self._batcher = Batcher(BatchLimits(MAX_ROWS, MAX_PADDED_TOKENS), RECORDED)

    def add(self, row: Row, now: float) -> None:
        self._queue.add([row])
        self._batcher.note_arrivals(1, now)

    def next_batch(self, now: float, idle: int) -> list[Row]:
        for item in self._queue.expired(now):
            self._queue.drop(item, 1)
        batch = self._batcher.choose(self._queue, now, idle)
        if batch is None or isinstance(batch, Hold):
            return []
        self._queue.take(batch)
        return batch

    def ran(self, batch: Sequence[Row], ms: float) -> None:
        longest, real = max(row.tokens for row in batch), sum(row.tokens for row in batch)
        self._batcher.note_ran(len(batch), longest, real, ms)


POLICIES: tuple[tuple[str, Callable[[], Policy]], ...] = (
    ("fifo 8", Fifo),
    ("sorted", Sorted),
    ("ours", Ours),
)


@dataclass
class Outcome:
    """What became of the rows of a run, and what it cost."""

    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    offered: int = 0
    in_time: int = 0
    real: int = 0
    padded: int = 0
    seconds: float = 0.0

    def add(self, other: "Outcome") -> None:
        for caller, latencies in other.latencies_ms.items():
            self.latencies_ms.setdefault(caller, []).extend(latencies)
        self.offered += other.offered
        self.in_time += other.in_time
        self.real += other.real
        self.padded += other.padded
        self.seconds += other.seconds

    def percentile_ms(self, percent: int, caller: str = "") -> float:
        values = sorted(self.latencies_ms.get(caller, []))
        return values[min(len(values) - 1, len(values) * percent // 100)] if values else inf


def simulate(policy: Policy, rows: Sequence[Row], seed: int) -> Outcome:
    """Every row comes at its time; each stream takes a batch whenever it is free."""
    noise, result = random.Random(seed), Outcome(offered=len(rows))
    ends: list[tuple[float, int, list[Row], float]] = []
    serial = idle = STREAMS
    at, now = 0, 0.0
    while at < len(rows) or ends:
        comes = rows[at].arrived if at < len(rows) else inf
        if ends and ends[0][0] <= comes:
            now, _, batch, ms = heappop(ends)
            idle += 1
            policy.ran(batch, ms)
            for row in batch:
                _book(row, now, result)
        else:
            now = comes
            policy.add(rows[at], now)
            at += 1
        while idle and (batch := policy.next_batch(now, idle)):
            longest = max(row.tokens for row in batch)
            ms = RECORDED.predict_ms(len(batch), longest) * noise.lognormvariate(0, NOISE)
            result.real += sum(row.tokens for row in batch)
            result.padded += len(batch) * longest
            serial += 1
            idle -= 1
            heappush(ends, (now + ms / 1000, serial, batch, ms))
    result.seconds = now
    return result


def _book(row: Row, now: float, result: Outcome) -> None:
    who = "" if row.caller.startswith(LIGHT) else row.caller
    result.latencies_ms.setdefault(who, []).append((now - row.arrived) * 1000)
    result.in_time += row.deadline is None or now <= row.deadline


def capacity_rows_per_s(lengths: Lengths) -> float:
    """Pace of ours over a backlog: what a load of 1 means."""
    source = random.Random(1)
    rows = [Row(item, 0, lengths(source), 0.0) for item in range(2000)]
    return len(rows) / simulate(Ours(), rows, 1).seconds


def poisson(source: random.Random, rate: float, seconds: float) -> Arrivals:
    now = source.expovariate(rate)
    while now < seconds:
        yield now, "", DEADLINE_S
        now += source.expovariate(rate)


def bursts(source: random.Random, rate: float, seconds: float) -> Arrivals:
    for now, caller, left in poisson(source, rate / BURST_ROWS, seconds):
        yield from ((now, caller, left) for _ in range(BURST_ROWS))


def light_callers(source: random.Random, rate: float, seconds: float) -> Arrivals:
    """Many, each with a text now and then."""
    for number, (now, _, left) in enumerate(poisson(source, rate, seconds)):
        yield now, f"{LIGHT}{number % LIGHT_CALLERS}", left


def beside_a_heavy_caller(source: random.Random, rate: float, seconds: float) -> Arrivals:
    """Who sends thousands of texts at once, with time to spare."""
    heavy = [
        (begin * HEAVY_EVERY_S, "heavy", HEAVY_DEADLINE_S)
        for begin in range(int(seconds / HEAVY_EVERY_S))
        for _ in range(HEAVY_TEXTS)
    ]
    yield from sorted([*light_callers(source, rate, seconds), *heavy])


Pattern = tuple[str, Callable[[random.Random, float, float], Arrivals], float]
PATTERNS: tuple[Pattern, ...] = (
    ("Poisson, load 0.5", poisson, 0.5),
    ("Poisson, load 0.8", poisson, 0.8),
    ("Poisson, load 1.2", poisson, 1.2),
    (f"bursts of {BURST_ROWS}, load 0.8", bursts, 0.8),
    ("50 callers, load 0.2", light_callers, 0.2),
    ("the same beside a heavy caller", beside_a_heavy_caller, 0.2),
)


def table(mix: Mix, pattern: Pattern, seconds: float, seeds: int) -> list[str]:
    """Lines of a table: one per policy."""
    name, lengths = mix
    what, arrivals, load = pattern
    rate = load * capacity_rows_per_s(lengths)
    lines = []
    for policy_name, make in POLICIES:
        total = Outcome()
        for seed in range(seeds):
            source = random.Random(seed)
            rows = [
                Row(item, 0, lengths(source), at, at + left, caller=caller)
                for item, (at, caller, left) in enumerate(arrivals(source, rate, seconds))
            ]
            total.add(simulate(make(), rows, seed))
        lines.append(
            f"| {name} | {what} | {policy_name} | {_shown(total.percentile_ms(50))} "
            f"| {_shown(total.percentile_ms(99))} | {100 * total.in_time / total.offered:.1f} "
            f"| {total.padded / max(1, total.real):.2f} | {total.real / total.seconds:.0f} |"
        )
    return lines


def _shown(ms: float) -> str:
    return "none answered" if ms == inf else f"{ms:.0f}"


HEAD = (
    "| lengths | arrivals | policy | p50 ms | p99 ms | in time % | padded / real | tokens/s |",
    "|---|---|---|---:|---:|---:|---:|---:|",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="virtual, per seed and cell")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    given = parser.parse_args()
    began, lines = time.perf_counter(), list(HEAD)
    for pattern in PATTERNS:
        for mix in MIXES:
            lines += table(mix, pattern, given.seconds, given.seeds)
    took = time.perf_counter() - began
    cells = len(MIXES) * len(PATTERNS) * len(POLICIES) * given.seeds
    print("\n".join(lines))
    print(f"{cells * given.seconds:,.0f} virtual seconds in {took:.0f} s")
    gain = statistics.mean(capacity_rows_per_s(lengths) for _, lengths in MIXES)
    print(f"load 1 is {gain:.0f} rows/s on average over the mixes")
    if given.write:
        title = (
            "# Simulated scheduling\n\nWritten by `benchmarks/simulate_scheduling.py`; "
            "[scheduling.md](scheduling.md) says what it shows. Percentiles\nare of answered "
            "texts; beside a heavy caller, of those of the others.\n\n"
        )
        given.write.write_text(title + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
