"""In front of every route: who asks, and whether he may. Refused in the shape of the path.

Pure ASGI, and no wait where the key is known: it costs microseconds.
"""

import math
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.access import ROUTES, Access, AccessTable, Open
from app.api.dialects import failure_bytes
from app.api.errors import headers_of, shown_to_caller, status_of
from app.api.limit_headers import Headers, limit_headers, with_headers
from app.core.errors import RateLimited, ServingError
from app.keys.gate import Caller, Gate
from app.keys.limits import KeyMeter

AUTHORIZATION, API_KEY = "Authorization", "X-API-Key"
_AUTHORIZATION, _API_KEY = AUTHORIZATION.lower().encode(), API_KEY.lower().encode()
_BEARER = "bearer "


class Authentication:
    """Below it `scope["caller"]` is who asks, but on routes that are open to all."""

    def __init__(self, app: ASGIApp, gate: Gate, on_refused: Callable[[str], None]) -> None:
        self._app = app
        self._gate = gate
        self._on_refused = on_refused
        self._table = AccessTable(ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        access = self._table.of(scope["method"], scope["path"])
        if access is Open.TO_ALL:
            await self._app(scope, receive, send)
            return
        try:
            meter = await self._admitted(scope, access)
        except ServingError as refused:
            await self._refuse(scope, send, refused)
            return
        if meter is None:
            await self._app(scope, receive, send)
            return
        headers = limit_headers(scope["path"], meter, self._gate.limiter.now())
        try:
            await self._app(scope, receive, with_headers(send, headers))
        finally:
            meter.end()

    async def _admitted(self, scope: Scope, access: Access) -> KeyMeter | None:
        caller = await self._gate.identify(credentials_in(scope["headers"]))
        if caller.key is not None:
            scope["log_fields"]["key"] = caller.name
        scope["caller"] = caller
        if isinstance(access, Open):
            return None
        caller.check(access)
        return await self._gate.enter(caller, access)

    async def _refuse(self, scope: Scope, send: Send, refused: ServingError) -> None:
        error = shown_to_caller(refused)
        self._on_refused(error.code)
        status = status_of(error)
        request_id, retry_after_s = scope["request_id"], error.retry_after_s
        body = failure_bytes(
            scope["path"], status, error.code, str(error), request_id, retry_after_s
        )
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **headers_of(error),
        }
        if isinstance(error, RateLimited):  # sooner than in a whole second, for clients that look
            headers["retry-after-ms"] = str(math.ceil(1000 * (retry_after_s or 0)))
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        raw += self._left_of(scope)
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _left_of(self, scope: Scope) -> Headers:
        """Of the rates of a caller who was refused."""
        caller: Caller | None = scope.get("caller")
        meter = self._gate.limiter.meter_of(caller.key_id) if caller is not None else None
        now = self._gate.limiter.now()
        return [] if meter is None else limit_headers(scope["path"], meter, now)


def credentials_in(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """All of them: one too many is one that somebody else may have slipped in."""
    found = []
    for name, value in headers:
        if name == _AUTHORIZATION:
            found.append(bearer_of(value.decode("latin-1")))
        elif name == _API_KEY:
            found.append(value.decode("latin-1").strip())
    return found


def bearer_of(value: str) -> str:
    """Of an `Authorization`; of another kind than Bearer, the whole."""
    is_bearer = value[: len(_BEARER)].lower() == _BEARER
    return value[len(_BEARER) :].strip() if is_bearer else value
