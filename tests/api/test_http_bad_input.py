"""What callers get wrong, or try on purpose: each gets its status, its code and a way out."""

import json
from typing import Any

import httpx
import pytest

from app.schemas.response import ErrorAnswer
from tests.api.serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}
NESTED = b"[" * 100_000 + b"]" * 100_000


async def _refused(
    client: httpx.AsyncClient, body: bytes, path: str = "/infer", headers: Any = None
) -> tuple[int, str, str]:
    response = await client.post(path, content=body, headers=headers or JSON)
    answer = ErrorAnswer.model_validate_json(response.content)
    assert response.headers["x-request-id"] == answer.request_id
    return response.status_code, answer.error.code, answer.error.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b'{"text": "a"} x', id="trailing"),
        pytest.param(b"{'text': 'a'}", id="single-quotes"),
        pytest.param(b'\xef\xbb\xbf{"text": "a"}', id="byte-order-mark"),
        pytest.param(b'{"text": "a", "parameters": {"x": NaN}}', id="nan"),
        pytest.param(b'{"text": "a", "parameters": {"x": -Infinity}}', id="infinity"),
        pytest.param(b'{"text": "a", "parameters": {"x": 1e999}}', id="1e999"),
        pytest.param(b'{"text": "a", "parameters": {"x": ' + b"1" * 10_000 + b"}}", id="digits"),
        pytest.param(b'{"text": "\xff"}', id="not-utf-8"),
        pytest.param(b'{"text": "\xed\xa0\x80"}', id="encoded-surrogate"),
        pytest.param(rb'{"text": "\ud800 alone"}', id="lone-high-surrogate"),
        pytest.param(rb'{"text": "\udc00 alone"}', id="lone-low-surrogate"),
        pytest.param(b'{"text": "a\x00b"}', id="raw-control-character"),
        pytest.param(b'{"text": ' + NESTED + b"}", id="deep-nesting"),
        pytest.param(b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, id="deep-objects"),
        pytest.param(b'{"text": [' + b"1," * 300_000 + b"1]}", id="too-many-values"),
    ],
)
@pytest.mark.parametrize("path", ["/infer", "/infer/batch"])
async def test_what_is_not_strict_json_is_invalid_json(
    client: httpx.AsyncClient, body: bytes, path: str
):
    status, code, message = await _refused(client, body, path)
    assert (status, code) == (400, "invalid_json")
    assert message.startswith("The body ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("[]", "body must be an object, not a list.", id="list"),
        pytest.param("5", "body must be an object, not a number.", id="number"),
        pytest.param("null", "body must be an object, not null.", id="null"),
        pytest.param("{}", "text is missing.", id="no-text"),
        pytest.param('{"text": 5}', "text must be a string, not a number.", id="number-text"),
        pytest.param('{"text": null}', "text must be a string, not null.", id="null-text"),
        pytest.param('{"text": ["a"]}', "text must be a string, not a list.", id="list-text"),
        pytest.param(
            '{"text": ""}', "text is blank; send at least one visible character.", id="empty"
        ),
        pytest.param(
            r'{"text": " \n\t\u2003"}',
            "text is blank; send at least one visible character.",
            id="blank",
        ),
        pytest.param(
            r'{"text": "ab\u0000"}',
            "text holds the character U+0000 at index 2; take it out.",
            id="nul",
        ),
        pytest.param(
            '{"text": "a", "modle": "x"}',
            "modle is unknown; take it out or check its spelling.",
            id="unknown-field",
        ),
        pytest.param(
            '{"text": "a", "model": 1}', "model must be a string, not a number.", id="model"
        ),
        pytest.param(
            '{"text": "a", "model": ""}', "model has 0 characters, 1 to 128 are taken.", id="name"
        ),
        pytest.param(
            '{"text": "a", "version": true}',
            "version must be a string, not a boolean.",
            id="version",
        ),
        pytest.param(
            '{"text": "a", "parameters": []}',
            "parameters must be an object, not a list.",
            id="parameters",
        ),
        pytest.param(
            '{"text": "a", "parameters": {"seed": 9223372036854775808}}',
            "parameters has an integer beyond 64 bits in 'seed'.",
            id="big-integer",
        ),
        pytest.param(
            '{"text": "a", "inputs": {"x": [1]}}',
            "text and inputs exclude each other; send one.",
            id="both",
        ),
        pytest.param('{"inputs": []}', "inputs must be an object, not a list.", id="inputs-list"),
        pytest.param('{"inputs": null}', "inputs must be an object, not null.", id="inputs-null"),
        pytest.param('{"inputs": {}}', "inputs has 0 tensors, 1 to 64 are taken.", id="no-inputs"),
        pytest.param(
            '{"inputs": {"x": 1}}',
            "inputs has 'x', which must be an object with data, or a list.",
            id="input-number",
        ),
    ],
)
async def test_wrong_field_is_named(client: httpx.AsyncClient, body: str, message: str):
    assert await _refused(client, body.encode()) == (422, "invalid_request", message)


async def test_all_wrong_fields_are_told_at_once(client: httpx.AsyncClient):
    response = await client.post("/infer", json={"text": 1, "model": 2, "colour": 3})
    details = response.json()["error"]["details"]
    assert [problem["field"] for problem in details] == ["text", "model", "colour"]


async def test_text_may_be_as_long_as_the_limit_and_not_longer():
    async with serving(max_text_chars=10) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.post("/infer", json={"text": "é" * 10})).status_code == 200
            refused = await client.post("/infer", json={"text": "é" * 11})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == (
        "text has 11 characters, at most 10 are taken; split it, or raise MAX_TEXT_CHARS."
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param([], "body must be an object, not a list.", id="list"),
        pytest.param({}, "requests is missing.", id="missing"),
        pytest.param({"requests": {}}, "requests must be a list, not an object.", id="object"),
        pytest.param({"requests": []}, "requests has 0 entries, 1 to 3 are taken", id="empty"),
        pytest.param({"requests": [1] * 4}, "requests has 4 entries, 1 to 3 are taken", id="more"),
        pytest.param({"requests": [1], "x": 1}, "x is unknown", id="unknown-field"),
    ],
)
async def test_wrong_frame_of_a_batch_fails_it_whole(body: Any, message: str):
    async with serving(max_request_items=3) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            status, code, told = await _refused(client, json.dumps(body).encode(), "/infer/batch")
    assert (status, code) == (422, "invalid_request")
    assert told.startswith(message)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        pytest.param("application/json", 200, id="plain"),
        pytest.param("Application/JSON; Charset=UTF-8", 200, id="utf-8"),
        pytest.param('application/json; charset="utf-8"', 200, id="quoted"),
        pytest.param("application/vnd.api+json", 200, id="plus-json"),
        pytest.param("application/json; charset=latin-1", 415, id="latin-1"),
        pytest.param("text/plain", 415, id="text"),
        pytest.param("application/x-www-form-urlencoded", 415, id="form"),
        pytest.param("multipart/form-data; boundary=x", 415, id="multipart"),
        pytest.param("application/jsonp", 415, id="nearly"),
        pytest.param("", 415, id="none"),
    ],
)
async def test_only_utf_8_json_is_taken(client: httpx.AsyncClient, content_type: str, status: int):
    response = await client.post(
        "/infer", content=b'{"text": "a"}', headers={"Content-Type": content_type}
    )
    assert response.status_code == status
    if status == 415:
        assert response.json()["error"]["code"] == "unsupported_media_type"


async def test_refused_requests_reach_no_service_and_are_counted(
    running: Running, client: httpx.AsyncClient
):
    await client.post("/infer", json={"text": ""})
    await client.post("/infer", content=b"{", headers=JSON)
    await client.get("/nowhere")
    await client.post("/infer", json={"text": "a", "model": "missing"})  # the service counts it
    assert running.services.metrics.rejected == ["invalid_request", "invalid_json", "not_found"]
    assert [request.model for request in running.services.inference.requests] == ["missing"]


async def test_megabytes_of_tiny_values_are_refused_before_they_are_decoded(
    client: httpx.AsyncClient,
):
    """Decoding these took 0.8 s on the event loop, for every caller of the server."""
    junk = b"[" + b"[]," * 2_700_000 + b"[]]"
    strings = b"[" + b'"",' * 2_700_000 + b'""]'
    for values in (junk, strings):
        body = b'{"requests": ' + values + b"}"
        status, code, message = await _refused(client, body, "/infer/batch")
        assert (status, code) == (400, "invalid_json")
        assert "more than" in message  # counted, not decoded


async def test_text_full_of_separators_is_not_taken_for_many_values(client: httpx.AsyncClient):
    text = '[1,2,{"a":"\\",\\"' * 10_000
    answer = await client.post("/infer", json={"text": text})
    assert answer.json()["result"] == text


async def test_a_batch_of_too_many_bytes_is_not_looked_at_for_what_else_is_wrong():
    """Schemathesis once made up a batch of 12 MB whose entries were wrong as well."""
    body = json.dumps({"requests": [{"text": "", "model": "m" * 3000}]}).encode()
    async with serving(max_body_bytes=2000) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            status, code, _ = await _refused(client, body, "/infer/batch")
    assert (status, code) == (413, "body_too_large")


async def test_unknown_route_and_method_answer_in_our_shape(client: httpx.AsyncClient):
    nowhere = await client.get("/nowhere")
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "not_found")
    wrong = await client.delete("/infer")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["message"] == "/infer takes POST, not DELETE."
    assert (await client.put("/jobs")).headers["allow"] == "GET, POST"
