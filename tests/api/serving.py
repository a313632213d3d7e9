"""A real uvicorn with our protocol on a free port, over services that need no model."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from app.api.application import build_app
from app.api.server import build_server, open_socket
from app.api.shedding import Shedding, Who
from app.core.config import Settings
from app.core.errors import Forbidden, ModelNotFound, ServingError, StorageUnavailable
from app.core.types import Answer, Asker, Done, Failed, Outcome, Piece, Timings, Usage
from app.keys.audit import Act
from app.keys.gate import Gate
from app.keys.key import Key, Scope, Terms
from app.keys.limiter import Limiter
from app.keys.quotas import Quotas, day_of
from app.keys.secret import digest_of, new_secret
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import Readiness, ServedVersion
from app.services.visible_models import check_model


class EchoService:
    """Answers every text, and all tensors, with themselves; does not know the model `missing`."""

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []
        self.timeouts_ms: list[float | None] = []
        self.askers: list[Asker] = []

    def check_allowed(self, request: InferenceRequest, asker: Asker) -> None:
        check_model(asker.models, request.model or "echo")

    def check(self, request: InferenceRequest, asker: Asker) -> str:
        self.check_allowed(request, asker)
        if request.model == "missing":
            raise ModelNotFound("no model 'missing'; there is: echo:v1")
        return "echo"

    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]:
        self.requests += requests
        self.timeouts_ms.append(timeout_ms)
        self.askers.append(asker)
        return [self._echo(request) for request in requests]

    async def stream(
        self, requests: Sequence[InferenceRequest], *, timeout_ms: float | None, asker: Asker
    ) -> AsyncGenerator[Piece | InferenceResult, None]:
        (request,) = requests
        (result,) = await self.infer(requests, timeout_ms=timeout_ms, asker=asker)
        if isinstance(result.outcome, Failed):
            raise result.outcome.error
        for word in re.findall(r"\S+|\s+", request.text):
            yield Piece(word, int(not word.isspace()))
        yield result

    def _echo(self, request: InferenceRequest) -> InferenceResult:
        if request.model == "missing":
            outcome: Outcome = Failed(ModelNotFound("no model 'missing'; there is: echo:v1"))
            return InferenceResult(outcome, None, None, 0.1)
        words = len(request.text.split())
        value = request.text if request.inputs is None else dict(request.inputs)
        answer = Answer(value, {"given": dict(request.parameters)}, Usage(words, words))
        return InferenceResult(Done(answer, Timings(0.5, 1.5)), "echo:v1", "echo", 2.25)


class RaisesInInfer(EchoService):
    """What the whole call fails with."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]:
        raise self._error


class FailsEach(EchoService):
    """Every input fails with the same error."""

    def __init__(self, error: ServingError) -> None:
        super().__init__()
        self._error = error

    def _echo(self, request: InferenceRequest) -> InferenceResult:
        return InferenceResult(Failed(self._error), "echo:v1", "echo", 0.1)


class LosesAResult(EchoService):
    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]:
        return (await super().infer(requests, timeout_ms=timeout_ms, asker=asker))[1:]


class HangsInInfer(EchoService):
    """Never answers; tells when it was begun and when it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return []


ECHO = ServedVersion(
    name="echo",
    version="v1",
    versions=("v1",),
    task="translate",
    takes="text",
    runtime="ctranslate2_seq2seq",
    parameters=(),
    signature={},
    state="ready",
    reason="",
)


class FixedModels:
    """Says what it was told to say."""

    def __init__(self, readiness: Readiness) -> None:
        self.now = readiness
        self.versions: list[ServedVersion] = [ECHO]

    def describe(self) -> Sequence[Mapping[str, Any]]:
        return [{"name": "echo", "version": "v1", "parameters": []}]

    def readiness(self) -> Readiness:
        return self.now

    def find(self, name: str, version: str | None) -> ServedVersion:
        for served in self.versions:
            if served.name == name and version in (None, served.version):
                return served
        raise ModelNotFound(f"model {name!r} does not exist; models: echo")

    def served(self) -> Sequence[ServedVersion]:
        return self.versions


class TakesOrders:
    """Notes what is to be loaded and unloaded; fails with an error that it was given."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str, str | None, float | None]] = []
        self.error: ServingError | None = None
        self.is_allowed = True

    def check_allowed(self) -> None:
        if not self.is_allowed:
            raise Forbidden("MODEL_CONTROL is none")

    async def load(self, name: str, version: str | None, timeout_ms: float | None) -> None:
        self._take("load", name, version, timeout_ms)

    async def unload(self, name: str, version: str | None, timeout_ms: float | None) -> None:
        self._take("unload", name, version, timeout_ms)

    def _take(self, order: str, *given: Any) -> None:
        self.orders.append((order, *given))
        if self.error is not None:
            raise self.error


class NeverSheds(Shedding):
    """The loop of the tests stands still between them, which looks like overload."""

    def sheds(self, who: Who) -> bool:
        return False


class CountingMetrics:
    def __init__(self) -> None:
        self.rejected: list[str] = []
        self.connections = 0

    def render(self) -> bytes:
        return b"requests_total 3.0\n"

    def summary(self) -> Mapping[str, Any]:
        return {"requests_total": 3}

    def observe_rejected(self, code: str) -> None:
        self.rejected.append(code)

    def note_connections(self, count: int) -> None:
        self.connections = count


class NoDatabase:
    """Whatever is asked of it, there is none."""

    async def changes(self, *given: Any) -> AsyncGenerator[NoReturn, None]:
        raise StorageUnavailable
        yield

    def __getattr__(self, name: str) -> Any:
        async def fail(*given: Any) -> NoReturn:
            raise StorageUnavailable

        return fail


READY = Readiness(True, True, False, {"echo:v1": {"state": "ready"}}, True, ())


class Keys:
    """Those that it was given, by their secrets; finds those that are revoked no more."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.error: ServingError | None = None

    def add(self, name: str, *scopes: Scope, **terms: Any) -> str:
        """The secret."""
        secret = new_secret("usr")
        made = Terms(name, frozenset(scopes), **terms)
        self.keys[digest_of(secret)] = Key(f"key_{name}", "", 0.0, made)
        return secret

    @property
    def is_empty(self) -> bool:
        return not self.keys

    async def find(self, digest: str) -> Key | None:
        if self.error is not None:
            raise self.error
        key = self.keys.get(digest)
        return None if key is None or key.revoked_at is not None else key

    def revoke(self, secret: str) -> None:
        digest = digest_of(secret)
        self.keys[digest] = replace(self.keys[digest], revoked_at=1.0)


class NotesActs:
    """Of the service of keys, the log of acts."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def note(self, act: Act) -> None:
        self.acts.append(act)


def gate_of(keys: Keys) -> Gate:
    """As on a machine of one's own."""
    return Gate(keys, no_ledger(), allows_anonymous=False, is_private=True)


def no_ledger() -> Limiter:
    """Limits of keys that used nothing yet."""

    async def spent(_: str) -> Quotas:
        return Quotas(day_of(time.time()))

    return Limiter(spent)


@dataclass
class FakeServices:
    inference: EchoService = field(default_factory=EchoService)
    models: FixedModels = field(default_factory=lambda: FixedModels(READY))
    control: TakesOrders = field(default_factory=TakesOrders)
    metrics: CountingMetrics = field(default_factory=CountingMetrics)
    jobs: Any = field(default_factory=NoDatabase)
    once: Any = field(default_factory=NoDatabase)
    gate: Gate = field(default_factory=lambda: gate_of(Keys()))
    keys: Any = field(default_factory=NotesActs)
    usage: Any = None
    batches: Any = field(default_factory=NoDatabase)


@dataclass
class Running:
    """Where the server is, what is behind it, and how many connections it has."""

    port: int
    services: FakeServices
    server: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def talk(self, sent: bytes) -> bytes:
        """Everything that comes back until the server closes the connection."""
        async with self.connection() as (reader, writer):
            writer.write(sent)
            return await reader.read()

    @asynccontextmanager
    async def connection(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


def settings(**changes: Any) -> Settings:
    """Defaults, whatever the environment of the test run holds."""
    plain = {
        name: info.get_default(call_default_factory=True)
        for name, info in Settings.model_fields.items()
    }
    return Settings.model_validate({**plain, "shutdown_grace_s": 1, **changes})


@asynccontextmanager
async def serving(services: FakeServices | None = None, **changes: Any) -> AsyncIterator[Running]:
    """Leaves no task and no connection behind."""
    services = services or FakeServices()
    chosen = settings(**changes)
    app = build_app(services, chosen)
    server = build_server(
        app,
        chosen,
        on_refused=lambda code: services.metrics.observe_rejected(code),
        on_connections=lambda count: services.metrics.note_connections(count),
        shedding=NeverSheds(),
    )
    listener = open_socket("127.0.0.1", 0, silence_s=chosen.client_silence_s)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield Running(listener.getsockname()[1], services, server)
    finally:
        server.should_exit = True
        await task
