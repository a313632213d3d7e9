"""Offer several times what the server can do: does it still do its best, and refuse quickly?

    python -m benchmarks.overload [--seconds 5] [--factors 3 10] [--deadline-ms 1000]

Capacity first: a closed loop of 64 callers asks `sentiment` for single texts of lognormal length.
Then requests arrive at random (Poisson) at a multiple of that, whether or not earlier ones were
answered. Goodput counts answers within the deadline, as the caller's clock saw it. Refusals are
429 and 503, timed from the moment at which the request was due to be sent, so that a generator
that falls behind makes them look slower, not faster. Prints a JSON report.

The generator shares the machine with the server: `generator_lag_ms` says how late it was itself,
and `cpus` how many CPUs each part kept busy.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvloop

from benchmarks.harness import running_server, texts_of_lognormal_length, warn_when_busy
from tests.e2e.serving import ServerProcess

CALLERS = 64
MOST_CONNECTIONS = 900  # below the server's own cap
TICK_S = 0.001
REFUSALS = frozenset({429, 503})
SEED = 7

OnAnswer = Callable[[int, float], None]


class Connection(asyncio.Protocol):
    """One request at a time; knows just enough HTTP for this server's answers."""

    def __init__(self, on_free: Callable[["Connection"], None]) -> None:
        self._on_free = on_free
        self._buffer = b""
        self._on_answer: OnAnswer | None = None
        self._write: Callable[[bytes], None] = lambda data: None

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

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
    """What became of the requests of one phase."""

    statuses: Counter[int] = field(default_factory=Counter)
    good: int = 0
    seconds: list[float] = field(default_factory=list)  # of good answers
    refused_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    not_sent: int = 0
    open: int = 0


class Load:
    """Connections to one server, and requests to send on them."""

    def __init__(self, port: int, deadline_s: float) -> None:
        self._port = port
        self._deadline_s = deadline_s
        self._idle: deque[Connection] = deque()
        self._random = random.Random(SEED)
        self._requests = [
            _request(text, deadline_s) for text in texts_of_lognormal_length(512, SEED)
        ]

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(MOST_CONNECTIONS):
            _, connection = await loop.create_connection(
                lambda: Connection(self._idle.append), "127.0.0.1", self._port
            )
            self._idle.append(connection)

    async def closed(self, callers: int, seconds: float) -> float:
        """Good answers per second when each caller waits for its answer."""
        seen = Seen()
        ends = time.perf_counter() + seconds
        await asyncio.gather(*(self._caller(seen, ends) for _ in range(callers)))
        return seen.good / seconds

    async def _caller(self, seen: Seen, ends: float) -> None:
        while time.perf_counter() < ends:
            answered = asyncio.get_running_loop().create_future()
            self._send(seen, time.perf_counter(), lambda: answered.set_result(None))
            await answered

    async def opened(self, rate: float, seconds: float) -> Seen:
        """Requests at `rate` per second, come what may; returns when all are answered."""
        seen = Seen()
        due = started = time.perf_counter()
        while due - started < seconds:
            now = time.perf_counter()
            while due <= now and due - started < seconds:
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
                seen.good += 1
                seen.seconds.append(took_s)
            elif status in REFUSALS:
                seen.refused_s.append(took_s)
            then()

        seen.open += 1
        seen.lags_s.append(time.perf_counter() - due)
        self._idle.popleft().ask(self._random.choice(self._requests), on_answer)


def _request(text: str, deadline_s: float) -> bytes:
    body = json.dumps({"model": "sentiment", "text": text}).encode()
    head = (
        "POST /infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"X-Request-Timeout-Ms: {1000 * deadline_s:g}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


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


async def measure(server: ServerProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    load = Load(server.port, arguments.deadline_ms / 1000)
    await load.connect()
    await load.closed(CALLERS, 1.0)
    peak = await load.closed(CALLERS, arguments.seconds)
    report: dict[str, Any] = {
        "deadline_ms": arguments.deadline_ms,
        "peak_per_s": round(peak, 1),
        "memory_mb": {"before": Usage(server).megabytes()},
        "phases": [],
    }
    for factor in arguments.factors:
        usage = Usage(server)
        seen = await load.opened(factor * peak, arguments.seconds)
        report["phases"].append(_phase(factor, peak, seen, usage, arguments.seconds))
    await asyncio.sleep(1.5)  # the workers' next heartbeat
    report["memory_mb"]["after"] = Usage(server).megabytes()
    report["peak_again_per_s"] = round(await load.closed(CALLERS, arguments.seconds), 1)
    return report


def _phase(factor: float, peak: float, seen: Seen, usage: Usage, seconds: float) -> dict[str, Any]:
    return {
        "factor": factor,
        "offered_per_s": round((sum(seen.statuses.values()) + seen.not_sent) / seconds, 1),
        "goodput_per_s": round(seen.good / seconds, 1),
        "goodput_of_peak": round(seen.good / seconds / peak, 3),
        "statuses": dict(seen.statuses),
        "not_sent": seen.not_sent,
        "good_ms": {
            "p50": percentile_ms(seen.seconds, 0.5),
            "p99": percentile_ms(seen.seconds, 0.99),
        },
        "refused_ms": {
            "p50": percentile_ms(seen.refused_s, 0.5),
            "p99": percentile_ms(seen.refused_s, 0.99),
            "max": round(1000 * max(seen.refused_s, default=0), 1),
        },
        "generator_lag_ms": {"p99": percentile_ms(seen.lags_s, 0.99)},
        "cpus": usage.cpus(),
        "memory_mb": usage.megabytes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--factors", type=float, nargs="+", default=[3, 10])
    parser.add_argument("--deadline-ms", type=float, default=1000)
    arguments = parser.parse_args()
    warn_when_busy()
    with running_server(HEADER_TIMEOUT_S=600, KEEP_ALIVE_S=600) as server:  # idle ones stay
        print(json.dumps(uvloop.run(measure(server, arguments)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
