"""The documentation is complete, and needs nothing from outside."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.schemas.response import ErrorAnswer
from tests.api.serving import Running, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _walk(child)


async def test_every_field_has_a_description_and_an_example(document: dict[str, Any]):
    bare = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, shown in schema.get("properties", {}).items()
        if "description" not in shown or not ("examples" in shown or "$ref" in shown)
    ]
    known = ["Metadata.usage", "InferAnswer.metadata", "BatchAnswer.summary", "ErrorAnswer.error"]
    assert [field for field in bare if field not in known] == ["BatchAnswer.results"]


async def test_every_reference_leads_somewhere(document: dict[str, Any]):
    references = {node["$ref"] for node in _walk(document) if "$ref" in node}
    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references} <= set(schemas)
    assert "#/components/schemas/InferBody" in references


async def test_every_part_of_a_path_is_declared(document: dict[str, Any]):
    for path, operations in document["paths"].items():
        parts = re.findall(r"{(\w+)}", path)
        for operation in operations.values():
            declared = [each for each in operation["parameters"] if each["in"] == "path"]
            assert [each["name"] for each in declared] == parts, path


async def test_streams_are_shown_event_by_event(document: dict[str, Any]):
    def events(path: str) -> Any:
        answer = document["paths"][path]["post"]["responses"]["200"]
        return answer["content"]["text/event-stream"]["schema"]

    named = events("/infer")["oneOf"]
    assert [event["properties"]["event"]["const"] for event in named] == ["piece", "done", "error"]
    ends, chunk = events("/v1/chat/completions")["properties"]["data"]["anyOf"]
    assert ends == {"const": "[DONE]"}
    assert chunk["contentSchema"]["anyOf"][0] == {"$ref": "#/components/schemas/ChatChunk"}


async def test_answers_are_shown_as_objects_not_as_strings(document: dict[str, Any]):
    """A response class that FastAPI does not know made it call every answer a string."""
    assert [node for node in _walk(document) if "$ref" in node and "type" in node] == []


async def test_examples_of_failures_have_the_shape_of_failures(document: dict[str, Any]):
    responses = document["paths"]["/infer"]["post"]["responses"]
    for status in set(responses) - {"200"}:
        example = responses[status]["content"]["application/json"]["example"]
        ErrorAnswer.model_validate(example)


async def test_limits_of_this_server_are_shown(document: dict[str, Any]):
    schemas = document["components"]["schemas"]
    assert schemas["InferBody"]["properties"]["text"]["maxLength"] == settings().max_text_chars
    entries = schemas["BatchBody"]["properties"]["requests"]
    assert entries["maxItems"] == settings().max_request_items
    assert schemas["InferBody"]["additionalProperties"] is False


async def test_inference_routes_show_every_failure(document: dict[str, Any]):
    for path in ("/infer", "/infer/batch"):
        responses = document["paths"][path]["post"]["responses"]
        shown = {int(status) for status in responses}
        assert shown >= {200, 400, 404, 408, 413, 415, 422, 429, 431, 500, 503, 504}
        for status in shown - {200}:
            schema = responses[str(status)]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}


async def test_examples_of_the_request_are_accepted(
    client: httpx.AsyncClient, document: dict[str, Any]
):
    schemas = document["components"]["schemas"]
    for example in schemas["InferBody"]["examples"]:
        assert (await client.post("/infer", json=example)).status_code == 200
    for entries in schemas["BatchBody"]["properties"]["requests"]["examples"]:
        answer = await client.post("/infer/batch", json={"requests": entries})
        assert answer.json()["success"] is True


async def test_page_and_all_it_loads_come_from_here(client: httpx.AsyncClient):
    page = await client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert link.startswith("/docs/")
        assert (await client.get(link)).status_code == 200, link


async def test_page_runs_no_inline_script_and_cannot_be_framed(client: httpx.AsyncClient):
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "script-src" not in policy  # so default-src holds: no inline, no eval
    assert re.findall(r"<script(?![^>]*src=)", page.text) == []


async def test_unchanged_file_is_not_sent_again(client: httpx.AsyncClient):
    first = await client.get("/docs/swagger-ui.css")
    again = await client.get(
        "/docs/swagger-ui.css", headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/docs/../application.py",
        "/docs/%2e%2e/application.py",
        "/docs/%252e%252e%252fapplication.py",
        "/docs/..%2f..%2fapplication.py",
        "/docs/LICENSE",
        "/docs/init.js%00.css",
        "/docs/%5c..%5capplication.py",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//docs",
        "/docs/",
    ],
)
async def test_other_paths_read_nothing(running: Running, path: str):
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await running.talk(request.encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"not_found"' in answer
