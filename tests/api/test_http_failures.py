"""What the services fail with, and callers who do not wait for it."""

import asyncio
import json

import httpx
import pytest
from structlog.testing import capture_logs

from app.core.errors import (
    CannotLoad,
    DeadlineExceeded,
    InputTooLong,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    PoisonInput,
    ServingError,
    WorkerLost,
)
from tests.api.serving import (
    EchoService,
    FailsEach,
    FakeServices,
    HangsInInfer,
    LosesAResult,
    RaisesInInfer,
    serving,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = {"text": "a"}
BODY = json.dumps(TEXT).encode()
POST = (
    b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


async def _post(service: EchoService, path: str = "/infer") -> httpx.Response:
    async with serving(FakeServices(inference=service)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            return await client.post(path, json=TEXT if path == "/infer" else {"requests": [TEXT]})


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        pytest.param(InputTooLong("300 tokens, at most 256"), 413, None, id="too-long"),
        pytest.param(ModelNotFound("no such"), 404, None, id="not-found"),
        pytest.param(Overloaded("full", retry_after_s=1.2), 429, "2", id="overloaded"),
        pytest.param(ModelUnavailable("loading"), 503, "1", id="loading"),
        pytest.param(WorkerLost("gone", retry_after_s=0.01), 503, "1", id="worker-lost"),
        pytest.param(DeadlineExceeded(), 504, None, id="deadline"),
    ],
)
@pytest.mark.parametrize("service", [RaisesInInfer, FailsEach])
async def test_error_of_the_service_becomes_its_status(
    service: type[RaisesInInfer] | type[FailsEach],
    error: ServingError,
    status: int,
    retry_after: str | None,
):
    response = await _post(service(error))
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert response.json()["error"]["code"] == error.code
    assert response.json()["error"]["message"] == str(error)


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(RaisesInInfer(KeyError("/secret/path")), id="bug"),
        pytest.param(RaisesInInfer(CannotLoad("/secret/path")), id="whole-call"),
        pytest.param(FailsEach(ServingError("/secret/path")), id="outcome"),
        pytest.param(LosesAResult(), id="wrong-count"),
    ],
)
async def test_our_fault_tells_the_log_and_not_the_caller(service: EchoService):
    with capture_logs() as lines:
        response = await _post(service)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert b"secret" not in response.content
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request_failed"]
    assert isinstance(
        next(line for line in lines if line["event"] == "request_failed")["exc_info"], Exception
    )


@pytest.mark.parametrize("path", ["/infer", "/infer/batch"])
async def test_poison_is_told_by_name(path):
    response = await _post(FailsEach(PoisonInput()), path)
    body = response.json()
    error = body["error"] if path == "/infer" else body["results"][0]["error"]
    assert error["code"] == "poison_input"
    assert "ended twice" in error["message"]


async def test_our_fault_in_one_entry_tells_its_caller_nothing_either():
    response = await _post(FailsEach(CannotLoad("/secret/path")), "/infer/batch")
    assert response.status_code == 200
    assert response.json()["results"][0]["error"]["code"] == "internal"
    assert b"secret" not in response.content


async def test_entry_tells_when_to_try_again():
    response = await _post(FailsEach(Overloaded("full", retry_after_s=1.5)), "/infer/batch")
    assert response.json()["results"][0]["error"] == {
        "code": "overloaded",
        "message": "full",
        "retry_after_s": 1.5,
    }


async def test_batch_that_is_overloaded_as_a_whole_is_429():
    response = await _post(RaisesInInfer(Overloaded()), "/infer/batch")
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_work_is_cancelled_when_the_client_leaves():
    service = HangsInInfer()
    async with serving(FakeServices(inference=service)) as running:
        with capture_logs() as lines:
            async with running.connection() as (_, writer):
                writer.write(POST + BODY)
                await service.began.wait()
            await asyncio.wait_for(service.cancelled.wait(), 5)
            while not any(line["event"] == "request" for line in lines):
                await asyncio.sleep(0.01)
    assert [line["status"] for line in lines if line["event"] == "request"] == [499]
    assert running.services.metrics.rejected == ["cancelled"]


async def test_client_that_leaves_before_its_body_ends_starts_nothing():
    async with serving() as running:
        with capture_logs() as lines:
            async with running.connection() as (_, writer):
                writer.write(POST + BODY[:-1])
                await writer.drain()
            while not any(line["event"] == "request" for line in lines):
                await asyncio.sleep(0.01)
    assert running.services.inference.requests == []
    assert [line["status"] for line in lines if line["event"] == "request"] == [499]


async def test_request_that_outlives_the_grace_is_told_that_the_server_stops():
    service = HangsInInfer()
    async with serving(FakeServices(inference=service)) as running:
        async with running.connection() as (reader, writer):
            writer.write(POST + BODY)
            await service.began.wait()
            running.server.should_exit = True
            answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"unavailable"' in answer


async def test_request_that_ends_within_the_grace_is_answered():
    class AnswersWhenTold(EchoService):
        def __init__(self) -> None:
            super().__init__()
            self.began, self.go = asyncio.Event(), asyncio.Event()

        async def infer(self, requests, *, timeout_ms, asker, is_whole=False):
            self.began.set()
            await self.go.wait()
            return await super().infer(requests, timeout_ms=timeout_ms, asker=asker)

    service = AnswersWhenTold()
    async with serving(FakeServices(inference=service), shutdown_grace_s=5) as running:
        async with running.connection() as (reader, writer):
            writer.write(POST + BODY)
            await service.began.wait()
            running.server.should_exit = True
            await asyncio.sleep(0.3)
            service.go.set()
            answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" in answer
