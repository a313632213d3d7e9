"""Another OpenAI-compatible server over a pool of connections. What it says is checked elsewhere.

Only what a call holds goes out: no header of a caller, no cookie, no proxy of the environment, and
the key only to the address that the catalog names, because redirects are not followed.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
import msgspec
import structlog

from app.core.errors import CannotLoad, InvariantBroken, ModelUnavailable, ServingError
from app.core.upstream import DONE, Call, UpstreamOptions
from app.runtimes.upstream_events import EventReader
from app.runtimes.upstream_refusals import (
    REFUSED_KEY,
    TRIED_AGAIN,
    KeyRefused,
    Unreachable,
    refusal_of,
)

log = structlog.get_logger()

CONNECT_S = 5.0
HEALTH_S = 5.0
END_S = 0.5  # between the last event of a stream and its end
KEEP_ALIVE_S = 4.0  # below uvicorn's 5, so that a connection is seldom closed as it is used
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
SHOWN_BYTES = 4096  # of a refusal
LOGGED_CHARS = 500


class Upstream:
    """`whole` and `events` for calls, `problem` for its health. Close it in the loop it served."""

    def __init__(self, files: Mapping[str, str], **options: Any) -> None:
        """Raises CannotLoad."""
        try:
            self.options = msgspec.convert(options, UpstreamOptions)
        except msgspec.ValidationError as error:
            raise CannotLoad(f"runtime_options: {error}") from None
        self._key = _key_of(self.options)
        self._client = httpx.AsyncClient(
            base_url=self.options.base_url.rstrip("/") + "/",
            headers=_headers(self._key),
            timeout=httpx.Timeout(None, connect=CONNECT_S),  # the deadline ends the rest
            limits=httpx.Limits(
                max_connections=self.options.max_concurrent + 1,  # health is asked beside them
                keepalive_expiry=KEEP_ALIVE_S,
            ),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def problem(self) -> str:
        """Why nothing can be asked now; empty where it serves. Has no address and no secret."""
        try:
            status = await self._health_status()
        except httpx.ConnectError:
            return "its server cannot be reached"
        except httpx.HTTPError as error:
            return f"its server breaks off ({_named(error)})"
        match status:
            case None:
                return f"its server does not answer within {HEALTH_S:g} s, twice in a row"
            case _ if 200 <= status < 300 or status == 429:  # it is busy, and alive
                return ""
            case 401 | 403:
                return REFUSED_KEY
            case _:
                return f"its server answers {status} to GET models; is base_url right?"

    async def _health_status(self) -> int | None:
        """None: it did not answer in time, not even when it was asked again."""
        for _ in range(2):
            try:
                async with asyncio.timeout(HEALTH_S):
                    response = await self._send("GET", "models")
            except (TimeoutError, httpx.TimeoutException):
                continue
            await response.aclose()
            return response.status_code
        return None

    async def whole(self, call: Call, left_s: float, request_id: str) -> bytes:
        """The answer. left_s: time in which it is of use; whoever calls must end it then.

        Raises ServingError for a refusal, or what is too large.
        """
        async with self._opened(call, left_s, request_id) as response:
            async with contextlib.aclosing(self._content(response)) as content:
                return b"".join([part async for part in content])

    async def events(
        self, call: Call, left_s: float, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        """The data of each event, `[DONE]` among them; as `whole` else."""
        reader = EventReader()
        async with self._opened(call, left_s, request_id) as response:
            async with contextlib.aclosing(self._content(response)) as content:
                async for part in content:
                    for event in reader.feed(part):
                        yield event
                        if event == DONE:
                            await _read_to_end(content)
                            return

    async def _content(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ModelUnavailable("the model's server sent compressed content, which is not taken")
        most, size = self.options.max_answer_bytes, 0
        try:
            async for part in response.aiter_raw():
                size += len(part)
                if size > most:
                    raise ModelUnavailable("the model's server sent more than an answer may have")
                yield part
        except httpx.HTTPError:
            raise ModelUnavailable("the model's server broke off; try again") from None

    @contextlib.asynccontextmanager
    async def _opened(
        self, call: Call, left_s: float, request_id: str
    ) -> AsyncIterator[httpx.Response]:
        """A success whose content has not been read; the connection is closed if it never is."""
        response = await self._success(call, left_s, request_id)
        try:
            yield response
        finally:
            await response.aclose()

    async def _success(self, call: Call, left_s: float, request_id: str) -> httpx.Response:
        """Asks again while nothing of an answer has come and time is left. Raises ServingError."""
        until = asyncio.get_running_loop().time() + left_s
        content = msgspec.json.encode({"model": self.options.model, **call.body})
        for attempt in range(self.options.max_retries + 1):
            wished_s = 0.0
            try:
                response = await self._send("POST", call.path, content)
            except httpx.HTTPError as failed:
                log.warning("upstream_unreachable", request_id=request_id, error=_named(failed))
                error: ServingError = Unreachable()
            else:
                if 200 <= response.status_code < 300:
                    return response
                wished_s = _retry_after_s(response)
                error = await self._refusal(response, request_id)
                if response.status_code not in TRIED_AGAIN:
                    raise error
            pause = pause_s(attempt, wished_s, random.random())
            is_last = attempt == self.options.max_retries
            if is_last or asyncio.get_running_loop().time() + pause >= until:
                raise error
            await asyncio.sleep(pause)
        raise InvariantBroken("attempts ran out without an outcome")

    async def _send(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        request = self._client.build_request(method, path, content=content)
        return await self._client.send(request, stream=True)

    async def _refusal(self, response: httpx.Response, request_id: str) -> ServingError:
        content = b""
        try:
            async for part in response.aiter_raw():
                content += part
                if len(content) >= SHOWN_BYTES:
                    break
        except httpx.HTTPError:
            content = b""
        finally:
            await response.aclose()
        error = refusal_of(response.status_code, content)
        said = "" if isinstance(error, KeyRefused) else self._without_key(content)
        log.warning(
            "upstream_refused", request_id=request_id, status=response.status_code, said=said
        )
        return error

    def _without_key(self, content: bytes) -> str:
        """For the log."""
        text = content.decode("utf-8", "replace")
        text = text.replace(self._key, "***") if self._key else text
        return text[:LOGGED_CHARS]


def pause_s(attempt: int, wished_s: float, luck: float) -> float:
    """Before the next attempt; the first is 0. wished_s: what the other server asked for.

    luck: 0 to 1, so that those who failed together do not come back together.
    """
    return max(wished_s, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt) * (0.5 + luck / 2))


async def _read_to_end(content: AsyncIterator[bytes]) -> None:
    """Else the connection could not be used again; what does not end is left."""
    with contextlib.suppress(TimeoutError, ModelUnavailable):
        async with asyncio.timeout(END_S):
            async for _ in content:
                pass


def _named(error: httpx.HTTPError) -> str:
    """Its text would name the address."""
    return type(error).__name__


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0


def _headers(key: str) -> dict[str, str]:
    sent = {
        "User-Agent": "ai-inference-backend",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
    }
    return {**sent, "Authorization": f"Bearer {key}"} if key else sent


def _key_of(options: UpstreamOptions) -> str:
    """Raises CannotLoad."""
    name = options.api_key_env
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise CannotLoad(f"api_key_env names {name}, which the server's environment does not have")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise CannotLoad(f"api_key_env names {name}, which holds what cannot be a key")
    return key
