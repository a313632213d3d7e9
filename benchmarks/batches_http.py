"""A batch of texts through /v1/files and /v1/batches beside the same model called in-process.

    python -m benchmarks.batches_http [--lines 50000] [--rounds 1]

Throughput: `sentiment` on texts of lognormal length, a line each. In-process is the best that this
machine gives without a server (encoder_http.py). The batch counts from its begin to its end, as the
server's log tells them: read, run, kept on the disk. Checked: each line has one answer, with the
label of the in-process run. Lines validated per second: from the creation of a batch to its begin.

A live caller asks one text at a time, alone and then while the batch runs; the 99th percentiles
are compared. The server's memory is watched: it is flat when it grows no more than `MEMORY_BAR_MB`
from the start of the batch to its end, however many lines there are.

Exits 1 when a bar is missed.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence

import httpx
import openai
import psutil

from benchmarks.encoder_http import InProcess
from benchmarks.harness import Bars, running_server, texts_of_lognormal_length, warn_when_busy
from tests.e2e.serving import ServerProcess

PACE_BAR = 0.9  # of the in-process best
LATENCY_BAR = 1.5  # times the unloaded 99th percentile
IN_BAR = 20_000  # lines per second, validated
MEMORY_BAR_MB = 100
LIVE_TEXTS, PAUSE_S = 300, 0.02
BOUND_S = 1800.0


def lines_of(texts: Sequence[str]) -> bytes:
    lines = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/classify",
            "body": {"model": "sentiment", "input": text},
        }
        for number, text in enumerate(texts)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


class Live:
    """A caller that asks one text after the other, in a thread."""

    def __init__(self, server: ServerProcess, texts: Sequence[str]) -> None:
        self._server = server
        self._texts = texts
        self.took_ms: list[float] = []

    def run(self, is_over: Callable[[], bool]) -> None:
        headers = {"X-Caller-Id": "live", "X-Priority": "interactive"}
        with httpx.Client(base_url=self._server.url, headers=headers, timeout=60) as client:
            while not is_over():
                text = self._texts[len(self.took_ms) % len(self._texts)]
                began = time.perf_counter()
                client.post("/infer", json={"model": "sentiment", "text": text}).raise_for_status()
                self.took_ms.append((time.perf_counter() - began) * 1000)
                time.sleep(PAUSE_S)

    def p99_ms(self) -> float:
        return statistics.quantiles(self.took_ms, n=100)[98]


class Memory:
    """The largest that a process was while it was watched by a thread, in MB."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.first_mb = self.most_mb = self._now_mb()
        self._is_over = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()

    def end(self) -> None:
        self._is_over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.most_mb = max(self.most_mb, self._now_mb())

    def _now_mb(self) -> float:
        return float(self._process.memory_info().rss) / 1e6


def run_batch(
    server: ServerProcess, client: openai.OpenAI, data: bytes, bars: Bars
) -> tuple[float, float, dict[str, str]]:
    """Seconds of the validation, seconds of the run, labels by custom_id."""
    memory = Memory(server.process.pid)
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    began = time.perf_counter()
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/classify",  # type: ignore[arg-type]
        completion_window="24h",
    )
    # The log tells without a client that asks over and over, beside whom others would wait.
    server.wait_for(lambda e: (e["event"], e.get("batch")) == ("batch_begun", batch.id), BOUND_S)
    started = time.perf_counter()
    server.wait_for(lambda e: (e["event"], e.get("batch")) == ("batch_ended", batch.id), BOUND_S)
    took_s = time.perf_counter() - started
    memory.end()
    ended = client.batches.retrieve(batch.id)
    if ended.status != "completed" or ended.error_file_id:
        raise RuntimeError(f"the batch did not complete: {ended}")
    print(f"server: {memory.first_mb:.0f} MB before the batch, at most {memory.most_mb:.0f} in it")
    bars.at_most("growth of the server, MB", memory.most_mb - memory.first_mb, MEMORY_BAR_MB)
    labels: dict[str, str] = {}
    with client.files.with_streaming_response.content(ended.output_file_id) as content:
        for line in content.iter_lines():
            answer = json.loads(line)
            labels[answer["custom_id"]] = answer["response"]["body"]["data"][0]["label"]
    return started - began, took_s, labels


def throughput(
    bare: InProcess, server: ServerProcess, texts: Sequence[str], rounds: int, bars: Bars
) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    data = lines_of(texts)
    print(f"{len(texts)} lines, {len(data) / 1e6:.1f} MB")
    inside: list[float] = []
    through: list[float] = []
    into: list[float] = []
    bare.many(texts[:512])  # warm up
    run_batch(server, client, lines_of(texts[:512]), Bars())
    for _ in range(rounds):
        began = time.perf_counter()
        expected = {f"line-{number}": label for number, (label, _) in enumerate(bare.many(texts))}
        inside.append(len(texts) / (time.perf_counter() - began))
        in_s, took_s, labels = run_batch(server, client, data, bars)
        into.append(len(texts) / in_s)
        through.append(len(texts) / took_s)
        wrong = sum(labels.get(line) != label for line, label in expected.items())
        bars.at_most("lines without their label", wrong + abs(len(labels) - len(expected)), 0)
    for name, values in (("in-process", inside), ("batch", through), ("validated", into)):
        print(f"  {name:12}{statistics.median(values):10.1f} lines/s")
    bars.at_least(
        "batch, of in-process", statistics.median(through) / statistics.median(inside), PACE_BAR
    )
    bars.at_least("lines validated per second", statistics.median(into), IN_BAR)


def beside_live(server: ServerProcess, texts: Sequence[str], bars: Bars) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    alone, beside = Live(server, texts[:LIVE_TEXTS]), Live(server, texts[:LIVE_TEXTS])
    alone.run(lambda: len(alone.took_ms) >= LIVE_TEXTS)
    has_ended = threading.Event()
    caller = threading.Thread(target=beside.run, args=(has_ended.is_set,))
    caller.start()
    run_batch(server, client, lines_of(texts), Bars())
    has_ended.set()
    caller.join()
    print(
        f"  live caller, 99th percentile: {alone.p99_ms():.1f} ms alone, {beside.p99_ms():.1f} ms"
    )
    bars.at_most("live p99 beside a batch, of alone", beside.p99_ms() / alone.p99_ms(), LATENCY_BAR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    warn_when_busy()
    texts = texts_of_lognormal_length(options.lines, seed=3)
    bars = Bars()
    bare = InProcess(len(os.sched_getaffinity(0)), 1)
    with running_server() as server:
        throughput(bare, server, texts, options.rounds, bars)
        beside_live(server, texts[: max(2000, options.lines // 10)], bars)
    return bars.exit_status()


if __name__ == "__main__":
    sys.exit(main())
