"""The real queue and batcher on a simulated clock, beside two usual ways of forming batches.

    python -m benchmarks.simulate_scheduling [--seconds 40] [--seeds 2]
                                             [--write docs/simulation.md] [--plots docs/simulation]

Costs are those that calibration recorded for the embedded encoder (all-MiniLM-L6-v2, int8), in
recorded_costs.json. Each batch takes what the recorded model says, times a random factor of about
10 %, which the batcher learns of only when the batch ends. Everybody drops expired rows before a
batch is formed. The same seeds give the same figures. The policies:

    fifo 8    the oldest eight
    sorted    the 64 oldest by length, cut into eights; the eight with the oldest row
    ours      app/scheduling as it is
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from math import inf, log
from pathlib import Path
from typing import Protocol

from app.scheduling.batcher import Batcher, BatchLimits, Hold
from app.scheduling.queue import Row, RowQueue
from benchmarks.record_costs import MAX_ROWS, read_recording
from benchmarks.simulation_plots import Comparison, Sweep, draw

RECORDING = read_recording()
RECORDED, STREAMS = RECORDING.calibration.cost, RECORDING.calibration.streams
LONGEST = 256
LIMITS = BatchLimits(MAX_ROWS, RECORDING.calibration.max_padded_tokens)
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
        self._batcher = Batcher(LIMITS, RECORDED)

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

    @property
    def in_time_percent(self) -> float:
        return 100 * self.in_time / self.offered

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


@cache
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


Arriving = Callable[[random.Random, float, float], Arrivals]
Pattern = tuple[str, Arriving, float]
ALONE: Pattern = ("50 callers, load 0.2", light_callers, 0.2)
BESIDE: Pattern = ("the same beside a heavy caller", beside_a_heavy_caller, 0.2)
PATTERNS: tuple[Pattern, ...] = (
    ("Poisson, load 0.5", poisson, 0.5),
    ("Poisson, load 0.8", poisson, 0.8),
    ("Poisson, load 1.2", poisson, 1.2),
    (f"bursts of {BURST_ROWS}, load 0.8", bursts, 0.8),
    ALONE,
    BESIDE,
)
SWEPT: tuple[tuple[str, Arriving], ...] = (
    ("Poisson", poisson),
    (f"bursts of {BURST_ROWS}", bursts),
)
LOADS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)


@dataclass(frozen=True, slots=True)
class Runs:
    """How long each cell is simulated, and from how many seeds."""

    seconds: float
    seeds: int

    def outcome(self, make: Callable[[], Policy], lengths: Lengths, pattern: Pattern) -> Outcome:
        _, arrivals, load = pattern
        rate = load * capacity_rows_per_s(lengths)
        total = Outcome()
        for seed in range(self.seeds):
            source = random.Random(seed)
            rows = [
                Row(item, 0, lengths(source), at, at + left, caller=caller)
                for item, (at, caller, left) in enumerate(arrivals(source, rate, self.seconds))
            ]
            total.add(simulate(make(), rows, seed))
        return total


def table(mix: Mix, pattern: Pattern, runs: Runs) -> list[str]:
    """Lines of a table: one per policy."""
    name, lengths = mix
    lines = []
    for policy_name, make in POLICIES:
        total = runs.outcome(make, lengths, pattern)
        lines.append(
            f"| {name} | {pattern[0]} | {policy_name} | {_shown(total.percentile_ms(50))} "
            f"| {_shown(total.percentile_ms(99))} | {total.in_time_percent:.1f} "
            f"| {total.padded / max(1, total.real):.2f} | {total.real / total.seconds:.0f} |"
        )
    return lines


def sweeps(runs: Runs) -> Iterator[Sweep]:
    """Every policy against load, for each mix and way of arriving."""
    for what, arrivals in SWEPT:
        for mix, lengths in MIXES:
            for policy, make in POLICIES:
                outcomes = [runs.outcome(make, lengths, (what, arrivals, load)) for load in LOADS]
                yield Sweep(
                    mix=mix,
                    arrivals=what,
                    policy=policy,
                    loads=LOADS,
                    p50_ms=[outcome.percentile_ms(50) for outcome in outcomes],
                    p99_ms=[outcome.percentile_ms(99) for outcome in outcomes],
                    in_time_percent=[outcome.in_time_percent for outcome in outcomes],
                )


def comparisons(runs: Runs) -> Iterator[Comparison]:
    """What a heavy caller costs the others, by mix and policy."""
    for mix, lengths in MIXES:
        for policy, make in POLICIES:
            alone, beside = (runs.outcome(make, lengths, pattern) for pattern in (ALONE, BESIDE))
            yield Comparison(mix, policy, alone.percentile_ms(99), beside.percentile_ms(99))


def _shown(ms: float) -> str:
    return "none answered" if ms == inf else f"{ms:.0f}"


HEAD = (
    "| lengths | arrivals | policy | p50 ms | p99 ms | in time % | padded / real | tokens/s |",
    "|---|---|---|---:|---:|---:|---:|---:|",
)


TITLE = """# Simulated scheduling

Written by `make simulation`, the same from the same seeds; [scheduling.md](scheduling.md) says what
it shows. The costs were recorded by `python -m benchmarks.record_costs` on {cpu}:
{streams} streams, on which a batch of r rows of at most n tokens takes
{fixed:.2f} + {token:.4f} r n + {pair:.6f} r n^2 ms. A load of 1 is the pace of ours over a
backlog: {paces} texts/s. Texts have a deadline
of {deadline:g} s. Percentiles are of answered texts; beside a heavy caller, of those of the others.

![Median and 99th percentile of latency against load](simulation/latency.svg)

![Share of texts answered in time against load](simulation/in_time.svg)

![99th percentile of latency, alone and beside a heavy caller](simulation/heavy_caller.svg)

"""


def title() -> str:
    cost = RECORDED
    return TITLE.format(
        cpu=RECORDING.cpu,
        streams=STREAMS,
        fixed=cost.fixed_ms,
        token=cost.per_token_ms,
        pair=cost.per_pair_ms,
        paces=", ".join(f"{name} {capacity_rows_per_s(lengths):.0f}" for name, lengths in MIXES),
        deadline=DEADLINE_S,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="virtual, per seed and cell")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    parser.add_argument("--plots", type=Path, help="a folder for plots; needs matplotlib")
    given = parser.parse_args()
    runs = Runs(given.seconds, given.seeds)
    began, lines = time.perf_counter(), list(HEAD)
    for pattern in PATTERNS:
        for mix in MIXES:
            lines += table(mix, pattern, runs)
    took = time.perf_counter() - began
    cells = len(MIXES) * len(PATTERNS) * len(POLICIES) * given.seeds
    print("\n".join(lines))
    print(f"{cells * given.seconds:,.0f} virtual seconds in {took:.0f} s")
    if given.write:
        given.write.write_text(title() + "\n".join(lines) + "\n", encoding="utf-8")
    if given.plots:
        draw(given.plots, list(sweeps(runs)), list(comparisons(runs)), 1000 * DEADLINE_S)


if __name__ == "__main__":
    main()
