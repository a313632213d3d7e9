"""What does one caller with ten thousand texts cost another with one?

    python -m benchmarks.heavy_caller [--texts 10000]

`sentiment` on lognormal lengths through HTTP. A light caller sends a text, waits for its answer and
a moment, and sends the next: first alone, then while a heavy one has all of his texts waiting. The
two may differ by the time of a batch: at the median by that of a mean one of this run, at the 99th
percentile by that of the largest, as recorded_costs.json has it. Exits 1 when they differ by more.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

from benchmarks.harness import (
    Bars,
    embedded_catalog,
    running_server,
    texts_of_lognormal_length,
    warn_when_busy,
)
from benchmarks.record_costs import MAX_ROWS, read_recording
from tests.e2e.leaving import PASSES, figures
from tests.e2e.serving import ServerProcess

ENTRIES = 256  # of a heavy request
LIGHT_TEXTS = 120
PAUSE_S = 0.02
PATIENCE_MS = 600_000


async def light(client: httpx.AsyncClient, texts: Sequence[str]) -> list[float]:
    """Milliseconds of each."""
    took = []
    for text in texts:
        began = time.perf_counter()
        response = await client.post(
            "/infer", json={"model": "sentiment", "text": text}, headers={"X-Caller-Id": "light"}
        )
        response.raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_S)
    return took


async def heavy(client: httpx.AsyncClient, texts: Sequence[str]) -> None:
    async def send(part: Sequence[str]) -> None:
        entries = [{"model": "sentiment", "text": text} for text in part]
        headers = {"X-Caller-Id": "heavy"}
        response = await client.post("/infer/batch", json={"requests": entries}, headers=headers)
        failed = response.json()["summary"]["failed"]
        if failed:
            print(f"{failed} of the heavy caller's texts failed")

    parts = [texts[at : at + ENTRIES] for at in range(0, len(texts), ENTRIES)]
    await asyncio.gather(*map(send, parts))


class Batches:
    """Those that the server runs from now on."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = figures(server)

    def mean_ms(self) -> float:
        now = figures(self._server)
        ran_s, batches = (
            now[name] - self._before[name] for name in ("inference_batch_seconds_total", PASSES)
        )
        return 1000 * ran_s / batches


def largest_ms() -> float:
    """A full batch, by the recorded costs."""
    found = read_recording().calibration
    return found.cost.predict_ms(MAX_ROWS, found.max_padded_tokens // MAX_ROWS)


async def compare(server: ServerProcess, count: int) -> Bars:
    few = texts_of_lognormal_length(LIGHT_TEXTS, seed=1)
    many = [f"{text} {n}" for n, text in enumerate(texts_of_lognormal_length(count, seed=2))]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        await light(client, few)  # warms up
        alone = await light(client, few)
        began, batches = time.perf_counter(), Batches(server)
        working = asyncio.create_task(heavy(client, many))
        await asyncio.sleep(1.0)  # his texts have come
        beside = await light(client, few)
        was_busy = not working.done()
        await working
        mean_ms = batches.mean_ms()
        seconds = time.perf_counter() - began
    print(f"the heavy caller: {count} texts in {seconds:.1f} s ({count / seconds:.0f} per second)")
    if not was_busy:
        print("he was done before the light one: send more texts")
    for name, took in (("alone", alone), ("beside", beside)):
        print(
            f"light caller {name}: median {statistics.median(took):.1f} ms, p99 {p99(took):.1f} ms"
        )
    bars, median = Bars(), statistics.median
    bars.at_most("added at the median, ms", median(beside) - median(alone), round(mean_ms, 1))
    bars.at_most(
        "added at the 99th percentile, ms", p99(beside) - p99(alone), round(largest_ms(), 1)
    )
    return bars


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=10_000)
    arguments = parser.parse_args()
    warn_when_busy()
    with tempfile.TemporaryDirectory() as folder:
        catalog = Path(folder) / "catalog.yaml"
        catalog.write_text(yaml.safe_dump(embedded_catalog(PATIENCE_MS)), encoding="utf-8")
        settings = {"MAX_QUEUE_ITEMS": 2 * arguments.texts, "MODEL_CATALOG": catalog}
        with running_server(**settings) as server:
            return asyncio.run(compare(server, arguments.texts)).exit_status()


if __name__ == "__main__":
    sys.exit(main())
