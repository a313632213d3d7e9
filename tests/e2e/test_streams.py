"""Streams of a whole server: what is told, who leaves, who dies, and who does not read."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.slow_readers import come_and_stay
from tests.processes import until

STORY = {"text": "The history of bridges is", "model": "generator"}
GENERATOR_WORKER = "SmolLM2-135M-Instruct"
STAY = {"max_new_tokens": 200, "temperature": 0}
LONG = {"max_new_tokens": 1500, "min_new_tokens": 1500, "temperature": 0}


def body_of(parameters: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**STORY, "parameters": parameters, "stream": True, **fields}


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 40, "temperature": 0},
        {"max_new_tokens": 40, "seed": 5},
        {"max_new_tokens": 40, "temperature": 0, "stop": ["the"], "return_full_text": True},
        {"max_new_tokens": 8, "num_beams": 2},
    ],
)
def test_pieces_add_up_to_the_plain_answer(server, parameters):
    server.until_ready()
    plain = server.infer(STORY["model"], STORY["text"], **parameters).json()
    with server.client.stream("POST", "/infer", json=body_of(parameters)) as response:
        assert response.status_code == 200
        *pieces, (name, last) = events_of(response)

    assert {kind for kind, _ in pieces} == {"piece"} and name == "done"
    text = "".join(piece["text"] for _, piece in pieces)
    if parameters.get("temperature") == 0:  # what is drawn depends on who shares a step
        assert text == plain["result"]
    assert last["metadata"]["usage"]["output_tokens"] >= sum(p["tokens"] for _, p in pieces) > 0
    assert last["metadata"].keys() == plain["metadata"].keys()
    assert len(pieces) > 5 or "stop" in parameters or "num_beams" in parameters


def test_other_tasks_answer_with_one_piece_or_none(server):
    server.until_ready()
    body = {"text": "I love it.", "model": "sentiment", "stream": True}
    with server.client.stream("POST", "/infer", json=body) as response:
        (kind, piece), (name, _) = events_of(response)
    assert (kind, piece["text"], name) == ("piece", "positive", "done")

    body = {"text": "I love it.", "model": "embedder", "stream": True}
    with server.client.stream("POST", "/infer", json=body) as response:
        ((name, last),) = events_of(response)
    assert name == "done" and len(last["result"]) > 100


def test_refusals_have_their_status_also_of_what_a_worker_refuses(server):
    server.until_ready()
    body = body_of({"max_new_tokens": 2000})
    assert server.client.post("/infer", json={**body, "model": "none"}).status_code == 404
    assert server.client.post("/infer", json={**body, "text": "long " * 4000}).status_code == 413


def test_a_client_who_leaves_frees_its_place_within_a_step(server):
    server.until_ready()
    with server.client.stream("POST", "/infer", json=body_of(LONG)) as response:
        events = events_of(response)  # dropping it would close the connection
        next(events)
        assert server.unanswered("generator") == 1
    left = time.monotonic()
    until(lambda: server.unanswered("generator") == 0, "the withdrawal", 10)
    assert time.monotonic() - left < 2
    started = time.monotonic()
    assert server.infer("generator", "1, 2, 3,", max_new_tokens=2).status_code == 200
    assert time.monotonic() - started < 10, "the worker still writes for who has left"


def test_a_worker_that_dies_ends_its_streams_with_an_error(server):
    server.until_ready()
    pid = server.worker_pids()[GENERATOR_WORKER]
    with server.client.stream("POST", "/infer", json=body_of(LONG)) as response:
        events = events_of(response)
        next(events)
        os.kill(pid, signal.SIGKILL)
        *_, (name, last) = events
    assert name == "error" and not last["success"]
    assert last["error"]["code"] == "model_unavailable"
    server.until_ready()
    assert server.infer("generator", "1, 2, 3,", max_new_tokens=2).status_code == 200


def test_slow_readers_cost_no_more_than_their_buffers(server):
    """200 clients ask for long texts and read nothing at all."""
    server.until_ready()
    process = psutil.Process(server.process.pid)
    stay = partial(come_and_stay, server.port, "/infer", body_of(STAY))
    asyncio.run(stay(20, lambda: None))  # what any connection needs
    before = process.memory_info().rss
    peaks: list[int] = []
    asyncio.run(stay(200, lambda: peaks.append(process.memory_info().rss)))

    assert max(peaks) - before < 200 * 2**17
    until(lambda: server.unanswered("generator") == 0, "the withdrawal", 30)
