"""What is refused below the application, or around it, has the shape of its path's protocol."""

import asyncio
import json
from typing import Any

import pytest

from tests.api.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, OPENAI, V2 = "/infer", "/v1/chat/completions", "/v2/models/a/infer"
ALL = (OWN, OPENAI, V2)
PATHS = pytest.mark.parametrize("path", ALL)
BODY = b'{"text": "a"}'


def post(path: str, *headers: str, body: bytes = BODY, host: str = "a") -> bytes:
    given = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    given += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*given, "", ""]).encode("ascii") + body


def read(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


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
async def test_load_that_is_shed(path: str, monkeypatch: pytest.MonkeyPatch):
    async with serving() as running, running.connection() as (reader, writer):
        monkeypatch.setattr(running.server.config.shedding, "sheds", lambda who: True)
        writer.write(post(path))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"retry-after: 1\r\n" in head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        shown = json.loads(await reader.readexactly(length))
    check(path, shown, "overloaded", "rate_limit_error", "rate_limit_exceeded")


@PATHS
async def test_a_header_that_is_too_large(path: str):
    async with serving() as running:
        status, shown = read(await running.talk(post(path, "X: " + "a" * 70_000)))
    assert status == 431
    check(path, shown, "header_too_large", "invalid_request_error")


async def test_a_body_that_does_not_come():
    async with serving(body_timeout_s=0.3) as running:
        answers = await asyncio.gather(*(running.talk(post(path)[:-1]) for path in ALL))
    for path, (status, shown) in zip(ALL, map(read, answers), strict=True):
        assert status == 408
        check(path, shown, "request_timeout", "invalid_request_error")


@PATHS
async def test_bodies_that_are_too_many_together(path: str):
    body = BODY + b" " * 2**21
    async with serving(max_held_body_bytes=2**20, max_body_bytes=2**20) as running:
        status, shown = read(await running.talk(post(path, body=body)))
    assert status in (413, 503)  # by whichever limit is noticed first
    code = {413: "body_too_large", 503: "too_many_bytes"}[status]
    check(path, shown, code, "server_error" if status == 503 else "invalid_request_error")


@PATHS
async def test_a_name_that_is_not_ours(path: str):
    async with serving(allowed_hosts="mine.example") as running:
        status, shown = read(await running.talk(post(path, "Connection: close")))
    assert status == 421
    check(path, shown, "misdirected", "invalid_request_error")
