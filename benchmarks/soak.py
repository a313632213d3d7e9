"""64 clients on all models at once: is every answer its own caller's, and the budget kept?

    python -m benchmarks.soak --seconds 60 [--clients 64] [--cpu-threads 2] [--kill]

Starts a server of its own, checks each answer against what the model said when it was asked
alone, and samples the workers' threads. `--kill` ends each worker in turn with SIGKILL. Prints a
JSON report; exits 1 when a rule is broken, and the report names it.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.threads import ThreadSampler
from tests.e2e.serving import ServerProcess

SENTENCES = [
    "The parcel came two days late and the box was torn.",
    "I have never had a better breakfast in any hotel.",
    "The bus leaves at eight from the north gate.",
    "The battery lasts for a week, which is more than I had hoped for.",
    "Nobody answered the phone, and the form on the web page did not work either.",
    "The report lists the costs of the past three years in one table.",
    "What a wonderful evening, and what a terrible way home through the rain.",
    "Water boils at a lower temperature in the mountains.",
]
SCORE_TOLERANCE = 1e-3
LEAST_COSINE = 0.9999
RECOVERY_S = 2.0  # beside the load itself


@dataclass
class Findings:
    """What the clients saw."""

    answered: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


class Caller:
    """Asks, and judges the answers. One for all clients: it remembers only what is true alone."""

    def __init__(self, client: httpx.AsyncClient, findings: Findings) -> None:
        self._client = client
        self._findings = findings
        self._alone: dict[tuple[str, str], Any] = {}
        self._asks: list[Callable[[str], Awaitable[None]]] = [
            self._sentiment,
            self._embedding,
            self._summary,
            self._continuation,
        ]

    async def learn(self) -> None:
        """What the models answer when nobody else asks."""
        for sentence in SENTENCES:
            for model in ("sentiment", "embedder"):
                answer = await self._infer(model, sentence)
                self._alone[model, sentence] = answer

    async def live(self, number: int, until: float) -> None:
        """One client: one request after the other, each of a kind drawn by chance."""
        choice = random.Random(number)
        count = 0
        while time.monotonic() < until:
            count += 1
            ask = choice.choice(self._asks)
            try:
                await ask(f"{number}-{count}")
            except (httpx.HTTPError, Refusal) as problem:
                self._note_failure(ask.__name__.strip("_"), problem)
                await asyncio.sleep(0.2)  # else a worker that is away is asked a thousand times

    async def _sentiment(self, mark: str) -> None:
        sentence = SENTENCES[sum(map(ord, mark)) % len(SENTENCES)]
        alone = self._alone["sentiment", sentence]["metadata"]["scores"]
        scores = (await self._infer("sentiment", sentence))["metadata"]["scores"]
        drift = max(abs(scores[label] - alone[label]) for label in alone)
        self._judge(drift < SCORE_TOLERANCE, f"sentiment of {sentence!r} is off by {drift}")

    async def _embedding(self, mark: str) -> None:
        sentence = SENTENCES[sum(map(ord, mark)) % len(SENTENCES)]
        alone = self._alone["embedder", sentence]["result"]
        vector = (await self._infer("embedder", sentence))["result"]
        cosine = sum(a * b for a, b in zip(alone, vector, strict=True))
        self._judge(cosine >= LEAST_COSINE, f"vector of {sentence!r} has cosine {cosine}")

    async def _summary(self, mark: str) -> None:
        own = [f"Note {mark} says this: {sentence}" for sentence in SENTENCES]
        answer = await self._infer("summarizer", " ".join(own), max_length=60)
        said = re.split(r"(?<=\.) (?=Note )", answer["result"])
        self._judge(bool(said) and set(said) <= set(own), f"summary of {mark}: {said}")

    async def _continuation(self, mark: str) -> None:
        prompt = f"Client {mark} writes:"
        answer = await self._infer("generator", prompt, return_full_text=True, max_new_tokens=16)
        text, made = answer["result"], answer["metadata"]["usage"]["output_tokens"]
        self._judge(text.startswith(prompt) and 1 <= made <= 16, f"{made} tokens: {text!r}")

    async def _infer(self, model: str, text: str, **parameters: Any) -> dict[str, Any]:
        started = time.monotonic()
        body = {"model": model, "text": text, "parameters": parameters}
        response = await self._client.post("/infer", json=body)
        if response.status_code != 200:
            raise Refusal(model, response)
        self._findings.answered[model] += 1
        self._findings.seconds[model].append(time.monotonic() - started)
        answer: dict[str, Any] = response.json()
        return answer

    def _judge(self, is_right: bool, otherwise: str) -> None:
        if not is_right:
            self._findings.wrong.append(otherwise)

    def _note_failure(self, kind: str, problem: Exception) -> None:
        what = problem.shown if isinstance(problem, Refusal) else {"error": repr(problem)}
        self._findings.failed.append({"at": time.monotonic(), "kind": kind, **what})


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, model: str, response: httpx.Response) -> None:
        code = response.json()["error"]["code"]
        self.shown = {"model": model, "status": response.status_code, "code": code}


async def kill_in_turn(server: ServerProcess, seconds: float) -> list[dict[str, Any]]:
    """SIGKILL each worker once; how long each took to come back."""
    workers = server.worker_pids()
    kills = []
    for worker, pid in workers.items():
        await asyncio.sleep(seconds / (len(workers) + 1))
        seen = len(server.events)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        ready = await asyncio.to_thread(_next_ready, server, worker, seen)
        took_s = time.monotonic() - killed
        kills.append(
            {"worker": worker, "at": killed, "ready_after_s": took_s, "load_s": ready["load_s"]}
        )
    return kills


def _next_ready(server: ServerProcess, worker: str, seen: int) -> dict[str, Any]:
    return server.wait_for(
        lambda event: event["event"] == "worker_ready" and event["worker"] == worker, after=seen
    )


async def soak(server: ServerProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    findings = Findings()
    names = [model["name"] for model in server.client.get("/models").json()["models"]]
    limits = httpx.Limits(max_connections=arguments.clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        caller = Caller(client, findings)
        await caller.learn()
        until = time.monotonic() + arguments.seconds
        sampler = ThreadSampler(psutil.Process(server.process.pid), server.url)
        with sampler:
            killing = kill_in_turn(server, arguments.seconds) if arguments.kill else _nothing()
            kills, *_ = await asyncio.gather(
                killing, *(caller.live(number, until) for number in range(arguments.clients))
            )
    unanswered = {model: server.unanswered(model) for model in names}
    threads = sampler.report([(k["at"], k["at"] + k["ready_after_s"]) for k in kills])
    return {
        "seconds": arguments.seconds,
        "clients": arguments.clients,
        "cpu_threads": arguments.cpu_threads,
        "answered": dict(findings.answered),
        "median_ms": {
            model: round(1000 * sorted(seconds)[len(seconds) // 2], 1)
            for model, seconds in findings.seconds.items()
        },
        "failed": Counter(
            " ".join(str(failure.get(key, "")) for key in ("kind", "status", "code", "error"))
            for failure in findings.failed
        ),
        "kills": [
            {key: kill[key] for key in ("worker", "ready_after_s", "load_s")} for kill in kills
        ],
        "threads": threads,
        "broken_rules": [
            *_broken_by_answers(findings, unanswered),
            *_broken_by_failures(findings.failed),
            *_broken_by_recovery(kills),
            *_broken_by_threads(threads, arguments.cpu_threads),
        ],
    }


async def _nothing() -> list[dict[str, Any]]:
    return []


def _broken_by_answers(findings: Findings, unanswered: dict[str, int]) -> list[str]:
    left = {model: count for model, count in unanswered.items() if count}
    return [*findings.wrong[:20], *([f"still unanswered: {left}"] if left else [])]


def _broken_by_failures(failed: list[dict[str, Any]]) -> list[str]:
    """No request may fail: what a killed worker held is run again."""
    return [f"failed: {failure}" for failure in failed][:20]


def _broken_by_recovery(kills: list[dict[str, Any]]) -> list[str]:
    return [
        f"{kill['worker']} came back after {kill['ready_after_s']:.1f} s, load {kill['load_s']} s"
        for kill in kills
        if kill["ready_after_s"] > kill["load_s"] + RECOVERY_S
    ]


def _broken_by_threads(threads: dict[str, Any], budget: int) -> list[str]:
    broken = []
    if threads["most_leased"] > budget:
        broken.append(f"{threads['most_leased']} threads were leased, the budget is {budget}")
    if threads["p90_computing"] > budget + 1:  # threads.py says why one more is let pass
        broken.append(f"{threads['p90_computing']} threads computed, the budget is {budget}")
    if threads["workers_cpu_per_s"] > 1.05 * budget:
        broken.append(f"{threads['workers_cpu_per_s']} CPUs were used, the budget is {budget}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cpu-threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kill", action="store_true", help="SIGKILL each worker in turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), CPU_THREADS=arguments.cpu_threads)
        try:
            server.until_ready()
            report = asyncio.run(soak(server, arguments))
        finally:
            status = server.end()
    if status != 0:
        report["broken_rules"].append(f"the server exited with {status}")
    print(json.dumps(report, indent=2))
    return 1 if report["broken_rules"] else 0


if __name__ == "__main__":
    sys.exit(main())
