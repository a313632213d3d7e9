"""Lists of files and batches: which part of one is asked for, and how it is shown."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from app.batches.status import Batch, Purpose, StoredFile
from app.batches.store import Page
from app.core.errors import InvalidRequest

_WHOLE = re.compile(r"[0-9]{1,6}", re.ASCII)
ORDERS = ("asc", "desc")
PURPOSES = tuple(purpose.value for purpose in Purpose)

Item = TypeVar("Item", StoredFile, Batch)


def page_of(request: Request, caller: str, ids: re.Pattern[str], *, usual: int, most: int) -> Page:
    """One more than is asked for, which tells whether there are more. Raises InvalidRequest."""
    given = request.query_params
    after, limit = given.get("after"), given.get("limit")
    if after is not None and not ids.fullmatch(after):
        raise InvalidRequest("after is not the id of one of them; send the last_id of a page")
    if limit is not None and not (_WHOLE.fullmatch(limit) and 1 <= int(limit) <= most):
        raise InvalidRequest(f"limit is {limit[:64]!r}; send a whole number from 1 to {most}")
    order = _one_of(request, "order", ORDERS)
    purpose = _one_of(request, "purpose", PURPOSES)
    return Page(caller, int(limit or usual) + 1, after, order == "asc", purpose)


def _one_of(request: Request, name: str, allowed: Sequence[str]) -> str | None:
    value = request.query_params.get(name)
    if value is not None and value not in allowed:
        raise InvalidRequest(f"{name} is {value[:64]!r}; send one of {', '.join(allowed)}")
    return value


def shown_page(
    found: Sequence[Item], page: Page, shown: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    items = found[: page.limit - 1]
    return {
        "object": "list",
        "data": [shown(item) for item in items],
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
        "has_more": len(found) == page.limit,
    }
