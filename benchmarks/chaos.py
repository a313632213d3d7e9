"""Workers are killed, stopped and poisoned under load: is anything lost, doubled or mixed up?

    python -m benchmarks.chaos --seconds 600        (make chaos)

Callers come at random moments (open loop) at a share of what the machine was measured to answer;
some leave before they are answered. Every few seconds a worker is killed (SIGKILL), stopped
(SIGSTOP, which the watchdog must find), or given an input that kills or hangs it. A history of all
requests is kept and judged: each is answered 200 with what the model says when it is asked alone;
only what was sent as poison may fail as `poison_input`: a kill from outside convicts nobody.
Prints a JSON report; exits 1 when a rule is broken, and the report names it.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.fragile import HANGS, KILLS
from benchmarks.harness import embedded_catalog, warn_when_busy
from benchmarks.soak import SENTENCES
from tests.e2e.serving import READY_S, ServerProcess
from tests.processes import until

COOLING_S = 10.0
PACE_S = 3.5  # between two blows; a worker that is not ready again is waited for
STUCK_AFTER_S = 5.0
RECOVERY_S = 2.0  # beside the load itself
LEAVING = 0.05  # share of callers that go before they are answered
LOAD = 0.7  # of what was measured
MEASURED_S = 10.0
TIMEOUT_S = 120.0
GROWTH = 1.25  # of the server's memory and descriptors, after the first tenth
# Equal requests in flight are computed once: there are enough for that to be seldom.
TEXTS = [f"{sentence} That was note {number}." for number in range(10) for sentence in SENTENCES]
MODELS = ("sentiment", "embedder", "summarizer", "generator")
BLOWS = ("kill",) * 37 + ("stop", "poison", "hang")


@dataclass
class Request:
    """One request and what became of it. outcome: a code, `ok`, `left`, or what went wrong."""

    model: str
    text: str
    sent: float
    ended: float = 0.0
    outcome: str = ""

    @property
    def is_poison(self) -> bool:
        return KILLS in self.text or HANGS in self.text


@dataclass
class Blow:
    """What was done to a worker."""

    kind: str
    worker: str
    at: float


@dataclass
class History:
    requests: list[Request] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    server: list[tuple[int, int]] = field(default_factory=list)  # resident bytes, descriptors


class Callers:
    """Asks, and compares with what was answered in peace."""

    def __init__(self, client: httpx.AsyncClient, history: History) -> None:
        self._client = client
        self._history = history
        self._alone: dict[tuple[str, str], Any] = {}

    async def learn(self) -> None:
        for model in MODELS:
            for text in TEXTS:
                answer = await self._post(model, text)
                self._alone[model, text] = answer.json()["result"]

    async def measure(self, seconds: float) -> float:
        """Answers per second, all models alike, with sixteen callers at a time."""
        count, ends = 0, time.monotonic() + seconds

        async def caller(number: int) -> None:
            nonlocal count
            while time.monotonic() < ends:
                await self._post(MODELS[number % len(MODELS)], random.choice(TEXTS))
                number, count = number + 1, count + 1

        await asyncio.gather(*map(caller, range(16)))
        return count / seconds

    async def call(self, model: str, text: str, leaves_after_s: float | None = None) -> None:
        request = Request(model, text, time.monotonic())
        self._history.requests.append(request)
        try:
            async with asyncio.timeout(leaves_after_s):
                request.outcome = self._judge(request, await self._post(model, text))
        except TimeoutError:
            request.outcome = "left"
        except httpx.HTTPError as error:
            request.outcome = repr(error)
        request.ended = time.monotonic()

    def _judge(self, request: Request, response: httpx.Response) -> str:
        body = response.json()
        if response.status_code != 200:
            return str(body["error"]["code"])
        if request.model == "generator":  # its 4-bit products depend on who shares the step
            is_own = body["result"].startswith(request.text)
        else:
            is_own = body["result"] == self._alone.get((request.model, request.text))
        return "ok" if is_own else "another's answer"

    async def _post(self, model: str, text: str) -> httpx.Response:
        generating = {"max_new_tokens": 16, "do_sample": False, "return_full_text": True}
        parameters = generating if model == "generator" else {}
        body = {"model": model, "text": text, "parameters": parameters}
        headers = {"X-Request-Timeout-Ms": str(int(TIMEOUT_S * 1000))}
        return await self._client.post("/infer", json=body, headers=headers)


async def come_and_go(callers: Callers, rate: float, ends: float, chance: random.Random) -> None:
    """Open loop: the next caller comes when it comes, however slow the answers are."""
    async with asyncio.TaskGroup() as tasks:
        while time.monotonic() < ends:
            await asyncio.sleep(chance.expovariate(rate))
            leaves = chance.uniform(0, 0.2) if chance.random() < LEAVING else None
            tasks.create_task(callers.call(chance.choice(MODELS), chance.choice(TEXTS), leaves))


async def strike(
    server: ServerProcess, callers: Callers, history: History, ends: float, chance: random.Random
) -> None:
    """One blow after the other, each at a worker that is ready."""
    models = server.client.get("/models").json()["models"]
    worker_of = {model["name"]: model["versions"][0]["worker"]["name"] for model in models}
    while time.monotonic() < ends:
        began = time.monotonic()
        kind, model = chance.choice(BLOWS), chance.choice(MODELS)
        worker = worker_of[model]
        blow = Blow(kind, worker, time.monotonic())
        seen = len(server.events)
        match kind:
            case "kill" | "stop":
                pid = server.worker_pids()[worker]
                try:
                    os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
                except ProcessLookupError:  # the server ended it in this moment
                    continue
            case _:
                word = KILLS if kind == "poison" else HANGS
                # Several sentences: of one alone, a summary is made without looking at it.
                text = f"Say a {word} b. That was note {len(history.blows)}. It was the last."
                # Until it is refused: in its batch, in groups, alone.
                await callers.call(model, text)
        await asyncio.to_thread(_until_ready_again, server, worker, seen)
        history.blows.append(blow)
        await asyncio.sleep(max(0.0, PACE_S - (time.monotonic() - began)))


def _until_ready_again(server: ServerProcess, worker: str, seen: int) -> None:
    """The latest that was logged of it is that it is ready, not that it died."""

    def latest() -> str:
        lives = ("worker_died", "worker_ready")
        events = [e for e in server.events[seen:] if e["event"] in lives and e["worker"] == worker]
        return str(events[-1]["event"]) if events else ""

    until(lambda: latest() == "worker_ready", f"the next {worker}", READY_S)


async def watch(server: ServerProcess, history: History) -> None:
    process = psutil.Process(server.process.pid)
    while True:
        history.server.append((process.memory_info().rss, process.num_fds()))
        await asyncio.sleep(1)


async def chaos(server: ServerProcess, seconds: float, seed: int) -> dict[str, Any]:
    history, chance = History(), random.Random(seed)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S + 30, limits=limits) as c:
        callers = Callers(c, history)
        await callers.learn()
        capacity = await callers.measure(MEASURED_S)
        ends = time.monotonic() + seconds
        watching = asyncio.create_task(watch(server, history))
        await asyncio.gather(
            come_and_go(callers, LOAD * capacity, ends, chance),
            strike(server, callers, history, ends, chance),
        )
    await asyncio.sleep(COOLING_S)  # connections of clients that were held up close
    watching.cancel()
    unanswered = {model: server.unanswered(model) for model in MODELS}
    slowest = sorted(r.ended - r.sent for r in history.requests if r.outcome == "ok")
    return {
        "seconds": seconds,
        "answers_per_s_in_peace": round(capacity, 1),
        "requests": len(history.requests),
        "outcomes": Counter(request.outcome for request in history.requests),
        "p50_s": round(slowest[len(slowest) // 2], 3),
        "p99_s": round(slowest[int(len(slowest) * 0.99)], 3),
        "blows": Counter(blow.kind for blow in history.blows),
        "server": {"first": history.server[0], "last": history.server[-1]},
        "errors_logged": Counter(e["event"] for e in server.events if e["level"] == "error"),
        "broken_rules": [*_broken(history, unanswered), *_slow_recoveries(server.events)],
    }


def _broken(history: History, unanswered: dict[str, int]) -> Iterator[str]:
    for request in history.requests:
        if request.outcome not in _allowed(request):
            yield f"{request.model} {request.text!r}: {request.outcome}, sent {request.sent:.1f}"
    if left := {model: count for model, count in unanswered.items() if count}:
        yield f"still unanswered: {left}"
    tenth = history.server[len(history.server) // 10]
    for name, before, after in zip(
        ("bytes", "descriptors"), tenth, history.server[-1], strict=True
    ):
        if after > GROWTH * before:
            yield f"the server's {name} grew from {before} to {after}"


def _slow_recoveries(events: list[dict[str, Any]]) -> Iterator[str]:
    """By the server's own log: from the death of a worker to the next one that is ready."""
    died: dict[str, datetime] = {}
    for event in events:
        if event["event"] == "worker_died":
            died[event["worker"]] = datetime.fromisoformat(event["timestamp"])
        elif event["event"] == "worker_ready" and event["worker"] in died:
            ready = datetime.fromisoformat(event["timestamp"])
            took_s = (ready - died.pop(event["worker"])).total_seconds()
            if took_s > event["load_s"] + RECOVERY_S:
                yield f"{event['worker']} took {took_s:.1f} s, {event['load_s']} s of them loading"


def _allowed(request: Request) -> set[str]:
    return {"poison_input"} if request.is_poison else {"ok", "left"}


@contextmanager
def fragile_server(**settings: object) -> Iterator[ServerProcess]:
    command = (sys.executable, "-m", "benchmarks.chaos_server")
    with tempfile.TemporaryDirectory() as folder:
        catalog = Path(folder) / "catalog.yaml"
        # With long deadlines: what must not be lost is then never merely late.
        patient = embedded_catalog(int(TIMEOUT_S * 1000))
        catalog.write_text(yaml.safe_dump(patient), encoding="utf-8")
        server = ServerProcess(Path(folder), command, MODEL_CATALOG=catalog, **settings)
        try:
            server.until_ready()
            yield server
        finally:
            server.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", help="a file for the server's log")
    arguments = parser.parse_args()
    warn_when_busy()
    # As many crashes in a row as there are blows without an answer between them.
    settings = {"WORKER_STUCK_AFTER_S": STUCK_AFTER_S, "WORKER_MAX_RESTARTS": 10}
    with fragile_server(**settings) as server:
        report = asyncio.run(chaos(server, arguments.seconds, arguments.seed))
    report["broken_rules"] = report["broken_rules"][:30]
    if arguments.log:
        Path(arguments.log).write_text("\n".join(map(json.dumps, server.events)))
    print(json.dumps(report, indent=2))
    return 1 if report["broken_rules"] else 0


if __name__ == "__main__":
    sys.exit(main())
