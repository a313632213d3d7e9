"""Server-sent events over a real connection: at once, with pings, and no more than is read."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from app.api import sse
from app.core.errors import InputTooLong, Overloaded, WorkerLost
from app.core.types import Answer, Asker, Done, Failed, Piece, Timings, Usage
from app.schemas.response import ErrorAnswer
from app.services.inference_service import InferenceRequest, InferenceResult
from tests.api.serving import EchoService, Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = {"text": "Once", "stream": True}
DONE = Done(Answer("upon a", {"finish_reason": "stop"}, Usage(1, 2)), Timings(1.0, 2.0))


class StreamsWhenTold(EchoService):
    """Streams what the test puts; an error is raised, None is the end."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.taken = 0
        self.closed = asyncio.Event()

    def put(self, *each: Any) -> None:
        for one in each:
            self.queue.put_nowait(one)

    async def stream(
        self, requests: Sequence[InferenceRequest], *, timeout_ms: float | None, asker: Asker
    ) -> AsyncGenerator[Piece | InferenceResult, None]:
        self.requests += requests
        try:
            while (each := await self.queue.get()) is not None:
                if isinstance(each, Exception):
                    raise each
                self.taken += 1
                yield each
        finally:
            self.closed.set()


def result(outcome: Done | Failed) -> InferenceResult:
    return InferenceResult(outcome, "generator:v1", "generator", 12.5)


@pytest.fixture
def service(running: Running) -> StreamsWhenTold:
    service = StreamsWhenTold()
    running.services.inference = service
    return service


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    parts = [part.split("\n") for part in body.split("\n\n") if part]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in parts
        if not lines[0].startswith(":")
    ]


@asynccontextmanager
async def streaming(client: httpx.AsyncClient):
    async with client.stream("POST", "/infer", json=ASKED) as response:
        yield response, response.aiter_text()


async def test_each_piece_is_an_event_and_the_last_has_the_rest(client, service):
    service.put(Piece("upon", 1), Piece(" é\n", 1), result(DONE), None)
    response = await client.post("/infer", json=ASKED, headers={"X-Request-ID": "r-1"})

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    first, second, (name, last) = events(response.text)
    assert first == ("piece", {"text": "upon", "tokens": 1, "index": 0})
    assert second == ("piece", {"text": " é\n", "tokens": 1, "index": 0})
    assert name == "done" and last["success"] and "result" not in last
    assert (last["model_used"], last["request_id"]) == ("generator:v1", "r-1")
    assert last["metadata"]["finish_reason"] == "stop"
    assert last["metadata"]["usage"] == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


async def test_value_that_is_no_text_comes_with_the_last_event(client, service):
    service.put(result(Done(Answer([0.5, 0.25]))), None)
    ((name, last),) = events((await client.post("/infer", json=ASKED)).text)

    assert (name, last["result"]) == ("done", [0.5, 0.25])


async def test_a_piece_leaves_at_once(client, service):
    service.put(Piece("upon", 1))
    async with streaming(client) as (_, texts):
        assert '"upon"' in await anext(texts)
        service.put(Piece(" a", 1))
        assert '" a"' in await anext(texts)
        service.put(result(DONE), None)


@pytest.mark.parametrize(
    ("error", "status"), [(Overloaded("full"), 429), (InputTooLong("too long"), 413)]
)
async def test_error_before_the_first_piece_has_its_own_status(client, service, error, status):
    service.put(error)
    response = await client.post("/infer", json=ASKED)

    assert response.status_code == status
    ErrorAnswer.model_validate_json(response.content, strict=True)


async def test_error_after_the_first_piece_is_an_event(client, service):
    service.put(Piece("upon", 1), result(Failed(WorkerLost("gone", retry_after_s=1.0))), None)
    _, (name, last) = events((await client.post("/infer", json=ASKED)).text)

    assert name == "error"
    assert last["error"] == {"code": "model_unavailable", "message": "gone", "retry_after_s": 1.0}
    ErrorAnswer.model_validate_json(json.dumps(last), strict=True)


async def test_a_client_who_leaves_closes_the_source(client, service):
    service.put(Piece("upon", 1))
    with capture_logs() as logs:
        async with streaming(client) as (_, texts):
            await anext(texts)
        await asyncio.wait_for(service.closed.wait(), 10)
        while not logs:
            await asyncio.sleep(0)
    assert [(line["status"], line["error"]) for line in logs] == [(200, "cancelled")]


async def test_a_client_who_leaves_before_the_first_piece_closes_the_source(client, service):
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/infer", json=ASKED, timeout=0.2)
    await asyncio.wait_for(service.closed.wait(), 10)


async def test_entry_of_a_batch_cannot_be_streamed(client, service):
    answer = (await client.post("/infer/batch", json={"requests": [ASKED]})).json()

    assert "requests.0.stream is for single requests" in answer["results"][0]["error"]["message"]


async def test_a_ping_is_sent_while_nothing_comes(client, service, monkeypatch):
    monkeypatch.setattr("app.api.inference.sse_response", partial(sse.sse_response, ping_s=0.02))
    service.put(Piece("upon", 1))
    async with streaming(client) as (_, texts):
        await anext(texts)
        assert await anext(texts) == ": ping\n\n"
        service.put(result(DONE), None)


async def test_an_error_that_comes_late_is_an_event(client, service, monkeypatch):
    async def opened_at_once(request: Request, source: Any) -> Any:
        return await sse.opened(request, source, 0.01)

    monkeypatch.setattr("app.api.inference.opened", opened_at_once)
    async with streaming(client) as (response, texts):
        assert response.status_code == 200
        service.put(Overloaded("full"))
        assert events(await anext(texts))[0][0] == "error"


async def test_who_does_not_read_is_not_sent_more(service, running):
    """The source is asked for no more than what the connection and the kernel take."""
    text = "x" * 10_000
    service.put(*[Piece(text, 1)] * 2000, result(DONE), None)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    body = json.dumps(ASKED).encode()
    writer.write(
        b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    await reader.readline()
    taken = -1
    while taken != service.taken:
        taken = service.taken
        await asyncio.sleep(0.2)
    assert taken < 1500
    writer.close()
    await asyncio.wait_for(service.closed.wait(), 10)


async def test_a_stop_whose_grace_is_over_tells_those_that_are_read():
    async with serving(shutdown_grace_s=1) as running:
        service = running.services.inference = StreamsWhenTold()
        service.put(Piece("upon", 1))
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            async with streaming(client) as (_, texts):
                await anext(texts)
                running.server.should_exit = True
                ((name, last),) = events("".join([text async for text in texts]))
    assert (name, last["error"]["code"]) == ("error", "model_unavailable")
