"""Clients that read slowly, vanish, or come in numbers, against the edge with small limits."""

import asyncio
import json
import socket
import struct
from typing import Any

import pytest

from app.api.shedding import Shedding
from tests.api.serving import FakeServices, HangsInInfer, Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

TCP_REPAIR = 19  # linux/tcp.h
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def post(body: bytes, *, path: str = "/infer", length: int | None = None) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def told(answer: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return error


async def nobody_left(running: Running) -> None:
    """Within a time that a slow machine keeps."""
    state = running.server.server_state
    async with asyncio.timeout(15):
        while state.connections or state.tasks:
            await asyncio.sleep(0.02)
    occupancy = running.server.config.occupancy
    assert (occupancy.served, occupancy.refused, occupancy.body_bytes) == (0, 0, 0)
    assert running.services.metrics.connections == 0


async def test_connections_of_one_address_are_capped_apart():
    async with serving(max_connections_per_client=2) as running:
        async with running.connection(), running.connection():
            answer = await running.talk(GET)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert told(answer)["code"] == "too_many_connections"
        assert "MAX_CONNECTIONS_PER_CLIENT" in told(answer)["message"]
        await nobody_left(running)
        assert (await running.talk(GET)).startswith(b"HTTP/1.1 200 ")


async def test_a_flood_of_connections_takes_no_place_of_those_who_come_after():
    async with serving(max_connections=3) as running:
        async with running.connection(), running.connection(), running.connection():
            flood = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(200)]
            async with asyncio.timeout(10):
                while len(running.services.metrics.rejected) < 200:
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(10):  # the flood is still there, and lingers
            while not (await running.talk(GET)).startswith(b"HTTP/1.1 200 "):
                await asyncio.sleep(0.02)
        for _, writer in flood:
            writer.close()
        await nobody_left(running)
    assert set(running.services.metrics.rejected) == {"too_many_connections"}


async def test_bodies_of_all_requests_together_are_bounded():
    async with serving(max_body_bytes=60_000, max_held_body_bytes=100_000) as running:
        async with running.connection() as (_, writer):
            writer.write(post(b" " * 59_000, length=60_000))
            async with asyncio.timeout(10):
                while running.server.config.occupancy.body_bytes < 59_000:
                    await asyncio.sleep(0.01)
            answer = await running.talk(post(b" " * 59_000, length=60_000))
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1" in answer
            assert told(answer)["code"] == "too_many_bytes"
            assert "MAX_HELD_BODY_BYTES" in told(answer)["message"]
            assert (await running.talk(GET)).startswith(b"HTTP/1.1 200 ")
        await nobody_left(running)


async def test_body_is_held_until_its_request_is_answered():
    service = HangsInInfer()
    async with serving(FakeServices(inference=service)) as running:
        body = json.dumps({"text": "a" * 200_000}).encode()
        async with running.connection() as (_, writer):
            writer.write(post(body))
            await asyncio.wait_for(service.began.wait(), 10)
            assert running.server.config.occupancy.body_bytes == len(body)
        await nobody_left(running)


async def test_body_that_stops_after_a_good_start_times_out():
    """What came quickly buys no hours for what does not come."""
    async with serving(body_timeout_s=0.5) as running:
        async with running.connection() as (reader, writer):
            writer.write(post(b" " * 1_000_000, length=1_000_001))
            answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "BODY_TIMEOUT_S is 0.5" in told(answer)["message"]


async def _slow_reader(running: Running, answers: int) -> socket.socket:
    """It has asked for megabytes and holds little itself."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", running.port))
    request = post(json.dumps({"text": "a" * 4_000_000}).encode())
    for _ in range(answers):
        await loop.sock_sendall(client, request)
    return client


async def test_client_that_takes_its_answer_in_drips_is_dropped():
    async with serving(max_text_chars=10**7, answer_timeout_s=0.5) as running:
        loop = asyncio.get_running_loop()
        client = await _slow_reader(running, 3)
        with client:
            async with asyncio.timeout(20):
                while running.server.server_state.connections:
                    await loop.sock_recv(client, 8)
                    await asyncio.sleep(0.1)
        await nobody_left(running)


async def test_client_that_takes_its_answer_steadily_is_served_however_long_it_takes():
    async with serving(max_text_chars=10**7, answer_timeout_s=1) as running:
        loop = asyncio.get_running_loop()
        client = await _slow_reader(running, 2)
        started, size = loop.time(), 0
        with client:
            while size < 8_000_000:
                data = await loop.sock_recv(client, 65536)
                assert data, f"closed after {size} bytes and {loop.time() - started:.1f} s"
                size += len(data)
                await asyncio.sleep(0 if loop.time() - started > 3 else 0.05)
        assert loop.time() - started > 2


async def test_client_that_sends_ahead_and_leaves_is_noticed():
    """Nothing more is read while the first is served, not even that the client has gone."""
    service = HangsInInfer()
    async with serving(FakeServices(inference=service)) as running:
        body = b'{"text": "a"}'
        async with running.connection() as (_, writer):
            writer.write(post(body))
            await asyncio.wait_for(service.began.wait(), 10)
            writer.write(post(body) * 3)
            async with asyncio.timeout(10):
                while not all(c.flow.read_paused for c in running.server.server_state.connections):
                    await asyncio.sleep(0.01)
        await asyncio.wait_for(service.cancelled.wait(), 10)
        await nobody_left(running)


async def test_clients_are_probed_so_that_one_that_was_cut_off_is_noticed():
    async with serving(client_silence_s=30) as running:
        async with running.connection() as (_, writer):
            writer.write(b"G")
            async with asyncio.timeout(10):
                while not running.server.server_state.connections:
                    await asyncio.sleep(0.01)
            (connection,) = running.server.server_state.connections
            given = connection.transport.get_extra_info("socket")
            options = [
                given.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                given.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                given.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                given.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                given.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            ]
    assert options == [1, 15, 5, 3, 30_000]


async def test_work_of_a_client_whose_machine_vanished_is_withdrawn():
    """A socket under repair closes without a word, as a machine without power does."""
    service = HangsInInfer()
    async with serving(FakeServices(inference=service), client_silence_s=4) as running:
        loop = asyncio.get_running_loop()
        client = socket.create_connection(("127.0.0.1", running.port))
        with client:
            await loop.run_in_executor(None, client.sendall, post(b'{"text": "a"}'))
            await asyncio.wait_for(service.began.wait(), 10)
            try:
                client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            except OSError:
                pytest.skip("needs CAP_NET_ADMIN")
        assert not service.cancelled.is_set()
        await asyncio.wait_for(service.cancelled.wait(), 15)
        await nobody_left(running)


@pytest.mark.parametrize("path", ["/infer", "/infer/batch"])
async def test_clients_that_leave_or_break_off_leave_nothing_behind(path: str):
    """Half of them with a reset, which is how a killed process leaves."""
    service = HangsInInfer()
    entry = b'{"text": "a"}'
    body = entry if path == "/infer" else b'{"requests": [' + b",".join([entry] * 5) + b"]}"
    async with serving(FakeServices(inference=service)) as running:
        whole = post(body, path=path)

        async def leave(number: int) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(whole[: 1 + number * 7 % len(whole)] if number % 3 else whole)
            await writer.drain()
            await asyncio.sleep(number % 10 * 0.01)
            if number % 2:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            writer.close()

        await asyncio.gather(*(leave(number) for number in range(100)))
        await nobody_left(running)
        assert service.began.is_set() and service.cancelled.is_set()


async def test_a_request_that_is_shed_is_refused_unread_and_its_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch,
):
    body = b'{"text": "a"}'
    async with serving() as running, running.connection() as (reader, writer):
        shedding = running.server.config.shedding
        for sheds, status in ((True, b"429"), (False, b"200"), (True, b"429")):
            monkeypatch.setattr(shedding, "sheds", lambda who, sheds=sheds: sheds)
            writer.write(post(body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
            assert head.startswith(b"HTTP/1.1 " + status)
            if sheds:
                assert answer["error"]["code"] == "overloaded"
                assert answer["request_id"].encode() in head.partition(b"x-request-id: ")[2]
                assert b"retry-after: 1\r\n" in head
        writer.write(GET)  # probes pass
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        assert len(running.services.inference.requests) == 1
        assert running.services.metrics.rejected == ["overloaded"] * 2


async def test_a_refusal_that_is_held_back_still_comes_before_the_next_answer(
    monkeypatch: pytest.MonkeyPatch,
):
    async with serving() as running, running.connection() as (reader, writer):
        monkeypatch.setattr(running.server.config.shedding, "sheds", lambda who: True)
        monkeypatch.setattr(Shedding, "hold_s", 60.0)
        writer.write(post(b'{"text": "a"}') + GET)
        statuses = []
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            statuses.append(head[9:12])
        assert statuses == [b"429", b"200"]


async def test_a_refusal_that_is_held_back_leaves_when_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
):
    async with serving() as running, running.connection() as (reader, writer):
        monkeypatch.setattr(running.server.config.shedding, "sheds", lambda who: True)
        monkeypatch.setattr(Shedding, "hold_s", 60.0)
        writer.write(post(b'{"text": "a"}'))
        while not running.services.metrics.rejected:
            await asyncio.sleep(0)
        running.server.should_exit = True
        assert (await reader.read()).startswith(b"HTTP/1.1 429 ")


async def test_a_large_body_is_not_read_for_a_refusal(monkeypatch: pytest.MonkeyPatch):
    """The application refuses it, or takes it."""
    async with serving() as running:
        monkeypatch.setattr(running.server.config.shedding, "sheds", lambda who: True)
        text = b'{"text": "' + b"a" * 2**17 + b'"}'
        close = post(text).replace(b"Host: a", b"Host: a\r\nConnection: close")
        assert (await running.talk(close)).startswith(b"HTTP/1.1 200 ")
