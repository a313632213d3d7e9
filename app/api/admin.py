"""/admin: keys, and what was done with them. Every route asks for the scope `admin`."""

import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.body import decode, read_body, read_json
from app.api.deps import actor_of, services_of
from app.api.documented_admin import documented_admin
from app.api.envelope import JsonResponse
from app.api.plain_route import PlainRoute
from app.core.errors import InvalidRequest
from app.core.price import NANOS
from app.keys.change import Change
from app.keys.key import (
    USUAL_SCOPES,
    KeyLimits,
    Terms,
    priority_of,
    scopes_of,
)
from app.keys.shown import instant, key_object
from app.schemas.admin import (
    AuditShown,
    KeyBody,
    KeyChangeBody,
    KeyMade,
    KeyShown,
    KeysShown,
    LimitsBody,
    RotateBody,
    parse_admin,
)

MOST_BODY_BYTES = 64 * 2**10
MOST_VALUES = 2000
USUAL_ACTS, MOST_ACTS = 100, 1000
BODIES = (KeyBody, KeyChangeBody, RotateBody)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)

router = APIRouter(tags=["admin"], route_class=PlainRoute)


@router.post("/admin/keys", status_code=201, **documented_admin(KeyMade, body=KeyBody, made=True))
async def create_key(request: Request) -> Response:
    """Make a key. Its secret is in this answer and nowhere else."""
    value = await read_json(request, max_bytes=MOST_BODY_BYTES, max_values=MOST_VALUES)
    terms = _terms(parse_admin(KeyBody, value))
    key, secret = await services_of(request).keys.create(actor_of(request), terms)
    return JsonResponse({**key_object(key, time.time()), "secret": secret}, 201)


@router.get("/admin/keys", **documented_admin(KeysShown))
async def list_keys(request: Request) -> Response:
    """All keys, also those that are revoked or expired."""
    now = time.time()
    keys = await services_of(request).keys.list()
    return JsonResponse({"keys": [key_object(key, now) for key in keys]})


@router.get("/admin/keys/{key_name}", **documented_admin(KeyShown, failures=(404,)))
async def show_key(request: Request) -> Response:
    """One of them, by its name or id."""
    key = await services_of(request).keys.get(request.path_params["key_name"])
    return JsonResponse(key_object(key, time.time()))


@router.patch(
    "/admin/keys/{key_name}",
    **documented_admin(KeyShown, body=KeyChangeBody, failures=(404, 409)),
)
async def change_key(request: Request) -> Response:
    """Change a key: here at once, on other servers of the database within a second."""
    value = await read_json(request, max_bytes=MOST_BODY_BYTES, max_values=MOST_VALUES)
    change = _change(parse_admin(KeyChangeBody, value))
    named = request.path_params["key_name"]
    key = await services_of(request).keys.update(actor_of(request), named, change)
    return JsonResponse(key_object(key, time.time()))


@router.delete("/admin/keys/{key_name}", **documented_admin(KeyShown, failures=(404,)))
async def revoke_key(request: Request) -> Response:
    """End a key for good: here at once, on other servers of the database within a second."""
    named = request.path_params["key_name"]
    key = await services_of(request).keys.revoke(actor_of(request), named)
    return JsonResponse(key_object(key, time.time()))


@router.post(
    "/admin/keys/{key_name}/rotate",
    **documented_admin(KeyMade, body=RotateBody, failures=(404,), may_be_empty=True),
)
async def rotate_key(request: Request) -> Response:
    """Give a key a new secret; the old one ends at once, or after a grace time."""
    sent = await read_body(request, MOST_BODY_BYTES)
    body = parse_admin(RotateBody, decode(sent, MOST_VALUES) if sent else {})
    named = request.path_params["key_name"]
    keys = services_of(request).keys
    key, secret = await keys.rotate(actor_of(request), named, body.grace_s)
    return JsonResponse({**key_object(key, time.time()), "secret": secret})


@router.get("/admin/audit", **documented_admin(AuditShown, pages=True, failures=(422,)))
async def audit(request: Request) -> Response:
    """What administrators did, the latest first; `before` an id, at most `limit` acts."""
    limit = _number(request, "limit", USUAL_ACTS, MOST_ACTS)
    before = _number(request, "before", 0, 10**18)
    acts = await services_of(request).keys.audited(limit or USUAL_ACTS, before or None)
    shown = [
        {
            "id": number,
            "at": instant(act.at),
            "actor": act.actor,
            "act": act.act,
            "target": act.target,
            "details": act.details,
            "request_id": act.request_id,
        }
        for number, act in acts
    ]
    return JsonResponse({"acts": shown})


def _number(request: Request, name: str, usual: int, most: int) -> int:
    given = request.query_params.getlist(name)
    if not given:
        return usual
    if len(given) > 1 or not _NUMBER.fullmatch(given[0]) or not 1 <= int(given[0]) <= most:
        raise InvalidRequest(f"{name} must be one whole number, 1 to {most}")
    return int(given[0])


def _terms(body: KeyBody) -> Terms:
    """Raises InvalidRequest."""
    return Terms(
        name=body.name,
        scopes=USUAL_SCOPES if body.scopes is None else scopes_of(body.scopes),
        models=None if body.models is None else frozenset(body.models),
        limits=KeyLimits(**_limits(body.limits)),
        max_priority=priority_of(body.max_priority),
        expires_at=None if body.expires_at is None else _seconds(body.expires_at),
    )


def _change(body: KeyChangeBody) -> Change:
    """Raises InvalidRequest."""
    read: Mapping[str, Any] = {
        "name": body.name,
        "scopes": scopes_of(body.scopes),
        "models": None if body.models is None else frozenset(body.models),
        "max_priority": priority_of(body.max_priority),
        "expires_at": None if body.expires_at is None else _seconds(body.expires_at),
    }
    given = {name: value for name, value in read.items() if name in body.model_fields_set}
    return Change(given, _limits(body.limits))


def _limits(body: LimitsBody) -> dict[str, Any]:
    """Those that were sent, by the names of KeyLimits."""
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    if "monthly_budget" in given:
        budget = given.pop("monthly_budget")
        given["monthly_budget_nanos"] = None if budget is None else max(1, round(budget * NANOS))
    return given


def _seconds(text: str) -> float:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        given = None
    if given is None or given.tzinfo is None:
        raise InvalidRequest(
            f"expires_at is {text[:40]!r}; send RFC 3339 with a time zone, as 2027-01-31T00:00:00Z"
        )
    return given.timestamp()
