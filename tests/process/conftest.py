"""Process tests run on uvloop, as the server does, and leave no process behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import uvloop

from tests.process.workers import Bench, SupervisorBench
from tests.processes import living


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def no_child_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    children = psutil.Process().children(recursive=True)
    assert [c for c in children if c.pid not in before and living(c.pid)] == []


@pytest.fixture
async def bench(tmp_path: Path, no_child_left: None) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.close()


@pytest.fixture
async def supervised(tmp_path: Path, no_child_left: None) -> AsyncIterator[SupervisorBench]:
    bench = SupervisorBench(tmp_path)
    yield bench
    await bench.close()
