"""Sentiment through HTTP beside the same model called in-process, in one run.

    python -m benchmarks.encoder_http

Throughput: texts of lognormal length. In-process is the best this machine gives without a server:
tokenise, sort within windows of 64, batches of at most 8 rows and 256 padded tokens, two streams
of one thread, head applied. HTTP is the same texts through `/infer/batch` (64 entries a call,
8 calls at once), and through `/infer` (one text a call, 32 at once; this includes the client's
own cost on the same cores). Rounds alternate; medians are compared.

Latency: one text at a time on the idle server, over one connection of the standard library's
client, beside the same call in-process; blocks of 20 alternate.

Every answer is compared: same label, scores within 1e-3.
"""

import argparse
import asyncio
import http.client
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx

from app.core.config import load_settings
from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.spec import ModelFile, ModelSpec
from app.models.store import ModelStore, fetch_all
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.tasks.classify import Classify
from benchmarks.harness import running_server, spread, texts_of_lognormal_length, warn_when_busy

WINDOW, MAX_ROWS, MAX_PADDED_TOKENS = 64, 8, 256
ENTRIES_PER_CALL, CALLS_AT_ONCE, SINGLES_AT_ONCE = 64, 8, 32
PARAMETERS = {"truncate": False}

Answer = tuple[str, dict[str, float]]


class InProcess:
    """The bare engine with everything that makes it fast, and nothing else."""

    def __init__(self, streams: int, threads: int) -> None:
        spec = next(
            spec for spec in load_catalog(profile_path("embedded")) if spec.name == "sentiment"
        )
        paths = fetch_all([spec], ModelStore(load_settings().model_store, progress_for_stderr()))
        files = {file.role: str(paths[file]) for file in _files(spec)}
        plan = StreamPlan(streams, threads)
        self.runtime = OpenVinoEncoder(files, plan=plan, **spec.runtime_options)
        self.task = Classify(head_file=files["head"], **spec.task_options)

    def one(self, text: str) -> Answer:
        prepared = self.task.prepare(text, PARAMETERS, self.runtime.tokenizer)
        answer = self.task.finish(prepared, self.runtime.run(prepared.rows), PARAMETERS)
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
                answer = self.task.finish(prepared[index], outputs[row : row + 1], PARAMETERS)
                answers[index] = (answer.value, dict(answer.metadata["scores"]))
        return answers


def _files(spec: ModelSpec) -> tuple[ModelFile, ...]:
    return (*spec.artefact.files, *spec.task_files)


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


async def through_singles(client: httpx.AsyncClient, texts: Sequence[str]) -> list[Answer]:
    gate = asyncio.Semaphore(SINGLES_AT_ONCE)

    async def call(text: str) -> Answer:
        async with gate:
            reply = await client.post("/infer", json={"text": text, "model": "sentiment"})
        reply.raise_for_status()
        return _answer(reply.json())

    return list(await asyncio.gather(*map(call, texts)))


def _answer(entry: dict[str, Any]) -> Answer:
    return entry["result"], entry["metadata"]["scores"]


def largest_difference(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Of any score; a different label counts as 1."""
    return max(
        1.0 if label != other else max(abs(scores[name] - others[name]) for name in scores)
        for (label, scores), (other, others) in zip(ours, theirs, strict=True)
    )


async def throughput(
    bare: InProcess, client: httpx.AsyncClient, texts: Sequence[str], rounds: int
) -> None:
    pace: dict[str, list[float]] = {"in-process": [], "/infer/batch": [], "/infer": []}
    worst = 0.0
    expected = bare.many(texts)  # also warms up
    await through_batches(client, texts)
    for _ in range(rounds):
        started = time.perf_counter()
        bare.many(texts)
        pace["in-process"].append(len(texts) / (time.perf_counter() - started))
        for name, way in (("/infer/batch", through_batches), ("/infer", through_singles)):
            started = time.perf_counter()
            answers = await way(client, texts)
            pace[name].append(len(texts) / (time.perf_counter() - started))
            worst = max(worst, largest_difference(answers, expected))
    best = statistics.median(pace["in-process"])
    print(f"\nthroughput, {len(texts)} texts, {rounds} rounds          texts/s     ratio")
    for name, values in pace.items():
        print(f"  {name:14}{spread(values):>36}  {statistics.median(values) / best:6.2f}")
    print(f"  largest difference of any score: {worst:.1e}")


def latency(bare: InProcess, port: int, texts: Sequence[str]) -> None:
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
    bound = [1.15 * ms + 3 for ms in inside]
    print(f"\nlone request on an idle server, {len(texts)} texts       median ms   90th percentile")
    for name, values in (("in-process", inside), ("/infer", outside), ("1.15 x + 3 ms", bound)):
        print(f"  {name:14}{statistics.median(values):24.2f}{_p90(values):18.2f}")


def _p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warn_when_busy()
    threads = len(os.sched_getaffinity(0))
    texts = texts_of_lognormal_length(options.texts, seed=1)
    with running_server() as server:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            calibration = (await client.get("/models")).json()
            print(_calibration(calibration))
            await throughput(InProcess(threads, 1), client, texts, options.rounds)
            plan = _plan(calibration)
            latency(InProcess(*plan), server.port, texts[:400])


def _calibration(models: dict[str, Any]) -> dict[str, Any]:
    sentiment = next(model for model in models["models"] if model["name"] == "sentiment")
    found: dict[str, Any] = sentiment["versions"][0]["worker"]["calibration"]
    return found


def _plan(models: dict[str, Any]) -> tuple[int, int]:
    calibration = _calibration(models)
    return calibration["streams"], calibration["threads_per_stream"]


if __name__ == "__main__":
    asyncio.run(main())
