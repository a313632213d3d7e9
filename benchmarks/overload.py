"""Offer several times what the server can do: does it still do its best, and refuse quickly?

    python -m benchmarks.overload [--seconds 6] [--factors 3 10 3 10 3 10] [--deadline-ms 1000]
                                  [--callers 64] [--share-cpus] [--model summarizer]

Capacity first: a closed loop of 64 callers asks `sentiment` for single texts of lognormal length,
with so late a deadline that none is refused and the batches are as full as they get.
Ten times what so small a model does is more requests than one core can refuse and still do its
best; `--model summarizer` asks for summaries of a dozen such sentences, which take as long as a
text takes a model of a usual size.
Then requests arrive at random (Poisson) at a multiple of that, whether or not earlier ones were
answered: `normal` ones of 64 callers, and beside them a steady stream of `interactive` ones of one
more caller, a tenth of the capacity. Goodput counts answers within the deadline, as the caller's
clock saw it. Refusals are 429 and 503, timed from the moment at which the request was due to be
sent, so that a generator that falls behind makes them look slower, not faster. Prints a JSON
report and a verdict per bar; exits 1 when one is missed.

The capacity is measured again after each phase, and a phase judged by the mean of those around it:
machines change their pace from minute to minute. The verdicts are of the medians of the phases.

Before each phase the interactive stream runs alone, at the same rate: that is its unloaded value.
It comes from a process of its own, so that it does not wait for the other generator. What was not
answered in time counts as if it had taken the deadline. All figures but the counts of statuses are
of the time in which the queue is as full as it gets: what is answered while it fills or empties
would flatter the paces, and in the first second of a flood the server has not noticed it yet.

Clients have machines of their own; here the generators have one CPU, and the server the others,
from the measurement of its capacity on. With `--share-cpus`, or a single CPU, all share all.
`generator_lag_ms` says how late the generators were, `cpus` how many CPUs each part kept busy.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvloop

from benchmarks.harness import Bars, running_server, texts_of_lognormal_length, warn_when_busy
from tests.e2e.serving import ServerProcess

CALLERS = 64
MOST_CONNECTIONS = 800  # with those of the interactive stream below the server's own cap
INTERACTIVE_CONNECTIONS = 100
INTERACTIVE_SHARE = 0.1  # of the capacity
TEXTS = 4096  # so many that hardly any two of a caller are equal and computed once
SENTENCES = 12  # of a text to be summarized
TICK_S = 0.001
FILLS_S = 2.0  # until as much waits as will ever wait
HEARTBEAT_S = 1.5
UNHURRIED_S = 60.0  # the deadline of those who ask as fast as they are answered
BEGINS_IN_S = 1.0  # until then both generators are connected
REFUSALS = frozenset({429, 503})
SEED = 7

GOODPUT_BAR = 0.9  # of the peak
REFUSAL_BAR_MS = 50
INTERACTIVE_BAR = 2.0  # times the unloaded value
MEMORY_BAR = 1.05  # of what it was after one phase of each factor

OnAnswer = Callable[[int, float], None]


class Connection(asyncio.Protocol):
    """One request at a time; knows just enough HTTP for this server's answers."""

    def __init__(self, on_free: Callable[["Connection"], None]) -> None:
        self._on_free = on_free
        self._buffer = b""
        self._on_answer: OnAnswer | None = None
        self._write: Callable[[bytes], None] = lambda data: None
        self.close: Callable[[], None] = lambda: None

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write
        self.close = transport.close

    def ask(self, request: bytes, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) == length:
            self._buffer = b""
            self._tell(int(head[9:12]))
            self._on_free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._tell(0)

    def _tell(self, status: int) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(status, time.perf_counter())


@dataclass
class Seen:
    """What became of the requests of one phase.

    steady: from when to when answers count as a pace; before, queues fill, and empty after it.
    """

    steady: tuple[float, float]
    statuses: Counter[int] = field(default_factory=Counter)
    steadily: int = 0  # good answers in that time
    failed: int = 0  # neither good nor refused
    seconds: list[float] = field(default_factory=list)  # of good answers
    refused_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    not_sent: int = 0
    open: int = 0

    def note(self, status: int, took_s: float, deadline_s: float) -> None:
        """An answer to what was asked in the steady time."""
        if status == 200 and took_s <= deadline_s:
            self.seconds.append(took_s)
        elif status in REFUSALS:
            self.refused_s.append(took_s)
        else:
            self.failed += 1

    @property
    def per_s(self) -> float:
        """Good answers per second of the steady time."""
        begins, ends = self.steady
        return self.steadily / (ends - begins)


class Load:
    """Connections to one server, and requests of one class to send on them."""

    def __init__(
        self,
        port: int,
        model: str,
        deadline_s: float,
        callers: Iterable[str],
        priority: str = "normal",
    ) -> None:
        self._port = port
        self._deadline_s = deadline_s
        self._idle: deque[Connection] = deque()
        self._random = random.Random(SEED)
        self._heads = [_head(caller, priority, deadline_s) for caller in callers]
        self._bodies = [_body(model, text) for text in texts_for(model)]

    async def connect(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self._idle.append), "127.0.0.1", self._port
            )
            self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.popleft().close()

    async def closed(self, callers: int, seconds: float) -> Seen:
        """When each caller waits for its answer before it asks again."""
        seen = Seen(_steady(seconds))
        await asyncio.gather(*(self._caller(seen) for _ in range(callers)))
        return seen

    async def _caller(self, seen: Seen) -> None:
        while time.perf_counter() < seen.steady[1]:
            answered = asyncio.get_running_loop().create_future()
            self._send(seen, time.perf_counter(), lambda: answered.set_result(None))
            await answered

    async def opened(self, rate: float, seconds: float) -> Seen:
        """Requests at `rate` per second, come what may; returns when all are answered."""
        seen = Seen(_steady(seconds))
        due, ends = time.perf_counter(), seen.steady[1]
        while due < ends:
            now = time.perf_counter()
            while due <= min(now, ends):
                if self._idle:
                    self._send(seen, due)
                else:
                    seen.not_sent += 1
                due += self._random.expovariate(rate)
            await asyncio.sleep(TICK_S)
        while seen.open:
            await asyncio.sleep(0.01)
        return seen

    def _send(self, seen: Seen, due: float, then: Callable[[], None] = lambda: None) -> None:
        def on_answer(status: int, now: float) -> None:
            seen.open -= 1
            seen.statuses[status] += 1
            took_s = now - due
            if status == 200 and took_s <= self._deadline_s:
                seen.steadily += seen.steady[0] <= now <= seen.steady[1]
            if seen.steady[0] <= due:
                seen.note(status, took_s, self._deadline_s)
            then()

        seen.open += 1
        seen.lags_s.append(time.perf_counter() - due)
        choice = self._random.choice
        self._idle.popleft().ask(choice(self._heads) + choice(self._bodies), on_answer)


def _steady(seconds: float) -> tuple[float, float]:
    begins = time.perf_counter() + FILLS_S
    return begins, begins + seconds


def _head(caller: str, priority: str, deadline_s: float) -> bytes:
    return (
        "POST /infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"X-Request-Timeout-Ms: {1000 * deadline_s:g}\r\nX-Priority: {priority}\r\n"
        f"X-Caller-Id: {caller}\r\n"
    ).encode()


def texts_for(model: str) -> list[str]:
    if model != "summarizer":
        return texts_of_lognormal_length(TEXTS, SEED)
    sentences = texts_of_lognormal_length(TEXTS, SEED)
    chance = random.Random(SEED)
    return [". ".join(chance.choices(sentences, k=SENTENCES)) + "." for _ in range(TEXTS)]


def _body(model: str, text: str) -> bytes:
    """With the header field that depends on it."""
    body = json.dumps({"model": model, "text": text}).encode()
    return f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def interactive_stream(
    port: int, model: str, deadline_s: float, begins: float, rate: float, seconds: float
) -> Seen:
    """For a process of its own, which shares the clock: from `begins` on, `rate` per second."""

    async def send() -> Seen:
        load = Load(port, model, deadline_s, ["interactive"], "interactive")
        await load.connect(INTERACTIVE_CONNECTIONS)
        await asyncio.sleep(begins - time.perf_counter())
        seen = await load.opened(rate, seconds)
        load.close()
        return seen

    return uvloop.run(send())


class Usage:
    """CPU time and memory of the server, its workers and this process."""

    def __init__(self, server: ServerProcess) -> None:
        api = psutil.Process(server.process.pid)
        self._parts = {"api": [api], "workers": api.children(), "generator": [psutil.Process()]}
        self._before = self._cpu_s()
        self._started = time.perf_counter()

    def _cpu_s(self) -> dict[str, float]:
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in self._parts.items()
        }

    def cpus(self) -> dict[str, float]:
        passed_s = time.perf_counter() - self._started
        return {
            name: round((now - self._before[name]) / passed_s, 2)
            for name, now in self._cpu_s().items()
        }

    def megabytes(self) -> dict[str, float]:
        return {
            name: round(sum(process.memory_info().rss for process in processes) / 2**20, 1)
            for name, processes in self._parts.items()
            if name != "generator"
        }


def percentile_ms(seconds: Sequence[float], share: float) -> float | None:
    if len(seconds) < 2:
        return None
    return round(1000 * statistics.quantiles(seconds, n=1000)[round(1000 * share) - 1], 1)


async def measure(
    server: ServerProcess, arguments: argparse.Namespace, apart: Executor
) -> dict[str, Any]:
    deadline_s: float = arguments.deadline_ms / 1000
    callers = [f"caller-{n}" for n in range(arguments.callers)]
    unhurried = Load(server.port, arguments.model, UNHURRIED_S, callers)
    await unhurried.connect(CALLERS)
    at_peak = Usage(server)
    peaks = [(await unhurried.closed(CALLERS, arguments.seconds)).per_s]
    load = Load(server.port, arguments.model, deadline_s, callers)
    await load.connect(MOST_CONNECTIONS)
    report: dict[str, Any] = {
        "model": arguments.model,
        "deadline_ms": arguments.deadline_ms,
        "server_cpus": sorted(psutil.Process(server.process.pid).cpu_affinity()),
        "peak_cpus": at_peak.cpus(),
        "memory_mb": [Usage(server).megabytes()],
        "phases": [],
    }
    loop = asyncio.get_running_loop()

    def interactive(rate: float) -> asyncio.Future[Seen]:
        begins = time.perf_counter() + BEGINS_IN_S
        asked = (server.port, arguments.model, deadline_s, begins, rate, arguments.seconds)
        return loop.run_in_executor(apart, interactive_stream, *asked)

    await loop.run_in_executor(apart, os.getpid)  # it has started
    for factor in arguments.factors:
        rate = peaks[-1]
        alone = await interactive(INTERACTIVE_SHARE * rate)
        beside = interactive(INTERACTIVE_SHARE * rate)
        await asyncio.sleep(BEGINS_IN_S)
        usage = Usage(server)
        bulk = await load.opened((factor - INTERACTIVE_SHARE) * rate, arguments.seconds)
        phase = _phase(factor, (bulk, await beside), usage)
        phase["interactive"] = _interactive(alone, await beside, deadline_s)
        await asyncio.sleep(HEARTBEAT_S)
        report["memory_mb"].append(Usage(server).megabytes())
        peaks.append((await unhurried.closed(CALLERS, arguments.seconds)).per_s)
        around = statistics.mean(peaks[-2:])
        phase["goodput_of_peak"] = round(phase["goodput_per_s"] / around, 3)
        report["phases"].append(phase)
    report["peaks_per_s"] = [round(peak, 1) for peak in peaks]
    return report


def _phase(factor: float, streams: Sequence[Seen], usage: Usage) -> dict[str, Any]:
    statuses: Counter[int] = sum((seen.statuses for seen in streams), Counter())
    good_s = [one for seen in streams for one in seen.seconds]
    refused_s = [one for seen in streams for one in seen.refused_s]
    not_sent = sum(seen.not_sent for seen in streams)
    asked = statuses.total() + not_sent
    begins, ends = streams[0].steady
    per_s = sum(seen.per_s for seen in streams)
    return {
        "factor": factor,
        "offered_per_s": round(asked / (FILLS_S + ends - begins), 1),
        "goodput_per_s": round(per_s, 1),
        "statuses": dict(statuses),
        "not_sent": not_sent,
        "good_ms": {"p50": percentile_ms(good_s, 0.5), "p99": percentile_ms(good_s, 0.99)},
        "refused_ms": {
            "p50": percentile_ms(refused_s, 0.5),
            "p99": percentile_ms(refused_s, 0.99),
            "max": round(1000 * max(refused_s, default=0), 1),
        },
        "generator_lag_ms": {"p99": percentile_ms(streams[0].lags_s, 0.99)},
        "cpus": usage.cpus(),
    }


def _interactive(alone: Seen, beside: Seen, deadline_s: float) -> dict[str, Any]:
    """The same stream alone and beside the others."""
    report: dict[str, Any] = {}
    for name, seen in (("alone", alone), ("beside", beside)):
        missed = len(seen.refused_s) + seen.failed + seen.not_sent
        took_s = seen.seconds + [deadline_s] * missed
        report[name] = {
            "asked": len(took_s),
            "missed": missed,
            "statuses": dict(seen.statuses),
            "p50_ms": percentile_ms(took_s, 0.5),
            "p99_ms": percentile_ms(took_s, 0.99),
            "generator_lag_p99_ms": percentile_ms(seen.lags_s, 0.99),
        }
    before, now = (report[name]["p99_ms"] for name in ("alone", "beside"))
    report["p99_ratio"] = round(now / before, 2) if before and now else None
    return report


def judge(report: dict[str, Any]) -> Bars:
    bars = Bars()
    for factor in sorted({phase["factor"] for phase in report["phases"]}):
        phases = [phase for phase in report["phases"] if phase["factor"] == factor]
        at = f"at {factor:g}x (median of {len(phases)})"
        goodput = statistics.median(phase["goodput_of_peak"] for phase in phases)
        bars.at_least(f"goodput {at}, of the peak", goodput, GOODPUT_BAR)
        for which in ("p50", "p99"):
            refused = [phase["refused_ms"][which] for phase in phases]
            if None not in refused:
                bars.at_most(
                    f"refusals {at}, {which} ms", statistics.median(refused), REFUSAL_BAR_MS
                )
        ratios = [phase["interactive"]["p99_ratio"] for phase in phases]
        known = [ratio for ratio in ratios if ratio is not None]
        bars.at_most(
            f"interactive p99 {at}, of its unloaded value",
            statistics.median(known),
            INTERACTIVE_BAR,
        )
    first = len({phase["factor"] for phase in report["phases"]})  # after one phase of each factor
    _, *after = report["memory_mb"]
    for part, before in after[first - 1].items():
        grown = max(megabytes[part] for megabytes in after[first - 1 :]) / before
        bars.at_most(f"memory of {part}, of what it was after {first} phases", grown, MEMORY_BAR)
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--factors", type=float, nargs="+", default=[3, 10, 3, 10, 3, 10])
    parser.add_argument("--callers", type=int, default=CALLERS, help="names among the normal ones")
    parser.add_argument("--deadline-ms", type=float, default=1000)
    parser.add_argument("--model", choices=("sentiment", "summarizer"), default="sentiment")
    parser.add_argument("--share-cpus", action="store_true", help="with the generators")
    arguments = parser.parse_args()
    warn_when_busy()
    spawn = multiprocessing.get_context("spawn")
    *servers, ours = sorted(os.sched_getaffinity(0))
    is_apart = servers and not arguments.share_cpus
    if is_apart:
        os.sched_setaffinity(0, servers)  # whoever is started now inherits it
    with (
        running_server(HEADER_TIMEOUT_S=600, KEEP_ALIVE_S=600) as server,  # idle ones stay
        ProcessPoolExecutor(1, spawn) as apart,
    ):
        if is_apart:
            os.sched_setaffinity(0, {ours})
        report = uvloop.run(measure(server, arguments, apart))
    print(json.dumps(report, indent=2))
    return judge(report).exit_status()


if __name__ == "__main__":
    sys.exit(main())
