"""OpenAI's streams over fakes: what is on the wire, and how streams break."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.api import shedding
from app.core.errors import (
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    PoisonInput,
    ServingError,
    WorkerLost,
)
from app.core.types import Answer, Asker, Done, Failed, Piece, Usage
from app.services.inference_service import InferenceRequest, InferenceResult
from tests.api.serving import EchoService, Running
from tests.api.test_openai_http import BODIES, SERVED, error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = ("chat/completions", "completions", "responses")
Event = dict[str, Any]


class Writes(EchoService):
    """Three pieces and the result; or what it was told to fail with, at once or in the middle."""

    def __init__(
        self,
        *,
        before: ServingError | None = None,
        amid: ServingError | None = None,
        endless: bool = False,
    ) -> None:
        super().__init__()
        self._before = before
        self._amid = amid
        self._endless = endless
        self.left = asyncio.Event()

    async def stream(
        self, requests: Sequence[InferenceRequest], *, timeout_ms: float | None, asker: Asker
    ) -> AsyncGenerator[Piece | InferenceResult, None]:
        self.requests += requests
        self.timeouts_ms.append(timeout_ms)
        self.askers.append(asker)
        try:
            if self._before is not None:
                raise self._before
            yield Piece("Grüß", 2)
            if self._amid is not None:
                yield InferenceResult(Failed(self._amid), "generator:v1", "generator", 1.0)
                return
            while self._endless:
                yield Piece("x" * 1000, 1)
                await asyncio.sleep(0)
            yield Piece(" dich\n", 1)
            yield Piece("\N{SNOWMAN}", 1)
            answer = Answer("Grüß dich\n\N{SNOWMAN}", {"finish_reason": "length"}, Usage(3, 4))
            for number, _ in enumerate(requests):
                yield InferenceResult(Done(answer), "generator:v1", "generator", 1.0, number)
        finally:
            self.left.set()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No load is shed, however busy the machine, and no traceback holds up the loop."""
    monkeypatch.setattr(shedding, "PERSISTS_S", float("inf"))
    with capture_logs():
        yield


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def writes(running: Running) -> Writes:
    running.services.models.versions = SERVED
    running.services.inference = service = Writes()
    return service


async def streamed(
    client: httpx.AsyncClient, path: str, **more: Any
) -> tuple[httpx.Response, list[Event | str]]:
    response = await client.post(f"/v1/{path}", json={**BODIES[path], "stream": True, **more})
    blocks = [block for block in response.text.split("\n\n") if block]
    data = [block.rpartition("data: ")[2] for block in blocks]
    return response, [each if each == "[DONE]" else json.loads(each) for each in data]


async def test_a_chat_comes_in_chunks(client: httpx.AsyncClient):
    response, events = await streamed(client, "chat/completions", fancy=1)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-ignored-fields"] == "fancy"
    assert response.headers["cache-control"] == "no-store"
    chunks = [event for event in events if isinstance(event, dict)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Grüß dich\n\N{SNOWMAN}"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length" and events[-1] == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_completion_comes_in_chunks(client: httpx.AsyncClient):
    usage = {"stream_options": {"include_usage": True}}
    _, events = await streamed(client, "completions", **usage)
    chunks = [event for event in events if isinstance(event, dict)]
    texts = [chunk["choices"][0]["text"] for chunk in chunks[:-1]]
    assert "".join(texts) == "Grüß dich\n\N{SNOWMAN}"
    assert chunks[-1]["usage"]["total_tokens"] == 7 and events[-1] == "[DONE]"


async def test_a_response_comes_in_named_events(client: httpx.AsyncClient):
    response, events = await streamed(client, "responses")
    names = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    shown = [event for event in events if isinstance(event, dict)]
    assert names == [event["type"] for event in shown]
    assert names[-1] == "response.incomplete" and "[DONE]" not in events


@pytest.mark.parametrize("path", STREAMS)
async def test_headers_are_those_of_infer(client: httpx.AsyncClient, writes: Writes, path: str):
    headers = {"X-Caller-Id": "a", "X-Request-Timeout-Ms": "500"}
    body = {**BODIES[path], "stream": True}
    assert (await client.post(f"/v1/{path}", json=body, headers=headers)).status_code == 200
    assert writes.timeouts_ms == [500.0] and writes.askers[0].caller == "a"


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    ("error", "status"),
    [(Overloaded(), 429), (ModelUnavailable(), 503), (InvalidRequest("temperature is"), 422)],
)
async def test_what_fails_before_the_first_piece_has_its_own_status(
    running: Running, client: httpx.AsyncClient, path: str, error: ServingError, status: int
):
    running.services.inference = Writes(before=error)
    response = await client.post(f"/v1/{path}", json={**BODIES[path], "stream": True})
    assert response.status_code == status
    error_of(response)
    assert running.services.metrics.rejected == []  # the service has counted it


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkerLost(), "model_unavailable"),
        (PoisonInput(), "poison_input"),
        (ServingError("secret"), "internal"),
    ],
)
async def test_what_fails_later_is_an_event(
    running: Running, client: httpx.AsyncClient, path: str, error: ServingError, code: str
):
    running.services.inference = Writes(amid=error)
    response, events = await streamed(client, path)
    last = events[-1]
    assert response.status_code == 200 and isinstance(last, dict)
    shown = last if path == "responses" else last["error"]
    assert shown["code"] == code and "secret" not in response.text
    assert (last.get("type") == "error") == (path == "responses")


async def test_several_prompts_are_streamed_each_under_its_index(client: httpx.AsyncClient):
    _, events = await streamed(client, "completions", prompt=["a", "b"])
    texts = {0: "", 1: ""}
    for event in events[:-1]:
        assert isinstance(event, dict)
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == dict.fromkeys((0, 1), "Grüß dich\n\N{SNOWMAN}") and events[-1] == "[DONE]"


@pytest.mark.parametrize("path", STREAMS)
async def test_who_leaves_ends_the_work(running: Running, client: httpx.AsyncClient, path: str):
    running.services.inference = service = Writes(endless=True)
    body = {**BODIES[path], "stream": True}
    async with client.stream("POST", f"/v1/{path}", json=body) as response:
        await anext(response.aiter_bytes())
    await service.left.wait()
