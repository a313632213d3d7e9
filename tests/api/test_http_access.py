"""Deny by default: every route of the application, as strangers and callers with a key find it.

The list of routes is the application's own: one that is not in the table of api/access.py fails.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from structlog.testing import capture_logs

from app.api.access import METHODS, ROUTES, Access, AccessTable, Open
from app.api.application import build_app
from app.core.errors import StorageUnavailable
from app.core.types import Asker, Priority
from app.keys.gate import ANONYMOUS_NAME, Gate
from app.keys.key import KeyLimits, Scope
from app.keys.secret import new_secret
from tests.api.serving import (
    FakeServices,
    Keys,
    Running,
    gate_of,
    no_ledger,
    serving,
    settings,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = {"text": "two words"}


def _routes() -> list[tuple[str, str]]:
    app: Any = build_app(FakeServices(), settings())
    while not hasattr(app, "routes"):
        app = app._app
    return sorted(_methods_and_paths(app.routes))


def _methods_and_paths(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from _methods_and_paths(included.routes)
            continue
        assert isinstance(route, APIRoute), f"{type(route)} is not looked at here"
        yield from ((method, route.path) for method in route.methods or ())


def entry_of(method: str, path: str) -> Access | None:
    return ROUTES.get(f"{method} {path}") or ROUTES.get(f"ANY {path}")


ALL = _routes()
CLOSED = [route for route in ALL if entry_of(*route) is not Open.TO_ALL]
SCOPED = [route for route in CLOSED if isinstance(entry_of(*route), Scope)]


async def test_every_route_has_an_entry_and_every_entry_a_route():
    assert [route for route in ALL if entry_of(*route) is None] == []
    there = {f"{method} {path}" for method, path in ALL} | {f"ANY {path}" for _, path in ALL}
    assert set(ROUTES) - there == set()


async def test_only_probes_and_documentation_are_open():
    assert {path for _, path in ALL} - {path for _, path in CLOSED} == {
        "/",
        "/docs",
        "/docs/{name}",
        "/openapi.json",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/v2/health/live",
        "/v2/health/ready",
    }


@pytest.mark.parametrize(
    ("method", "path", "access"),
    [
        ("POST", "/infer", Scope.INFER),
        ("GET", "/infer", Open.TO_CALLERS),
        ("POST", "/infer/", Open.TO_CALLERS),
        ("HEAD", "/health", Open.TO_CALLERS),
        ("GET", "/health/../metrics", Open.TO_CALLERS),
        ("GET", "/docs/../metrics", Open.TO_CALLERS),
        ("GET", "/v2/models/a", Scope.MODELS_READ),
        ("POST", "/v2/models/a/infer", Scope.INFER),
        ("POST", "/v2/models/a/versions/b/infer", Scope.INFER),
        ("POST", "/v2/repository/models/a/load", Scope.MODELS_WRITE),
        ("PATCH", "/admin/keys/a", Scope.ADMIN),
        ("DELETE", "/admin/keys/a", Scope.ADMIN),
        ("GET", "/new", Open.TO_CALLERS),
    ],
)
async def test_a_request_finds_the_entry_of_its_route(method, path, access):
    assert AccessTable(ROUTES).of(method, path) is access


async def test_every_method_of_grpc_has_an_entry():
    servicer = pytest.importorskip("app.api.open_inference_grpc").Servicer
    methods = servicer(FakeServices(), settings(), "server", "0.1").handlers()
    assert set(methods) == set(METHODS)


@dataclass
class Guarded:
    """A server where keys exist, and what they may."""

    running: Running
    client: httpx.AsyncClient
    keys: Keys

    async def ask(self, method: str, path: str, secret: str = "", **more: Any) -> httpx.Response:
        path = path.replace("{model_name}", "echo").replace("{rest:path}", "nothing/here")
        path = path.replace("{model_version}", "v1").replace("{key_name}", "app")
        headers = {"X-API-Key": secret} if secret else {}
        return await self.client.request(method, path, headers=headers | more.pop("h", {}), **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[Guarded]:
    keys = Keys()
    keys.add("somebody", Scope.INFER)
    services = FakeServices(gate=gate_of(keys))
    async with serving(services, model_control="explicit") as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            yield Guarded(running, client, keys)


def code_of(response: httpx.Response) -> str:
    shown = response.json()
    if isinstance(error := shown["error"], dict):
        code: str = error["code"]
        return code
    assert list(shown) == ["error"], "the Open Inference Protocol knows no codes"
    return ""


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=lambda value: value)
async def test_a_closed_route_answers_nobody_without_a_good_key(guarded: Guarded, method, path):
    revoked = guarded.keys.add("gone", *Scope)
    guarded.keys.revoke(revoked)
    for secret in ("", "wrong", new_secret("usr"), revoked):
        response = await guarded.ask(method, path, secret)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            expected = {"/v1": "invalid_api_key", "/v2": ""}.get(path[:3], "unauthenticated")
            assert code_of(response) == expected
    good = await guarded.ask(method, path, guarded.keys.add("good", *Scope), json=TEXT)
    assert good.status_code != 401


@pytest.mark.parametrize(("method", "path"), SCOPED, ids=lambda value: value)
async def test_a_key_opens_the_routes_of_its_scopes_alone(guarded: Guarded, method, path):
    needed = entry_of(method, path)
    others = [scope for scope in Scope if scope is not needed]
    response = await guarded.ask(method, path, guarded.keys.add("others", *others))
    assert response.status_code == 403
    assert str(needed) in response.text and "others" in response.text


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ALL if route not in CLOSED], ids=lambda value: value
)
async def test_an_open_route_asks_for_no_key_and_looks_at_none(guarded: Guarded, method, path):
    path = path.replace("{name}", "init.js")
    assert (await guarded.ask(method, path)).status_code == 200
    assert (await guarded.ask(method, path, "wrong")).status_code == 200


async def test_a_key_is_taken_as_bearer_too(guarded: Guarded):
    secret = guarded.keys.add("app", Scope.INFER)
    for value in (f"Bearer {secret}", f"bearer  {secret}", f"BEARER {secret}"):
        response = await guarded.ask("POST", "/infer", h={"Authorization": value}, json=TEXT)
        assert response.status_code == 200
    response = await guarded.ask("POST", "/infer", h={"Authorization": f"Basic {secret}"})
    assert response.status_code == 401


async def test_two_keys_are_one_too_many(guarded: Guarded):
    first, second = guarded.keys.add("a", Scope.INFER), guarded.keys.add("b", Scope.INFER)
    headers = {"Authorization": f"Bearer {first}", "X-API-Key": second}
    assert (await guarded.ask("POST", "/infer", h=headers, json=TEXT)).status_code == 401
    headers["X-API-Key"] = first
    assert (await guarded.ask("POST", "/infer", h=headers, json=TEXT)).status_code == 200


@pytest.mark.parametrize(
    "key", ["'; DROP TABLE api_keys; --", "sk-usr-" + "'" * 49, "\xff\xfe", "x" * 20_000]
)
async def test_whatever_is_sent_as_a_key_is_401(guarded: Guarded, key: str):
    headers = [(b"X-API-Key", key.encode("latin-1"))]
    assert (await guarded.client.post("/infer", headers=headers, json=TEXT)).status_code == 401


async def test_a_key_is_in_no_line_of_the_log_and_its_name_is(guarded: Guarded):
    secret = guarded.keys.add("app", Scope.INFER)
    with capture_logs() as lines:
        await guarded.ask("POST", "/infer", secret, json=TEXT)
        await guarded.ask("GET", "/metrics", secret)
        await guarded.ask("POST", "/infer", f"{secret[:-1]}-")
    told = [line.get("key") for line in lines if line["event"] == "request"]
    assert told == ["app", "app", None]
    assert secret not in str(lines)


async def test_where_keys_cannot_be_read_nobody_is_let_in(guarded: Guarded):
    secret = guarded.keys.add("app", Scope.INFER)
    guarded.keys.error = StorageUnavailable()
    try:
        response = await guarded.ask("POST", "/infer", secret, json=TEXT)
    finally:
        guarded.keys.error = None
    assert (response.status_code, code_of(response)) == (503, "storage_unavailable")
    assert response.headers["retry-after"] == "1"


async def test_the_key_says_whom_shares_are_fair_by_and_how_urgent_he_may_be(guarded: Guarded):
    secret = guarded.keys.add("slow", Scope.INFER, max_priority=Priority.BATCH)
    askers = guarded.running.services.inference.askers
    askers.clear()
    headers = {"X-Priority": "interactive", "X-Caller-Id": "another"}
    await guarded.ask("POST", "/infer", secret, h=headers, json=TEXT)
    batch = Priority.BATCH
    assert askers == [Asker("key_slow", batch, "key_slow", None, batch)]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    body = {"inputs": [tensor], "parameters": {"priority": "interactive"}}
    await guarded.ask("POST", "/v2/models/{model_name}/infer", secret, json=body)
    assert askers[-1].priority is batch


async def test_orders_to_load_and_unload_are_in_the_log_of_acts(guarded: Guarded):
    secret = guarded.keys.add("operator", Scope.MODELS_WRITE)
    acts = guarded.running.services.keys.acts
    acts.clear()
    for order in ("load", "unload"):
        await guarded.ask("POST", f"/v2/repository/models/echo/{order}", secret, json={})
    assert [(act.actor, act.act, act.target) for act in acts] == [
        ("key:operator", "model.load", "echo"),
        ("key:operator", "model.unload", "echo"),
    ]


async def test_a_key_knows_its_models_alone(guarded: Guarded):
    secret = guarded.keys.add("one", *Scope, models=frozenset({"other"}))
    assert (await guarded.ask("GET", "/models", secret)).json()["models"] == []
    assert (await guarded.ask("GET", "/v1/models", secret)).json()["data"] == []
    index = await guarded.ask("POST", "/v2/repository/index", secret, json={})
    assert index.json() == []
    for method, path in SCOPED:
        if "{model_name}" in path:
            response = await guarded.ask(method, path, secret, json={})
            assert response.status_code in (400, 403), path
            assert response.status_code == 403 or "/infer" in path, path
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    response = await guarded.ask("POST", "/v1/chat/completions", secret, json=chat)
    assert response.status_code == 403 and "'echo'" in response.json()["error"]["message"]
    mine = guarded.keys.add("mine", *Scope, models=frozenset({"echo"}))
    shown = (await guarded.ask("GET", "/v1/models", mine)).json()["data"]
    assert [model["id"] for model in shown] == ["echo", "echo:v1"]


@pytest.mark.parametrize(
    ("has_keys", "allows", "is_private", "statuses"),
    [
        (False, False, True, (200, 401, 200)),
        (False, False, False, (401, 401, 401)),
        (False, True, False, (200, 401, 200)),
        (True, False, True, (401, 401, 401)),
        (True, True, False, (200, 401, 401)),
    ],
    ids=["before the first key", "reachable", "opened", "keys on loopback", "opened beside keys"],
)
async def test_who_is_let_in_without_a_key(has_keys, allows, is_private, statuses):
    """To infer, to administer, to unload models."""
    keys = Keys()
    if has_keys:
        keys.add("app", Scope.INFER)
    services = FakeServices(
        gate=Gate(keys, no_ledger(), allows_anonymous=allows, is_private=is_private)
    )
    async with serving(services) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            asked = (
                await client.post("/infer", json=TEXT, headers={"Authorization": "Bearer none"}),
                await client.get("/admin/keys"),
                await client.post("/v2/repository/models/echo/unload"),
            )
            bad = await client.post("/infer", json=TEXT, headers={"X-API-Key": new_secret("usr")})
    assert tuple(response.status_code for response in asked) == statuses
    assert bad.status_code == 401, "one that looks like a key must be one"
    assert ANONYMOUS_NAME not in asked[0].text


async def test_what_is_left_of_a_rate_is_in_the_headers(guarded: Guarded):
    limits = KeyLimits(requests_per_minute=2, tokens_per_minute=100)
    secret = guarded.keys.add("app", Scope.INFER, limits=limits)
    answer = await guarded.ask("POST", "/infer", secret, json=TEXT)
    assert answer.headers["ratelimit-policy"] == '"req";q=2;w=60, "tok";q=100;w=60'
    assert answer.headers["ratelimit"] == '"req";r=1;t=30, "tok";r=100;t=0'
    assert "x-ratelimit-limit-requests" not in answer.headers
    body = {"model": "missing", "input": "x"}
    answer = await guarded.ask("POST", "/v1/embeddings", secret, json=body)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-limit-tokens"] == "100"
    assert answer.headers["x-ratelimit-reset-tokens"] == "0.000s"

    refused = await guarded.ask("POST", "/v1/embeddings", secret, json=body)
    assert refused.status_code == 429 and code_of(refused) == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["retry-after"] == "30"
    assert 29_000 < int(refused.headers["retry-after-ms"]) <= 30_000
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await guarded.ask("GET", "/v1/nothing", secret)).status_code == 404, "only work counts"


async def test_a_request_that_ends_makes_room_however_it_ends(guarded: Guarded):
    limits = KeyLimits(concurrent_requests=1)
    secret = guarded.keys.add("app", Scope.INFER, limits=limits)
    for body in (TEXT, {"text": 5}, {**TEXT, "stream": True}, {**TEXT, "model": "missing"}):
        answer = await guarded.ask("POST", "/infer", secret, json=body)
        assert answer.status_code != 429
