"""uvicorn's HTTP protocol with the limits that it lacks: sizes, times and counts.

Twice per second one sweep of the server looks at every connection, so no request arms a timer of
its own. What breaks a limit is answered in the error shape of its path (dialects.py) where no other
answer is under way, and its connection is closed the gentle way: our side first, then the rest when
the client has read the answer, or after `LINGER_S`. Closing at once would let the kernel throw the
answer away.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.answer_transport import AnswerTransport
from app.api.kernel import bytes_in_kernel, is_closed_by_peer
from app.api.limits import (
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_URL_BYTES,
    HeldBody,
    Limits,
    Occupancy,
    Pace,
    Refused,
    client_of,
    header_too_large,
    malformed,
    refusal_bytes,
    too_slow,
    url_too_long,
)

log = structlog.get_logger("app.api")

LINGER_S = 2.0
MAX_LINGER_BYTES = 16 * 2**20


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration and our limits, which its protocols find here."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        protocol: "type[LimitedProtocol] | None" = None,
        **options: Any,
    ) -> None:
        super().__init__(app, http=protocol or LimitedProtocol, **options)
        self.limits = limits
        self.occupancy = Occupancy(limits)


class Reading(Enum):
    """Which part of a request is being received."""

    NOTHING = "nothing"
    HEADER = "header"
    BODY = "body"


@dataclass(slots=True)
class Unanswered:
    """A request whose answer is not written, and what we hold of its body."""

    cycle: RequestResponseCycle
    body: HeldBody


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self.url = b""
        self.timeout_keep_alive = cast(int, config.limits.keep_alive_s)
        self._reading = Reading.NOTHING
        self._occupancy = config.occupancy
        self._place: str | None = None  # whom it is charged to; None: it has none
        self._unanswered: deque[Unanswered] = deque()
        self._served = False
        self._is_closing = False
        self._since = 0.0  # when the part that is being received, or the closing, began
        self._heard = 0.0  # when bytes came last
        self._bytes = 0  # of that part
        self._body_pace = Pace(config.limits.body_timeout_s)
        self._answer_pace = Pace(config.limits.answer_timeout_s)
        self._written = 0  # bytes of answers, ever
        self._taken = 0  # those that had left us at the latest sweep
        self._header_bytes = 0
        self._idle_bytes = 0  # received since the last piece of body: chunk framing, trailers

    # --- events of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now = self._since = self._heard = self.loop.time()
        self._answer_pace.begin(now)
        client = client_of(self.client[0]) if self.client else ""
        refused = self._occupancy.enter(client)
        if refused is None:
            self._place = client
            return
        has_room = self._occupancy.has_room_to_refuse
        self._occupancy.refused += 1
        self._occupancy.note_refused()
        if has_room:
            self.write_counted(refusal_bytes(refused))
            self._linger()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        now = self._heard = self.loop.time()
        self._unset_keepalive_if_required()
        if self._is_closing:
            self._bytes += len(data)
            if self._bytes > MAX_LINGER_BYTES:
                self.transport.abort()
            return
        if self._reading is Reading.NOTHING:
            self._begin(Reading.HEADER, now)
        self._bytes += len(data)
        self._idle_bytes += len(data)
        self._body_pace.moved(now, len(data))
        try:
            self._feed(data)
            self._check_unparsed()
        except Refused as refused:
            self.refuse(refused)
        except httptools.HttpParserError as error:
            self.refuse(_as_refused(error))

    def _feed(self, data: bytes) -> None:
        """Parse all of it. An offer to upgrade is declined by serving the request without it.

        The parser takes what follows such an offer for another protocol, so that the body would
        be lost; some clients offer HTTP/2 with every first request.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_upgrade(self) -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        lines += [
            name + b": " + value
            for name, value in self.headers
            if name not in (b"connection", b"upgrade", b"http2-settings")
        ]
        return b"\r\n".join([*lines, b"", b""])

    def _check_unparsed(self) -> None:
        """Bytes that the parser keeps for itself count like those that it has handed on."""
        limit = self._limits.max_header_bytes
        if self._reading is Reading.HEADER and self._bytes > limit:
            raise header_too_large(limit)
        if self._reading is Reading.BODY and self._idle_bytes > limit:
            raise malformed("The framing of the body is too large.")

    # --- events of the parser; what they raise comes back from `feed_data`

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise malformed(f"More than {MAX_PIPELINED} requests were sent ahead.")
        if self._reading is not Reading.HEADER:
            self._begin(Reading.HEADER, self._heard)
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise url_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value) + 4
        limit = self._limits.max_header_bytes
        if self._header_bytes > limit or len(self.headers) > MAX_HEADERS:
            raise header_too_large(limit)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise malformed("This is not a proxy.")
            return  # it will be parsed again, see `_feed`
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise malformed("A request names one Host.")
        self._begin(Reading.BODY, self._heard)
        super().on_headers_complete()
        body = HeldBody(self._occupancy)
        self._unanswered.append(Unanswered(self.cycle, body))
        cast(dict[str, Any], self.scope)["release_body"] = body.release
        self.cycle.transport = cast(asyncio.Transport, AnswerTransport(self))

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        if not self.cycle.response_complete:
            self._unanswered[-1].body.hold(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._begin(Reading.NOTHING, self._heard)
        super().on_message_complete()

    def _begin(self, part: Reading, now: float) -> None:
        self._reading, self._since, self._bytes, self._idle_bytes = part, now, 0, 0
        self._body_pace.begin(now)

    # --- the end of a request, and of the connection

    def on_response_complete(self) -> None:
        self._unanswered.popleft().body.release()
        self._served = True
        if self._reading is not Reading.HEADER:
            # idle from here on, or the rest of a body that nobody waits for
            self._since, self._bytes = self.loop.time(), 0
        super().on_response_complete()

    def refuse(self, refused: Refused) -> None:
        """Answer where that is possible, and close."""
        if self._is_closing or self.transport.is_closing():
            return
        log.warning("request_refused", code=refused.code, reason=str(refused))
        self._limits.on_refused(refused.code)
        if self._may_answer():
            self.write_counted(refusal_bytes(refused, self.url))
        self._linger()

    def _may_answer(self) -> bool:
        """No answer is under way, and none has to come first."""
        if not self._unanswered:
            return True
        is_own = self._reading is Reading.BODY and len(self._unanswered) == 1
        return is_own and not self.cycle.response_started

    def close_gently(self) -> None:
        """Close after an answer; when its request was read only in part, by lingering."""
        if self._reading is Reading.BODY and not self._is_closing:
            self._linger()
        elif not self._is_closing:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_gone()
        for request in self._unanswered:
            request.body.release()
        self._unanswered.clear()
        if self._place is None:
            self._occupancy.refused -= 1
        else:
            self._occupancy.leave(self._place)
        super().connection_lost(exc)

    def _tell_gone(self) -> None:
        """Whoever works for this connection may stop; uvicorn tells the latest request only."""
        for request in self._unanswered:
            request.cycle.disconnected = True
            request.cycle.message_event.set()

    def _linger(self) -> None:
        self._is_closing = True
        self._since, self._bytes = self.loop.time(), 0
        self._tell_gone()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # --- time

    def sweep(self, now: float) -> None:
        """Called every half second: end what takes too long."""
        if self._is_stuck(now) or self._has_left():
            self.transport.abort()
        elif self._is_closing or self._is_discarding():
            if now - self._since > LINGER_S:
                self.transport.close()
        elif self._reading is Reading.NOTHING:
            patience_s = (
                self._limits.keep_alive_s if self._served else self._limits.header_timeout_s
            )
            if not self._unanswered and now - self._since > patience_s:
                self.transport.close()
        elif self._reading is Reading.HEADER:
            if not self.flow.read_paused and now - self._since > self._limits.header_timeout_s:
                self.refuse(too_slow("header", self._limits.header_timeout_s))
        elif self.flow.read_paused or len(self._unanswered) > 1:
            self._body_pace.begin(now)  # it is we who do not read on
        elif self._body_pace.is_lost(now):
            self.refuse(too_slow("body", self._limits.body_timeout_s))

    def answering(self, status: bytes) -> None:
        """The answer to the oldest request begins, with this status."""

    def write_counted(self, data: bytes) -> None:
        self._written += len(data)
        self.transport.write(data)

    def _is_stuck(self, now: float) -> bool:
        """Whether the client has stopped taking what was sent to it, or nearly so."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:  # what the kernel still has is no memory of ours
            self._answer_pace.begin(now)
            self._taken = self._written
            return False
        taken = self._written - unsent - bytes_in_kernel(self.transport)
        self._answer_pace.moved(now, max(0, taken - self._taken))
        self._taken = taken
        return self._answer_pace.is_lost(now)

    def _has_left(self) -> bool:
        """Whether the client closed while nothing is read, which nobody else would notice."""
        is_waiting = self.flow.read_paused and self._unanswered
        return bool(is_waiting) and is_closed_by_peer(self.transport)

    def _is_discarding(self) -> bool:
        return self._reading is Reading.BODY and self.cycle.response_complete


def _as_refused(error: httptools.HttpParserError) -> Refused:
    """Our own refusal comes back wrapped; everything else is malformed HTTP."""
    cause = error.__context__
    return cause if isinstance(cause, Refused) else malformed("This is not valid HTTP/1.1.")
