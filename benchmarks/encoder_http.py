"""Sentiment through HTTP beside the same model called in-process, in one run.

    python -m benchmarks.encoder_http [--texts 1024] [--rounds 7] [--without-latency]

Throughput: texts of lognormal length. In-process is the best this machine gives without a server:
tokenise, sort within windows of 64, batches of at most 8 rows and 256 padded tokens, two streams
of one thread, head applied. HTTP is the same texts through `/infer/batch` (64 entries a call,
8 calls at once), and through `/infer` (one text a call, 32 at once). The client shares the cores:
what it, the server's process and the workers use of the CPU for each text is shown. Rounds
alternate; medians are compared.

Latency: one text at a time on the idle server, over one connection of the standard library's
client, beside the same call in-process; blocks of 20 alternate.

Every answer is compared: same label, scores within 1e-3. Exits 1 when a bar is missed.
"""

import argparse
import asyncio
import http.client
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import psutil
import uvloop

from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.tasks.classify import Classify
from benchmarks.harness import (
    Bars,
    running_server,
    sentiment_files,
    spread,
    texts_of_lognormal_length,
    warn_when_busy,
)
from tests.e2e.serving import ServerProcess

WINDOW, MAX_ROWS, MAX_PADDED_TOKENS = 64, 8, 256
ENTRIES_PER_CALL, CALLS_AT_ONCE, SINGLES_AT_ONCE = 64, 8, 32
PARAMETERS = {"truncate": False}
PACE_BAR = 0.92  # of the in-process best, through /infer/batch
SCORE_BAR = 1e-3
LONE_BAR, LONE_BAR_MS = 1.15, 3.0  # times the in-process latency, and milliseconds on top

Answer = tuple[str, dict[str, float]]


class InProcess:
    """The bare engine with everything that makes it fast, and nothing else."""

    def __init__(self, streams: int, threads: int) -> None:
        spec, files = sentiment_files()
        plan = StreamPlan(streams, threads)
        self.runtime = OpenVinoEncoder(files, plan=plan, **spec.runtime_options)
        self.task = Classify(head_file=files["head"], **spec.task_options)

    def one(self, text: str) -> Answer:
        prepared = self.task.prepare(text, PARAMETERS, self.runtime.tokenizer)
        answer = self.task.finish(prepared, list(self.runtime.run(prepared.rows)), PARAMETERS)
        return answer.value, dict(answer.metadata["scores"])

    def many(self, texts: Sequence[str]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        windows = [range(at, min(at + WINDOW, len(texts))) for at in range(0, len(texts), WINDOW)]
        with ThreadPoolExecutor(self.runtime.plan.streams) as streams:
            for found in streams.map(lambda window: self._window(texts, window), windows):
                answers.update(found)
        return [answers[index] for index in range(len(texts))]

    def _window(self, texts: Sequence[str], window: range) -> dict[int, Answer]:
        prepared = {
            index: self.task.prepare(texts[index], PARAMETERS, self.runtime.tokenizer)
            for index in window
        }
        order = sorted(window, key=lambda index: len(prepared[index].rows[0]))
        answers: dict[int, Answer] = {}
        while order:
            batch = [order.pop()]
            longest = len(prepared[batch[0]].rows[0])
            room = min(MAX_ROWS, max(1, MAX_PADDED_TOKENS // longest))
            while order and len(batch) < room:
                batch.append(order.pop())
            outputs = self.runtime.run([prepared[index].rows[0] for index in batch])
            for row, index in enumerate(batch):
                answer = self.task.finish(prepared[index], [outputs[row]], PARAMETERS)
                answers[index] = (answer.value, dict(answer.metadata["scores"]))
        return answers


async def through_batches(client: httpx.AsyncClient, texts: Sequence[str]) -> list[Answer]:
    gate = asyncio.Semaphore(CALLS_AT_ONCE)

    async def call(part: Sequence[str]) -> list[Answer]:
        requests = [{"text": text, "model": "sentiment"} for text in part]
        async with gate:
            reply = await client.post("/infer/batch", json={"requests": requests})
        reply.raise_for_status()
        return [_answer(entry) for entry in reply.json()["results"]]

    parts = [texts[at : at + ENTRIES_PER_CALL] for at in range(0, len(texts), ENTRIES_PER_CALL)]
    return [answer for part in await asyncio.gather(*map(call, parts)) for answer in part]


async def through_singles(port: int, texts: Sequence[str]) -> list[Answer]:
    """Over connections that know no more HTTP than this takes: a client of httpx costs as much
    CPU for a text as the model."""
    answers: dict[int, Answer] = {}
    numbered = iter(enumerate(texts))

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, text in numbered:
            body = json.dumps({"text": text, "model": "sentiment"}).encode()
            head = f"POST /infer HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            head_of_answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = head_of_answer.lower().partition("content-length: ")[2].partition("\r\n")[0]
            answer = await reader.readexactly(int(length))
            if not head_of_answer.startswith("HTTP/1.1 200"):
                raise RuntimeError(f"refused: {answer.decode()}")
            answers[number] = _answer(json.loads(answer))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(SINGLES_AT_ONCE)))
    return [answers[number] for number in range(len(texts))]


def _answer(entry: dict[str, Any]) -> Answer:
    return entry["result"], entry["metadata"]["scores"]


def largest_difference(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Of any score; a different label counts as 1."""
    return max(
        1.0 if label != other else max(abs(scores[name] - others[name]) for name in scores)
        for (label, scores), (other, others) in zip(ours, theirs, strict=True)
    )


class CpuTime:
    """CPU seconds of the client (this process), the server's process and its workers."""

    def __init__(self, server: ServerProcess) -> None:
        api = psutil.Process(server.process.pid)
        self._parts = {"client": [psutil.Process()], "server": [api], "workers": api.children()}

    def now_s(self) -> dict[str, float]:
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in self._parts.items()
        }


async def throughput(
    bare: InProcess, server: ServerProcess, texts: Sequence[str], rounds: int, bars: Bars
) -> None:
    limits = httpx.Limits(max_connections=64)
    client = httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)

    async def in_process() -> list[Answer]:
        return bare.many(texts)

    ways: dict[str, Callable[[], Coroutine[Any, Any, list[Answer]]]] = {
        "in-process": in_process,
        "/infer/batch": lambda: through_batches(client, texts),
        "/infer": lambda: through_singles(server.port, texts),
    }
    pace: dict[str, list[float]] = {name: [] for name in ways}
    used_s: dict[str, dict[str, float]] = {name: {} for name in ways}
    cpu = CpuTime(server)
    worst = 0.0
    async with client:
        expected = bare.many(texts)  # also warms up
        await through_batches(client, texts)
        for _ in range(rounds):
            for name, way in ways.items():
                before, started = cpu.now_s(), time.perf_counter()
                answers = await way()
                pace[name].append(len(texts) / (time.perf_counter() - started))
                for part, cpu_s in cpu.now_s().items():
                    earlier_s = used_s[name].get(part, 0.0)
                    used_s[name][part] = earlier_s + cpu_s - before[part]
                worst = max(worst, largest_difference(answers, expected))
    best = statistics.median(pace["in-process"])
    print(f"\nthroughput, {len(texts)} texts, {rounds} rounds          texts/s     ratio")
    for name, values in pace.items():
        print(f"  {name:14}{spread(values):>36}  {statistics.median(values) / best:6.2f}")
    print("\nCPU milliseconds for each text")
    for name, used in used_s.items():
        parts = {part: 1000 * cpu_s / rounds / len(texts) for part, cpu_s in used.items()}
        print(f"  {name:14}" + "".join(f"{part:>9} {ms:.2f}" for part, ms in parts.items()))
    bars.at_least(
        "/infer/batch, of in-process", statistics.median(pace["/infer/batch"]) / best, PACE_BAR
    )
    bars.at_most("largest difference of any score", worst, SCORE_BAR)


def latency(bare: InProcess, port: int, texts: Sequence[str], bars: Bars) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def through_http(text: str) -> None:
        body = json.dumps({"text": text, "model": "sentiment"})
        connection.request("POST", "/infer", body, {"Content-Type": "application/json"})
        json.loads(connection.getresponse().read())

    def timed(call: Callable[[str], object], block: Sequence[str]) -> list[float]:
        marks = [time.perf_counter()]
        for text in block:
            call(text)
            marks.append(time.perf_counter())
        return [(end - start) * 1000 for start, end in pairwise(marks)]

    inside: list[float] = []
    outside: list[float] = []
    timed(bare.one, texts[:20])  # warm up
    timed(through_http, texts[:20])
    for at in range(0, len(texts), 20):
        inside += timed(bare.one, texts[at : at + 20])
        outside += timed(through_http, texts[at : at + 20])
    print(f"\nlone request on an idle server, {len(texts)} texts       median ms   90th percentile")
    for name, values in (("in-process", inside), ("/infer", outside)):
        print(f"  {name:14}{statistics.median(values):24.2f}{_p90(values):18.2f}")
    for name, figure in (("median", statistics.median), ("90th percentile", _p90)):
        bar = LONE_BAR * figure(inside) + LONE_BAR_MS
        bars.at_most(f"lone request, {name}, ms", figure(outside), round(bar, 2))


def _p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-latency", action="store_true")
    options = parser.parse_args()
    warn_when_busy()
    threads = len(os.sched_getaffinity(0))
    texts = texts_of_lognormal_length(options.texts, seed=1)
    bars = Bars()
    with running_server() as server:
        calibration = _calibration(server.client.get("/models").json())
        print(calibration)
        uvloop.run(throughput(InProcess(threads, 1), server, texts, options.rounds, bars))
        if not options.without_latency:
            plan = (calibration["streams"], calibration["threads_per_stream"])
            latency(InProcess(*plan), server.port, texts[:400], bars)
    return bars.exit_status()


def _calibration(models: dict[str, Any]) -> dict[str, Any]:
    sentiment = next(model for model in models["models"] if model["name"] == "sentiment")
    found: dict[str, Any] = sentiment["versions"][0]["worker"]["calibration"]
    return found


if __name__ == "__main__":
    sys.exit(main())
