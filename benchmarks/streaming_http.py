"""Streams through HTTP beside the bare continuous-batching pipeline, in one run.

    python -m benchmarks.streaming_http [--rounds 15]

First token: the same prompts one after the other, by turns, on an idle server. Bare is OpenVINO
GenAI's `ContinuousBatchingPipeline` driven directly, from adding the prompt to reading its first
token; HTTP is `/infer` with `stream`, from sending the request to its first event on a kept
connection. Pace: 32 streams (and 1) at once until all have ended, in tokens per second, by turns;
the median of the rounds' ratios, for machines change their pace from minute to minute.

Issue 5 asks for a first token at most 5 ms later, and 0.9 of the tokens per second at 32 streams.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import openvino_genai as genai

from benchmarks.generation_http import NEW_TOKENS, Bare, prompts
from benchmarks.harness import Bars, running_server, spread, warn_when_busy

FIRST_TOKENS = 30
STREAMS = (1, 32)
LATER_MS = 5.0
SHARE = 0.9


class BareStreams(Bare):
    """Reads tokens as they come."""

    def first_token_ms(self, text: str, number: int) -> float:
        config = genai.GenerationConfig()
        config.max_new_tokens = 2
        config.ignore_eos = True
        started = time.perf_counter()
        handle = self._pipeline.add_request(number, text, config)
        while not handle.can_read():
            self._pipeline.step()
        handle.read()
        ms = (time.perf_counter() - started) * 1000
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return ms


class Streams:
    """`/infer` with `stream` over raw connections: the client must not take what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def first_token_ms(self, text: str) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        writer.write(_request(text, 2))
        await reader.readuntil(b"event: piece")
        ms = (time.perf_counter() - started) * 1000
        await reader.readuntil(b"event: done")
        writer.close()
        return ms

    async def tokens(self, texts: Sequence[str]) -> int:
        return sum(await asyncio.gather(*(self._tokens(text) for text in texts)))

    async def _tokens(self, text: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_request(text, NEW_TOKENS))
        await reader.readuntil(b"event: done")
        await reader.readuntil(b"data: ")
        last: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        tokens: int = last["metadata"]["usage"]["output_tokens"]
        return tokens


def _request(text: str, new_tokens: int) -> bytes:
    parameters = {"max_new_tokens": new_tokens, "temperature": 0}
    asked = {"text": text, "model": "generator", "parameters": parameters, "stream": True}
    body = json.dumps(asked).encode()
    return (
        b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


async def first_token(bare: BareStreams, streams: Streams, bars: Bars) -> None:
    texts = prompts(FIRST_TOKENS + 2)
    bares: list[float] = []
    https: list[float] = []
    for number, text in enumerate(texts):
        bares.append(bare.first_token_ms(text, 10_000 + number))
        https.append(await streams.first_token_ms(text))
    bares, https = bares[2:], https[2:]  # warm by then
    later = statistics.median(https) - statistics.median(bares)
    print(f"first token  bare {spread(bares)} ms   http {spread(https)} ms   later {later:.1f} ms")
    bars.at_most("first token later than the bare engine's, ms", later, LATER_MS)


async def pace(bare: BareStreams, streams: Streams, count: int, rounds: int, bars: Bars) -> None:
    texts = prompts(count)
    bares: list[float] = []
    https: list[float] = []
    bare.generate(texts, count)
    await streams.tokens(texts)
    for _ in range(rounds):
        started = time.perf_counter()
        tokens = sum(count for _, count in bare.generate(texts, count))
        bares.append(tokens / (time.perf_counter() - started))
        started = time.perf_counter()
        tokens = await streams.tokens(texts)
        https.append(tokens / (time.perf_counter() - started))
    ratios = [http / bare for http, bare in zip(https, bares, strict=True)]
    ratio = statistics.median(ratios)
    print(f"{count:3} streams  bare {spread(bares)}   http {spread(https)}   ratio {ratio:.2f}")
    if count == max(STREAMS):
        bars.at_least(f"share of the bare engine's pace at {count} streams", ratio, SHARE)


async def measure(port: int, rounds: int) -> int:
    bare, streams = BareStreams(len(os.sched_getaffinity(0))), Streams(port)
    bars = Bars()
    await first_token(bare, streams, bars)
    for count in STREAMS:
        await pace(bare, streams, count, rounds, bars)
    return bars.exit_status()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warn_when_busy()
    with running_server() as server:
        return asyncio.run(measure(server.port, options.rounds))


if __name__ == "__main__":
    sys.exit(main())
