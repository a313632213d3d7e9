"""Our paged runtime beside OpenVINO GenAI's pipeline, both in this process, on the same files.

    python -m benchmarks.paged_generation [--rounds 3]

The embedded generator, 48 new tokens, 1, 8 and 32 texts at once; greedy and sampled (temperature
0.8, top_p 0.95). Rounds alternate, medians are compared. A second thread that wants a turn every
millisecond tells whether a step holds the interpreter.
"""

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from app.core.config import load_settings
from app.core.inference import Sampling
from app.models.catalog import load_catalog, profile_path
from app.models.progress import LogProgress
from app.models.store import ModelStore, fetch_all
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_llm_files import CHUNK_TOKENS, Setup, open_decoder
from app.runtimes.openvino_paged import OpenVinoLlm
from benchmarks.harness import warn_when_busy

THREADS = 2
NEW_TOKENS = 48
STREAMS = (1, 8, 32)
CACHE_TOKENS = 40_000
BLOCK_TOKENS = 32
KINDS: dict[str, dict[str, float]] = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_p": 0.95},
}
LEAST_RATIO = 0.95

Texts = list[list[int]]
Engine = Callable[[Texts, dict[str, float], int], Texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    warn_when_busy()
    runtime, pipeline = open_both()
    years = [f"In the year {1800 + 7 * n} a bridge of {n + 2} arches" for n in range(max(STREAMS))]
    prompts = runtime.tokenizer.encode(years)
    engines: list[tuple[str, Engine]] = [("ours", ours(runtime)), ("genai", genais(pipeline))]
    for kind, count in itertools.product(arguments.kinds, STREAMS):
        compare(engines, kind, prompts[:count], arguments.rounds)
    for name, run in engines:
        turns, seconds = turns_during(partial(run, prompts[:1], {}, NEW_TOKENS))
        print(f"{name}: {NEW_TOKENS / seconds:.0f} steps and {turns / seconds:.0f} turns a second")


def open_both() -> tuple[OpenVinoLlm, Any]:
    """Over the same prepared folder; GenAI's pipeline as this product used to open it."""
    spec = next(s for s in load_catalog(profile_path("embedded")) if s.name == "generator")
    (path,) = fetch_all([spec], ModelStore(load_settings().model_store, LogProgress())).values()
    plan = StreamPlan(1, THREADS)
    runtime = OpenVinoLlm({"model": str(path)}, plan=plan, max_tokens=2048)
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = CACHE_TOKENS // BLOCK_TOKENS
    scheduler.max_num_batched_tokens = CHUNK_TOKENS
    scheduler.dynamic_split_fuse = True
    properties = Setup(THREADS, CACHE_TOKENS).properties

    def load(folder: Path) -> Any:
        return genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties, {})

    return runtime, open_decoder(Path(path), None, load)


def ours(runtime: OpenVinoLlm) -> Engine:
    def run(prompts: Texts, kind: dict[str, float], new: int) -> Texts:
        for number, prompt in enumerate(prompts):
            sampling = Sampling(new, min_new_tokens=new, seed=number, **kind)  # type: ignore
            runtime.add(number, prompt, sampling)
        done: dict[int, Any] = {}
        while len(done) < len(prompts):
            done |= runtime.step().finished
        return [list(done[number][0].token_ids) for number in range(len(prompts))]

    return run


def genais(pipeline: Any) -> Engine:
    ids = itertools.count()

    def run(prompts: Texts, kind: dict[str, float], new: int) -> Texts:
        handles = []
        for number, prompt in enumerate(prompts):
            config = genai.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = new
            if kind:
                config.do_sample = True
                config.temperature, config.top_p = kind["temperature"], kind["top_p"]
                config.rng_seed = number
            tensor = ov.Tensor(np.array([prompt], np.int64))
            handles.append(pipeline.add_request(next(ids), tensor, config))
        while pipeline.has_non_finished_requests():
            pipeline.step()
        return [list(handle.read_all()[0].generated_ids) for handle in handles]

    return run


def compare(engines: list[tuple[str, Engine]], kind: str, prompts: Texts, rounds: int) -> None:
    speeds: dict[str, list[float]] = {name: [] for name, _ in engines}
    texts: dict[str, Texts] = {}
    for _, run in engines:
        run(prompts, KINDS[kind], 4)
    for number in range(rounds):
        for name, run in engines if number % 2 else engines[::-1]:
            begun = time.perf_counter()
            texts[name] = run(prompts, KINDS[kind], NEW_TOKENS)
            speeds[name].append(len(prompts) * NEW_TOKENS / (time.perf_counter() - begun))
    best = {name: statistics.median(all_of_it) for name, all_of_it in speeds.items()}
    ratio = best["ours"] / best["genai"]
    equal = sum(a == b for a, b in zip(texts["ours"], texts["genai"], strict=True))
    verdict = "ok" if ratio >= LEAST_RATIO else "MISSED"
    told = ", ".join(
        f"{name} {best[name]:.0f} ({min(speeds[name]):.0f} to {max(speeds[name]):.0f})"
        for name in best
    )
    same = f", {equal} of {len(prompts)} texts equal" if kind == "greedy" else ""
    print(f"{verdict}: {kind}, {len(prompts)} at once, tokens/s: {told}, {ratio:.2f} x{same}")


def turns_during(work: Callable[[], object]) -> tuple[int, float]:
    turns, ended = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not ended.wait(0.001):
            turns += 1

    thread = threading.Thread(target=count)
    thread.start()
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    ended.set()
    thread.join()
    return turns, seconds


if __name__ == "__main__":
    main()
