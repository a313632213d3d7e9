"""The product's named checkpoints at full size, served, beside transformers on the same CPU.

    python -m benchmarks.hub                 (or `make bench-hub`)
    python -m benchmarks.hub --only sentiment

Architectures, sizes and tokenizers are the true ones, the weights are random (no hub is asked), so
speed is real and answers mean nothing: labels are compared, of texts only that they are as long as
asked for (tests/hub compares the texts themselves). The checkpoints are built once into `--folder`,
prepared by the server itself with `accept_parity`, and served by a real server. transformers
runs in this process, in float32, with as many threads as the server; the server is idle meanwhile.
Rounds alternate, medians are compared.

- sentiment: RoBERTa-base. Engine against engine at fixed shapes, and 256 texts of lognormal length
  through `/infer/batch` beside a text-classification pipeline with batches of 8.
- generator: GPT-2, 16 tokens in, 50 out, greedy; 1, 8 and 32 calls of `/infer/batch` at once.
- summarizer: BART-large, 512 tokens in, 60 out, 4 beams; 1 and 8 documents through `/infer/batch`.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers
import yaml

from app.core.config import load_settings
from app.models.catalog import load_catalog
from app.models.preparation import open_stores, wanted_by
from app.models.progress import progress_for_stderr
from app.runtimes.base import StreamPlan
from app.runtimes.catalogue import runtime_class
from benchmarks.harness import (
    WORDS,
    running_server,
    spread,
    texts_of_lognormal_length,
    warn_when_busy,
)
from tests.hub import checkpoints

THREADS = len(os.sched_getaffinity(0))
SHAPES = ((1, 16), (1, 128), (8, 32), (32, 32))
PROMPT_TOKENS, NEW_TOKENS = 16, 50
SOURCE_TOKENS, SUMMARY_TOKENS, BEAMS = 512, 60, 4
READY_S = 900.0  # the first start prepares everything

Timed = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=load_settings().model_store / "benchmarks")
    parser.add_argument("--only", choices=("sentiment", "generator", "summarizer"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warn_when_busy()
    torch.set_num_threads(THREADS)
    catalog = write_catalog(options.folder)
    sections = {"sentiment": sentiment, "generator": generator, "summarizer": summarizer}
    with running_server(
        MODEL_CATALOG=catalog, WORKER_START_TIMEOUT_S=600, ready_s=READY_S
    ) as server:
        for name, section in sections.items():
            if options.only in (None, name):
                section(options.folder, server.url, options.rounds)
        print_memory(server.url)


def write_catalog(folder: Path) -> Path:
    """Builds what is missing, and a catalog over it."""
    build = {
        "sentiment": ("classify", checkpoints.full_roberta),
        "generator": ("generate", checkpoints.full_gpt2),
        "summarizer": ("summarize", checkpoints.full_bart),
    }
    models: dict[str, Any] = {}
    for name, (task, make) in build.items():
        where = folder / name
        if not (where / "done").exists():
            print(f"building {where}")
            where.mkdir(parents=True, exist_ok=True)
            make(where)
            (where / "done").touch()
        source = f"file://{where}"
        version = {"task": task, "source": source, "accept_parity": True}
        models[name] = {"v1": {**version, "default_timeout_ms": 600_000}}
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump({"models": models}, sort_keys=False), encoding="utf-8")
    return path


def compare(name: str, unit: str, amount: float, ours: Timed, theirs: Timed, rounds: int) -> None:
    """One row of a table: paces of both, and their ratio."""
    ours()  # warm up
    pace: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for side, call in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            call()
            pace[side].append(amount / (time.perf_counter() - started))
    ratio = statistics.median(pace["ours"]) / statistics.median(pace["theirs"])
    print(
        f"  {name:34}{spread(pace['ours']):>34}{spread(pace['theirs']):>34} {unit:12}{ratio:6.2f}"
    )


@contextmanager
def table(title: str) -> Iterator[None]:
    print(f"\n{title}\n  {'':34}{'ours':>34}{'transformers':>34}{'':13}ratio")
    yield


def sentiment(folder: Path, url: str, rounds: int) -> None:
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder / "sentiment").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "sentiment")
    runtime = prepared_encoder(folder)
    with table(f"RoBERTa-base, engine against engine, {THREADS} threads"), torch.inference_mode():
        for rows, tokens in SHAPES:
            batch = [[100 + row * tokens + at for at in range(tokens)] for row in range(rows)]
            ids = torch.tensor(batch)
            mask = torch.ones_like(ids)
            compare(
                f"{rows} x {tokens} tokens",
                "rows/s",
                rows,
                partial(runtime.run, batch, [None] * len(batch)),
                partial(model, input_ids=ids, attention_mask=mask),
                3 * rounds,
            )
    texts = texts_of_lognormal_length(256, seed=2)
    pipeline = transformers.pipeline(
        "text-classification", model=model, tokenizer=tokenizer, batch_size=8, device="cpu"
    )
    with table("RoBERTa-base, 256 texts of lognormal length: /infer/batch beside a pipeline of 8"):
        compare(
            "through the server",
            "texts/s",
            len(texts),
            lambda: through_batches(url, "sentiment", texts, {}, 64),
            lambda: pipeline(texts),
            rounds,
        )
    ours = [entry["result"] for entry in through_batches(url, "sentiment", texts, {}, 64)]
    theirs = [found["label"] for found in pipeline(texts)]
    print(f"  same label: {sum(map(str.__eq__, ours, theirs))} of {len(texts)}")


def prepared_encoder(folder: Path) -> Any:
    """The same prepared files that the server serves, on all threads."""
    stores = open_stores(load_settings(), progress_for_stderr())
    specs = [spec for spec in load_catalog(folder / "catalog.yaml") if spec.name == "sentiment"]
    (wanted,) = wanted_by(specs)
    found = stores.checkpoints.bring(wanted, print)
    make = runtime_class(found.manifest.runtime, found.manifest.kind)
    return make(found.files, plan=StreamPlan(1, THREADS), **found.manifest.runtime_options)


def generator(folder: Path, url: str, rounds: int) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "generator").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "generator")
    tokenizer.pad_token = tokenizer.eos_token
    with table(f"GPT-2, {PROMPT_TOKENS} tokens in, {NEW_TOKENS} out"), torch.inference_mode():
        for at_once in (1, 8, 32):
            prompts = [text_of_tokens(tokenizer, PROMPT_TOKENS, seed) for seed in range(at_once)]
            batch = tokenizer(prompts, return_tensors="pt", padding=True)
            parameters = {
                "max_new_tokens": NEW_TOKENS,
                "min_new_tokens": NEW_TOKENS,
                "temperature": 0,
            }
            compare(
                f"{at_once} at once",
                "tokens/s",
                at_once * NEW_TOKENS,
                partial(written, NEW_TOKENS, url, "generator", prompts, parameters, 1),
                partial(
                    model.generate,
                    **batch,
                    max_new_tokens=NEW_TOKENS,
                    min_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                ),
                rounds,
            )


def summarizer(folder: Path, url: str, rounds: int) -> None:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / "summarizer").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "summarizer")
    length = SUMMARY_TOKENS + 1  # transformers counts the decoder's start token
    with (
        table(f"BART-large, {SOURCE_TOKENS} in, {SUMMARY_TOKENS} out, {BEAMS} beams"),
        torch.inference_mode(),
    ):
        for documents in (1, 8):
            texts = [text_of_tokens(tokenizer, SOURCE_TOKENS, seed) for seed in range(documents)]
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            parameters = {"num_beams": BEAMS, "min_length": length, "max_length": length}
            compare(
                f"{documents} documents",
                "documents/min",
                60 * documents,
                partial(written, SUMMARY_TOKENS, url, "summarizer", texts, parameters, len(texts)),
                partial(
                    model.generate, **batch, num_beams=BEAMS, min_length=length, max_length=length
                ),
                rounds,
            )


def text_of_tokens(tokenizer: Any, count: int, seed: int) -> str:
    """A text of exactly that many tokens, special ones included."""
    words = [WORDS[(seed + at) % len(WORDS)] for at in range(count)]
    while len(tokenizer(" ".join(words)).input_ids) > count:
        words.pop()
    while len(tokenizer(" ".join(words)).input_ids) < count:
        words.append("a")
    return " ".join(words)


def through_batches(
    url: str, model: str, texts: Sequence[str], parameters: dict[str, Any], entries: int
) -> list[dict[str, Any]]:
    """Every answer, in order; `entries` texts a call, all calls at once."""

    async def call(client: httpx.AsyncClient, part: Sequence[str]) -> list[dict[str, Any]]:
        requests = [{"text": text, "model": model, "parameters": parameters} for text in part]
        reply = await client.post("/infer/batch", json={"requests": requests})
        results: list[dict[str, Any]] = reply.raise_for_status().json()["results"]
        for result in results:
            if not result["success"]:
                raise RuntimeError(result["error"]["message"])
        return results

    async def all_calls() -> list[dict[str, Any]]:
        parts = [texts[at : at + entries] for at in range(0, len(texts), entries)]
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            answers = await asyncio.gather(*(call(client, part) for part in parts))
        return [answer for part in answers for answer in part]

    return asyncio.run(all_calls())


def written(tokens: int, *call: Any) -> None:
    """The answers, each as long as it was asked to be: nobody is faster by writing less."""
    for result in through_batches(*call):
        made = result["metadata"]["usage"]["output_tokens"]
        if not 0 <= tokens - made <= 2:  # a forced first and a forced last token do not count
            raise RuntimeError(f"{made} tokens were written, not {tokens}")


def print_memory(url: str) -> None:
    models = httpx.get(f"{url}/models").json()["models"]
    print("\nresident memory of the workers, MiB")
    total = 0.0
    for model in models:
        worker = model["versions"][0]["worker"]
        resident = worker["resident_bytes"] / 2**20
        total += resident
        print(f"  {model['name']:12}{resident:8.0f}   {worker['calibration']}")
    print(f"  {'together':12}{total:8.0f}")


if __name__ == "__main__":
    main()
