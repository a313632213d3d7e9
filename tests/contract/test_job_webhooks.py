"""Webhooks from the end of a job to whoever listens, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from app.core.job_metrics import JobMetrics
from app.core.metrics import Metrics
from app.jobs.notifier import HOLD_S, Notifier
from app.jobs.sql_webhooks import SqlWebhooks
from app.jobs.status import Ending, JobState, Webhook
from app.jobs.webhooks import Message, signed_headers
from tests.contract.job_bench import DONE, LEASE_S, Bench

SECRET = "a-secret-of-16-or-more"


class Listener:
    """An HTTP server that notes what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[bytes] = []
        self.port = 0

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:] if line)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body))
        answer = self.answers.pop(0) if self.answers else b"204 No Content"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.on_connection, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


@pytest_asyncio.fixture
async def store(database):
    return Bench(database)


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as listener:
        yield listener


def notifier(database, store: Bench, *, allows_private: bool = True) -> Notifier:
    return Notifier(
        SqlWebhooks(database, store.time),
        lambda view: view.state.value.encode(),
        JobMetrics(Metrics().registry),
        lambda: store.time.now,
        allows_private=allows_private,
    )


def hook(listener: Listener, host: str = "localhost") -> Webhook:
    return Webhook(f"http://{host}:{listener.port}/ended?x=1", SECRET)


async def test_the_end_of_a_job_is_told_once_and_signed(database, store, listener):
    telling = notifier(database, store)
    job = await store.begun(webhook=hook(listener))
    assert await telling.deliver_due() == 0
    await store.finish(job, DONE)
    assert await telling.deliver_due() == 1
    assert await telling.deliver_due() == 0
    ((headers, body),) = listener.received
    assert body == b"succeeded" and headers["host"] == f"localhost:{listener.port}"
    expected = signed_headers(Message(job.id, "", SECRET, body), store.time.now)
    assert {name: headers[name] for name in expected} == expected


@pytest.mark.parametrize("how", ["cancelled", "expired", "dead"])
async def test_every_end_is_told(database, store, listener, how):
    telling = notifier(database, store)
    job = await store.begun(webhook=hook(listener), timeout_s=50.0)
    if how == "cancelled":
        await store.release({job.id: job.fence})
        await store.cancel("me", job.id)
    elif how == "expired":
        await store.release({job.id: job.fence})
        store.time.now += 60
        await store.sweep()
    else:
        for _ in range(3):
            store.time.now += LEASE_S + 1
            await store.sweep()
            await store.take()
    await telling.deliver_due()
    ((_, body),) = listener.received
    assert body.decode() == {"dead": "failed"}.get(how, how)


@pytest.mark.parametrize(
    "answer", [b"500 Oops", b"404 No", b"302 Elsewhere\r\nlocation: http://127.0.0.1:1/"]
)
async def test_what_is_not_taken_is_told_again_later(database, store, listener, answer):
    listener.answers = [answer]
    telling = notifier(database, store)
    job = await store.begun(webhook=hook(listener))
    await store.finish(job, Ending(JobState.FAILED))
    await telling.deliver_due()
    assert await telling.deliver_due() == 0
    store.time.now += 10
    assert await telling.deliver_due() == 1
    assert len(listener.received) == 2
    store.time.now += 7200
    assert await telling.deliver_due() == 0


async def test_who_is_gone_is_not_told_again(database, store, listener):
    listener.answers = [b"410 Gone"]
    telling = notifier(database, store)
    job = await store.begun(webhook=hook(listener))
    await store.finish(job, DONE)
    await telling.deliver_due()
    store.time.now += 7200
    assert await telling.deliver_due() == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_private_addresses_are_not_connected_to(database, store, listener, host):
    telling = notifier(database, store, allows_private=False)
    job = await store.begun(webhook=hook(listener, host))
    await store.finish(job, DONE)
    assert await telling.deliver_due() == 1
    assert listener.received == []


async def test_what_a_dead_server_had_taken_is_told_by_another(database, store, listener):
    job = await store.begun(webhook=hook(listener))
    await store.finish(job, DONE)
    assert len(await SqlWebhooks(database, store.time).take(5, HOLD_S)) == 1
    telling = notifier(database, store)
    assert await telling.deliver_due() == 0
    store.time.now += HOLD_S
    assert await telling.deliver_due() == 1
