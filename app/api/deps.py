"""What routes are given: the services behind them, and what the request says about itself."""

import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from starlette.requests import Request

from app.batches.status import Batch, StoredFile
from app.batches.store import Page as BatchPage
from app.core.config import Settings
from app.core.errors import CallerError, InvalidRequest
from app.core.types import Asker, Piece, Priority
from app.jobs.status import JobView, NewJob, OnceKey
from app.jobs.store import OnceAnswers, Page
from app.keys.audit import Act, Actor
from app.keys.change import Change
from app.keys.gate import Caller, Gate
from app.keys.key import Key, Terms
from app.keys.usage_rows import Period
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import Readiness, ServedVersion
from app.services.open_inference import OpenInference, TensorLimits
from app.services.visible_models import Models, VisibleModels

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
PRIORITY_HEADER = "X-Priority"
CALLER_HEADER = "X-Caller-Id"
MAX_TIMEOUT_MS = 3_600_000
PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_CALLER = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)


class InvalidHeader(CallerError):
    """A request header is malformed or out of bounds."""


class InferenceService(Protocol):
    def check(self, request: InferenceRequest, asker: Asker) -> str:
        """The model's name. Raises what is wrong with it, whether or not it can run now."""

    def check_allowed(self, request: InferenceRequest, asker: Asker) -> None:
        """Raises Forbidden for a model that is not the caller's to ask."""

    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]:
        """One result per request, in order. Raises only what concerns all of them.

        is_whole: one failure is the answer to all of them.
        """

    def stream(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
    ) -> AsyncGenerator[Piece | InferenceResult, None]:
        """The texts in pieces, then their results. Raises what ends it before the first piece."""


class ModelService(Protocol):
    def describe(self) -> Sequence[Mapping[str, Any]]:
        """Every version with its parameters, for `/models`."""

    def readiness(self) -> Readiness:
        """What can be served now."""

    def find(self, name: str, version: str | None) -> ServedVersion:
        """A version, or the model's default. Raises ModelNotFound."""

    def served(self) -> Sequence[ServedVersion]:
        """Every version."""


class ModelControl(Protocol):
    def check_allowed(self) -> None:
        """Raises Forbidden."""

    async def load(self, name: str, version: str | None, timeout_ms: float | None) -> None:
        """Returns when it is ready; no version: all of the model."""

    async def unload(self, name: str, version: str | None, timeout_ms: float | None) -> None:
        """Returns when it is gone."""


class KeyService(Protocol):
    """keys/service.py has it. Raises StorageUnavailable, KeyNotFound."""

    async def create(self, actor: Actor, terms: Terms) -> tuple[Key, str]: ...

    async def update(self, actor: Actor, named: str, change: Change) -> Key: ...

    async def revoke(self, actor: Actor, named: str) -> Key: ...

    async def rotate(self, actor: Actor, named: str, grace_s: float) -> tuple[Key, str]: ...

    async def get(self, named: str) -> Key: ...

    async def list(self) -> Sequence[Key]: ...

    async def note(self, act: Act) -> None: ...

    async def audited(self, limit: int, before: int | None) -> Sequence[tuple[int, Act]]: ...


class Usage(Protocol):
    async def totals(
        self, period: Period, by: Sequence[str], key_id: str | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """Up to this moment; of one key, or of all. Raises StorageUnavailable."""


class Metrics(Protocol):
    def render(self) -> bytes:
        """Prometheus text."""

    def summary(self) -> Mapping[str, Any]:
        """The same as JSON."""

    def observe_rejected(self, code: str) -> None:
        """Count a request that was answered with an error as a whole."""


class JobService(Protocol):
    """services/job_service.py has it. Raises JobNotFound, StorageUnavailable."""

    async def submit(self, job: NewJob, once: OnceKey | None = None) -> tuple[JobView, bool]: ...

    async def get(self, caller: str, job_id: str) -> JobView: ...

    async def wait(self, caller: str, job_id: str, seconds: float) -> JobView: ...

    def changes(self, caller: str, job_id: str) -> AsyncGenerator[JobView, None]: ...

    async def result(self, view: JobView) -> bytes | None: ...

    async def cancel(self, caller: str, job_id: str) -> JobView: ...

    async def page(self, page: Page) -> Sequence[JobView]: ...


class Upload(Protocol):
    async def write(self, data: bytes) -> None: ...

    async def keep(self, filename: str, keep_s: float | None) -> StoredFile: ...


class BatchService(Protocol):
    """services/batch_service.py has it, and what each raises."""

    def receiving(self, caller: str, least: int) -> AbstractAsyncContextManager[Upload]: ...

    async def file(self, caller: str, file_id: str) -> StoredFile: ...

    async def files(self, page: BatchPage) -> Sequence[StoredFile]: ...

    def content(self, file: StoredFile) -> AsyncGenerator[bytes, None]: ...

    async def delete_file(self, caller: str, file_id: str) -> None: ...

    async def create(
        self,
        caller: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        keep_s: float | None,
        models: frozenset[str] | None,
    ) -> Batch: ...

    async def batch(self, caller: str, batch_id: str) -> Batch: ...

    async def batches(self, page: BatchPage) -> Sequence[Batch]: ...

    async def cancel(self, caller: str, batch_id: str) -> Batch: ...


class AppServices(Protocol):
    @property
    def inference(self) -> InferenceService: ...

    @property
    def models(self) -> ModelService: ...

    @property
    def control(self) -> ModelControl: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def jobs(self) -> JobService: ...

    @property
    def once(self) -> OnceAnswers: ...

    @property
    def batches(self) -> BatchService: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def keys(self) -> KeyService: ...

    @property
    def usage(self) -> Usage: ...


def open_inference_of(services: AppServices, settings: Settings, caller: Caller) -> OpenInference:
    """The protocol, with this server's limits and the caller's models."""
    limits = TensorLimits(
        settings.max_text_chars, settings.max_request_items, settings.max_tensor_values
    )
    return OpenInference(services.inference, models_for(services, caller), limits)


def models_for(services: AppServices, caller: Caller) -> Models:
    """Those that the caller may know of."""
    allowed = caller.models
    return services.models if allowed is None else VisibleModels(services.models, allowed)


def models_of(request: Request) -> Models:
    return models_for(services_of(request), caller_of(request))


def caller_of(request: Request) -> Caller:
    """Who asks; on routes that are not open to all."""
    caller: Caller = request.scope["caller"]
    return caller


def actor_of(request: Request) -> Actor:
    """For the audit log."""
    return Actor(f"key:{caller_of(request).name}", request_id_of(request))


async def note_order(
    keys: KeyService, actor: Actor, act: str, model: str, version: str | None
) -> None:
    """In the audit log, before it is carried out. Raises StorageUnavailable."""
    await keys.note(actor.does(act, model, time.time(), version=version))


def services_of(request: Request) -> AppServices:
    services: AppServices = request.app.state.services
    return services


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def request_id_of(request: Request) -> str:
    """The id that the middleware took over or made."""
    request_id: str = request.scope["request_id"]
    return request_id


def timeout_ms_of(request: Request) -> float | None:
    """The caller's own deadline, if any. Raises InvalidHeader."""
    given = request.headers.getlist(TIMEOUT_HEADER)
    if not given:
        return None
    if len(given) == 1 and _DECIMAL.fullmatch(given[0]):
        timeout_ms = float(given[0])
        if 0 < timeout_ms <= MAX_TIMEOUT_MS:
            return timeout_ms
    raise InvalidHeader(
        f"{TIMEOUT_HEADER} is {', '.join(given)[:100]!r}; send one decimal number of milliseconds "
        f"above 0 and at most {MAX_TIMEOUT_MS}."
    )


def asker_of(request: Request) -> Asker:
    """Who asks, by his key, or else by his own name or address, and how urgently.

    Raises InvalidRequest.
    """
    said = asker_from(
        request.headers.getlist(PRIORITY_HEADER),
        request.headers.getlist(CALLER_HEADER),
        "" if request.client is None else request.client.host,
    )
    return caller_of(request).asks(said)


def asker_from(priorities: list[str], callers: list[str], host: str) -> Asker:
    """From what was sent under both names. Raises InvalidRequest."""
    names = priorities or ["normal"]
    if len(names) > 1 or names[0] not in PRIORITIES:
        raise InvalidRequest(
            f"{PRIORITY_HEADER} is {', '.join(names)[:100]!r}; send one of "
            f"{', '.join(PRIORITIES)}, or leave it out."
        )
    if callers and (len(callers) > 1 or not _CALLER.fullmatch(callers[0])):
        raise InvalidRequest(
            f"{CALLER_HEADER} is {', '.join(callers)[:100]!r}; send 1 to 64 of A-Za-z0-9._:-, or "
            "leave it out."
        )
    # A name cannot be mistaken for an address: no address has a slash before it.
    address = f"/{host}" if host else ""
    return Asker(callers[0] if callers else address, PRIORITIES[names[0]])


def note(request: Request, **fields: Any) -> None:
    """Add fields to the request's line in the log."""
    request.scope["log_fields"].update(fields)
