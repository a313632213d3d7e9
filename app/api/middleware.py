"""Around every request: its id, its headers, its line in the log, and the last catch.

Pure ASGI: a wrapper costs microseconds this way, and the disconnect still reaches the routes.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dialects import failure_bytes

log = structlog.get_logger("app.api")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_HOST_NAME = re.compile(r"\[[^\]]*\]|[^:]*")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_MISDIRECTED = "The request names a host that this server does not answer for (ALLOWED_HOSTS)."
_PROBES = ("/health", "/v2/health")
_NO_STORE = (b"cache-control", b"no-store")


def request_id_from(headers: Mapping[str, str]) -> str:
    """The caller's id where it is one we can log and send back; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


class RequestContext:
    """Names the request, logs it once, and answers what nobody below has answered.

    Below it `scope["request_id"]` is the id and `scope["log_fields"]` takes further fields.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: frozenset[str] | None = None) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = scope["request_id"] = request_id_from(headers)
        scope["log_fields"] = {}
        # a pipelined request starts inside the context of the one before it
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, scope["path"], (b"x-request-id", request_id.encode("ascii")))
        try:
            if not self._is_ours(scope["path"], headers.get("host", "")):
                await answer.fail(421, "misdirected", _MISDIRECTED, request_id)
                return
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:  # only a stop whose grace is over cancels requests
            await answer.fail(503, "unavailable", "The server is stopping.", request_id)
        except Exception as error:
            log.error("request_failed", exc_info=error)
            await answer.fail(500, "internal", "The server failed.", request_id)
        finally:
            duration_ms = 1000 * (time.perf_counter() - started)
            _log_request(scope, answer.status, duration_ms)

    def _is_ours(self, path: str, host: str) -> bool:
        """A page of a stranger may reach us by a name of its own (DNS rebinding).

        Probes come by address or by a name of the container engine, and tell nothing.
        """
        if self._allowed_hosts is None or path.startswith(_PROBES):
            return True
        return host_name(host) in self._allowed_hosts


def host_name(host: str) -> str:
    """Without the port: `a.example:80`, `[::1]:80`."""
    found = _HOST_NAME.match(host)
    return found[0].lower() if found else ""


class _Answer:
    """The way out: adds the headers that every answer has, and remembers the status."""

    def __init__(self, send: Send, path: str, request_id: tuple[bytes, bytes]) -> None:
        self._send = send
        self._path = path
        self._headers = (request_id, *_SECURITY_HEADERS)
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self._headers]
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            message = {**message, "headers": headers}
        await self._send(message)

    async def fail(self, status: int, code: str, message: str, request_id: str) -> None:
        """Answer with an error unless an answer has begun."""
        if self.status is not None:
            return
        body = failure_bytes(self._path, status, code, message, request_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _log_request(scope: Scope, status: int | None, duration_ms: float) -> None:
    route = _route_template(scope)
    is_routine = status == 200 and route.startswith(_PROBES)
    write = log.debug if is_routine else log.info  # probes come several times per second
    write(
        "request",
        method=scope["method"],
        route=route,
        status=status,
        duration_ms=round(duration_ms, 3),
        **scope["log_fields"],
    )


def _route_template(scope: Scope) -> str:
    """`/infer`, never the path as it was sent: that is the caller's text."""
    route: Any = scope.get("route")
    return getattr(route, "path", "unmatched")
