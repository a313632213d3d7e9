"""Generation through HTTP beside the bare continuous-batching pipeline, in one run.

    python -m benchmarks.generation_http

Prompts of about 16 tokens, 50 new tokens, greedy, 1, 8 and 32 at once. Bare is OpenVINO GenAI's
`ContinuousBatchingPipeline` driven directly: add all, step until done, decode. HTTP is the same
prompts through `/infer`, as many at once. Rounds alternate; medians are compared, and the texts.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Sequence

import httpx
import openvino_genai as genai

from app.core.config import load_settings
from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.store import ModelStore, fetch_all
from benchmarks.harness import running_server, spread, warn_when_busy

NEW_TOKENS = 50
AT_ONCE = (1, 8, 32)
SUBJECTS = ("river", "castle", "engine", "garden", "market", "signal", "winter", "harbour")


def prompts(count: int) -> list[str]:
    return [
        f"Chapter {index + 1}. The old {SUBJECTS[index % 8]} near the town had always been"
        for index in range(count)
    ]


class Bare:
    """The pipeline and nothing around it."""

    def __init__(self, threads: int) -> None:
        spec = next(
            spec for spec in load_catalog(profile_path("embedded")) if spec.name == "generator"
        )
        paths = fetch_all([spec], ModelStore(load_settings().model_store, progress_for_stderr()))
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        self._pipeline = genai.ContinuousBatchingPipeline(
            str(next(iter(paths.values()))), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        self._tokenizer = self._pipeline.get_tokenizer()

    def generate(self, texts: Sequence[str]) -> tuple[list[str], int]:
        """Continuations and how many tokens they have together."""
        config = genai.GenerationConfig()
        config.max_new_tokens = NEW_TOKENS
        config.eos_token_id = self._tokenizer.get_eos_token_id()
        handles = [
            self._pipeline.add_request(index, text, config) for index, text in enumerate(texts)
        ]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        found = [handle.read_all()[0].generated_ids for handle in handles]
        return [self._tokenizer.decode(ids) for ids in found], sum(map(len, found))


async def through_http(client: httpx.AsyncClient, texts: Sequence[str]) -> tuple[list[str], int]:
    parameters = {"max_new_tokens": NEW_TOKENS, "temperature": 0}

    async def call(text: str) -> tuple[str, int]:
        body = {"text": text, "model": "generator", "parameters": parameters}
        reply = await client.post("/infer", json=body)
        reply.raise_for_status()
        answer = reply.json()
        return answer["result"], answer["metadata"]["usage"]["output_tokens"]

    answers = await asyncio.gather(*map(call, texts))
    return [text for text, _ in answers], sum(count for _, count in answers)


async def compare(bare: Bare, client: httpx.AsyncClient, at_once: int, rounds: int) -> None:
    texts = prompts(at_once)
    bare.generate(texts)
    await through_http(client, texts)
    paces: dict[str, list[float]] = {"bare": [], "http": []}
    same = 0
    for _ in range(rounds):
        started = time.perf_counter()
        expected, tokens = bare.generate(texts)
        paces["bare"].append(tokens / (time.perf_counter() - started))
        started = time.perf_counter()
        answers, tokens = await through_http(client, texts)
        paces["http"].append(tokens / (time.perf_counter() - started))
        same += sum(ours == theirs for ours, theirs in zip(answers, expected, strict=True))
    ratio = statistics.median(paces["http"]) / statistics.median(paces["bare"])
    print(f"{at_once:3}  bare {spread(paces['bare'])}   http {spread(paces['http'])}", end="")
    print(f"   ratio {ratio:.2f}   same text {same}/{rounds * at_once}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warn_when_busy()
    with running_server() as server:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            bare = Bare(len(os.sched_getaffinity(0)))
            print("tokens per second: median (range)")
            for at_once in AT_ONCE:
                await compare(bare, client, at_once, options.rounds)


if __name__ == "__main__":
    asyncio.run(main())
