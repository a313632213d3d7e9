"""One server of ours in front of another: answers, streams, who leaves, and an absence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import ServerProcess
from tests.e2e.upstreams import KEY, KEY_VARIABLE, There, catalog_over, free_port
from tests.processes import until

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
ASKED = [{"role": "user", "content": "What is the capital of France?"}]
LONG = {"max_new_tokens": 1500, "min_new_tokens": 1500, "temperature": 0}


def in_front_of(folder: Path, models: dict[str, There], **settings: Any) -> ServerProcess:
    settings = {"DEFAULT_MODEL": next(iter(models)), KEY_VARIABLE: KEY, **settings}
    return ServerProcess(folder, MODEL_CATALOG=catalog_over(folder, **models), **settings)


@pytest.fixture(scope="module")
def middle_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def front(
    server: ServerProcess, middle_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`far` and `vectors` are there; `away` is behind a server that nobody has started yet."""
    server.until_ready()
    models = {
        "far": There("generate", server.port, "generator"),
        "vectors": There("embed", server.port, "embedder"),
        "away": There("generate", middle_port, "far"),
    }
    front = in_front_of(tmp_path_factory.mktemp("front"), models)
    try:
        front.until_ready()
        until(lambda: state_of(front, "far") == state_of(front, "vectors") == "ready", "all", 20)
        yield front
    finally:
        status = front.end()
    assert status == 0
    assert KEY not in json.dumps(front.events) + "".join(front.other_lines)


def state_of(front: ServerProcess, model: str) -> str:
    models = {m["name"]: m for m in front.client.get("/models").json()["models"]}
    state: str = models[model]["versions"][0]["state"]
    return state


def lines_of(front: ServerProcess, path: str, body: dict[str, Any]) -> list[Any]:
    """Every event of a stream as data."""
    with front.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        sent = [line.removeprefix("data: ") for line in response.iter_lines() if "data: " in line]
    return [json.loads(line) for line in sent if line != "[DONE]"]


def test_texts_are_those_of_the_other_server(server, front):
    there = server.infer("generator", "The old bridge", **GREEDY).json()
    here = front.infer("far", "The old bridge", **GREEDY).json()
    assert here["result"] == there["result"] and here["model_used"] == "far:v1"
    assert here["metadata"]["usage"] == there["metadata"]["usage"]

    body = {"text": "The old bridge", "parameters": GREEDY, "stream": True}
    *pieces, last = lines_of(front, "/infer", body)
    assert "".join(piece["text"] for piece in pieces) == there["result"] and len(pieces) > 3
    assert last["metadata"]["usage"] == there["metadata"]["usage"]


def test_conversations_are_those_of_the_other_server(server, front):
    body = {"messages": ASKED, "temperature": 0, "max_tokens": 12}
    there = server.client.post("/v1/chat/completions", json={**body, "model": "generator"}).json()
    here = front.client.post("/v1/chat/completions", json={**body, "model": "far"}).json()
    assert here["choices"] == there["choices"] and here["usage"] == there["usage"]

    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = lines_of(front, "/v1/chat/completions", {**body, **options, "model": "far"})
    said = [choice["delta"].get("content", "") for c in chunks for choice in c["choices"]]
    assert "".join(said) == there["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == there["usage"]


def test_other_routes_and_several_texts(server, front):
    text = "The old bridge"
    batch = {"requests": [{"text": text, "model": "far", "parameters": GREEDY}] * 3}
    results = front.client.post("/infer/batch", json=batch).json()["results"]
    plain = server.infer("generator", text, **GREEDY).json()["result"]
    assert [each["result"] for each in results] == [plain] * 3

    asked = {"model": "far", "prompt": [text] * 2, "temperature": 0, "max_tokens": 12, "echo": True}
    choices = front.client.post("/v1/completions", json=asked).json()["choices"]
    assert [choice["text"] for choice in choices] == [text + plain] * 2

    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]
    asked = {"inputs": inputs, "parameters": GREEDY}
    outputs = front.client.post("/v2/models/far/infer", json=asked).json()["outputs"]
    assert outputs[0]["data"] == [plain]

    asked = {"model": "far", "input": "Say hello.", "temperature": 0, "max_output_tokens": 12}
    here = front.client.post("/v1/responses", json=asked).json()
    there = server.client.post("/v1/responses", json={**asked, "model": "generator"}).json()
    assert here["output"][0]["content"] == there["output"][0]["content"]

    asked = {"model": "far", "messages": ASKED, "n": 2, "temperature": 1, "seed": 3}
    answer = front.client.post("/v1/chat/completions", json={**asked, "max_tokens": 5}).json()
    assert len(answer["choices"]) == 2


def test_what_the_other_server_refuses_is_said_in_the_callers_words(front):
    asked = {"model": "far", "messages": ASKED, "max_tokens": 5000}
    answer = front.client.post("/v1/chat/completions", json=asked)
    assert answer.status_code in (400, 422) and str(front.port) not in answer.text
    assert answer.json()["error"]["param"] == "max_tokens"


def test_who_leaves_a_stream_leaves_it_at_the_other_server_too(server, front):
    body = {"text": "The history of bridges is", "parameters": LONG, "stream": True}
    with front.client.stream("POST", "/infer", json=body) as response:
        lines = response.iter_lines()  # dropping it would close the connection
        next(lines)
        assert server.unanswered("generator") == front.unanswered("far") == 1
    until(lambda: front.unanswered("far") == 0, "the withdrawal here", 10)
    until(lambda: server.unanswered("generator") == 0, "the withdrawal there", 10)


def test_a_version_comes_and_goes_with_its_server(server, front, middle_port, tmp_path):
    assert state_of(front, "away") == "unavailable"
    far = {"far": There("generate", server.port, "generator")}
    for _ in range(2):
        middle = in_front_of(tmp_path, far, PORT=middle_port)
        try:
            until(lambda: state_of(front, "away") == "ready", "the return", 30)
            middle.until_ready()
            assert front.infer("away", "One, two,", **GREEDY).status_code == 200
        finally:
            assert middle.end() == 0
        until(lambda: state_of(front, "away") == "unavailable", "the absence", 10)
        refused = front.infer("away", "One, two,", **GREEDY)
        assert refused.status_code == 503 and "cannot be reached" in refused.text
        assert front.client.get("/health/ready").status_code == 200, "others serve"
        shown = front.client.get("/models").text
        assert str(middle_port) not in shown + refused.text and KEY not in shown


def test_vectors_of_the_other_server(server, front):
    asked = {"input": ["a cat", "a dog"]}
    here = front.client.post("/v1/embeddings", json={**asked, "model": "vectors"}).json()
    there = server.client.post("/v1/embeddings", json={**asked, "model": "embedder"}).json()
    assert here["data"] == there["data"] and here["usage"] == there["usage"]
