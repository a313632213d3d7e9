"""Clients that send a request and leave at a random moment, and what the server then still has."""

import asyncio
import json
import random
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tests.e2e.serving import ServerProcess
from tests.processes import until

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, as the end of a killed process does
SERIES = re.compile(r"^(\w+?)(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)
GAUGES = ("inference_queue_rows", "inference_queue_items", "inference_connections")
PASSES = "inference_batch_rows_count"
BEATS_S = 2.5  # two heartbeats of a worker, which bring its figures


@dataclass(frozen=True, slots=True)
class Leaving:
    """How many, over how long, and for how long each stays at most."""

    clients: int
    spread_s: float
    stay_s: float
    seed: int = 1


async def come_and_leave(port: int, plan: Leaving) -> None:
    """Returns when the last has left."""
    source = random.Random(plan.seed)

    async def client(number: int, arrives_s: float, stays_s: float, cut: float) -> None:
        await asyncio.sleep(arrives_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = _request(number)
        is_whole = number % 8 > 0
        writer.write(request if is_whole else request[: int(cut * len(request))])
        with_answer = asyncio.ensure_future(reader.read(65536))
        await asyncio.wait([with_answer], timeout=stays_s)
        with_answer.cancel()
        if number % 2:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()

    await asyncio.gather(
        *(
            client(
                number,
                source.uniform(0, plan.spread_s),
                source.uniform(0, plan.stay_s),
                source.random(),
            )
            for number in range(plan.clients)
        )
    )


def _request(number: int) -> bytes:
    """By turns: one text, a mixed batch, a generation that takes seconds."""
    text = f"Client {number} writes a line or two about breakfast, buses and batteries."
    entry = {"model": "sentiment", "text": text}
    story = {"model": "generator", "text": text, "parameters": {"max_new_tokens": 300}}
    path, body = (
        ("/infer", entry),
        ("/infer/batch", {"requests": [entry, {**entry, "model": "embedder"}] * 5}),
        ("/infer", story),
        ("/infer/batch", {"requests": [story, entry]}),
    )[number % 4]
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def figures(server: ServerProcess) -> dict[str, float]:
    """Gauges and counters of `/metrics`, summed over workers; the asking connection is not one."""
    sums: dict[str, float] = {}
    for name, value in SERIES.findall(server.client.get("/metrics").text):
        sums[name] = sums.get(name, 0.0) + float(value)
    sums["inference_connections"] -= 1
    return sums


def is_idle(now: Mapping[str, float]) -> bool:
    return all(now[name] == 0 for name in GAUGES)


def until_nothing_is_left(server: ServerProcess, bound_s: float) -> tuple[float, float]:
    """Seconds until no client's input is unanswered, and until every gauge is at zero.

    The first comes at once; the gauges come with the workers' heartbeats.
    """
    released_s = until(
        lambda: not any(map(server.unanswered, ("sentiment", "generator"))),
        "the withdrawal of what was asked",
        bound_s,
    )
    return released_s, released_s + until(lambda: is_idle(figures(server)), "idle gauges", bound_s)
