"""Keys over HTTP, on a real database: what is made works, what is revoked does not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.keys.audit import Actor
from app.keys.gate import Gate
from app.keys.key import Scope, Terms
from app.keys.keyring import Keyring
from app.keys.service import KeyService
from app.schemas.admin import AuditShown, KeyMade, KeyShown, KeysShown, UsageShown
from tests.api.serving import FakeServices, no_ledger, serving

TEXT = {"text": "two words"}


@dataclass
class Admin:
    """Asks as an administrator."""

    client: httpx.AsyncClient
    headers: dict[str, str]
    services: FakeServices

    async def ask(self, method: str, path: str, **more) -> httpx.Response:
        return await self.client.request(method, path, headers=self.headers, **more)

    async def infer(self, secret: str) -> int:
        answer = await self.client.post("/infer", json=TEXT, headers={"X-API-Key": secret})
        return answer.status_code

    async def models(self, secret: str) -> list[Any]:
        answer = await self.client.get("/models", headers={"X-API-Key": secret})
        return list(answer.json()["models"])


@pytest_asyncio.fixture
async def admin(database) -> AsyncIterator[Admin]:
    keyring = Keyring(database, 0)
    keys = KeyService(database, keyring)
    _, secret = await keys.create(Actor("cli:me"), Terms("boss", frozenset({Scope.ADMIN})))
    gate = Gate(keyring, no_ledger(), allows_anonymous=False, is_private=True)
    services = FakeServices(gate=gate, keys=keys)
    async with serving(services) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            yield Admin(client, {"X-API-Key": secret}, services)


async def test_the_life_of_a_key(admin: Admin):
    body = {
        "name": "shop",
        "scopes": ["infer"],
        "models": ["echo"],
        "expires_at": "2126-01-01T00:00:00Z",
        "limits": {"requests_per_minute": 600, "monthly_budget": 12.5},
    }
    made = await admin.ask("POST", "/admin/keys", json=body)
    assert made.status_code == 201
    KeyMade.model_validate_json(made.content, strict=True)
    shown, secret = made.json(), made.json()["secret"]
    assert shown["limits"] == body["limits"] and shown["expires_at"] == body["expires_at"]
    assert await admin.infer(secret) == 200

    rotated = (await admin.ask("POST", "/admin/keys/shop/rotate")).json()
    assert await admin.infer(secret) == 401, "at once"
    assert await admin.infer(rotated["secret"]) == 200
    grace = {"grace_s": 60}
    again = (await admin.ask("POST", "/admin/keys/shop/rotate", json=grace)).json()
    assert await admin.infer(rotated["secret"]) == await admin.infer(again["secret"]) == 200

    gone = await admin.ask("DELETE", f"/admin/keys/{shown['id']}")
    KeyShown.model_validate_json(gone.content, strict=True)
    assert gone.json()["state"] == "revoked"
    assert await admin.infer(rotated["secret"]) == await admin.infer(again["secret"]) == 401


async def test_a_key_is_changed_field_by_field_and_limits_are_taken_away(admin: Admin):
    body = {"name": "shop", "limits": {"requests_per_minute": 600, "daily_tokens": 7}}
    made = (await admin.ask("POST", "/admin/keys", json=body)).json()
    assert await admin.infer(made["secret"]) == 200
    change = {
        "name": "store",
        "models": ["other"],
        "max_priority": "batch",
        "expires_at": "2126-01-01T00:00:00Z",
        "limits": {"requests_per_minute": None, "monthly_budget": 12.5},
    }
    answer = await admin.ask("PATCH", "/admin/keys/shop", json=change)
    assert answer.status_code == 200
    KeyShown.model_validate_json(answer.content, strict=True)
    expected = {**made, **change, "limits": {"daily_tokens": 7, "monthly_budget": 12.5}}
    del expected["secret"]
    assert answer.json() == expected
    assert await admin.models(made["secret"]) == [], "at once"
    act, _, _ = (await admin.ask("GET", "/admin/audit")).json()["acts"]
    assert act["act"] == "key.update" and act["target"] == "shop"
    assert act["details"]["changed"]["limits.requests_per_minute"] == {"was": 600, "is": None}

    opened = {"models": None, "expires_at": None, "limits": {"daily_tokens": None}}
    answer = await admin.ask("PATCH", f"/admin/keys/{made['id']}", json=opened)
    left = {"models": None, "expires_at": None, "limits": {"monthly_budget": 12.5}}
    assert answer.json() == {**expected, **left}
    assert [each["name"] for each in await admin.models(made["secret"])] == ["echo"]
    await admin.ask("PATCH", "/admin/keys/store", json={"scopes": ["metrics"]})
    assert await admin.infer(made["secret"]) == 403


async def test_a_rate_is_another_for_the_next_request(admin: Admin):
    body = {"name": "shop", "limits": {"requests_per_minute": 1}}
    secret = (await admin.ask("POST", "/admin/keys", json=body)).json()["secret"]
    assert [await admin.infer(secret) for _ in range(2)] == [200, 429]
    await admin.ask("PATCH", "/admin/keys/shop", json={"limits": {"requests_per_minute": 3}})
    assert [await admin.infer(secret) for _ in range(3)] == [200, 200, 429]
    await admin.ask("PATCH", "/admin/keys/shop", json={"limits": {"requests_per_minute": None}})
    assert await admin.infer(secret) == 200


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "nothing is to be changed"),
        ({"limits": {}}, 422, "nothing is to be changed"),
        ({"limits": None}, 422, "limits must be an object, not null"),
        ({"id": "key_1"}, 422, "id is unknown"),
        ({"name": None}, 422, "name must be a string, not null"),
        ({"name": ""}, 422, "name must have 1 characters or more"),
        ({"name": "a b"}, 422, "name is 'a b'"),
        ({"name": "boss"}, 409, "'boss'"),
        ({"scopes": None}, 422, "scopes must be a list, not null"),
        ({"scopes": []}, 422, "scopes is empty"),
        ({"scopes": ["root"]}, 422, "'root' is unknown"),
        ({"models": []}, 422, "models must name 1 to 256"),
        ({"max_priority": None}, 422, "max_priority must be 'interactive', 'normal' or 'batch'"),
        ({"expires_at": "2027-01-01"}, 422, "time zone"),
        ({"expires_at": "1999-01-01T00:00:00Z"}, 422, "in the past"),
        ({"limits": {"daily_tokens": 0}}, 422, "limits.daily_tokens must be at least 1, not 0"),
        (
            {"limits": {"daily_tokens": 10**16}},
            422,
            f"limits.daily_tokens must be at most {10**15}",
        ),
        ({"limits": {"monthly_budget": 0}}, 422, "limits.monthly_budget must be above 0"),
        ({"limits": {"monthly_budget": 1e7}}, 422, "limits.monthly_budget must be at most 1000000"),
        ({"limits": {"hourly": 1}}, 422, "limits.hourly is unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_wrong_changes_are_refused_by_the_name_of_the_field(
    admin: Admin, body, status, named
):
    made = (await admin.ask("POST", "/admin/keys", json={"name": "shop"})).json()
    answer = await admin.ask("PATCH", "/admin/keys/shop", json=body)
    assert answer.status_code == status and named in answer.json()["error"]["message"]
    shown = await admin.ask("GET", "/admin/keys/shop")
    assert {**shown.json(), "secret": made["secret"]} == made


async def test_lists_show_no_secret(admin: Admin):
    made = (await admin.ask("POST", "/admin/keys", json={"name": "shop"})).json()
    listed = await admin.ask("GET", "/admin/keys")
    KeysShown.model_validate_json(listed.content, strict=True)
    assert [key["name"] for key in listed.json()["keys"]] == ["boss", "shop"]
    one = await admin.ask("GET", "/admin/keys/shop")
    assert one.json() == listed.json()["keys"][1]
    assert made["secret"][7:] not in listed.text + one.text


async def test_the_log_of_acts_has_who_and_in_which_request(admin: Admin):
    with capture_logs() as lines:
        made = await admin.ask("POST", "/admin/keys", json={"name": "shop"})
    (told,) = [line for line in lines if line["event"] == "audit"]
    assert (told["actor"], told["act"], told["target"]) == ("key:boss", "key.create", "shop")
    answer = await admin.ask("GET", "/admin/audit?limit=1")
    AuditShown.model_validate_json(answer.content, strict=True)
    (act,) = answer.json()["acts"]
    assert act["actor"] == "key:boss" and act["request_id"] == made.headers["x-request-id"]
    (first,) = (await admin.ask("GET", f"/admin/audit?before={act['id']}")).json()["acts"]
    assert (first["actor"], first["target"]) == ("cli:me", "boss")


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "name is missing"),
        ({"name": "a b"}, 422, "name is 'a b'"),
        ({"name": "boss"}, 409, "'boss'"),
        ({"name": "x", "scopes": ["root"]}, 422, "'root' is unknown"),
        ({"name": "x", "scopes": []}, 422, "scopes is empty"),
        ({"name": "x", "models": ["a/b"]}, 422, "'a/b'"),
        ({"name": "x", "expires_at": "soon"}, 422, "expires_at is 'soon'"),
        ({"name": "x", "expires_at": "2027-01-01"}, 422, "time zone"),
        ({"name": "x", "expires_at": "1999-01-01T00:00:00Z"}, 422, "in the past"),
        ({"name": "x", "limits": {"daily_tokens": 0}}, 422, "limits.daily_tokens must be at least"),
        ({"name": "x", "limits": {"daily_tokens": 10**16}}, 422, "limits.daily_tokens"),
        ({"name": "x", "limits": {"hourly": 1}}, 422, "limits.hourly is unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_wrong_bodies_are_refused_by_the_name_of_the_field(admin: Admin, body, status, named):
    answer = await admin.ask("POST", "/admin/keys", json=body)
    assert answer.status_code == status and named in answer.json()["error"]["message"]


async def test_what_is_not_there_is_404_and_wrong_pages_are_422(admin: Admin):
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/rotate")):
        body = {"json": {"name": "x"}} if method == "PATCH" else {}
        answer = await admin.ask(method, f"/admin/keys/nobody{path}", **body)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "key_not_found"
    for query in ("limit=0", "limit=1001", "limit=x", "before=-1", "limit=1&limit=2"):
        assert (await admin.ask("GET", f"/admin/audit?{query}")).status_code == 422


@dataclass
class Ledger:
    """What is asked of it."""

    asked: list[tuple[Any, ...]]
    rows: list[dict[str, Any]]

    async def totals(self, period, by, key_id=None):
        self.asked.append((str(period.first), str(period.last), by, key_id))
        return self.rows


SUMS = {"requests": 2, "items": 3, "failures": 0, "cached_items": 1, "input_tokens": 12}
ROW = {**SUMS, "output_tokens": 4, "compute_ms": 1.23456, "cost_nanos": 1_500_000_000}


async def test_usage_is_ones_own_and_an_administrators_that_of_all(admin: Admin):
    ledger = Ledger([], [{"key": "", "day": date(2027, 1, 31), **ROW}])
    admin.services.usage = ledger
    made = (await admin.ask("POST", "/admin/keys", json={"name": "shop"})).json()
    own = {"X-API-Key": made["secret"]}
    path = "/usage?from=2027-01-01&to=2027-01-31&group_by=key,day"
    mine = await admin.client.get(path, headers=own)
    UsageShown.model_validate_json(mine.content)
    assert mine.json()["usage"] == [
        {**SUMS, "output_tokens": 4, "key": "anonymous", "day": "2027-01-31"}
        | {"compute_ms": 1.235, "cost": 1.5}
    ]
    await admin.ask("GET", path)
    await admin.ask("GET", f"{path}&key=shop")
    await admin.client.get(f"{path}&key=shop", headers=own)
    days = ("2027-01-01", "2027-01-31", ("key", "day"))
    assert ledger.asked == [(*days, who) for who in (made["id"], None, made["id"], made["id"])]
    others = await admin.client.get(f"{path}&key=boss", headers=own)
    assert others.status_code == 403
    assert (await admin.ask("GET", f"{path}&key=nobody")).status_code == 404


async def test_usage_as_csv_has_no_formulas(admin: Admin):
    admin.services.usage = Ledger([], [{"model": "=cmd()", **ROW}])
    for query, accept in (("?format=csv", "*/*"), ("", "text/csv")):
        headers = {**admin.headers, "Accept": accept}
        answer = await admin.client.get(f"/usage{query}", headers=headers)
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        head, row = answer.text.splitlines()
        assert head.startswith("model,requests,items") and head.endswith("compute_ms,cost")
        assert row == "'=cmd(),2,3,0,1,12,4,1.235,1.5"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("from=yesterday", "from is 'yesterday'"),
        ("from=20270101", "from is"),
        ("from=2027-02-01&to=2027-01-01", "after to"),
        ("group_by=hour", "group_by is 'hour'"),
        ("group_by=key,key", "group_by"),
        ("format=xml", "format is 'xml'"),
        ("by=key", "by is unknown"),
        ("to=2027-01-01&to=2027-01-02", "twice"),
    ],
)
async def test_wrong_questions_about_usage_are_refused(admin: Admin, query, named):
    answer = await admin.ask("GET", f"/usage?{query}")
    assert answer.status_code == 422 and named in answer.json()["error"]["message"]
