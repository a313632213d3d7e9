"""Fixtures of the API tests. They run on uvloop, as the server does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import httpx
import pytest_asyncio
import uvloop

from tests.api.serving import CountingMetrics, EchoService, Running, serving


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Running]:
    """One server for all tests of a file: stopping one takes a fifth of a second."""
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def running(shared: Running) -> Running:
    """The file's server over services that nobody has called yet."""
    shared.services.inference = EchoService()
    shared.services.metrics = CountingMetrics()
    return shared


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
        yield client
