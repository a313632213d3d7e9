"""What is refused, by the application, below it or around it, has the shape of its path's protocol,
and is declared in the OpenAPI document: status, body and header fields."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import httpx
import jsonschema_rs
import pytest
import pytest_asyncio

from app.core.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServingError
from tests.api.serving import ECHO, FakeServices, FailsEach, RaisesInInfer, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, OPENAI, V2 = "/infer", "/v1/chat/completions", "/v2/models/echo/infer"
TEMPLATES = {OWN: OWN, OPENAI: OPENAI, V2: "/v2/models/{model_name}/infer"}
ALL = tuple(TEMPLATES)
PATHS = pytest.mark.parametrize("path", ALL)
BODY = b'{"text": "a"}'
BODIES: dict[str, Any] = {
    OWN: {"text": "a", "model": "echo"},
    OPENAI: {"model": "echo", "messages": [{"role": "user", "content": "a"}]},
    V2: {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
}


@dataclass(frozen=True)
class Declared:
    """What the document says of answers."""

    document: dict[str, Any]

    def check(self, path: str, status: int, headers: httpx.Headers, shown: Any) -> None:
        responses = self.document["paths"][TEMPLATES[path]]["post"]["responses"]
        declared = responses[str(status)]
        schema = declared["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.document["components"]}
        jsonschema_rs.validator_for(whole).validate(shown)
        for name, field in declared.get("headers", {}).items():
            jsonschema_rs.validate(field["schema"], int(headers[name]))


@pytest_asyncio.fixture(loop_scope="module")
async def declared(client: httpx.AsyncClient) -> Declared:
    return Declared((await client.get("/openapi.json")).json())


def post(path: str, *headers: str, body: bytes = BODY, host: str = "a") -> bytes:
    given = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    given += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*given, "", ""]).encode("ascii") + body


def read(answer: bytes) -> tuple[int, httpx.Headers, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode("ascii").split("\r\n")
    pairs = [field.partition(": ") for field in fields]
    headers = httpx.Headers([(name, value) for name, _, value in pairs])
    return int(first.split()[1]), headers, json.loads(body)


def check(path: str, shown: dict[str, Any], code: str, kind: str, openai_code: str = "") -> None:
    """The error, in the shape that belongs to the path."""
    if path == OPENAI:
        assert set(shown) == {"error"}
        error = shown["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        assert (error["type"], error["code"]) == (kind, openai_code or code)
    elif path == V2:
        assert set(shown) == {"error"} and isinstance(shown["error"], str)
    else:
        assert (shown["success"], shown["error"]["code"]) == (False, code)
        assert shown["request_id"]


@PATHS
@pytest.mark.parametrize("service", [RaisesInInfer, FailsEach])
@pytest.mark.parametrize(
    ("error", "status", "kind", "openai_code"),
    [
        pytest.param(DeadlineExceeded(), 504, "server_error", "", id="deadline"),
        pytest.param(Overloaded(), 429, "rate_limit_error", "rate_limit_exceeded", id="overloaded"),
        pytest.param(ModelUnavailable("loading"), 503, "server_error", "", id="unavailable"),
    ],
)
async def test_what_the_service_fails_with(
    declared: Declared,
    path: str,
    service: type[RaisesInInfer] | type[FailsEach],
    error: ServingError,
    status: int,
    kind: str,
    openai_code: str,
):
    services = FakeServices(inference=service(error))
    if path == OPENAI:
        services.models.versions = [replace(ECHO, task="generate", chats=True)]
    async with serving(services) as running, httpx.AsyncClient(base_url=running.url) as client:
        response = await client.post(path, json=BODIES[path])
    assert response.status_code == status
    check(path, response.json(), error.code, kind, openai_code)
    declared.check(path, status, response.headers, response.json())


@PATHS
async def test_load_that_is_shed(path: str, declared: Declared, monkeypatch: pytest.MonkeyPatch):
    async with serving() as running, running.connection() as (reader, writer):
        monkeypatch.setattr(running.server.config.shedding, "sheds", lambda who: True)
        writer.write(post(path))
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        status, headers, shown = read(answer + await reader.readexactly(length))
    check(path, shown, "overloaded", "rate_limit_error", "rate_limit_exceeded")
    declared.check(path, status, headers, shown)
    assert headers["retry-after"] == "1"


@PATHS
async def test_a_header_that_is_too_large(path: str, declared: Declared):
    async with serving() as running:
        status, headers, shown = read(await running.talk(post(path, "X: " + "a" * 70_000)))
    assert status == 431
    check(path, shown, "header_too_large", "invalid_request_error")
    declared.check(path, status, headers, shown)


async def test_a_body_that_does_not_come(declared: Declared):
    async with serving(body_timeout_s=0.3) as running:
        answers = await asyncio.gather(*(running.talk(post(path)[:-1]) for path in ALL))
    for path, (status, headers, shown) in zip(ALL, map(read, answers), strict=True):
        assert status == 408
        check(path, shown, "request_timeout", "invalid_request_error")
        declared.check(path, status, headers, shown)


@PATHS
async def test_bodies_that_are_too_many_together(path: str, declared: Declared):
    body = BODY + b" " * 2**21
    async with serving(max_held_body_bytes=2**20, max_body_bytes=2**20) as running:
        status, headers, shown = read(await running.talk(post(path, body=body)))
    assert status in (413, 503)  # by whichever limit is noticed first
    code = {413: "body_too_large", 503: "too_many_bytes"}[status]
    check(path, shown, code, "server_error" if status == 503 else "invalid_request_error")
    declared.check(path, status, headers, shown)


@PATHS
async def test_a_body_that_is_too_large(path: str, declared: Declared):
    async with serving(max_body_bytes=2000) as running:
        status, headers, shown = read(await running.talk(post(path, body=BODY + b" " * 2000)))
    assert status == 413
    check(path, shown, "body_too_large", "invalid_request_error")
    declared.check(path, status, headers, shown)


@PATHS
async def test_a_name_that_is_not_ours(path: str, declared: Declared):
    async with serving(allowed_hosts="mine.example") as running:
        answer = await running.talk(post(path, "Connection: close"))
    status, headers, shown = read(answer)
    assert status == 421
    check(path, shown, "misdirected", "invalid_request_error")
    declared.check(path, status, headers, shown)


async def test_what_is_told_before_the_path_is_known_is_declared_everywhere(declared: Declared):
    for path, operations in declared.document["paths"].items():
        for method, operation in operations.items():
            expected = {"431"} if "/health" in path else {"421", "431"}
            assert expected <= set(operation["responses"]), f"{method} {path}"
