"""What authentication, limits and metering cost together, per request; in-process, over ASGI.

    python -m benchmarks.auth_cost

The same `POST /infer`, to the whole application over a model that answers at once: behind the door,
with a key that has every kind of limit and a ledger on SQLite; and without door and ledger. Both in
turn, in blocks; the median of the differences is judged.
"""

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvloop

from app.api.application import build_app
from app.api.middleware import RequestContext
from app.core.clock import MonotonicClock
from app.core.metrics import Metrics
from app.core.types import Answer, Done, Outcome, Usage
from app.keys.accounts import Accounts
from app.keys.audit import Actor
from app.keys.gate import UNTRUSTED, Caller
from app.keys.key import LIMITS, MOST, KeyLimits, Terms
from app.models.registry import Registry
from app.services.inference_service import InferenceService
from app.storage.database import READERS, Database
from app.storage.engines import open_engines
from app.storage.schema import migrate
from benchmarks.harness import Bars, warn_when_busy
from tests.api.serving import FakeServices, settings
from tests.fakes import AnswersWhenTold, a_deployment, a_spec

BAR_US = 60.0
BODY = b'{"text": "two words", "model": "sentiment"}'
BLOCK = 500
WARM_UP_BLOCKS = 4


class AnswersAtOnce(AnswersWhenTold):
    def submit(self, *arguments: Any) -> asyncio.Future[Outcome]:
        wait: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        wait.set_result(Done(Answer("positive", usage=Usage(4, 0))))
        return wait


class WithoutDoor:
    """What `Authentication` does for callers without a key, and nothing else."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._caller = Caller(UNTRUSTED)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["caller"] = self._caller
        await self._app(scope, receive, send)


@dataclass
class Services(FakeServices):
    """The real inference service. accounts: None where nothing is metered."""

    accounts: Accounts | None = None

    def __post_init__(self) -> None:
        metrics = Metrics()
        metrics.add_version("sentiment", "v1", "worker")
        spec = a_spec("sentiment:v1", "classify")
        self.inference = InferenceService(  # type: ignore[assignment]
            Registry([a_deployment(spec, AnswersAtOnce())]),
            metrics,
            MonotonicClock(),
            default_model="sentiment",
            max_text_chars=1000,
            meter=None if self.accounts is None else self.accounts.meter,
        )
        if self.accounts is not None:
            self.gate = self.accounts.gate


def scope_of(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    usual = [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"python-httpx/0.28.1"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ]
    place = {"path": "/infer", "raw_path": b"/infer", "query_string": b"", "root_path": ""}
    peers = {"client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000), "scheme": "http"}
    head = {"type": "http", "http_version": "1.1", "method": "POST", "asgi": {"version": "3.0"}}
    return {**head, **place, **peers, "headers": usual + headers}


async def ask(app: Any, headers: list[tuple[bytes, bytes]]) -> None:
    statuses: list[int] = []
    received = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Any:
        if received:
            return received.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope_of(headers), receive, send)
    if statuses != [200]:
        raise SystemExit(f"not answered: {statuses}")


async def block_us(app: Any, headers: list[tuple[bytes, bytes]]) -> float:
    """Of the processor, per request; the thread that writes the ledger included."""
    started = time.process_time()
    for _ in range(BLOCK):
        await ask(app, headers)
    return (time.process_time() - started) * 1e6 / BLOCK


async def measure(folder: Path, blocks: int) -> list[tuple[float, float]]:
    engines = open_engines(f"sqlite:///{folder / 'server.db'}", READERS)
    migrate(engines)
    database = Database(engines)
    accounts = Accounts(database, 0, lambda *_: None, allows_anonymous=False, is_private=True)
    limits = KeyLimits(**dict.fromkeys(LIMITS, MOST))
    _, secret = await accounts.keys.create(Actor("benchmark"), Terms("app", limits=limits))
    headers = [(b"authorization", f"Bearer {secret}".encode())]
    running = asyncio.create_task(accounts.run())
    guarded = build_app(Services(accounts=accounts), settings())
    inner: Any = build_app(Services(), settings())
    bare = RequestContext(WithoutDoor(inner._app._app))
    gc.collect()
    gc.freeze()
    found = []
    for number in range(WARM_UP_BLOCKS + blocks):
        pair = (await block_us(bare, headers), await block_us(guarded, headers))
        found += [pair] if number >= WARM_UP_BLOCKS else []
    running.cancel()
    await asyncio.wait([running])
    await accounts.close()
    await database.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of authentication, limits, metering.")
    parser.add_argument("--blocks", type=int, default=40, help=f"of {BLOCK} requests, each way")
    arguments = parser.parse_args()
    warn_when_busy()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        found = uvloop.run(measure(Path(folder), arguments.blocks))
    bare, guarded = zip(*found, strict=True)
    print(f"without {statistics.median(bare):.1f} us, with {statistics.median(guarded):.1f} us")
    bars = Bars()
    difference = statistics.median(after - before for before, after in found)
    bars.at_most("authentication, limits and metering, us per request", difference, BAR_US)
    return bars.exit_status()


if __name__ == "__main__":
    sys.exit(main())
