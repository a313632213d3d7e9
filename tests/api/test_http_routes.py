"""Every route gives the answer that the product describes."""

import uuid
from datetime import datetime
from typing import Any

import httpx
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.core.types import Asker, Priority
from app.schemas.response import (
    BatchAnswer,
    HealthAnswer,
    IndexAnswer,
    InferAnswer,
    ModelsAnswer,
    ProbeAnswer,
)
from app.services.inference_service import InferenceRequest
from app.services.model_service import Readiness
from tests.api.serving import FakeServices, FixedModels, Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = {"text": "two words"}


async def test_infer_answers_in_the_products_shape(client: httpx.AsyncClient):
    response = await client.post("/infer", json={**TEXT, "parameters": {"max_length": 5}})
    assert response.status_code == 200
    InferAnswer.model_validate_json(response.content, strict=True)
    answer = response.json()
    assert list(answer) == [
        "success",
        "result",
        "model_used",
        "latency_ms",
        "request_id",
        "timestamp",
        "metadata",
    ]
    assert answer["result"] == "two words"
    assert answer["model_used"] == "echo:v1"
    assert answer["latency_ms"] == 2.25
    assert answer["metadata"] == {
        "given": {"max_length": 5},
        "model_type": "echo",
        "usage": {"input_tokens": 2, "output_tokens": 2, "total_tokens": 4},
        "queue_ms": 0.5,
        "compute_ms": 1.5,
    }


async def test_timestamp_is_rfc_3339_in_utc_with_milliseconds(client: httpx.AsyncClient):
    timestamp = (await client.post("/infer", json=TEXT)).json()["timestamp"]
    assert timestamp.endswith("Z") and len(timestamp) == len("2024-01-01T00:00:00.000Z")
    assert datetime.fromisoformat(timestamp).utcoffset() is not None


async def test_every_field_reaches_the_service(running: Running, client: httpx.AsyncClient):
    wanted = {"text": "a", "model": "echo", "version": "v1", "parameters": {"seed": 1}}
    await client.post("/infer", json=wanted)
    await client.post("/infer", json={"text": "b", "model": None, "version": None})
    await client.post("/infer", json={"inputs": {"x": [1]}})
    assert running.services.inference.requests == [
        InferenceRequest("a", "echo", "v1", {"seed": 1}),
        InferenceRequest("b", None, None, {}),
        InferenceRequest("", None, None, {}, {"x": [1]}),
    ]


async def test_batch_answers_in_order_and_each_entry_fails_alone(client: httpx.AsyncClient):
    entries = [
        {"text": "first"},
        {"text": 5},
        "not an object",
        {"text": "x", "model": "missing"},
        {"text": "last", "unknown": 1},
        {"text": " \n"},
        {"text": "end"},
    ]
    response = await client.post("/infer/batch", json={"requests": entries})
    assert response.status_code == 200
    BatchAnswer.model_validate_json(response.content, strict=True)
    answer = response.json()
    assert [entry["success"] for entry in answer["results"]] == [1, 0, 0, 0, 0, 0, 1]
    assert [answer["results"][0]["result"], answer["results"][6]["result"]] == ["first", "end"]
    assert [entry["error"]["code"] for entry in answer["results"] if not entry["success"]] == [
        "invalid_request",
        "invalid_request",
        "model_not_found",
        "invalid_request",
        "invalid_request",
    ]
    assert answer["summary"] == {"total": 7, "succeeded": 2, "failed": 5}
    assert answer["success"] is False
    assert "requests.1.text" in answer["results"][1]["error"]["message"]


async def test_batch_of_good_entries_is_a_success(client: httpx.AsyncClient):
    headers = {"X-Request-ID": "mine"}
    answer = (
        await client.post("/infer/batch", json={"requests": [TEXT, TEXT]}, headers=headers)
    ).json()
    assert answer["success"] is True and answer["request_id"] == "mine"
    assert [entry["request_id"] for entry in answer["results"]] == ["mine-0", "mine-1"]


async def test_batch_of_only_bad_entries_asks_no_service(
    running: Running, client: httpx.AsyncClient
):
    answer = (await client.post("/infer/batch", json={"requests": [1]})).json()
    assert answer["summary"] == {"total": 1, "succeeded": 0, "failed": 1}
    assert running.services.inference.timeouts_ms == []


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("a", id="one"),
        pytest.param("Order.47:11_x-9", id="all-kinds"),
        pytest.param("x" * 128, id="longest"),
    ],
)
async def test_good_request_id_is_taken_over(client: httpx.AsyncClient, given: str):
    response = await client.post("/infer", json=TEXT, headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 129, id="too-long"),
        pytest.param("a b", id="blank"),
        pytest.param('a","level":"error', id="log-injection"),
        pytest.param("é".encode(), id="not-ascii"),
    ],
)
async def test_bad_request_id_is_replaced(client: httpx.AsyncClient, given: str | bytes):
    value = given if isinstance(given, bytes) else given.encode()
    response = await client.post("/infer", json=TEXT, headers=[(b"X-Request-ID", value)])
    uuid.UUID(response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_deadline_reaches_the_service(running: Running, client: httpx.AsyncClient):
    for given in ("1500.5", "2.5e3", "27907.39337830131"):
        await client.post("/infer", json=TEXT, headers={"X-Request-Timeout-Ms": given})
    await client.post("/infer", json=TEXT)
    asked = running.services.inference.timeouts_ms
    assert asked == [1500.5, 2500.0, 27907.39337830131, None]


@pytest.mark.parametrize(
    "given",
    ["0", "-1", "3600000.1", "9999999", "1e999", "1e", "soon", "", "inf", "nan", "٣", "0x10"],
)
async def test_bad_deadline_is_refused_by_name(client: httpx.AsyncClient, given: str):
    headers = [(b"X-Request-Timeout-Ms", given.encode())]
    response = await client.post("/infer", json=TEXT, headers=headers)
    assert response.status_code == 400
    assert "X-Request-Timeout-Ms" in response.json()["error"]["message"]


@pytest.mark.parametrize("path, body", [("/infer", TEXT), ("/infer/batch", {"requests": [TEXT]})])
async def test_priority_and_caller_reach_the_service(
    running: Running, client: httpx.AsyncClient, path: str, body: dict[str, Any]
):
    headers = {"X-Priority": "interactive", "X-Caller-Id": "shop-7"}
    await client.post(path, json=body, headers=headers)
    await client.post(path, json=body)
    assert running.services.inference.askers == [
        Asker("shop-7", Priority.INTERACTIVE),
        Asker("/127.0.0.1", Priority.NORMAL),
    ]


@pytest.mark.parametrize(
    "name, given",
    [
        ("X-Priority", "urgent"),
        ("X-Priority", "NORMAL"),
        ("X-Priority", ""),
        ("X-Caller-Id", ""),
        ("X-Caller-Id", "a b"),
        ("X-Caller-Id", "x" * 65),
        ("X-Caller-Id", "/127.0.0.1"),
    ],
)
@pytest.mark.parametrize("path, body", [("/infer", TEXT), ("/infer/batch", {"requests": [TEXT]})])
async def test_a_wrong_priority_or_caller_is_refused_by_name(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], name: str, given: str
):
    response = await client.post(path, json=body, headers={name: given})
    assert response.status_code == 422
    assert name in response.json()["error"]["message"]


async def test_a_priority_given_twice_is_refused(client: httpx.AsyncClient):
    headers = [("X-Priority", "batch"), ("X-Priority", "normal")]
    response = await client.post("/infer", json=TEXT, headers=headers)
    assert response.status_code == 422


async def test_one_log_line_per_request_without_the_text(client: httpx.AsyncClient):
    with capture_logs(processors=[merge_contextvars]) as lines:
        await client.post("/infer", json={"text": "secret"}, headers={"X-Request-ID": "r1"})
        await client.get("/nowhere/secret")
    first, second = [line for line in lines if line["event"] == "request"]
    duration_ms = first.pop("duration_ms")
    assert 0 < duration_ms < 10_000
    assert first == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "route": "/infer",
        "status": 200,
        "model_used": "echo:v1",
        "request_id": "r1",
    }
    assert second["route"] == "unmatched" and second["status"] == 404
    assert "secret" not in repr(lines)


def _services(
    ready: bool = True,
    started: bool = True,
    stopping: bool = False,
    versions: dict[str, dict[str, str]] | None = None,
) -> FakeServices:
    states = versions or {"a:v1": {"state": "ready"}, "b:v1": {"state": "ready"}}
    troubles = tuple(key for key, version in states.items() if version["state"] != "ready")
    can_serve = len(troubles) < len(states) and not stopping
    readiness = Readiness(ready, started, stopping, states, can_serve, troubles)
    return FakeServices(models=FixedModels(readiness))


BROKEN = {"state": "failed", "reason": "the file is truncated"}
LOADING = {"state": "loading"}


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        pytest.param({}, 200, "healthy", id="all-ready"),
        pytest.param(
            {"versions": {"a:v1": {"state": "ready"}, "b:v1": BROKEN}}, 200, "degraded", id="one"
        ),
        pytest.param({"ready": False, "versions": {"a:v1": BROKEN}}, 503, "degraded", id="none"),
        pytest.param(
            {"ready": False, "started": False, "versions": {"a:v1": LOADING}},
            503,
            "starting",
            id="starting",
        ),
        pytest.param({"ready": False, "stopping": True}, 503, "stopping", id="stopping"),
    ],
)
async def test_health_tells_the_state(changes: dict[str, Any], status: int, word: str):
    async with serving(_services(**changes)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            response = await client.get("/health")
    assert response.status_code == status
    HealthAnswer.model_validate_json(response.content)
    assert response.json()["status"] == word


@pytest.mark.parametrize(
    ("path", "changes", "reasons"),
    [
        pytest.param("/health/live", {"ready": False, "started": False}, [], id="live"),
        pytest.param("/health/ready", {}, [], id="ready"),
        pytest.param(
            "/health/ready",
            {"ready": False, "versions": {"a:v1": BROKEN, "b:v1": {"state": "ready"}}},
            ["a:v1 is failed: the file is truncated"],
            id="not-ready",
        ),
        pytest.param(
            "/health/ready",
            {"ready": True, "stopping": True},
            ["the server is stopping"],
            id="stopping",
        ),
        pytest.param("/health/startup", {"ready": False}, [], id="started"),
        pytest.param(
            "/health/startup",
            {"ready": False, "started": False, "versions": {"a:v1": LOADING}},
            ["a:v1 is loading"],
            id="not-started",
        ),
    ],
)
async def test_probes_say_no_with_reasons(path: str, changes: dict[str, Any], reasons: list[str]):
    async with serving(_services(**changes)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            response = await client.get(path)
    ProbeAnswer.model_validate_json(response.content)
    assert response.json() == {"ok": not reasons, "reasons": reasons}
    assert response.status_code == (503 if reasons else 200)


async def test_models_are_listed(client: httpx.AsyncClient):
    response = await client.get("/models")
    ModelsAnswer.model_validate_json(response.content)
    assert response.json()["default_model"] == "summarizer"
    assert response.json()["models"][0]["name"] == "echo"


async def test_metrics_are_prometheus_text_unless_json_is_asked_for(client: httpx.AsyncClient):
    scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1"
    for accept in ("*/*", scraper, "application/json;q=0"):
        text = await client.get("/metrics", headers={"Accept": accept})
        assert text.content == b"requests_total 3.0\n"
        assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    asked = await client.get("/metrics", headers={"Accept": "application/json, text/plain, */*"})
    assert asked.json() == {"requests_total": 3}


async def test_index_lists_routes_that_exist(client: httpx.AsyncClient):
    answer = IndexAnswer.model_validate_json((await client.get("/")).content)
    assert "POST /infer" in answer.routes and "POST /infer/batch" in answer.routes
    for method, path in (route.split() for route in answer.routes):
        ids = {kind: f"{kind}_{0:032}" for kind in ("job", "batch")} | {"file": f"file-{0:032}"}
        named = {f"{kind}_id": each for kind, each in ids.items()} | {"key_name": "app"}
        path = path.format(model_name="echo", model_version="v1", **named)
        assert (await client.request(method, path)).status_code not in (404, 405), path


async def test_answers_are_not_stored_or_sniffed(client: httpx.AsyncClient):
    for response in (await client.post("/infer", json=TEXT), await client.get("/nowhere")):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
