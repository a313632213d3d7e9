"""What a webhook's message is, where it may go, and how it is sent. Knows no database.

Messages are those of Standard Webhooks: `webhook-id`, `webhook-timestamp`, and `webhook-signature`,
which is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. A host is resolved once, and
what is checked is what is connected to; private addresses are refused unless they are allowed,
redirects are never followed, and nothing of an answer but its status is read.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from app.core.errors import InvalidRequest

TIMEOUT_S = 10.0
_NOT_OF_THE_INTERNET = (  # others' addresses in disguise
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
)
_PORTS = {"http": 80, "https": 443}


class Undeliverable(Exception):
    """The message was not taken. is_final: no other try will change that."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Message:
    """One message, to be signed anew at each try. id: the same at all of them."""

    id: str
    url: str
    secret: str
    body: bytes


def check_url(url: str, *, allows_private: bool) -> SplitResult:
    """Raises InvalidRequest for what no message could be sent to."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest("webhook.url is not a URL") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise InvalidRequest("webhook.url must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("webhook.url must not hold a user or password; use the secret")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise InvalidRequest("webhook.url holds spaces or control characters")
    if not url.isascii():
        raise InvalidRequest("webhook.url must be ASCII; encode its path and host")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return parts
    if not allows_private and not is_public(address):
        raise InvalidRequest("webhook.url has a private address; WEBHOOK_ALLOW_PRIVATE is false")
    return parts


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is somebody's on the internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _NOT_OF_THE_INTERNET):
            return False
    return address.is_global and not address.is_multicast


def signed_headers(message: Message, now: float) -> dict[str, str]:
    stamp = str(int(now))
    signed = b".".join((message.id.encode(), stamp.encode(), message.body))
    digest = hmac.new(message.secret.encode(), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "ai-inference-backend",
        "webhook-id": message.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def send(message: Message, now: float, *, allows_private: bool) -> None:
    """Returns when it was taken. Raises Undeliverable."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _post(message, now, allows_private=allows_private)
    except TimeoutError:
        raise Undeliverable(f"no answer within {TIMEOUT_S:g} s") from None
    if not 200 <= status < 300:
        raise Undeliverable(f"answered with status {status}", is_final=status == 410)


async def _post(message: Message, now: float, *, allows_private: bool) -> int:
    import httpx  # a tenth of a second, for those who use it

    try:
        parts = check_url(message.url, allows_private=allows_private)
    except InvalidRequest as refused:
        raise Undeliverable(str(refused), is_final=True) from None
    host = str(parts.hostname)
    address = await _resolved(host, parts.port or _PORTS[parts.scheme], allows_private)
    url = httpx.URL(message.url).copy_with(host=address)
    headers = {**signed_headers(message, now), "host": parts.netloc}
    try:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client,
            client.stream(
                "POST",
                url,
                content=message.body,
                headers=headers,
                extensions={"sni_hostname": host},
            ) as response,
        ):
            return response.status_code
    except (httpx.HTTPError, OSError) as error:
        raise Undeliverable(f"could not be sent: {type(error).__name__}") from None


async def _resolved(host: str, port: int, allows_private: bool) -> str:
    """The first address that may be connected to."""
    loop = asyncio.get_running_loop()
    try:
        found: Sequence[tuple[object, ...]] = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
    except OSError:
        raise Undeliverable("the host has no address") from None
    for *_, where in found:
        address = str(where[0])  # type: ignore[index]
        if allows_private or is_public(ipaddress.ip_address(address.partition("%")[0])):
            return address
    raise Undeliverable("the host has private addresses only")
