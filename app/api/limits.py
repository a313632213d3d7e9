"""What connections may take of the server, one by one and together, and how a refusal reads.

Values and arithmetic only; `protocol.py` asks them at the right moments.
"""

import socket
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from app.api.dialects import failure_bytes

MAX_URL_BYTES = 16 * 2**10
MAX_HEADERS = 256
MAX_PIPELINED = 16
LEAST_BYTES_PER_S = 1024
MAX_REFUSED_CONNECTIONS = 64  # those that are being told so; further ones are dropped
TOO_MANY_CONNECTIONS = "too_many_connections"
OVERLOADED = "overloaded"
RETRY_AFTER_S = 1
_TEMPORARY = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection, and all together, may do."""

    max_header_bytes: int
    max_held_body_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    answer_timeout_s: float
    keep_alive_s: float
    max_connections: int
    max_connections_per_client: int
    on_refused: Callable[[str], None] = lambda code: None
    on_connections: Callable[[int], None] = lambda count: None


class Refused(Exception):
    """A request that breaks the protocol or one of its limits."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Pace:
    """How long something may still take: every byte earns a little time, none earns much.

    A pause longer than `patience_s` is always too long, and so is a drip below
    `LEAST_BYTES_PER_S`, whatever came before it.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._ends = 0.0

    def begin(self, now: float) -> None:
        self._ends = now + self._patience_s

    def moved(self, now: float, count: int) -> None:
        """`count` bytes have just passed."""
        self._ends = min(now + self._patience_s, self._ends + count / LEAST_BYTES_PER_S)

    def is_lost(self, now: float) -> bool:
        return now > self._ends


class Occupancy:
    """What all connections hold together: places, places by client, bytes of bodies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_client: Counter[str] = Counter()
        self._not_told = 0
        self._shed = 0
        self.served = 0
        self.refused = 0  # and still open, because they are being told so
        self.body_bytes = 0

    @property
    def has_room_to_refuse(self) -> bool:
        return self.refused < MAX_REFUSED_CONNECTIONS

    def enter(self, client: str) -> Refused | None:
        """Take a place. None, or why there is none; only who was let in may `leave`."""
        limits, own = self._limits, self._limits.max_connections_per_client
        if self.served >= limits.max_connections:
            return _no_place(f"The server has its {limits.max_connections}", "MAX_CONNECTIONS")
        if own and self._by_client[client] >= own:
            return _no_place(f"This address has its {own}", "MAX_CONNECTIONS_PER_CLIENT")
        self.served += 1
        if own:
            self._by_client[client] += 1
        limits.on_connections(self.served)
        return None

    def leave(self, client: str) -> None:
        self.served -= 1
        if self._limits.max_connections_per_client:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]  # else it grows by every address that ever came
        self._limits.on_connections(self.served)

    def note_refused(self) -> None:
        self._not_told += 1
        self._limits.on_refused(TOO_MANY_CONNECTIONS)

    def note_shed(self) -> None:
        self._shed += 1
        self._limits.on_refused(OVERLOADED)

    def take_shed(self) -> int:
        """Requests refused since the last call because the server was late."""
        count, self._shed = self._shed, 0
        return count

    def take_refused(self) -> int:
        """Connections refused since the last call: a flood is one line of the log."""
        count, self._not_told = self._not_told, 0
        return count

    def hold(self, count: int) -> None:
        """Raises Refused when all bodies together would be more than the server keeps."""
        limit = self._limits.max_held_body_bytes
        if self.body_bytes + count > limit:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too_many_bytes",
                f"All requests together hold {limit} bytes (MAX_HELD_BODY_BYTES); try later.",
            )
        self.body_bytes += count

    def release(self, count: int) -> None:
        self.body_bytes -= count


class HeldBody:
    """What the server holds of one body: all of it until its request is answered, unless its
    route lets go of what it has read."""

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        self._bytes = 0

    def hold(self, count: int) -> None:
        """Raises Refused."""
        self._occupancy.hold(count)
        self._bytes += count

    def release(self, count: int | None = None) -> None:
        """So much of it, or the rest."""
        count = self._bytes if count is None else min(count, self._bytes)
        self._bytes -= count
        self._occupancy.release(count)


def client_of(host: str) -> str:
    """Whom a place is charged to: an address, or the /64 of one, which a single host has whole."""
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()


def malformed(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "bad_request", message)


def header_too_large(limit: int) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "header_too_large",
        f"The request header has more than {limit} bytes (MAX_HEADER_BYTES) or {MAX_HEADERS} "
        "fields.",
    )


def url_too_long() -> Refused:
    return Refused(
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "url_too_long",
        f"The URL is longer than {MAX_URL_BYTES} bytes.",
    )


def too_slow(part: str, patience_s: float) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_TIMEOUT,
        "request_timeout",
        f"The {part} of the request did not arrive in time ({part.upper()}_TIMEOUT_S is "
        f"{patience_s:g}).",
    )


def overloaded(message: str) -> Refused:
    return Refused(HTTPStatus.TOO_MANY_REQUESTS, OVERLOADED, message)


def _no_place(who: str, setting: str) -> Refused:
    return Refused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        TOO_MANY_CONNECTIONS,
        f"{who} connections ({setting}); try later.",
    )


def refusal_bytes(refused: Refused, url: bytes = b"", *, closes: bool = True) -> bytes:
    """A whole answer, below the application. url: what is known of the request's; closes: it is
    the connection's last."""
    is_temporary = refused.status in _TEMPORARY
    retry_after_s = RETRY_AFTER_S if is_temporary else None
    request_id = str(uuid.uuid4())
    status, path = refused.status.value, url.decode("latin-1")
    body = failure_bytes(path, status, refused.code, str(refused), request_id, retry_after_s)
    retry = f"retry-after: {RETRY_AFTER_S}\r\n" if is_temporary else ""
    connection = "connection: close\r\n" if closes else ""
    head = (
        f"HTTP/1.1 {status} {refused.status.phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{retry}"
        "x-content-type-options: nosniff\r\ncache-control: no-store\r\n"
        f"x-request-id: {request_id}\r\n{connection}\r\n"
    )
    return head.encode("ascii") + body
