"""The edge below the application, spoken to in raw bytes."""

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from tests.api.serving import FakeServices, HangsInInfer, Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"text": "a"}'


def post(
    body: bytes = BODY, *headers: str, path: str = "/infer", length: int | None = None
) -> bytes:
    given = [
        f"POST {path} HTTP/1.1",
        "Host: a",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*given, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = (
        b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


CLOSE = "Connection: close"
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
GET_CLOSE = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def _assert_refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"connection: close" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    told = json.loads(body)
    assert (told["success"], told["error"]["code"]) == (False, code)
    assert told["error"]["message"] and told["request_id"] and told["timestamp"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="tls"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", id="header-without-colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", id="nul-in-header"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", id="raw-byte-in-url"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", id="connect"),
        pytest.param(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", id="version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two-hosts"),
        pytest.param(
            post(BODY, "Transfer-Encoding: chunked"), id="content-length-and-transfer-encoding"
        ),
        pytest.param(post(BODY, f"Content-Length: {len(BODY)}"), id="two-content-lengths"),
        pytest.param(post(BODY, length=-1), id="negative-content-length"),
        pytest.param(
            post(b"").replace(b"Length: 0", b"Length: 1e3"), id="content-length-not-decimal"
        ),
        pytest.param(
            post(b"").replace(b"Length: 0", b"Length: " + b"9" * 40), id="content-length-overflow"
        ),
        pytest.param(
            b"POST /infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", id="coding"
        ),
    ],
)
async def test_malformed_http_is_refused(running: Running, request_bytes: bytes):
    _assert_refused(await running.talk(request_bytes), 400, "bad_request")
    assert running.services.metrics.rejected[0] == "bad_request"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param("X: " + "a" * 100_000, id="one-of-100-kB"),
        pytest.param("\r\n".join(f"X-{n}: a" for n in range(5000)), id="5000-fields"),
        pytest.param("\r\n".join(["a: b"] * 300), id="many-small-fields"),
        pytest.param("\r\n".join("X: " + "a" * 1000 for _ in range(40)), id="together"),
    ],
)
@pytest.mark.parametrize("rest", [b"\r\n\r\n", b""], ids=["complete", "half-sent"])
async def test_large_header_is_refused_also_when_it_comes_at_once(
    running: Running, headers: str, rest: bytes
):
    if not rest and len(headers) < 32_768 and "a: b" in headers:
        headers += "\r\n"
    answer = await running.talk(b"GET / HTTP/1.1\r\nHost: a\r\n" + headers.encode() + rest)
    _assert_refused(answer, 431, "header_too_large")


async def test_header_just_below_the_limit_is_taken(running: Running):
    header = "X: " + "a" * 32_000
    answer = await running.talk(post(BODY, header, CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_header_sent_in_small_pieces_counts_as_a_whole():
    async with serving(max_header_bytes=1024) as running:
        async with running.connection() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            for _ in range(20):
                writer.write(b"a" * 100)
                await writer.drain()
                await asyncio.sleep(0)
            _assert_refused(await reader.read(), 431, "header_too_large")


async def test_long_url_is_refused(running: Running):
    answer = await running.talk(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    _assert_refused(answer, 414, "url_too_long")


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(post(length=10_000_000_000), id="declared"),
        pytest.param(post(BODY + b" " * 2000), id="sent"),
        pytest.param(post(b" " * 300_000), id="sent-more-than-buffers-hold"),
        pytest.param(chunked(BODY, *[b" " * 100] * 20), id="chunked"),
        pytest.param(chunked(*[b" " * 1000] * 500, end=b""), id="chunked-without-end"),
    ],
)
async def test_body_over_the_limit_is_refused_and_the_connection_closed(request_bytes: bytes):
    async with serving(max_body_bytes=1024) as running:
        answer = await running.talk(request_bytes)
    _assert_refused(answer, 413, "body_too_large")
    assert b"MAX_BODY_BYTES" in answer


async def test_body_as_large_as_the_limit_is_taken():
    async with serving(max_body_bytes=1024) as running:
        answer = await running.talk(post(BODY.ljust(1024), CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_client_that_waits_for_a_go_is_told_before_it_sends(running: Running):
    async with running.connection() as (reader, writer):
        writer.write(post(b"", "Expect: 100-continue", length=len(BODY)))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    too_large = post(b"", "Expect: 100-continue", length=10**10)
    _assert_refused(await running.talk(too_large), 413, "body_too_large")


async def test_many_tiny_chunks_are_put_together(running: Running):
    text = "a" * 20_000
    chunks = [bytes([byte]) for byte in json.dumps({"text": text}).encode()]
    async with running.connection() as (reader, writer):
        writer.write(chunked(*chunks))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(b"1;" + b"x" * 1_000_000, id="chunk-extension"),
        pytest.param(b"0\r\nX: " + b"x" * 1_000_000, id="trailer"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 10_000, id="trailers"),
    ],
)
async def test_endless_framing_of_a_body_is_refused(running: Running, end: bytes):
    answer = await running.talk(chunked(b'{"text":', end=end))
    assert answer.split(b" ")[1] in (b"400", b"431")
    assert running.services.inference.requests == []


async def test_connection_serves_one_request_after_another(running: Running):
    async with running.connection() as (reader, writer):
        for _ in range(3):
            writer.write(post())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)


async def test_request_that_offers_an_upgrade_is_served_and_so_is_the_next(running: Running):
    """Some HTTP clients offer HTTP/2 this way on every first request, bodies included."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAA")
    answer = await running.talk(post(BODY, *upgrade) + post(b'{"text": "second"}', CLOSE))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.index(b'"result":"a"') < answer.index(b'"result":"second"')


async def test_requests_sent_ahead_are_answered_in_order(running: Running):
    texts = [f"text {number}" for number in range(10)]
    requests = [post(json.dumps({"text": text}).encode()) for text in texts]
    answer = await running.talk(b"".join([*requests, GET_CLOSE]))
    positions = [answer.index(f'"result":"{text}"'.encode()) for text in texts]
    assert positions == sorted(positions)
    assert answer.count(b"HTTP/1.1 200 ") == 11


async def test_too_many_requests_sent_ahead_end_the_connection():
    service = HangsInInfer()
    async with serving(FakeServices(inference=service)) as running:
        async with running.connection() as (reader, writer):
            writer.write(post())
            await service.began.wait()
            writer.write(GET * 100)
            assert await reader.read() == b""
            await asyncio.wait_for(service.cancelled.wait(), 5)
    assert running.services.metrics.rejected[0] == "bad_request"


async def test_old_clients_without_host_are_served(running: Running):
    answer = await running.talk(b"GET /health/live HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_early_answer_does_not_end_the_connection(running: Running):
    """The rest of a small body is read and dropped, so that the client may go on."""
    async with running.connection() as (reader, writer):
        whole = post(b" " * 100_000, path="/nowhere")
        writer.write(whole[:-50_000])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        await reader.readuntil(b"}")
        writer.write(whole[-50_000:] + GET_CLOSE)
        assert b"HTTP/1.1 200 " in await reader.read()


SLOW: dict[str, Any] = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "keep_alive_s": 0.3}
SOON_S = 3.0


async def _closing_time(running: Running, sent: bytes) -> tuple[bytes, float]:
    started = time.monotonic()
    answer = await asyncio.wait_for(running.talk(sent), 10)
    return answer, time.monotonic() - started


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"G", id="one-byte"),
        pytest.param(GET[:-2], id="half-header"),
        pytest.param(b"\r\n\r\n", id="empty-lines"),
        pytest.param(post()[:-1], id="half-body"),
        pytest.param(post(b"", length=5), id="no-body"),
        pytest.param(chunked(b"{", end=b""), id="half-chunks"),
    ],
)
async def test_half_sent_request_times_out(sent: bytes):
    async with serving(**SLOW) as running:
        answer, took_s = await _closing_time(running, sent)
    _assert_refused(answer, 408, "request_timeout")
    assert 0.3 <= took_s < SOON_S


async def test_connection_without_a_request_is_closed():
    async with serving(**SLOW) as running:
        answer, took_s = await _closing_time(running, b"")
    assert answer == b""
    assert 0.3 <= took_s < SOON_S


async def test_idle_connection_is_closed_after_an_answer():
    async with serving(**SLOW) as running:
        answer, took_s = await _closing_time(running, post())
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1 ") == 1
    assert 0.3 <= took_s < SOON_S


async def test_body_that_drips_times_out():
    """Each byte comes in time, the body never does."""
    async with serving(**SLOW) as running:
        async with running.connection() as (reader, writer):
            writer.write(post(b"", length=1000))
            answer = asyncio.ensure_future(reader.read())
            while not answer.done():
                writer.write(b" ")
                await asyncio.sleep(0.05)
    _assert_refused(answer.result(), 408, "request_timeout")


async def test_rest_of_a_body_that_nobody_wants_is_not_awaited_for_ever():
    async with serving() as running:
        answer, took_s = await _closing_time(running, post(length=10**9, path="/nowhere"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert took_s < 5


async def test_slow_work_is_not_mistaken_for_a_slow_client():
    service = HangsInInfer()
    async with serving(FakeServices(inference=service), **SLOW) as running:
        async with running.connection() as (reader, writer):
            writer.write(post())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 1.2)
            assert not service.cancelled.is_set()


async def test_client_that_stops_reading_is_dropped():
    """Its answer would fill our memory for as long as it likes."""
    body = json.dumps({"text": "a" * 4_000_000}).encode()
    async with serving(max_text_chars=10**7, answer_timeout_s=0.3) as running:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", running.port))
        for _ in range(3):
            await loop.sock_sendall(client, post(body))
        async with asyncio.timeout(8):
            while running.server.server_state.connections:
                await asyncio.sleep(0.05)
        client.close()
    assert running.services.inference.requests


async def test_connections_over_the_cap_are_told_so_and_the_server_recovers():
    async with serving(max_connections=2) as running:
        async with running.connection(), running.connection() as (reader, writer):
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            for _ in range(3):
                _assert_refused(await running.talk(GET), 503, "too_many_connections")
        while running.server.server_state.connections:
            await asyncio.sleep(0.01)
        assert (await running.talk(GET_CLOSE)).startswith(b"HTTP/1.1 200 ")


async def test_a_thousand_idle_connections_do_not_keep_others_out():
    async with serving(max_connections=100, header_timeout_s=0.5) as running:
        idle = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(1000)]
        await asyncio.sleep(1.5)
        answer = await running.talk(GET_CLOSE)
        for _, writer in idle:
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
