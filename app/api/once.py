"""Idempotency-Key: a request that comes again with its key has no effect a second time."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import InvalidHeader, services_of
from app.core.types import Asker
from app.jobs.status import OnceKey

KEY_HEADER = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_encode = msgspec.json.Encoder().encode  # MessagePack has no integers beyond 64 bits


def once_of(request: Request, route: str, asker: Asker, body: Any) -> OnceKey | None:
    """The caller's key, if any. Raises InvalidHeader."""
    given = request.headers.getlist(KEY_HEADER)
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise InvalidHeader(
            f"{KEY_HEADER} is {', '.join(given)[:100]!r}; send 1 to 255 printable characters "
            "without spaces, or leave it out."
        )
    digest = hashlib.sha256(_encode(body)).digest()
    return OnceKey(asker.caller, route, given[0], digest)


async def answered_once(
    request: Request, once: OnceKey, answer: Callable[[], Awaitable[Response]]
) -> Response:
    """The answer that was kept, or a new one, which is kept if it is a success."""
    kept = services_of(request).once
    before = await kept.begin(once)
    if before is not None:
        return Response(before, media_type="application/json", headers=REPLAYED)
    try:
        response = await answer()
    except BaseException:
        await kept.forget(once)
        raise
    if response.status_code == 200:
        await kept.keep(once, bytes(response.body))
    else:
        await kept.forget(once)
    return response
