"""Do two, three and four busy models share the cores without loss, and does none starve?

    python -m benchmarks.cpu_sharing [--seconds 8] [--rounds 3]

Encoders and generators of the embedded profile, each in a worker of its own. Every model is kept
busy by callers in a closed loop: first each alone, then 2, 3 and 4 of them together. A model's
share is its rate together over its rate alone; the shares of a perfect division sum to 1. Rounds
alternate; medians are shown. Exits 1 when the shares together are below the bar, or one model has
less than half of an even part.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.harness import (
    Bars,
    embedded_catalog,
    running_server,
    texts_of_lognormal_length,
    warn_when_busy,
)

MODELS = ("encoder-a", "generator-a", "encoder-b", "generator-b")
CALLERS = {"encoder": 16, "generator": 8}
NEW_TOKENS = 24
TOGETHER_BAR = 0.95
LEAST_PART_BAR = 0.5  # of an even division
WARM_UP_S = 1.0


def catalog() -> dict[str, Any]:
    """Each artefact twice: other options make another worker."""
    shipped = embedded_catalog()
    artefacts, models = {}, {}
    for kind, name, task in (
        ("encoder", "all-MiniLM-L6-v2", "embed"),
        ("generator", "SmolLM2-135M-Instruct", "generate"),
    ):
        for copy in ("a", "b"):
            artefact = deepcopy(shipped["artefacts"][name])
            artefact["runtime_options"]["max_tokens"] -= copy == "b"
            artefacts[f"{kind}-{copy}"] = artefact
            version = {"task": task, "artefact": f"{kind}-{copy}", "default_timeout_ms": 120_000}
            models[f"{kind}-{copy}"] = {"v1": version}
    return {"artefacts": artefacts, "models": models}


async def rates(url: str, models: Sequence[str], seconds: float) -> dict[str, float]:
    """Answers per second of each model while all of them are busy.

    Those under way at the beginning and the end count in part: a generator's come eight at a time.
    """
    counts = dict.fromkeys(models, 0.0)
    texts = texts_of_lognormal_length(256, seed=1)
    began = time.monotonic() + WARM_UP_S
    until = began + seconds

    async def caller(client: httpx.AsyncClient, model: str, number: int) -> None:
        is_generator = model.startswith("generator")
        parameters = {"max_new_tokens": NEW_TOKENS, "do_sample": False} if is_generator else {}
        while (asked := time.monotonic()) < until:
            text = "The old river near the town" if is_generator else texts[number % len(texts)]
            body = {"model": model, "text": text, "parameters": parameters}
            response = await client.post("/infer", json=body)
            response.raise_for_status()
            number += 17
            answered = time.monotonic()
            inside = min(answered, until) - max(asked, began)
            counts[model] += max(0.0, inside) / (answered - asked)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(
            *(
                caller(client, model, number)
                for model in models
                for number in range(CALLERS[model.partition("-")[0]])
            )
        )
    return {model: count / seconds for model, count in counts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warn_when_busy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.yaml"
        path.write_text(yaml.safe_dump(catalog()), encoding="utf-8")
        with running_server(MODEL_CATALOG=path, DEFAULT_MODEL=MODELS[0]) as server:
            return report(server.url, arguments.seconds, arguments.rounds).exit_status()


def report(url: str, seconds: float, rounds: int) -> Bars:
    sets = [*((model,) for model in MODELS), *(MODELS[:count] for count in (2, 3, 4))]
    found: dict[tuple[str, ...], list[dict[str, float]]] = {models: [] for models in sets}
    for _ in range(rounds):
        for models in sets:
            found[models].append(asyncio.run(rates(url, models, seconds)))

    def rate(models: tuple[str, ...], model: str) -> float:
        return statistics.median(one[model] for one in found[models])

    bars = Bars()
    for model in MODELS:
        print(f"{model}: {rate((model,), model):.1f} answers per second alone")
    for models in sets[len(MODELS) :]:
        shares = {model: rate(models, model) / rate((model,), model) for model in models}
        print(", ".join(f"{model} {share:.2f}" for model, share in shares.items()))
        least = min(shares.values()) * len(models)
        bars.at_least(f"{len(models)} together, sum of shares", sum(shares.values()), TOGETHER_BAR)
        bars.at_least(f"{len(models)} together, least of an even part", least, LEAST_PART_BAR)
    return bars


if __name__ == "__main__":
    sys.exit(main())
