"""Generation through HTTP beside the bare continuous-batching pipeline, in one run.

    python -m benchmarks.generation_http

Prompts of about 16 tokens, 50 new tokens, greedy. A closed loop with 1, 8 and 32 prompts under way:
when one ends the next begins, four rounds of them. Bare is OpenVINO GenAI's
`ContinuousBatchingPipeline` driven directly: add, step, read, decode. HTTP is the same prompts
through `/infer`, one connection of the standard library's client per prompt under way. Rounds
alternate; medians are compared, and the texts.
"""

import argparse
import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openvino_genai as genai

from app.core.config import load_settings
from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.store import ModelStore, fetch_all
from benchmarks.harness import running_server, spread, warn_when_busy

NEW_TOKENS = 50
AT_ONCE = (1, 8, 32)
PROMPTS_PER_PLACE = 4
SUBJECTS = ("river", "castle", "engine", "garden", "market", "signal", "winter", "harbour")


def prompts(count: int) -> list[str]:
    return [
        f"Chapter {index + 1}. The old {SUBJECTS[index % 8]} near the town had always been"
        for index in range(count)
    ]


Answers = list[tuple[str, int]]  # text and how many tokens it has


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

    def generate(self, texts: Sequence[str], at_once: int) -> Answers:
        config = genai.GenerationConfig()
        config.max_new_tokens = NEW_TOKENS
        config.eos_token_id = self._tokenizer.get_eos_token_id()
        waiting = list(enumerate(texts))[::-1]
        running: dict[int, Any] = {}
        answers: dict[int, tuple[str, int]] = {}
        while waiting or running:
            while waiting and len(running) < at_once:
                index, text = waiting.pop()
                running[index] = self._pipeline.add_request(index, text, config)
            self._pipeline.step()
            for index, handle in list(running.items()):
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    ids = running.pop(index).read_all()[0].generated_ids
                    answers[index] = (self._tokenizer.decode(ids), len(ids))
        return [answers[index] for index in range(len(texts))]


class Http:
    """`/infer` over kept connections, one per thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()

    def generate(self, texts: Sequence[str], at_once: int) -> Answers:
        with ThreadPoolExecutor(at_once) as places:
            return list(places.map(self._one, texts))

    def _one(self, text: str) -> tuple[str, int]:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port)
        parameters = {"max_new_tokens": NEW_TOKENS, "temperature": 0}
        body = json.dumps({"text": text, "model": "generator", "parameters": parameters})
        headers = {"Content-Type": "application/json"}
        self._local.connection.request("POST", "/infer", body, headers)
        answer = json.loads(self._local.connection.getresponse().read())
        return answer["result"], answer["metadata"]["usage"]["output_tokens"]


def compare(bare: Bare, through_http: Http, at_once: int, rounds: int) -> None:
    texts = prompts(PROMPTS_PER_PLACE * at_once)
    ways: dict[str, Bare | Http] = {"bare": bare, "http": through_http}
    paces: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Answers] = {}
    same = 0
    for way in ways.values():  # warm up
        way.generate(texts[:at_once], at_once)
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way.generate(texts, at_once)
            seconds = time.perf_counter() - started
            paces[name].append(sum(count for _, count in found[name]) / seconds)
        same += sum(ours == theirs for ours, theirs in zip(*found.values(), strict=True))
    ratio = statistics.median(paces["http"]) / statistics.median(paces["bare"])
    print(f"{at_once:3}  bare {spread(paces['bare'])}   http {spread(paces['http'])}", end="")
    print(f"   ratio {ratio:.2f}   same text {same}/{rounds * len(texts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warn_when_busy()
    with running_server() as server:
        bare, through_http = Bare(len(os.sched_getaffinity(0))), Http(server.port)
        print("tokens per second: median (range)")
        for at_once in AT_ONCE:
            compare(bare, through_http, at_once, options.rounds)


if __name__ == "__main__":
    main()
