"""OpenAI's dialect over fakes: shapes of answers and of every failure, headers, limits."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.api import shedding
from app.core.errors import (
    DeadlineExceeded,
    InputTooLong,
    ModelUnavailable,
    Overloaded,
    PoisonInput,
    ServingError,
)
from app.core.types import Answer, Done, Outcome, Priority, Usage
from app.schemas.openai_common import OpenAiError, OpenAiModels
from app.schemas.openai_generation import ChatAnswer, CompletionAnswer
from app.schemas.openai_responses import ResponsesAnswer
from app.schemas.openai_texts import (
    ClassifyAnswer,
    EmbeddingsAnswer,
    RerankAnswer,
    ScoreAnswer,
)
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import ServedVersion
from app.tasks.catalogue import TASKS, TaskInfo
from tests.api.serving import (
    EchoService,
    FailsEach,
    HangsInInfer,
    LosesAResult,
    RaisesInInfer,
    Running,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = [{"role": "user", "content": "one two"}]
CHAT: dict[str, Any] = {"model": "generator", "messages": USER}
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": CHAT,
    "completions": {"model": "generator", "prompt": "one"},
    "responses": {"model": "generator", "input": "one"},
    "embeddings": {"model": "embedder", "input": "one"},
    "rerank": {"model": "embedder", "query": "one", "documents": ["two"]},
    "score": {"model": "embedder", "text_1": "one", "text_2": "two"},
    "classify": {"model": "sentiment", "input": "one"},
}


def served(name: str, info: TaskInfo) -> ServedVersion:
    return ServedVersion(
        name=name,
        version="v1",
        versions=("v1",),
        task=info.name,
        takes=info.takes,
        runtime="runtime",
        parameters=info.parameters,
        signature={},
        state="ready",
        reason="",
        chats=info.chats,
    )


SERVED = [
    served("generator", TASKS["generate", "tokens"]),
    served("embedder", TASKS["embed", "vectors"]),
    served("sentiment", TASKS["classify", "scores"]),
    served("reranker", TASKS["rerank", "scores"]),
]


class Answers(EchoService):
    """Each model's own kind of answer, made of the length of what was sent."""

    def _echo(self, request: InferenceRequest) -> InferenceResult:
        outcome: Outcome = Done(_ANSWERS[request.model or ""](request))
        return InferenceResult(outcome, f"{request.model}:v1", "type", 2.25)


def _generated(request: InferenceRequest) -> Answer:
    count = request.parameters.get("num_return_sequences", 1)
    texts = [f"text {index}" for index in range(count)]
    if count == 1:
        return Answer(texts[0], {"finish_reason": "stop"}, Usage(3, 2))
    return Answer(texts, {"finish_reason": ["stop", "length"] * (count // 2)}, Usage(3, 2 * count))


def _embedded(request: InferenceRequest) -> Answer:
    return Answer([float(len(request.text)), 1.0], {"dimensions": 2}, Usage(2))


def _classified(request: InferenceRequest) -> Answer:
    return Answer("good", {"confidence": 0.75, "scores": {"bad": 0.25, "good": 0.75}}, Usage(2))


def _ranked(request: InferenceRequest) -> Answer:
    documents = request.parameters["documents"]
    scores = [{"index": at, "score": len(text) / 10} for at, text in enumerate(documents)]
    return Answer(sorted(scores, key=lambda entry: -entry["score"]), {}, Usage(9))


_ANSWERS = {
    "generator": _generated,
    "embedder": _embedded,
    "sentiment": _classified,
    "reranker": _ranked,
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No load is shed, however busy the machine, and no traceback holds up the loop."""
    monkeypatch.setattr(shedding, "PERSISTS_S", float("inf"))
    with capture_logs():
        yield


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def answers(running: Running) -> Answers:
    running.services.models.versions = SERVED
    running.services.inference = service = Answers()
    return service


async def post(client: httpx.AsyncClient, path: str, body: Any = None, **headers: str) -> Any:
    body = BODIES[path] if body is None else body
    return await client.post(f"/v1/{path}", json=body, headers=headers)


def error_of(response: httpx.Response) -> dict[str, Any]:
    OpenAiError.model_validate_json(response.content)
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_models_are_listed_by_name_and_by_version(client: httpx.AsyncClient):
    shown = OpenAiModels.model_validate_json((await client.get("/v1/models")).content)
    assert [model.id for model in shown.data][:3] == ["generator", "generator:v1", "embedder"]
    one = (await client.get("/v1/models/generator:v1")).json()
    assert (one["id"], one["object"], one["task"]) == ("generator:v1", "model", "generate")


async def test_a_chat_is_answered(client: httpx.AsyncClient, answers: Answers):
    response = await post(client, "chat/completions", {**CHAT, "temperature": 0, "user": "u"})
    shown = ChatAnswer.model_validate_json(response.content)
    assert shown.id.startswith("chatcmpl-") and shown.model == "generator:v1"
    assert shown.choices[0].message.content == "text 0"
    assert (shown.usage.prompt_tokens, shown.usage.total_tokens) == (3, 5)
    assert "x-ignored-fields" not in response.headers
    (request,) = answers.requests
    assert request.inputs == {"messages": USER} and request.parameters == {"temperature": 0.0}


async def test_several_choices_have_reasons_of_their_own(client: httpx.AsyncClient):
    shown = (await post(client, "chat/completions", {**CHAT, "n": 2, "temperature": 1})).json()
    assert [choice["finish_reason"] for choice in shown["choices"]] == ["stop", "length"]
    assert [choice["index"] for choice in shown["choices"]] == [0, 1]


async def test_every_prompt_gets_its_choices(client: httpx.AsyncClient):
    body = {"model": "generator:v1", "prompt": ["a", "b"], "n": 2}
    shown = CompletionAnswer.model_validate_json((await post(client, "completions", body)).content)
    assert [choice.index for choice in shown.choices] == [0, 1, 2, 3]
    assert shown.usage.prompt_tokens == 6


async def test_a_response_is_answered(client: httpx.AsyncClient):
    shown = ResponsesAnswer.model_validate_json((await post(client, "responses")).content)
    assert shown.status == "completed" and shown.output[0]["content"][0]["text"] == "text 0"


async def test_vectors_come_as_numbers_or_as_bytes(client: httpx.AsyncClient):
    body = {"model": "embedder", "input": ["a", "bcd"], "encoding_format": "float"}
    shown = EmbeddingsAnswer.model_validate_json((await post(client, "embeddings", body)).content)
    assert [each["embedding"] for each in shown.data] == [[1.0, 1.0], [3.0, 1.0]]
    body["encoding_format"] = "base64"
    coded = (await post(client, "embeddings", body)).json()["data"][1]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == [3.0, 1.0]


@pytest.mark.parametrize(("model", "scoring"), [("embedder", "cosine"), ("reranker", "model")])
async def test_documents_are_ranked_and_how_is_said(
    client: httpx.AsyncClient, model: str, scoring: str
):
    body = {"model": model, "query": "abc", "documents": ["a", {"text": "abcd"}], "top_n": 1}
    response = await post(client, "rerank", {**body, "return_documents": True})
    shown = RerankAnswer.model_validate_json(response.content)
    (best,) = shown.results
    assert best["index"] == 1 and best["document"] == {"text": "abcd"}
    assert shown.meta["scoring"].startswith(scoring)


@pytest.mark.parametrize("model", ["embedder", "reranker"])
async def test_pairs_are_scored_in_their_order(client: httpx.AsyncClient, model: str):
    body = {"model": model, "text_1": ["a", "b"], "text_2": ["ab", "abc"]}
    shown = ScoreAnswer.model_validate_json((await post(client, "score", body)).content)
    scores = [each["score"] for each in shown.data]
    expected = [0.2, 0.3] if model == "reranker" else [3 / 10**0.5, 4 / 20**0.5]
    assert scores == pytest.approx(expected)


async def test_texts_are_labelled(client: httpx.AsyncClient):
    response = await post(client, "classify", {"model": "sentiment", "input": ["a", "b"]})
    shown = ClassifyAnswer.model_validate_json(response.content)
    assert shown.data[1] == {
        "index": 1,
        "label": "good",
        "probs": [0.25, 0.75],
        "labels": ["bad", "good"],
        "num_classes": 2,
    }


@pytest.mark.parametrize("path", BODIES)
async def test_headers_are_those_of_infer(client: httpx.AsyncClient, answers: Answers, path: str):
    headers = {"X-Priority": "batch", "X-Caller-Id": "a", "X-Request-Timeout-Ms": "500"}
    assert (await post(client, path, **headers)).status_code == 200
    assert answers.timeouts_ms == [500.0]
    assert (answers.askers[0].caller, answers.askers[0].priority) == ("a", Priority.BATCH)
    refused = await post(client, path, **{"X-Priority": "soon"})
    assert refused.status_code == 422 and "X-Priority" in error_of(refused)["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_unknown_fields_are_without_effect_and_told(client: httpx.AsyncClient, path: str):
    body = {**BODIES[path], "fancy": 1, "é\r\nx: y": 2, "nothing": None}
    response = await post(client, path, body)
    assert response.status_code == 200
    assert response.headers["x-ignored-fields"] == "fancy, ???x??y"
    assert "x" not in response.headers


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (Overloaded(retry_after_s=1.5), 429, "rate_limit_error", "rate_limit_exceeded"),
        (ModelUnavailable(retry_after_s=2), 503, "server_error", "model_unavailable"),
        (DeadlineExceeded(), 504, "server_error", "deadline_exceeded"),
        (InputTooLong("text has 9"), 400, "invalid_request_error", "context_length_exceeded"),
        (PoisonInput(), 500, "server_error", "poison_input"),
        (ServingError("secret"), 500, "server_error", "internal"),
    ],
)
async def test_failures_have_openais_shape(
    running: Running,
    client: httpx.AsyncClient,
    path: str,
    error: ServingError,
    status: int,
    kind: str,
    code: str,
):
    running.services.inference = FailsEach(error)
    response = await post(client, path)
    shown = error_of(response)
    assert (response.status_code, shown["type"], shown["code"]) == (status, kind, code)
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert running.services.metrics.rejected == []  # the service counts what it was asked


@pytest.mark.parametrize(
    "service", [RaisesInInfer(ValueError("secret")), LosesAResult()], ids=["raises", "loses"]
)
async def test_faults_of_ours_tell_nothing(
    running: Running, client: httpx.AsyncClient, service: EchoService
):
    running.services.inference = service
    response = await post(client, "embeddings")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal")
    assert "secret" not in response.text
    assert running.services.metrics.rejected == ["internal"]


@pytest.mark.parametrize(
    ("path", "change", "status", "param"),
    [
        ("chat/completions", {"messages": None}, 422, "messages"),
        ("chat/completions", {"temperature": "hot"}, 422, "temperature"),
        ("chat/completions", {"n": 0}, 422, "n"),
        ("chat/completions", {"model": "missing"}, 404, "model"),
        ("chat/completions", {"model": "generator:v9"}, 404, "model"),
        ("chat/completions", {"model": "embedder"}, 422, "model"),
        ("chat/completions", {"tool_choice": "required"}, 422, "tool_choice"),
        ("completions", {"model": "sentiment"}, 422, "model"),
        ("completions", {"prompt": [[1, 2]]}, 422, "prompt"),
        ("completions", {"prompt": []}, 422, "prompt"),
        ("completions", {"suffix": "a"}, 422, "suffix"),
        ("responses", {"previous_response_id": "a"}, 422, "previous_response_id"),
        ("embeddings", {"input": [1, 2]}, 422, "input"),
        ("embeddings", {"input": [" "]}, 422, "input"),
        ("embeddings", {"input": ["a"] * 257}, 422, "input"),
        ("embeddings", {"model": "generator"}, 422, "model"),
        ("embeddings", {"encoding_format": "hex"}, 422, "encoding_format"),
        ("rerank", {"documents": [1]}, 422, "documents"),
        ("rerank", {"documents": []}, 422, "documents"),
        ("rerank", {"query": ""}, 422, "query"),
        ("score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, 422, "text_1"),
        ("classify", {"model": "embedder"}, 422, "model"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, path: str, change: dict[str, Any], status: int, param: str
):
    response = await post(client, path, {**BODIES[path], **change})
    shown = error_of(response)
    assert (response.status_code, shown["param"]) == (status, param)
    assert shown["type"] == "invalid_request_error"
    assert (shown["code"] == "model_not_found") == (status == 404)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allowed"),
    [
        ("GET", "/v1/nowhere", 404, "not_found", None),
        ("POST", "/v1/", 404, "not_found", None),
        ("GET", "/v1/models/nobody", 404, "model_not_found", None),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("DELETE", "/v1/embeddings", 405, "method_not_allowed", "POST"),
        ("POST", "/v1/models", 405, "method_not_allowed", "GET"),
        ("POST", "/v1/embeddings", 415, "unsupported_media_type", None),
    ],
)
async def test_other_paths_and_methods_fail_in_the_same_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str, allowed: str | None
):
    response = await client.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert response.headers.get("allow") == allowed


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[]", 422), (b'"a"', 422), (b" " * (9 * 2**20), 413)]
)
async def test_bodies_that_are_none_fail_in_the_same_shape(
    client: httpx.AsyncClient, content: bytes, status: int
):
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status
    error_of(response)


async def test_work_of_a_client_that_left_is_dropped(running: Running):
    running.services.inference = service = HangsInInfer()
    body = b'{"model": "embedder", "input": "a"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    async with running.connection() as (_, writer):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await service.began.wait()
    await service.cancelled.wait()


async def test_the_document_shows_the_shape_of_failures(client: httpx.AsyncClient):
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path in BODIES:
        responses = paths[f"/v1/{path}"]["post"]["responses"]
        assert {int(status) for status in responses} >= {200, 400, 404, 413, 415, 422, 429, 503}
        for status in set(responses) - {"200"}:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/OpenAiError"}
