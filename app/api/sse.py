"""Server-sent events: an answer that is sent while it is made.

    events = opened(request, source, patience_s)   the first, or the error in its place
    sse_response(request, encode(events))          the others, with a comment while nothing comes

The next event is asked for when the one before it has been written, and writing waits while the
connection is full: who reads slowly is not sent more, and what is made meanwhile waits in one piece
at its source. A client that leaves ends the source.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.deps import note
from app.api.disconnect import run_unless_gone
from app.core.errors import Cancelled

PING_S = 15.0
PING = b": ping\n\n"
PARTING_S = 1.0
_END = {"type": "http.response.body", "body": b"", "more_body": False}
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would collect events
}
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")


def event(data: Any, name: str = "") -> bytes:
    """One event with JSON in it, which has no line breaks."""
    return (b"event: %s\n" % name.encode() if name else b"") + b"data: %s\n\n" % _encode(data)


async def opened(
    request: Request, source: AsyncGenerator[T, None], patience_s: float = PING_S
) -> AsyncGenerator[T, None]:
    """The source, once its first item is there or has been waited for `patience_s`.

    An error until then is raised here, where it can still have its own status; later it is raised
    by what is returned. Raises Cancelled when the client leaves; the source is closed then.
    """
    first = asyncio.create_task(_next(source))
    try:
        await run_unless_gone(request, asyncio.wait([first], timeout=patience_s))
        if first.done():
            first.result()
    except BaseException:
        await _close(first, source)
        raise
    return _rest(first, source)


async def _rest(
    first: asyncio.Task[T | None], source: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    try:
        item = await first
        while item is not None:
            yield item
            item = await anext(source, None)
    finally:
        await _close(first, source)


async def _close(task: asyncio.Task[Any], source: AsyncGenerator[Any, None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    await source.aclose()


async def _next(source: AsyncIterator[T]) -> T | None:
    """None at the end. A coroutine, as tasks want it."""
    return await anext(source, None)


def sse_response(
    request: Request,
    events: AsyncGenerator[bytes, None],
    *,
    ping_s: float = PING_S,
    headers: Mapping[str, str] | None = None,
    parting: bytes = b"",
) -> Response:
    """Sends each of `events` as it comes, which `event` has encoded.

    `events` is closed at the end, also when the client leaves. What it raises ends the connection
    in the middle of the answer; errors to be told are events. parting: what is told when the
    server stops and its grace is over.
    """
    return EventStream(request, events, ping_s, headers or {}, parting)


class EventStream(Response):
    """A response that is written as `sse_response` says."""

    def __init__(
        self,
        request: Request,
        events: AsyncGenerator[bytes, None],
        ping_s: float,
        headers: Mapping[str, str],
        parting: bytes,
    ) -> None:
        super().__init__(headers={**_HEADERS, **headers})
        del self.headers["content-length"]
        self._request = request
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._ping_s = ping_s
        self._last_s = self._loop.time()
        self._is_sending = False
        self._parting = parting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await run_unless_gone(self._request, self._write(send))
            except Cancelled as gone:
                note(self._request, error=gone.code)  # the status was told before
            except asyncio.CancelledError:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PARTING_S):
                        await send(_body(self._parting))
                        await send(_END)
                raise

    async def _write(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        pinging = asyncio.create_task(self._ping(send))
        try:
            async for data in self._events:
                self._is_sending = True
                await send(_body(data))
                self._is_sending = False
                self._last_s = self._loop.time()
        finally:
            pinging.cancel()
        await send(_END)

    async def _ping(self, send: Send) -> None:
        """Beside the events, so that none of them needs a timer: there are many."""
        self._last_s = self._loop.time()
        while True:
            await asyncio.sleep(self._last_s + self._ping_s - self._loop.time())
            is_idle = self._loop.time() >= self._last_s + self._ping_s
            if self._is_sending or is_idle:
                self._last_s = self._loop.time()
            if is_idle and not self._is_sending:
                await send(_body(PING))


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}
