"""GET /usage: what was used and what it cost, of the caller's own key, or of all."""

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import caller_of, services_of
from app.api.documented_admin import documented_usage
from app.api.envelope import JsonResponse
from app.api.metrics import wants
from app.api.plain_route import PlainRoute
from app.core.errors import Forbidden, InvalidRequest
from app.keys.gate import Caller
from app.keys.key import Scope
from app.keys.quotas import day_of
from app.keys.usage_shown import groups_of, period_of, usage_csv, usage_row
from app.schemas.admin import UsageShown

router = APIRouter(tags=["usage"], route_class=PlainRoute)


@router.get("/usage", **documented_usage(UsageShown))
async def usage(request: Request) -> Response:
    """What was used in a period, up to this moment: of your own key; with the scope `admin` of all
    keys, or of the one that `key` names.

    Answers CSV with `format=csv` or `Accept: text/csv`.
    """
    asked = _asked(request)
    period = period_of(asked.get("from"), asked.get("to"), day_of(time.time()))
    by = groups_of(asked.get("group_by"))
    is_csv = _is_csv(request, asked.get("format"))
    services = services_of(request)
    key_id = await _whose(request, caller_of(request), asked.get("key"))
    rows = await services.usage.totals(period, by, key_id)
    if is_csv:
        return Response(usage_csv(rows, by), media_type="text/csv; charset=utf-8")
    shown = {"from": period.first.isoformat(), "to": period.last.isoformat(), "group_by": by}
    return JsonResponse({**shown, "usage": [usage_row(row) for row in rows]})


async def _whose(request: Request, caller: Caller, named: str | None) -> str | None:
    """The id of a key; None: of all. Raises Forbidden, KeyNotFound."""
    is_own = named is not None and named in (caller.name, caller.key_id)
    if Scope.ADMIN in caller.scopes and not is_own:
        return None if named is None else (await services_of(request).keys.get(named)).id
    if named is None or is_own:
        return caller.key_id
    raise Forbidden("another key's usage needs an API key with the scope 'admin'")


def _asked(request: Request) -> dict[str, Any]:
    given = request.query_params.multi_items()
    for name, _ in given:
        if name not in ("from", "to", "group_by", "key", "format"):
            raise InvalidRequest(f"{name[:40]} is unknown; send from, to, group_by, key or format")
    if len(dict(given)) < len(given):
        raise InvalidRequest("a parameter is given twice; send each once")
    return dict(given)


def _is_csv(request: Request, chosen: str | None) -> bool:
    if chosen not in (None, "json", "csv"):
        raise InvalidRequest(f"format is {str(chosen)[:40]!r}; send json or csv")
    return chosen == "csv" if chosen else wants("text/csv", request.headers.get("accept", ""))
